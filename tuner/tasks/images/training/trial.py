"""Training one trial: the probe, then fine-tuning."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import checkpoints, losses
from tuner.kernels.checkpoints import BestEpoch, EndedTraining, SuspendedTrial, TrialFiles, TrialTiming
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

    #: its step and its scores, as a checkpoint holds them
    found: BestEpoch
    #: weights of the head; after an epoch of fine-tuning, also those of the open blocks
    weights: tuple[NDArray[np.float32], ...]
    #: logits of the validation images (n, classes); None after a probe, or if the epoch was trained before the trial resumed
    logits: NDArray[np.float32] | None = None


class _Interrupted(Exception):
    """Ends a trial early; `writes` says whether a checkpoint is worth writing."""

    def __init__(self, ending: Ending, reason: str, *, writes: bool = False) -> None:
        self.ending, self.reason, self.writes = ending, reason, writes


class TrialTraining:
    """Trains one trial: once, or several times with different seeds, one after another (`training.executions`).

    With folds, each training has another one as validation split, and no weights are kept: no network has seen all images.

    The steps of fine-tuning count on through the trainings. Only the first probe is reported and decides whether the trial is promoted;
    later ones count as time of the fine-tuning.
    """

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
        self._num_trainings = 1 if order.teacher is not None else context.study.num_trainings
        self._has_folds = context.data.folds is not None
        #: of all folds
        self._whole = context
        self._fine_tunes = order.of_images.unfreeze > 0 and context.epochs > 0
        #: the trainings that have ended, if there are several, and the best epoch of these
        self._ended: list[EndedTraining] = []
        self._kept: _Best | None = None
        #: of the current training
        self._best: _Best | None = None
        self._curve: list[messages.Epoch] = []
        self._seconds = {Stage.PROBE: 0.0, Stage.FINE_TUNE: 0.0}
        self._reported_at = time.monotonic()
        self._written_at = time.perf_counter()

    def run(self) -> messages.Finished:
        """Train the trial, resume it if there is a checkpoint, and report every epoch to the worker."""
        context = self._context
        suspended = self._files.read() if self._fine_tunes or self._num_trainings > 1 else None
        context.store.watch.append(self._watch)
        try:
            if suspended is not None:
                self._resume(suspended)
            while len(self._ended) < self._num_trainings:
                self._train(suspended if suspended is not None and suspended.state else None)
                suspended = None
        except _Interrupted as interrupted:
            return self._finished(interrupted.ending, interrupted.reason)
        finally:
            context.store.watch.clear()
        return self._finished(Ending.COMPLETED, "")

    def _train(self, suspended: SuspendedTrial | None) -> None:
        """Train once, from a checkpoint if it is in the middle of the fine-tuning."""
        before = sum(self._seconds.values())
        if self._has_folds:
            self._context = self._whole.of_fold(len(self._ended))
        try:
            if suspended is None:
                self._best = None
                self._probe()
                if self._fine_tunes and not self._ended:
                    self._await_decision()
            if self._fine_tunes:
                self._fine_tune(suspended)
        finally:
            if self._fine_tunes:
                # the next probe may compute features, and needs the pretrained weights
                self._context.restore()
        best = self._best
        assert best is not None
        first_step = len(self._ended) * self._context.epochs
        ended = EndedTraining(
            value=best.found.value,
            best_step=best.found.step,
            best_epoch=max(1, best.found.step - first_step),
            seconds=sum(self._seconds.values()) - before,
            metrics=best.found.metrics,
            confusion=best.found.confusion if self._has_folds else (),
        )
        self._kept = replace(best, weights=(), logits=None) if self._has_folds else self._leader
        self._ended.append(ended)
        is_last = len(self._ended) == self._num_trainings
        if not is_last and time.perf_counter() - self._written_at > self._timing.worth_writing_seconds:
            self._best = None
            self._write_checkpoint((), 0, part=None)
            self._written_at = time.perf_counter()

    @property
    def _leader(self) -> _Best | None:
        """The best epoch of all trainings."""
        best, kept, merit = self._best, self._kept, self._context.study.objective.merit
        if best is None or kept is None:
            return best or kept
        return best if merit(best.found.value) > merit(kept.found.value) else kept

    @property
    def _seed(self) -> int:
        return self._order.seed_of(len(self._ended))

    def _probe(self) -> None:
        running = probe.begin(self._context, self._order.of_images, seed=self._seed)
        # samplers compare trials that end with their probe by their last step first, so every probe ends at the same one
        first = self._context.study.training.probe_epochs + 1 - running.num_epochs
        for step, (measured, seconds) in enumerate(_timed(running.epochs()), start=first):
            self._record(Stage.PROBE, step, measured, seconds, running.weights)
            self._obey()

    def _await_decision(self) -> None:
        assert self._best is not None
        self._worker.send(messages.Probed(trial=self._order.trial, value=self._best.found.value))
        decision = self._worker.decision()
        if not isinstance(decision, messages.Proceed):
            self._interrupt(decision)
        elif decision.epochs is not None:
            self._context, self._whole = (replace(each, epochs=decision.epochs) for each in (self._context, self._whole))

    def _fine_tune(self, suspended: SuspendedTrial | None) -> None:
        start = time.perf_counter()
        if not self._ended:
            self._written_at = start
        done = 0 if suspended is None else suspended.progress.epochs
        first = self._context.study.training.probe_epochs + len(self._ended) * self._context.epochs + 1
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
                self._record(Stage.FINE_TUNE, first + epoch, measured, now - start, stage.weights)
                done, start = epoch + 1, now
                if now - self._written_at > self._timing.worth_writing_seconds:
                    self._write_checkpoint(stage.state, done, part=None)
                    self._written_at = now
                if done < self._context.epochs:
                    self._obey()
        except _Interrupted as interrupted:
            now = time.perf_counter()
            if interrupted.writes and now - self._written_at > self._timing.worth_writing_seconds:
                self._write_checkpoint(stage.state, done, part=stage.part(now - start))
            raise

    def _start_fine_tuning(self) -> fine_tune.FineTuning:
        """Return the fine-tuning from the best weights so far, before its first step."""
        assert self._best is not None
        self._context.restore()
        head_weights, _ = evaluation.split_weights(self._best.weights, self._order.of_images)
        teacher = None if self._order.teacher is None else standalone.teacher(self._context, self._order.teacher, self._context_of)
        return fine_tune.FineTuning(self._context, head_weights, self._order.of_images, seed=self._seed, teacher=teacher)

    def _record(
        self, stage: Stage, step: int, measured: probe.MeasuredEpoch, seconds: float, weights: Callable[[], Sequence[NDArray[np.float32]]]
    ) -> None:
        """Report an epoch to the worker, unless it is of a repeated probe, and remember it if it is the best of the training."""
        is_reported = stage is Stage.FINE_TUNE or not self._ended
        self._seconds[stage if is_reported or not self._fine_tunes else Stage.FINE_TUNE] += seconds
        found = measured.validation
        # if validation images are trained on, a higher score means nothing, and the last epoch counts as the best
        is_blind = self._context.study.training.images != "train"
        if self._best is None or is_blind or self._rank(found) > self._rank(self._best.found):
            kept = BestEpoch(
                step=step if is_reported else 0,
                value=found.value,
                loss=found.loss,
                confusion=found.confusion,
                by_class=found.by_class,
                mistakes=found.mistakes,
                metrics=dict(found.metrics),
            )
            self._best = _Best(found=kept, weights=tuple(weights()), logits=measured.logits)
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
            value=self._value_of(found),
            metrics=dict(found.metrics),
        )
        if is_reported:
            self._curve.append(epoch)
            self._worker.send(epoch)
        else:
            self._watch()
        for name, loss in (("loss", measured.loss), ("validation loss", found.loss)):
            if not math.isfinite(loss):
                where = f"step {step} ({stage.value})"
                raise _Interrupted(Ending.NOT_FINITE, f"the {name} was {loss:g} in {where}; the learning rate is likely too high")

    def _value_of(self, found: losses.Scores) -> float:
        """Return the value of an epoch; in a study with folds, the mean over the folds so far, each with its best epoch so far."""
        if not self._has_folds or self._best is None:
            return found.value
        return statistics.fmean([*(one.value for one in self._ended), self._best.found.value])

    def _rank(self, found: losses.Scores | BestEpoch) -> tuple[float, float]:
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

    def _write_checkpoint(self, state: Sequence[tf.Variable], epochs: int, *, part: checkpoints.EpochPart | None) -> None:
        best, kept = self._best or self._kept, self._kept
        assert best is not None
        progress = checkpoints.Progress(
            study=self._context.identity,
            hyperparameters=self._order.of_images,
            seed=self._order.seed,
            epochs=epochs,
            curve=tuple(self._curve),
            part=part,
            best_step=best.found.step,
            **best.found.model_dump(exclude={"step"}),
            ended=tuple(self._ended),
            kept=None if kept is None else kept.found,
            probe_seconds=self._seconds[Stage.PROBE],
            fine_tune_seconds=self._seconds[Stage.FINE_TUNE],
        )
        weights, of_kept = () if self._best is None else best.weights, () if kept is None else kept.weights
        values = checkpoints.copy_values(state)
        self._files.write_checkpoint(SuspendedTrial(progress=progress, state=values, best=weights, kept=of_kept))

    def _resume(self, suspended: SuspendedTrial) -> None:
        progress = suspended.progress
        found = BestEpoch(step=progress.best_step, **progress.model_dump(include=BestEpoch.model_fields.keys() - {"step"}))
        self._best = _Best(found=found, weights=suspended.best) if suspended.state else None
        self._ended = list(progress.ended)
        self._kept = None if progress.kept is None else _Best(found=progress.kept, weights=suspended.kept)
        self._seconds = {Stage.PROBE: progress.probe_seconds, Stage.FINE_TUNE: progress.fine_tune_seconds}
        self._curve = list(progress.curve)
        self._worker.send(messages.Resumed(trial=self._order.trial, curve=progress.curve))

    def _finished(self, ending: Ending, reason: str) -> messages.Finished:
        best, weights, values = self._leader, None, [one.value for one in self._ended]
        value = statistics.fmean(values) if ending is Ending.COMPLETED else best.found.value if best else math.nan
        if ending is Ending.COMPLETED and best is not None and not self._has_folds:
            weights = self._files.write_weights(best.weights)
        elif ending is not Ending.SUSPENDED:
            self._files.clear()
        if self._has_folds:
            return self._of_folds(ending, reason)
        drawn = self._draw(best.found) if weights and best else {}
        return messages.Finished(
            trial=self._order.trial,
            ending=ending,
            reason=reason,
            value=value if math.isfinite(value) else None,
            best_step=best.found.step or None if best else None,
            confusion=best.found.confusion if best else (),
            by_class=best.found.by_class if best else (),
            mistakes=best.found.mistakes if best else (),
            metrics=best.found.metrics if best else {},
            attributes=messages.spread(values) if ending is Ending.COMPLETED else {},
            pictures=drawn,
            weights=weights,
            logits=self._write_logits(best) if weights and best else None,
            probe_seconds=self._seconds[Stage.PROBE],
            fine_tune_seconds=self._seconds[Stage.FINE_TUNE],
        )

    def _of_folds(self, ending: Ending, reason: str) -> messages.Finished:
        """Return the outcome of a trial with folds: the mean over the folds, without weights."""
        values, known = [one.value for one in self._ended], [epoch.measured for epoch in self._curve if math.isfinite(epoch.measured)]
        is_complete = ending is Ending.COMPLETED
        found = {"folds" if name == "executions" else name: value for name, value in messages.spread(values).items()}
        names = set.intersection(*(set(one.metrics) for one in self._ended)) if is_complete else set()
        return messages.Finished(
            trial=self._order.trial,
            ending=ending,
            reason=reason,
            value=statistics.fmean(values) if is_complete else known[-1] if known else None,
            confusion=_summed([one.confusion for one in self._ended]) if is_complete else (),
            metrics={name: statistics.fmean(one.metrics[name] for one in self._ended) for name in sorted(names)},
            attributes={**found, "best_epochs": [one.best_epoch for one in self._ended]} if is_complete else {},
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

    def _draw(self, found: BestEpoch) -> dict[messages.PictureKind, str]:
        """Draw the mistakes of the best epoch; on a full disk, log a warning and go without."""
        data = self._context.data
        try:
            folder = Path(self._order.weights).parent
            return pictures.draw(data.validation.images, data.classes, found.mistakes, found.confusion, folder=folder)
        except OSError as error:
            _LOG.warning("cannot draw the pictures of trial %d: %s", self._order.trial, error)
            return {}


def _summed(matrices: Sequence[tuple[tuple[int, ...], ...]]) -> tuple[tuple[int, ...], ...]:
    """Return the sum of the confusion matrices of all folds, in which each image counts once; () if one of them is unknown."""
    return tuple(tuple(row) for row in np.sum(matrices, 0).tolist()) if all(matrices) else ()


def _timed(epochs: Iterator[probe.MeasuredEpoch]) -> Iterator[tuple[probe.MeasuredEpoch, float]]:
    start = time.perf_counter()
    for measured in epochs:
        now = time.perf_counter()
        yield measured, now - start
        start = time.perf_counter()
