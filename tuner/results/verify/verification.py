"""Verification: checks of a bundle: files, signature, safe loading, predictions, test accuracy and robustness."""

import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner import wording
from tuner.errors import Problem, RequestError, SpecError, TrainingError, TunerError
from tuner.protocol import errands
from tuner.results.bundle import bundle as bundles
from tuner.results.bundle import custom_bundle, examples, manifest, sign
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading
from tuner.spec import file as study_file
from tuner.spec import yaml_lines
from tuner.spec.data import PythonData, TfdsData
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.study import NAME, StudySpec
from tuner.storage import engine as storages
from tuner.storage.tables import VERSIONS
from tuner.studies import moved
from tuner.studies import study as studies
from tuner.tasks.images.data import corruptions
from tuner.tasks.images.data.corruptions import Corruption
from tuner.trust import keras_file
from tuner.workers.worker import evaluation

MODEL, CONFIG, METRICS = errands.BUNDLE_PATHS[errands.Format.KERAS], bundles.CONFIG, bundles.METRICS
#: largest difference of a probe's probability; other processors round differently
PROBE_TOLERANCE = 1e-3
#: size limit of metrics.json, ten times that of a thousand classes
_MAX_METRICS_BYTES = 64 * 1024**2
#: name of the check that records a reading of the test split
_READING_CHECK = "test reading"
#: keys of a requirements file beside the corruptions
FGSM, CLEAN, MEAN = "fgsm", "clean", "mean"
_NUM_STRENGTHS = {kind.value: len(strengths) for kind, strengths in corruptions.STRENGTHS.items()} | {FGSM: 3}

Accuracy = Annotated[float, Field(ge=0, le=1)]
#: one accuracy for all strengths, or one for each from weak to strong, with null for a strength without a requirement
Accuracies = Accuracy | list[Accuracy | None]


class Requirements(BaseModel):
    """The minimum accuracies under corruptions; None for a corruption without a requirement."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    #: accuracy on the unchanged images
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
    #: mean over all corruptions and strengths except fgsm
    mean: Accuracy | None = None


_EXPECTED = "expected minimum accuracies, for example `noise: [0.9, 0.8, 0.5]`"
KNOWN = tuple(Requirements.model_fields)


def read(path: Path) -> Requirements:
    """Read the requirements of a YAML file.

    Raises:
        SpecError: the file cannot be read or has mistakes; the error lists all of them.
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
                yield field, f"is not measured. {wording.known(KNOWN, field)}"
    for field, value in given.items():
        num = _NUM_STRENGTHS.get(str(field))
        if num is not None and isinstance(value, list) and len(value) != num:
            yield str(field), f"has {wording.count(len(value), 'number')}; expected one for each of {wording.count(num, 'strength')}"


def _or_several(field: str) -> str:
    return f", or a list of {_NUM_STRENGTHS[field]}, from weak to strong" if _NUM_STRENGTHS.get(field, 1) > 1 else ""


def shortfalls(requirements: Requirements, found: errands.Verified) -> list[str]:
    """Return a line for each accuracy below its requirement, or without a measurement."""
    measured: dict[str, list[float]] = {}
    for one in found.robust:
        measured.setdefault(one.corruption, []).append(one.accuracy)
    lines = _short(CLEAN, [found.clean], [requirements.clean]) + _short(MEAN, [mean(found)] if found.robust else [], [requirements.mean])
    for name, num in _NUM_STRENGTHS.items():
        required = getattr(requirements, name)
        if required is not None:
            lines += _short(name, measured.get(name, []), required if isinstance(required, list) else [required] * num)
    return lines


def mean(found: errands.Verified) -> float:
    """Return the mean accuracy over all corruptions and strengths except the attack."""
    accuracies = [one.accuracy for one in found.robust if one.corruption in set(Corruption)]
    return sum(accuracies) / len(accuracies)


def _short(name: str, measured: list[float], required: list[float | None]) -> list[str]:
    if not measured and any(least is not None for least in required):
        return [f"{name} could not be measured, but is required"]
    several = len(required) > 1
    return [
        f"{name}{f' at strength {strength}' if several else ''} has {wording.figure(accuracy)}; expected at least {wording.number(least)}"
        for strength, (accuracy, least) in enumerate(zip(measured, required, strict=False), start=1)
        if least is not None and accuracy < least
    ]


