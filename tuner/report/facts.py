"""Facts of a report: its texts and figures, the same in every format."""

import copy
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from tuner import wording
from tuner.report import content as contents
from tuner.report import diagrams
from tuner.report.content import ReportContent
from tuner.results import best as bests
from tuner.results import statistics
from tuner.results.best import Best
from tuner.results.ensemble import CodeEnsemble, Ensemble
from tuner.results.retrain.verdict import JudgedConfig, Verdict
from tuner.results.versions import versions
from tuner.results.versions.versions import Version, VersionStage, WeightsSource
from tuner.sampling import suggestion
from tuner.spec import budget, hyperparameters, plan
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues, ProbeSolver, TrialValues
from tuner.spec.space import SpaceRow
from tuner.spec.study import StudySpec
from tuner.spec.tasks import OBJECTIVE
from tuner.storage import attributes
from tuner.storage.attributes import HYPERPARAMETERS, LEFT_OUT, MIGRATED, PREPARED, TEST
from tuner.studies import planning
from tuner.studies.study import Study
from tuner.tasks import task
from tuner.views import trial as views_trial
from tuner.views import trials as views_trials

#: fewest trials with a value for importances
MIN_TRIALS_FOR_IMPORTANCES = 20
#: rows in the table of the best trials
_MAX_RANKED = 12
#: share of the trials that importances compare with all trials, and the fewest of them
_BEST_SHARE, _MIN_BEST = 0.1, 5


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """A version of the study, in the table of versions."""

    number: int
    #: the trial or the retraining that the model comes from
    origin: str
    #: the metric of the study on both splits; None: not measured
    validation_value: float | None
    test_value: float | None
    #: 95 % interval of the test accuracy; "" if it was not measured
    interval: str
    #: how often the test split was read for it
    num_readings: int
    #: "" if it is in no stage
    stages: str
    #: seconds since the epoch by the database's clock
    at: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A version from a retraining, with its verdict."""

    number: int
    verdict: Verdict
    #: the verdict in sentences
    sentences: tuple[str, ...]
    #: role and result of each network
    networks: tuple[tuple[str, JudgedConfig], ...]


@dataclass(frozen=True, kw_only=True)
class RuleDifference:
    """A hyperparameter in which the best trial differs from the rule."""

    name: str
    rule: Any
    best: Any


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One of the best trials."""

    number: int
    value: float
    #: the metric of the study on the test split; None: not measured
    test_value: float | None
    origin: str
    epochs: int | None
    seconds: float | None
    #: the main hyperparameters in one line
    settings: str


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """Time and devices that the search used."""

    #: sum over all workers
    worker_seconds: float
    #: time in which at least one worker trained
    busy_seconds: float
    #: from the first attempt to the last
    span_seconds: float
    #: time of attempts that ended because the worker was lost
    lost_seconds: float
    num_attempts: int
    #: device and its number of trials, the most frequent device first
    devices: Sequence[tuple[str, int]]


def counts(content: ReportContent) -> dict[str, int]:
    """Return the number of trials in each state that occurs."""
    found = Counter(trial.state for trial in content.trials)
    return {label: found[state] for state, label in views_trial.STATES.items() if found[state]}


def planned(content: ReportContent) -> tuple[list[tuple[str, str]], Sequence[SpaceRow]]:
    """Return the plan and the search space in words, the searched hyperparameters first."""
    spec = content.study.spec
    known = content.attributes
    _, *rows = plan.of_study(spec, task.spec(spec.task), known.get(PREPARED), known.get(MIGRATED), known.get(LEFT_OUT))
    rows += planning.told(content.attributes, timeout=spec.budget.timeout, busy_seconds=cost(content).busy_seconds)
    space = sorted(task.spec(spec.task).rows(spec), key=lambda row: not row.is_searched)
    if not isinstance(spec, StudySpec):
        asked = [item for trial in content.trials for item in trial.distributions.items()]
        space += views_trials.space_of(asked, besides=[row.name for row in space])
    return rows, space


