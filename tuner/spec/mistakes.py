"""Mistakes: every mistake in the values of a study file, described in the terms of the file."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tuner import wording
from tuner.spec import schema
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.hyperparameters import Optimizer
from tuner.spec.schema import SchemaKey
from tuner.spec.study import IMAGE_CLASSIFICATION, AnyStudySpec

Keys = tuple[str | int, ...]

#: sections where pydantic adds the kind of the section to the path of an error
_KINDS = (("data",), ("sampler",), ("pruner",), ("search", "head_units"))
#: sections that may be empty, for example because all their lines are commented out
_MAY_BE_EMPTY = (("model",), ("budget",), ("training",), ("search",), ("search", "head_units"), ("search", "augmentation"))
#: name of the key that gives the kind of a section
_TAGS = {"data": "source", "sampler": "sampler", "pruner": "pruner"}
_PATTERNS = {
    "name": "at most 100 letters, digits, dots, dashes and underscores, starting with a letter or a digit",
    "data.function": "my_package.my_module:function",
}
#: what to do instead of a section `validation`, which an objective does not have
_OF_AN_OBJECTIVE = (
    "is not a key of a study with an objective, whose function divides its data itself: train once for each fold in it, and return the mean"
)
_MAX_PASSES = 12


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake: its keys in the file, and the message."""

    path: Keys
    message: str
    #: the other dotted fields of a clash
    others: tuple[str, ...] = ()
    #: the probable dotted field, if a key is misspelled
    meant: str | None = None

    @property
    def field(self) -> str:
        """The dotted field."""
        return ".".join(key for key in self.path if isinstance(key, str))


def read(given: Mapping[str, Any], folder: Path | None, kind: type[AnyStudySpec]) -> AnyStudySpec | list[Mistake]:
    """Return the study, or all mistakes in it; `kind` is the class of its task.

    Pydantic skips the checks of a section if one of its fields is wrong. So this removes the wrong fields and validates the rest, until it
    finds nothing new. It does not report a clash with a removed field.
    """
    rest = _without_empty_sections(given)
    mistakes: dict[tuple[str, str], Mistake] = {}
    removed: set[str] = set()
    for _ in range(_MAX_PASSES):
        try:
            spec = kind.model_validate(rest, context={"folder": folder})
        except ValidationError as error:
            errors = error.errors(include_url=False)
        else:
            return spec if not mistakes else list(mistakes.values())
        keys = schema.all_keys(kind)
        found = [mistake for details in errors for mistake in _mistakes(details, rest, keys)]
        for mistake in found:
            if not _touches(removed, mistake.field, *mistake.others):
                mistakes.setdefault((mistake.field, mistake.message), mistake)
        if not any(details["loc"] for details in errors):
            break  # clashes of the whole study: these are found last, and all at once
        for mistake in found:
            removed |= {mistake.field, *mistake.others} | ({mistake.meant} if mistake.meant else set())
            for path in (mistake.path, *(tuple(other.split(".")) for other in mistake.others)):
                rest = _without(rest, path, kind.model_fields)
    return list(mistakes.values())


def _without_empty_sections(given: Mapping[str, Any]) -> dict[str, Any]:
    rest = copy.deepcopy(dict(given))
    for *outer, name in _MAY_BE_EMPTY:
        section: Any = rest
        for key in outer:
            section = section.get(key) if isinstance(section, dict) else None
        if isinstance(section, dict) and name in section and section[name] is None:
            del section[name]
    return rest


def _touches(removed: set[str], *fields: str) -> bool:
    pairs = ((f"{field}.", f"{gone}.") for field in fields for gone in removed)
    return any(field.startswith(gone) or gone.startswith(field) for field, gone in pairs if gone != ".")


