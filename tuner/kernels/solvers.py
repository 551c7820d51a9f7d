"""Solvers: linear heads that minimize their loss over all training images at once.

A head has a kernel W (d, classes) and a bias b (classes,). For rows x of standardized features, `L-BFGS` and nonlinear conjugate gradients
minimize

    mean of loss(label, x W + b) + strength / 2 × |W|²

which is convex for both cross-entropies, so the optimum depends neither on a seed nor on a learning rate. With the focal loss they find a
point without slope. `Ridge` solves the same problem for the squared error of one-hot labels in closed form.

Sources:

- L-BFGS: Liu and Nocedal, Mathematical Programming 45 (1989); Nocedal and Wright, Numerical Optimization (2006), section 7.2.
- Nonlinear conjugate gradients: the update of Polak and Ribière (Revue française d'informatique et de recherche opérationnelle 16, 1969),
  never below 0, with a line search for the strong Wolfe conditions (Nocedal and Wright, sections 5.2 and 3.5). Hager and Zhang (Pacific
  Journal of Optimization 2, 2006) survey the variants.
- Both are those of `scipy.optimize.minimize`. The methods need values and gradients only.
- Leave-one-out of ridge regression: Allen's PRESS (Technometrics 16, 1974), here for all views of an image at once.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import losses
from tuner.spec.hyperparameters import Loss, ProbeSolver, TargetKind

#: largest partial derivative at which a head counts as optimal; a smaller one changes neither accuracy nor loss in three digits
TOLERANCE = 1e-3
#: evaluations of the loss for one strength
_MAX_STEPS = 200
_METHODS = {ProbeSolver.LBFGS: "L-BFGS-B", ProbeSolver.CONJUGATE_GRADIENT: "CG"}
#: factors of the scores of a ridge head, from which the best one makes them logits
_SCALES = 1.25 ** np.arange(26)
#: eigenvalues below this share of the largest one are rounding errors
_SMALLEST_EIGENVALUE = 1e-6

#: standardized features (m, d) and labels of all rows, as `losses.as_tensor` gives them, in parts that are the same each time; a part has
#: all views of some images: all of them in the first view, then in the second, and so on
Parts = Callable[[], Iterator[tuple[tf.Tensor, tf.Tensor]]]
#: kernel (d, classes) and bias (classes,)
LinearHead = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that a head is fitted to: every view of every image."""

    parts: Parts
    num_images: int
    num_views: int
    width: int

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.num_images * self.num_views


@dataclass(frozen=True, kw_only=True)
class HeadLoss:
    """The loss of a linear head without its penalty."""

    kind: Loss
    gamma: float
    #: weight of each class (classes,), whose mean over the rows is 1
    class_weights: NDArray[np.floating[Any]]
    target: TargetKind = TargetKind.LABEL


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """The optimal head for one strength."""

    weights: LinearHead
    strength: float
    #: mean loss over the rows, without the penalty
    loss: float
    #: fraction of the rows that are classified correctly
    accuracy: float