class Outcome(StrEnum):
    """The result of a check."""

    OK = "ok"
    FAILED = "failed"
    #: the check was not possible; the finding says why
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check and its findings."""

    name: str
    outcome: Outcome
    #: the findings, one line each
    found: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """Options of a verification."""

    #: public key for the signature; None: the signature is not checked
    key: Path | None
    #: minimum accuracies under corruptions
    requirements: Requirements | None
    is_robustness_wanted: bool
    #: largest number of test images for robustness
    most_images: int
    #: allowed difference of the test accuracy
    tolerance: float
    #: folder of decoded images
    cache: Path
    #: returns the study with the place of its images on this machine
    localize: Callable[[StudySpec], StudySpec]
    #: whether missing images are a failure, because the user named their place
    needs_data: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a verification."""

    checks: tuple[Check, ...]
    #: None if the model was not run
    measured: errands.Verified | None

    @property
    def is_good(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome is not Outcome.FAILED for check in self.checks)


def verify(bundle: Path, wanted: VerificationOptions, *, tell: Callable[[str], None]) -> Report:
    """Verify a bundle; its model is loaded only if all files match the manifest and none can run code.

    Raises:
        RequestError: there is no such folder, or the public key is invalid.
    """
    if not bundle.is_dir():
        raise RequestError(f"{bundle} is not a folder; expected a bundle, as `tuner export` creates it")
    if bundles.is_of_code(bundle):
        return _verify_code(bundle, wanted, tell)
    before = [_manifest(bundle), _signature(bundle, wanted.key)]
    if before[0].outcome is Outcome.OK:
        before.append(_safe(bundle))
    if any(check.outcome is Outcome.FAILED for check in before):
        rest = Check(name="model", outcome=Outcome.NOT_CHECKED, found=("not loaded, because a check above failed",))
        return Report(checks=(*before, rest), measured=None)
    tell("loading and measuring the model in its own process …")
    spec, why = _spec(bundle, wanted)
    try:
        measured, why = _measure(bundle, spec, wanted, why)
    except (RequestError, TrainingError) as error:
        return Report(checks=(*before, Check(name="model", outcome=Outcome.FAILED, found=(str(error),))), measured=None)
    mean, _ = answers(bundle)
    after = (_probes(measured, mean.kind), _metrics(bundle, measured, wanted, why), *_robustness(measured, wanted, mean))
    return Report(checks=(*before, *after), measured=measured)


def _verify_code(bundle: Path, wanted: VerificationOptions, tell: Callable[[str], None]) -> Report:
    """Verify a bundle of a user model; the code in it is never run."""
    if wanted.requirements is not None or wanted.needs_data:
        option = "--data" if wanted.needs_data else "--require"
        raise RequestError(f"{option} applies only to bundles of image classifiers, but {bundle} has a user model; drop {option}.")
    before = [_manifest(bundle), _signature(bundle, wanted.key)]
    if before[0].outcome is Outcome.OK:
        before.append(_safe_code(bundle))
    if any(check.outcome is Outcome.FAILED for check in before):
        rest = Check(name="predictions", outcome=Outcome.NOT_CHECKED, found=("not loaded, because a check above failed",))
        return Report(checks=(*before, rest), measured=None)
    tell("loading the model and predicting its examples in its own process …")
    try:
        return Report(checks=(*before, _reproduced(bundle)), measured=None)
    except (RequestError, TrainingError) as error:
        return Report(checks=(*before, Check(name="predictions", outcome=Outcome.FAILED, found=(str(error),))), measured=None)


def _safe_code(bundle: Path) -> Check:
    files = manifest.read(bundle).files
    wrong = [f"{problem.field} {problem.message}" for problem in manifest.problems(bundle, files, has_code=True)]
    needed = (CONFIG, METRICS, errands.WEIGHTS_FILE, custom_bundle.EXAMPLES, custom_bundle.PREDICTIONS)
    wrong += [f"{name} is missing" for name in needed if name not in files]
    if MODEL in files:
        wrong += [f"{MODEL}: {reason}" for reason in keras_file.problems(bundle / MODEL)]
        return _check("safe loading", wrong, f"{MODEL} holds only layers of Keras and arrays of numbers; the code in the bundle is not run")
    return _check("safe loading", wrong, f"there is no {MODEL}; the code in the bundle is not run")


