"""Hyperparameters: all settings that may differ between trials, as one frozen and validated value."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from tuner import wording

#: a deeper head has never helped a pretrained backbone
MAX_HEAD_LAYERS = 4


class TargetKind(StrEnum):
    """What a network learns of each image."""

    #: one of several classes
    LABEL = "label"
    #: any number of classes, also none
    LABELS = "labels"
    NUMBER = "number"


class Optimizer(StrEnum):
    """The Keras optimizers that a study may use."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"
    NADAM = "nadam"
    ADAMAX = "adamax"
    ADAGRAD = "adagrad"
    ADADELTA = "adadelta"
    RMSPROP = "rmsprop"
    LION = "lion"

    @property
    def has_momentum(self) -> bool:
        """Whether `momentum` acts on this optimizer."""
        return self in (Optimizer.SGD, Optimizer.RMSPROP)


class ProbeSolver(StrEnum):
    """How a probe trains a linear head: by the trial's optimizer, or by a method that finds the optimum over all images at once."""

    SGD = "sgd"
    LBFGS = "lbfgs"
    CONJUGATE_GRADIENT = "conjugate_gradient"
    RIDGE = "ridge"


class Activation(StrEnum):
    """Activation functions of the head's hidden layers, by their Keras names."""

    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"
    ELU = "elu"
    SELU = "selu"
    TANH = "tanh"
    LEAKY_RELU = "leaky_relu"
    MISH = "mish"


class Loss(StrEnum):
    """The loss function. `binary_cross_entropy` decides yes or no for each class separately; the last three are for numbers."""

    CROSS_ENTROPY = "cross_entropy"
    FOCAL = "focal"
    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    MSE = "mse"
    MAE = "mae"
    HUBER = "huber"


#: the losses that suit a target, the default first
LOSSES: Mapping[TargetKind, tuple[Loss, ...]] = {
    TargetKind.LABEL: (Loss.CROSS_ENTROPY, Loss.FOCAL, Loss.BINARY_CROSS_ENTROPY),
    TargetKind.LABELS: (Loss.BINARY_CROSS_ENTROPY, Loss.FOCAL),
    TargetKind.NUMBER: (Loss.MSE, Loss.MAE, Loss.HUBER),
}


class ClassWeights(StrEnum):
    """Weights of the classes in the loss. `balanced`: inverse to the number of images in the class."""

    NONE = "none"
    BALANCED = "balanced"


class Features(StrEnum):
    """The features that the head gets. `several`: pooled activations of several depths, not only of the last layer (arXiv 2201.03529)."""

    LAST = "last"
    SEVERAL = "several"


class Flip(StrEnum):
    """Directions in which training images are mirrored."""

    NONE = "none"
    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    BOTH = "both"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Augmentation(_Frozen):
    """Strengths of the random changes to training images; 0 is off. A probe sees mirror images, and with `views` changes drawn once."""

    #: directions in which images are mirrored
    flip: Flip = Flip.NONE
    #: largest rotation in either direction, as a fraction of a full turn
    rotation: float = Field(default=0.0, ge=0, le=0.5)
    #: largest change of scale in either direction, as a fraction
    zoom: float = Field(default=0.0, ge=0, le=0.9)
    #: largest shift along either axis, as a fraction of the side
    translation: float = Field(default=0.0, ge=0, le=0.5)
    #: largest shear along either axis, as a fraction of the side
    shear: float = Field(default=0.0, ge=0, le=0.5)
    #: largest change of brightness in either direction, as a fraction of the full range
    brightness: float = Field(default=0.0, ge=0, le=1)
    #: largest change of contrast in either direction, as a fraction
    contrast: float = Field(default=0.0, ge=0, le=1)
    #: magnitude of RandAugment (arXiv 1909.13719): two operations, drawn once per batch
    rand_augment: float = Field(default=0.0, ge=0, le=1)
    #: largest fraction of the area that is erased (arXiv 1708.04896), in half of the images
    erasing: float = Field(default=0.0, ge=0, le=0.5)
    #: alpha of MixUp (arXiv 1710.09412)
    mixup: float = Field(default=0.0, ge=0, le=2)
    #: alpha of CutMix (arXiv 1905.04899)
    cutmix: float = Field(default=0.0, ge=0, le=2)
    #: versions of each training image, drawn once and used in turn; 0: a new version each time
    views: int = Field(default=0, ge=0, le=64)