class HeadObjective:
    """The penalized mean loss of a linear head over all rows, and its gradient."""

    def __init__(self, rows: Rows, loss: HeadLoss, *, tick: Callable[[], None]) -> None:
        """Measure heads on `rows`; `tick` is called before each evaluation, and may raise to interrupt."""
        self._rows, self._tick = rows, tick
        self._num_classes = len(loss.class_weights)
        self._measure = _measure(loss.kind, self._num_classes, loss.target)
        self._given = (tf.constant(loss.gamma, tf.float32), tf.constant(loss.class_weights, tf.float32))
        #: mean loss and accuracy at the latest evaluation
        self.loss = self.accuracy = float("nan")

    def __call__(self, flat: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        """Return value and gradient at the weights `flat`, the rows of the kernel and then the bias."""
        self._tick()
        kernel, bias = self.unpacked(flat)
        sums: list[Any] = [0.0, 0.0, 0.0, 0.0]
        for features, labels in self._rows.parts():
            found = self._measure(features, labels, tf.constant(kernel), tf.constant(bias), *self._given)
            sums = [total + part.numpy() for total, part in zip(sums, found, strict=True)]
        total, hits, slope, slope_of_bias = (part / self._rows.count for part in sums)
        self.loss, self.accuracy = float(total), float(hits)
        wide = kernel.astype(np.float64)
        gradient = np.concatenate([slope + strength * wide, slope_of_bias[None]])
        return self.loss + strength / 2 * float(np.square(wide).sum()), gradient.ravel()

    def unpacked(self, flat: NDArray[np.float64]) -> LinearHead:
        """Return the head whose weights are `flat`."""
        both = flat.astype(np.float32).reshape(-1, self._num_classes)
        return both[:-1], both[-1]

    def fit(self, solver: ProbeSolver, strength: float, start: LinearHead | None = None, *, tolerance: float = TOLERANCE) -> FittedHead:
        """Return the optimum for a strength, searched from `start`, by default from zero."""
        from scipy import optimize

        first = np.zeros((self._rows.width + 1, self._num_classes)) if start is None else np.concatenate([start[0], start[1][None]])
        # without this, L-BFGS also ends once the value falls by less than a share of it
        options = {"maxiter": _MAX_STEPS, "gtol": tolerance} | ({"ftol": 0.0} if solver is ProbeSolver.LBFGS else {})
        found = optimize.minimize(
            self, first.astype(np.float64).ravel(), args=(strength,), jac=True, method=_METHODS[solver], options=options
        )
        self(found.x, strength)
        return FittedHead(weights=self.unpacked(found.x), strength=strength, loss=self.loss, accuracy=self.accuracy)


def choose(
    objective: HeadObjective,
    solver: ProbeSolver,
    strengths: Sequence[float],
    judge: Callable[[LinearHead], float],
) -> FittedHead:
    """Return the head whose strength `judge` gives the lowest loss, of falling `strengths`.

    Each fit starts from the head before it. The loss of other images first falls and then rises as the penalty weakens, so the first rise
    ends the path.
    """
    best: FittedHead | None = None
    lowest = float("inf")
    head: FittedHead | None = None
    for strength in strengths:
        head = objective.fit(solver, strength, None if head is None else head.weights)
        judged = judge(head.weights)
        if best is not None and not judged < lowest:
            break
        best, lowest = head, judged
    assert best is not None, "there are no strengths"
    return best


@functools.lru_cache(maxsize=8)
def _measure(kind: Loss, num_classes: int, target: TargetKind) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Return a traced function: loss and hits of some rows, and the gradients of kernel and bias, all summed."""
    table, vector, number = (tf.TensorSpec([None] * rank, tf.float32) for rank in (2, 1, 0))

    def measure(features: tf.Tensor, labels: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, gamma: tf.Tensor, weights: tf.Tensor) -> Any:
        loss_of = losses.training_loss(kind, smoothing=0.0, gamma=gamma, class_weights=weights, target=target)
        logits = tf.ensure_shape(tf.matmul(features, kernel) + bias, [None, num_classes])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            # summed in double precision: a line search compares values that differ little
            loss = tf.reduce_sum(tf.cast(loss_of(losses.dense(labels, num_classes), logits), tf.float64))
        slope = tape.gradient(loss, logits)
        hits = tf.reduce_sum(tf.cast(losses.hits(logits, labels, target), tf.float64))
        return loss, hits, tf.cast(tf.matmul(features, slope, transpose_a=True), tf.float64), tf.cast(tf.reduce_sum(slope, 0), tf.float64)

    found: Callable[..., tuple[tf.Tensor, ...]] = tf.function(
        measure, input_signature=[table, losses.label_spec(target), table, vector, number, vector]
    )
    return found


@dataclass(frozen=True, kw_only=True)
class _Means:
    """Weighted means over all rows."""

    #: (d,)
    features: NDArray[np.float32]
    #: (classes,)
    labels: NDArray[np.float64]
    #: sum of the weights
    total: float


@dataclass(frozen=True, kw_only=True)
class _Factors:
    """The eigenvectors of the Gram matrix of weighted and centered rows."""

    #: those (k,) that are not rounding errors
    eigenvalues: NDArray[np.float64]
    #: eigenvectors (d, k)
    basis: NDArray[np.float32]
    #: the labels in the basis of the eigenvectors (k, classes)
    projected: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _CenteredPart:
    """Some rows minus their means, each multiplied by the root of its weight."""

    features: tf.Tensor
    #: (m, classes)
    targets: NDArray[np.float64]
    #: root of the weight of each row (m,)
    roots: NDArray[np.float64]


class Ridge:
    """Ridge regression on one-hot labels, its strength and the scale of its scores chosen by leave-one-image-out.

    All views of an image are left out together, because a mirror image tells what its image is. Removing rows B from a least-squares fit
    with the hat matrix H divides their residuals by I - H_BB, so nothing is fitted again.
    """

    def __init__(self, rows: Rows, class_weights: NDArray[np.floating[Any]], *, tick: Callable[[], None]) -> None:
        """Decompose the Gram matrix of `rows`, each weighted by its class; `tick` is called between parts, and may raise to interrupt."""
        self._rows, self._weights, self._tick = rows, np.asarray(class_weights, np.float64), tick
        self._means = self._measure_means()
        self._factors = self._decompose()

    def solve(self, strength: float) -> LinearHead:
        """Return the head that minimizes the mean squared error over two, plus half the strength times the squared kernel."""
        kernel: NDArray[np.float32] = self._factors.basis @ self._shrunk(strength)
        return kernel, (self._means.labels - self._means.features @ kernel).astype(np.float32)

    def left_out(self, strengths: Sequence[float]) -> NDArray[np.float64]:
        """Return for each strength the scores (n, classes) of each row by the head that is fitted without its image."""
        found = []
        for part in self._centered():
            rotated = tf.matmul(part.features, self._factors.basis).numpy()
            found.append([self._left_out(rotated, part, strength) for strength in strengths])
        return np.concatenate(found, 1)

    def choose(self, strengths: Sequence[float], loss: Loss, gamma: float) -> FittedHead:
        """Return the head with the lowest loss of left-out images, its scores scaled so that they are logits."""
        loss_of = losses.plain_loss(loss, gamma)
        given = np.concatenate([labels.numpy() for _, labels in self._rows.parts()])
        labels = tf.one_hot(given, len(self._weights))

        def judged(scores: NDArray[np.float64], scale: float) -> float:
            return float(tf.reduce_mean(loss_of(labels, tf.constant(_logits(scores, scale)))))

        left_out = zip(strengths, self.left_out(strengths), strict=True)
        _, strength, scale = min((judged(scores, scale), strength, scale) for strength, scores in left_out for scale in _SCALES.tolist())
        kernel, bias = self.solve(strength)
        kernel, bias = kernel * np.float32(scale), _logits(bias, scale)
        logits = np.concatenate([tf.matmul(features, kernel).numpy() + bias for features, _ in self._rows.parts()])
        return FittedHead(
            weights=(kernel, bias),
            strength=strength,
            loss=float(tf.reduce_mean(loss_of(labels, tf.constant(logits)))),
            accuracy=float((logits.argmax(1) == given).mean()),
        )

    def _shrunk(self, strength: float) -> NDArray[np.float32]:
        own = self._factors
        divisors = (own.eigenvalues + strength * self._rows.count).astype(np.float32)
        return np.asarray(own.projected / divisors[:, None], np.float32)

    def _left_out(self, rotated: NDArray[np.float32], part: _CenteredPart, strength: float) -> NDArray[np.float64]:
        self._tick()
        views, shape = self._rows.num_views, part.targets.shape
        residuals = (part.targets - rotated @ self._shrunk(strength)).reshape(views, -1, shape[1]).transpose(1, 0, 2)
        roots = part.roots.reshape(views, -1).T
        divisors = np.sqrt(self._factors.eigenvalues + strength * self._rows.count).astype(np.float32)
        scaled = (rotated / divisors).reshape(views, shape[0] // views, len(divisors)).transpose(1, 0, 2)
        # the bias is not penalized, and adds the hat matrix of a mean
        hat = scaled @ scaled.transpose(0, 2, 1) + roots[:, :, None] * roots[:, None, :] / self._means.total
        removed = np.linalg.solve(np.eye(views) - hat, residuals).transpose(1, 0, 2).reshape(shape)
        return np.asarray(self._means.labels + (part.targets - removed) / part.roots[:, None], np.float64)

    def _measure_means(self) -> _Means:
        counts, sums = np.zeros(len(self._weights)), np.zeros(self._rows.width)
        for features, labels in self._rows.parts():
            self._tick()
            counts += np.bincount(labels.numpy(), minlength=len(counts))
            weights = tf.constant(self._weights[labels.numpy()], tf.float32)
            sums += tf.linalg.matvec(features, weights, transpose_a=True).numpy()
        weighted = counts * self._weights
        total = float(weighted.sum())
        return _Means(features=(sums / total).astype(np.float32), labels=weighted / total, total=total)

    def _centered(self) -> Iterator[_CenteredPart]:
        for features, labels in self._rows.parts():
            self._tick()
            roots = np.sqrt(self._weights[labels.numpy()])
            targets = (np.eye(len(self._weights))[labels.numpy()] - self._means.labels) * roots[:, None]
            centered = (features - self._means.features) * tf.constant(roots[:, None], tf.float32)
            yield _CenteredPart(features=centered, targets=targets, roots=roots)

    def _decompose(self) -> _Factors:
        """Return the eigenvectors of the smaller one of both Gram matrices, which have the same eigenvalues."""
        cross = np.zeros((self._rows.width, len(self._weights)))
        if self._rows.count > self._rows.width:
            gram = np.zeros((self._rows.width, self._rows.width))
            for part in self._centered():
                gram += tf.matmul(part.features, part.features, transpose_a=True).numpy()
                cross += tf.matmul(part.features, tf.constant(part.targets, tf.float32), transpose_a=True).numpy()
            eigenvalues, basis = _eigenvectors(gram)
        else:
            parts = list(self._centered())
            rows = np.concatenate([part.features.numpy() for part in parts])
            eigenvalues, vectors = _eigenvectors(rows @ rows.T)
            basis = np.asarray(rows.T @ vectors / np.sqrt(eigenvalues), np.float32)
            cross += rows.T @ np.concatenate([part.targets for part in parts])
        return _Factors(eigenvalues=eigenvalues, basis=basis, projected=basis.T @ cross.astype(np.float32))


def _eigenvectors(gram: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the eigenvalues (k,) that are not rounding errors, and their eigenvectors (n, k)."""
    values, vectors = np.linalg.eigh(gram.astype(np.float32))
    kept = values > _SMALLEST_EIGENVALUE * max(float(values[-1]), _SMALLEST_EIGENVALUE)
    return values[kept].astype(np.float64), vectors[:, kept]


def _logits(scores: NDArray[np.floating[Any]], scale: float) -> NDArray[np.float32]:
    """Return logits for scores that are near 1 for the right class and near 0 for the others; 0.5 is undecided."""
    return (scale * (scores - 0.5)).astype(np.float32)
