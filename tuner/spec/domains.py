"""Domains: the set of values of one hyperparameter that a study file allows.

A plain value fixes the hyperparameter. Two numbers `[low, high]` are a range, any other list is choices. The long forms are
`{range: [low, high], log: true, off: true}` and `{choices: [a, b]}`; with `off: true`, a trial may also have the value 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from tuner import wording


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """One value, not searched."""

    value: Any


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    #: sampled evenly on a logarithmic scale
    log: bool = False
    #: whole numbers only
    integer: bool = False
    #: a trial may also switch it off: the value 0
    off: bool = False
    #: distance between two possible values, counted from `low`; None: any number, or any whole number
    step: float | None = None


Domain = Fixed | Choice | Range
#: in steps: a number that is nearer to a possible one is taken for it, because sums of floats are not exact; Optuna allows as much
_STEP_TOLERANCE = Decimal("1e-8")


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_same(value: Any, other: Any) -> bool:
    """Return whether two values are equal; a truth value equals no number, although Python says that True is 1."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def keeps_step(domain: Range, value: float) -> bool:
    """Return whether a number is a whole number of steps above the lower end of its range, counted in decimals."""
    if domain.step is None:
        return True
    steps = (Decimal(str(value)) - Decimal(str(domain.low))) / Decimal(str(domain.step))
    return abs(steps - round(steps)) <= _STEP_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The possible values of a numeric hyperparameter, and the default scale of its ranges."""

    low: float
    high: float
    integer: bool = False
    log: bool = False
    #: whether the end itself is excluded
    open_low: bool = False
    open_high: bool = False
    #: whether a list of two numbers is two choices, not a range
    discrete: bool = False

    def __str__(self) -> str:
        low, high = (wording.number(self.low), wording.number(self.high))
        kind = "a whole number" if self.integer else "a number"
        if self.open_low or self.open_high:
            return f"{kind} {'above' if self.open_low else 'of at least'} {low} and {'below' if self.open_high else 'at most'} {high}"
        return f"{kind} from {low} to {high}"

    @property
    def can_be_off(self) -> bool:
        """Whether 0, which means off, is possible."""
        return self.includes(0)

    def includes(self, value: float) -> bool:
        """Return whether a value is possible."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (not self.integer or float(value).is_integer())

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema_of(lambda given: read_numeric(given, self), lambda domain: to_plain(domain, self))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number: dict[str, Any] = {"type": "integer" if self.integer else "number"}
        number["exclusiveMinimum" if self.open_low else "minimum"] = self.low
        number["exclusiveMaximum" if self.open_high else "maximum"] = self.high
        pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        flags = {"log": {"type": "boolean"}} | ({"off": {"type": "boolean"}} if self.can_be_off else {})
        long_range = {"type": "object", "properties": {"range": pair} | flags, "required": ["range"], "additionalProperties": False}
        return {"anyOf": [number, *([] if self.discrete else [pair]), *_choices_schema(number), long_range]}


@dataclass(frozen=True)
class Known:
    """The possible values of a hyperparameter with named values."""

    values: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema_of(lambda given: read_choice(given, self.values), to_plain)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        one = {"enum": [getattr(value, "value", value) for value in self.values]}
        return {"anyOf": [one, *_choices_schema(one)]}


def read_numeric(given: Any, bounds: Bounds) -> Domain:
    """Return the domain of a numeric hyperparameter that a study file gives.

    Raises:
        ValueError: the value has none of the forms above, or lies outside `bounds`.
    """
    if isinstance(given, Fixed | Choice | Range):
        given = to_plain(given)
    if isinstance(given, Mapping):
        return _read_long_form(given, bounds)
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) == 2 and not bounds.discrete:
            return _read_range(given, bounds, log=bounds.log, off=False)
        return _read_choices(given, bounds)
    return Fixed(value=_read_number(given, bounds))


def read_choice(given: Any, known: Sequence[Any]) -> Domain:
    """Return the domain of a hyperparameter with named values that a study file gives.

    Raises:
        ValueError: a value is unknown, or is listed twice.
    """
    if isinstance(given, Fixed | Choice | Range):
        given = to_plain(given)
    if isinstance(given, Mapping):
        if set(given) != {"choices"}:
            raise ValueError(f"is {wording.show(given)}; expected one or several of {wording.listed(known)}")
        given = given["choices"]
    if isinstance(given, Sequence) and not isinstance(given, str):
        if not given:
            raise ValueError(f"is an empty list; expected at least one of {wording.listed(known)}")
        values = tuple(_read_known(value, known) for value in given)
        _refuse_doubles(values)
        return Choice(values=values) if len(values) > 1 else Fixed(value=values[0])
    return Fixed(value=_read_known(given, known))


