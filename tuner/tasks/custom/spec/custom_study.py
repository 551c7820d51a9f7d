"""Study files of user code: a Keras model and its data (task custom), or an objective of Optuna (task objective)."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, ValidationInfo, model_validator

from tuner import wording
from tuner.spec import domains
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.data import FilePath, Section, name_function
from tuner.spec.domains import Choice, Domain, Fixed, Range
from tuner.spec.hyperparameters import Plain
from tuner.spec.objective import OBJECTIVE, Constraints, Direction, Objective
from tuner.spec.strategies import BruteForce, Grid, Prior
from tuner.spec.study import AnyStudySpec, Executions, Seconds, unsuited_to_folds

_CODE = re.compile(r"(?P<place>[^:]+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_PARAMETER = re.compile(r"[A-Za-z_][\w.\-/]{0,199}")
#: keys of the long form of a searched hyperparameter
_KEYS = ("range", "choices", "log", "step", "when", "value")


def _check_code(given: str, info: ValidationInfo) -> str:
    if not _CODE.fullmatch(given):
        example = f"{info.field_name or 'function'}"
        raise ValueError(
            f"is {wording.show(given)}; expected a file and a function, such as my_code.py:{example}, or my_package.module:{example}"
        )
    return given


#: a function of a file, `my_code.py:build`, or of an importable module, `my_package.module:build`
Code = Annotated[str, BeforeValidator(name_function), AfterValidator(_check_code)]


class CustomModel(Section):
    """The Keras model of a trial."""

    build: Annotated[Code, Field(examples=["my_code.py:build"])]
    """function build(hp) that returns a keras.Model, compiled or not; or a class of KerasTuner's form with the methods build and fit"""


class CustomData(Section):
    """The data of every trial."""

    load: Annotated[Code, Field(examples=["my_code.py:load"])]
    """function load() or load(hp) that returns train, validation and possibly test: each (x, y), a tf.data.Dataset or a keras PyDataset"""


class EarlyStopping(Section):
    """Ends a trial that does not improve any more."""

    patience: Annotated[int, Field(ge=1)]
    """epochs without improvement after which the trial ends; it counts as completed"""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """smallest change that counts as an improvement"""


class ObjectiveTraining(Section):
    """How every trial is watched, and repeated."""

    stall_timeout: Annotated[Seconds, Field(gt=0)] | None = None
    """longest time without a report or a question of the code, which is then taken for an endless loop; null: `--hang-limit`"""
    executions: Executions = 1
    """trainings of each trial, or calls of the objective, with different seeds; the value of the trial is their mean"""


class CustomTraining(ObjectiveTraining):
    """How every trial is trained."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """epochs of each trial; a searched hyperparameter `epochs` takes its place"""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """examples per step, for data in arrays; a searched hyperparameter `batch_size` takes its place"""
    early_stopping: EarlyStopping | None = None
    """ends a trial that does not improve any more; null: never"""
    optimizer: str = "adam"
    """optimizer of a model that `build` does not compile, by its name in Keras; searched `optimizer` and `learning_rate` take its place"""
    loss: str | None = None
    """loss of a model that `build` does not compile, by its name in Keras"""
    metrics: tuple[str, ...] | None = None
    """metrics of a model that `build` does not compile, by their names in Keras; null: none"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """number format of the computation; auto: bfloat16 on GPUs where it is faster (compute capability 8.0 and above), else float32"""
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = None
    """batches of an epoch, for data without an end; null: all of them"""

    @model_validator(mode="before")
    @classmethod
    def _read_metrics(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("metrics"), list):
            return {**given, "metrics": tuple(given["metrics"])}
        return given


class Validation(Section):
    """Folds for small data: each part of the data validates once."""

    folds: Annotated[int, Field(ge=2, le=100)]
    """parts of the data; a trial trains once for each part, which validates, on all others; the value of the trial is the mean"""
    stratify: Literal["auto", "never"] = "auto"
    """whether each class has the same share in every fold; auto: if y is classes: text, true and false, one-hot or a few whole numbers"""
    train_on: Literal["folds", "all"] = "folds"
    """all: one training on all folds, which leaves no data for choices: tuner keeps the last epoch, and the file must fix all values"""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A hyperparameter that the section `search` names."""

    domain: Domain
    #: the values of other hyperparameters with which it acts, by their names; empty: it always acts
    when: Mapping[str, tuple[Plain, ...]]


