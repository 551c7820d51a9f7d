"""All that a trial may vary, as one frozen, typed, range-checked value."""

from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: a head deeper than this has never helped a pretrained backbone
MAX_HEAD_LAYERS = 4


class Optimizer(StrEnum):
    """The Keras optimizers that a study may choose among."""

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


class Activation(StrEnum):
    """Activations of the head's hidden layers, by their Keras names."""

    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"
    ELU = "elu"
    SELU = "selu"
    TANH = "tanh"
    LEAKY_RELU = "leaky_relu"
    MISH = "mish"


class Loss(StrEnum):
    """What is minimized. `binary_cross_entropy` treats each class as a yes or no of its own."""

    CROSS_ENTROPY = "cross_entropy"
    FOCAL = "focal"
    BINARY_CROSS_ENTROPY = "binary_cross_entropy"


class ClassWeights(StrEnum):
    """How much an image of each class counts. `balanced`: inversely to the size of its class."""

    NONE = "none"
    BALANCED = "balanced"


class Features(StrEnum):
    """What the head sees of the backbone. `several`: pooled activations of several depths beside the last one's (arXiv 2201.03529)."""

    LAST = "last"
    SEVERAL = "several"


class Flip(StrEnum):
    """Which mirror images a training image may be replaced by."""

    NONE = "none"
    HORIZONTAL = "horizontal"
    VERTICAL = "vertical"
    BOTH = "both"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Augmentation(_Frozen):
    """Strengths of the random changes to training images; 0 is off. The probe sees mirror images, and with `views` what is drawn once."""

    #: mirror images
    flip: Flip = Flip.NONE
    #: largest turn either way, as a fraction of a full turn
    rotation: float = Field(default=0.0, ge=0, le=0.5)
    #: largest change of scale either way, as a fraction
    zoom: float = Field(default=0.0, ge=0, le=0.9)
    #: largest shift along either axis, as a fraction of the side
    translation: float = Field(default=0.0, ge=0, le=0.5)
    #: largest shear along either axis, as a fraction of the side
    shear: float = Field(default=0.0, ge=0, le=0.5)
    #: largest change of brightness either way, as a fraction of the full range
    brightness: float = Field(default=0.0, ge=0, le=1)
    #: largest change of contrast either way, as a fraction
    contrast: float = Field(default=0.0, ge=0, le=1)
    #: magnitude of RandAugment (arXiv 1909.13719), two operations, drawn for a batch at a time
    rand_augment: float = Field(default=0.0, ge=0, le=1)
    #: largest part of the area that is erased (arXiv 1708.04896), half of the images
    erasing: float = Field(default=0.0, ge=0, le=0.5)
    #: alpha of MixUp (arXiv 1710.09412)
    mixup: float = Field(default=0.0, ge=0, le=2)
    #: alpha of CutMix (arXiv 1905.04899)
    cutmix: float = Field(default=0.0, ge=0, le=2)
    #: versions of each training image, drawn once and used in turn; 0: a new one each time
    views: int = Field(default=0, ge=0, le=64)


class Hyperparameters(_Frozen):
    """What one trial trains with."""

    #: the optimizer of both stages
    optimizer: Optimizer = Optimizer.ADAMW
    #: peak rate of the probe, falling to zero in a half cosine
    probe_learning_rate: float = Field(default=1e-3, gt=0, le=100)
    #: peak rate of the fine-tuning; it acts only where `unfreeze` is above 0
    learning_rate: float = Field(default=3e-4, gt=0, le=100)
    #: momentum; it acts only on sgd and rmsprop
    momentum: float = Field(default=0.9, ge=0, lt=1)
    #: look-ahead momentum; it acts only on sgd
    nesterov: bool = True
    #: decoupled weight decay of kernels, as a fraction of the learning rate per step; adam with it is adamw
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    #: what the head sees of the backbone
    features: Features = Features.LAST
    #: width of each hidden layer of the head, from the backbone upwards; () is a linear head
    head_units: tuple[int, ...] = ()
    #: activation of the hidden layers; it acts only where there are some
    activation: Activation = Activation.RELU
    #: dropout before each layer of the head
    dropout: float = Field(default=0.3, ge=0, le=0.9)
    loss: Loss = Loss.CROSS_ENTROPY
    #: probability given away evenly to all classes
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5)
    #: focusing exponent; it acts only on the focal loss (arXiv 1708.02002)
    focal_gamma: float = Field(default=2.0, ge=0, le=5)
    class_weights: ClassWeights = ClassWeights.NONE
    #: images a step; a probe takes more where that leaves it steps enough
    batch_size: int = Field(default=32, ge=1, le=4096)
    #: part of the backbone's blocks, counted from the top, that the fine-tuning trains; 0: probe only
    unfreeze: float = Field(default=1.0, ge=0, le=1)
    #: factor of the learning rate from one block to the one below it
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    #: part of the fine-tuning's steps in which the rate rises from zero
    warmup: float = Field(default=0.125, ge=0, le=0.9)
    #: momentum of the running average of the weights that is evaluated instead of them; 0 is off
    ema: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        if len(self.head_units) > MAX_HEAD_LAYERS:
            raise ValueError(f"head_units has {len(self.head_units)} layers, at most {MAX_HEAD_LAYERS} are possible")
        if any(not 1 <= units <= 65536 for units in self.head_units):
            raise ValueError(f"head_units is {list(self.head_units)}, each width must be between 1 and 65536")
        return self
