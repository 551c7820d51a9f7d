"""Kept weights of a trial into a model in several formats, and what it makes of images that the formats are compared on."""

import platform
from importlib import metadata
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from tuner.kernels import checkpoints, devices
from tuner.protocol import errands
from tuner.spec import study as spec_study
from tuner.tasks.images.training import context as benches
from tuner.tasks.images.training import features, pipeline
from tuner.trainer.export import compare, formats, standalone

#: training images by which int8 is calibrated
_NUM_CALIBRATING = 100
#: folder of the images whose predictions are kept
PROBES = "probes"


def export(order: errands.Export, share: devices.TrainerShare) -> errands.Exported:
    """Load what the study trains on, and `write` the model.

    Raises:
        RequestError: the data or the network cannot be had as the study names them, or as `write`.
    """
    study = spec_study.StudySpec.model_validate_json(order.spec)
    devices.use(study.training.precision)
    return write(benches.prepare(study, cache=Path(order.cache), share=share), order)


def write(bench: benches.StudyContext, order: errands.Export) -> errands.Exported:
    """Write the model and its probes, and what it makes of the images that each format is compared on.

    Raises:
        DataError: the weights are another study's, or a format cannot say what the network does.
        FileNotFoundError: the weights are not there any more.
    """
    weights = checkpoints.read_weights(Path(order.weights), study=bench.identity)
    model = standalone.build(bench, order.hyperparameters, weights, temperature=order.temperature)
    seconds = formats.write(
        model,
        order.formats,
        Path(order.folder),
        for_int8=lambda: standalone.build_for_int8(bench, order.hyperparameters, weights, temperature=order.temperature),
        calibration=_spread(bench.data.train, _NUM_CALIBRATING),
    )
    compared = _spread(bench.data.validation, order.num_compared)
    answers = predict(model, compared)
    np.savez(order.answers, images=compared, probabilities=answers)
    return errands.Exported(
        classes=bench.data.classes,
        num_parameters=model.count_params(),
        seconds=seconds,
        probes=_probes(model, bench, order),
        num_compared=len(compared),
        packages={found.name: found.version for found in sorted(metadata.distributions(), key=lambda found: found.name.lower())},
        versions={
            "python": platform.python_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "tuner": metadata.version("tuner"),
        },
    )


def predict(model: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (n, classes) of images."""
    call = compare.as_graph(model)
    return np.concatenate([call(images[start : start + features.BATCH]) for start in range(0, len(images), features.BATCH)])


def _spread(split: pipeline.Split, most: int) -> NDArray[np.uint8]:
    """Up to so many images of a split, evenly spread over it."""
    return np.asarray(split.images[_rows(split, most)])


def _rows(split: pipeline.Split, most: int) -> NDArray[np.int64]:
    num = len(split.labels)
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(np.int64))


def _probes(model: keras.Model, bench: benches.StudyContext, order: errands.Export) -> tuple[errands.Sample, ...]:
    """Write a few validation images, and say what the model makes of each."""
    folder = Path(order.folder) / PROBES
    folder.mkdir()
    split, classes = bench.data.validation, bench.data.classes
    rows = _rows(split, order.num_probes)
    images = np.asarray(split.images[rows])
    probes = []
    for number, (image, label, found) in enumerate(zip(images, split.labels[rows], predict(model, images), strict=True)):
        name = f"{number:03d}.png"
        Image.fromarray(image).save(folder / name)
        predicted = classes[int(found.argmax())]
        probes.append(errands.Sample(file=name, label=classes[label], predicted=predicted, probabilities=tuple(found.tolist())))
    return tuple(probes)
