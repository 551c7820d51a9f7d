"""Rehearsal: a trainer without Keras, in the worker's own process, that plays scripted curves and faults; for tests."""

import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.workers.worker.trainer import TrainerDied


class Fault(StrEnum):
    """Fault in one attempt at a trial."""

    CRASH = "crash"
    HANG = "hang"
    FAIL = "fail"
    NOT_FINITE = "not_finite"
    #: a crash during fine-tuning, after the probe was promoted
    LATE_CRASH = "late_crash"
    #: a crash one epoch later
    LATER_CRASH = "later_crash"
    #: the worker is killed after the checkpoint of the second epoch of fine-tuning was written and before that epoch was reported
    LOST_WORKER = "lost_worker"


@dataclass(kw_only=True)
class Script:
    """Faults that the trainers of one rehearsal simulate; each attempt at a trial uses the trial's next fault."""

    faults: dict[int, list[Fault]] = field(default_factory=dict)
    #: fault of each trial that is not in `faults`
    always: Fault | None = None
    fine_tune_epochs: int = 3
    epoch_seconds: float = 0.0
    #: points at which a trainer waits: an epoch ("trial 0 epoch 3", or "epoch 3" of every trial) and the file that ends the wait.
    #: It waits when the epoch is trained and in its checkpoint, before it reports the epoch. A trainer that waits creates the file
    #: `<file>.reached`. A message from its worker ends the wait, too.
    wait_at: dict[str, str] = field(default_factory=dict)
    #: whether each epoch of fine-tuning writes a checkpoint; otherwise only a suspended trial does
    keeps_epochs: bool = False
    #: whether a completed trial writes the logits of its validation images, so that it can be a member of an ensemble
    writes_logits: bool = False
    #: whether each training makes mistakes of its own, so that the mean of the probabilities of several trainings is better than each
    mistakes_differ: bool = False
    #: file that gets a line for each epoch of fine-tuning: trial, step, seconds since 1970
    epoch_log: str = ""
    #: duration of the stages of a trial, as it reports them
    probe_seconds: float = 0.02
    fine_tune_seconds: float = 0.03
    memory_bytes: int = 0
    refusal: str = ""
    #: what trainers say of the images
    warnings: tuple[str, ...] = ()
    #: number of started trainers
    num_started: int = 0
    #: trials in the order in which they were started
    started: list[int] = field(default_factory=list)

    def next_fault(self, trial: int) -> Fault | None:
        """Return the fault of the next attempt at a trial, and use it up."""
        left = self.faults.get(trial)
        if left:
            return left.pop(0)
        return None if left is not None else self.always

    def waits_for(self, trial: int, step: int) -> Path | None:
        """Return the file for which an epoch of a trial waits, or None if it waits for nothing."""
        file = self.wait_at.get(f"trial {trial} epoch {step}") or self.wait_at.get(f"epoch {step}")
        return None if file is None else Path(file)


class _Checkpoint(BaseModel):
    """A checkpoint of the rehearsal."""

    step: int
    curve: tuple[messages.Epoch, ...] = ()


