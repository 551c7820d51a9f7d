"""Values: what code of the user's sees of a trial's hyperparameters. It asks the worker for those that are not known yet."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tuner import wording
from tuner.errors import TrainingError
from tuner.protocol import messages
from tuner.protocol.messages import WorkerPort
from tuner.spec.hyperparameters import Plain


class Interrupted(BaseException):
    """Ends a trial because the worker wants that; no `except Exception` of the user's catches it."""

    def __init__(self, wanted: messages.Stop | messages.Suspend) -> None:
        super().__init__("the worker ends the trial")
        self.wanted = wanted


class AskedValues:
    """Asks the worker for the values of one trial, each once."""

    def __init__(self, order: messages.Train, worker: WorkerPort, *, declared: frozenset[str]) -> None:
        """`declared`: the hyperparameters that the study file names; the worker chose all of them that act."""
        self._trial, self._worker, self._declared = order.trial, worker, declared
        self._known: dict[str, Plain] = order.chosen
        #: what the code asked for, in this order
        self.asked: dict[str, Plain] = {name: value for name, value in self._known.items() if name in declared}
        self._questions: dict[str, messages.Ask] = {}

    def restore(self, asked: Mapping[str, Plain]) -> None:
        """Take over what an earlier attempt at the trial asked for."""
        self.asked |= dict(asked)

    def declared(self, name: str) -> bool:
        """Return whether the study file names a hyperparameter."""
        return name in self._declared

    def value(self, name: str) -> Plain:
        """Return a value that is known.

        Raises:
            KeyError: it is not.
        """
        return self.asked[name]

    def ask(self, question: messages.Ask) -> Plain:
        """Return the value for a question.

        Raises:
            TrainingError: the question contradicts an earlier one.
            Interrupted: the worker ends the trial.
        """
        name = question.name
        if name in self._declared:
            if name not in self.asked:
                raise TrainingError(
                    f"the code asks for {name}, which does not act in this trial: its condition in the section search does not hold",
                    kind="InactiveHyperparameter",
                )
            return self.asked[name]
        before = self._questions.setdefault(name, question)
        if before != question:
            raise TrainingError(f"the code asks twice for {name}, with different possible values", kind="ChangedDistribution")
        if name not in self.asked:
            self.asked[name] = self._answer(question)
        return self.asked[name]

    def _answer(self, question: messages.Ask) -> Plain:
        answer = self._worker.ask(question)
        if not isinstance(answer, messages.Answer):
            raise Interrupted(answer)
        if answer.refusal:
            raise TrainingError(answer.refusal, kind="ChangedDistribution")
        return answer.value

    def range(self, name: str, low: float, high: float, *, integer: bool, log: bool = False, step: float | None = None) -> messages.Ask:
        """Return the question for a number of a range.

        Raises:
            ValueError: it is no range.
        """
        for end in (low, high, *(() if step is None else (step,))):
            if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
                raise ValueError(f"{name} has the range {wording.show([low, high])}; expected two numbers")
        if low > high:
            raise ValueError(f"{name} has the range {wording.show([low, high])}, but the lower end comes first")
        if log and low <= 0:
            raise ValueError(f"{name} has a range that starts at {wording.number(low)}, which a logarithmic scale does not allow")
        if step is not None and step <= 0:
            raise ValueError(f"{name} has step {wording.number(step)}; expected a number above 0")
        kind = int if integer else float
        return messages.Ask(
            trial=self._trial,
            name=_name(name),
            low=kind(low),
            high=kind(high),
            integer=integer,
            log=log,
            step=None if step is None else kind(step),
        )

    def choice(self, name: str, choices: Sequence[Any]) -> messages.Ask:
        """Return the question for one of some values.

        Raises:
            ValueError: there are none, or a value is not plain.
        """
        values = tuple(choices)
        if not values:
            raise ValueError(f"{name} has no choices")
        for value in values:
            if not (value is None or isinstance(value, bool | int | float | str)):
                raise ValueError(f"{name} has the choice {wording.show(value)}; expected numbers, text, true, false or None")
        return messages.Ask(trial=self._trial, name=_name(name), choices=values)


def _name(given: Any) -> str:
    if not isinstance(given, str) or not given or len(given) > 512:
        raise ValueError(f"a hyperparameter has the name {wording.show(given)}; expected a text of at most 512 characters")
    return given


