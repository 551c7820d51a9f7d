"""Objectives of Optuna for the trainer: implements the interfaces of `tasks.task` without importing Keras or Optuna."""

import contextlib
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from tuner import wording
from tuner.errors import DataError, TrainingError
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage, WorkerPort
from tuner.spec.hyperparameters import Plain
from tuner.tasks.custom.running.values import AskedValues, Interrupted, is_storable_name
from tuner.tasks.custom.spec.custom_study import ObjectiveStudySpec
from tuner.trust import age, at_rest, user_code

#: a JSON text of a longer attribute is refused: databases limit its length
_ATTRIBUTE_LENGTH = 60_000
#: the highest step that all databases can hold
_LAST_STEP = 2**31 - 1
#: packages whose versions a worker records, if they are installed
_PACKAGES = ("optuna", "keras", "tensorflow", "torch", "scikit-learn", "xgboost", "lightgbm")


class PreparedObjective:
    """An objective that is imported, ready to be called; implements `task.PreparedStudy`."""

    num_traced = 0

    def __init__(self, study: ObjectiveStudySpec, *, share: TrainerShare) -> None:
        self._study, self._share = study, share
        self._code = user_code.read([study.function], study.folder)
        found = user_code.load(study.function, study.folder, field="function")
        made = user_code.called(found, doing=f"making a {study.function}") if isinstance(found, type) else found
        user_code.require_arguments(made, study.function, field="function", form="objective(trial)")
        self._function: Callable[[Any], Any] = made

    def describe(self, *, seconds: float) -> messages.Prepared:
        """Return the facts that the worker records about the study."""
        threads = self._share.threads
        return messages.Prepared(
            device=f"cpu, {threads} threads" if threads != 1 else "cpu, 1 thread",
            classes=(),
            num_train=0,
            num_validation=0,
            num_test=0,
            epochs=0,
            fingerprint="",
            splits="",
            versions=_versions(),
            seconds=seconds,
            code=self._code,
        )

    def try_once(self) -> tuple[tuple[str, str], ...]:
        """Return what is known of the objective, which is not called: a call may take hours."""
        words = (getattr(self._function, "__doc__", None) or "").strip().splitlines()
        about = f": {words[0]}" if words else ""
        return (("function", f"{self._study.function} can be imported{about}"), ("call", "not tried: the objective says how long it takes"))

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        """Call the objective, as often as the study says, each time with another seed."""
        questions, num_calls = AskedValues(order, worker, declared=frozenset(self._study.search)), self._study.num_executions
        trial = ObjectiveTrial(order, worker, questions, code="".join(file.sha256 for file in self._code), num_calls=num_calls)
        trial.resume()
        ending, value, reason = Ending.COMPLETED, cast("float | None", None), ""
        with user_code.captured() as printed, user_code.contained(trial.warn):
            while ending is Ending.COMPLETED and len(trial.ended) < num_calls:
                ending, value, reason = self._call(trial)
        values = [call.value for call in trial.ended]
        spread = messages.spread(values) if ending is Ending.COMPLETED else {}
        own = {(f"user.{name}" if name in spread else name): value for name, value in trial.user_attrs.items()}
        suspended = ending is Ending.SUSPENDED
        return messages.Finished(
            trial=order.trial,
            ending=ending,
            reason=reason,
            value=statistics.fmean(values) if ending is Ending.COMPLETED else value,
            best_step=trial.best_step(self._study.objective.merit),
            fine_tune_seconds=trial.seconds,
            asked=None if suspended else dict(questions.asked),
            attributes=own | spread,
            printed=printed.last(),
        )

    def _call(self, trial: "ObjectiveTrial") -> tuple[Ending, float | None, str]:
        try:
            result = user_code.called(lambda: self._function(trial.begun()), doing="calling the objective", passes=(Interrupted,))
        except Interrupted as interrupted:
            is_stop = isinstance(interrupted.wanted, messages.Stop)
            return (Ending.STOPPED if is_stop else Ending.SUSPENDED), trial.last_value, ""
        except user_code.UserCodeError as error:
            if _is_pruned(error.__cause__):
                return Ending.STOPPED, trial.last_value, "the objective raised TrialPruned"
            if isinstance(error.__cause__, TrainingError):
                raise error.__cause__ from error
            raise
        value = _number(result)
        if not math.isfinite(value):
            return Ending.NOT_FINITE, trial.last_value, f"the objective returned {value:g}"
        trial.end(value)
        return Ending.COMPLETED, value, ""

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        """Raise an error: an objective has no test split."""
        raise TrainingError("an objective has no test split", kind="NoTestSplit")


