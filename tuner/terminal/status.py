"""Screens of `tuner status` and `tuner best`, and the one that ends `tuner run`."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.results import statistics
from tuner.results.best import Best
from tuner.results.ensemble import CodeEnsemble, Ensemble
from tuner.spec import hyperparameters as values
from tuner.spec import plan as plans
from tuner.spec.study import AnyStudySpec
from tuner.terminal import live, printing
from tuner.views.status import FailedTrials, Snapshot


def studies_table(found: Sequence[tuple[AnyStudySpec, Snapshot]]) -> RenderableType:
    """Show one row for each study."""
    rows = printing.table("study", "state", "trials", "running", "best", "metric", "time", right=("trials", "running", "best"))
    for spec, snapshot in found:
        most = spec.budget.trials
        trials = f"{snapshot.num_spent} of {most}" if most else str(snapshot.num_ended)
        seconds = wording.duration(snapshot.busy_seconds)
        best, metric = wording.figure(snapshot.best_value), spec.objective.metric + ("" if spec.objective.maximizes else ", minimized")
        rows.add_row(spec.name, _state(snapshot), trials, str(len(snapshot.running)), best, metric, seconds)
    return rows


def study(spec: AnyStudySpec, snapshot: Snapshot) -> RenderableType:
    """Show the state of one study."""
    parts: list[RenderableType] = [
        Text.assemble((spec.name, "strong"), ("  " + plans.budget(spec), "quiet")),
        *(Text(line, style="quiet") for line in plans.retraining(spec)),
        live.trial_counts(snapshot),
        *live.time_plan(snapshot),
    ]
    if snapshot.best_value is not None:
        parts += [Text(""), live.best_trial(spec, snapshot)]
    if snapshot.running:
        parts += [Text(""), live.running_trials(spec, snapshot.running)]
    if snapshot.left_out:
        parts += [Text(""), *(Text(f"left out: {text}", style="quiet") for text in snapshot.left_out)]
    parts += [Text(""), Text(_progress(snapshot), style="quiet")]
    return Group(*parts)


def best_trial(found: Best) -> RenderableType:
    """Show the best trial of a study."""
    measured = plans.metric(found.spec)
    lines = Text.assemble((found.spec.name, "strong"), f"  trial {found.trial}, {measured} ", (wording.figure(found.value), "bold green"))
    if found.spread:
        lines.append(f"\n{found.spread}")
    if found.test_value is not None and not found.is_accuracy:
        lines.append(f"\n{found.spec.objective.metric} on {found.num_test:,} test examples {wording.figure(found.test_value)}")
    if found.test_accuracy is not None:
        low, high = statistics.accuracy_interval(found.test_accuracy, found.num_test)
        name = "test accuracy" if not found.is_several else "exact matches on the test split"
        lines.append(f"\n{name} {found.test_accuracy:.4f} on {found.num_test:,} images, 95 % interval {low:.3f} to {high:.3f}")
    for name, cost in found.costs.items():
        limit = found.spec.limits.get(name)
        lines.append(f"\n{name} {wording.number(cost)}" + ("" if limit is None else f", at most {wording.number(limit)}"))
    if found.exceeds:
        lines.append(f"\nexceeds a constraint of the study: {found.exceeds}", style="bad")
    shown = [lines, *(ensemble(found.ensemble) if found.ensemble is not None and found.is_best else [])]
    if found.ensemble_of_code is not None and found.is_best:
        shown += ensemble_of_code(found.ensemble_of_code, found.spec.objective.metric)
    if baseline := found.baseline:
        shown.append(Text(baseline, style="quiet"))
    if found.rule_value is not None and found.trial != 0:
        shown.append(Text(f"trial 0 (the rule, without search): {wording.figure(found.rule_value)}", style="quiet"))
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="quiet", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in values.by_name(found.chosen).items():
        rows.add_row(name, wording.value(value))
    return Group(*shown, Text(""), rows)


def as_json(spec: AnyStudySpec, snapshot: Snapshot) -> dict[str, Any]:
    """Return the state of a study for JSON."""
    return {
        "study": spec.name,
        "task": spec.task,
        "objective": {"metric": spec.objective.metric, "direction": spec.objective.aim.value},
        "budget": spec.budget.model_dump(mode="json"),
        **dataclasses.asdict(snapshot),
        "running": [dataclasses.asdict(running) for running in snapshot.running],
    }


def _state(snapshot: Snapshot) -> str:
    if snapshot.running:
        return "running"
    return "done" if snapshot.stop_reason and not snapshot.num_waiting else "idle"


def _progress(snapshot: Snapshot) -> str:
    if snapshot.stop_reason and not snapshot.running and not snapshot.num_waiting:
        return f"It ended because {str(snapshot.stop_reason).rstrip('.')}."
    waiting = f"{wording.count(snapshot.num_waiting, 'trial')} to resume; " if snapshot.num_waiting else ""
    if snapshot.eta_seconds is None:
        return f"{waiting}{wording.duration(snapshot.busy_seconds)} of training so far"
    return f"{waiting}{wording.duration(snapshot.busy_seconds)} of training so far, about {wording.duration(snapshot.eta_seconds)} left"


def failures(failed: Sequence[FailedTrials]) -> RenderableType:
    """Show the failures of a study by kind, each with the message of its latest trial."""
    parts: list[RenderableType] = []
    for each in failed:
        trials = f"  {wording.count(each.num_trials, 'trial')}, the last is trial {each.last_number}"
        parts.append(Text.assemble((each.error or "unknown reason", "bad"), (trials, "quiet")))
        parts.append(Padding(Text(wording.visible_lines(each.message), overflow="fold"), (0, 0, 0, 2)))
    return printing.section("Failures", *parts)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The best trial of a run, and the trials for comparison."""

    trial: int
    value: float
    #: hyperparameters that differ from trial 0: name, value of trial 0, value of the best trial
    changes: Sequence[tuple[str, object, object]]
    #: value of trial 0; None: it has none
    rule_value: float | None
    #: accuracy on the test split; None: not measured
    test_accuracy: float | None
    num_test: int
    #: what "always the commonest class" scores; "" if unknown
    baseline: str = ""
    #: the ensemble of the study; None if it has none
    ensemble: Ensemble | None = None
    #: the same for a study of user models
    ensemble_of_code: CodeEnsemble | None = None
    #: name of the metric
    metric: str = "validation accuracy"
    #: whether a higher value is better
    maximizes: bool = True
    #: the metric on the test split, if it is no accuracy; None: not measured
    test_value: float | None = None
    #: what the accuracy is called
    accuracy: str = "accuracy"
    #: values of the best trial by name, if the task has no rule to compare it with
    chosen: Mapping[str, object] | None = None


