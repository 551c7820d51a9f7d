"""Study specification: data, model, budget, training and search of a study, as one frozen value."""

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from tuner import wording
from tuner.errors import StudyError
from tuner.spec import clashes
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.data import (
    AnimalsData,
    ClassOrder,
    Data,
    DigitsData,
    FolderData,
    KerasData,
    ManifestData,
    NpzData,
    PythonData,
    Section,
    TfdsData,
    keep_earlier_order,
)
from tuner.spec.domains import Fixed, values
from tuner.spec.hyperparameters import LOSSES, ClassWeights, Hyperparameters, ProbeSolver, TargetKind
from tuner.spec.model import Model
from tuner.spec.objective import METRICS, OBJECTIVE, UNLIMITED, ImageObjective, Objective
from tuner.spec.search import SearchSpace, with_model
from tuner.spec.strategies import Median, Patient, Prior, Pruner, Sampler, Threshold, Tpe

__all__ = [
    "AnimalsData",
    "AnyStudySpec",
    "Budget",
    "ClassOrder",
    "Data",
    "DigitsData",
    "FolderData",
    "KerasData",
    "ManifestData",
    "Model",
    "NpzData",
]
__all__ += ["PythonData", "Retraining", "StudySpec", "TfdsData", "Training", "read_duration"]

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"\s*(?:\d+(?:\.\d+)?\s*[dhms]\s*)+|\s*\d+(?:\.\d+)?\s*")


def read_duration(given: Any) -> Any:
    """Return the seconds of `90`, `90s`, `15m`, `2h` or `1h30m`; a value that is not text is returned unchanged.

    Raises:
        ValueError: the text is no duration.
    """
    if not isinstance(given, str):
        return given
    if not _DURATION.fullmatch(given.lower()):
        raise ValueError(f"is {wording.show(given)}; expected a duration such as 90s, 15m, 2h or 1h30m")
    parts = re.findall(r"([\d.]+)\s*([dhms]?)", given.lower())
    return sum(float(count) * _UNITS[unit or "s"] for count, unit in parts)


_Written = Annotated[str, Field(examples=["90s", "15m", "2h"])] | Annotated[float, Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(read_duration, json_schema_input_type=_Written)]


def _is_one(executions: int) -> bool:
    return executions == 1


#: trainings of a trial; 1 is not written, for earlier versions
Executions = Annotated[int, Field(ge=1, le=100, exclude_if=_is_one)]


