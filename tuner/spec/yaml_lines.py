"""YAML with lines: read a YAML file into plain values, and know the line of each value and every syntax mistake."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tuner.errors import Problem, SpecError

#: a study file is never larger
MAX_BYTES = 1_000_000
#: only nested aliases make more values than this
MAX_VALUES = 200_000
_TAG = "tag:yaml.org,2002:"
#: a longer number stays text: Python refuses to write it in decimal digits
_MOST_BITS = 1024
#: parts of the parser's messages, and what the user can do about each; the first match counts
_CURES = {
    "'\\t'": "there is a tab here; indent with spaces",
    "that cannot start any token": "text that starts with this character needs quotes",
    "mapping values are not allowed": "there is one colon too many here, or the indentation is wrong; "
    "text that contains a colon and a space needs quotes",
    "but got '<stream end>'": "a bracket is opened but never closed",
    "expected ',' or": "a comma or a closing bracket is missing",
    "unexpected end of stream": "a quote is opened but never closed",
    "expected <block end>": "the indentation differs from the lines around it",
    "could not find expected ':'": "a colon is missing after the key",
    "another document": "a second document starts here; a study file is one document, so remove the line `---`",
    "undefined alias": "text that starts with * needs quotes",
}


@dataclass(kw_only=True)
class Document:
    """The content of a file, with lines and mistakes."""

    value: Any = None
    #: line of each value, counted from 1, by its keys and indices
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    #: column where each value or its key begins, counted from 1
    columns: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_values: int = 0

    def line(self, path: tuple[str | int, ...]) -> int | None:
        """Return the line of a value, or of the nearest enclosing value with a known line."""
        return self.lines.get(self._known(path))

    def problem(self, path: tuple[str | int, ...], message: str) -> Problem:
        """Return a mistake of a value, at the place of the value or of the nearest enclosing one with a known place."""
        known = self._known(path)
        return Problem(field=dotted(path), message=message, line=self.lines.get(known), column=self.columns.get(known))

    def _known(self, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
        while path and path not in self.lines:
            path = path[:-1]
        return path


def read(path: Path) -> Document:
    """Read a file as YAML 1.2, which includes JSON.

    Raises:
        SpecError: the file cannot be read, or is not YAML.
    """
    return parse(_read_text(path), path)


def parse(text: str, path: Path) -> Document:
    """Read a text as YAML 1.2; messages name the file `path`.

    Raises:
        SpecError: the text is not YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        raise SpecError(str(path), [_syntax_problem(error)]) from error
    except YAMLError as error:
        raise _refused(path, "contains control characters; it is not a YAML file") from error
    except RecursionError as error:
        raise _refused(path, "is nested too deeply to be a study file") from error
    if node is None:
        raise _refused(path, "is empty; a study file needs at least name and data. `tuner init` writes one")
    document = Document()
    try:
        document.value = _plain(node, (), document, yaml)
    except RecursionError as error:
        raise _refused(path, "has an alias that refers to itself; write the value instead") from error
    if document.num_values > MAX_VALUES:
        raise _refused(path, f"contains more than {MAX_VALUES:,} values, too many for a study file")
    return document


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise _refused(path, "is a folder; expected a study file. `tuner init` writes one")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _refused(path, f"does not exist. {_neighbours(path)}") from error
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _refused(path, "is not a valid file name") from error
    if len(content) > MAX_BYTES:
        raise _refused(path, f"is larger than {MAX_BYTES // 1_000_000} MB, too large for a study file")
    if b"\0" in content:
        raise _refused(path, "is a binary file; expected text (YAML or JSON)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(str(path), [Problem(field="", message="is not UTF-8 text from here on; save it as UTF-8", line=line)]) from error


def _neighbours(path: Path) -> str:
    files = sorted(str(file) for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return f"Files there: {', '.join(files[:8])}" if files else "Write one with: tuner init NAME --images FOLDER"


def _refused(path: Path, message: str) -> SpecError:
    return SpecError(str(path), [Problem(field="", message=message)])


def _syntax_problem(error: MarkedYAMLError) -> Problem:
    message = f"{error.context or ''} {error.problem or ''}".strip()
    cure = next((cure for part, cure in _CURES.items() if part in message), message)
    # for a key without a colon, the parser reports the line after it
    mark = error.context_mark if "simple key" in message else error.problem_mark
    column = f" (column {mark.column + 1})" if mark else ""
    message = f"is not valid YAML: {cure}{column}"
    return Problem(field="", message=message, line=mark.line + 1, column=mark.column + 1) if mark else Problem(field="", message=message)


def _plain(node: Node, path: tuple[str | int, ...], document: Document, yaml: YAML) -> Any:
    document.num_values += 1
    if document.num_values > MAX_VALUES:
        return None
    if path:
        document.lines.setdefault(path, node.start_mark.line + 1)
        document.columns.setdefault(path, node.start_mark.column + 1)
    if isinstance(node, MappingNode):
        return _plain_mapping(node, path, document, yaml)
    if isinstance(node, SequenceNode):
        return [_plain(item, (*path, index), document, yaml) for index, item in enumerate(node.value)]
    return _plain_scalar(node, path, document, yaml)


def _plain_mapping(node: MappingNode, path: tuple[str | int, ...], document: Document, yaml: YAML) -> Mapping[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        line, column = key.start_mark.line + 1, key.start_mark.column + 1
        if not isinstance(key, ScalarNode) or key.tag != f"{_TAG}str":
            shown = key.value if isinstance(key, ScalarNode) else "a list or mapping"
            message = f"has the key {shown}, which is not text; put it in quotes, or remove it"
            document.problems.append(Problem(field=dotted(path), message=message, line=line, column=column))
            continue
        inner = (*path, key.value)
        if key.value in mapping:
            message = f"is given twice, in lines {document.lines[inner]} and {line}; remove one of them"
            document.problems.append(Problem(field=dotted(inner), message=message, line=line, column=column))
            continue
        document.lines[inner], document.columns[inner] = line, column
        mapping[key.value] = _plain(value, inner, document, yaml)
    return mapping


def _plain_scalar(node: Node, path: tuple[str | int, ...], document: Document, yaml: YAML) -> Any:
    kind = str(node.tag).removeprefix(_TAG)
    if kind in ("int", "float", "bool", "null"):
        try:
            value = yaml.constructor.construct_object(node)
        except ValueError:  # for example !!int before text
            kind = str(node.tag)
        else:
            return node.value if isinstance(value, int) and value.bit_length() > _MOST_BITS else value
    if kind in ("str", "timestamp"):
        return node.value
    message = f"has the tag {node.tag}; a study file contains plain values only, so remove the tag"
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    document.problems.append(Problem(field=dotted(path), message=message, line=line, column=column))
    return node.value


def dotted(path: tuple[str | int, ...]) -> str:
    """Return the dotted name of a value, such as `search.dropout`, without indices of lists."""
    return ".".join(key for key in path if isinstance(key, str))
