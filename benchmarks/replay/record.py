"""Record trials that are trained to their end, around the recipe and over the whole search space; an interrupted call resumes.

    nice -n 19 python -m benchmarks.replay.record --npz cifar10_small.npz --to FOLDER

Each finished trial is one file, FOLDER/DATA SET/NUMBER.npz. A trial whose file exists is skipped. Seconds of a busy machine mean little:
`processor_seconds` and multiply-adds are recorded beside them.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.replay import jobs, trial_files
from benchmarks.replay.jobs import Job, Length
from benchmarks.replay.trial_files import Facts, RecordedEpoch, Recording
from tuner import errors
from tuner.kernels import devices
from tuner.machine import TrainerShare
from tuner.spec import space
from tuner.spec.hyperparameters import Augmentation, Flip, Hyperparameters
from tuner.tasks.images.spec import recipe
from tuner.tasks.images.training import backbones, evaluation, fine_tune, prepared, probe, study_context, views
from tuner.tasks.images.training.probe import MeasuredEpoch
from tuner.tasks.images.training.study_context import StudyContext

Weights = Sequence[NDArray[np.float32]]
#: from the seed of a part of a training to that of the next
_SEED_STEP = 1000


def main() -> None:
    """Record all missing trials."""
    given = arguments().parse_args()
    share = TrainerShare(threads=given.threads)
    devices.limit_tensorflow(share)
    devices.set_precision("float32")
    wanted = [name for name in given.data_sets if name != jobs.CIFAR10_SMALL or given.npz]
    missing = [job for job in jobs.jobs(wanted, size=given.size) if not file_of(given.to, job).exists()]
    recorder = Recorder(npz=given.npz, cache=given.cache, epochs=given.epochs, share=share)
    print(f"{len(missing)} trials to record on {', '.join(wanted)}", flush=True)
    try:
        for job in missing[: given.jobs]:
            write_job(recorder, job, given.to)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes")


def arguments() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=trial_files.FOLDER, help="folder of the recordings")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tuner-replay-cache")
    npz = os.environ.get("CIFAR10_SMALL")
    parser.add_argument("--npz", type=Path, default=Path(npz) if npz else None, help="cifar10_small.npz; default: $CIFAR10_SMALL")
    parser.add_argument("--data-sets", nargs="+", choices=jobs.DATA_SETS, default=jobs.DATA_SETS)
    parser.add_argument("--jobs", type=int, help="largest number of trials to record now")
    parser.add_argument("--size", type=int, default=jobs.SIZE, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, help="epochs of fine-tuning; default: those of tuner")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def file_of(to: Path, job: Job) -> Path:
    """Return the file of a job."""
    return trial_files.path_of(to / job.folder, job.number)


def write_job(recorder: "Recorder", job: Job, to: Path) -> None:
    """Record one trial; one that cannot be trained is reported and skipped."""
    start = time.monotonic()
    try:
        for part, recording in recorder.record(job):
            trial_files.write(recording, file_of(to, part))
            print(f"{part.folder} {part.number:2d} {part.kind:6s} {described(recording)}, {time.monotonic() - start:.0f} s", flush=True)
    except errors.TunerError as error:
        print(f"{job.folder} {job.number:2d} {job.kind:6s} failed: {error}", flush=True)


def described(recording: Recording) -> str:
    """Return the scores of a recording in words."""
    facts = recording.facts
    test = float(np.mean(recording.of("test").argmax(1) == recording.labels["test"]))
    seconds = sum(epoch.processor_seconds for epoch in facts.fine_tune)
    scores = f"validation {facts.fine_tune[-1].validation_accuracy:.4f} (best step {facts.best_step}), test {test:.4f}"
    return f"{scores}, {seconds:.0f} processor seconds"


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What the jobs of a folder share."""

    context: StudyContext
    features_processor_seconds: float