def _is_pruned(error: BaseException | None) -> bool:
    """Return whether an exception is Optuna's TrialPruned, which only user code imports here."""
    return any(kind.__name__ == "TrialPruned" and kind.__module__.startswith("optuna") for kind in type(error).__mro__)


def _number(result: Any) -> float:
    """Return what an objective returned as a number.

    Raises:
        TrainingError: it is something else.
    """
    if isinstance(result, tuple | list):
        raise TrainingError(
            f"the objective returned {len(result)} values; tuner optimizes one number: return one of them, or a weighted sum",
            kind="NotOneValue",
        )
    try:
        if result is None or isinstance(result, str | bytes | bool):
            raise TypeError
        return float(result)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"the objective returned {wording.show(result)}; expected one number", kind="NotANumber") from error


class EndedCall(BaseModel):
    """A call of the objective that has returned, one of several."""

    model_config = ConfigDict(frozen=True)

    value: float
    #: what is added to the steps of the next call, so that they count on
    first_step: int
    seconds: float
    #: values and attributes of the trial at its end
    asked: dict[str, Plain]
    attributes: dict[str, Any]


class ObjectiveTrial:
    """A trial as an objective sees it, with the interface of `optuna.Trial`."""

    def __init__(self, order: messages.Train, worker: WorkerPort, questions: AskedValues, *, code: str = "", num_calls: int = 1) -> None:
        """`code`: a text that changes with the code of the objective."""
        self._order, self._worker, self._questions, self._code, self._num_calls = order, worker, questions, code, num_calls
        #: the calls that have returned
        self.ended: list[EndedCall] = []
        #: the values of all calls, by their steps, which count on through the calls
        self._reported: dict[int, float] = {}
        #: whether the current call has reported a value
        self._has_reported = False
        self._began = self._since = time.perf_counter()
        self._attributes: dict[str, Any] = {}
        #: the last value that was reported; None if none was
        self.last_value: float | None = None

    @property
    def number(self) -> int:
        """The number of the trial, counted from 0."""
        return self._order.trial

    @property
    def seed(self) -> int:
        """A seed for everything random in the trial, the same in every attempt at it; each of several calls has its own."""
        return self._order.seed_of(len(self.ended)) % 2**32

    @property
    def checkpoint_dir(self) -> Path:
        """A folder for checkpoints, which a later attempt at the trial on this machine finds again; it is deleted when the trial ends."""
        folder = Path(self._order.checkpoint).parent / messages.OWN_CHECKPOINTS
        if self._num_calls > 1:  # a call must not continue from the end of another one
            folder /= f"{len(self.ended)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def params(self) -> dict[str, Plain]:
        """The values that the trial has asked for."""
        return dict(self._questions.asked)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The attributes that `set_user_attr` set."""
        return dict(self._attributes)

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> float:
        """Return a number from `low` to `high`."""
        if step is not None and log:
            raise ValueError(f"{name} has both step and log; choose one")
        return float(self._ask(self._questions.range(name, low, high, integer=False, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number from `low` to `high`."""
        if step != 1 and log:
            raise ValueError(f"{name} has both step and log; choose one")
        return int(self._ask(self._questions.range(name, low, high, integer=True, log=log, step=None if step == 1 else step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of some values."""
        return self._ask(self._questions.choice(name, choices))

    def report(self, value: float, step: int) -> None:
        """Report a value at a step; of several values at one step, the first counts.

        Raises:
            TypeError: the value is no number.
            ValueError: the step is no whole number from 0 that the databases can hold.
        """
        self._obey()
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the value {wording.show(value)} was reported; expected a number") from error
        at = int(step)
        if not 0 <= at <= _LAST_STEP - self._first_step or at != step:
            last = _LAST_STEP - self._first_step
            raise ValueError(f"the step {wording.show(step)} was reported; expected a whole number from 0 to {last:,}")
        at += self._first_step
        if at in self._reported:
            return
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._reported[at] = self.last_value = number
        self._has_reported = True
        epoch = messages.Epoch(trial=self.number, stage=Stage.TRAIN, step=at, seconds=seconds, value=number)
        self._note(messages.encode(epoch))
        self._worker.send(epoch)

    @property
    def _first_step(self) -> int:
        """What is added to the steps of the current call."""
        return self.ended[-1].first_step if self.ended else 0

    @property
    def seconds(self) -> float:
        """How long the calls took that have returned, and the current attempt at the next one."""
        current = time.perf_counter() - self._began if len(self.ended) < self._num_calls else 0.0
        return current + sum(call.seconds for call in self.ended)

    def begun(self) -> "ObjectiveTrial":
        """Return the trial for its next call.

        Raises:
            Interrupted: the worker ends the trial between two calls.
        """
        if self.ended:
            self._obey()
        self._began = self._since = time.perf_counter()
        self._has_reported = False
        return self

    def end(self, value: float) -> None:
        """Note the value of a call, so that no later attempt at the trial repeats it."""
        call = EndedCall(
            value=value,
            first_step=max(self._reported) + 1 - min(self._reported) if self._reported else 0,
            seconds=time.perf_counter() - self._began,
            asked=self.params,
            attributes=self.user_attrs,
        )
        self.ended.append(call)
        if self._num_calls > 1:
            self._note(call.model_dump_json().encode())
            self._share()

    def resume(self) -> None:
        """Take over the calls of an earlier attempt, and report its values: a killed worker may not have stored them.

        If this machine and another one know some calls, the machine with more of them counts.
        """
        noted = self._noted(self._reports)
        if noted is None:
            self._reports.unlink(missing_ok=True)  # of another study of this name, or of other code
        fetched = None if self._order.fetched is None else self._noted(Path(self._order.fetched))
        if fetched is not None and _num_ended(fetched) > _num_ended(noted or []):
            noted = fetched
            self._reports.unlink(missing_ok=True)
            for one in fetched:
                self._note(messages.encode(one) if isinstance(one, messages.Epoch) else one.model_dump_json().encode())
        if not noted:
            return
        curve: list[messages.Epoch] = []
        for found in noted:
            if isinstance(found, messages.Epoch):
                curve.append(found)
                continue
            self.ended.append(found)
            self._questions.restore(found.asked)
            self._attributes = dict(found.attributes)
            self._reported = {epoch.step: epoch.measured for epoch in reversed(curve)}
            self.last_value = curve[-1].measured if curve else None
        if curve:
            self._worker.send(messages.Resumed(trial=self.number, curve=tuple(curve)))

    def _noted(self, path: Path) -> "list[messages.Epoch | EndedCall] | None":
        """Return the reported values and the ended calls of a file; None if there are none of this trial and this code."""
        try:
            with at_rest.opened(path) as file:
                head, *lines = file.read().splitlines()
            known = json.loads(head)
        except (FileNotFoundError, ValueError, age.Damaged):
            return None
        if not isinstance(known, dict) or known.get("code") != self._code or not _agree(known.get("values"), self._order.chosen):
            return None
        return [found for line in lines if (found := _read(line)) is not None]

    def _share(self) -> None:
        """Write the ended calls to the checkpoint, which a bucket gives to other machines; on a full disk, do without."""
        target = Path(self._order.checkpoint)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")

        def save(file: BinaryIO) -> None:
            file.write(self._reports.read_bytes())

        try:
            with part.open("wb") as file:
                at_rest.write(file, save)
            part.replace(target)
        except OSError:
            part.unlink(missing_ok=True)
        else:
            self._worker.send(messages.CheckpointWritten(trial=self.number))

    @property
    def _reports(self) -> Path:
        return Path(self._order.checkpoint).parent / messages.REPORTS

    def _note(self, line: bytes) -> None:
        """Write a reported value, or the end of a call, to a file; on a full disk, do without."""
        with contextlib.suppress(OSError):
            if not self._reports.exists():
                self._reports.parent.mkdir(parents=True, exist_ok=True)
                self._reports.write_text(json.dumps({"code": self._code, "values": self.params}) + "\n")
            with self._reports.open("ab") as file:
                file.write(line + b"\n")

    def should_prune(self) -> bool:
        """Return whether the pruner of the study gives up this trial; the objective then raises `optuna.TrialPruned`."""
        self._obey()
        if not self._has_reported:
            return False
        answer = self._worker.ask(messages.AskPruning(trial=self.number))
        if not isinstance(answer, messages.Answer):
            raise Interrupted(answer)
        return answer.value is True

    def set_user_attr(self, key: str, value: Any) -> None:
        """Store a value of JSON with the trial, when it ends.

        Raises:
            TypeError: JSON has no such value.
            ValueError: it is too long, or the key is no name.
        """
        if not is_storable_name(str(key)):
            raise ValueError(f"an attribute has the key {wording.show(key)}; expected a text of at most 512 characters")
        text = json.dumps(value)
        if len(text) > _ATTRIBUTE_LENGTH:
            raise ValueError(f"the attribute {key} is {len(text):,} characters long as JSON; expected at most {_ATTRIBUTE_LENGTH:,}")
        self._attributes[str(key)] = json.loads(text)

    def warn(self, message: str) -> None:
        """Tell the worker of a problem that does not end the trial."""
        self._worker.send(messages.TrialWarning(trial=self.number, message=message))

    def best_step(self, merit: Callable[[float], float]) -> int | None:
        """Return the step of the best reported value; None if none was reported."""
        finite: Mapping[int, float] = {step: value for step, value in self._reported.items() if math.isfinite(value)}
        return max(finite, key=lambda step: (merit(finite[step]), -step), default=None)

    def _ask(self, question: messages.Ask) -> Any:
        self._obey()
        return self._questions.ask(question)

    def _obey(self) -> None:
        wanted = self._worker.interruption()
        if wanted is not None:
            raise Interrupted(wanted)

    def __getattr__(self, name: str) -> Any:
        if name == "study":
            raise AttributeError(
                "trial.study does not exist here: the objective runs in a process of its own, without the study. "
                "Use what the trial offers: number, params, report, should_prune, set_user_attr, checkpoint_dir, seed"
            )
        raise AttributeError(
            f"a trial of tuner has no {name}; it has number, params, seed, checkpoint_dir, user_attrs and the methods of Optuna's "
            "trial: suggest_float, suggest_int, suggest_categorical, report, should_prune, set_user_attr"
        )


def _agree(some: Any, others: Mapping[str, Plain]) -> bool:
    """Return whether two attempts at a trial have the same values, as far as both have them."""
    return isinstance(some, dict) and all(others.get(name, value) == value for name, value in some.items())


def _num_ended(noted: "Sequence[messages.Epoch | EndedCall]") -> int:
    return sum(not isinstance(one, messages.Epoch) for one in noted)


def _read(line: bytes) -> messages.Epoch | EndedCall | None:
    """Return a reported value, or the end of a call; None if a killed process has not written its line to the end."""
    for read in (messages.Epoch.model_validate_json, EndedCall.model_validate_json):
        with contextlib.suppress(ValidationError):
            return read(line)
    return None


def prepare(study: ObjectiveStudySpec, *, cache: Path, share: TrainerShare) -> PreparedObjective:
    """Import the objective of a study.

    Raises:
        DataError: it cannot be imported, or is no function.
    """
    try:
        return PreparedObjective(study, share=share)
    except user_code.UserCodeError as error:
        raise DataError(str(error)) from error


def _versions() -> dict[str, str]:
    """Return the versions of Python, tuner and the usual packages that are installed."""
    found = {"python": platform.python_version(), "tuner": metadata.version("tuner")}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