def _read_search(given: Any) -> dict[str, Declared]:
    """Read the section `search`.

    Raises:
        Clashes: some of its lines are wrong.
        ValueError: it is no section.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"is {wording.show(given)}; expected a hyperparameter on each line, such as `units: [16, 512]`")
    found: dict[str, Declared] = {}
    wrong: list[Clash] = []
    for name, value in given.items():
        try:
            if not isinstance(name, str) or not _PARAMETER.fullmatch(name):
                raise ValueError("is not a valid name; expected letters, digits, dots, dashes and underscores")
            found[name] = value if isinstance(value, Declared) else _read_declared(value)
        except ValueError as error:
            wrong.append(Clash(field=str(name), message=str(error)))
    wrong += [] if wrong else list(_wrong_conditions(found))
    if wrong:
        raise Clashes(wrong)
    return found


def _read_declared(given: Any) -> Declared:
    when: Any = {}
    if isinstance(given, Mapping):
        if not given or not set(given) <= set(_KEYS):
            odd = [key for key in given if key not in _KEYS]
            what = f"has the key {wording.show(odd[0])}" if odd else "is empty"
            raise ValueError(f"{what}; expected range, choices or value, and possibly log, step and when")
        when = given.get("when", {})
    return Declared(domain=_read_domain(given), when=_read_when(when))


def _read_domain(given: Any) -> Domain:
    if isinstance(given, Mapping):
        kinds = [key for key in ("range", "choices", "value") if key in given]
        if len(kinds) != 1:
            raise ValueError("has none or several of range, choices and value; expected one of them")
        for key in ("log", "step"):
            if key in given and kinds != ["range"]:
                raise ValueError(f"has {key}, which acts only on a range; remove it")
        if kinds == ["range"]:
            return _read_range(given["range"], log=given.get("log", False), step=given.get("step"))
        return _read_choices(given["choices"]) if kinds == ["choices"] else Fixed(value=_read_plain(given["value"]))
    if isinstance(given, Sequence) and not isinstance(given, str):
        are_numbers = len(given) == 2 and all(domains.is_number(value) for value in given)
        return _read_range(given, log=False, step=None) if are_numbers else _read_choices(given)
    return Fixed(value=_read_plain(given))


def _read_range(given: Any, *, log: Any, step: Any) -> Domain:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2 or not all(domains.is_number(value) for value in given):
        raise ValueError(f"has the range {wording.show(given)}; expected two numbers, [low, high]")
    if not isinstance(log, bool):
        raise ValueError(f"has log: {wording.show(log)}; expected true or false")
    low, high = given
    if low > high:
        raise ValueError(f"has the range {wording.show([low, high])}, but the lower end comes first; write {wording.show([high, low])}")
    if log and low <= 0:
        raise ValueError(f"has a range that starts at {wording.number(low)}, which a logarithmic scale does not allow; start it above 0")
    integer = all(isinstance(value, int) for value in (low, high))
    if step is not None and (not domains.is_number(step) or step <= 0 or log or (integer and not isinstance(step, int))):
        kind = "a whole number above 0" if integer else "a number above 0"
        raise ValueError(f"has step: {wording.show(step)}; expected {kind}, and no log")
    if low == high:
        return Fixed(value=low)
    if step is not None and not domains.keeps_step(Range(low=low, high=high, step=step), high) and step > high - low:
        one = f"above the length of the range {wording.show([low, high])}, which has one value then"
        raise ValueError(f"has step: {wording.show(step)}, {one}; make the step smaller, or write the value alone")
    return Range(low=low, high=high, log=log, integer=integer, step=step)


def _read_choices(given: Any) -> Domain:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ValueError(f"has the choices {wording.show(given)}; expected a list with at least one value")
    values = tuple(_read_plain(value) for value in given)
    doubles = [value for index, value in enumerate(values) if any(domains.is_same(value, other) for other in values[:index])]
    if doubles:
        raise ValueError(f"lists {wording.listed(map(wording.show, doubles))} more than once")
    return Choice(values=values) if len(values) > 1 else Fixed(value=values[0])


def _read_plain(given: Any) -> Plain:
    if given is None or isinstance(given, bool | int | str) or (isinstance(given, float) and math.isfinite(given)):
        return given
    raise ValueError(f"contains {wording.show(given)}; expected numbers, text, true, false or null")


def _read_when(given: Any) -> dict[str, tuple[Plain, ...]]:
    if not isinstance(given, Mapping):
        raise ValueError(f"has when: {wording.show(given)}; expected another hyperparameter and its values, such as {{optimizer: sgd}}")
    return {
        str(name): tuple(map(_read_plain, value)) if isinstance(value, list | tuple) else (_read_plain(value),)
        for name, value in given.items()
    }


def _wrong_conditions(found: Mapping[str, Declared]) -> Iterator[Clash]:
    before: list[str] = []
    for name, declared in found.items():
        for other, values in declared.when.items():
            if other not in found:
                yield Clash(
                    field=name, message=f"acts when {other} has a value, but search has no {other}. {wording.known(list(found), other)}"
                )
            elif other not in before:
                yield Clash(field=name, message=f"acts when {other} has a value, so it must come after {other}; move it below")
            else:
                yield from _impossible(name, other, found[other].domain, values)
        before.append(name)


def _impossible(name: str, other: str, domain: Domain, values: Sequence[Plain]) -> Iterator[Clash]:
    if isinstance(domain, Range):
        odd = [value for value in values if not domains.is_number(value) or not domain.low <= float(value or 0) <= domain.high]
    else:
        odd = [value for value in values if not any(domains.is_same(value, known) for known in domains.values(domain))]
    if odd:
        yield Clash(
            field=name, message=f"acts when {other} is {wording.show(odd[0])}, which is not among its values: {domains.text(domain)}"
        )


def _write_search(found: Mapping[str, Declared]) -> dict[str, Any]:
    return {name: _write_declared(declared) for name, declared in found.items()}


def _write_declared(declared: Declared) -> Any:
    match declared.domain:
        case Fixed(value=value):
            plain: dict[str, Any] = {"value": value}
        case Choice(values=values):
            plain = {"choices": list(values)}
        case Range() as domain:
            ends = [int(domain.low), int(domain.high)] if domain.integer else [domain.low, domain.high]
            step = {} if domain.step is None else {"step": int(domain.step) if domain.integer else domain.step}
            plain = {"range": ends} | ({"log": True} if domain.log else {}) | step
    when = {name: list(values) if len(values) != 1 else values[0] for name, values in declared.when.items()}
    return plain | ({"when": when} if when else {})


#: for each hyperparameter its values: two numbers are a range, any other list is choices, a plain value fixes it
DeclaredSearch = Annotated[
    dict[str, Declared],
    PlainValidator(_read_search, json_schema_input_type=dict[str, Any]),
    PlainSerializer(_write_search, return_type=dict[str, Any]),
]


def _fill_folder(given: FilePath | None, info: ValidationInfo) -> Any:
    return given if given is not None else (info.context or {}).get("folder")


class _CodeStudySpec(AnyStudySpec):
    search: DeclaredSearch = Field(default_factory=dict)
    """for each hyperparameter, the values that trials may take; what the code asks for and this section does not name, the code defines"""
    folder: Annotated[FilePath | None, AfterValidator(_fill_folder), Field(validate_default=True)] = None
    """folder that the files of the code are in; null: the folder of the study file"""

    @model_validator(mode="after")
    def _check_sampler(self) -> Self:
        if isinstance(self.sampler, Prior):
            message = "is prior, which draws around a rule, and code of yours has none; expected another sampler such as tpe"
            raise Clashes([Clash(field="sampler", message=message)])
        if isinstance(self.sampler, Grid | BruteForce):
            ranges = [
                name
                for name, declared in self.search.items()
                if isinstance(declared.domain, Range) and not (declared.domain.integer and isinstance(self.sampler, BruteForce))
            ]
            if ranges or not self.search:
                why = f"these are ranges: {wording.listed(ranges)}" if ranges else "the section search is empty"
                cure = "give {choices: [a, b]}, or choose another sampler such as tpe"
                message = f"is {self.sampler.name}, which tries every combination, but {why}; {cure}"
                raise Clashes([Clash(field="sampler", message=message)])
        return self


def _is_none(given: Any) -> bool:
    return given is None


class CustomStudySpec(_CodeStudySpec):
    """A study file of a user's Keras model and data."""

    task: Literal["custom"] = "custom"
    """what the study is about: a Keras model of yours"""
    objective: Annotated[Objective, OBJECTIVE]
    """the metric that `fit` reports and that chooses the best epoch and the best trial"""
    data: Annotated[CustomData, Field(examples=["{load: my_code.py:load}"])]
    """where the data come from"""
    model: Annotated[CustomModel, Field(examples=["{build: my_code.py:build}"])]
    """the model of a trial"""
    training: CustomTraining = CustomTraining()
    """how every trial is trained"""
    validation: Annotated[Validation | None, Field(exclude_if=_is_none)] = None
    """folds of small data; null: the function of `data` returns a validation split"""
    constraints: Constraints = Constraints()
    """limits that the best trial keeps: a trial that exceeds one is never the best, and the sampler avoids trials like it"""

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        found = list(_wrong_folds(self))
        if found:
            raise Clashes(found)
        return self

    def named_code(self) -> Iterator[tuple[str, str]]:
        """Give each field that names a user function to run, and the function."""
        yield "model.build", self.model.build
        yield "data.load", self.data.load
        if ":" in self.objective.metric:
            yield "objective.metric", self.objective.metric

    @property
    def stall_seconds(self) -> float | None:
        """Longest silence of a trainer."""
        return self.training.stall_timeout

    @property
    def limits(self) -> Mapping[str, float]:
        """Limits by the name of what is measured of each trial."""
        return self.constraints.limits

    @property
    def num_executions(self) -> int:
        """Trainings of a trial."""
        return self.training.executions

    @property
    def num_folds(self) -> int:
        """Number of folds; 1: a trial is validated on the split that the data function returns, or not at all."""
        return 1 if self.validation is None or self.validation.train_on == "all" else self.validation.folds

    @property
    def reports_best(self) -> bool:
        """Return whether the best value so far counts; in a study with folds, the mean over the folds so far does."""
        return self.num_folds == 1

    @property
    def measured_on_new_data(self) -> bool:
        """Whether the value of a trial comes from data that it was not trained on."""
        return self.validation is None or self.validation.train_on == "folds"


