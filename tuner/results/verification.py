"""A bundle into what can be said of it: whole, signed, safe to load, as good as it says, and how it bears what cameras do to images."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tuner import errands, study_file, wording
from tuner.data_spec import PythonData, TfdsData
from tuner.errors import RequestError, SpecError, TrainingError
from tuner.results import bundle as bundles
from tuner.results import contents, demands, manifest, signing
from tuner.spec import StudySpec
from tuner.trust import keras_file
from tuner.workers import errand

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
class Wanted:
    """How far a bundle is verified."""

    #: public key that its signature is checked with
    key: Path | None
    #: what it must reach on images with something wrong
    demands: demands.Demands | None
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


def verify(bundle: Path, wanted: Wanted, *, tell: Callable[[str], None]) -> Report:
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
    reason = signing.refusal(bundle, key)
    return _check("signature", [f"{manifest.SIGNATURE} {reason}"] if reason else [], f"by the owner of {key}, of just these files")


def _safe(bundle: Path) -> Check:
    files = manifest.read(bundle).files
    wrong = [f"{problem.field} {problem.message}" for problem in contents.problems(bundle, files)]
    wrong += [f"{name} is missing" for name in (MODEL, CONFIG, METRICS, bundles.PREDICTIONS) if name not in files]
    if MODEL in files:
        wrong += [f"{MODEL}: {reason}" for reason in keras_file.problems(bundle / MODEL)]
    return _check(
        "safe loading", wrong, f"{MODEL} has layers of Keras and arrays of numbers, and nothing else; other formats are not loaded"
    )


def _spec(bundle: Path, wanted: Wanted) -> tuple[StudySpec | None, str]:
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


def _measure(bundle: Path, spec: StudySpec | None, wanted: Wanted, why: str) -> tuple[errands.Verified, str]:
    """What the model does; where data that no one asked for cannot be had, without them, and why."""
    try:
        return _ask(bundle, spec, wanted), why
    except RequestError as error:
        if spec is None or wanted.needs_data:
            raise
        return _ask(bundle, None, wanted), str(error)


def _ask(bundle: Path, spec: StudySpec | None, wanted: Wanted) -> errands.Verified:
    order = errands.Verify(
        model=str(bundle / MODEL),
        probes=str(bundle / bundles.PROBES),
        spec=None if spec is None else spec.model_dump_json(),
        cache=str(wanted.cache),
        is_robustness_wanted=wanted.is_robustness_wanted or wanted.demands is not None,
        most_images=wanted.most_images,
    )
    answer = errand.run(order)
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


def _metrics(bundle: Path, measured: errands.Verified, wanted: Wanted, why: str) -> Check:
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


def _robustness(measured: errands.Verified, wanted: Wanted) -> Iterator[Check]:
    if not measured.robust:
        yield Check(name="robustness", outcome=Outcome.NOT_CHECKED, found=("it was not asked for",))
        return
    split = "the test split" if measured.test is not None else "the probes, validation images that the model was chosen by"
    said = f"on {wording.count(measured.num_images, 'image')} of {split}: clean {measured.clean:.4f}, mean {demands.mean(measured):.4f}"
    if wanted.demands is None:
        yield Check(name="robustness", outcome=Outcome.OK, found=(said,))
        return
    yield _check(
        "robustness", [f"{line}, {said}" for line in demands.shortfalls(wanted.demands, measured)], f"{said}; all that is required"
    )