def best(content: ReportContent) -> Best | None:
    """Return the best trial with its scores; None if no trial has completed."""
    return None if content.best_trial is None else bests.best(content.study)


def changes(content: ReportContent, best: Best | None) -> list[RuleDifference]:
    """Return the hyperparameters in which the best trial differs from the rule."""
    if best is None or best.trial == 0 or best.spec.retraining is not None:
        return []
    rule = bests.rule(content.study)
    if rule is None:
        return []
    of_rule = wording.flatten(rule.model_dump(mode="json"))
    return [
        RuleDifference(name=name, rule=of_rule.get(name), best=value)
        for name, value in wording.flatten(best.of_images.model_dump(mode="json")).items()
        if of_rule.get(name) != value
    ]


def chosen(best: Best | None) -> Mapping[str, Any]:
    """Return the values of the best trial of user code, which has no rule to compare it with."""
    return {} if best is None or isinstance(best.spec, StudySpec) else hyperparameters.by_name(best.chosen)


def honesty(best: Best) -> list[str]:
    """Return sentences about how far the value of the best trial can be trusted."""
    if not isinstance(best.spec, StudySpec):
        return _of_code(best)
    if best.spec.num_folds > 1:
        return _of_folds(best)
    return _of_accuracy(best) if best.is_accuracy else _of_other_metric(best)


def _which(best: Best) -> str:
    """Say which value the best trial has: `1.25 is the lowest val_loss of 8 completed trials`."""
    superlative, name = "highest" if best.spec.objective.maximizes else "lowest", plan.metric(best.spec)
    spread = f", {best.spread}" if best.spread else ""
    return f"{wording.figure(best.value)} is the {superlative} {name} of {wording.count(best.num_completed, 'completed trial')}{spread}"


def _worse(best: Best) -> str:
    return "lower" if best.spec.objective.maximizes else "higher"


def _of_code(best: Best) -> list[str]:
    """Return how far to trust the value of a trial of user code."""
    if best.spec.task == OBJECTIVE:
        chosen = " If your code measures with chance, expect a slightly worse value from a repetition." if best.num_completed > 1 else ""
        return [f"{_which(best)}.{chosen}"]
    examples = f"{best.prepared.num_validation:,} validation examples" if best.prepared.num_validation else "validation data"
    choice = f"The search chose the trial by its {examples}, so expect a {_worse(best)} value on new data."
    if best.spec.num_folds > 1:
        return _of_folds(best)
    sentences = [f"{_which(best)}, each at its best epoch.", *([choice] if best.num_completed > 1 else [])]
    if best.ensemble_of_code is not None and best.is_best:
        sentences.append(_of_code_ensemble(best.ensemble_of_code))
    if best.test_value is None:
        return [*sentences, "The trial was not measured on a test split, so it is unknown by how much the value is too good."]
    num = f"{best.num_test:,} test examples" if best.num_test else "the test split"
    return [*sentences, f"On {num}, which the search did not use, the value is {wording.figure(best.test_value)}."]


def _of_code_ensemble(found: CodeEnsemble) -> str:
    """Return a sentence about the ensemble of user models."""
    assert found.value is not None
    assert found.best_member_value is not None
    single = f"of its best trial alone, measured in the same way, it is {wording.figure(found.best_member_value)}"
    test = "" if found.test_value is None else f"; on {found.num_test:,} test examples it is {wording.figure(found.test_value)}"
    return f"The value of the ensemble, the {found.words}, is {wording.figure(found.value)} on the validation data; {single}{test}."


def _of_folds(best: Best) -> list[str]:
    """Return how far to trust the value of a trial that is a mean over folds."""
    chosen = f" The search chose the trial by it, so expect a {_worse(best)} value on new data." if best.num_completed > 1 else ""
    final = f"tuner retrain {best.spec.name} trains the final one, and measures it on the test split."
    final = f"No model of the trial has seen all the data: {final}"
    return [f"{_which(best)}{'' if best.spread else ', a mean over folds'}.{chosen}", final]


