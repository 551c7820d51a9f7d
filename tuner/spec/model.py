"""The `model` section of a study file: the pretrained network that every trial starts from."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from tuner import wording
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.data import Section, locate, name_function

#: first the backbones whose weights are part of a package, then the networks of `keras.applications`
BACKBONES = (
    *("efficientnet_lite0", "squeezenet1_1"),
    *(f"EfficientNetB{size}" for size in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *("DenseNet121", "DenseNet169", "DenseNet201"),
    *("InceptionV3", "InceptionResNetV2", "Xception", "NASNetMobile", "NASNetLarge", "VGG16", "VGG19"),
)
#: smallest image side of a backbone, in pixels, if it differs from SMALLEST
SMALLEST_OF = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
SMALLEST = 32
#: `tuner check` refuses the last three with their reason
_WEIGHT_ENDINGS = (".h5", ".hdf5", ".keras", ".pth", ".pkl", ".npz")
_PYTHON = re.compile(r"python:[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _read_backbone(given: str, info: ValidationInfo) -> str:
    """Return the name of a backbone in its own spelling, or the path of its file; names are case-insensitive."""
    names = {_simplified(name): name for name in BACKBONES}
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


def _name_builder(given: Any) -> Any:
    """Return the backbone of a function that builds it, which a program may give instead of a name."""
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


class Model(Section):
    """The pretrained network that every trial starts from."""

    backbone: Annotated[str, BeforeValidator(_name_builder), Field(examples=list(BACKBONES)), AfterValidator(_read_backbone)] = (
        "efficientnet_lite0"
    )
    """a name, kerashub:PRESET, python:MODULE:FUNCTION, or a .keras file"""
    weights: Annotated[str, Field(examples=["imagenet", "none"]), AfterValidator(_read_weights)] = "imagenet"
    """imagenet, none, or a weights file"""
    image_size: Annotated[int, Field(ge=8, le=1024)] = 160
    """side of the square that tuner resizes images to, in pixels"""
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    """how an image becomes a square: stretched, cropped at the centre, or padded"""
    pooling: Literal["avg", "max"] = "avg"
    """how the last feature map becomes a vector"""

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        smallest: Any = SMALLEST_OF.get(self.backbone, SMALLEST if self.backbone in BACKBONES else 0)
        if self.image_size < smallest:
            message = f"is {self.image_size}; {self.backbone} needs images of at least {smallest} pixels"
            raise Clashes([Clash(field="image_size", message=message, others=("backbone",))])
        return self