class HyperParameters:
    """The hyperparameters of a trial, with the interface of KerasTuner's `HyperParameters`; `hp["layers"]` gives a known value."""

    def __init__(self, questions: AskedValues) -> None:
        self._questions = questions
        #: the conditions of the blocks that the code is in
        self._scopes: list[tuple[str, tuple[Any, ...]]] = []

    def Int(  # noqa: N802, PLR0913 -- as in KerasTuner
        self,
        name: str,
        min_value: int,
        max_value: int,
        step: int | None = None,
        sampling: str | None = None,
        default: int | None = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> int:
        """Return a whole number from `min_value` to `max_value`."""
        value = self._number(name, min_value, max_value, step, sampling, default, (parent_name, parent_values), integer=True)
        return int(value) if value is not None else min_value

    def Float(  # noqa: N802, PLR0913 -- as in KerasTuner
        self,
        name: str,
        min_value: float,
        max_value: float,
        step: float | None = None,
        sampling: str | None = None,
        default: float | None = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> float:
        """Return a number from `min_value` to `max_value`."""
        value = self._number(name, min_value, max_value, step, sampling, default, (parent_name, parent_values), integer=False)
        return float(value) if value is not None else min_value

    def Choice(  # noqa: N802 -- as in KerasTuner
        self,
        name: str,
        values: Sequence[Any],
        ordered: bool | None = None,
        default: Any = None,
        parent_name: str | None = None,
        parent_values: Any = None,
    ) -> Any:
        """Return one of some values."""
        if not self._acts(parent_name, parent_values):
            return values[0] if default is None else default
        return self._questions.ask(self._questions.choice(name, values))

    def Boolean(  # noqa: N802 -- as in KerasTuner
        self, name: str, default: bool = False, parent_name: str | None = None, parent_values: Any = None
    ) -> bool:
        """Return true or false."""
        if not self._acts(parent_name, parent_values):
            return default
        return bool(self._questions.ask(self._questions.choice(name, (True, False))))

    def Fixed(self, name: str, value: Any, parent_name: str | None = None, parent_values: Any = None) -> Any:  # noqa: N802
        """Return the value, which is not searched."""
        return self._questions.value(name) if self._questions.declared(name) else value

    @contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        """Ask inside a `with` block only if another hyperparameter has one of some values; otherwise give defaults."""
        self._scopes.append((parent_name, _as_tuple(parent_values)))
        try:
            yield
        finally:
            self._scopes.pop()

    def get(self, name: str) -> Any:
        """Return a value that is known.

        Raises:
            KeyError: the code has not asked for it yet, and the study file does not name it.
        """
        return self[name]

    @property
    def values(self) -> Mapping[str, Any]:
        """All values that are known."""
        return dict(self._questions.asked)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._questions.value(name)
        except KeyError as error:
            known = list(self._questions.asked)
            raise KeyError(
                f"there is no hyperparameter {name}. {wording.known(known, name) if known else 'The section search is empty.'}"
            ) from error

    def __contains__(self, name: object) -> bool:
        return name in self._questions.asked

    def _acts(self, parent_name: str | None, parent_values: Any) -> bool:
        conditions = [*self._scopes, *([] if parent_name is None else [(parent_name, _as_tuple(parent_values))])]
        return all(name in self and any(_same(self[name], value) for value in values) for name, values in conditions)

    def _number(  # noqa: PLR0913
        self,
        name: str,
        low: float,
        high: float,
        step: float | None,
        sampling: str | None,
        default: float | None,
        parent: tuple[str | None, Any],
        *,
        integer: bool,
    ) -> Any:
        if sampling not in (None, "linear", "log", "reverse_log"):
            raise ValueError(f"{name} has sampling {wording.show(sampling)}; expected linear, log or reverse_log")
        if not self._acts(*parent):
            return low if default is None else default
        questions = self._questions
        if sampling == "log" and step is not None:  # KerasTuner multiplies by the step
            return questions.ask(questions.choice(name, _multiples(name, low, high, step)))
        if sampling == "reverse_log":  # Optuna has no such scale: the distance from the upper end is sampled on a logarithmic one
            question = questions.range(name, low, high, integer=integer, log=False)
            return questions.ask(question)
        log = sampling == "log"
        return questions.ask(questions.range(name, low, high, integer=integer, log=log, step=step))


def _multiples(name: str, low: float, high: float, factor: float) -> tuple[float, ...]:
    if factor <= 1 or low <= 0:
        raise ValueError(
            f"{name} has step {wording.number(factor)} on a logarithmic scale from {wording.number(low)}; expected a factor above 1"
        )
    values = [low]
    while values[-1] * factor <= high * (1 + 1e-9):
        values.append(values[-1] * factor)
    return tuple(values)


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (values,)


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