def _of_other_metric(best: Best) -> list[str]:
    """Return how far to trust the value of an image classifier that is no accuracy, which has no exact interval."""
    images = f"{best.prepared.num_validation:,} validation images"
    sentences = [f"{_which(best)}, measured on {images}, each at its best epoch; expect a {_worse(best)} one on new images."]
    if best.baseline:
        sentences.append(f"For comparison, {best.baseline}.")
    if best.ensemble is not None and best.is_best:
        sentences.append(_of_ensemble(best.ensemble))
    name = best.spec.objective.metric.replace("_", " ")
    measured = [] if best.test_value is None else [f"the {name} is {wording.figure(best.test_value)}"]
    if best.test_accuracy is not None:
        low, high = statistics.accuracy_interval(best.test_accuracy, best.num_test)
        share = "share of exact matches" if best.is_several else "accuracy"
        measured.append(f"the {share} {best.test_accuracy:.4f} (95\u00a0% interval {low:.4f} to {high:.4f}, Wilson)")
    if not measured:
        return [*sentences, "The trial was not measured on test images, so it is unknown by how much the value is too good."]
    return [*sentences, f"On {best.num_test:,} test images, which the search did not use, {' and '.join(measured)}."]


def _of_accuracy(best: Best) -> list[str]:
    """Return how far to trust the accuracy of an image classifier."""
    sentences = []
    images = f"{best.prepared.num_validation:,} validation images"
    if best.num_completed > 1:
        sentences.append(
            f"{best.value:.4f} is the highest validation accuracy of {best.num_completed} completed trials, each at its best epoch. "
            f"The search chose the trial by these {images}, so the number is too high: expect a lower accuracy on new images."
        )
    else:
        sentences.append(f"{best.value:.4f} was measured on {images}, at the best epoch. Expect a slightly lower accuracy on new images.")
    if best.spread:
        sentences.append(f"It is {best.spread}.")
    if best.baseline:
        sentences.append(f"For comparison, {best.baseline}.")
    if best.ensemble is not None and best.is_best:
        sentences.append(_of_ensemble(best.ensemble))
    if best.test_accuracy is None:
        if best.num_test:
            sentences.append(
                f"The trial was not measured on the {best.num_test:,} test images, so it is unknown by how much the number is too high."
            )
        else:
            sentences.append("The study has no test split, so it is unknown by how much the number is too high.")
        return sentences
    low, high = statistics.accuracy_interval(best.test_accuracy, best.num_test)
    gap = best.value - best.test_accuracy
    interval = f"95\u00a0% interval {low:.4f} to {high:.4f}, Wilson"
    sentences.append(
        f"On {best.num_test:,} test images, which the search did not use, the accuracy is {best.test_accuracy:.4f} ({interval}). "
        f"The validation accuracy is {abs(gap):.4f} {'higher' if gap >= 0 else 'lower'}."
    )
    return sentences


def _of_ensemble(ensemble: Ensemble) -> str:
    """Return a sentence about the ensemble of the study."""
    found = (
        f"The ensemble, {ensemble.words}, reaches {_named(ensemble)}{ensemble.measured:.4f} on the validation images, by which it was "
        f"chosen, {ensemble.gain:+.4f} compared with its best trial, with {wording.count(ensemble.num_networks, 'pass')} through a network"
    )
    if ensemble.test_accuracy is None and ensemble.test_value is not None:
        return f"{found}; on {ensemble.num_test:,} test images it has {_named(ensemble)}{wording.figure(ensemble.test_value)}."
    if ensemble.test_accuracy is None:
        return f"{found}; it was not measured on test images."
    low, high = statistics.accuracy_interval(ensemble.test_accuracy, ensemble.num_test)
    share = "a share of exact matches" if ensemble.by_class else "an accuracy"
    of = "" if ensemble.test_value is None else f"{_named(ensemble)}{ensemble.test_value:.4f} and {share} of "
    interval = f"95\u00a0% interval {low:.4f} to {high:.4f}"
    return f"{found}; on {ensemble.num_test:,} test images it has {of}{ensemble.test_accuracy:.4f} ({interval})."


def _named(ensemble: Ensemble) -> str:
    """Return the metric of the ensemble in front of a value; "" for an accuracy."""
    return "" if ensemble.metric == "accuracy" else f"a {ensemble.metric.replace('_', ' ')} of "