def _reproduced(bundle: Path) -> Check:
    """Compare what the model predicts for the examples in the bundle with what is recorded."""
    name, interface = "predictions", custom_bundle.read(bundle)
    form = custom_bundle.loaded_format(bundle, interface)
    if form is None:
        return Check(name=name, outcome=Outcome.NOT_CHECKED, found=("no model in the bundle loads without the user's code",))
    given = examples.read(bundle / custom_bundle.EXAMPLES, interface.inputs)
    with tempfile.TemporaryDirectory(prefix="tuner-verify-") as scratch:
        asked, to = Path(scratch) / "asked.npz", Path(scratch) / "found.npz"
        np.savez(asked, **given)  # type: ignore[arg-type]
        count = custom_bundle.predict(bundle, interface, asked, to)
        with np.load(to, allow_pickle=False) as found, np.load(bundle / custom_bundle.PREDICTIONS, allow_pickle=False) as recorded:
            missing = [one.name for one in interface.outputs if one.name not in recorded]
            if missing:
                return _check(name, [f"{custom_bundle.PREDICTIONS} has no output {missing[0]}"], "")
            largest = max(_apart_by(found[one.name], recorded[one.name], one.meaning) for one in interface.outputs)
    words = f"{wording.count(count, 'example')} with {errands.BUNDLE_PATHS[form]}: largest difference {largest:.1e}"
    return _check(name, [] if largest <= PROBE_TOLERANCE else [f"{words}; expected at most {PROBE_TOLERANCE:g}"], words)


def _apart_by(found: NDArray[Any], recorded: NDArray[Any], meaning: errands.Meaning) -> float:
    """Return the largest difference; of numbers, as a fraction of the largest one; infinite if the shapes differ."""
    if found.shape != recorded.shape:
        return math.inf
    scale = 1.0 if meaning != "numbers" else float(np.abs(recorded).max(initial=0.0)) or 1.0
    off = float(np.abs(found.astype(np.float64) - recorded).max(initial=0.0)) / scale
    return off if math.isfinite(off) else math.inf


def _check(name: str, wrong: Iterator[str] | list[str], good: str) -> Check:
    found = tuple(wrong)
    return Check(name=name, outcome=Outcome.FAILED if found else Outcome.OK, found=found or (good,))


def _manifest(bundle: Path) -> Check:
    wrong = [f"{problem.field or bundle} {problem.message}" for problem in manifest.check(bundle)]
    if wrong:
        return _check("manifest", wrong, "")
    files = manifest.read(bundle).files
    return _check("manifest", [], f"{wording.count(len(files), 'file')}, unchanged since the export")


def _signature(bundle: Path, key: Path | None) -> Check:
    is_signed = (bundle / manifest.SIGNATURE).exists()
    if key is None:
        reason = "not checked without a key; add --signature KEY.pub" if is_signed else "the bundle is not signed"
        return Check(name="signature", outcome=Outcome.NOT_CHECKED, found=(reason,))
    reason = sign.refusal(bundle, key)
    return _check("signature", [f"{manifest.SIGNATURE} {reason}"] if reason else [], f"valid for {key} and these files")


def _safe(bundle: Path) -> Check:
    files = manifest.read(bundle).files
    wrong = [f"{problem.field} {problem.message}" for problem in manifest.problems(bundle, files)]
    wrong += [f"{name} is missing" for name in (MODEL, CONFIG, METRICS, bundles.PREDICTIONS) if name not in files]
    if MODEL in files:
        wrong += [f"{MODEL}: {reason}" for reason in keras_file.problems(bundle / MODEL)]
    return _check("safe loading", wrong, f"{MODEL} holds only layers of Keras and arrays of numbers; the other formats are not loaded")


def _spec(bundle: Path, wanted: VerificationOptions) -> tuple[StudySpec | None, str]:
    """Return the study with the test split, or why it is not available."""
    try:
        spec = study_file.read_images(bundle / CONFIG)
    except SpecError as error:
        return None, str(error)
    if isinstance(spec.data, PythonData | TfdsData):
        return None, f"its data source {spec.data.source} may run code, so it is not read for a bundle"
    localized = wanted.localize(spec)
    path = getattr(localized.data, "path", None)
    if path is not None and not path.exists() and not wanted.needs_data:
        return None, f"its images are not at {path}; name their folder with --data"
    return localized, ""


def _measure(bundle: Path, spec: StudySpec | None, wanted: VerificationOptions, why: str) -> tuple[errands.Verified, str]:
    """Measure the model; without data that are optional and not available, and with the reason."""
    try:
        return _ask(bundle, spec, wanted), why
    except RequestError as error:
        if spec is None or wanted.needs_data:
            raise
        return _ask(bundle, None, wanted), str(error)