def to_plain(domain: Domain, bounds: Bounds | None = None) -> Any:
    """Return the shortest form of a domain in a study file; `bounds` are those of a numeric hyperparameter."""
    match domain:
        case Fixed(value=value):
            return value
        case Choice(values=values):
            return {"choices": list(values)} if len(values) == 2 and not isinstance(values[0], str) else list(values)
        case Range():
            ends = [int(domain.low), int(domain.high)] if domain.integer else [domain.low, domain.high]
            if bounds and domain.log == bounds.log and not domain.off and not bounds.discrete:
                return ends
            log = {} if bounds and domain.log == bounds.log else {"log": domain.log}
            return {"range": ends} | log | ({"off": True} if domain.off else {})


def text(domain: Domain) -> str:
    """Return a domain as text for a message: `0.3`, `[0, 0.5]`, `[1e-5, 1e-3] log or off`."""
    if not isinstance(domain, Range):
        return wording.show(to_plain(domain))
    ends = f"[{wording.number(domain.low)}, {wording.number(domain.high)}]"
    step = "" if domain.step is None else f" in steps of {wording.number(domain.step)}"
    return f"{ends}{' log' if domain.log else ''}{' or off' if domain.off else ''}{step}"


def values(domain: Domain) -> tuple[Any, ...]:
    """Return every choice, or both ends of a range."""
    match domain:
        case Fixed(value=value):
            return (value,)
        case Choice():
            return domain.values
        case Range(low=low, high=high):
            return (low, high)


def _schema_of(read: Callable[[Any], Domain], write: Callable[[Domain], Any]) -> CoreSchema:
    return core_schema.no_info_plain_validator_function(read, serialization=core_schema.plain_serializer_function_ser_schema(write))


def _choices_schema(one: dict[str, Any]) -> list[dict[str, Any]]:
    many = {"type": "array", "items": one, "minItems": 1}
    return [many, {"type": "object", "properties": {"choices": many}, "required": ["choices"], "additionalProperties": False}]


def _read_long_form(given: Mapping[Any, Any], bounds: Bounds) -> Domain:
    if set(given) == {"choices"}:
        return _read_choices(given["choices"], bounds)
    if "range" not in given or not set(given) <= {"range", "log", "off"}:
        raise ValueError(f"is {wording.show(given)}; expected {_forms(bounds)}")
    for flag in ("log", "off"):
        if not isinstance(given.get(flag, False), bool):
            raise ValueError(f"has {flag}: {wording.show(given[flag])}; expected true or false")
    if given.get("off", False) and not bounds.can_be_off:
        raise ValueError(f"has off: true, but 0 is not allowed; expected {bounds}")
    return _read_range(given["range"], bounds, log=given.get("log", bounds.log), off=given.get("off", False))


def _forms(bounds: Bounds) -> str:
    off = ", off: true" if bounds.can_be_off else ""
    pair = "" if bounds.discrete else "[low, high], "
    return f"{bounds}, {pair}{{range: [low, high], log: true{off}}} or {{choices: [a, b]}}"


def _read_range(given: Any, bounds: Bounds, *, log: bool, off: bool) -> Domain:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise ValueError(f"has the range {wording.show(given)}; expected [low, high]")
    low, high = (_read_number(value, bounds) for value in given)
    if low > high:
        shown, turned = wording.show([low, high]), wording.show([high, low])
        raise ValueError(f"has the range {shown}, but the lower end comes first; write {turned}")
    if low == high and not off:
        return Fixed(value=low)
    if log and low <= 0:
        raise ValueError(
            f"has a range that starts at {wording.number(low)}, which a logarithmic scale does not allow; "
            f"start it above 0{' (off: true adds the value 0)' if bounds.can_be_off else ''}, or write log: false"
        )
    return Range(low=low, high=high, log=log, integer=bounds.integer, off=off)


def _read_choices(given: Any, bounds: Bounds) -> Domain:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ValueError(f"has the choices {wording.show(given)}; expected a list with at least one value")
    values = tuple(_read_number(value, bounds) for value in given)
    _refuse_doubles(values)
    return Choice(values=values) if len(values) > 1 else Fixed(value=values[0])


def _read_number(given: Any, bounds: Bounds) -> float:
    if not is_number(given) or not bounds.includes(given):
        text = " without quotes" if isinstance(given, str) and given.strip()[:1].isdigit() else ""
        raise ValueError(f"is {wording.show(given)}; expected {bounds}{text}")
    return int(given) if bounds.integer else float(given)


def _read_known(given: Any, known: Sequence[Any]) -> Any:
    for value in known:
        if is_same(given, value):
            return value
    names = [wording.listed([value]) for value in known]
    raise ValueError(f"is {wording.show(given)}; expected {wording.one_of(names, given)}")


def _refuse_doubles(values: Sequence[Any]) -> None:
    if doubles := [value for index, value in enumerate(values) if value in values[:index]]:
        raise ValueError(f"lists {wording.listed(dict.fromkeys(doubles))} more than once")
