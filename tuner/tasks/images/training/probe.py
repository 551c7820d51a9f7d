"""The probe: the first stage of a trial, which trains heads on the features of the frozen backbone."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import head, losses, optimizers, solvers
from tuner.spec.hyperparameters import Hyperparameters, Loss, ProbeSolver
from tuner.spec.objective import ImageObjective
from tuner.tasks.images.training import features, views
from tuner.tasks.images.training.study_context import StudyContext

#: minimum number of steps in an epoch, if each step still has more images than `batch_size` ...
_MIN_STEPS = 15
#: ... and maximum number of images in a step: more save no time, and the learning rates of the search space do not suit them
_MAX_IMAGES = 256
#: rows that are predicted at once, and read at once if the features do not fit in memory
_ROWS_AT_ONCE = 8192
#: factor between the learning rates of neighboring heads
_SPREAD = 2.0
#: strengths of the penalty that an exact probe tries, the strongest first
STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
#: one in this many images chooses the strength if the validation split is trained on, too
_HELD_OUT = 5
#: solved heads in memory; a head of 1,000 classes takes 7 MB
_MOST_SOLVED = 16


@dataclass(frozen=True, kw_only=True)
class MeasuredEpoch:
    """Scores of one epoch of either stage."""

    loss: float
    accuracy: float
    learning_rate: float
    validation: losses.Scores
    #: logits of the validation images (n, classes); None for an epoch of a probe
    logits: NDArray[np.float32] | None = None


class Probe(Protocol):
    """The probe of one trial."""

    #: number of its epochs; the last one is epoch `training.probe_epochs` of the trial, whatever it is
    num_epochs: int

    def epochs(self) -> Iterator[MeasuredEpoch]:
        """Train epoch by epoch."""
        ...

    def weights(self) -> tuple[NDArray[np.float32], ...]:
        """Return kernel and bias of each layer after the last epoch."""
        ...


def begin(context: StudyContext, hyperparameters: Hyperparameters, *, seed: int) -> Probe:
    """Return the probe of a trial, before its first epoch."""
    if hyperparameters.is_probed_exactly:
        return ExactProbe(context, hyperparameters)
    return StepwiseProbe(context, hyperparameters, seed=seed)


class StepwiseProbe:
    """A probe that trains in steps: `training.probe_heads` heads side by side that differ only in their learning rates.

    An epoch shows each training image once, in one randomly drawn view, so its cost does not grow with the number of views. Its scores and
    weights are those of the head with the best validation score. If the validation split is trained on, too, they are those of the head
    with the trial's own learning rate.
    """

    def __init__(self, context: StudyContext, hyperparameters: Hyperparameters, *, seed: int) -> None:
        training, labels = context.study.training, context.data.train.labels
        self._hyperparameters, self._seed, self.num_epochs = hyperparameters, seed, training.probe_epochs
        self._train = _Table(context, "train", views.views(hyperparameters.augmentation), hyperparameters)
        self._validation = _Table(context, "validation", (views.ORIGINAL,), hyperparameters)
        form = head.HeadForm.of(
            hyperparameters, num_classes=context.num_classes, num_heads=training.probe_heads, target=context.target.kind
        )
        self._program = head.program_for(form)
        self._program.begin(head.initial_weights(hyperparameters, self._train.width, context.num_classes, seed=seed))
        self._values = head.values(
            hyperparameters,
            class_weights=losses.class_weights(labels, context.num_classes, hyperparameters.class_weights),
            clip=training.gradient_clip,
            seed=seed,
        )
        #: whether the validation split is trained on, too, so that it cannot choose a head
        self._is_blind = training.images != "train"
        self._objective, self._target = context.study.objective, context.target
        self._best = 0

    def epochs(self) -> Iterator[MeasuredEpoch]:
        """Train epoch by epoch, with learning rates that fall in half cosines from multiples of `probe_learning_rate`."""
        batch = images_per_step(self._hyperparameters.batch_size, self._train.count)
        steps = self._train.count // batch
        own = optimizers.cosine(steps * self.num_epochs, peak=self._hyperparameters.probe_learning_rate, warmup=0.0)
        spread = np.array(rate_factors(self._program.form.num_heads), np.float32)
        validation_loss = losses.validation_loss(self._hyperparameters, self._target.kind)
        labels, metric = self._validation.labels, self._objective.metric
        for epoch in range(self.num_epochs):
            of_heads = own[epoch * steps : (epoch + 1) * steps, None] * spread
            loss, accuracy = self._run(epoch, steps, batch, of_heads)
            of_all = self._predict()
            if len(of_all) > 1 and not self._is_blind:
                judged = [(self._target.value(metric, each, labels), losses.mean(each, labels, validation_loss)) for each in of_all]
                self._best = _best(loss, judged, self._objective)
            best = self._best
            found = losses.score(of_all[best], labels, validation_loss, metric, target=self._target)
            yield MeasuredEpoch(
                loss=float(loss[best]), accuracy=float(accuracy[best]), learning_rate=float(of_heads[-1, best]), validation=found
            )

    def weights(self) -> tuple[NDArray[np.float32], ...]:
        """Return kernel and bias of each layer after the last epoch."""
        return self._program.weights(self._best)

    def _run(self, epoch: int, steps: int, batch: int, of_heads: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Train one epoch, and return loss and accuracy (heads,)."""
        random = np.random.default_rng([self._seed, 0, epoch])
        order = random.permutation(self._train.count)[: steps * batch]
        numbers = random.integers(self._train.num_views, size=steps * batch)
        found = []
        at_once = steps if self._train.is_small else max(1, _ROWS_AT_ONCE // batch)
        for start in range(0, steps, at_once):
            end = min(steps, start + at_once)
            part = slice(start * batch, end * batch)
            table, labels, rows = self._train.rows(numbers[part], order[part])
            measured = self._program.train(
                table, labels, rows.reshape(-1, batch), of_heads[start:end], first=epoch * steps + start, given=self._values
            )
            found.append((end - start) * np.stack(measured))
        loss, accuracy = np.sum(found, 0) / steps
        return loss, accuracy

    def _predict(self) -> NDArray[np.float32]:
        """Return the logits (heads, n, classes) of the validation split."""
        return np.concatenate([self._program.predict(part) for part in self._validation.parts()], 1)


class ExactProbe:
    """A probe that solves for the best linear head, over every view of every training image at once.

    It has one epoch, and no randomness. The head depends only on the features, the views, the loss and the class weights, so trials of a
    study that share them share one solution. Label smoothing, dropout and the optimizer do not act: the strength of the penalty, which is
    chosen for each solution, replaces them.
    """

    num_epochs = 1

    def __init__(self, context: StudyContext, hyperparameters: Hyperparameters) -> None:
        self._context, self._hyperparameters = context, hyperparameters
        self._found: solvers.FittedHead | None = None

    def epochs(self) -> Iterator[MeasuredEpoch]:
        """Solve for the head, or take the solution of an earlier trial; an interruption ends it between two evaluations of the loss."""
        solved, key = self._context.solved, self._key()
        found = solved.pop(key, None)
        if found is None:
            found = self._solve()
        solved[key] = self._found = found
        if len(solved) > _MOST_SOLVED * self._context.study.num_folds:
            del solved[next(iter(solved))]
        validation = _Table(self._context, "validation", (views.ORIGINAL,), self._hyperparameters)
        logits = np.concatenate([_logits(part, found.weights) for part in validation.parts()])
        target, metric = self._context.target, self._context.study.objective.metric
        loss = losses.validation_loss(self._hyperparameters, target.kind)
        scores = losses.score(logits, validation.labels, loss, metric, target=target)
        yield MeasuredEpoch(loss=found.loss, accuracy=found.accuracy, learning_rate=0.0, validation=scores)

    def weights(self) -> tuple[NDArray[np.float32], ...]:
        """Return kernel and bias."""
        assert self._found is not None
        return self._found.weights

    def _key(self) -> tuple[object, ...]:
        given = self._hyperparameters
        gamma = given.focal_gamma if given.loss is Loss.FOCAL else None
        wanted = views.views(given.augmentation)
        of_images = self._context.study.training.images, self._context.fold
        return given.probe_solver, given.features, given.feature_floor, given.loss, gamma, given.class_weights, wanted, *of_images

    def _solve(self) -> solvers.FittedHead:
        context, given = self._context, self._hyperparameters
        train = _Table(context, "train", views.views(given.augmentation), given)
        weights, tick = losses.class_weights(train.labels, context.num_classes, given.class_weights), context.store.tick
        everything = np.arange(train.count)
        whole = train.every_view(everything)
        if given.probe_solver is ProbeSolver.RIDGE:
            return solvers.Ridge(whole, weights, tick=tick).choose(STRENGTHS, given.loss, given.focal_gamma)
        loss = solvers.HeadLoss(kind=given.loss, gamma=given.focal_gamma, class_weights=weights, target=context.target.kind)
        objective = solvers.HeadObjective(whole, loss, tick=tick)
        if context.study.training.images == "train":
            judge = self._judge(_Table(context, "validation", (views.ORIGINAL,), given))
            return solvers.choose(objective, given.probe_solver, STRENGTHS, judge)
        is_held_out = everything % _HELD_OUT == _HELD_OUT - 1
        most = solvers.HeadObjective(train.every_view(everything[~is_held_out]), loss, tick=tick)
        judge = self._judge(train, everything[is_held_out])
        chosen = solvers.choose(most, given.probe_solver, STRENGTHS, judge)
        return objective.fit(given.probe_solver, chosen.strength, chosen.weights)

    def _judge(self, table: "_Table", images: NDArray[np.int64] | None = None) -> Callable[[solvers.LinearHead], float]:
        """Return a function from a head to its loss on all or some images of a split, in every view."""
        rows = table.every_view(np.arange(table.count) if images is None else images)
        loss = losses.validation_loss(self._hyperparameters, self._context.target.kind)

        def judge(found: solvers.LinearHead) -> float:
            logits, labels = zip(*((_logits(features, found), labels.numpy()) for features, labels in rows.parts()), strict=True)
            return losses.mean(np.concatenate(logits), np.concatenate(labels), loss)

        return judge


def _logits(features: tf.Tensor, found: solvers.LinearHead) -> NDArray[np.float32]:
    kernel, bias = found
    logits: NDArray[np.float32] = (tf.matmul(features, kernel) + bias).numpy()
    return logits


def images_per_step(batch_size: int, count: int) -> int:
    """Return the number of images in a step of a probe on `count` training images, at least the trial's `batch_size`.

    A step on 128 images costs little more than one on 32, and the heads are as good.
    """
    return min(count, max(batch_size, min(_MAX_IMAGES, count // _MIN_STEPS)))


def rate_factors(num_heads: int) -> tuple[float, ...]:
    """Return the factor of each head's learning rate: 1, then larger and smaller ones in turn."""
    return tuple(_SPREAD ** ((number + 1) // 2 * (1 if number % 2 else -1)) for number in range(num_heads))


def _best(loss: NDArray[np.float32], judged: list[tuple[float, float]], objective: ImageObjective) -> int:
    """Return the head with the best value on the validation images, then the lowest loss; a diverged head only if all have diverged.

    `judged` are the value and the loss of each head on these images, `loss` that on the training images.
    """

    def rank(number: int) -> tuple[bool, float, float]:
        value, of_validation = judged[number]
        is_finite = math.isfinite(loss[number]) and math.isfinite(of_validation)
        return is_finite, objective.merit(value), -of_validation if is_finite else 0.0

    return max(range(len(judged)), key=rank)


class _Table:
    """The features of a split for a trial's head, all in memory or read in parts."""

    def __init__(self, context: StudyContext, split: str, wanted: tuple[views.View, ...], hyperparameters: Hyperparameters) -> None:
        self._vectors: features.Vectors = context.features(split, wanted, floor=hyperparameters.feature_floor)
        self.num_views, self.count, _ = self._vectors.shape
        self.width = context.backbone.num_features(hyperparameters.features)
        self.is_small = self._vectors.is_small
        self.labels = context.data.train.labels if split == "train" else context.data.validation.labels
        if self.is_small:
            self._all = tf.reshape(self._vectors.whole(self.width), (-1, self.width))
            self._all_labels = losses.as_tensor(np.concatenate([self.labels] * self.num_views))

    def rows(self, numbers: NDArray[np.int64], images: NDArray[np.int64]) -> tuple[tf.Tensor, tf.Tensor, NDArray[np.int64]]:
        """Return a table (m, d), its labels, and the rows of some images in it, each in the view with its number."""
        if self.is_small:
            return self._all, self._all_labels, numbers * self.count + images
        taken = self._vectors.take(numbers, images)[:, -self.width :]
        return tf.constant(taken), losses.as_tensor(self.labels[images]), np.arange(len(images))

    def every_view(self, images: NDArray[np.int64]) -> solvers.Rows:
        """Return the rows of some images."""
        return solvers.Rows(parts=lambda: self._every_view(images), num_images=len(images), num_views=self.num_views, width=self.width)

    def _every_view(self, images: NDArray[np.int64]) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        if self.is_small and len(images) == self.count:
            yield self._all, self._all_labels
            return
        at_once = max(1, _ROWS_AT_ONCE // self.num_views)
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            table, labels, rows = self.rows(np.repeat(np.arange(self.num_views), len(part)), np.tile(part, self.num_views))
            yield (tf.gather(table, rows), tf.gather(labels, rows)) if self.is_small else (table, labels)

    def parts(self) -> Iterator[tf.Tensor]:
        """Yield the first view of all images, in order."""
        for start in range(0, self.count, _ROWS_AT_ONCE):
            images = np.arange(start, min(self.count, start + _ROWS_AT_ONCE))
            if self.is_small:
                yield self._all[start : start + len(images)]
            else:
                yield tf.constant(self._vectors.take(np.zeros_like(images), images)[:, -self.width :])
