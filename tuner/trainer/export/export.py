"""Export: the weights of a trial written as a model in several formats, with probes and predictions to compare the formats."""

import math
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.kernels import checkpoints, devices, targets
from tuner.kernels.targets import JudgedOutputs
from tuner.machine import TrainerShare
from tuner.protocol import errands
from tuner.spec import study as spec_study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import dataset, resized
from tuner.tasks.images.training import features, prepared, standalone, study_context, training_data
from tuner.tasks.images.training.study_context import StudyContext
from tuner.trainer.export import exported_model, formats

#: number of training images that calibrate int8
_NUM_CALIBRATING = 100
#: a model whose members alone take this multiple of the limit is not measured
_HOPEFUL = 2.0
#: folder of the sample images whose predictions are recorded
PROBES = "probes"


def export(order: errands.Export, share: TrainerShare) -> errands.Exported:
    """Load the study of each network and `write` the model.

    Raises:
        RequestError: the data or a network cannot be used as its study names them, or `write` raises it.
    """
    return write(_contexts(order.networks, order.cache, share), order)


def _contexts(networks: Sequence[errands.TrainedNetwork], cache: str, share: TrainerShare) -> list[StudyContext]:
    """Load the study of each network, as its trial sees it; equal ones are loaded once."""
    loaded: dict[str, StudyContext] = {}
    contexts = []
    for network in networks:
        study = spec_study.StudySpec.model_validate_json(network.spec).of_trial(network.hyperparameters)
        key = study.model.model_dump_json()
        if key not in loaded:
            devices.set_precision(study.training.precision)
            loaded[key] = study_context.prepare(study, cache=Path(cache), share=share)
        contexts.append(loaded[key])
    return contexts


def measure(order: errands.Measure, share: TrainerShare) -> errands.Measured:
    """Load the study of each network, and measure the time of models.

    Raises:
        RequestError: the data or a network cannot be used as its study names them, or a network cannot be exported.
    """
    contexts = _contexts(order.networks, order.cache, share)
    return measure_variants(_models(contexts, order.networks, standalone.build, temperature=1.0), order)


def measure_variants(models: Sequence[keras.Model], order: errands.Measure) -> errands.Measured:
    """Measure each model alone, then the variants of an order until one is fast enough."""
    alone = [_milliseconds(model) for model in models]
    expected = [sum(alone[member] for member in one.members) * one.num_passes / len(one.members) for one in order.variants]
    found: list[float | None] = [None] * len(order.variants)
    for number, variant in enumerate(order.variants):
        if variant.num_passes == 1:
            found[number] = expected[number]
        elif expected[number] <= max(min(expected), _HOPEFUL * order.most_milliseconds):
            members = [models[member] for member in variant.members]
            found[number] = _milliseconds(standalone.averaged(members, mirrored=variant.mirrored))
        measured = found[number]
        if measured is not None and measured <= order.most_milliseconds:
            break
    return errands.Measured(milliseconds=tuple(found), alone=tuple(alone))


def _milliseconds(model: keras.Model) -> float:
    images = np.random.default_rng(0).integers(0, 256, (4, *model.inputs[0].shape[1:]), np.uint8)
    return exported_model.milliseconds(exported_model.as_graph(model), images)


def write(contexts: Sequence[StudyContext], order: errands.Export) -> errands.Exported:
    """Write the model, its probes, and its predictions for the images that the formats are compared on.

    Args:
        contexts: the study of each network of the order, loaded.
        order: what to write.

    Raises:
        DataError: weights belong to another study, or a format cannot represent a network.
        FileNotFoundError: weights no longer exist.
    """
    largest = max(contexts, key=lambda context: context.backbone.size)
    model = _built(contexts, order, standalone.build)
    seconds = formats.write(
        model,
        order.formats,
        Path(order.folder),
        for_int8=lambda: _built(contexts, order, standalone.build_for_int8),
        calibration=_spread(largest.data.train, _NUM_CALIBRATING),
    )
    scored = _score(model, largest.data, order.answers_mean) if order.scores_test else None
    compared = _spread(largest.data.validation, order.num_compared)
    answers = predict(model, compared)
    np.savez(order.answers, images=compared, probabilities=answers)
    return errands.Exported(
        classes=largest.data.classes,
        num_parameters=model.count_params(),
        seconds=seconds,
        probes=_probes(model, largest, order),
        num_compared=len(compared),
        test_accuracy=scored.accuracy if scored is not None and math.isfinite(scored.accuracy) else None,
        test_value=None if scored is None or order.answers_mean.kind is TargetKind.LABEL else scored.metrics[order.answers_mean.metric],
        packages={found.name: found.version for found in sorted(metadata.distributions(), key=lambda found: found.name.lower())},
        versions=prepared.versions(),
    )