def _wrong_folds(spec: CustomStudySpec) -> Iterator[Clash]:
    """Yield what cannot work together with folds."""
    if spec.validation is None:
        return
    cure = ", and give `training: {early_stopping: {patience: 5}}`"
    yield from unsuited_to_folds(spec.validation.folds, spec.training.executions, spec.pruner, cure=cure)
    if spec.validation.train_on == "all" and spec.result is None and spec.retraining is None:
        message = (
            "is all, which leaves no validation data to choose the best trial; expected folds "
            "(`tuner retrain` writes all for the final model)"
        )
        yield Clash(field="validation.train_on", message=message)


def _named(given: Any) -> Any:
    if given is None or isinstance(given, Mapping | Objective):
        return given if given is not None else {}
    if given not in list(Direction):
        raise ValueError(f"is {wording.show(given)}; expected maximize or minimize")
    return {"direction": given}


class ValueObjective(Objective):
    """The value that an objective function returns."""

    metric: str = "value"
    """name of the value on pages and in messages"""


class ObjectiveStudySpec(_CodeStudySpec):
    """A study file of an objective function that was written for Optuna."""

    task: Literal["objective"] = "objective"
    """what the study is about: an objective of yours"""
    function: Annotated[Code, Field(examples=["my_code.py:objective"])]
    """function objective(trial) that asks the trial for values and returns one number, as for Optuna"""
    objective: Annotated[ValueObjective, BeforeValidator(_named), Field(examples=["minimize"])]
    """maximize or minimize"""
    training: ObjectiveTraining = ObjectiveTraining()
    """how every trial is watched, and repeated"""

    @property
    def num_executions(self) -> int:
        """Calls of the objective for one trial."""
        return self.training.executions

    @property
    def stall_seconds(self) -> float | None:
        """Longest silence of a trainer."""
        return self.training.stall_timeout

    def named_code(self) -> Iterator[tuple[str, str]]:
        """Give each field that names a user function to run, and the function."""
        yield "function", self.function

    @property
    def reports_best(self) -> bool:
        """Return False: pruners see each value as the objective reported it, as Optuna's do."""
        return False

    @property
    def asks_pruning(self) -> bool:
        """Return True: `trial.should_prune` asks."""
        return True
