"""The `search` section of a study file: for each hyperparameter, the values that trials may take."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from tuner.spec import domains
from tuner.spec.domains import Bounds, Choice, Domain, Fixed, Known, Range
from tuner.spec.hyperparameters import MAX_HEAD_LAYERS, Activation, ClassWeights, Features, Flip, Loss, Optimizer, ProbeSolver

#: default range of the fine-tuning's peak learning rate, for each optimizer
LEARNING_RATES: Mapping[Optimizer, tuple[float, float]] = {
    Optimizer.SGD: (3e-3, 3e-2),
    Optimizer.ADAM: (1e-4, 1e-3),
    Optimizer.ADAMW: (1e-4, 1e-3),
    Optimizer.NADAM: (1e-4, 1e-3),
    Optimizer.ADAMAX: (2e-4, 2e-3),
    Optimizer.ADAGRAD: (3e-3, 3e-2),
    Optimizer.ADADELTA: (1e-2, 1.0),
    Optimizer.RMSPROP: (3e-5, 3e-4),
    Optimizer.LION: (3e-5, 2e-4),
}
#: default range of the probe's peak learning rate, for each optimizer
PROBE_LEARNING_RATES: Mapping[Optimizer, tuple[float, float]] = {
    Optimizer.SGD: (1e-2, 0.3),
    Optimizer.ADAM: (3e-4, 1e-2),
    Optimizer.ADAMW: (3e-4, 1e-2),
    Optimizer.NADAM: (3e-4, 1e-2),
    Optimizer.ADAMAX: (1e-3, 2e-2),
    Optimizer.ADAGRAD: (1e-2, 0.3),
    Optimizer.ADADELTA: (1e-1, 10.0),
    Optimizer.RMSPROP: (1e-4, 3e-3),
    Optimizer.LION: (1e-4, 2e-3),
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HeadSpace(_Section):
    """Number and widths of the hidden layers of the head."""

    layers: Annotated[Domain, Bounds(low=0, high=MAX_HEAD_LAYERS, integer=True)] = Range(low=0, high=1, integer=True)
    """hidden layers between the backbone and the classes; 0 is a linear head"""
    units: Annotated[Domain, Bounds(low=1, high=65536, integer=True, log=True)] = Range(low=64, high=512, integer=True, log=True)
    """width of each hidden layer; each layer is searched separately"""


#: changes to one image at a time: views contain them, so they act in the probe too
DRAWN = ("rotation", "zoom", "translation", "shear", "brightness", "contrast", "rand_augment", "erasing")
#: changes that mix the images of a batch: they act only in fine-tuning
MIXED = ("mixup", "cutmix")


class AugmentationSpace(_Section):
    """Which random changes to training images are tried, and their strengths; the probe sees only changes that are drawn once."""

    flip: Annotated[Domain, Known(tuple(Flip))] = Fixed(value=Flip.HORIZONTAL)
    """directions in which images are mirrored"""
    rotation: Annotated[Domain, Bounds(low=0, high=0.5)] = Range(low=0.01, high=0.1, off=True)
    """largest rotation in either direction, as a fraction of a full turn"""
    zoom: Annotated[Domain, Bounds(low=0, high=0.9)] = Range(low=0.05, high=0.3, off=True)
    """largest change of scale in either direction, as a fraction"""
    translation: Annotated[Domain, Bounds(low=0, high=0.5)] = Range(low=0.02, high=0.2)
    """largest shift along either axis, as a fraction of the side"""
    shear: Annotated[Domain, Bounds(low=0, high=0.5)] = Fixed(value=0.0)
    """largest shear along either axis, as a fraction of the side"""
    brightness: Annotated[Domain, Bounds(low=0, high=1)] = Range(low=0.05, high=0.3, off=True)
    """largest change of brightness in either direction, as a fraction of the full range"""
    contrast: Annotated[Domain, Bounds(low=0, high=1)] = Range(low=0.05, high=0.4, off=True)
    """largest change of contrast in either direction, as a fraction"""
    rand_augment: Annotated[Domain, Bounds(low=0, high=1)] = Fixed(value=0.0)
    """magnitude of RandAugment (arXiv 1909.13719): two operations, drawn once per batch"""
    erasing: Annotated[Domain, Bounds(low=0, high=0.5)] = Range(low=0.05, high=0.25, off=True)
    """largest fraction of the area that is erased (arXiv 1708.04896), in half of the images"""
    mixup: Annotated[Domain, Bounds(low=0, high=2)] = Range(low=0.05, high=0.4, off=True)
    """alpha of MixUp (arXiv 1710.09412)"""
    cutmix: Annotated[Domain, Bounds(low=0, high=2)] = Fixed(value=0.0)
    """alpha of CutMix (arXiv 1905.04899)"""
    views: Annotated[Domain, Bounds(low=0, high=64, integer=True)] = Fixed(value=0)
    """versions of each training image, drawn once and used in turn, in the probe too; 0: a new version each time"""


_RATE = Bounds(low=0, high=100, log=True, open_low=True)


class _RatesSchema:
    """Adds to the JSON Schema that one value or range may apply to all optimizers."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        one = _RATE.__get_pydantic_json_schema__(schema, handler)
        each = {"type": "object", "properties": {name.value: one for name in Optimizer}, "additionalProperties": False}
        return {"anyOf": [*one["anyOf"], each]}


