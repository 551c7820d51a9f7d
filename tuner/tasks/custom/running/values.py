"""Values: what user code sees of a trial's hyperparameters. It asks the worker for those that are not known yet."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from tuner import wording
from tuner.errors import TrainingError
from tuner.protocol import messages
from tuner.protocol.messages import WorkerPort
from tuner.spec import domains
from tuner.spec.hyperparameters import Plain

#: longest name that Optuna's tables hold
_NAME_LENGTH = 512


class Interrupted(BaseException):
    """Ends a trial because the worker wants that; no `except Exception` in user code catches it."""

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
        #: names of the values that the code has used
        self.used: set[str] = set()

    def restore(self, asked: Mapping[str, Plain]) -> None:
        """Take over what an earlier attempt at the trial asked for."""
        self.asked |= dict(asked)

    @property
    def questions(self) -> tuple[messages.Ask, ...]:
        """What the code asked for and the study file does not name, in this order."""
        return tuple(self._questions.values())

    def declared(self, name: str) -> bool:
        """Return whether the study file names a hyperparameter."""
        return name in self._declared

    def value(self, name: str) -> Plain:
        """Return a value that is known.

        Raises:
            KeyError: it is not.
        """
        value = self.asked[name]
        self.used.add(name)
        return value

    def ask(self, question: messages.Ask) -> Plain:
        """Return the value for a question.

        Raises:
            TrainingError: the question contradicts an earlier one.
            Interrupted: the worker ends the trial.
        """
        name = question.name
        self.used.add(name)
        if name in self._declared:
            if name not in self.asked:
                raise TrainingError(
                    f"the code asks for {name}, which does not act in this trial: its condition in the section search does not hold",
                    kind="InactiveHyperparameter",
                )
            return self.asked[name]
        before = self._questions.setdefault(name, question)
        if before != question:
            raise TrainingError(
                f"the code asks twice for {name}, first with {_possible(before)}, then with {_possible(question)}; "
                "give both the same values, or one of them another name",
                kind="ChangedDistribution",
            )
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

    def use_all(self) -> None:
        """Note that the code has seen all values that are known."""
        self.used |= self.asked.keys()

    def range(self, name: str, low: float, high: float, *, integer: bool, log: bool = False, step: float | None = None) -> messages.Ask:
        """Return the question for a number of a range, whose upper end is lowered to the last value that its steps reach.

        Raises:
            ValueError: it is no range.
        """
        low, high, step = plain(low), plain(high), plain(step)
        for end in (low, high, *(() if step is None else (step,))):
            if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
                raise ValueError(f"{name} has the range {wording.show([low, high])}; expected two numbers")
        if low > high:
            raise ValueError(f"{name} has the range {wording.show([low, high])}, but the lower end comes first")
        if log and low <= 0:
            raise ValueError(f"{name} has a range that starts at {wording.number(low)}, which a logarithmic scale does not allow")
        if step is not None:
            if step <= 0:
                raise ValueError(f"{name} has step {wording.number(step)}; expected a number above 0")
            high = _last(low, high, step)
        kind = int if integer else float
        if integer and any(end != int(end) for end in (low, high, *(() if step is None else (step,)))):
            raise ValueError(f"{name} has the range {wording.show([low, high])}; expected whole numbers")
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
        values = tuple(map(plain, choices))
        if not values:
            raise ValueError(f"{name} has no choices")
        for value in values:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"{name} has the choice {value}, which no database can hold; use None or a text, and convert it in the code"
                )
            if not (value is None or isinstance(value, bool | int | float | str)):
                raise ValueError(f"{name} has the choice {wording.show(value)}; expected numbers, text, true, false or None")
        return messages.Ask(trial=self._trial, name=_name(name), choices=values)


def _possible(question: messages.Ask) -> str:
    """Return the possible values of a question, in words."""
    if question.low is None or question.high is None:
        return f"the choices {wording.show(list(question.choices))}"
    kind = " on a logarithmic scale" if question.log else ""
    step = "" if question.step is None else f" in steps of {wording.number(question.step)}"
    return f"the range {wording.show([question.low, question.high])}{kind}{step}"


def plain(given: Any) -> Any:
    """Return a number of NumPy as one of Python, and anything else as it is."""
    return given.item() if hasattr(given, "item") and getattr(given, "shape", None) == () else given


def is_storable_name(given: Any) -> bool:
    """Return whether a name fits a database: it has 1 to 512 characters, all of them valid."""
    if not isinstance(given, str) or not 1 <= len(given) <= _NAME_LENGTH or "\0" in given:
        return False
    try:
        given.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _name(given: Any) -> str:
    if not is_storable_name(given):
        raise ValueError(f"a hyperparameter has the name {wording.show(given)}; expected a text of at most {_NAME_LENGTH} characters")
    return str(given)


class HyperParameters:
    """The hyperparameters of a trial, with the interface of KerasTuner's `HyperParameters`; `hp["layers"]` gives a known value.

    A hyperparameter whose condition does not hold is not asked for: the code gets its default.
    """

    def __init__(self, questions: AskedValues) -> None:
        self._questions = questions
        #: the conditions of the blocks that the code is in
        self._scopes: list[tuple[str, tuple[Any, ...]]] = []
        #: the names of the blocks that the code is in, which stand before the names of hyperparameters
        self._prefixes: list[str] = []
        #: values that the code fixes
        self._fixed: dict[str, Any] = {}
        #: hyperparameters that the code has named whose condition does not hold
        self._inactive: set[str] = set()

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
        return int(value)

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
        return float(value)

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
        question = self._questions.choice(self._full(name), values)
        if default is not None and not any(domains.is_same(default, value) for value in question.choices):
            among = wording.listed(map(wording.show, question.choices))
            raise ValueError(f"{name} has the default {wording.show(default)}, which is not among {among}")
        if not self._acts(name, parent_name, parent_values):
            return question.choices[0] if default is None else default
        return self._questions.ask(question)

    def Boolean(  # noqa: N802 -- as in KerasTuner
        self, name: str, default: bool = False, parent_name: str | None = None, parent_values: Any = None
    ) -> bool:
        """Return true or false."""
        if not self._acts(name, parent_name, parent_values):
            return default
        return bool(self._questions.ask(self._questions.choice(self._full(name), (False, True))))

    def Fixed(self, name: str, value: Any, parent_name: str | None = None, parent_values: Any = None) -> Any:  # noqa: N802
        """Return the value, which is not searched unless the study file names it."""
        full = self._full(name)
        if self._acts(name, parent_name, parent_values):
            if self._questions.declared(full) and full in self._questions.asked:
                return self._questions.value(full)
            self._fixed[full] = value
        return value

    @contextmanager
    def conditional_scope(self, parent_name: str, parent_values: Any) -> Iterator[None]:
        """Ask inside a `with` block only if another hyperparameter has one of some values; otherwise give defaults.

        Raises:
            ValueError: the code has not named the other hyperparameter yet.
        """
        self._scopes.append(self._condition(parent_name, parent_values))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put `name/` before the names of the hyperparameters inside a `with` block."""
        self._prefixes.append(name)
        try:
            yield
        finally:
            self._prefixes.pop()

    def get(self, name: str) -> Any:
        """Return a value that is known.

        Raises:
            ValueError: its condition does not hold in this trial.
            KeyError: the code has not asked for it yet, and the study file does not name it.
        """
        return self[name]

    @property
    def values(self) -> Mapping[str, Any]:
        """All values that are known."""
        self._questions.use_all()
        return dict(self._questions.asked) | self._fixed

    def __getitem__(self, name: str) -> Any:
        full, known = self._full(name), self._known
        if full in self._fixed:
            return self._fixed[full]
        if full in known:
            return self._questions.value(full)
        if full in self._inactive or self._questions.declared(full):
            raise ValueError(f"{name} does not act in this trial, because its condition does not hold")
        empty = f'The section search is empty. Name {name} there, or ask for it in the code, as in hp.Int("{name}", 1, 8).'
        raise KeyError(f"there is no hyperparameter {name}. {wording.known(list(known), name) if known else empty}")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._full(name) in self._known

    @property
    def _known(self) -> Mapping[str, Any]:
        return self._questions.asked | self._fixed

    def _full(self, name: str) -> str:
        return "/".join([*self._prefixes, name]) if self._prefixes and isinstance(name, str) else name

    def _condition(self, parent_name: str, parent_values: Any) -> tuple[str, tuple[Any, ...]]:
        full = self._full(parent_name)
        if full not in self._known and full not in self._inactive and not self._questions.declared(full):
            raise ValueError(
                f"a hyperparameter depends on {parent_name}, which the code has not asked for yet; ask for {parent_name} first"
            )
        return full, _as_tuple(parent_values)

    def _acts(self, name: str, parent_name: str | None, parent_values: Any) -> bool:
        """Return whether the conditions of a hyperparameter hold; one without a value meets none."""
        conditions = [*self._scopes, *([] if parent_name is None else [self._condition(parent_name, parent_values)])]
        known = self._known
        acts = all(other in known and any(domains.is_same(known[other], value) for value in values) for other, values in conditions)
        if not acts and self._full(name) not in known:
            self._inactive.add(self._full(name))
        return acts

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
        questions, full, is_log = self._questions, self._full(name), sampling == "log"
        is_stepped = is_log and step is not None  # KerasTuner multiplies by the step
        question = questions.range(full, low, high, integer=integer, log=is_log, step=None if is_stepped else step)
        if is_stepped:
            question = questions.choice(full, _multiples(name, low, high, step or 0))
        if default is not None and not low <= default <= high:
            raise ValueError(f"{name} has the default {wording.number(default)}, which is not in the range {wording.show([low, high])}")
        if not self._acts(name, *parent):
            return low if default is None else default
        if sampling == "reverse_log" and not questions.declared(full):
            raise ValueError(
                f"{name} has sampling reverse_log, which Optuna's samplers do not have. Ask for the distance from a number on a log "
                f'scale, such as 1 - hp.Float("{name}_distance", 0.001, 0.1, sampling="log"), or name {name} in the section search'
            )
        value = questions.ask(question)
        if isinstance(value, bool) or not isinstance(value, int | float) or (integer and value != int(value)):
            kind = "whole number" if integer else "number"
            raise TrainingError(
                f"the study file gives {name} the value {wording.show(value)}; the code asks for a {kind}", kind="NotANumber"
            )
        return value


def _last(low: float, high: float, step: float) -> float:
    """Return the last number of a range that its steps reach, exactly as Optuna does: in decimal numbers."""
    first, last, between = (Decimal(str(number)) for number in (low, high, step))
    reached = (last - first) // between * between + first
    return high if reached == last else float(reached)


def _multiples(name: str, low: float, high: float, factor: float) -> tuple[float, ...]:
    if factor <= 1 or low <= 0:
        raise ValueError(
            f"{name} has step {wording.number(factor)} on a logarithmic scale from {wording.number(low)}; expected a factor above 1"
        )
    count = math.floor(math.log(high / low) / math.log(factor) + 1e-9)
    return tuple(low * factor**power for power in range(count + 1))


def _as_tuple(values: Any) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (values,)