def _ask(bundle: Path, spec: StudySpec | None, wanted: VerificationOptions) -> errands.Verified:
    mean, trouble = answers(bundle)
    if trouble:
        raise RequestError(trouble)
    order = errands.Verify(
        model=str(bundle / MODEL),
        probes=str(bundle / bundles.PROBES),
        spec=None if spec is None else spec.model_dump_json(),
        cache=str(wanted.cache),
        is_robustness_wanted=wanted.is_robustness_wanted or wanted.requirements is not None,
        most_images=wanted.most_images,
        answers_mean=mean,
    )
    answer = evaluation.run(order)
    assert isinstance(answer, errands.Verified)
    return answer


def answers(bundle: Path) -> tuple[errands.Answers, str]:
    """Return what the outputs of a model mean, as the bundle records it, and what is wrong with the record."""
    metrics, _ = recorded(bundle)
    if "target" not in metrics:
        return errands.Answers(), ""
    given = {"kind": metrics["target"], "metric": metrics.get("metric"), "thresholds": metrics.get("thresholds", ())}
    try:
        return errands.Answers.model_validate(given), ""
    except ValidationError as error:
        return errands.Answers(), f"{METRICS} does not say what the outputs of the model mean: {error.errors()[0]['msg']}"


#: what a model says of an image, by what the images are labeled with; it says nothing else than a number of a number
_ANSWERS = {TargetKind.LABEL: "class", TargetKind.LABELS: "labels"}


def _probes(measured: errands.Verified, kind: TargetKind) -> Check:
    num, difference = wording.count(measured.num_probes, "image"), measured.max_difference
    of_all = f"{num}: every prediction as recorded, largest difference {difference:.1e}"
    if measured.num_agreeing == measured.num_probes and difference <= PROBE_TOLERANCE:
        return _check("probes", [], of_all)
    if kind is TargetKind.NUMBER:
        wrong = f"{num}: a predicted number differs from the recorded one by {difference:.2g} of the largest one"
        return _check("probes", [f"{wrong}; expected at most {PROBE_TOLERANCE:g}"], "")
    wrong = f"{measured.num_agreeing} of {num} have the recorded {_ANSWERS[kind]}, and a probability differs by {difference:.2g}"
    return _check("probes", [f"{wrong}; expected all, and a difference of at most {PROBE_TOLERANCE:g}"], "")


def _metrics(bundle: Path, measured: errands.Verified, wanted: VerificationOptions, why: str) -> Check:
    name, test = "test metrics", measured.test
    metrics, trouble = recorded(bundle)
    if trouble:
        return _check(name, [trouble], "")
    if test is None:
        return Check(name=name, outcome=Outcome.FAILED if wanted.needs_data else Outcome.NOT_CHECKED, found=(why,))
    if not isinstance(metrics.get("test"), dict):
        value = f"accuracy {test.accuracy:.4f}" if test.value is None else f"value {wording.figure(test.value)}"
        found = f"the bundle records none; {value} on {wording.count(test.num_images, 'image')} here"
        return Check(name=name, outcome=Outcome.NOT_CHECKED, found=(found,))
    if (metrics.get("fingerprint"), metrics.get("splits")) != (test.fingerprint, test.splits):
        what = "images" if metrics.get("fingerprint") != test.fingerprint else "splits"
        return _check(name, [f"the {what} here are not those of the bundle: the fingerprints differ"], "")
    if test.value is not None:
        return _value(name, metrics, test, wanted)
    # with members of several sizes, the model reduces images that each member alone reads at its own size
    accuracy = metrics["test"].get("exported_accuracy", metrics["test"].get("accuracy"))
    # NaN is not from 0 to 1 either
    if type(accuracy) not in (float, int) or not 0 <= accuracy <= 1 or abs(accuracy - test.accuracy) > wanted.tolerance:
        wrong = f"accuracy {test.accuracy:.4f}; expected the recorded {accuracy!r:.40} within {wanted.tolerance:g}"
        return _check(name, [wrong], "")
    return _check(
        name, [], f"accuracy {test.accuracy:.4f} on {wording.count(test.num_images, 'image')}, recorded {accuracy:.4f}{_apart(metrics)}"
    )


def _value(name: str, metrics: Mapping[str, Any], test: errands.TestScore, wanted: VerificationOptions) -> Check:
    """Compare the metric of a model with several labels or numbers; one of numbers may differ by a share of itself."""
    known = metrics["test"].get("exported_value", metrics["test"].get("value"))
    value, metric = test.value, str(metrics.get("metric")).replace("_", " ")
    assert value is not None, "it was measured"
    far = type(known) not in (float, int) or not abs(known - value) <= wanted.tolerance * max(1.0, abs(value))
    if far:
        return _check(name, [f"{metric} {wording.figure(value)}; expected the recorded {known!r:.40} within {wanted.tolerance:g}"], "")
    found = f"{metric} {wording.figure(value)} on {wording.count(test.num_images, 'image')}, recorded {wording.figure(float(known))}"
    return _check(name, [], found)