class Recorder:
    """Trains jobs in this process."""

    def __init__(self, *, npz: Path | None, cache: Path, epochs: int | None, share: TrainerShare) -> None:
        self._npz, self._cache, self._epochs, self._share = npz, cache, epochs, share
        self._prepared: dict[str, _Prepared] = {}

    def record(self, job: Job) -> Iterator[tuple[Job, Recording]]:
        """Train a job to its end; yield its recording, and before it that of its first half if the job is continued."""
        ready = self._prepare(job)
        context = ready.context
        usual = recipe.parameters(len(context.data.train.labels), context.num_classes, context.study.search)
        chooser = jobs.Drawn(job, usual)
        hyperparameters = space.suggest(chooser, context.study.search, fine_tunes=True)
        parts = _parts(job, context.epochs)
        trained = _Training(context, hyperparameters, seed=job.seed)
        try:
            for part, _ in zip(parts, trained.run([epochs for _, epochs in parts]), strict=False):
                yield part[0], self._recording(part[0], ready, chooser.parameters, trained)
        finally:
            context.restore()

    def _recording(self, job: Job, ready: _Prepared, parameters: Mapping[str, Any], trained: "_Training") -> Recording:
        context, hyperparameters = ready.context, trained.hyperparameters
        data = context.data
        num_train, num_validation = len(data.train.labels), len(data.validation.labels)
        facts = Facts(
            data_set=job.data_set,
            image_size=context.backbone.size,
            number=job.number,
            kind=job.kind.value,
            length=job.length.value,
            seed=job.seed,
            parameters=parameters,
            hyperparameters=hyperparameters.model_dump(mode="json"),
            num_train=num_train,
            num_validation=num_validation,
            num_test=len(data.test.labels),
            probe=list(trained.probed),
            fine_tune=list(trained.fine_tuned),
            best_step=trained.best_step,
            epoch_multiply_adds=_epoch_multiply_adds(context, hyperparameters),
            features_multiply_adds=float(_whole(context)) * (2 * num_train + num_validation),
            features_processor_seconds=ready.features_processor_seconds,
            threads=self._share.threads,
            versions=prepared.versions(),
        )
        true = {"validation": data.validation.labels.astype(np.uint8), "test": data.test.labels.astype(np.uint8)}
        return Recording(facts=facts, labels=true, logits=_logits(context, hyperparameters, trained))

    def _prepare(self, job: Job) -> _Prepared:
        key = f"{job.data_set} {job.image_size}"
        if key not in self._prepared:
            start = time.process_time()
            spec = jobs.study(job, npz=self._npz, cache=self._cache, epochs=self._epochs)
            context = study_context.prepare(spec, cache=self._cache, share=self._share)
            context.features("train", views.views(Augmentation(flip=Flip.HORIZONTAL)))
            self._prepared[key] = _Prepared(context=context, features_processor_seconds=time.process_time() - start)
        return self._prepared[key]


def _parts(job: Job, epochs: int) -> list[tuple[Job, int]]:
    """Return the recordings of a job, each with its own epochs of fine-tuning."""
    if job.length is not Length.CONTINUED:
        return [(job, epochs)]
    half = (epochs + 1) // 2
    return [(replace(job, length=Length.HALF), half), (job, epochs - half)]