class Training(Section):
    """Training settings of every trial of a study. These values are never searched, so trials are comparable."""

    probe_epochs: Annotated[int, Field(ge=1, le=10_000)] = 20
    """epochs of the head on frozen features"""
    probe_heads: Annotated[int, Field(ge=1, le=16)] = 1
    """heads that a probe trains at once, with learning rates around the trial's own; the best head continues"""
    epochs: Literal["auto"] | Annotated[int, Field(ge=0, le=10_000)] = "auto"
    """epochs of fine-tuning; auto: depends on the number of training images; 0: probe only"""
    promote: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    """fraction of probes that continue to fine-tuning, the best ones so far; auto: as many as the budget has time or trials for"""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """largest norm of the gradient; larger gradients are scaled down"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """number format of the computation; auto: bfloat16 on GPUs where it is faster (compute capability 8.0 and above), else float32"""
    images: Literal["train", "train+validation"] = "train"
    """splits to train on; train+validation leaves no images for choices: tuner keeps the last epoch, and the file must fix all values"""
    executions: Executions = 1
    """trainings of each trial with different seeds; the value of the trial is their mean"""

    def num_epochs(self, num_train: int) -> int:
        """Return the fine-tuning epochs of each trial; `auto` gives 12 for 2,000 training images, more for fewer images, from 4 to 15."""
        return min(15, max(4, round(12 * (2000 / num_train) ** 0.25))) if self.epochs == "auto" else self.epochs


class Budget(Section):
    """Limits of a study, which ends at the first limit that it reaches."""

    trials: Annotated[int, Field(ge=1)] | None = 40
    """trials of the study, over all its workers; null: no limit"""
    timeout: Annotated[Seconds, Field(gt=0)] | None = None
    """time during which at least one worker was working; running trials still finish"""
    target: float | None = None
    """value that ends the study, for example the validation accuracy 0.95"""
    trial_timeout: Annotated[Seconds, Field(gt=0)] | None = None
    """longest time of one trial; a trial that takes longer ends with its best value so far and counts as pruned"""

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.trials is None and self.timeout is None and self.target is None:
            message = "is null, but there is no timeout or target either, so the study would never end; set one of the three"
            raise Clashes([Clash(field="trials", message=message, others=("timeout", "target"))])
        return self


class KeptResults(Section):
    """What a study keeps of its trials."""

    keep: Annotated[int, Field(ge=1, le=64)] = 8
    """fine-tuned trials that keep their weights, the best ones; the ensemble is formed from them"""
    keep_gb: Annotated[float, Field(gt=0)] = 8.0
    """gigabytes for the weights of these trials; if they need more, fewer trials keep theirs, but always the best one"""


class Results(KeptResults):
    """What a study keeps of its trials, and how its ensemble predicts."""

    mirror: Literal["auto", "always", "never"] = "auto"
    """whether the ensemble averages each image with its mirror image; auto: if that is better on the validation images"""


class Retraining(BaseModel):
    """The trials of a search to train again, and the seeds; `tuner retrain` writes this section."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: name of the study whose trials are retrained
    study: str
    #: how many of its best distinct configurations were requested
    top: int
    #: its trials, the best first, then trial 0 unless it is among them
    trials: tuple[int, ...]
    #: value of each trial in the search; None: the trial did not complete
    values: tuple[float | None, ...]
    #: each configuration is trained once with each of these seeds
    seeds: tuple[int, ...]

    @property
    def num_trainings(self) -> int:
        """Number of trials of the retraining."""
        return len(self.trials) * len(self.seeds)

    def indices(self, number: int) -> tuple[int, int]:
        """Return the indices in `trials` and `seeds` for a trial of the retraining; all configurations with the first seed come first."""
        return number % len(self.trials), number // len(self.trials)


#: hyperparameters of `search` that act in a probe only if it trains in steps
_OF_THE_OPTIMIZER = ("optimizer", "momentum", "nesterov", "weight_decay", "dropout", "batch_size", "label_smoothing")
#: pattern of the name of a study, and of its versions
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


IMAGE_CLASSIFICATION = "image_classification"


class AnyStudySpec(Section):
    """What every study file says, whatever its task."""

    name: Annotated[str, Field(pattern=NAME, examples=["my_study"])]
    """the study's name in the storage: letters, digits, dots, dashes and underscores, at most 100"""
    task: str
    """what the study is about"""
    objective: Annotated[Objective, OBJECTIVE]
    """the metric that the study optimizes"""
    budget: Budget = Budget()
    """when the study ends: at the first limit that it reaches"""
    sampler: Sampler = Tpe()
    """how tuner chooses the hyperparameters of the next trial"""
    pruner: Pruner = Median()
    """which poor trials end early"""
    results: KeptResults = KeptResults()
    """what the study keeps of its trials"""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """seed of the splits, the sampler and every trial"""
    result: dict[str, Any] | None = None
    """result of a search, written by `tuner export`; its trial_seed is the seed of trial 0"""
    retraining: Annotated[Retraining | None, WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]})] = None
    """the trials and seeds to train again, written by `tuner retrain`"""

    @model_validator(mode="before")
    @classmethod
    def _read_plain(cls, given: Any) -> Any:
        """Read values of NumPy and durations of Python, which programs have."""
        return _plain(given)

    def named_code(self) -> Iterator[tuple[str, str]]:
        """Give each field that names a user function to run, and the function."""
        yield from ()

    def wrong_limits(self) -> Iterator[Clash]:
        """Give each limit of the budget or the pruner that the metric of the study cannot reach."""
        yield from ()

    @property
    def limits(self) -> Mapping[str, float]:
        """Limits by the name of what is measured of each trial; a trial that exceeds one is never the best."""
        return {}

    @property
    def probe_epochs(self) -> int:
        """Epochs of the first stage of a trial; 0 if a trial has one stage only."""
        return 0

    @property
    def measured_on_new_data(self) -> bool:
        """Whether the value of a trial comes from data that it was not trained on."""
        return True

    @property
    def stall_seconds(self) -> float | None:
        """Longest silence of a trainer during a trial; None: the worker decides."""
        return None

    @property
    def reports_best(self) -> bool:
        """Whether samplers and pruners see the best value so far of a trial, not each value as it was reported."""
        return True

    @property
    def asks_pruning(self) -> bool:
        """Whether a trial itself asks if it must be pruned, instead of being told so after each epoch."""
        return False

    @property
    def num_executions(self) -> int:
        """Trainings of a trial with different seeds; if there are several, its value is their mean."""
        return 1

    @property
    def num_folds(self) -> int:
        """Folds of a trial; if there are several, the value of an epoch is the mean over the folds so far."""
        return 1

    @property
    def num_trainings(self) -> int:
        """Trainings of a trial, one for each fold or seed."""
        return self.num_folds * self.num_executions

    def value_so_far(self, values: Sequence[float]) -> float | None:
        """Return the value of a running trial, given those of its epochs in order: the best one, or with folds the last mean."""
        if self.num_folds > 1:
            return values[-1] if values else None
        return self.objective.best(values)


