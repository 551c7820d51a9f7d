"""Kept weights into what they make of images: logits of whole splits, the score on the test split, the average of several."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import checkpoints, losses
from tuner.protocol import messages
from tuner.spec.hyperparameters import Hyperparameters
from tuner.tasks.images.training import fine_tune, pipeline
from tuner.tasks.images.training.context import StudyContext

Weights = Sequence[NDArray[np.float32]]


def evaluate(bench: StudyContext, order: messages.Evaluate) -> messages.Evaluated:
    """Score the kept weights of a trial on the test split.

    Raises:
        DataError: the study keeps no images for it, or the weights are another study's.
        FileNotFoundError: the weights are not there any more.
    """
    test = _split(bench, "test")
    weights = checkpoints.read_weights(Path(order.weights), study=bench.identity)
    logits = _logits(bench, order.hyperparameters, weights, [test])[0]
    found = losses.score(logits, test.labels, losses.build_validation(order.hyperparameters))
    return messages.Evaluated(
        trial=order.trial, accuracy=found.accuracy, loss=found.loss, num_images=len(test.labels), confusion=found.confusion
    )


def predict(bench: StudyContext, order: messages.Predict) -> messages.Predicted:
    """Write the logits of whole splits by kept weights, or by the average of several, which is kept too where that is asked for.

    Raises:
        DataError: the study keeps no images for a split, or the weights are another study's.
        FileNotFoundError: the weights are not there any more.
    """
    splits = {name: _split(bench, name) for name in order.splits}
    kept = [checkpoints.read_weights(Path(path), study=bench.identity) for path in order.weights]
    weights = kept[0] if len(kept) == 1 else average(bench, order.hyperparameters, kept)
    logits = _logits(bench, order.hyperparameters, weights, list(splits.values()))
    if order.average is not None:
        checkpoints.write_weights(Path(order.average), weights, study=bench.identity)
    arrays: dict[str, NDArray[np.generic]] = {f"{name}_labels": split.labels for name, split in splits.items()}
    checkpoints.write_arrays(Path(order.to), arrays | dict(zip(splits, logits, strict=True)))
    return messages.Predicted(trial=order.trial)


def average(bench: StudyContext, hyperparameters: Hyperparameters, kept: Sequence[Weights]) -> list[NDArray[np.float32]]:
    """The mean of the weights of several trainings of one config; blocks that one of them left as they were count as pretrained."""
    bench.restore()
    pretrained = [variable.numpy() for _, variable in bench.backbone.top(hyperparameters.unfreeze)]
    longest = max(len(weights) for weights in kept)
    whole: list[Weights] = []
    for weights in kept:
        head_weights, opened = parted(weights, hyperparameters)
        whole.append([*head_weights, *opened, *pretrained[len(opened) : longest - len(head_weights)]])
    return [np.asarray(np.mean(each, axis=0, dtype=np.float64), np.float32) for each in zip(*whole, strict=True)]


def parted(weights: Weights, hyperparameters: Hyperparameters) -> tuple[list[NDArray[np.float32]], ...]:
    """Kept weights as those of the head, and those of the open blocks if the best epoch was one of fine-tuning."""
    count = 2 * (len(hyperparameters.head_units) + 1)
    return list(weights[:count]), list(weights[count:])


@contextmanager
def opened_with(bench: StudyContext, hyperparameters: Hyperparameters, opened: Weights) -> Iterator[None]:
    """Have the backbone with these weights in its open blocks while a `with` block runs; afterwards it is as pretrained."""
    bench.restore()
    try:
        fine_tune.assign([variable for _, variable in bench.backbone.top(hyperparameters.unfreeze)][: len(opened)], opened)
        yield
    finally:
        bench.restore()


def _split(bench: StudyContext, name: messages.Split) -> pipeline.Split:
    split = bench.data.test if name == "test" else bench.data.validation
    if not len(split.labels):
        raise errors.DataError(f"data.{name} is 0, so that there are no images to score the trial on; expected for example 0.15")
    return split


def _logits(
    bench: StudyContext, hyperparameters: Hyperparameters, weights: Weights, splits: Sequence[pipeline.Split]
) -> list[NDArray[np.float32]]:
    head_weights, opened = parted(weights, hyperparameters)
    with opened_with(bench, hyperparameters, opened):
        return [fine_tune.predict(bench, hyperparameters, head_weights, split.images) for split in splits]
