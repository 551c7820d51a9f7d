"""A file of thresholds into what a model must reach on images with something wrong, and measured accuracies into what falls short."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner import errands, wording, yaml_lines
from tuner.data import corruptions
from tuner.data.corruptions import Corruption
from tuner.errors import Problem, SpecError

#: the attack, and what else a file may ask for
FGSM, CLEAN, MEAN = "fgsm", "clean", "mean"
_NUM_STRENGTHS = {kind.value: len(strengths) for kind, strengths in corruptions.STRENGTHS.items()} | {FGSM: 3}

Accuracy = Annotated[float, Field(ge=0, le=1)]
#: one for all strengths, or one for each from weak to strong, null for those that do not matter
Accuracies = Accuracy | list[Accuracy | None]


class Demands(BaseModel):
    """The lowest accuracy that is borne, for each corruption that matters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: of the images as they are
    clean: Accuracy | None = None
    noise: Accuracies | None = None
    blur: Accuracies | None = None
    contrast: Accuracies | None = None
    brightness: Accuracies | None = None
    jpeg: Accuracies | None = None
    rotation: Accuracies | None = None
    translation: Accuracies | None = None
    grey: Accuracies | None = None
    fgsm: Accuracies | None = None
    #: the mean over all corruptions and strengths but fgsm
    mean: Accuracy | None = None


_EXPECTED = "expected lowest accuracies, for example `noise: [0.9, 0.8, 0.5]`"
KNOWN = tuple(Demands.model_fields)


def read(path: Path) -> Demands:
    """The demands of a YAML file.

    Raises:
        SpecError: it cannot be read or has mistakes; all of them are in it.
    """
    if path.is_file() and not path.stat().st_size:
        raise SpecError(str(path), [Problem(field="", message=f"is empty; {_EXPECTED}")])
    document = yaml_lines.read(path)
    given = document.value
    problems = list(document.problems)
    if not isinstance(given, Mapping) or not given:
        message = f"is {wording.show(given)}; {_EXPECTED}"
        raise SpecError(str(path), [*problems, Problem(field="", message=message)])
    for field, message in _mistakes(given):
        problems.append(Problem(field=field, message=message, line=document.line((field,))))
    if problems:
        raise SpecError(str(path), sorted(problems, key=lambda problem: problem.line or 0))
    return Demands.model_validate(given)


def _mistakes(given: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    try:
        Demands.model_validate(given)
    except ValidationError as error:
        for field in dict.fromkeys(str(found["loc"][0]) for found in error.errors()):
            if field in KNOWN:
                yield field, f"is {wording.show(given[field])}; expected an accuracy from 0 to 1{_or_several(field)}"
            else:
                yield field, f"is nothing that is measured. {wording.known(KNOWN, field)}"
    for field, value in given.items():
        num = _NUM_STRENGTHS.get(str(field))
        if num is not None and isinstance(value, list) and len(value) != num:
            yield str(field), f"has {wording.count(len(value), 'number')}; expected one for each of {wording.count(num, 'strength')}"


def _or_several(field: str) -> str:
    return f", or a list of {_NUM_STRENGTHS[field]}, from weak to strong" if _NUM_STRENGTHS.get(field, 1) > 1 else ""


def shortfalls(demands: Demands, found: errands.Verified) -> list[str]:
    """What the measured accuracies lack of what is demanded, one line each; what could not be measured lacks everything."""
    measured: dict[str, list[float]] = {}
    for one in found.robust:
        measured.setdefault(one.corruption, []).append(one.accuracy)
    lines = _short(CLEAN, [found.clean], [demands.clean]) + _short(MEAN, [mean(found)] if found.robust else [], [demands.mean])
    for name, num in _NUM_STRENGTHS.items():
        asked = getattr(demands, name)
        if asked is not None:
            lines += _short(name, measured.get(name, []), asked if isinstance(asked, list) else [asked] * num)
    return lines


def mean(found: errands.Verified) -> float:
    """The mean accuracy over all corruptions and strengths but the attack."""
    accuracies = [one.accuracy for one in found.robust if one.corruption in set(Corruption)]
    return sum(accuracies) / len(accuracies)


def _short(name: str, measured: list[float], asked: list[float | None]) -> list[str]:
    if not measured and any(least is not None for least in asked):
        return [f"{name} could not be measured, and is demanded"]
    several = len(asked) > 1
    return [
        f"{name}{f' at strength {place}' if several else ''} has {accuracy:.4f}; expected at least {wording.number(least)}"
        for place, (accuracy, least) in enumerate(zip(measured, asked, strict=False), start=1)
        if least is not None and accuracy < least
    ]