def _is_usual_task(task: str) -> bool:
    return task == IMAGE_CLASSIFICATION


def _is_usual_objective(objective: Objective) -> bool:
    return objective == ImageObjective()


class ImageFolds(Section):
    """Folds for few images: each part of them validates once."""

    folds: Annotated[int, Field(ge=2, le=100)]
    """parts of the training and validation images; a trial trains once for each part, which validates, on the others, and takes the mean"""


def _is_none(given: Any) -> bool:
    return given is None


class StudySpec(AnyStudySpec):
    """A whole study file of an image classifier, validated."""

    task: Annotated[Literal["image_classification"], Field(exclude_if=_is_usual_task)] = "image_classification"
    """what the study is about: image_classification, custom (a Keras model of yours) or objective (an Optuna objective of yours)"""
    objective: Annotated[ImageObjective, OBJECTIVE, Field(exclude_if=_is_usual_objective)] = ImageObjective()
    """the metric of the validation images that chooses the best trial"""
    data: Annotated[Data, Field(examples=["{source: folder, path: ~/photos}"])]
    """where images and labels come from, and how they are split"""
    model: Model = Model()
    """the pretrained network that every trial starts from"""
    training: Training = Training()
    """how every trial of the study is trained"""
    validation: Annotated[ImageFolds | None, Field(exclude_if=_is_none)] = None
    """folds of few images; null: one validation split, as `data` says"""
    search: SearchSpace = Field(default_factory=lambda: SearchSpace.model_validate({}))
    """for each hyperparameter, the values that trials may take"""
    sampler: Sampler = Prior()
    """how tuner chooses the hyperparameters of the next trial"""
    results: Results = Results()
    """what the study keeps of its trials, and how its ensemble predicts"""

    def named_code(self) -> Iterator[tuple[str, str]]:
        """Give each field that names a user function to run, and the function."""
        if isinstance(self.data, PythonData):
            yield "data.function", self.data.function
        for name in self.model.backbones:
            if name.startswith("python:"):
                yield "model.backbone", name.removeprefix("python:")

    @property
    def probe_epochs(self) -> int:
        """Epochs of the probe."""
        return self.training.probe_epochs

    @property
    def num_executions(self) -> int:
        """Trainings of a trial."""
        return self.training.executions

    @property
    def num_folds(self) -> int:
        """Number of folds; 1: a trial is validated on the validation split."""
        return self.validation.folds if self.validation is not None and self.measured_on_new_data else 1

    @property
    def reports_best(self) -> bool:
        """Return whether the best value so far counts; in a study with folds, the mean over the folds so far does."""
        return self.num_folds == 1

    @property
    def measured_on_new_data(self) -> bool:
        """Whether the value of a trial comes from images that it was not trained on."""
        return self.training.images == "train"

    @property
    def space(self) -> SearchSpace:
        """Everything that trials choose: the section `search`, and the lists of the section `model`."""
        return with_model(self.search, backbones=self.model.backbones, sizes=self.model.sizes)

    def of_trial(self, hyperparameters: Hyperparameters) -> "StudySpec":
        """Return the study as one trial sees it: with the backbone and the image size that the trial chose."""
        if not self.model.is_searched:
            return self
        model = self.model.fixed(hyperparameters.backbone, hyperparameters.image_size)
        return self.model_copy(update={"model": model})

    @model_validator(mode="before")
    @classmethod
    def _keep_order(cls, given: Any) -> Any:
        """An exported trial without `class_order` is of an earlier version, and its recorded classes have the order of that version."""
        if not isinstance(given, Mapping) or given.get("result") is None or "data" not in given:
            return given
        return {**given, "data": keep_earlier_order(given["data"])}

    @model_validator(mode="before")
    @classmethod
    def _keep_solver(cls, given: Any) -> Any:
        """Choose `sgd` for a file without `probe_solver` that gives what acts only with `sgd`, as every file of an exported trial does."""
        search = given.get("search") if isinstance(given, Mapping) else None
        if not isinstance(search, Mapping) or "probe_solver" in search:
            return given
        training = given.get("training")
        probes_only = search.get("unfreeze") == 0 or (isinstance(training, Mapping) and training.get("epochs") == 0)
        stepwise = {"probe_learning_rate", *(_OF_THE_OPTIMIZER if probes_only else ())}
        return {**given, "search": {**search, "probe_solver": ProbeSolver.SGD.value}} if stepwise & search.keys() else given

    @model_validator(mode="before")
    @classmethod
    def _keep_floor(cls, given: Any) -> Any:
        """An exported trial without `feature_floor` is of an earlier version, which had none."""
        search = given.get("search") if isinstance(given, Mapping) and given.get("result") is not None else None
        return {**given, "search": {"feature_floor": 0, **search}} if isinstance(search, Mapping) else given

    @model_validator(mode="before")
    @classmethod
    def _suit_target(cls, given: Any) -> Any:
        """Choose metric and loss by what an image is labeled with, if the file does not."""
        kind = _kind_of(given.get("data")) if isinstance(given, Mapping) else TargetKind.LABEL
        if kind is TargetKind.LABEL:
            return given
        found = {"objective": {"metric": METRICS[kind][0]}, **given}
        if isinstance(objective := found["objective"], Mapping):
            found["objective"] = {"metric": METRICS[kind][0], **objective}
        if isinstance(search := found.get("search", {}), Mapping):
            found["search"] = {"loss": LOSSES[kind][0].value, **search}
        return found

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        exported = self.result is not None or self.retraining is not None
        found = clashes.find(self.search, epochs=self.training.epochs, sampler=self.sampler, pruner=self.pruner, exported=exported)
        if self.training.images != "train" and not exported:
            message = (
                "is train+validation, which leaves no validation images to choose the best trial; expected train "
                "(`tuner retrain` writes train+validation where it is possible)"
            )
            found = [*found, Clash(field="training.images", message=message)]
        found = [*_unsuited(self), *_unsuited_to_folds(self), *found, *self.wrong_limits()]
        if found:
            raise Clashes(found)
        return self

    def wrong_limits(self) -> Iterator[Clash]:
        """Give each limit of the budget or the pruner that is no fraction; the log loss and metrics of numbers may have any value."""
        return _outside_of_fractions(self)


