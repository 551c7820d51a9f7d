"""A file of thresholds into what a model must reach on images with something wrong, and measured accuracies into what falls short.

A bundle into what can be said of it: whole, signed, safe to load, as good as it says, and how it bears what cameras do to images.

What verifying a bundle reads of the test split, recorded with the version that the bundle was made of.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner import wording
from tuner.errors import Problem, RequestError, SpecError, TrainingError, TunerError
from tuner.protocol import errands
from tuner.results.bundle import bundle as bundles
from tuner.results.bundle import manifest, sign
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading
from tuner.spec import file as study_file
from tuner.spec import yaml_lines
from tuner.spec.data import PythonData, TfdsData
from tuner.spec.study import NAME, StudySpec
from tuner.storage import engine as storages
from tuner.storage.tables import VERSIONS
from tuner.tasks.images.data import corruptions
from tuner.tasks.images.data.corruptions import Corruption
from tuner.trust import keras_file
from tuner.workers.worker import evaluation

#: the attack, and what else a file may ask for
FGSM, CLEAN, MEAN = "fgsm", "clean", "mean"
_NUM_STRENGTHS = {kind.value: len(strengths) for kind, strengths in corruptions.STRENGTHS.items()} | {FGSM: 3}

Accuracy = Annotated[float, Field(ge=0, le=1)]
#: one for all strengths, or one for each from weak to strong, null for those that do not matter
Accuracies = Accuracy | list[Accuracy | None]


class Requirements(BaseModel):
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
KNOWN = tuple(Requirements.model_fields)


def read(path: Path) -> Requirements:
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
    return Requirements.model_validate(given)


def _mistakes(given: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
    try:
        Requirements.model_validate(given)
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


def shortfalls(demands: Requirements, found: errands.Verified) -> list[str]:
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


MODEL, CONFIG, METRICS = errands.PLACES[errands.Format.KERAS], bundles.CONFIG, bundles.METRICS
#: of a probability: another processor rounds otherwise
PROBE_TOLERANCE = 1e-3
#: metrics of a thousand classes, with their confusion, take a tenth of it
_MOST_BYTES = 64 * 1024**2


class Outcome(StrEnum):
    """How a check came out."""

    OK = "ok"
    FAILED = "failed"
    #: it could not be made, and says why
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    outcome: Outcome
    #: what was found, one line each
    found: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """How far a bundle is verified."""

    #: public key that its signature is checked with
    key: Path | None
    #: what it must reach on images with something wrong
    demands: Requirements | None
    is_robustness_wanted: bool
    #: the most test images that robustness is measured on
    most_images: int
    #: of the test accuracy
    tolerance: float
    #: folder of decoded images
    cache: Path
    #: the study with its images where this machine has them
    place: Callable[[StudySpec], StudySpec]
    #: whether the images must be there, because someone said where
    needs_data: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was looked at."""

    checks: tuple[Check, ...]
    #: None where the model was not run
    measured: errands.Verified | None

    @property
    def is_good(self) -> bool:
        """Whether nothing that was looked at was wrong."""
        return all(check.outcome is not Outcome.FAILED for check in self.checks)


def verify(bundle: Path, wanted: VerificationOptions, *, tell: Callable[[str], None]) -> Report:
    """Look at a bundle; its model is loaded only if the files are those of the manifest and none of them could run code.

    Raises:
        RequestError: there is no such folder, or the public key is none.
    """
    if not bundle.is_dir():
        raise RequestError(f"{bundle} is no folder; expected a bundle, as `tuner export` makes it")
    before = [_manifest(bundle), _signature(bundle, wanted.key)]
    if before[0].outcome is Outcome.OK:
        before.append(_safe(bundle))
    if any(check.outcome is Outcome.FAILED for check in before):
        rest = Check(name="model", outcome=Outcome.NOT_CHECKED, found=("it is not loaded, because of what is wrong above",))
        return Report(checks=(*before, rest), measured=None)
    tell("the model is loaded and measured in a process of its own …")
    spec, why = _spec(bundle, wanted)
    try:
        measured, why = _measure(bundle, spec, wanted, why)
    except (RequestError, TrainingError) as error:
        return Report(checks=(*before, Check(name="model", outcome=Outcome.FAILED, found=(str(error),))), measured=None)
    after = (_probes(measured), _metrics(bundle, measured, wanted, why), *_robustness(measured, wanted))
    return Report(checks=(*before, *after), measured=measured)