class _Training:
    """One trial: its epochs, its weights after the last epoch, and those of the best epoch as tuner chooses it."""

    def __init__(self, context: StudyContext, hyperparameters: Hyperparameters, *, seed: int) -> None:
        self._context, self.hyperparameters, self._seed = context, hyperparameters, seed
        self._best = (-1.0, 0.0)
        self.probed: list[RecordedEpoch] = []
        self.fine_tuned: list[RecordedEpoch] = []
        self.best_step = 0
        self.best: Weights = ()
        self.last: Weights = ()

    def run(self, lengths: Sequence[int]) -> Iterator[None]:
        """Probe, then fine-tune in parts of some epochs; yield after each part, and end with a loss that is no number."""
        running = probe.begin(self._context, self.hyperparameters, seed=self._seed)
        for epoch in _timed(running.epochs()):
            self._record(epoch, self.probed, running.weights)
        self.last = self.best
        for number, epochs in enumerate(lengths):
            stage = self._start(epochs, seed=self._seed + _SEED_STEP * number)
            for epoch in _timed(_epochs(stage, epochs)):
                self._record(epoch, self.fine_tuned, stage.weights)
                if not self._is_finite:
                    break
            self.last = stage.weights()
            yield
            if not self._is_finite:
                break

    @property
    def _is_finite(self) -> bool:
        last = self.fine_tuned[-1]
        return math.isfinite(last.loss) and math.isfinite(last.validation_loss)

    def _start(self, epochs: int, *, seed: int) -> fine_tune.FineTuning:
        """Return the fine-tuning from the last weights, before its first step."""
        head, opened = evaluation.split_weights(self.last, self.hyperparameters)
        self._context.restore()
        fine_tune.assign([variable for _, variable in self._context.backbone.top(self.hyperparameters.unfreeze)][: len(opened)], opened)
        return fine_tune.FineTuning(replace(self._context, epochs=epochs), head, self.hyperparameters, seed=seed)

    def _record(self, epoch: RecordedEpoch, to: list[RecordedEpoch], weights: Callable[[], Weights]) -> None:
        to.append(epoch)
        score = (epoch.validation_accuracy, -epoch.validation_loss)
        if score > self._best:
            self._best, self.best, self.best_step = score, weights(), len(self.probed) + len(self.fine_tuned)


def _epochs(stage: fine_tune.FineTuning, num: int) -> Iterator[MeasuredEpoch]:
    for epoch in range(num):
        for _ in stage.train(epoch):
            pass
        yield stage.measure(epoch)


def _timed(epochs: Iterable[MeasuredEpoch]) -> Iterator[RecordedEpoch]:
    start, processor = time.perf_counter(), time.process_time()
    for epoch in epochs:
        now, processor_now = time.perf_counter(), time.process_time()
        yield RecordedEpoch(
            loss=epoch.loss,
            accuracy=epoch.accuracy,
            validation_loss=epoch.validation.loss,
            validation_accuracy=epoch.validation.accuracy,
            learning_rate=epoch.learning_rate,
            seconds=now - start,
            processor_seconds=processor_now - processor,
        )
        start, processor = time.perf_counter(), time.process_time()


def _logits(context: StudyContext, hyperparameters: Hyperparameters, trained: _Training) -> dict[str, NDArray[np.float16]]:
    """Return the logits of the last epoch for images and mirror images, and of the best epoch for images if it is another."""
    mirror = views.View(flip_x=True)
    wanted = [("last", trained.last, {"image": views.ORIGINAL, "mirrored": mirror})]
    if trained.best_step < len(trained.probed) + len(trained.fine_tuned):
        wanted.append(("best", trained.best, {"image": views.ORIGINAL}))
    found: dict[str, NDArray[np.float16]] = {}
    for epoch, weights, shown in wanted:
        head, opened = evaluation.split_weights(weights, hyperparameters)
        with evaluation.trained_backbone(context, hyperparameters, opened):
            for split, images in (("validation", context.data.validation.images), ("test", context.data.test.images)):
                for name, view in shown.items():
                    seen = np.ascontiguousarray(views.mirrored(view, images[:]))
                    found[f"{split}_{epoch}_{name}"] = fine_tune.predict(context, hyperparameters, head, seen).astype(np.float16)
    return found


def _epoch_multiply_adds(context: StudyContext, hyperparameters: Hyperparameters) -> float:
    """Return the multiply-adds of one epoch: all layers forward, those above the cut twice more backward; validation above the cut."""
    num_open = backbones.num_unfrozen(hyperparameters.unfreeze, len(context.backbone.blocks))
    whole = _whole(context)
    above = whole - context.backbone.cut(num_open).multiply_adds
    return float(len(context.data.train.labels) * (whole + 2 * above) + len(context.data.validation.labels) * above)


def _whole(context: StudyContext) -> int:
    return context.backbone.cut(0).multiply_adds


if __name__ == "__main__":
    main()
