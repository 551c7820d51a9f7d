"""A YAML file into plain values, the line of each, and every mistake of its form."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tuner.errors import Problem, SpecError

#: a longer file is no study file
MAX_BYTES = 1_000_000
#: more values than this are the work of aliases of aliases
MAX_VALUES = 200_000
_TAG = "tag:yaml.org,2002:"
#: what the parser says, into what the reader can do about it; the first one that is found counts
_CURES = {
    "'\\t'": "there is a tab here; indent with spaces",
    "that cannot start any token": "a text that starts with this character must stand in quotes",
    "mapping values are not allowed": "there is a colon too many here, or the line is indented more or less than its neighbours; "
    "a text with a colon and a space in it must stand in quotes",
    "but got '<stream end>'": "a bracket is opened and never closed",
    "expected ',' or": "a comma or a closing bracket is missing",
    "unexpected end of stream": "a quote is opened and never closed",
    "expected <block end>": "the line is indented more or less than its neighbours",
    "could not find expected ':'": "a colon is missing after the key",
    "another document": "a second document starts here; a study file holds one, without a line `---` between its parts",
    "undefined alias": "a text that starts with * must stand in quotes",
}


@dataclass(kw_only=True)
class Document:
    """What a file holds; the lines and mistakes are gathered while it is read."""

    value: Any = None
    #: line of each value, counted from 1, by the keys and indices that lead to it
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_values: int = 0

    def line(self, path: tuple[str | int, ...]) -> int | None:
        """The line of a value, or of the nearest one above it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def read(path: Path) -> Document:
    """The values of a file, read as YAML 1.2, of which JSON is a part.

    Raises:
        SpecError: the file cannot be read, or is not YAML.
    """
    return parse(_read_text(path), path)


def parse(text: str, path: Path) -> Document:
    """The values of a text, as if it stood in a file of this name.

    Raises:
        SpecError: it is not YAML.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        raise SpecError(str(path), [_syntax_problem(error)]) from error
    except YAMLError as error:
        raise _refused(path, "holds characters that no text has; it is not a YAML file") from error
    except RecursionError as error:
        raise _refused(path, "is nested too deeply to be a study file") from error
    if node is None:
        raise _refused(path, "is empty; the shortest study file has a name and data: `tuner init` writes one")
    document = Document()
    try:
        document.value = _plain(node, (), document, yaml)
    except RecursionError as error:
        raise _refused(path, "has an alias inside the value that it stands for; write the value out") from error
    if document.num_values > MAX_VALUES:
        raise _refused(path, f"holds more than {MAX_VALUES:,} values; a study file is short")
    return document


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise _refused(path, "is a folder; give a study file, such as one that `tuner init` writes")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise _refused(path, f"is not there. {_neighbours(path)}") from error
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _refused(path, "is not the name of a file") from error
    if len(content) > MAX_BYTES:
        raise _refused(path, f"is larger than {MAX_BYTES // 1_000_000} MB; a study file is a short text")
    if b"\0" in content:
        raise _refused(path, "is a binary file; a study file is text (YAML or JSON)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError(str(path), [Problem(field="", message="is not UTF-8 text from here on; save it as UTF-8", line=line)]) from error


def _neighbours(path: Path) -> str:
    files = sorted(str(file) for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    return f"There are: {', '.join(files[:8])}" if files else "Write one with: tuner init NAME --images FOLDER"


def _refused(path: Path, message: str) -> SpecError:
    return SpecError(str(path), [Problem(field="", message=message)])


def _syntax_problem(error: MarkedYAMLError) -> Problem:
    said = f"{error.context or ''} {error.problem or ''}".strip()
    cure = next((cure for part, cure in _CURES.items() if part in said), said)
    # of a key without a colon, what is found is the line after it
    mark = error.context_mark if "simple key" in said else error.problem_mark
    column = f" (column {mark.column + 1})" if mark else ""
    return Problem(field="", message=f"is not YAML: {cure}{column}", line=mark.line + 1 if mark else None)


def _plain(node: Node, path: tuple[str | int, ...], document: Document, yaml: YAML) -> Any:
    document.num_values += 1
    if document.num_values > MAX_VALUES:
        return None
    if path:
        document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, MappingNode):
        return _plain_mapping(node, path, document, yaml)
    if isinstance(node, SequenceNode):
        return [_plain(item, (*path, index), document, yaml) for index, item in enumerate(node.value)]
    return _plain_scalar(node, path, document, yaml)


def _plain_mapping(node: MappingNode, path: tuple[str | int, ...], document: Document, yaml: YAML) -> Mapping[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode) or key.tag != f"{_TAG}str":
            shown = key.value if isinstance(key, ScalarNode) else "a list or mapping"
            message = f"has the key {shown}, which is not a word; write it in quotes if it is meant"
            document.problems.append(Problem(field=dotted(path), message=message, line=line))
            continue
        inner = (*path, key.value)
        if key.value in mapping:
            message = f"is given twice, in lines {document.lines[inner]} and {line}; remove one of them"
            document.problems.append(Problem(field=dotted(inner), message=message, line=line))
            continue
        document.lines[inner] = line
        mapping[key.value] = _plain(value, inner, document, yaml)
    return mapping


def _plain_scalar(node: Node, path: tuple[str | int, ...], document: Document, yaml: YAML) -> Any:
    kind = str(node.tag).removeprefix(_TAG)
    if kind in ("int", "float", "bool", "null"):
        try:
            return yaml.constructor.construct_object(node)
        except ValueError:  # such as !!int in front of a text
            kind = str(node.tag)
    if kind in ("str", "timestamp"):
        return node.value
    message = f"has the tag {node.tag}; a study file holds plain values only, so remove the tag"
    document.problems.append(Problem(field=dotted(path), message=message, line=node.start_mark.line + 1))
    return node.value


def dotted(path: tuple[str | int, ...]) -> str:
    """`search.dropout` for the keys that lead to a value; indices of lists are left out."""
    return ".".join(key for key in path if isinstance(key, str))
