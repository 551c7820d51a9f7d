"""Schema: the keys of a study file and their possible values, from its JSON Schema."""

import ast
import functools
import inspect
import itertools
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from tuner import wording
from tuner.spec.search import SearchSpace
from tuner.spec.study import AnyStudySpec, StudySpec

Node = Mapping[str, Any]
_PARSING = threading.Lock()
#: Python 3.11 counts the depth of `ast.parse` for all threads together, and fails if any other thread uses it at the same time
_PARSE_TRIES, _PARSE_PAUSE_SECONDS = 20, 0.01
#: what `_docstrings` has found
_DOCSTRINGS: dict[type[BaseModel], tuple[tuple[str, str], ...]] = {}


@dataclass(frozen=True, kw_only=True)
class SchemaKey:
    """One key of a study file."""

    #: dotted path, such as `data.path`
    field: str
    #: the `source` or `name` of the section that has this key; "" if all kinds have it
    kind: str
    required: bool
    #: as a study file would give it; meaningless for a required key or a section
    default: Any
    meaning: str
    #: the part of the JSON Schema for this key
    node: Node

    @property
    def section(self) -> str:
        """The dotted section of the key, "" at the top of the file."""
        return self.field.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The key without its section."""
        return self.field.rpartition(".")[2]

    @property
    def examples(self) -> list[Any]:
        """Values that a user might write."""
        return list(self.node.get("examples", ()))


class _Described(GenerateJsonSchema):
    """A JSON Schema in which the docstring below a field describes its key.

    `use_attribute_docstrings` of pydantic reads the docstrings at every import, which takes a sixth of the start of a command.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        found = super().model_schema(schema)
        for name, text in _docstrings(schema["cls"]):
            if name in found.get("properties", {}):
                found["properties"][name].setdefault("description", text)
        return found


def _docstrings(kind: type[BaseModel]) -> tuple[tuple[str, str], ...]:
    """Return the fields of a class that have a docstring, and the docstrings; those of the class itself before those of its bases."""
    with _PARSING:
        for num_left in reversed(range(_PARSE_TRIES)):
            try:
                if kind not in _DOCSTRINGS:
                    _DOCSTRINGS[kind] = tuple(_parsed(kind))
                break
            except SystemError:
                if not num_left:
                    raise
                time.sleep(_PARSE_PAUSE_SECONDS)
        return _DOCSTRINGS[kind]