class Rehearsal:
    """Plays a script as a `trainer.Trainer`. Its probes have two epochs, as those by sgd, whatever solver the study names."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._inbox: deque[messages.Message] = deque()
        self._playing: Iterator[messages.Message | None] = iter(())
        self._probe_epochs = 2
        self._ended = False
        script.num_started += 1

    def send(self, message: messages.Message) -> None:
        """Receive a message."""
        if self._ended:
            raise TrainerDied("was killed", "")
        match message:
            case messages.Prepare(spec=spec):
                self._playing = self._prepare(StudySpec.model_validate_json(spec))
            case messages.Train():
                self._playing = self._train(message)
            case messages.Evaluate():
                self._playing = self._evaluate(message)
            case messages.Predict():
                self._playing = self._predict(message)
            case _:
                self._inbox.append(message)

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Return the next message, or None if there is none in time."""
        if self._ended:
            raise TrainerDied("was killed", "")
        deadline = time.monotonic() + timeout_seconds
        for message in self._playing:
            if message is not None:
                return message
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.002)
        return None

    def memory_bytes(self) -> int:
        """Return the memory that the script sets."""
        return self._script.memory_bytes

    def last_lines(self) -> str:
        """Return a fixed line."""
        return "the script says so" if self._script.num_started else ""

    def place(self) -> str:
        """Return nothing: there is no user code."""
        return ""

    def kill(self) -> None:
        """End the trainer."""
        self._ended = True

    def close(self) -> None:
        """End the trainer."""
        self._ended = True

    def _prepare(self, spec: StudySpec) -> Iterator[messages.Message | None]:
        self._probe_epochs = min(2, spec.training.probe_epochs)
        if self._script.refusal:
            yield messages.Failed(trial=None, error="DataError", message=self._script.refusal, is_request=True)
            return
        num_train = 80 if spec.training.images == "train" else 90
        yield messages.Prepared(
            device="rehearsal", classes=("a", "b"), num_train=num_train, num_validation=10, num_test=10,
            epochs=self._script.fine_tune_epochs, fingerprint="0" * 64, splits="0" * 64, versions={"tuner": "0"}, seconds=0.0,
            warnings=self._script.warnings,
        )  # fmt: skip

    def _train(self, train: messages.Train) -> Iterator[messages.Message | None]:
        fault = self._script.next_fault(train.trial)
        self._script.started.append(train.trial)
        checkpoint = max(
            (_resume(Path(path)) for path in (train.checkpoint, train.fetched) if path is not None), key=lambda checkpoint: checkpoint.step
        )
        curve, done = list(checkpoint.curve), checkpoint.step
        self._inbox.clear()
        if done:
            yield messages.Resumed(trial=train.trial, curve=checkpoint.curve)
        num_epochs = self._script.fine_tune_epochs if train.epochs is None else train.epochs
        fine_tune = num_epochs if train.of_images.unfreeze > 0 else 0
        step = done
        while (step := step + 1) <= self._probe_epochs + fine_tune:
            stage = Stage.PROBE if step <= self._probe_epochs else Stage.FINE_TUNE
            if step == self._step_of(fault):
                assert fault is not None
                yield from self._play_fault(fault, train)
                return
            yield from self._pass_time()
            if self._script.epoch_log and stage is Stage.FINE_TUNE:
                _note(Path(self._script.epoch_log), train.trial, step)
            curve.append(_epoch(train, stage, step))
            if self._script.keeps_epochs and stage is Stage.FINE_TUNE:
                _write_checkpoint(train, step, curve)
                if fault is Fault.LOST_WORKER and step == self._probe_epochs + 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield messages.CheckpointWritten(trial=train.trial)
            yield from self._wait_at_point(train.trial, step)
            yield curve[-1]
            if step == self._probe_epochs and fine_tune:
                yield messages.Probed(trial=train.trial, value=accuracy(train.of_images, step))
                while not self._inbox:
                    yield None
                if isinstance(decision := self._inbox[0], messages.Proceed) and decision.epochs is not None:
                    fine_tune = decision.epochs
            ending = self._ending(train, step, curve)
            if ending is not None:
                if Path(train.checkpoint).exists():
                    yield messages.CheckpointWritten(trial=train.trial)
                yield ending
                return
        ended = self._finished(train, Ending.COMPLETED, self._probe_epochs + fine_tune)
        yield ended.model_copy(update={"logits": _write_logits(train, ended.value or 0.0)}) if self._script.writes_logits else ended

    def _step_of(self, fault: Fault | None) -> int | None:
        """Return the step at which a fault happens, or None if it has no step."""
        if fault is None or fault is Fault.LOST_WORKER:
            return None
        late = {Fault.LATE_CRASH: self._probe_epochs + 1, Fault.LATER_CRASH: self._probe_epochs + 2}
        return late.get(fault, 2)

    def _pass_time(self) -> Iterator[messages.Message | None]:
        until = time.monotonic() + self._script.epoch_seconds
        while time.monotonic() < until and not self._inbox:
            yield None

    def _wait_at_point(self, trial: int, step: int) -> Iterator[None]:
        file = self._script.waits_for(trial, step)
        if file is not None:
            file.with_name(f"{file.name}.reached").touch()
            while not file.exists() and not self._inbox:
                yield None

    def _ending(self, train: messages.Train, step: int, curve: Sequence[messages.Epoch]) -> messages.Finished | None:
        while self._inbox:
            match self._inbox.popleft():
                case messages.Stop():
                    return self._finished(train, Ending.STOPPED, step)
                case messages.Suspend(keeps=keeps):
                    if keeps:
                        _write_checkpoint(train, step, curve)
                    return self._finished(train, Ending.SUSPENDED, step)
                case _:
                    pass
        return None

    def _play_fault(self, fault: Fault, train: messages.Train) -> Iterator[messages.Message | None]:
        match fault:
            case Fault.CRASH | Fault.LATE_CRASH | Fault.LATER_CRASH:
                self._ended = True
                raise TrainerDied("crashed (signal 11)", "Fatal Python error: Segmentation fault")
            case Fault.HANG:
                while True:
                    yield None
            case Fault.FAIL:
                yield messages.Failed(trial=train.trial, error="ValueError", message="the script says so")
            case Fault.NOT_FINITE:
                yield self._finished(train, Ending.NOT_FINITE, 1, reason="the loss is not finite")

    def _finished(self, train: messages.Train, ending: Ending, step: int, reason: str = "") -> messages.Finished:
        weights = Path(train.weights + ".weights")
        if ending not in (Ending.SUSPENDED, Ending.COMPLETED):
            Path(train.checkpoint).unlink(missing_ok=True)
        if ending is Ending.COMPLETED:
            weights.parent.mkdir(parents=True, exist_ok=True)
            weights.write_bytes(b"weights")
        return messages.Finished(
            trial=train.trial,
            ending=ending,
            reason=reason,
            value=accuracy(train.of_images, step),
            best_step=step,
            confusion=((5, 0), (0, 5)),
            weights=str(weights) if ending is Ending.COMPLETED else None,
            probe_seconds=self._script.probe_seconds,
            fine_tune_seconds=self._script.fine_tune_seconds,
        )

    def _evaluate(self, evaluate: messages.Evaluate) -> Iterator[messages.Message | None]:
        value = round(accuracy(evaluate.of_images, 5), 2)
        yield messages.Evaluated(trial=evaluate.trial, accuracy=value, loss=0.5, num_images=100, confusion=((50, 0), (0, 50)))

    def _predict(self, predict: messages.Predict) -> Iterator[messages.Message | None]:
        labels = np.arange(100) % 2
        if not all(Path(path).exists() for path in predict.weights) or len(set(predict.weights)) < len(predict.weights):
            yield messages.Failed(trial=predict.trial, error="FileNotFoundError", message=f"not all of {predict.weights} exist")
            return
        share = accuracy(predict.of_images, 5) + 0.02 * (len(predict.weights) - 1)
        differs = self._script.mistakes_differ and len(predict.weights) == 1
        seed = [1, predict.trial] if differs else len(predict.weights)
        is_right = np.random.default_rng(seed).permutation(100) < 100 * share
        # a right answer is more certain than a mistake, so that a mean is right if one of its members is
        logits = np.where(is_right, 2.0 if differs else 1.0, -1.0)[:, None] * (2.0 * np.eye(2)[labels] - 1.0)
        found: dict[str, Any] = {name: logits.astype(np.float32) for name in predict.splits}
        found |= {f"{name}_labels": labels for name in predict.splits}
        found |= {f"{name}_mirrored": found[name] for name in predict.splits if predict.mirrored}
        Path(predict.to).parent.mkdir(parents=True, exist_ok=True)
        np.savez(predict.to, **found)
        if predict.average is not None:
            Path(predict.average).write_bytes(b"average")
        yield messages.Predicted(trial=predict.trial, seconds=0.2)


