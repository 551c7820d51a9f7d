"""Solvers of linear heads, against scikit-learn and against fitting again without each image."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tuner.kernels import solvers
from tuner.kernels.solvers import HeadLoss, HeadObjective, LinearHead, Ridge, Rows
from tuner.spec.hyperparameters import LOSSES, Loss, ProbeSolver, TargetKind

NUM_IMAGES, NUM_VIEWS, WIDTH, NUM_CLASSES = 40, 2, 6, 3
RANDOM = np.random.default_rng(0)
LABELS = np.arange(NUM_IMAGES) % NUM_CLASSES
IMAGES = RANDOM.normal(0, 1, (NUM_IMAGES, WIDTH)) + 1.2 * np.eye(WIDTH)[LABELS]
#: each image and its twin, which differs little
VIEWS = np.stack([IMAGES, IMAGES + RANDOM.normal(0, 0.1, IMAGES.shape)]).astype(np.float32)
EVEN, BALANCED = np.ones(NUM_CLASSES), np.array([0.6, 1.5, 0.9069767])
CONVEX = [ProbeSolver.LBFGS, ProbeSolver.CONJUGATE_GRADIENT]


def rows(images: NDArray[Any] | None = None, *, at_once: int = 1000, width: int = WIDTH) -> Rows:
    chosen = np.arange(NUM_IMAGES) if images is None else images

    def parts() -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        for start in range(0, len(chosen), at_once):
            part = chosen[start : start + at_once]
            yield tf.constant(VIEWS[:, part, :width].reshape(-1, width)), tf.constant(np.tile(LABELS[part], NUM_VIEWS), tf.int32)

    return Rows(parts=parts, num_images=len(chosen), num_views=NUM_VIEWS, width=width)


def objective(given: Rows, *, kind: Loss = Loss.CROSS_ENTROPY, class_weights: NDArray[Any] = EVEN) -> HeadObjective:
    return HeadObjective(given, HeadLoss(kind=kind, gamma=2.0, class_weights=class_weights), tick=lambda: None)


def logits(head: LinearHead) -> NDArray[np.float32]:
    return VIEWS.reshape(-1, WIDTH) @ head[0] + head[1]


@pytest.mark.parametrize("solver", CONVEX)
@pytest.mark.parametrize("class_weights", [EVEN, BALANCED], ids=["even", "balanced"])
@pytest.mark.parametrize("strength", [1.0, 0.03])
def test_the_optimum_is_that_of_scikit_learn(solver: ProbeSolver, class_weights: NDArray[Any], strength: float) -> None:
    from sklearn.linear_model import LogisticRegression

    count = NUM_IMAGES * NUM_VIEWS
    reference = LogisticRegression(C=1 / (strength * count), tol=1e-8, max_iter=10_000)
    reference.fit(VIEWS.reshape(-1, WIDTH), np.tile(LABELS, NUM_VIEWS), sample_weight=np.tile(class_weights[LABELS], NUM_VIEWS))
    found = objective(rows(), class_weights=class_weights).fit(solver, strength, tolerance=1e-6)
    np.testing.assert_allclose(found.weights[0], reference.coef_.T, atol=1e-3)
    bias = found.weights[1] - found.weights[1].mean()
    np.testing.assert_allclose(bias, reference.intercept_ - reference.intercept_.mean(), atol=1e-3)
    assert found.accuracy == pytest.approx((logits(found.weights).argmax(1) == np.tile(LABELS, NUM_VIEWS)).mean())


@pytest.mark.parametrize("solver", CONVEX)
@pytest.mark.parametrize("kind", LOSSES[TargetKind.LABEL])
def test_every_loss_reaches_a_point_without_slope(solver: ProbeSolver, kind: Loss) -> None:
    measured = objective(rows(), kind=kind)
    found = measured.fit(solver, 0.1)
    _, slope = measured(np.concatenate([found.weights[0], found.weights[1][None]]).ravel().astype(np.float64), 0.1)
    assert np.abs(slope).max() <= 1.1 * solvers.TOLERANCE


def test_the_gradient_is_the_slope_of_the_value() -> None:
    measured = objective(rows(), class_weights=BALANCED)
    at = np.random.default_rng(1).normal(0, 0.3, (WIDTH + 1) * NUM_CLASSES)
    _, gradient = measured(at, 0.5)
    for position in range(len(at)):
        ahead, behind = at.copy(), at.copy()
        ahead[position] += 1e-2
        behind[position] -= 1e-2
        slope = (measured(ahead, 0.5)[0] - measured(behind, 0.5)[0]) / 2e-2
        assert gradient[position] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("solver", CONVEX)
def test_rows_that_come_in_parts_give_the_same_head(solver: ProbeSolver) -> None:
    whole, parts = (objective(rows(at_once=at_once)).fit(solver, 0.1, tolerance=1e-6) for at_once in (1000, 7))
    np.testing.assert_allclose(parts.weights[0], whole.weights[0], atol=1e-4)
    assert parts.loss == pytest.approx(whole.loss, abs=1e-5)


def test_ridge_on_rows_that_come_in_parts_gives_the_same_head() -> None:
    whole, parts = (Ridge(rows(at_once=at_once), BALANCED, tick=lambda: None) for at_once in (1000, 7))
    one, other = whole.choose([1.0, 0.1], Loss.CROSS_ENTROPY, 2.0), parts.choose([1.0, 0.1], Loss.CROSS_ENTROPY, 2.0)
    np.testing.assert_allclose(other.weights[0], one.weights[0], atol=1e-4)
    assert (other.strength, other.accuracy) == (one.strength, one.accuracy)


def test_the_strength_with_the_lowest_loss_is_chosen_and_the_first_rise_ends_the_path() -> None:
    judged = {3.0: 0.9, 1.0: 0.5, 0.3: 0.6, 0.1: 0.1}
    seen: list[float] = []

    def judge(head: LinearHead) -> float:
        seen.append(list(judged)[len(seen)])
        return judged[seen[-1]]

    found = solvers.choose(objective(rows()), ProbeSolver.LBFGS, list(judged), judge)
    assert found.strength == 1.0
    assert seen == [3.0, 1.0, 0.3]


def test_a_fit_can_be_interrupted_between_two_evaluations() -> None:
    calls: list[int] = []

    def tick() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    interrupted = HeadObjective(rows(), HeadLoss(kind=Loss.CROSS_ENTROPY, gamma=2.0, class_weights=EVEN), tick=tick)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(ProbeSolver.CONJUGATE_GRADIENT, 0.01)
    assert len(calls) == 4


@pytest.mark.parametrize("class_weights", [EVEN, BALANCED], ids=["even", "balanced"])
@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_ridge_minimizes_the_squared_error(class_weights: NDArray[Any], strength: float) -> None:
    kernel, bias = Ridge(rows(), class_weights, tick=lambda: None).solve(strength)
    expected = brute_force(np.arange(NUM_IMAGES), strength, class_weights)
    np.testing.assert_allclose(kernel, expected[0], atol=1e-4)
    np.testing.assert_allclose(bias, expected[1], atol=1e-4)


@pytest.mark.parametrize("class_weights", [EVEN, BALANCED], ids=["even", "balanced"])
@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_all_views_of_an_image_are_left_out_together(class_weights: NDArray[Any], strength: float) -> None:
    [scores] = Ridge(rows(), class_weights, tick=lambda: None).left_out([strength])
    scores = scores.reshape(NUM_VIEWS, NUM_IMAGES, NUM_CLASSES)
    for image in range(NUM_IMAGES):
        kernel, bias = brute_force(np.delete(np.arange(NUM_IMAGES), image), strength, class_weights)
        np.testing.assert_allclose(scores[:, image], VIEWS[:, image] @ kernel + bias, atol=2e-3)


def brute_force(images: NDArray[Any], strength: float, class_weights: NDArray[Any]) -> LinearHead:
    """Fit by the normal equations, with the penalty that all images have."""
    table = VIEWS[:, images].reshape(-1, WIDTH).astype(np.float64)
    wide = np.concatenate([table, np.ones((len(table), 1))], 1)
    labels = np.tile(LABELS[images], NUM_VIEWS)
    weights = class_weights[labels][:, None]
    penalty = strength * NUM_IMAGES * NUM_VIEWS * np.diag([1.0] * WIDTH + [0.0])
    both = np.linalg.solve(wide.T @ (weights * wide) + penalty, wide.T @ (weights * np.eye(NUM_CLASSES)[labels]))
    return both[:-1], both[-1]


def test_fewer_rows_than_features_give_the_same_ridge_head() -> None:
    few = np.array([0, 1])
    kernel, bias = Ridge(rows(few), EVEN, tick=lambda: None).solve(0.1)
    table = VIEWS[:, few].reshape(-1, WIDTH).astype(np.float64)
    assert len(table) < WIDTH
    wide = np.concatenate([table, np.ones((4, 1))], 1)
    penalty = 0.1 * 4 * np.diag([1.0] * WIDTH + [0.0])
    both = np.linalg.solve(wide.T @ wide + penalty, wide.T @ np.eye(NUM_CLASSES)[np.tile(LABELS[few], 2)])
    np.testing.assert_allclose(kernel, both[:-1], atol=1e-3)
    np.testing.assert_allclose(bias, both[-1], atol=1e-3)


@pytest.mark.parametrize("loss", [Loss.CROSS_ENTROPY, Loss.BINARY_CROSS_ENTROPY])
def test_scores_of_ridge_become_logits_with_a_finite_loss(loss: Loss) -> None:
    found = Ridge(rows(), EVEN, tick=lambda: None).choose([1.0, 0.1, 0.01], loss, 2.0)
    plain = Ridge(rows(), EVEN, tick=lambda: None).solve(found.strength)
    scale = found.weights[0] / plain[0]
    assert scale.min() == pytest.approx(scale.max(), rel=1e-3)
    assert scale.min() > 1.5
    assert found.loss < (0.9 * np.log(3) if loss is Loss.CROSS_ENTROPY else 0.9 * 3 * np.log(2))
    assert found.accuracy == pytest.approx((logits(found.weights).argmax(1) == np.tile(LABELS, NUM_VIEWS)).mean())


def test_a_constant_feature_gives_finite_heads() -> None:
    constant = np.zeros((20, 3), np.float32)
    labels = tf.constant(np.arange(20) % 2, tf.int32)
    given = Rows(parts=lambda: iter([(tf.constant(constant), labels)]), num_images=20, num_views=1, width=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ridge = Ridge(given, np.ones(2), tick=lambda: None).choose([1.0], Loss.CROSS_ENTROPY, 2.0)
        fitted = HeadObjective(given, HeadLoss(kind=Loss.CROSS_ENTROPY, gamma=2.0, class_weights=np.ones(2)), tick=lambda: None).fit(
            ProbeSolver.CONJUGATE_GRADIENT, 1.0
        )
    for head in (ridge.weights, fitted.weights):
        assert np.isfinite(head[0]).all() and np.isfinite(head[1]).all()
