"""Statistics against published values and calculations by hand."""

import numpy as np
import pytest
from scipy import stats

from tuner.results import statistics
from tuner.results.statistics import ClassFigures


@pytest.mark.parametrize(
    ("num_right", "num", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0000),
    ],
)
def test_wilsons_interval_matches_the_literature(num_right: int, num: int, low: float, high: float) -> None:
    assert statistics.wilson(num_right, num) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("num", [1, 2, 29, 2000, 1_000_000])
def test_wilsons_interval_is_that_of_scipy(num: int) -> None:
    for num_right in {0, 1, num // 3, num - 1, num}:
        found = stats.binomtest(num_right, num).proportion_ci(0.95, method="wilson")
        assert statistics.wilson(num_right, num) == pytest.approx((found.low, found.high), rel=1e-9, abs=1e-15)


def test_the_bootstrap_of_an_accuracy_is_near_wilsons_interval() -> None:
    right = np.arange(1000) < 930
    found = statistics.bootstrap(lambda rows: float(right[rows].mean()), 1000)
    assert found == pytest.approx(statistics.wilson(930, 1000), abs=0.004)
    assert found == statistics.bootstrap(lambda rows: float(right[rows].mean()), 1000)


def test_figures_of_classes_match_a_confusion_counted_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    predicted = np.array([0, 0, 0, 1, 1, 1, 0, 0])
    counts = statistics.confusion(labels, predicted, 4)
    assert counts.tolist() == [[3, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    first, second, third, fourth = statistics.by_class(counts, ["a", "b", "c", "d"])
    assert (first.name, first.num_images, first.precision, first.recall) == ("a", 4, 0.6, 0.75)
    assert first.f1 == pytest.approx(2 / 3)
    assert second.num_images == 3
    assert [second.precision, second.recall] == pytest.approx([2 / 3, 2 / 3])
    assert (third.num_images, third.precision, third.recall, third.f1) == (1, None, 0.0, 0.0)
    assert (fourth.num_images, fourth.precision, fourth.recall, fourth.f1) == (0, None, None, None)
    assert statistics.class_figures(labels, predicted, ["a", "b", "c", "d"]) == [first, second, third, fourth]
    assert statistics.macro_f1(labels, predicted, 4) == pytest.approx(1 / 3)


def test_figures_of_classes_come_from_a_confusion_of_plain_lists() -> None:
    cat, dog, none = statistics.by_class([[8, 2, 0], [2, 6, 0], [0, 0, 0]], ["cat", "dog", "none"])
    assert (cat.num_images, cat.precision, cat.recall, cat.f1) == (10, 0.8, 0.8, 0.8)
    assert (dog.precision, dog.recall) == (0.75, 0.75)
    assert (none.precision, none.recall, none.f1) == (None, None, None)


def test_an_undefined_figure_is_null_in_json_and_a_stored_zero_stays_zero() -> None:
    figures = {"name": "owl", "num_images": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert ClassFigures.model_validate(figures).model_dump() == figures
    (undefined,) = statistics.by_class([[0]], ["owl"])
    assert undefined.model_dump(mode="json") == {"name": "owl", "num_images": 0, "precision": None, "recall": None, "f1": None}


@pytest.mark.parametrize(
    ("accuracy", "num", "low", "high"),
    # as proportion_confint of statsmodels.stats.proportion gives it with the method "wilson"
    [(0.5, 100, 0.4038, 0.5962), (1.0, 10, 0.7225, 1.0), (0.0, 10, 0.0, 0.2775), (0.968, 2000, 0.9594, 0.9748)],
)
def test_the_interval_of_an_accuracy_is_wilsons(accuracy: float, num: int, low: float, high: float) -> None:
    assert statistics.accuracy_interval(accuracy, num) == pytest.approx((low, high), abs=1e-3)


def test_the_calibration_error_matches_a_calculation_by_hand() -> None:
    # a bin of 0.95 with two of three right, one of 0.55 with one of one right: (|2 - 2.85| + |1 - 0.55|) / 4
    given = np.array([[0.95, 0.05], [0.95, 0.05], [0.05, 0.95], [0.45, 0.55]])
    assert statistics.calibration_error(given, np.array([0, 0, 0, 1])) == pytest.approx((0.85 + 0.45) / 4)
    assert statistics.calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0.0
    unsure, sure = statistics.bins(given, np.array([0, 0, 0, 1]))
    assert (unsure.num_images, unsure.confidence, unsure.accuracy) == (1, 0.55, 1.0)
    assert sure.num_images == 3
    assert [sure.confidence, sure.accuracy] == pytest.approx([0.95, 2 / 3])


def test_probabilities_of_large_logits_are_finite() -> None:
    found = statistics.probabilities(np.array([[1e4, 0.0], [0.0, np.log(3)]], np.float32))
    assert found == pytest.approx(np.array([[1.0, 0.0], [0.25, 0.75]]))
    assert statistics.log_loss(np.array([[1e4, 0.0]], np.float32), np.array([1])) == pytest.approx(1e4)


@pytest.mark.parametrize("known", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found(known: float) -> None:
    random = np.random.default_rng(1)
    honest = random.normal(0, 2, (20_000, 5))
    labels = (honest + random.gumbel(size=honest.shape)).argmax(1)  # drawn with the probabilities of `honest`
    found = statistics.temperature((honest * known).astype(np.float32), labels)
    assert found == pytest.approx(known, rel=0.03)
    before, after = (statistics.probabilities((honest * known).astype(np.float32), each) for each in (1.0, found))
    assert statistics.calibration_error(after, labels) < 0.02
    assert known == 1.0 or statistics.calibration_error(before, labels) > 0.05


def test_a_few_images_with_wild_logits_do_not_decide_the_temperature() -> None:
    random = np.random.default_rng(2)
    honest = random.normal(0, 2, (5_000, 5))
    labels = (honest + random.gumbel(size=honest.shape)).argmax(1)
    given = (honest * 2.5).astype(np.float32)
    given[:10] *= 200.0
    labels[:10] = given[:10].argmin(1)
    assert statistics.temperature(given, labels) == pytest.approx(2.5, rel=0.06)


def test_the_brier_score_matches_a_calculation_by_hand() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6]])).astype(np.float32)
    assert statistics.brier(logits, np.array([0, 0])) == pytest.approx((2 * 0.2**2 + 2 * 0.6**2) / 2)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # Fagerland 2013, BMC Medical Research Methodology 13:91: airway hyper-responsiveness, exact conditional test
        (1, 7, 0.0703125),
        (10, 2, 0.03857421875),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (6, 0, 0.03125),
    ],
)
def test_mcnemars_exact_test_matches_the_literature(only_first: int, only_second: int, p: float) -> None:
    agree = [True] * 4 + [False] * 2
    first = np.array([True] * only_first + [False] * only_second + agree)
    second = np.array([False] * only_first + [True] * only_second + agree)
    found = statistics.mcnemar(first, second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p == pytest.approx(p)


def test_equal_seeds_are_compared_in_pairs() -> None:
    found = statistics.paired([0.90, 0.80, 0.85], [0.80, 0.78, 0.86])
    # mean 0.11 / 3, standard deviation 0.0569, times 4.3027 / sqrt(3)
    assert (found.num_better, found.num) == (2, 3)
    assert found.difference == pytest.approx(0.11 / 3)
    assert found.interval == pytest.approx((-0.1046, 0.1779), abs=1e-4)
    assert statistics.paired([0.9], [0.8]).interval is None
    assert statistics.paired([0.9, 0.8], [0.9, 0.8]).interval is None


def test_the_standard_deviation_of_one_value_is_none() -> None:
    assert statistics.spread([0.9]) is None
    assert statistics.spread([0.8, 0.9]) == pytest.approx(0.1 / np.sqrt(2))


def test_scores_of_classes_come_from_the_confusion() -> None:
    cat, dog, none = statistics.by_class([[8, 2, 0], [2, 6, 0], [0, 0, 0]], ["cat", "dog", "none"])
    assert (cat.num_images, cat.precision, cat.recall, cat.f1) == (10, 0.8, 0.8, 0.8)
    assert (dog.precision, dog.recall) == (0.75, 0.75)
    assert (none.precision, none.recall, none.f1) == (None, None, None)


def test_the_standard_error_of_a_metric_is_about_that_of_a_share_of_images() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    logits = np.where(random.random(400) < 0.8, 1.0, -1.0)[:, None] * (2.0 * np.eye(2)[labels] - 1.0)
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert statistics.standard_error(metric, logits.astype(np.float32), labels) == pytest.approx(0.02, rel=0.2)
