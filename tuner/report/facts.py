"""The versions that were kept of a study into what its report says of them.

What is known of a study into the words and figures of its report, the same for every format.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuner import wording
from tuner.report import coordinates
from tuner.report.content import Material
from tuner.results import best as bests
from tuner.results import statistics
from tuner.results.best import Best
from tuner.results.retrain.verdict import JudgedConfig, Verdict
from tuner.results.versions import versions
from tuner.results.versions.versions import Version, VersionStage, WeightsSource
from tuner.spec import budget, plan, space
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.space import SpaceRow
from tuner.storage.attributes import HYPERPARAMETERS, MIGRATED
from tuner.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """A version in a row."""

    number: int
    #: the trial, or the retraining, that it comes from
    origin: str
    validation_accuracy: float | None
    test_accuracy: float | None
    #: 95 % interval of the latter; "" where it is not measured
    interval: str
    #: looks at the test split
    num_readings: int
    #: "" if it is in none
    stages: str
    #: seconds since the epoch by the database's clock
    at: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A version that a retraining made, with its verdict."""

    number: int
    verdict: Verdict
    #: what to make of it, in sentences
    said: tuple[str, ...]
    #: what each network is, and the network
    networks: tuple[tuple[str, JudgedConfig], ...]


def rows(study: Study) -> tuple[list[VersionRow], Judged | None]:
    """The versions of a study that are there, and the verdict on the one in production, else on the latest that a retraining made."""
    found = [version for version in versions.all(study.storage, study.name) if version.model.study == study.name]
    looks = Counter(reading.version for reading in versions.readings(study.storage, study.name)) if found else Counter[int]()
    return [_row(version, looks[version.number]) for version in found], _judged(found)


def _row(version: Version, num_readings: int) -> VersionRow:
    kept = version.model
    accuracy, num = kept.metrics.get("test_accuracy"), kept.metrics.get("num_test")
    again = kept.metrics.get("retraining") if kept.origin is WeightsSource.RETRAINING else None
    return VersionRow(
        number=version.number,
        origin=str(again or f"trial {kept.trial}"),
        validation_accuracy=kept.metrics.get("validation_accuracy"),
        test_accuracy=accuracy,
        interval="" if accuracy is None or not num else "{:.4f} to {:.4f}".format(*statistics.accuracy_interval(accuracy, num)),
        num_readings=num_readings,
        stages=wording.listed(stage.value for stage in version.stages),
        at=version.created_at,
        by=kept.created_by,
    )


def _judged(found: Sequence[Version]) -> Judged | None:
    again = [version for version in found if version.model.origin is WeightsSource.RETRAINING]
    if not again:
        return None
    chosen = next((version for version in again if VersionStage.PRODUCTION in version.stages), again[-1])
    verdict = Verdict.model_validate(chosen.model.metrics)
    names = ["the version", *(comparison.against for comparison in verdict.comparisons)]
    return Judged(
        number=chosen.number, verdict=verdict, said=tuple(_said(verdict)), networks=tuple(zip(names, verdict.networks, strict=False))
    )


def _said(verdict: Verdict) -> list[str]:
    low, high = verdict.test_interval
    interval = f"95\u00a0% interval {low:.4f} to {high:.4f}, Wilson"
    tested = f"On {verdict.num_test:,} test images it reaches {verdict.test_accuracy:.4f} ({interval})"
    low, high = verdict.macro_f1_interval
    classes = f"mean F1 of the classes {verdict.macro_f1:.4f} ({low:.4f} to {high:.4f}, bootstrap)"
    said = [
        *verdict.choice,
        verdict.soup,
        f"{tested}; {classes}.",
        verdict.optimism.words,
        verdict.calibration.words,
        *(comparison.words for comparison in verdict.comparisons),
        *verdict.notes,
    ]
    return [sentence for sentence in said if sentence]


#: trials in the table of the best
_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class RuleDifference:
    """A hyperparameter of the winner that is not the rule's."""

    name: str
    rule: Any
    winner: Any


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One of the best trials."""

    number: int
    value: float
    test_accuracy: float | None
    origin: str
    epochs: int | None
    seconds: float | None
    #: what it was given, in a line
    settings: str


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What the search took."""

    #: of all workers
    worker_seconds: float
    #: in which some worker was at work
    busy_seconds: float
    #: from the first attempt to the last
    span_seconds: float
    #: of attempts whose worker was lost
    lost_seconds: float
    num_attempts: int
    #: device and how many trials it trained, the most frequent first
    devices: Sequence[tuple[str, int]]


def counts(material: Material) -> dict[str, int]:
    """Trials by their state in words, those states that there are."""
    found = Counter(trial.state for trial in material.trials)
    return {words: found[state] for state, words in _STATES.items() if found[state]}


_STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def planned(material: Material) -> tuple[list[tuple[str, str]], list[SpaceRow]]:
    """The plan and the search space in words, what is searched first."""
    spec, prepared = material.study.spec, material.prepared
    rows = space.rows(spec)
    epochs = spec.training.epochs if isinstance(spec.training.epochs, int) else prepared.epochs if prepared else None
    found = plan.facts(spec, epochs, sum(row.is_searched for row in rows))[1:]
    if prepared is not None:
        images = (
            f"{prepared.num_train:,} to train on, {prepared.num_validation:,} that choose the winner, {prepared.num_test:,} that score it"
        )
        found.insert(0, ("images", f"{spec.data.source}: {images}; {wording.count(len(prepared.classes), 'class')}"))
    migrated = material.attributes.get(MIGRATED)
    if isinstance(migrated, dict):
        found.append(("carried over", plan.carried(migrated)))
    return found, sorted(rows, key=lambda row: not row.is_searched)


