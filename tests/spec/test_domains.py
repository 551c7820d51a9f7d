"""Domains: every form of a value in a study file."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from tuner.spec import domains
from tuner.spec.domains import Bounds, Choice, Domain, Fixed, Known, Range
from tuner.spec.hyperparameters import Optimizer
from tuner.spec.search import AugmentationSpace, HeadSpace, SearchSpace

FRACTION = Bounds(low=0, high=0.9)
RATE = Bounds(low=0, high=100, log=True, open_low=True)
COUNT = Bounds(low=1, high=4096, integer=True)
SIZES = Bounds(low=1, high=4096, integer=True, discrete=True)
BELOW_ONE = Bounds(low=0, high=1, open_high=True)
OPTIMIZERS = tuple(Optimizer)

NUMERIC = [
    (0.3, FRACTION, Fixed(value=0.3)),
    (0, FRACTION, Fixed(value=0.0)),
    (32.0, COUNT, Fixed(value=32)),
    ([0, 0.5], FRACTION, Range(low=0, high=0.5)),
    ([1e-5, 1], RATE, Range(low=1e-5, high=1, log=True)),
    ([16, 64], COUNT, Range(low=16, high=64, integer=True)),
    # two batch sizes are choices
    ([16, 64], SIZES, Choice(values=(16, 64))),
    ([0.1, 0.2, 0.4], FRACTION, Choice(values=(0.1, 0.2, 0.4))),
    ([0.1], FRACTION, Fixed(value=0.1)),
    # a range of one value
    ([0.1, 0.1], FRACTION, Fixed(value=0.1)),
    ([0, 0], Bounds(low=0, high=1, log=True), Fixed(value=0.0)),
    ({"range": [0.1, 0.4]}, FRACTION, Range(low=0.1, high=0.4)),
    ({"range": [0.1, 0.4], "log": True}, FRACTION, Range(low=0.1, high=0.4, log=True)),
    ({"range": [1e-3, 1], "log": False}, RATE, Range(low=1e-3, high=1)),
    ({"range": [0.1, 0.4], "off": True}, FRACTION, Range(low=0.1, high=0.4, off=True)),
    # either off or one value
    ({"range": [0.1, 0.1], "off": True}, FRACTION, Range(low=0.1, high=0.1, off=True)),
    ({"range": [16, 64]}, SIZES, Range(low=16, high=64, integer=True)),
    ({"choices": [0.2, 0.5]}, FRACTION, Choice(values=(0.2, 0.5))),
    ({"choices": [0.2]}, FRACTION, Fixed(value=0.2)),
]
NAMED = [
    ("sgd", OPTIMIZERS, Fixed(value=Optimizer.SGD)),
    (["sgd", "lion"], OPTIMIZERS, Choice(values=(Optimizer.SGD, Optimizer.LION))),
    (["sgd"], OPTIMIZERS, Fixed(value=Optimizer.SGD)),
    ({"choices": ["sgd", "lion"]}, OPTIMIZERS, Choice(values=(Optimizer.SGD, Optimizer.LION))),
    (True, (False, True), Fixed(value=True)),
    ([True, False], (False, True), Choice(values=(True, False))),
]


@pytest.mark.parametrize(("given", "bounds", "expected"), NUMERIC)
def test_each_form_of_a_number_becomes_its_domain(given: Any, bounds: Bounds, expected: Domain) -> None:
    assert domains.read_numeric(given, bounds) == expected


@pytest.mark.parametrize(("given", "known", "expected"), NAMED)
def test_each_form_of_a_name_becomes_its_domain(given: Any, known: tuple[Any, ...], expected: Domain) -> None:
    assert domains.read_choice(given, known) == expected


@pytest.mark.parametrize(("bounds", "domain"), [(bounds, domain) for _, bounds, domain in NUMERIC])
def test_a_numeric_domain_survives_json_with_and_without_its_bounds(bounds: Bounds, domain: Domain) -> None:
    adapter: TypeAdapter[Domain] = TypeAdapter(bounds_type(bounds))
    assert adapter.validate_json(adapter.dump_json(domain)) == domain
    assert domains.read_numeric(domains.to_plain(domain), bounds) == domain


def bounds_type(bounds: Bounds) -> Any:
    from typing import Annotated

    return Annotated[Domain, bounds]


@pytest.mark.parametrize(("known", "domain"), [(known, domain) for _, known, domain in NAMED])
def test_a_named_domain_survives_json(known: tuple[Any, ...], domain: Domain) -> None:
    adapter: TypeAdapter[Domain] = TypeAdapter(bounds_type(Known(known)))  # type: ignore[arg-type]
    assert adapter.validate_json(adapter.dump_json(domain)) == domain


@pytest.mark.parametrize(
    ("given", "bounds", "message"),
    [
        (1.5, FRACTION, "is 1.5; expected a number from 0 to 0.9"),
        (-1, COUNT, "is -1; expected a whole number from 1 to 4096"),
        (2.5, COUNT, "is 2.5; expected a whole number"),
        (0, RATE, "is 0; expected a number above 0 and at most 100"),
        (1, BELOW_ONE, "is 1; expected a number of at least 0 and below 1"),
        # true is not a number, although it is one in Python
        (True, COUNT, "is true; expected a whole number"),
        (float("nan"), FRACTION, "is nan; expected a number"),
        (float("inf"), RATE, "is inf; expected a number"),
        ("0.3", FRACTION, "is '0.3'; expected a number from 0 to 0.9 without quotes"),
        ("high", FRACTION, "is 'high'; expected a number"),
        (None, FRACTION, "is null; expected a number"),
        ([], FRACTION, "has the choices []; expected a list with at least one value"),
        ([0.5, 0.1], FRACTION, "has the range [0.5, 0.1], but the lower end comes first; write [0.1, 0.5]"),
        ([0, 5], FRACTION, "is 5; expected a number from 0 to 0.9"),
        ([0.1, 0.1, 0.2], FRACTION, "lists 0.1 more than once"),
        (
            [0, 0.1],
            Bounds(low=0, high=1, log=True),
            "starts at 0, which a logarithmic scale does not allow; start it above 0 (off: true adds the value 0), or write log: false",
        ),
        ({"range": 3}, FRACTION, "has the range 3; expected [low, high]"),
        ({"range": [1, 2, 3]}, COUNT, "has the range [1, 2, 3]; expected [low, high]"),
        ({"low": 0, "high": 1}, FRACTION, "is {low: 0, high: 1}; expected a number from 0 to 0.9, [low, high], {range: "),
        ({"range": [0, 0.1], "step": 2}, FRACTION, "expected a number from 0 to 0.9, [low, high], {range: "),
        ({"range": [0, 0.1], "log": 1}, FRACTION, "has log: 1; expected true or false"),
        ({"range": [1, 8], "off": True}, COUNT, "has off: true, but 0 is not allowed"),
        ({"range": [0.1, 8], "off": True}, RATE, "has off: true, but 0 is not allowed"),
        ({"choices": []}, FRACTION, "has the choices []"),
        ({"choices": 3}, FRACTION, "has the choices 3"),
    ],
)
def test_an_invalid_numeric_domain_is_refused_with_what_was_expected(given: Any, bounds: Bounds, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        domains.read_numeric(given, bounds)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sgdd", "is 'sgdd'; expected one of sgd, adam, adamw, nadam, adamax, adagrad, adadelta, rmsprop, lion. Did you mean sgd?"),
        ([], "is an empty list; expected at least one of sgd"),
        (["sgd", "sgd"], "lists sgd more than once"),
        ({"range": ["sgd", "lion"]}, "expected one or several of sgd"),
        (3, "is 3; expected one of sgd"),
        (None, "is null; expected one of sgd"),
    ],
)
def test_an_invalid_named_domain_is_refused_with_what_was_expected(given: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        domains.read_choice(given, OPTIMIZERS)
    assert message in str(caught.value)


def test_the_number_1_is_not_accepted_as_true() -> None:
    with pytest.raises(ValueError):
        domains.read_choice(1, (False, True))


def test_a_domain_built_in_python_is_checked_too() -> None:
    with pytest.raises(ValidationError):
        SearchSpace.model_validate({"dropout": Range(low=0, high=5)})


def field_domains(section: type[BaseModel]) -> list[tuple[str, Bounds | Known, Domain]]:
    found = []
    for name, field in section.model_fields.items():
        kinds = [kind for kind in field.metadata if isinstance(kind, Bounds | Known)]
        found += [(name, kind, field.default) for kind in kinds]
    return found


@pytest.mark.parametrize(
    ("name", "kind", "default"), [row for part in (SearchSpace, HeadSpace, AugmentationSpace) for row in field_domains(part)]
)
def test_a_file_could_give_every_default_domain(name: str, kind: Bounds | Known, default: Domain) -> None:
    plain = domains.to_plain(default)
    assert (domains.read_numeric(plain, kind) if isinstance(kind, Bounds) else domains.read_choice(plain, kind.values)) == default


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (Fixed(value=0.3), "0.3"),
        (Range(low=0, high=0.5), "[0, 0.5]"),
        (Range(low=1e-5, high=1e-3, log=True), "[1e-5, 0.001] log"),
        (Range(low=0.1, high=0.4, off=True), "[0.1, 0.4] or off"),
        (Choice(values=(16, 32)), "{choices: [16, 32]}"),
        (Choice(values=(16, 32, 64)), "[16, 32, 64]"),
    ],
)
def test_a_domain_has_a_short_text(domain: Domain, expected: str) -> None:
    assert domains.text(domain) == expected