def _check(name: str, wrong: Iterator[str] | list[str], good: str) -> Check:
    found = tuple(wrong)
    return Check(name=name, outcome=Outcome.FAILED if found else Outcome.OK, found=found or (good,))


def _manifest(bundle: Path) -> Check:
    wrong = [f"{problem.field or bundle} {problem.message}" for problem in manifest.check(bundle)]
    if wrong:
        return _check("manifest", wrong, "")
    files = manifest.read(bundle).files
    return _check("manifest", [], f"{wording.count(len(files), 'file')}, each as it was exported")


def _signature(bundle: Path, key: Path | None) -> Check:
    is_signed = (bundle / manifest.SIGNATURE).exists()
    if key is None:
        said = "there is one, and no key to check it with; give --signature KEY.pub" if is_signed else "it is not signed"
        return Check(name="signature", outcome=Outcome.NOT_CHECKED, found=(said,))
    reason = sign.refusal(bundle, key)
    return _check("signature", [f"{manifest.SIGNATURE} {reason}"] if reason else [], f"by the owner of {key}, of just these files")


def _safe(bundle: Path) -> Check:
    files = manifest.read(bundle).files
    wrong = [f"{problem.field} {problem.message}" for problem in manifest.problems(bundle, files)]
    wrong += [f"{name} is missing" for name in (MODEL, CONFIG, METRICS, bundles.PREDICTIONS) if name not in files]
    if MODEL in files:
        wrong += [f"{MODEL}: {reason}" for reason in keras_file.problems(bundle / MODEL)]
    return _check(
        "safe loading", wrong, f"{MODEL} has layers of Keras and arrays of numbers, and nothing else; other formats are not loaded"
    )


def _spec(bundle: Path, wanted: VerificationOptions) -> tuple[StudySpec | None, str]:
    """The study whose test split can be had here, or why there is none."""
    try:
        spec = study_file.read(bundle / CONFIG)
    except SpecError as error:
        return None, str(error)
    if isinstance(spec.data, PythonData | TfdsData):
        return None, f"its data come from the source {spec.data.source}, which may run code and is not read for a bundle"
    placed = wanted.place(spec)
    path = getattr(placed.data, "path", None)
    if path is not None and not path.exists() and not wanted.needs_data:
        return None, f"its images are not at {path}; say with --data where they are"
    return placed, ""


def _measure(bundle: Path, spec: StudySpec | None, wanted: VerificationOptions, why: str) -> tuple[errands.Verified, str]:
    """What the model does; where data that no one asked for cannot be had, without them, and why."""
    try:
        return _ask(bundle, spec, wanted), why
    except RequestError as error:
        if spec is None or wanted.needs_data:
            raise
        return _ask(bundle, None, wanted), str(error)


def _ask(bundle: Path, spec: StudySpec | None, wanted: VerificationOptions) -> errands.Verified:
    order = errands.Verify(
        model=str(bundle / MODEL),
        probes=str(bundle / bundles.PROBES),
        spec=None if spec is None else spec.model_dump_json(),
        cache=str(wanted.cache),
        is_robustness_wanted=wanted.is_robustness_wanted or wanted.demands is not None,
        most_images=wanted.most_images,
    )
    answer = evaluation.run(order)
    assert isinstance(answer, errands.Verified)
    return answer


def _probes(measured: errands.Verified) -> Check:
    num, agreeing = measured.num_probes, measured.num_agreeing
    wrong = []
    if agreeing < num or not measured.max_difference <= PROBE_TOLERANCE:
        wrong = [
            f"{agreeing} of {wording.count(num, 'image')} have the class that was recorded, and a probability differs by "
            f"{measured.max_difference:.2g}; expected at most {PROBE_TOLERANCE:g}"
        ]
    return _check(
        "probes", wrong, f"{wording.count(num, 'image')}: every prediction as recorded, largest difference {measured.max_difference:.1e}"
    )