def winner(material: Material) -> Best | None:
    """The best trial with what is known of it; None while none has completed."""
    return None if material.winner is None else bests.best(material.study)


def changes(material: Material, best: Best | None) -> list[RuleDifference]:
    """The hyperparameters of the winner that are not the rule's."""
    if best is None or best.trial == 0 or best.spec.retraining is not None:
        return []
    rule = bests.rule(material.study)
    if rule is None:
        return []
    theirs = wording.flatten(rule.model_dump(mode="json"))
    return [
        RuleDifference(name=name, rule=theirs.get(name), winner=value)
        for name, value in wording.flatten(best.hyperparameters.model_dump(mode="json")).items()
        if theirs.get(name) != value
    ]


def honesty(best: Best) -> list[str]:
    """How far the winner's number can be trusted, in sentences."""
    said = []
    images = f"{best.prepared.num_validation:,} validation images"
    if best.num_completed > 1:
        chosen = f"It is the highest of {best.num_completed} completed trials, measured on the {images} that it was chosen by"
        said.append(f"{chosen}, each at its best epoch: the luckiest number of the search, so expect less of it on new images.")
    else:
        said.append(f"It was measured on {images}, at the best epoch by them: expect a little less of it on new images.")
    if best.test_accuracy is None:
        if best.num_test:
            said.append(
                f"The test split of {best.num_test:,} images was not read for it, so how much too high it is has not been measured."
            )
        else:
            said.append("The study has no test split, so how much too high it is cannot be measured.")
        return said
    low, high = statistics.accuracy_interval(best.test_accuracy, best.num_test)
    gap = best.value - best.test_accuracy
    measured = f"On {best.num_test:,} test images, by which nothing was chosen, it is {best.test_accuracy:.4f}"
    interval = f"95\u00a0% interval {low:.4f} to {high:.4f}, Wilson"
    said.append(f"{measured} ({interval}): the search's number is {abs(gap):.4f} {'higher' if gap >= 0 else 'lower'}.")
    return said


def against_rule(best: Best) -> str:
    """What the search gained over the recipe that needs none."""
    if best.spec.retraining is not None:
        return f"Its trials are trainings of configs that another search found: that of {best.spec.retraining.study}."
    if best.trial == 0:
        return "Trial 0, the rule that needs no search, was not beaten."
    if best.rule_value is None:
        return "Trial 0, the rule that needs no search, has not completed, so there is nothing to hold the winner against."
    low, high = statistics.accuracy_interval(best.rule_value, best.prepared.num_validation)
    beyond = "above" if best.value > high else "inside"
    gain = f"The rule that needs no search (trial 0) reached {best.rule_value:.4f}: the search gained {best.value - best.rule_value:.4f}"
    return f"{gain}, which is {beyond} the 95\u00a0% interval of the rule's own number ({low:.4f} to {high:.4f})."


def ranked(material: Material) -> list[Ranked]:
    """The best completed trials."""
    completed = [trial for trial in material.valued if trial.state is TrialState.COMPLETE]
    chosen = sorted(completed, key=lambda trial: (-coordinates.value(trial), trial.number))[:_LISTED]
    return [_ranked(trial) for trial in chosen]


def cost(material: Material) -> SearchCost:
    """What the search took."""
    spans = [(attempt.began, attempt.ended) for attempt in material.attempts]
    devices = Counter(str(trial.user_attrs["device"]) for trial in material.trials if "device" in trial.user_attrs)
    return SearchCost(
        worker_seconds=sum(ended - began for began, ended in spans),
        busy_seconds=budget.busy_seconds(spans),
        span_seconds=max(ended for _, ended in spans) - min(began for began, _ in spans) if spans else 0.0,
        lost_seconds=sum(attempt.ended - attempt.began for attempt in material.attempts if attempt.ending == "lost"),
        num_attempts=len(spans),
        devices=devices.most_common(),
    )


def study_text(material: Material) -> str:
    """The study file that the search is of."""
    return study_file.dump(material.study.spec)


def _ranked(trial: FrozenTrial) -> Ranked:
    known = trial.user_attrs
    stored = trial.system_attrs.get(HYPERPARAMETERS)
    return Ranked(
        number=trial.number,
        value=coordinates.value(trial),
        test_accuracy=(known.get("test") or {}).get("accuracy"),
        origin=str(known.get("origin", "")),
        epochs=known.get("epochs"),
        seconds=known.get("seconds"),
        settings="" if stored is None else _settings(stored),
    )


def _settings(stored: Mapping[str, Any]) -> str:
    """The hyperparameters that people ask for first, in a line."""
    known = Hyperparameters.model_validate(stored)
    parts = [known.optimizer.value, f"probe {wording.value(known.probe_learning_rate)}"]
    if known.unfreeze > 0:
        parts += [f"rate {wording.value(known.learning_rate)}", f"unfreeze {wording.value(known.unfreeze)}"]
    parts += [f"head {wording.value(known.head_units)}", f"dropout {wording.value(known.dropout)}", f"batch {known.batch_size}"]
    return ", ".join(parts)