#: a target in words
_TARGETS = {
    TargetKind.LABEL: "one label an image",
    TargetKind.LABELS: "several labels an image (data.labels: several)",
    TargetKind.NUMBER: "a number an image (data.target: number)",
}


def _kind_of(data: Any) -> TargetKind:
    """Return what an image is labeled with, given the section `data` of a file, which may have mistakes."""
    if not isinstance(data, Mapping):
        return getattr(data, "kind", TargetKind.LABEL)
    if data.get("target") == "number":
        return TargetKind.NUMBER
    return TargetKind.LABELS if data.get("labels") == "several" else TargetKind.LABEL


def _unsuited(spec: StudySpec) -> Iterator[Clash]:
    """Yield what does not suit the labels of the images: metrics, losses, and what needs classes or one label."""
    kind, metric, decides = spec.data.kind, spec.objective.metric, ("data.labels", "data.target")
    if metric not in METRICS[kind]:
        message = f"is {metric}, but this study has {_TARGETS[kind]}; expected {' or '.join(METRICS[kind])}"
        yield Clash(field="objective.metric", message=message, others=decides)
    for loss in values(spec.search.loss):
        if loss not in LOSSES[kind]:
            expected = " or ".join(one.value for one in LOSSES[kind])
            yield Clash(field="search.loss", message=f"is {loss}, but this study has {_TARGETS[kind]}; expected {expected}", others=decides)
    if kind is TargetKind.NUMBER and spec.search.class_weights != Fixed(value=ClassWeights.NONE):
        yield Clash(field="search.class_weights", message="weighs classes, but this study predicts a number; remove it", others=decides)
    if kind is not TargetKind.LABEL and ProbeSolver.RIDGE in values(spec.search.probe_solver):
        message = f"is ridge, which fits one label an image, but this study has {_TARGETS[kind]}; choose lbfgs, conjugate_gradient or sgd"
        yield Clash(field="search.probe_solver", message=message, others=decides)