def result(best: RunResult, num_completed: int) -> RenderableType:
    """Show the best value, its test accuracy, and what the search changed."""
    parts = [_figure("best", best.value, f"{best.metric}, trial {best.trial}")]
    if best.test_value is None:
        parts += _test(best.test_accuracy, best.num_test)
    else:
        parts.append(_test_value(best.test_value, best.metric, best.num_test, best.test_accuracy, best.accuracy))
    if best.ensemble is not None:
        parts += ensemble(best.ensemble)
    if best.ensemble_of_code is not None:
        parts += ensemble_of_code(best.ensemble_of_code, best.metric)
    if best.baseline:
        parts.append(Text(f"{best.baseline[0].upper()}{best.baseline[1:]}.", style="quiet"))
    if num_completed > 1:
        tested = "accuracy" if best.test_value is None else "value"
        advice = f" Expect the test {tested}." if best.test_accuracy is not None or best.test_value is not None else ""
        luck = "is partly luck" if best.chosen is None else "may be partly luck"
        parts.append(Text(f"The {best.metric} is the best of {num_completed} trials, so it {luck}.{advice}", style="quiet"))
    parts += [Text(""), *(_compare_with_rule(best) if best.chosen is None else _values(best.chosen))]
    return printing.section("Result", *parts)


def ensemble(found: Ensemble) -> list[RenderableType]:
    """Show an ensemble beside the best trial: its members, its accuracies, and what it costs."""
    metric = f"validation {found.metric.replace('_', ' ')}"
    parts = [_figure("ensemble", found.measured, f"{metric} ({found.gain:+.4f}), {found.words}")]
    if found.test_value is None:
        parts += _test(found.test_accuracy, found.num_test)
    else:
        accuracy = "exact matches" if found.by_class else "accuracy"
        parts.append(_test_value(found.test_value, metric, found.num_test, found.test_accuracy, accuracy))
    speed = "" if found.milliseconds is None else f", {found.milliseconds:.1f} ms an image in batches"
    passes = wording.count(found.num_networks, "pass")
    parts.append(Text(f"{'':10}{passes} through a network for each image{speed}", style="quiet"))
    return parts


def ensemble_of_code(found: CodeEnsemble, metric: str) -> list[RenderableType]:
    """Show the ensemble of user models beside the best trial."""
    assert found.value is not None
    assert found.best_member_value is not None
    difference = wording.figure(abs(found.value - found.best_member_value))
    parts = [_figure("ensemble", found.value, f"{metric}, {found.words}, better by {difference} than trial {found.trials[0]} alone")]
    if found.test_value is not None:
        parts.append(_test_value(found.test_value, metric, found.num_test, None))
    return parts