def against_rule(best: Best) -> str:
    """Return a sentence about what the search gained over the rule; "" if the study has no rule."""
    if not isinstance(best.spec, StudySpec):
        return ""
    if best.spec.retraining is not None:
        return f"The trials of this study train configurations from the search {best.spec.retraining.study} again."
    if best.trial == 0:
        return "No trial was better than trial 0, the rule that needs no search."
    if best.rule_value is None:
        return "Trial 0, the rule that needs no search, has not completed, so there is no baseline."
    gained = wording.figure(abs(best.value - best.rule_value))
    if not best.is_accuracy:
        return f"The rule that needs no search (trial 0) reached {wording.figure(best.rule_value)}. The search gained {gained}."
    low, high = statistics.accuracy_interval(best.rule_value, best.num_validation)
    side = "above" if best.value > high else "inside"
    gain = f"The rule that needs no search (trial 0) reached {best.rule_value:.4f}. The search gained {best.value - best.rule_value:.4f}"
    return f"{gain}; the best value is {side} the 95\u00a0% interval of the rule ({low:.4f} to {high:.4f})."


def ranked(content: ReportContent) -> list[Ranked]:
    """Return the best completed trials."""
    completed = [trial for trial in content.valued if trial.state is TrialState.COMPLETE and attributes.INFEASIBLE not in trial.user_attrs]
    return [_ranked(trial) for trial in contents.ranked(completed, content.study.spec.objective)[:_MAX_RANKED]]


def _ranked(trial: FrozenTrial) -> Ranked:
    known = attributes.of_trial(trial.user_attrs)
    chosen, test = attributes.hyperparameters(trial.system_attrs.get(HYPERPARAMETERS)), known.get(TEST) or {}
    return Ranked(
        number=trial.number,
        value=contents.value(trial),
        test_value=test.get("value", test.get("accuracy")),
        origin=str(known.get("origin", "")),
        epochs=known.get("epochs"),
        seconds=known.get("seconds"),
        settings="" if chosen is None else _settings(chosen),
    )


def _settings(known: TrialValues) -> str:
    """Return the main hyperparameters in one line."""
    if isinstance(known, ChosenValues):
        return ", ".join(f"{name} {wording.value(value)}" for name, value in known.values.items())
    model = [known.backbone or "", "" if known.image_size is None else f"{known.image_size} pixels"]
    is_stepwise = known.probe_solver is ProbeSolver.SGD
    probe = f"probe {wording.value(known.probe_learning_rate) if is_stepwise else known.probe_solver.value}"
    parts = [*filter(None, model), known.optimizer.value, probe]
    if known.unfreeze > 0:
        parts += [f"rate {wording.value(known.learning_rate)}", f"unfreeze {wording.value(known.unfreeze)}"]
    parts += [f"head {wording.value(known.head_units)}", f"dropout {wording.value(known.dropout)}", f"batch {known.batch_size}"]
    return ", ".join(parts)


def cost(content: ReportContent) -> SearchCost:
    """Return the time and the devices that the search used."""
    spans = [(attempt.began, attempt.ended) for attempt in content.attempts]
    devices = Counter(str(trial.user_attrs["device"]) for trial in content.trials if "device" in trial.user_attrs)
    return SearchCost(
        worker_seconds=sum(ended - began for began, ended in spans),
        busy_seconds=budget.busy_seconds(spans),
        span_seconds=max(ended for _, ended in spans) - min(began for began, _ in spans) if spans else 0.0,
        lost_seconds=sum(attempt.ended - attempt.began for attempt in content.attempts if attempt.ending == "lost"),
        num_attempts=len(spans),
        devices=devices.most_common(),
    )


def study_text(content: ReportContent) -> str:
    """Return the study file."""
    return study_file.dump(content.study.spec)