def _built(contexts: Sequence[StudyContext], order: errands.Export, build: Callable[..., keras.Model]) -> keras.Model:
    models = _models(contexts, order.networks, build, temperature=order.temperature)
    return models[0] if len(models) == 1 and not order.mirrored else standalone.averaged(models, mirrored=order.mirrored)


def _models(
    contexts: Sequence[StudyContext], networks: Sequence[errands.TrainedNetwork], build: Callable[..., keras.Model], *, temperature: float
) -> list[keras.Model]:
    models = []
    for context, network in zip(contexts, networks, strict=True):
        weights = checkpoints.read_weights(Path(network.weights), study=context.identity)
        models.append(build(context, network.hyperparameters, weights, temperature=temperature))
    return models


def predict(model: keras.Model, images: resized.ResizedImages) -> NDArray[np.float32]:
    """Predict the probabilities (n, classes) of images."""
    call, starts = exported_model.as_graph(model), range(0, len(images), features.BATCH)
    return np.concatenate([call(np.asarray(images[start : start + features.BATCH])) for start in starts])


def _score(model: keras.Model, data: training_data.TrainingData, mean: errands.Answers) -> JudgedOutputs:
    """Return what the answers of a model on the test split score."""
    labels = data.target.decode(data.test.labels)
    return targets.judge_answers(mean.kind, predict(model, data.test.images), labels, mean.thresholds)


def _spread(split: training_data.Split, most: int) -> NDArray[np.uint8]:
    """Return at most `most` images of a split, evenly spread over it."""
    return np.asarray(split.images[_rows(split, most)])


def _rows(split: training_data.Split, most: int) -> NDArray[np.int64]:
    num = len(split.labels)
    return np.unique(np.linspace(0, num - 1, min(num, most)).round().astype(np.int64))


def _probes(model: keras.Model, context: StudyContext, order: errands.Export) -> tuple[errands.Sample, ...]:
    """Write a few validation images as probes, and return them with their predictions."""
    folder = Path(order.folder) / PROBES
    folder.mkdir()
    split, target = context.data.validation, context.target
    rows = _rows(split, order.num_probes)
    images, labels = np.asarray(split.images[rows]), target.decode(split.labels[rows])
    probes = []
    for number, (image, label, found) in enumerate(zip(images, labels, predict(model, images), strict=True)):
        name = f"{number:03d}.png"
        Image.fromarray(image).save(folder / name)
        probes.append(_sample(name, label, found, context, order.answers_mean))
    return tuple(probes)


def _sample(name: str, label: Any, found: NDArray[np.float32], context: StudyContext, mean: errands.Answers) -> errands.Sample:
    """Return a probe with its prediction, in words and in numbers."""
    classes, kind = context.data.classes, context.target.kind
    predicted: Any = found
    if kind is TargetKind.LABEL:
        predicted = found.argmax()
    elif kind is TargetKind.LABELS:
        predicted = targets.is_present(found, mean.thresholds or [targets.MIDDLE] * len(found))
    return errands.Sample(
        file=name,
        label=dataset.describe_label(label, classes, kind),
        predicted=dataset.describe_label(predicted, classes, kind),
        probabilities=tuple(found.tolist()),
        truth=() if kind is TargetKind.LABEL else tuple(np.ravel(label).tolist()),
    )
