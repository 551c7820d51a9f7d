"""Evaluation of stored weights: test score, logits of whole splits, and the average of several trainings."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import checkpoints, losses
from tuner.protocol import messages
from tuner.spec.hyperparameters import Hyperparameters, TargetKind
from tuner.tasks.images.training import fine_tune, training_data
from tuner.tasks.images.training.study_context import StudyContext

Weights = Sequence[NDArray[np.float32]]


def evaluate(context: StudyContext, order: messages.Evaluate) -> messages.Evaluated:
    """Score the weights of a trial on the test split.

    Raises:
        DataError: the test split is empty, or the weights belong to another study.
        FileNotFoundError: the weights no longer exist.
    """
    test = _split(context, "test")
    weights = checkpoints.read_weights(Path(order.weights), study=context.identity)
    target, metric = context.target, context.study.objective.metric
    chooses = target.kind is TargetKind.LABELS  # thresholds, on validation images
    logits, *known = predict_splits(context, order.of_images, weights, [test, context.data.validation] if chooses else [test])
    limits = [each.threshold for one in known for each in target.judge(one, context.data.validation.labels).by_class]
    loss = losses.validation_loss(order.of_images, target.kind)
    found = losses.score(logits, test.labels, loss, metric, target=target, thresholds=limits or None)
    return messages.Evaluated(
        trial=order.trial,
        accuracy=found.accuracy if math.isfinite(found.accuracy) else None,
        loss=found.loss,
        num_images=len(test.labels),
        confusion=found.confusion,
        by_class=found.by_class,
        value=found.value,
        metrics={name: value for name, value in found.metrics.items() if math.isfinite(value)},
    )


def predict(context: StudyContext, order: messages.Predict) -> messages.Predicted:
    """Write the logits of whole splits, by the weights of a trial or by the average of several; write the average if asked.

    Raises:
        DataError: a split is empty, or the weights belong to another study.
        FileNotFoundError: the weights no longer exist.
    """
    splits = {name: _split(context, name) for name in order.splits}
    several = [checkpoints.read_weights(Path(path), study=context.identity) for path in order.weights]
    weights = several[0] if len(several) == 1 else average(context, order.of_images, several)
    began = time.perf_counter()
    logits = predict_splits(context, order.of_images, weights, list(splits.values()))
    seconds = time.perf_counter() - began
    if order.average is not None:
        checkpoints.write_weights(Path(order.average), weights, study=context.identity)
    target = context.target
    arrays: dict[str, NDArray[np.generic]] = {f"{name}_labels": target.decode(split.labels) for name, split in splits.items()}
    arrays |= dict(zip(splits, map(target.outputs, logits), strict=True))
    if order.mirrored:
        mirrored = predict_splits(context, order.of_images, weights, list(splits.values()), mirrored=True)
        arrays |= dict(zip((f"{name}_mirrored" for name in splits), map(target.outputs, mirrored), strict=True))
    checkpoints.write_arrays(Path(order.to), arrays)
    return messages.Predicted(trial=order.trial, seconds=seconds)


def average(context: StudyContext, hyperparameters: Hyperparameters, several: Sequence[Weights]) -> list[NDArray[np.float32]]:
    """Return the mean weights of several trainings of one configuration; a block that one of them left frozen counts as pretrained."""
    context.restore()
    pretrained = [variable.numpy() for _, variable in context.backbone.top(hyperparameters.unfreeze)]
    longest = max(len(weights) for weights in several)
    whole: list[Weights] = []
    for weights in several:
        head_weights, opened = split_weights(weights, hyperparameters)
        whole.append([*head_weights, *opened, *pretrained[len(opened) : longest - len(head_weights)]])
    return [np.asarray(np.mean(each, axis=0, dtype=np.float64), np.float32) for each in zip(*whole, strict=True)]


def split_weights(weights: Weights, hyperparameters: Hyperparameters) -> tuple[list[NDArray[np.float32]], ...]:
    """Split the weights of a trial into those of the head and those of the open blocks; the latter are empty after a probe."""
    count = 2 * (len(hyperparameters.head_units) + 1)
    return list(weights[:count]), list(weights[count:])


@contextmanager
def trained_backbone(context: StudyContext, hyperparameters: Hyperparameters, opened: Weights) -> Iterator[None]:
    """Give the open blocks of the backbone these weights inside a `with` block; reset the backbone afterwards."""
    context.restore()
    try:
        fine_tune.assign([variable for _, variable in context.backbone.top(hyperparameters.unfreeze)][: len(opened)], opened)
        yield
    finally:
        context.restore()


def _split(context: StudyContext, name: messages.Split) -> training_data.Split:
    split = context.data.test if name == "test" else context.data.validation
    if not len(split.labels):
        raise errors.DataError(f"data.{name} is 0, so there are no images to score the trial on; expected a share such as 0.15")
    return split


def predict_splits(
    context: StudyContext,
    hyperparameters: Hyperparameters,
    weights: Weights,
    splits: Sequence[training_data.Split],
    *,
    mirrored: bool = False,
) -> list[NDArray[np.float32]]:
    """Return the logits (n, classes) of the images of each split, or of their mirror images, by the weights of a trial."""
    head_weights, opened = split_weights(weights, hyperparameters)
    with trained_backbone(context, hyperparameters, opened):
        return [fine_tune.predict(context, hyperparameters, head_weights, split.images, mirrored=mirrored) for split in splits]