def _figure(label: str, value: float, words: str) -> RenderableType:
    return Text.assemble((f"{label:10}", "quiet"), (wording.figure(value), "bold green"), f" {words}")


def _test(accuracy: float | None, num_images: int) -> list[RenderableType]:
    """Show an accuracy on the test images, if it was measured."""
    if accuracy is None:
        return []
    low, high = statistics.accuracy_interval(accuracy, num_images)
    images = f" on {num_images:,} unseen images; 95 % interval {low:.3f} to {high:.3f}"
    return [Text.assemble((f"{'test':10}", "quiet"), (f"{accuracy:.4f}", "strong"), images)]


def _test_value(value: float, metric: str, num_examples: int, accuracy: float | None, name: str = "accuracy") -> RenderableType:
    """Show the metric of a study on the test images, and the accuracy under its name, if it is another figure."""
    beside = "" if accuracy is None else f"; {name} {accuracy:.4f}"
    words = f" {metric.removeprefix('validation ')} on {num_examples:,} unseen examples{beside}"
    return Text.assemble((f"{'test':10}", "quiet"), (wording.figure(value), "strong"), words)


def cost(snapshot: Snapshot, wall_seconds: float) -> RenderableType:
    """Show the time, and the numbers of trials by how they ended."""
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="quiet", no_wrap=True)
    rows.add_column()
    total = wording.duration(snapshot.busy_seconds)
    rows.add_row("time", f"{wording.duration(wall_seconds)} for this run; {total} of training in all runs of the study")
    rows.add_row("trials", f"{snapshot.num_completed} completed, {snapshot.num_pruned} pruned, {snapshot.num_failed} failed")
    if snapshot.probe_seconds or snapshot.fine_tune_seconds:
        probes, fine_tuning = wording.duration(snapshot.probe_seconds), wording.duration(snapshot.fine_tune_seconds)
        rows.add_row("training", f"{probes} in probes, {fine_tuning} in fine-tuning")
    for name, text in snapshot.time_plan:
        rows.add_row(name, text)
    return printing.section("Cost", rows)


def next_steps(study: str, again: str, exported: Path | None, reason: str, *, storage: str | None = None) -> RenderableType:
    """Show why the run ended, and commands for the next steps.

    `again` are the arguments of the run, and `storage` is the URL that the commands need, if it is not the default.
    """
    steps = [(f"tuner status {study}", "show its state"), ("tuner dashboard", "show curves, importances and the timeline in a browser")]
    if exported is not None:
        steps.insert(0, (f"tuner run {exported}", "train the best configuration again"))
    else:
        steps.insert(0, (f"tuner export {study} --to best.yaml", "export the best configuration"))
    steps.append((f"tuner run {again} --trials N", "continue the search with a larger budget"))
    rows = Table.grid(padding=(0, 3, 0, 0))
    rows.add_column(style="value", overflow="fold")
    rows.add_column(style="quiet")
    for command, meaning in steps:
        rows.add_row(command, meaning)
    ended = [Text(f"It ended because {reason.rstrip('.')}.", style="quiet")] if reason else []
    saved = [Text(f"The best configuration is in {exported}.")] if exported is not None else []
    needed = [Text(f"The commands need the option --storage {shlex.quote(storage)}, or TUNER_STORAGE.", style="quiet")] if storage else []
    return printing.section("Next", *ended, *saved, rows, *needed)


def changes(rule: dict[str, Any], best: dict[str, Any]) -> list[tuple[str, object, object]]:
    """Return the hyperparameters, with dots in nested names, whose values differ from trial 0."""
    flat_rule, flat_best = wording.flatten(rule), wording.flatten(best)
    return [(name, flat_rule.get(name), value) for name, value in flat_best.items() if flat_rule.get(name) != value]


def _values(chosen: Mapping[str, object]) -> list[RenderableType]:
    rows = printing.table("hyperparameter", "best", right=("best",))
    for name, value in chosen.items():
        rows.add_row(name, wording.value(value))
    return [rows] if chosen else []


def _compare_with_rule(best: RunResult) -> list[RenderableType]:
    if best.trial == 0:
        return [Text("No trial was better than trial 0 (the rule, without search).")]
    lines: list[RenderableType] = []
    if best.rule_value is not None:
        gain = best.value - best.rule_value if best.maximizes else best.rule_value - best.value
        found = wording.figure(best.rule_value)
        lines.append(Text(f"Trial 0 (the rule, without search): {found}. The search gained {wording.figure(gain)}."))
    rows = printing.table("changed by the search", "trial 0", "best", right=("trial 0", "best"))
    for name, before, after in best.changes:
        rows.add_row(name, wording.value(before), wording.value(after))
    return [*lines, rows]