def _parsed(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for one in kind.__mro__[: kind.__mro__.index(BaseModel)]:
        try:
            (block,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        except OSError:  # tuner is installed without its source
            return
        assert isinstance(block, ast.ClassDef)
        for field, below in itertools.pairwise(block.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                yield field.target.id, inspect.cleandoc(ast.literal_eval(below.value))


#: keys at the top of a study file, in the order in which people write them
_ORDER = (
    "name",
    "task",
    "data",
    "model",
    "function",
    "objective",
    "budget",
    "training",
    "validation",
    "search",
    "sampler",
    "pruner",
    "results",
    "seed",
)


def in_order(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a study file in the order in which people write them."""
    return dict(sorted(plain.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else len(_ORDER)))


def json_schema(kind: type[AnyStudySpec] = StudySpec) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a study file, for editors."""
    schema: dict[str, Any] = _untitled(kind.model_json_schema(schema_generator=_Described))
    schema["properties"] = in_order(schema["properties"])
    schema["required"] = [name for name in schema["properties"] if name in schema.get("required", ())]
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A tuner study file"}
    return title | (_with_defaults(schema) if kind is StudySpec else schema)


def _with_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an image study with the defaults of its search space."""
    usual = SearchSpace.model_validate({}).model_dump(mode="json")
    for name, defaults in (("SearchSpace", usual), ("HeadSpace", usual["head_units"]), ("AugmentationSpace", usual["augmentation"])):
        for key, default in defaults.items():
            schema["$defs"][name]["properties"][key]["default"] = default
    return schema


@functools.cache
def all_keys(kind: type[AnyStudySpec] = StudySpec) -> tuple[SchemaKey, ...]:
    """Return every key in the order of the file; a key of several kinds of data, sampler or pruner appears once for each kind."""
    schema = json_schema(kind)
    return tuple(_walk(schema, schema["$defs"], prefix="", kind=""))


def expected(key: SchemaKey, value: Any, keys: Sequence[SchemaKey]) -> str:
    """Return which of the values a key may have, in words that show what is wrong with the given value; `keys` are all of the file."""
    if "enum" in key.node:
        return wording.one_of([str(name) for name in key.node["enum"]], value)
    words = expectation(key.node)
    if "$ref" in key.node:
        inner = [other.name for other in keys if other.section == key.field]
        return f"a section with keys such as {wording.listed(inner[:6])}"
    if isinstance(value, int | float) and 1 < value <= 100 and "at most 1" in words:
        return f"{words}; {wording.number(value)} % is {wording.number(value / 100)}"
    if isinstance(value, str) and value[:1].isdigit() and "number" in words:
        return f"{words}, without quotes or unit"
    if isinstance(value, int | float) and words.startswith("text"):
        return f"{words}; a number needs quotes to be text: '{wording.show(value)}'"
    return words


def expectation(node: Node) -> str:
    """Return which values a part of the schema allows, in words."""
    if "$ref" in node:
        return "a section (`key: value`)"
    if "anyOf" in node:
        # the long forms of a domain add nothing to the short forms
        parts = [part for part in node["anyOf"] if not {"range", "choices"} & part.get("properties", {}).keys()]
        return " or ".join(dict.fromkeys(expectation(part) for part in parts))
    if "discriminator" in node:
        name = node["discriminator"]["propertyName"]
        return f"a section such as {node['examples'][0]}" if node.get("examples") else f"a section with a {name}"
    if "oneOf" in node:
        return " or ".join(expectation(part) for part in node["oneOf"])
    if "enum" in node:
        return ("one of " if len(node["enum"]) > 1 else "") + wording.listed(node["enum"])
    if "const" in node:
        return str(node["const"])
    names = {"object": "a section (`key: value`)", "array": "a list", "boolean": "true or false", "null": "null"}
    if node.get("type") in ("integer", "number"):
        return ("a whole number" if node["type"] == "integer" else "a number") + _ends(node)
    examples = f" such as {wording.listed(node['examples'][:3])}" if node.get("examples") else ""
    return names.get(node.get("type", ""), "text") + examples


def _ends(node: Node) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and high is not None:
        return f" from {wording.number(low)} to {wording.number(high)}"
    words = {"exclusiveMinimum": "above", "minimum": "of at least", "exclusiveMaximum": "below", "maximum": "at most"}
    given = [f"{word} {wording.number(node[name])}" for name, word in words.items() if name in node]
    return " " + " and ".join(given) if given else ""


def _walk(section: Node, definitions: Node, *, prefix: str, kind: str) -> Iterator[SchemaKey]:
    # the key that gives the kind of a section comes first, as people write it
    for name, node in sorted(section["properties"].items(), key=lambda item: item[0] not in ("source", "name")):
        field = f"{prefix}{name}"
        yield SchemaKey(
            field=field,
            kind=kind,
            required=name in section.get("required", ()),
            default=node.get("default", node.get("const")),
            meaning=node.get("description", ""),
            node=node,
        )
        for tag, inner in _sections(node, definitions):
            yield from _walk(inner, definitions, prefix=f"{field}.", kind=tag)


def _sections(node: Node, definitions: Node) -> Iterator[tuple[str, Node]]:
    """Yield the sections that a key may contain, each with the `source` or `name` that selects it."""
    if "$ref" in node:
        yield "", definitions[node["$ref"].rpartition("/")[2]]
    tags = {reference: tag for tag, reference in node.get("discriminator", {}).get("mapping", {}).items()}
    for part in (*node.get("oneOf", ()), *node.get("anyOf", ())):
        for tag, inner in _sections(part, definitions):
            yield tags.get(part.get("$ref", ""), tag), inner


def _untitled(node: Any) -> Any:
    """Remove the titles that pydantic makes from field names: they add nothing, and they hide the descriptions in editors."""
    if isinstance(node, list):
        return [_untitled(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _untitled(item) for key, item in node.items() if key != "title" or not isinstance(item, str)}