class Hyperparameters(_Frozen):
    """The hyperparameters of one trial."""

    #: the choice from `model.backbone` if that is a list; None: the study has only one backbone
    backbone: str | None = Field(default=None, exclude_if=lambda value: value is None)
    #: the choice from `model.image_size` if that is a list; None: the study has only one size
    image_size: int | None = Field(default=None, exclude_if=lambda value: value is None)
    #: the optimizer of both stages
    optimizer: Optimizer = Optimizer.ADAMW
    #: how the probe trains; always `sgd` if the head has hidden layers
    probe_solver: ProbeSolver = ProbeSolver.SGD
    #: peak learning rate of a probe by `sgd`, with a cosine decay to zero
    probe_learning_rate: float = Field(default=1e-3, gt=0, le=100)
    #: peak learning rate of the fine-tuning; acts only if `unfreeze` is above 0
    learning_rate: float = Field(default=3e-4, gt=0, le=100)
    #: momentum; acts only on sgd and rmsprop
    momentum: float = Field(default=0.9, ge=0, lt=1)
    #: Nesterov momentum; acts only on sgd
    nesterov: bool = True
    #: decoupled weight decay of kernels, as a fraction of the learning rate per step; adam with weight decay is adamw
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    #: features that the head gets from the backbone
    features: Features = Features.LAST
    #: smallest divisor of a standardized feature, as a share of the usual deviation in its layer; 0: always the feature's own, as in
    #: trials of earlier versions
    feature_floor: float = Field(default=0.0, ge=0, le=1)
    #: width of each hidden layer of the head, from the backbone to the classes; () is a linear head
    head_units: tuple[int, ...] = ()
    #: activation function of the hidden layers; acts only if there are hidden layers
    activation: Activation = Activation.RELU
    #: dropout before each layer of the head
    dropout: float = Field(default=0.3, ge=0, le=0.9)
    loss: Loss = Loss.CROSS_ENTROPY
    #: probability that is spread evenly over all classes
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5)
    #: focusing exponent; acts only on the focal loss (arXiv 1708.02002)
    focal_gamma: float = Field(default=2.0, ge=0, le=5)
    class_weights: ClassWeights = ClassWeights.NONE
    #: images per step; a probe uses more if there are enough images
    batch_size: int = Field(default=32, ge=1, le=4096)
    #: fraction of the backbone's blocks, from the top, that the fine-tuning trains; 0: probe only
    unfreeze: float = Field(default=1.0, ge=0, le=1)
    #: factor of the learning rate from each block to the block below
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    #: fraction of the fine-tuning steps in which the learning rate rises from zero
    warmup: float = Field(default=0.125, ge=0, le=0.9)
    #: momentum of the running average of the weights; tuner evaluates the average, not the weights; 0: off
    ema: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()

    @property
    def is_probed_exactly(self) -> bool:
        """Whether the probe is solved at once, so that it counts as one epoch: the last of the probe's."""
        return self.probe_solver is not ProbeSolver.SGD and not self.head_units

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        if len(self.head_units) > MAX_HEAD_LAYERS:
            raise ValueError(f"head_units has {len(self.head_units)} layers; expected at most {MAX_HEAD_LAYERS}")
        if any(not 1 <= units <= 65536 for units in self.head_units):
            raise ValueError(f"head_units is {list(self.head_units)}; expected widths from 1 to 65536")
        return self


#: a value that a trial of user code may have
Plain = bool | int | float | str | None


class ChosenValues(_Frozen):
    """The values of one trial of user code, by the names that the code or the study file gives them."""

    values: dict[str, Plain]


#: the values of one trial, whatever its task
TrialValues = Hyperparameters | ChosenValues
_ADAPTER: TypeAdapter[TrialValues] = TypeAdapter(TrialValues)


def parse(stored: Any) -> TrialValues:
    """Return the values of a trial from what `model_dump` gave.

    Raises:
        ValidationError: they are something else.
    """
    return _ADAPTER.validate_python(stored)


def of_images(values: TrialValues) -> Hyperparameters:
    """Return the values of a trial that is known to be of an image study."""
    assert isinstance(values, Hyperparameters), "another task has no such hyperparameters"
    return values


def by_name(values: TrialValues) -> Mapping[str, Any]:
    """Return the values of a trial by their dotted names."""
    return values.values if isinstance(values, ChosenValues) else wording.flatten(values.model_dump())
