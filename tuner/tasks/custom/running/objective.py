"""Objectives of Optuna for the trainer: implements the interfaces of `tasks.task` without importing Keras or Optuna."""

import contextlib
import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuner import wording
from tuner.errors import DataError, TrainingError
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage, WorkerPort
from tuner.spec.hyperparameters import Plain
from tuner.tasks.custom.running.values import AskedValues, Interrupted, is_storable_name
from tuner.tasks.custom.spec.custom_study import ObjectiveStudySpec
from tuner.trust import user_code

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
        """Call the objective once."""
        questions = AskedValues(order, worker, declared=frozenset(self._study.search))
        trial = ObjectiveTrial(order, worker, questions, code="".join(file.sha256 for file in self._code))
        trial.resume()
        start = time.perf_counter()
        with user_code.captured() as printed, user_code.contained(trial.warn):
            ending, value, reason = self._call(trial)
        suspended = ending is Ending.SUSPENDED
        return messages.Finished(
            trial=order.trial,
            ending=ending,
            reason=reason,
            value=value,
            best_step=trial.best_step(self._study.objective.merit),
            fine_tune_seconds=time.perf_counter() - start,
            asked=None if suspended else dict(questions.asked),
            attributes=trial.user_attrs,
            printed=printed.last(),
        )

    def _call(self, trial: "ObjectiveTrial") -> tuple[Ending, float | None, str]:
        try:
            result = user_code.called(lambda: self._function(trial), doing="calling the objective", passes=(Interrupted,))
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


class ObjectiveTrial:
    """A trial as an objective sees it, with the interface of `optuna.Trial`."""

    def __init__(self, order: messages.Train, worker: WorkerPort, questions: AskedValues, *, code: str = "") -> None:
        """`code`: a text that changes with the code of the objective."""
        self._order, self._worker, self._questions, self._code = order, worker, questions, code
        self._reported: dict[int, float] = {}
        self._since = time.perf_counter()
        self._attributes: dict[str, Any] = {}
        #: the last value that was reported; None if none was
        self.last_value: float | None = None

    @property
    def number(self) -> int:
        """The number of the trial, counted from 0."""
        return self._order.trial

    @property
    def seed(self) -> int:
        """A seed for everything random in the trial, the same in every attempt at it."""
        return self._order.seed

    @property
    def checkpoint_dir(self) -> Path:
        """A folder for checkpoints, which a later attempt at the trial on this machine finds again; it is deleted when the trial ends."""
        folder = Path(self._order.checkpoint).parent / messages.OWN_CHECKPOINTS
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
        if not 0 <= at <= _LAST_STEP or at != step:
            raise ValueError(f"the step {wording.show(step)} was reported; expected a whole number from 0 to {_LAST_STEP:,}")
        if at in self._reported:
            return
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._reported[at] = self.last_value = number
        epoch = messages.Epoch(trial=self.number, stage=Stage.TRAIN, step=at, seconds=seconds, value=number)
        self._note(epoch)
        self._worker.send(epoch)

    def resume(self) -> None:
        """Report the values of an earlier attempt on this machine again, because a killed worker may not have stored them."""
        try:
            head, *lines = self._reports.read_bytes().splitlines()
            known = json.loads(head)
        except (FileNotFoundError, ValueError):
            return
        if not isinstance(known, dict) or known.get("code") != self._code or not _agree(known.get("values"), self._order.chosen):
            self._reports.unlink()  # of another study of this name, or of other code
            return
        curve = tuple(epoch for line in lines if (epoch := _read(line)) is not None)
        if curve:
            self._worker.send(messages.Resumed(trial=self.number, curve=curve))

    @property
    def _reports(self) -> Path:
        return Path(self._order.checkpoint).parent / messages.REPORTS

    def _note(self, epoch: messages.Epoch) -> None:
        """Write a reported value to a file; on a full disk, do without."""
        with contextlib.suppress(OSError):
            if not self._reports.exists():
                self._reports.parent.mkdir(parents=True, exist_ok=True)
                self._reports.write_text(json.dumps({"code": self._code, "values": self.params}) + "\n")
            with self._reports.open("ab") as file:
                file.write(messages.encode(epoch) + b"\n")

    def should_prune(self) -> bool:
        """Return whether the pruner of the study gives up this trial; the objective then raises `optuna.TrialPruned`."""
        self._obey()
        if not self._reported:
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


def _read(line: bytes) -> messages.Epoch | None:
    """Return a reported value; None if a killed process has not written its line to the end."""
    try:
        found = messages.decode(line)
    except ValidationError:
        return None
    return found if isinstance(found, messages.Epoch) else None


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
