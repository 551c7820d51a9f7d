"""The end of a run: the best trial scored on the test split, its config exported, and one screen about it all."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import RenderableType

from tuner import messages
from tuner.commands import artifacts
from tuner.errors import TunerError
from tuner.results import best as bests
from tuner.results import export
from tuner.results.best import Best
from tuner.search import progress, trials
from tuner.search.study import Study
from tuner.terminal import plain, printing, summary
from tuner.workers import evaluation, process
from tuner.workers.process import Assignment
from tuner.workers.stopping import Stopping


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `tuner run`, as its end needs to know it."""

    study: Study
    #: the study file
    file: Path
    #: of one of its workers: where files are, what a trainer may take
    assignment: Assignment
    #: where the best config goes; None: nowhere
    export_to: Path | None
    #: seconds by the monotonic clock
    began: float = field(default_factory=time.monotonic)


def conclude(run: Run, stopping: Stopping, *, gave_up: str = "") -> int:
    """Score, export and show; the exit code: 1 if the study stopped itself, its workers gave up or nothing was completed."""
    snapshot = progress.snapshot(run.study)
    reason = trials.stopped(run.study)
    sections: list[RenderableType] = []
    exported = None
    if snapshot.best_number is not None:
        if not stopping.is_asked and not gave_up:
            _score(run, stopping)
        exported = _export(run)
        sections.append(summary.found(_found(run.study), snapshot.num_completed))
    sections.append(summary.cost(snapshot, time.monotonic() - run.began))
    sections.append(summary.next_steps(run.study.name, run.file, exported, _reason(run.study, stopping, gave_up)))
    printing.result("", *sections)
    if reason:
        plain.line(f"The study stopped itself: {reason}")
    elif gave_up:
        plain.line(gave_up)
    return 1 if reason or gave_up or (not snapshot.num_completed and not stopping.is_asked) else 0


def _score(run: Run, stopping: Stopping) -> None:
    if not _is_to_score(bests.best(run.study)):
        return
    try:
        with printing.busy(f"{run.study.name} trial {bests.best(run.study).trial} is scored on the test split …"):
            score(run.study, run.assignment, stopping)
    except TunerError as error:
        plain.line(f"warning: {error}")


def score(study: Study, assignment: Assignment, stopping: Stopping) -> None:
    """Measure the best trial on the test split, unless that was done before.

    Raises:
        TrainingError: its weights could not be scored.
        StorageError: the score could not be kept.
        TunerError: they are in a bucket that does not give them.
    """
    best = bests.best(study)
    if best.weights is None or not _is_to_score(best):
        return
    with artifacts.fetched(best.weights, assignment.places.of_study(study.name)) as path:
        found = evaluation.evaluate(
            study,
            messages.Evaluate(trial=best.trial, hyperparameters=best.hyperparameters, weights=str(path)),
            start=lambda: process.child(assignment),
            places=assignment.places,
            limits=assignment.limits,
            stopping=stopping,
        )
    if found is not None:
        trials.keep_test(study, found)


def _is_to_score(best: Best) -> bool:
    if best.test_accuracy is not None or best.weights is None:
        return False
    return artifacts.is_url(best.weights) or Path(best.weights).exists()


def _export(run: Run) -> Path | None:
    if run.export_to is None:
        return None
    export.write(bests.best(run.study), run.export_to)
    return run.export_to


def _found(study: Study) -> summary.Found:
    best = bests.best(study)
    rule = bests.rule(study)
    return summary.Found(
        trial=best.trial,
        value=best.value,
        changes=summary.differences(rule.model_dump(), best.hyperparameters.model_dump()) if rule else (),
        rule_value=best.rule_value,
        test_accuracy=best.test_accuracy,
        num_test=best.num_test,
    )


def _reason(study: Study, stopping: Stopping, gave_up: str) -> str:
    if stopping.is_asked:
        return "you stopped it; the running trials are kept for the next run"
    if gave_up:
        return "its workers gave up; the next run goes on"
    return trials.stop_reason(study) or ""