def _kind_of_head(given: Any) -> str | None:
    if isinstance(given, HeadSpace | Mapping):
        return "searched"
    return "widths" if isinstance(given, list | tuple) else None


Rates = Annotated[dict[Optimizer, Annotated[Domain, _RATE]], Field(default_factory=dict), _RatesSchema()]
Width = Annotated[int, Field(strict=True, ge=1, le=65536)]
#: the widths of all hidden layers, or a space to search
Head = Annotated[
    Annotated[HeadSpace, Tag("searched")] | Annotated[tuple[Width, ...], Field(max_length=MAX_HEAD_LAYERS), Tag("widths")],
    Discriminator(_kind_of_head),
]


class SearchSpace(_Section):
    """For each hyperparameter, the values that trials may take: a plain value fixes it, `[low, high]` or a list searches it."""

    optimizer: Annotated[Domain, Known(tuple(Optimizer))] = Choice(values=(Optimizer.ADAMW, Optimizer.SGD, Optimizer.LION))
    """optimizer of both stages"""
    learning_rate: Rates
    """peak learning rate of the fine-tuning: one for all optimizers, or one for each"""
    probe_learning_rate: Rates
    """peak learning rate of a probe by sgd, with a cosine decay to zero: one for all optimizers, or one for each"""
    probe_solver: Annotated[Domain, Known(tuple(ProbeSolver))] = Fixed(value=ProbeSolver.LBFGS)
    """how the probe trains a linear head: in steps of `optimizer` (sgd), or to the optimum (the others); hidden layers always use sgd"""
    momentum: Annotated[Domain, Bounds(low=0, high=1, open_high=True)] = Fixed(value=0.9)
    """momentum of sgd and rmsprop"""
    nesterov: Annotated[Domain, Known((False, True))] = Fixed(value=True)
    """Nesterov momentum of sgd"""
    weight_decay: Annotated[Domain, Bounds(low=0, high=1, log=True)] = Range(low=1e-6, high=1e-1, log=True, off=True)
    """decoupled weight decay of kernels; it acts on every optimizer except adam (see `adam_weight_decay`)"""
    features: Annotated[Domain, Known(tuple(Features))] = Choice(values=(Features.LAST, Features.SEVERAL))
    """features that the head gets: those of the backbone's last layer, or of several depths too (Head2Toe, arXiv 2201.03529)"""
    feature_floor: Annotated[Domain, Bounds(low=0, high=1)] = Fixed(value=0.3)
    """smallest divisor of a standardized feature, as a share of the usual deviation in its layer; 0: always the feature's own"""
    head_units: Head = HeadSpace()
    """list of the widths of the hidden layers, from the backbone to the classes (`[]`: a linear head), or a space to search"""
    activation: Annotated[Domain, Known(tuple(Activation))] = Choice(values=(Activation.RELU, Activation.GELU))
    """activation function of the hidden layers"""
    dropout: Annotated[Domain, Bounds(low=0, high=0.9)] = Range(low=0.0, high=0.5)
    """dropout before each layer of the head"""
    loss: Annotated[Domain, Known(tuple(Loss))] = Fixed(value=Loss.CROSS_ENTROPY)
    """loss function; binary_cross_entropy decides yes or no for each class separately; mse, mae and huber are for numbers"""
    label_smoothing: Annotated[Domain, Bounds(low=0, high=0.5)] = Range(low=0.02, high=0.15, off=True)
    """probability that is spread evenly over all classes; acts on the two cross-entropies"""
    focal_gamma: Annotated[Domain, Bounds(low=0, high=5)] = Range(low=0.5, high=3.0)
    """focusing exponent of the focal loss (arXiv 1708.02002)"""
    class_weights: Annotated[Domain, Known(tuple(ClassWeights))] = Fixed(value=ClassWeights.NONE)
    """weight of each class in the loss; balanced: inverse to the number of its images"""
    batch_size: Annotated[Domain, Bounds(low=1, high=4096, integer=True, discrete=True)] = Fixed(value=32)
    """images per step; a probe uses more if there are enough images; a list is always choices, never a range"""
    unfreeze: Annotated[Domain, Bounds(low=0, high=1)] = Range(low=0.3, high=1.0)
    """fraction of the backbone's blocks, from the top, that the fine-tuning trains; 0: probe only"""
    layer_decay: Annotated[Domain, Bounds(low=0, high=1, open_low=True)] = Range(low=0.85, high=1.0)
    """factor of the learning rate from each block to the block below"""
    warmup: Annotated[Domain, Bounds(low=0, high=0.9)] = Fixed(value=0.125)
    """fraction of the fine-tuning steps in which the learning rate rises from zero"""
    ema: Annotated[Domain, Bounds(low=0, high=1, open_high=True)] = Fixed(value=0.99)
    """momentum of the running average of the weights; tuner evaluates the average, not the weights; 0: off"""
    augmentation: AugmentationSpace = AugmentationSpace()
    """changes to training images"""
    adam_weight_decay: Annotated[bool, Field(strict=True)] | None = None
    """whether `weight_decay` acts on adam too; null: only if the file gives a `weight_decay` of its own and does not list adamw"""

    @property
    def decays_adam(self) -> bool:
        """Whether `weight_decay` acts on adam."""
        if self.adam_weight_decay is not None:
            return self.adam_weight_decay
        is_own = self.weight_decay != type(self).model_fields["weight_decay"].default
        return is_own and Optimizer.ADAMW not in self.optimizers

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizers that trials may use."""
        return domains.values(self.optimizer)

    @model_validator(mode="before")
    @classmethod
    def _fill_rates(cls, given: Any) -> Any:
        """Give each optimizer a range for each learning rate: the one in the file, or the default."""
        if not isinstance(given, Mapping):
            return given
        try:
            chosen = domains.read_choice(given.get("optimizer", cls.model_fields["optimizer"].default), tuple(Optimizer))
        except ValueError:
            chosen = Choice(values=tuple(Optimizer))  # the field itself reports the mistake
        optimizers = domains.values(chosen)
        return dict(given) | {
            "learning_rate": _rates(given.get("learning_rate"), optimizers, LEARNING_RATES),
            "probe_learning_rate": _rates(given.get("probe_learning_rate"), optimizers, PROBE_LEARNING_RATES),
        }


def _rates(given: Any, optimizers: tuple[Optimizer, ...], defaults: Mapping[Optimizer, tuple[float, float]]) -> Any:
    if given is None:
        given = {}
    if not isinstance(given, Mapping) or set(given) & {"range", "choices", "log", "off"}:
        return {optimizer.value: given for optimizer in optimizers}
    return {optimizer.value: list(defaults[optimizer]) for optimizer in optimizers} | {str(key): value for key, value in given.items()}


class StudySpace(SearchSpace):
    """The search space of a study whose trials choose their backbone or their image size too; a study file has these below `model`."""

    backbone: Domain | None = None
    image_size: Domain | None = None


def with_model(search: SearchSpace, *, backbones: tuple[str, ...], sizes: tuple[int, ...]) -> SearchSpace:
    """Return a search space with the lists of the section `model` as choices; the space itself if neither list has several values."""
    backbone, image_size = (Choice(values=values) if len(values) > 1 else None for values in (backbones, sizes))
    if backbone is None and image_size is None:
        return search
    return StudySpace.model_construct(**dict(search), backbone=backbone, image_size=image_size)
