"""Model facts: everything that a bundle says about its model, a trial or a version, and its metrics.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from tuner import wording
from tuner.errors import RequestError
from tuner.protocol import messages
from tuner.protocol.messages import LabelCounts
from tuner.results import export, statistics
from tuner.results.best import Best
from tuner.results.ensemble import Ensemble, Taught, value_words
from tuner.results.retrain.verdict import Verdict
from tuner.results.statistics import ClassFigures
from tuner.results.versions.versions import Version, WeightsSource
from tuner.spec import plan
from tuner.spec.hyperparameters import Hyperparameters, TargetKind
from tuner.spec.study import StudySpec
from tuner.storage.epochs import EpochRow
from tuner.studies.study import Study
from tuner.views import trial as trials


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model with its origin and its measurements."""

    #: for example "Trial 17 of the study animals"
    title: str
    #: one line with its origin and its accuracy
    headline: str
    #: the study that it was trained in, and a study with fixed values that trains it again
    spec: StudySpec
    config: StudySpec
    hyperparameters: Hyperparameters
    #: temperature of the probabilities
    temperature: float
    #: the trainer's answer after it loaded the data
    prepared: messages.Prepared
    curve: Sequence[EpochRow]
    #: split of the confusion matrix and of the figures of classes: "validation" or "test"
    split: str
    #: rows are true classes, columns are predicted classes; () if unknown
    confusion: Sequence[Sequence[int]]
    classes: Sequence[ClassFigures]
    #: the trial of the weights; of a soup, its first trial
    best: Best
    #: name and number of the version; None for a trial
    version: tuple[str, int] | None = None
    #: verdict of the retraining; None if the search measured the accuracy
    verdict: Verdict | None = None
    #: the ensemble whose probabilities the model returns, and its members, the best first; None and () for one network
    ensemble: Ensemble | None = None
    members: tuple[Best, ...] = ()
    #: the network that the ensemble taught; None if it was not taught
    taught: Taught | None = None
    #: how the answers about each class fare on the validation images, if an image may have several labels
    by_class: Sequence[LabelCounts] = ()

    @property
    def kind(self) -> TargetKind:
        """What the model was taught of each image."""
        return self.spec.data.kind

    @property
    def value(self) -> float:
        """The metric of the study on the validation images."""
        measured = self.ensemble or self.taught
        return self.best.value if measured is None else measured.measured

    @property
    def test_value(self) -> float | None:
        """The metric of the study on the test split; None if it was not measured."""
        measured = self.ensemble or self.taught
        return self.best.test_value if measured is None else measured.test_value

    @property
    def networks(self) -> list[tuple[StudySpec, Hyperparameters]]:
        """The study and the hyperparameters of each network."""
        if not self.members:
            return [(self.spec, self.hyperparameters)] * len(self.ensemble_seeds or (0,))
        # `spec` has the place of the images on this machine, and the model of the best member
        of_study = [self.spec.model_copy(update={"model": member.images.model}) for member in self.members]
        return [(spec.of_trial(member.of_images), member.of_images) for spec, member in zip(of_study, self.members, strict=True)]

    @property
    def ensemble_seeds(self) -> tuple[int, ...]:
        """Seeds of the trainings of a version that is an ensemble of one configuration; () for another model."""
        chosen = None if self.verdict is None else self.verdict.networks[0]
        return chosen.chosen_seeds if chosen is not None and chosen.is_ensemble else ()

    @property
    def has_several_sizes(self) -> bool:
        """Whether its networks take images of several sizes, so that the model reduces the image for the smaller ones."""
        return len({spec.model.image_size for spec, _ in self.networks}) > 1

    @property
    def mirrored(self) -> bool:
        """Whether the model averages each image with its mirror image."""
        if self.verdict is not None:
            return self.verdict.networks[0].mirrored
        return self.ensemble is not None and self.ensemble.mirrored

    @property
    def test(self) -> tuple[float, int] | None:
        """Accuracy on the test split and the number of its images; None if it was not measured."""
        if self.verdict is not None:
            return self.verdict.test_accuracy, self.verdict.num_test
        measured = self.ensemble or self.taught
        if measured is not None:
            return None if measured.test_accuracy is None else (measured.test_accuracy, measured.num_test)
        return None if self.best.test_accuracy is None else (self.best.test_accuracy, self.best.num_test)

    @property
    def has_value_only(self) -> bool:
        """Whether a metric of several labels or numbers was measured on the test split."""
        return self.kind is not TargetKind.LABEL and self.test_value is not None

    @property
    def num_test(self) -> int:
        """Number of images of the test split, whether it was measured or not."""
        return self.best.num_test

    @property
    def test_interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the test accuracy."""
        if self.test is None:
            return None
        return statistics.accuracy_interval(*self.test)

    @property
    def validation_accuracy(self) -> float | None:
        """Validation accuracy; None if it was trained on the validation images."""
        measured = self.ensemble or self.taught
        if measured is not None:
            return measured.validation_accuracy
        return self.best.validation_accuracy if self.verdict is None else self.verdict.validation_accuracy


def of_trial(study: Study, best: Best) -> ModelFacts:
    """Return the facts of a trial."""
    known = trials.load(study, best.trial)
    title = f"Trial {best.trial} of the study {study.name}"
    return ModelFacts(
        title=title,
        headline=f"{title}, {best.standing}: {plan.metric(best.spec)} {best.value:.4f}.",
        spec=best.images.of_trial(best.of_images),
        config=export.resolved_images(best),
        hyperparameters=best.of_images,
        temperature=1.0,
        prepared=best.prepared,
        curve=known.epochs,
        split="validation",
        confusion=known.confusion,
        classes=_classes(known.confusion, known.by_class, best.prepared.classes),
        by_class=known.by_class,
        best=best,
    )


def _classes(confusion: Sequence[Sequence[int]], counts: Sequence[LabelCounts], names: Sequence[str]) -> Sequence[ClassFigures]:
    """Return the figures of each class; () if they are unknown, or an image has a number."""
    if len(counts) == len(names):
        return statistics.of_labels(counts, names)
    return statistics.by_class(confusion, names) if len(confusion) == len(names) else ()


def of_ensemble(study: Study, ensemble: Ensemble, members: Sequence[Best]) -> ModelFacts:
    """Return the facts of an ensemble of trials, the best first; its study file is that of its best trial at the largest image size."""
    lead = max(members, key=lambda member: member.images.of_trial(member.of_images).model.of_trial().image_size)
    found, title = of_trial(study, lead), f"Ensemble of the study {study.name}"
    configs = {str(member.trial): member.of_images.model_dump(mode="json") for member in members}
    result = ensemble.model_dump(mode="json", exclude={"confusion"}, exclude_none=True) | {"hyperparameters": configs}
    classes = lead.prepared.classes
    return replace(
        found,
        title=title,
        headline=f"{title}, {ensemble.words}: {value_words(ensemble)}.",
        config=found.config.model_copy(update={"result": {**(found.config.result or {}), "ensemble": result}}),
        confusion=ensemble.confusion,
        classes=_classes(ensemble.confusion, ensemble.by_class, classes),
        by_class=ensemble.by_class,
        ensemble=ensemble,
        members=tuple(members),
    )


def of_taught(study: Study, taught: Taught, best: Best) -> ModelFacts:
    """Return the facts of the network that the ensemble taught; `best` is the trial with its form."""
    found, title = of_trial(study, best), f"Network of the study {study.name}, taught by its ensemble"
    result = taught.model_dump(mode="json", exclude={"confusion", "weights"}, exclude_none=True)
    classes = best.prepared.classes
    return replace(
        found,
        title=title,
        headline=f"{title} of {wording.count(len(taught.trials), 'trial')}: {value_words(taught)}.",
        hyperparameters=taught.hyperparameters,
        config=found.config.model_copy(update={"result": {**(found.config.result or {}), "taught": result}}),
        curve=(),
        confusion=taught.confusion,
        classes=_classes(taught.confusion, taught.by_class, classes),
        by_class=taught.by_class,
        taught=taught,
    )


def of_version(study: Study, best: Best, version: Version) -> ModelFacts:
    """Return the facts of a version; `best` is the trial that it was made from.

    Raises:
        RequestError: the version was made by an incompatible version of tuner.
    """
    found, title = of_trial(study, best), f"Version {version.number} of {version.name}"
    try:
        config = StudySpec.model_validate_json(json.dumps(version.model.config))
        verdict = Verdict.model_validate(version.model.metrics) if version.model.origin is WeightsSource.RETRAINING else None
    except ValidationError as error:
        raise RequestError(
            f"{version.name} {version.number} was made by an incompatible version of tuner: {error.errors()[0]['msg']}"
        ) from error
    if verdict is None:
        headline = f"{title}: {found.headline[0].lower()}{found.headline[1:]}"
        return replace(found, title=title, headline=headline, config=config, version=(version.name, version.number))
    low, high = verdict.test_interval
    tested = f"accuracy {verdict.test_accuracy:.4f} on {verdict.num_test:,} test images"
    return replace(
        found,
        title=title,
        headline=f"{title}: {tested}, 95 % interval {low:.4f} to {high:.4f}.",
        config=config,
        temperature=verdict.calibration.temperature,
        split="test",
        confusion=verdict.confusion,
        classes=verdict.classes,
        version=(version.name, version.number),
        verdict=verdict,
    )


def caution(facts: ModelFacts) -> str:
    """Return sentences on how reliable the accuracies are."""
    best, verdict, chosen_by = facts.best, facts.verdict, plan.metric(facts.best.spec)
    too = "high" if best.spec.objective.maximizes else "low"
    if verdict is not None:
        off = verdict.optimism
        which = "above" if off.too_high >= 0 else "below"
        return (
            f"The test accuracy was measured on {verdict.num_test:,} images that were not used for any choice. "
            f"The search ended with {off.search_value:.4f} on its validation images, {abs(off.too_high):.4f} {which} it."
        )
    name = "accuracy" if facts.kind is TargetKind.LABEL else facts.spec.objective.metric.replace("_", " ")
    answers = "numbers" if facts.kind is TargetKind.NUMBER else "probabilities"
    num_tested = facts.num_test if facts.has_value_only else None if facts.test is None else facts.test[1]
    if facts.taught is not None:
        on_test = "was not measured" if num_tested is None else f"was measured once on {num_tested:,} images that chose nothing"
        return (
            f"One network learned the mean {answers} of trials {wording.listed(facts.taught.trials)} on augmented training images. "
            f"Its {chosen_by} chose between it and the best trial, so it may be a little too {too}. The test {name} {on_test}."
        )
    if facts.ensemble is not None:
        on_test = "was not measured" if num_tested is None else f"was measured once on {num_tested:,} images that chose nothing"
        return (
            f"The model is an ensemble: it returns the mean {answers} of {facts.ensemble.words}. "
            f"The {chosen_by} is a little too {too}, because its members were chosen by it. The test {name} {on_test}."
        )
    if num_tested is None:
        origin = f"the {too}est of {wording.count(best.num_completed, 'trial')}" if best.is_best else "that of one trial"
        expected = "lower" if too == "high" else "higher"
        return (
            f"The {chosen_by} is {origin} on the images by which it was chosen, so expect a {expected} one on new images. "
            f"The {name} on unseen images was not measured."
        )
    return (
        f"The test {name} was measured on {num_tested:,} images that were not used for any choice. "
        f"The {chosen_by} is too {too}, because the trial was chosen by it."
    )


def metrics(facts: ModelFacts, *, exported_accuracy: float | None = None, exported_value: float | None = None) -> dict[str, Any]:
    """Return the contents of metrics.json; `exported_accuracy` is the test accuracy through the exported model, if it was measured.

    `exported_value` is the metric of the study, if an image has several labels or a number.
    """
    best, prepared = facts.best, facts.prepared
    test = None if facts.test is None else {"accuracy": facts.test[0], "num_images": facts.test[1], "interval": facts.test_interval}
    if test is not None and exported_accuracy is not None:
        test["exported_accuracy"] = exported_accuracy
    by_class: dict[str, Any] = {"classes": [one.model_dump() for one in facts.classes]}
    if facts.kind is TargetKind.LABEL:
        by_class = {"confusion": [list(row) for row in facts.confusion], **by_class}
    validation: dict[str, Any] = {"accuracy": facts.validation_accuracy, "num_images": prepared.num_validation}
    if facts.kind is not TargetKind.LABEL:
        validation |= {"value": facts.value}
        test = None if facts.test_value is None else {**(test or {"num_images": facts.num_test}), "value": facts.test_value}
        if test is not None and exported_value is not None:
            test["exported_value"] = exported_value
    rule = None if best.rule_value is None else export.rule_scores(best)
    return {
        "study": facts.spec.name,
        "trial": best.trial,
        "name": None if facts.version is None else facts.version[0],
        "version": None if facts.version is None else facts.version[1],
        "note": caution(facts),
        "validation": validation | (by_class if facts.split == "validation" else {}),
        "test": None if test is None else test | (by_class if facts.split == "test" else {}),
        "rule": rule if facts.verdict is None else None,
        "ensemble": None if facts.ensemble is None else facts.ensemble.model_dump(mode="json", exclude={"confusion"}),
        "taught": None if facts.taught is None else facts.taught.model_dump(mode="json", exclude={"confusion", "weights"}),
        "retraining": None if facts.verdict is None else facts.verdict.model_dump(mode="json"),
        "mirrored": facts.mirrored,
        "temperature": facts.temperature,
        "classes": list(prepared.classes),
        "images": {"train": prepared.num_train, "validation": prepared.num_validation, "test": prepared.num_test},
        "fingerprint": prepared.fingerprint,
        "splits": prepared.splits,
        "value_range": prepared.value_range,
    } | _of_target(facts)


def _of_target(facts: ModelFacts) -> dict[str, Any]:
    """Return what the outputs of the model mean, if an image has several labels or a number."""
    if facts.kind is TargetKind.LABEL:
        return {}
    always = facts.prepared
    constant = {"answer": always.always, "validation": always.baseline_validation, "test": always.baseline_test}
    thresholds = [each.threshold for each in facts.by_class]
    return {
        "target": facts.kind.value,
        "metric": facts.spec.objective.metric,
        "without_a_look": constant,
        **({"thresholds": thresholds} if facts.kind is TargetKind.LABELS else {}),
    }