def _apart(metrics: Mapping[str, Any]) -> str:
    """Say what the members of several sizes reached, each on images of its own size."""
    test = metrics["test"]
    if "exported_accuracy" not in test or not isinstance(test.get("accuracy"), float):
        return ""
    return f" through the exported model, which reduces images for its smaller members; {test['accuracy']:.4f} on images of their own size"


def recorded(bundle: Path) -> tuple[dict[str, Any], str]:
    """Read the metrics of a bundle; return {} and the reason if they cannot be read."""
    try:
        with manifest.open_file(bundle / METRICS) as file:
            found = json.loads(file.read(_MAX_METRICS_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{METRICS} cannot be read: {error}"
    return (found, "") if isinstance(found, dict) else ({}, f"{METRICS} does not hold metrics")


def _robustness(measured: errands.Verified, wanted: VerificationOptions, answered: errands.Answers) -> Iterator[Check]:
    if not measured.robust:
        why = f"{answered.metric} is undefined on these images" if wanted.is_robustness_wanted else "not requested"
        yield Check(name="robustness", outcome=Outcome.NOT_CHECKED, found=(why,))
        return
    split = "the test split" if measured.test is not None else "the probes, which are validation images that were used to choose the model"
    figures = f"clean {wording.figure(measured.clean)}, mean {wording.figure(mean(measured))}"
    named = "" if answered.kind is TargetKind.LABEL else f"{answered.metric.replace('_', ' ')} "
    measurement = f"on {wording.count(measured.num_images, 'image')} of {split}: {named}{figures}"
    if wanted.requirements is None:
        yield Check(name="robustness", outcome=Outcome.OK, found=(measurement,))
        return
    yield _check(
        "robustness",
        [f"{line}, {measurement}" for line in shortfalls(wanted.requirements, measured)],
        f"{measurement}; all requirements are met",
    )


def version_of(recorded: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the name and the number of the version that a bundle's metrics name; None if they name no valid version."""
    name, number = recorded.get("name"), recorded.get("version")
    if isinstance(name, str) and re.fullmatch(NAME, name) and type(number) is int and 0 < number < 2**31:
        return name, number
    return None


def record(url: str, named: tuple[str, int], test: errands.TestScore, *, tolerance: float, by: str) -> Check:
    """Record a reading of the test split with its version in a database, or return why it is not recorded.

    A reading of other images, or of a model with another accuracy, is not recorded. A database without versions is not changed.
    """
    try:
        return _record(url, named, test, tolerance, by)
    except TunerError as error:
        return unrecorded(str(error))


def unrecorded(why: str) -> Check:
    """Return a check that says why a reading was not recorded."""
    return Check(name=_READING_CHECK, outcome=Outcome.NOT_CHECKED, found=(f"not recorded: {why}",))


def _record(url: str, named: tuple[str, int], test: errands.TestScore, tolerance: float, by: str) -> Check:
    words = f"{named[0]} {named[1]}"
    if not storages.holds(url, VERSIONS.name):
        return unrecorded(f"{storages.shown(url)} holds no versions; name the database of {words} with --storage")
    storage = storages.open(url)
    try:
        studies.follow_renames(storage)
        named = storage.read(lambda connection: moved.current_name(connection, named[0])), named[1]
        words = f"{named[0]} {named[1]}"
        model = versions.find(storage, *named).model
        if test.value is not None:
            return unrecorded("readings of models with several labels or numbers are not stored")
        if (model.fingerprint, model.splits) != (test.fingerprint, test.splits):
            return unrecorded(f"the images here are not the test split of {words}")
        accuracy = model.metrics.get("test_accuracy")
        if accuracy is not None and abs(accuracy - test.accuracy) > tolerance:
            return unrecorded(f"this is not the model of {words} in {storages.shown(url)}, whose test accuracy is {accuracy:.4f}")
        content = NewReading(splits=test.splits, by=by, purpose="verify", accuracy=test.accuracy, num_images=test.num_images)
        reading = versions.record_reading(storage, *named, content)
    finally:
        storage.close()
    found = f"recorded; {words} has {wording.count(reading.ordinal, 'reading')} of its test split"
    warning = ("if you choose a model by this reading, that model has not been tested on unseen images",) if reading.ordinal > 1 else ()
    return Check(name=_READING_CHECK, outcome=Outcome.OK, found=(found, *warning))