def _unsuited_to_folds(spec: StudySpec) -> Iterator[Clash]:
    return iter(()) if spec.validation is None else unsuited_to_folds(spec.validation.folds, spec.training.executions, spec.pruner)


def unsuited_to_folds(num_folds: int, executions: int, pruner: Pruner, *, cure: str = "") -> Iterator[Clash]:
    """Yield what cannot work together with folds; `cure` is what else helps in place of a patient pruner."""
    if executions > 1:
        message = (
            f"is {executions}, but validation.folds is {num_folds}, so that a trial is a mean of several trainings already; remove one of "
            "the two"
        )
        yield Clash(field="training.executions", message=message, others=("validation",))
    if isinstance(pruner, Patient):
        message = (
            "is patient, which waits for an improvement, but with folds the value of an epoch is the mean over the folds so far, which "
            f"falls with a difficult fold; choose another pruner such as median{cure}"
        )
        yield Clash(field="pruner", message=message, others=("validation",))


def _outside_of_fractions(spec: StudySpec) -> Iterator[Clash]:
    """Yield the values that no metric of an image classifier can have; the log loss and metrics of numbers may have any."""
    if spec.objective.metric in UNLIMITED:
        return
    target, limits = spec.budget.target, {}
    if target is not None and not 0 < target <= 1:
        share = f"; {wording.number(target)} % is {wording.number(target / 100)}" if 1 < target <= 100 else ""
        yield Clash(field="budget.target", message=f"is {wording.number(target)}; expected a number above 0 and at most 1 or null{share}")
    if isinstance(spec.pruner, Threshold):
        limits = {"pruner.lower": spec.pruner.lower, "pruner.upper": spec.pruner.upper}
    for field, limit in limits.items():
        if limit is not None and not 0 <= limit <= 1:
            yield Clash(field=field, message=f"is {wording.number(limit)}; expected a number from 0 to 1")


def _plain(given: Any) -> Any:
    """Return a value as a study file can have it: numbers, texts and arrays of NumPy as numbers, texts and lists, a duration in seconds."""
    if isinstance(given, Mapping):
        return {_plain(key): _plain(value) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return type(given)(map(_plain, given)) if type(given) in (list, tuple) else given
    if isinstance(given, dt.timedelta):
        return given.total_seconds()
    if type(given).__module__ != "numpy" or not hasattr(given, "tolist"):
        return given
    if getattr(given, "ndim", 0):
        return [_plain(one) for one in given]
    value = given.tolist()
    # 0.01, not 0.009999999776482582, for a number of 32 bits
    return float(str(given)) if isinstance(value, float) else value


def images_of(spec: AnyStudySpec) -> StudySpec:
    """Return the study file of an image study.

    Raises:
        StudyError: the study is about something else.
    """
    if not isinstance(spec, StudySpec):
        raise StudyError(f"the study {spec.name} has the task {spec.task}; this works only for studies of images")
    return spec
