"""A trial or a version into all that is known of it before it becomes a bundle, and that into the bundle's metrics.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from tuner import wording
from tuner.errors import RequestError
from tuner.protocol import messages
from tuner.results import export, statistics
from tuner.results.best import Best
from tuner.results.retrain.verdict import Verdict
from tuner.results.versions.versions import Version, WeightsSource
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.studies.study import Study
from tuner.views import details


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How a model did on the images of one class."""

    name: str
    num_images: int
    #: these three are None where they cannot be told
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model that a search found, and what is known of it."""

    #: for example "Trial 17 of the study animals"
    title: str
    #: one line that says what it is and how good
    headline: str
    #: the study that it was trained in, and one of fixed values that trains it again
    spec: StudySpec
    config: StudySpec
    hyperparameters: Hyperparameters
    #: what logits are divided by
    temperature: float
    #: what the trainer found when it loaded the data
    prepared: messages.Prepared
    curve: Sequence[messages.Epoch]
    #: images that confusion and figures by class are of: "validation" or "test"
    split: str
    #: rows true and columns predicted; () where it is not known
    confusion: Sequence[Sequence[int]]
    classes: Sequence[ClassFigures]
    #: the trial whose weights they are; of a soup the first of them
    best: Best
    #: name and number of the version; None: it is a trial
    version: tuple[str, int] | None = None
    #: what a retraining came to; None: the numbers are the search's own
    verdict: Verdict | None = None

    @property
    def test(self) -> tuple[float, int] | None:
        """Accuracy on the test split, and its images; None where it was not measured."""
        if self.verdict is not None:
            return self.verdict.test_accuracy, self.verdict.num_test
        return None if self.best.test_accuracy is None else (self.best.test_accuracy, self.best.num_test)

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Wilson's interval of it, at 95 %."""
        if self.test is None:
            return None
        accuracy, num = self.test
        return statistics.wilson(round(accuracy * num), num)

    @property
    def validation_accuracy(self) -> float | None:
        """None where the validation images were trained on."""
        return self.best.value if self.verdict is None else self.verdict.validation_accuracy


def of_trial(study: Study, best: Best) -> ModelFacts:
    """A trial with what the storage holds of it."""
    known = details.of_trial(study, best.trial)
    title = f"Trial {best.trial} of the study {study.name}"
    rank = "the best" if best.is_best else "one"
    return ModelFacts(
        title=title,
        headline=f"{title}, {rank} of {wording.count(best.num_completed, 'completed trial')}: validation accuracy {best.value:.4f}.",
        spec=best.spec,
        config=export.resolved(best),
        hyperparameters=best.hyperparameters,
        temperature=1.0,
        prepared=best.prepared,
        curve=known.curve,
        split="validation",
        confusion=known.confusion,
        classes=[
            ClassFigures(name=one.name, num_images=one.support, precision=one.precision, recall=one.recall, f1=one.f1)
            for one in known.scores
        ],
        best=best,
    )


def of_version(study: Study, best: Best, version: Version) -> ModelFacts:
    """A version: the trial that it was made of, in its study, with what was measured of it.

    Raises:
        RequestError: another version of tuner made it.
    """
    found, title = of_trial(study, best), f"Version {version.number} of {version.name}"
    try:
        kept = StudySpec.model_validate_json(json.dumps(version.kept.config))
        verdict = Verdict.model_validate(version.kept.metrics) if version.kept.origin is WeightsSource.RETRAINING else None
    except ValidationError as error:
        raise RequestError(f"{version.name} {version.number} was made by another version of tuner: {error.errors()[0]['msg']}") from error
    if verdict is None:
        headline = f"{title}: {found.headline[0].lower()}{found.headline[1:]}"
        return replace(found, title=title, headline=headline, config=kept, version=(version.name, version.number))
    low, high = verdict.test_interval
    tested = f"accuracy {verdict.test_accuracy:.4f} on {verdict.num_test:,} test images"
    return replace(
        found,
        title=title,
        headline=f"{title}: {tested}, 95 % interval {low:.4f} to {high:.4f}.",
        config=kept,
        temperature=verdict.calibration.temperature,
        split="test",
        confusion=verdict.confusion,
        classes=[ClassFigures(**one.model_dump()) for one in verdict.classes],
        version=(version.name, version.number),
        verdict=verdict,
    )


def caution(found: ModelFacts) -> str:
    """What the numbers are worth, in words."""
    best, verdict = found.best, found.verdict
    if verdict is not None:
        off = verdict.optimism
        which = "above" if off.too_high >= 0 else "below"
        return (
            f"The test accuracy is of {verdict.num_test:,} images that nothing was chosen by. "
            f"The search had ended with {off.search_value:.4f} on its validation images, {abs(off.too_high):.4f} {which} it."
        )
    if found.test is None:
        luck = f"the search's own: the highest of {wording.count(best.num_completed, 'trial')}" if best.is_best else "the search's own"
        return (
            f"The validation accuracy is {luck} on the images that chose it, so that new images will see less. "
            "No accuracy on unseen images was measured."
        )
    return (
        f"The test accuracy is of {found.test[1]:,} images that nothing was chosen by. "
        "The validation accuracy is the search's own, on the images that chose the winner, and too high by what luck gave it."
    )


def metrics(found: ModelFacts) -> dict[str, Any]:
    """What was measured, for programs."""
    best, prepared = found.best, found.prepared
    test = None if found.test is None else {"accuracy": found.test[0], "num_images": found.test[1], "interval": found.test_interval}
    by_class = {
        "confusion": [list(row) for row in found.confusion],
        "classes": [
            {"name": one.name, "num_images": one.num_images, "precision": one.precision, "recall": one.recall, "f1": one.f1}
            for one in found.classes
        ],
    }
    validation = {"accuracy": found.validation_accuracy, "num_images": prepared.num_validation}
    rule = None if best.rule_value is None else {"validation_accuracy": best.rule_value, "test_accuracy": best.rule_test_accuracy}
    return {
        "study": found.spec.name,
        "trial": best.trial,
        "name": None if found.version is None else found.version[0],
        "version": None if found.version is None else found.version[1],
        "note": caution(found),
        "validation": validation | (by_class if found.split == "validation" else {}),
        "test": None if test is None else test | (by_class if found.split == "test" else {}),
        "rule": rule if found.verdict is None else None,
        "retraining": None if found.verdict is None else found.verdict.model_dump(mode="json"),
        "temperature": found.temperature,
        "classes": list(prepared.classes),
        "images": {"train": prepared.num_train, "validation": prepared.num_validation, "test": prepared.num_test},
        "fingerprint": prepared.fingerprint,
        "splits": prepared.splits,
    }