def num_best(num_valued: int) -> int:
    """Return the number of best trials that importances compare with all trials."""
    return max(_MIN_BEST, -(-num_valued // round(1 / _BEST_SHARE)))


def importances(study: Study, valued: Sequence[FrozenTrial]) -> list[tuple[str, float]]:
    """Return each hyperparameter with its importance as a part of 1, the highest first; [] if there are too few trials.

    Optuna's PED-ANOVA measures how differently the best trials and all trials chose a hyperparameter. It supports hyperparameters
    that act only under conditions (arXiv 2304.10255, 2601.20800). A pruned trial counts with its value when it was pruned, since a
    pruned trial was not among the best.
    """
    if len(valued) < MIN_TRIALS_FOR_IMPORTANCES:
        return []
    # imports scikit-learn and pandas, which takes a second
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    reader = suggestion.open_study(
        study.id, study.name, study.storage.cached, [_completed(trial) for trial in valued], RandomSampler(seed=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a parameter of very few trials gets importance 0, which is right
        evaluator = PedAnovaImportanceEvaluator(target_quantile=num_best(len(valued)) / len(valued))
        found = get_param_importances(reader, evaluator=evaluator)
    summed: dict[str, float] = {}
    for name, part in found.items():
        parameter = diagrams.parameter(name, study.spec)
        summed[parameter] = summed.get(parameter, 0.0) + float(part)
    return sorted(summed.items(), key=lambda item: (-item[1], item[0]))


def _completed(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is TrialState.COMPLETE:
        return trial
    completed = copy.copy(trial)
    completed.state = TrialState.COMPLETE
    return completed


def version_rows(study: Study) -> tuple[list[VersionRow], Judged | None]:
    """Return the versions of a study, and the verdict on one from a retraining: the one in production, or the latest."""
    found = versions.all(study.storage, study.name)
    readings = Counter(reading.version for reading in versions.readings(study.storage, study.name)) if found else Counter[int]()
    return [_version_row(version, readings[version.number]) for version in found], _judged(found)


def _version_row(version: Version, num_readings: int) -> VersionRow:
    kept = version.model
    (validation, test), num = kept.scores, kept.metrics.get("num_test")
    accuracy = test if "value" not in kept.metrics else None
    retraining = kept.metrics.get("retraining") if kept.origin is WeightsSource.RETRAINING else None
    return VersionRow(
        number=version.number,
        origin=str(retraining or f"trial {kept.trial}"),
        validation_value=validation,
        test_value=test,
        interval="" if accuracy is None or not num else "{:.4f} to {:.4f}".format(*statistics.accuracy_interval(accuracy, num)),
        num_readings=num_readings,
        stages=wording.listed(stage.value for stage in version.stages),
        at=version.created_at,
        by=kept.created_by,
    )


def _judged(found: Sequence[Version]) -> Judged | None:
    retrained = [version for version in found if version.model.origin is WeightsSource.RETRAINING]
    if not retrained:
        return None
    chosen = next((version for version in retrained if VersionStage.PRODUCTION in version.stages), retrained[-1])
    try:
        verdict = Verdict.model_validate(chosen.model.metrics)
    except ValidationError:
        return None  # of a retraining of user code, which has figures of its own
    names = ["the version", *(comparison.against for comparison in verdict.comparisons)]
    networks = tuple(zip(names, verdict.networks, strict=False))
    return Judged(number=chosen.number, verdict=verdict, sentences=tuple(_sentences(verdict)), networks=networks)


def _sentences(verdict: Verdict) -> list[str]:
    low, high = verdict.test_interval
    interval = f"95\u00a0% interval {low:.4f} to {high:.4f}, Wilson"
    tested = f"On {verdict.num_test:,} test images, it reaches {verdict.test_accuracy:.4f} ({interval})"
    low, high = verdict.macro_f1_interval
    classes = f"mean F1 of the classes {verdict.macro_f1:.4f} ({low:.4f} to {high:.4f}, bootstrap)"
    sentences = [
        *verdict.choice,
        verdict.soup,
        f"{tested}; {classes}.",
        verdict.optimism.words,
        verdict.calibration.words,
        *(comparison.words for comparison in verdict.comparisons),
        *verdict.notes,
    ]
    return [sentence for sentence in sentences if sentence]