def _without(rest: dict[str, Any], path: Keys, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the value at a path; replace a required value by a placeholder. `fields` are the keys at the top of the file."""
    keys = [key for key in path if isinstance(key, str)]
    section: Any = rest
    for key in keys[:-1]:
        section = section.get(key) if isinstance(section, dict) else None
    if isinstance(section, dict) and keys and keys[-1] in section and keys != ["data", "source"]:
        del section[keys[-1]]
    elif keys[:1] == ["data"] and fields["task"].default == IMAGE_CLASSIFICATION:
        shares = rest["data"] if isinstance(rest.get("data"), dict) else {}
        rest["data"] = {"source": "digits"} | {name: shares[name] for name in ("train", "validation", "test") if name in shares}
    elif keys[:1] == ["name"]:
        rest["name"] = "study"
    elif keys:
        rest.pop(keys[0], None)
    return rest


def _mistakes(details: ErrorDetails, given: Any, keys: Sequence[SchemaKey]) -> Iterator[Mistake]:
    path, kind = _path(details, given), details["type"]
    error = details.get("ctx", {}).get("error")
    if isinstance(error, Clashes):
        yield from (_clash(path, clash, given) for clash in error.clashes)
    elif kind == "missing":
        yield _missing(path, given, keys)
    elif kind == "extra_forbidden":
        yield _unknown(path, given, keys)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        yield _unknown_kind(path, given, keys)
    elif kind == "invalid_key":
        yield Mistake(path=path, message=f"has the key {wording.show(details['loc'][-1])}, which is not text")
    else:
        yield Mistake(path=path, message=_wrong_value(path, details, given, keys))


def _path(details: ErrorDetails, given: Any) -> Keys:
    """Return the keys in the file that lead to an error, including the key itself if it is missing."""
    path: Keys = ()
    parts = list(details["loc"])
    while parts:
        part = parts.pop(0)
        inside = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int)
        if not inside and (parts or details["type"] != "missing"):
            break
        path = (*path, part)
        given = given[part] if inside else None
        if path in _KINDS and parts:
            parts.pop(0)
            if details["type"] == "missing" and not isinstance(given, Mapping):
                given = {}
    return path


def _clash(path: Keys, clash: Clash, given: Any) -> Mistake:
    prefix = "".join(f"{key}." for key in path)
    field: Keys = (*path, *clash.field.split("."))
    rates = _value(field[:-1], given)
    if field[1:2] == ("learning_rate",) and not (isinstance(rates, Mapping) and field[-1] in rates):
        field = field[:-1]  # the file gives one rate for all optimizers
    return Mistake(path=field, message=clash.message, others=tuple(f"{prefix}{other}" for other in clash.others))


def _missing(path: Keys, given: Any, keys: Sequence[SchemaKey]) -> Mistake:
    key = _key(path, given, keys)
    example = f"{path[-1]}: {key.examples[0]}" if key and key.examples else f"{path[-1]}: …"
    section = given.get(path[0])
    if isinstance(section, str):
        example = f"{path[0]}: {{name: {section}, {example}}}"
    return Mistake(path=path, message=f"is missing; add for example `{example}`")


def _unknown(path: Keys, given: Any, keys: Sequence[SchemaKey]) -> Mistake:
    if path == ("validation",):
        return Mistake(path=path, message=_OF_AN_OBJECTIVE)
    name, section, kind = str(path[-1]), ".".join(str(key) for key in path[:-1]), _kind(path, given)
    here = [key for key in keys if key.section == section]
    known = list(dict.fromkeys(key.name for key in here if key.kind in ("", kind)))
    other_kinds = [key.kind for key in here if key.name == name]
    elsewhere = [key.field for key in keys if key.name == name and key.section != section]
    nearest = wording.nearest(name, known)
    if other_kinds:
        rest = f"It belongs to the {_TAGS[section]} {wording.listed(other_kinds)}. Known: {wording.listed(known)}."
    else:
        rest = f"Did you mean {elsewhere[0]}?" if elsewhere else wording.known(known, name)
    what = f"a key of {f'the {_TAGS[section]} {kind}' if kind else section or 'a study file'}"
    meant = elsewhere[0] if elsewhere else f"{section}.{nearest}" if nearest else None
    return Mistake(path=path, message=f"is not {'a hyperparameter' if section == 'search' else what}. {rest}", meant=meant)


def _unknown_kind(path: Keys, given: Any, keys: Sequence[SchemaKey]) -> Mistake:
    section = _value(path, given)
    if path == ("search", "head_units"):
        expected = "a list of widths such as [512, 128], [] for a linear head, or {layers: [0, 2], units: [64, 512]} to search them"
        return Mistake(path=path, message=f"is {wording.show(section)}; expected {expected}")
    tag = "source" if path == ("data",) else "name"
    kinds = [key.kind for key in keys if key.field == f"{path[0]}.{tag}"]
    inner = (*path, tag) if isinstance(section, Mapping) else path
    if isinstance(section, Mapping) and tag not in section:
        return Mistake(path=inner, message=f"is missing; add `{tag}: {kinds[0]}`, or another of {wording.listed(kinds)}")
    name = _value(inner, given)
    return Mistake(path=inner, message=f"is {wording.show(name)}; expected {wording.one_of(kinds, name)}")


def _wrong_value(path: Keys, details: ErrorDetails, given: Any, keys: Sequence[SchemaKey]) -> str:
    value, key, kind = _value(path, given), _key(path, given, keys), details["type"]
    if kind == "enum" and details["loc"][-1] == "[key]":
        return f"is not an optimizer. {wording.known([optimizer.value for optimizer in Optimizer], path[-1])}"
    if value is None:
        expected = f"; expected {schema.expectation(key.node)}" if key else ""
        return f"is empty{expected}. Give it a value, or remove the line to use the default"
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if isinstance(path[-1] if path else "", int):
        return f"contains {wording.show(value)}; expected widths, each a whole number from 1 to 65536"
    if kind == "too_long":
        return f"has {len(value)} layers; expected at most {details['ctx']['max_length']}"
    field = ".".join(str(part) for part in path)
    if kind == "string_pattern_mismatch":
        return f"is {wording.show(value)}; expected {_PATTERNS[field]}"
    if key is None:
        return f"is {wording.show(value)}, which cannot be read: {details['msg']}"
    return f"is {wording.show(value)}; expected {schema.expected(key, value, keys)}"


def _key(path: Keys, given: Any, keys: Sequence[SchemaKey]) -> SchemaKey | None:
    field, kind = ".".join(str(key) for key in path if isinstance(key, str)), _kind(path, given)
    return next((key for key in keys if key.field == field and key.kind in ("", kind)), None)


def _kind(path: Keys, given: Any) -> str:
    """Return the `source` or `name` that the file gives for the section of a path."""
    section = given.get(path[0]) if path and path[:1] in _KINDS else None
    if isinstance(section, Mapping):
        section = section.get("source" if path[0] == "data" else "name")
    return section if isinstance(section, str) else ""


def _value(path: Keys, given: Any) -> Any:
    for key in path:
        if isinstance(given, Mapping):
            given = given.get(key)
        else:
            given = given[key] if isinstance(given, list) and isinstance(key, int) else None
    return given