def _metrics(bundle: Path, measured: errands.Verified, wanted: VerificationOptions, why: str) -> Check:
    name, test = "test metrics", measured.test
    metrics, trouble = recorded(bundle)
    if trouble:
        return _check(name, [trouble], "")
    if test is None:
        return Check(name=name, outcome=Outcome.FAILED if wanted.needs_data else Outcome.NOT_CHECKED, found=(why,))
    if not isinstance(metrics.get("test"), dict):
        said = f"none are recorded; on {wording.count(test.num_images, 'image')} it has {test.accuracy:.4f} here"
        return Check(name=name, outcome=Outcome.NOT_CHECKED, found=(said,))
    if (metrics.get("fingerprint"), metrics.get("splits")) != (test.fingerprint, test.splits):
        what = "images" if metrics.get("fingerprint") != test.fingerprint else "splits"
        return _check(name, [f"the {what} here are not those of the bundle: its fingerprint is another"], "")
    said = metrics["test"].get("accuracy")
    # NaN is no number from 0 to 1 either
    if type(said) not in (float, int) or not 0 <= said <= 1 or abs(said - test.accuracy) > wanted.tolerance:
        return _check(name, [f"accuracy {test.accuracy:.4f}; recorded is {said!r:.40}, and {wanted.tolerance:g} is borne"], "")
    return _check(name, [], f"accuracy {test.accuracy:.4f} on {wording.count(test.num_images, 'image')}, recorded {said:.4f}")


def recorded(bundle: Path) -> tuple[dict[str, Any], str]:
    """What a bundle says was measured of its model; nothing, and why, where it cannot be read."""
    try:
        with manifest.open_file(bundle / METRICS) as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{METRICS} cannot be read: {error}"
    return (found, "") if isinstance(found, dict) else ({}, f"{METRICS} holds no metrics")


def _robustness(measured: errands.Verified, wanted: VerificationOptions) -> Iterator[Check]:
    if not measured.robust:
        yield Check(name="robustness", outcome=Outcome.NOT_CHECKED, found=("it was not asked for",))
        return
    split = "the test split" if measured.test is not None else "the probes, validation images that the model was chosen by"
    said = f"on {wording.count(measured.num_images, 'image')} of {split}: clean {measured.clean:.4f}, mean {mean(measured):.4f}"
    if wanted.demands is None:
        yield Check(name="robustness", outcome=Outcome.OK, found=(said,))
        return
    yield _check("robustness", [f"{line}, {said}" for line in shortfalls(wanted.demands, measured)], f"{said}; all that is required")


_CHECK = "test reading"


def version_of(recorded: Mapping[str, Any]) -> tuple[str, int] | None:
    """Name and number of the version that a bundle's metrics are of; None: they name none, or something that is none."""
    name, number = recorded.get("name"), recorded.get("version")
    if isinstance(name, str) and re.fullmatch(NAME, name) and type(number) is int and 0 < number < 2**31:
        return name, number
    return None


def record(url: str, named: tuple[str, int], test: errands.TestScore, *, tolerance: float, by: str) -> Check:
    """Record a reading of the test split with a version that a database keeps; where that cannot be, say why.

    A reading of other images than the version's, or of a model with another accuracy, is none of it. Nothing is created in a database
    that keeps no versions.
    """
    try:
        return _record(url, named, test, tolerance, by)
    except TunerError as error:
        return unrecorded(str(error))


def unrecorded(why: str) -> Check:
    """That a reading was made, and is recorded nowhere."""
    return Check(name=_CHECK, outcome=Outcome.NOT_CHECKED, found=(f"it is not recorded: {why}",))


def _record(url: str, named: tuple[str, int], test: errands.TestScore, tolerance: float, by: str) -> Check:
    words = f"{named[0]} {named[1]}"
    if not storages.holds(url, VERSIONS.name):
        return unrecorded(f"{storages.shown(url)} keeps no versions; name the database that keeps {words} with --storage")
    storage = storages.open(url)
    try:
        kept = versions.find(storage, *named).kept
        if (kept.fingerprint, kept.splits) != (test.fingerprint, test.splits):
            return unrecorded(f"the images read here are not the test split of {words}")
        said = kept.metrics.get("test_accuracy")
        if said is not None and abs(said - test.accuracy) > tolerance:
            return unrecorded(f"this is not the model of {words} in {storages.shown(url)}, whose test accuracy is {said:.4f}")
        look = NewReading(splits=test.splits, by=by, purpose="verify", accuracy=test.accuracy, num_images=test.num_images)
        reading = versions.record_reading(storage, *named, look)
    finally:
        storage.close()
    found = f"recorded; {words} has had {wording.count(reading.ordinal, 'reading')} of its test split"
    warning = ("what is chosen by this one has not been tested on unseen images",) if reading.ordinal > 1 else ()
    return Check(name=_CHECK, outcome=Outcome.OK, found=(found, *warning))
