"""Training one trial: the probe, then fine-tuning."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.kernels import checkpoints, losses
from tuner.kernels.checkpoints import TrialFiles, TrialTiming
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage, WorkerPort
from tuner.spec.hyperparameters import Hyperparameters, TargetKind
from tuner.tasks.images.data import pictures
from tuner.tasks.images.training import evaluation, fine_tune, probe, standalone
from tuner.tasks.images.training.study_context import StudyContext

_LOG = logging.getLogger(__name__)
#: smallest and largest float16
_HALF = (-65504.0, 65504.0)


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The best epoch so far."""

    step: int
    scores: losses.Scores
    #: weights of the head; after an epoch of fine-tuning, also those of the open blocks
    weights: tuple[NDArray[np.float32], ...]
    #: logits of the validation images (n, classes); None after a probe, or if the epoch was trained before the trial resumed
    logits: NDArray[np.float32] | None = None


class _Interrupted(Exception):
    """Ends a trial early; `writes` says whether a checkpoint is worth writing."""

    def __init__(self, ending: Ending, reason: str, *, writes: bool = False) -> None:
        self.ending, self.reason, self.writes = ending, reason, writes


class TrialTraining:
    """Trains one trial, once."""

    def __init__(
        self,
        context: StudyContext,
        order: messages.Train,
        worker: WorkerPort,
        *,
        context_of: Callable[[Hyperparameters], StudyContext] | None = None,
        timing: TrialTiming | None = None,
    ) -> None:
        """`context_of` gives the context of a trial with other hyperparameters; None: the study has one context."""
        self._context_of = context_of or (lambda _: context)
        if order.epochs not in (None, context.epochs):
            context = replace(context, epochs=order.epochs)
        self._context, self._order, self._worker, self._timing = context, order, worker, timing or TrialTiming()
        self._files = TrialFiles(order, worker, study=context.identity, timing=self._timing)
        self._best: _Best | None = None
        self._curve: list[messages.Epoch] = []
        self._seconds = {Stage.PROBE: 0.0, Stage.FINE_TUNE: 0.0}
        self._reported_at = time.monotonic()

    def run(self) -> messages.Finished:
        """Train the trial, resume it if there is a checkpoint, and report every epoch to the worker."""
        context, hyperparameters = self._context, self._order.of_images
        fine_tunes = hyperparameters.unfreeze > 0 and context.epochs > 0
        suspended = self._files.read() if fine_tunes else None
        context.store.watch.append(self._watch)
        try:
            if suspended is None:
                self._probe()
                if fine_tunes:
                    self._await_decision()
            if fine_tunes:
                self._fine_tune(suspended)
        except _Interrupted as interrupted:
            return self._finished(interrupted.ending, interrupted.reason)
        finally:
            context.store.watch.clear()
            if fine_tunes:
                # the probe of the next trial may compute features, and needs the pretrained weights
                context.restore()
        return self._finished(Ending.COMPLETED, "")

    def _probe(self) -> None:
        running = probe.begin(self._context, self._order.of_images, seed=self._order.seed)
        # samplers compare trials that end with their probe by their last step first, so every probe ends at the same one
        first = self._context.study.training.probe_epochs + 1 - running.num_epochs
        for step, (measured, seconds) in enumerate(_timed(running.epochs()), start=first):
            self._record(Stage.PROBE, step, measured, seconds, running.weights)
            self._obey()

    def _await_decision(self) -> None:
        assert self._best is not None
        self._worker.send(messages.Probed(trial=self._order.trial, value=self._best.scores.value))
        decision = self._worker.decision()
        if not isinstance(decision, messages.Proceed):
            self._interrupt(decision)
        elif decision.epochs is not None:
            self._context = replace(self._context, epochs=decision.epochs)

    def _fine_tune(self, suspended: checkpoints.SuspendedTrial | None) -> None:
        start = written_at = time.perf_counter()
        done = 0
        if suspended is not None:
            done = suspended.progress.epochs
            self._resume(suspended.progress, suspended.best)
        stage = self._start_fine_tuning()
        if suspended is not None:
            stage.resume(suspended.state, suspended.progress.part)
            start -= suspended.progress.part.seconds if suspended.progress.part else 0.0
        try:
            for epoch in range(done, self._context.epochs):
                for _ in stage.train(epoch):
                    self._obey()
                measured = stage.measure(epoch)
                now = time.perf_counter()
                self._record(Stage.FINE_TUNE, self._context.study.training.probe_epochs + epoch + 1, measured, now - start, stage.weights)
                done, start = epoch + 1, now
                if now - written_at > self._timing.worth_writing_seconds:
                    self._write_checkpoint(stage, done, part=None)
                    written_at = now
                if done < self._context.epochs:
                    self._obey()
        except _Interrupted as interrupted:
            now = time.perf_counter()
            if interrupted.writes and now - written_at > self._timing.worth_writing_seconds:
                self._write_checkpoint(stage, done, part=stage.part(now - start))
            raise

    def _start_fine_tuning(self) -> fine_tune.FineTuning:
        """Return the fine-tuning from the best weights so far, before its first step."""
        assert self._best is not None
        self._context.restore()
        head_weights, _ = evaluation.split_weights(self._best.weights, self._order.of_images)
        teacher = None if self._order.teacher is None else standalone.teacher(self._context, self._order.teacher, self._context_of)
        return fine_tune.FineTuning(self._context, head_weights, self._order.of_images, seed=self._order.seed, teacher=teacher)

    def _record(
        self, stage: Stage, step: int, measured: probe.MeasuredEpoch, seconds: float, weights: Callable[[], Sequence[NDArray[np.float32]]]
    ) -> None:
        """Report an epoch to the worker, and remember it if it is the best."""
        self._seconds[stage] += seconds
        found = measured.validation
        # if validation images are trained on, a higher score means nothing, and the last epoch counts as the best
        is_blind = self._context.study.training.images != "train"
        if self._best is None or is_blind or self._rank(found) > self._rank(self._best.scores):
            self._best = _Best(step=step, scores=found, weights=tuple(weights()), logits=measured.logits)
        has_accuracy = self._context.target.kind is not TargetKind.NUMBER
        epoch = messages.Epoch(
            trial=self._order.trial,
            stage=stage,
            step=step,
            loss=measured.loss,
            accuracy=measured.accuracy if has_accuracy else math.nan,
            validation_loss=found.loss,
            validation_accuracy=found.accuracy,
            learning_rate=measured.learning_rate,
            seconds=seconds,
            value=found.value,
            metrics=dict(found.metrics),
        )
        self._curve.append(epoch)
        self._worker.send(epoch)
        for name, loss in (("loss", measured.loss), ("validation loss", found.loss)):
            if not math.isfinite(loss):
                where = f"step {step} ({stage.value})"
                raise _Interrupted(Ending.NOT_FINITE, f"the {name} was {loss:g} in {where}; the learning rate is likely too high")

    def _rank(self, found: losses.Scores) -> tuple[float, float]:
        """Return a pair that is greater the better the scores of an epoch are: its value decides, then its loss."""
        return self._context.study.objective.merit(found.value), -found.loss

    def _watch(self) -> None:
        """Tell the worker that the trial is busy, and obey it; called between two batches of features."""
        if time.monotonic() - self._reported_at > self._timing.busy_seconds:
            self._reported_at = time.monotonic()
            self._worker.send(messages.Busy(trial=self._order.trial))
        self._obey()

    def _obey(self) -> None:
        wanted = self._worker.interruption()
        if wanted is not None:
            self._interrupt(wanted)

    def _interrupt(self, wanted: messages.Stop | messages.Suspend) -> None:
        if isinstance(wanted, messages.Suspend):
            raise _Interrupted(Ending.SUSPENDED, "", writes=wanted.keeps)
        raise _Interrupted(Ending.STOPPED, "")

    def _write_checkpoint(self, stage: fine_tune.FineTuning, epochs: int, *, part: checkpoints.EpochPart | None) -> None:
        assert self._best is not None
        progress = checkpoints.Progress(
            study=self._context.identity,
            hyperparameters=self._order.of_images,
            seed=self._order.seed,
            epochs=epochs,
            curve=tuple(self._curve),
            part=part,
            best_step=self._best.step,
            value=self._best.scores.value,
            loss=self._best.scores.loss,
            confusion=self._best.scores.confusion,
            by_class=self._best.scores.by_class,
            mistakes=self._best.scores.mistakes,
            metrics=dict(self._best.scores.metrics),
            probe_seconds=self._seconds[Stage.PROBE],
            fine_tune_seconds=self._seconds[Stage.FINE_TUNE],
        )
        self._files.write_checkpoint(
            checkpoints.SuspendedTrial(progress=progress, state=checkpoints.copy_values(stage.state), best=self._best.weights)
        )

    def _resume(self, progress: checkpoints.Progress, best: tuple[NDArray[np.float32], ...]) -> None:
        found = losses.Scores(
            accuracy=progress.metrics.get("accuracy", progress.value),
            loss=progress.loss,
            value=progress.value,
            confusion=progress.confusion,
            by_class=progress.by_class,
            mistakes=progress.mistakes,
            metrics=progress.metrics,
        )
        self._best = _Best(step=progress.best_step, scores=found, weights=best)
        self._seconds = {Stage.PROBE: progress.probe_seconds, Stage.FINE_TUNE: progress.fine_tune_seconds}
        self._curve = list(progress.curve)
        self._worker.send(messages.Resumed(trial=self._order.trial, curve=progress.curve))

    def _finished(self, ending: Ending, reason: str) -> messages.Finished:
        best, weights = self._best, None
        if ending is Ending.COMPLETED and best is not None:
            weights = self._files.write_weights(best.weights)
        elif ending is not Ending.SUSPENDED:
            self._files.clear()
        drawn = self._draw(best.scores) if weights and best else {}
        return messages.Finished(
            trial=self._order.trial,
            ending=ending,
            reason=reason,
            value=best.scores.value if best and math.isfinite(best.scores.value) else None,
            best_step=best.step if best else None,
            confusion=best.scores.confusion if best else (),
            by_class=best.scores.by_class if best else (),
            mistakes=best.scores.mistakes if best else (),
            metrics=dict(best.scores.metrics) if best else {},
            pictures=drawn,
            weights=weights,
            logits=self._write_logits(best) if weights and best else None,
            probe_seconds=self._seconds[Stage.PROBE],
            fine_tune_seconds=self._seconds[Stage.FINE_TUNE],
        )

    def _write_logits(self, best: _Best) -> str | None:
        """Write what the best epoch of a fine-tuned trial predicts for the validation images and their mirror images.

        Logits are written as float16, which has room for them, numbers as float32.
        """
        if not self._seconds[Stage.FINE_TUNE]:
            return None
        context, split = self._context, self._context.data.validation
        found = {"validation": best.logits}
        for name, mirrored in (("validation", False), ("validation_mirrored", True)):
            if found.get(name) is None:
                (found[name],) = evaluation.predict_splits(context, self._order.of_images, best.weights, [split], mirrored=mirrored)
        known = {name: context.target.outputs(logits) for name, logits in found.items() if logits is not None}
        if context.target.kind is not TargetKind.NUMBER:
            known = {name: np.clip(logits, *_HALF).astype(np.float16) for name, logits in known.items()}
        return self._files.write_logits({**known, "validation_labels": context.target.decode(split.labels)})

    def _draw(self, found: losses.Scores) -> dict[messages.PictureKind, str]:
        """Draw the mistakes of the best epoch; on a full disk, log a warning and go without."""
        data = self._context.data
        try:
            folder = Path(self._order.weights).parent
            return pictures.draw(data.validation.images, data.classes, found.mistakes, found.confusion, folder=folder)
        except OSError as error:
            _LOG.warning("cannot draw the pictures of trial %d: %s", self._order.trial, error)
            return {}


def _timed(epochs: Iterator[probe.MeasuredEpoch]) -> Iterator[tuple[probe.MeasuredEpoch, float]]:
    start = time.perf_counter()
    for measured in epochs:
        now = time.perf_counter()
        yield measured, now - start
        start = time.perf_counter()
