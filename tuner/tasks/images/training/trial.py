"""One trial from its hyperparameters to its outcome: probe, then fine-tune."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.kernels import checkpoints, losses
from tuner.kernels.checkpoints import Control, Keeping
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.tasks.images.data import contact_sheet
from tuner.tasks.images.training import evaluation, fine_tune, probe
from tuner.tasks.images.training.context import StudyContext

#: work shorter than this is cheaper to do again than to write down
_WORTH_KEEPING_SECONDS = 2.0
#: how often the worker hears of a trial that computes what it trains on
_BUSY_SECONDS = 10.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The best epoch so far."""

    step: int
    scores: losses.Scores
    #: of the head, then of the unfrozen top if the epoch was one of fine-tuning
    weights: tuple[NDArray[np.float32], ...]


class _Interrupted(Exception):
    """`keeps`: whether a checkpoint of where the trial is is worth its while."""

    def __init__(self, ending: Ending, reason: str, *, keeps: bool = False) -> None:
        self.ending, self.reason, self.keeps = ending, reason, keeps


class TrialTraining:
    """One attempt at one trial."""

    def __init__(self, bench: StudyContext, order: messages.Train, control: Control) -> None:
        self._bench, self._order, self._control = bench, order, control
        self._keeping = Keeping(order, control, study=bench.identity)
        self._best: _Best | None = None
        self._curve: list[messages.Epoch] = []
        self._seconds = {Stage.PROBE: 0.0, Stage.FINE_TUNE: 0.0}
        self._told_at = time.monotonic()

    def run(self) -> messages.Finished:
        """Train the trial, telling the worker of every epoch; a kept checkpoint is gone on from."""
        bench, hyperparameters = self._bench, self._order.hyperparameters
        fine_tunes = hyperparameters.unfreeze > 0 and bench.epochs > 0
        kept = self._keeping.read() if fine_tunes else None
        bench.shelf.watch.append(self._watch)
        try:
            if kept is None:
                self._probe()
                if fine_tunes:
                    self._await_decision()
            if fine_tunes:
                self._fine_tune(kept)
        except _Interrupted as interrupted:
            return self._finished(interrupted.ending, interrupted.reason)
        finally:
            bench.shelf.watch.clear()
            if fine_tunes:
                # a probe may have features to compute that are not in the cache
                bench.restore()
        return self._finished(Ending.COMPLETED, "")

    def _probe(self) -> None:
        running = probe.Probe(self._bench, self._order.hyperparameters, seed=self._order.seed)
        for step, (measured, seconds) in enumerate(_timed(running.epochs()), start=1):
            self._record(Stage.PROBE, step, measured, seconds, running.weights)
            self._obey()

    def _await_decision(self) -> None:
        assert self._best is not None
        self._control.send(messages.Probed(trial=self._order.trial, value=self._best.scores.accuracy))
        decision = self._control.decision()
        if not isinstance(decision, messages.Proceed):
            self._interrupt(decision)

    def _fine_tune(self, kept: checkpoints.Suspended | None) -> None:
        start = kept_at = time.perf_counter()
        done = 0
        if kept is not None:
            done = kept.progress.epochs
            self._take_up(kept.progress, kept.best)
        stage = self._opened()
        if kept is not None:
            stage.take_up(kept.state, kept.progress.part)
            start -= kept.progress.part.seconds if kept.progress.part else 0.0
        try:
            for epoch in range(done, self._bench.epochs):
                for _ in stage.train(epoch):
                    self._obey()
                measured = stage.measure(epoch)
                now = time.perf_counter()
                self._record(Stage.FINE_TUNE, self._bench.study.training.probe_epochs + epoch + 1, measured, now - start, stage.weights)
                done, start = epoch + 1, now
                if now - kept_at > _WORTH_KEEPING_SECONDS:
                    self._keep(stage, done, part=None)
                    kept_at = now
                if done < self._bench.epochs:
                    self._obey()
        except _Interrupted as interrupted:
            now = time.perf_counter()
            if interrupted.keeps and now - kept_at > _WORTH_KEEPING_SECONDS:
                self._keep(stage, done, part=stage.part(now - start))
            raise

    def _opened(self) -> fine_tune.FineTuning:
        """The fine-tuning from the best weights so far, before its first step."""
        assert self._best is not None
        self._bench.restore()
        head_weights, _ = evaluation.parted(self._best.weights, self._order.hyperparameters)
        return fine_tune.FineTuning(self._bench, head_weights, self._order.hyperparameters, seed=self._order.seed)

    def _record(
        self, stage: Stage, step: int, measured: probe.MeasuredEpoch, seconds: float, weights: Callable[[], Sequence[NDArray[np.float32]]]
    ) -> None:
        """Remember the epoch if it is the best, and tell the worker."""
        self._seconds[stage] += seconds
        found = measured.validation
        # an epoch that was measured on images that it trained on is no better for a higher number: the last one is kept
        is_blind = self._bench.study.training.images != "train"
        if self._best is None or is_blind or (found.accuracy, -found.loss) > (self._best.scores.accuracy, -self._best.scores.loss):
            self._best = _Best(step=step, scores=found, weights=tuple(weights()))
        epoch = messages.Epoch(
            trial=self._order.trial,
            stage=stage,
            step=step,
            loss=measured.loss,
            accuracy=measured.accuracy,
            validation_loss=found.loss,
            validation_accuracy=found.accuracy,
            learning_rate=measured.learning_rate,
            seconds=seconds,
        )
        self._curve.append(epoch)
        self._control.send(epoch)
        for name, loss in (("loss", measured.loss), ("validation loss", found.loss)):
            if not math.isfinite(loss):
                where = f"step {step} ({stage.value})"
                raise _Interrupted(Ending.NOT_FINITE, f"the {name} was {loss:g} in {where}; the learning rate is likely too high")

    def _watch(self) -> None:
        """Between two batches of what is computed for the trial, let the worker know of it and have its way."""
        if time.monotonic() - self._told_at > _BUSY_SECONDS:
            self._told_at = time.monotonic()
            self._control.send(messages.Busy(trial=self._order.trial))
        self._obey()

    def _obey(self) -> None:
        wanted = self._control.interruption()
        if wanted is not None:
            self._interrupt(wanted)

    def _interrupt(self, wanted: messages.Stop | messages.Suspend) -> None:
        if isinstance(wanted, messages.Suspend):
            raise _Interrupted(Ending.SUSPENDED, "", keeps=wanted.keeps)
        raise _Interrupted(Ending.STOPPED, "")

    def _keep(self, stage: fine_tune.FineTuning, epochs: int, *, part: checkpoints.Part | None) -> None:
        assert self._best is not None
        progress = checkpoints.Progress(
            study=self._bench.identity,
            hyperparameters=self._order.hyperparameters,
            seed=self._order.seed,
            epochs=epochs,
            curve=tuple(self._curve),
            part=part,
            best_step=self._best.step,
            value=self._best.scores.accuracy,
            loss=self._best.scores.loss,
            confusion=self._best.scores.confusion,
            mistakes=self._best.scores.mistakes,
            probe_seconds=self._seconds[Stage.PROBE],
            fine_tune_seconds=self._seconds[Stage.FINE_TUNE],
        )
        self._keeping.keep(checkpoints.Suspended(progress=progress, state=checkpoints.values(stage.state), best=self._best.weights))

    def _take_up(self, progress: checkpoints.Progress, best: tuple[NDArray[np.float32], ...]) -> None:
        found = losses.Scores(accuracy=progress.value, loss=progress.loss, confusion=progress.confusion, mistakes=progress.mistakes)
        self._best = _Best(step=progress.best_step, scores=found, weights=best)
        self._seconds = {Stage.PROBE: progress.probe_seconds, Stage.FINE_TUNE: progress.fine_tune_seconds}
        self._curve = list(progress.curve)
        self._control.send(messages.Resumed(trial=self._order.trial, curve=progress.curve))

    def _finished(self, ending: Ending, reason: str) -> messages.Finished:
        best, weights = self._best, None
        if ending is Ending.COMPLETED and best is not None:
            weights = self._keeping.keep_weights(best.weights)
        elif ending is not Ending.SUSPENDED:
            self._keeping.clear()
        drawn = self._draw(best.scores) if weights and best else {}
        return messages.Finished(
            trial=self._order.trial,
            ending=ending,
            reason=reason,
            value=best.scores.accuracy if best else None,
            best_step=best.step if best else None,
            confusion=best.scores.confusion if best else (),
            mistakes=best.scores.mistakes if best else (),
            pictures=drawn,
            weights=weights,
            probe_seconds=self._seconds[Stage.PROBE],
            fine_tune_seconds=self._seconds[Stage.FINE_TUNE],
        )

    def _draw(self, found: losses.Scores) -> dict[messages.PictureKind, str]:
        """Pictures of what the best epoch got wrong; a trial is none the worse without them where the disk has no room."""
        data = self._bench.data
        try:
            folder = Path(self._order.weights).parent
            return contact_sheet.draw(data.validation.images, data.classes, found.mistakes, found.confusion, folder=folder)
        except OSError as error:
            _LOG.warning("no pictures of trial %d: %s", self._order.trial, error)
            return {}


def _timed(epochs: Iterator[probe.MeasuredEpoch]) -> Iterator[tuple[probe.MeasuredEpoch, float]]:
    start = time.perf_counter()
    for measured in epochs:
        now = time.perf_counter()
        yield measured, now - start
        start = time.perf_counter()