def accuracy(hyperparameters: Hyperparameters, step: int) -> float:
    """Return a smooth function of learning rate and dropout that rises with each epoch."""
    rate = math.exp(-((math.log10(hyperparameters.learning_rate) + 3.2) ** 2))
    probe_rate = math.exp(-((math.log10(hyperparameters.probe_learning_rate) + 2.8) ** 2))
    peak = 0.5 + 0.2 * rate + 0.15 * probe_rate + 0.1 * (1 - abs(hyperparameters.dropout - 0.25))
    return peak * (1 - 0.5 ** (step + 1))


def script_from(mapping: Mapping[str, object]) -> Script:
    """Return a script from its JSON form, for a rehearsal in another process."""
    faults = mapping.get("faults", {})
    assert isinstance(faults, Mapping)
    others = {key: value for key, value in mapping.items() if key not in ("faults", "always")}
    always = mapping.get("always")
    return Script(
        faults={int(trial): [Fault(name) for name in names] for trial, names in faults.items()},
        always=None if always is None else Fault(str(always)),
        **others,  # type: ignore[arg-type]
    )


def _note(epoch_log: Path, trial: int, step: int) -> None:
    """Append a line in one write, because several processes append to the file."""
    with epoch_log.open("ab", buffering=0) as file:
        file.write(f"{trial} {step} {time.time():.3f}\n".encode())


def _resume(checkpoint: Path) -> _Checkpoint:
    return _Checkpoint.model_validate_json(checkpoint.read_bytes()) if checkpoint.exists() else _Checkpoint(step=0)


def _write_checkpoint(train: messages.Train, step: int, curve: Sequence[messages.Epoch]) -> None:
    checkpoint = Path(train.checkpoint)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    beside = checkpoint.with_suffix(".part")
    beside.write_text(_Checkpoint(step=step, curve=tuple(curve)).model_dump_json())
    beside.replace(checkpoint)


def _epoch(train: messages.Train, stage: Stage, step: int) -> messages.Epoch:
    value = accuracy(train.of_images, step)
    rate = train.of_images.probe_learning_rate if stage is Stage.PROBE else train.of_images.learning_rate
    return messages.Epoch(
        trial=train.trial, stage=stage, step=step, loss=1 - value, accuracy=value, validation_loss=1 - value,
        validation_accuracy=value, learning_rate=rate, seconds=0.01,
    )  # fmt: skip


def _write_logits(train: messages.Train, share: float) -> str:
    """Write logits of ten validation images whose mirror images are all classified correctly."""
    path, labels = Path(train.weights).with_name("logits.npz"), np.arange(10) % 2
    path.parent.mkdir(parents=True, exist_ok=True)
    is_right = np.random.default_rng(train.trial).permutation(10) < 10 * share
    right = 2.0 * np.eye(2)[labels] - 1.0
    logits = np.where(is_right, 1.0, -1.0)[:, None] * right
    np.savez(path, validation=logits.astype(np.float16), validation_mirrored=(2.0 * right).astype(np.float16), validation_labels=labels)
    return str(path)
