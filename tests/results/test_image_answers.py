"""Results of images with several labels or a number: ensembles, metrics.json, the model card, and predictions in words."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results.conftest import PREPARED
from tuner import errors
from tuner.commands import bundles
from tuner.drawing import charts
from tuner.protocol import errands
from tuner.protocol.messages import LabelCounts
from tuner.results import ensemble, export, statistics
from tuner.results.best import Best
from tuner.results.bundle import bundle, card, model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.ensemble import Candidate
from tuner.results.verify import verification
from tuner.spec.hyperparameters import LOSSES, Hyperparameters, TargetKind
from tuner.spec.study import StudySpec

RANDOM = np.random.default_rng(0)
COUNTS = (
    LabelCounts(num_images=30, num_given=25, num_right=20, threshold=0.4, average_precision=0.8),
    LabelCounts(num_images=0, num_given=0, num_right=0, threshold=0.5),
)
DATA = {
    TargetKind.LABELS: {"source": "manifest", "path": "/t.csv", "labels": "several"},
    TargetKind.NUMBER: {"source": "manifest", "path": "/t.csv", "target": "number", "label_column": "age"},
}


def noisy(truth: np.ndarray, numbers: list[int], metric: Any) -> list[Candidate]:
    """Trials whose outputs are the truth with noise of their own."""
    found = []
    for number in numbers:
        outputs, mirrored = (np.asarray(truth + RANDOM.normal(0, 1, truth.shape), np.float32) for _ in range(2))
        value = statistics.value(metric, outputs, LABELS if metric == "macro_f1" else truth)
        found.append(Candidate(trial=number, value=value, logits=outputs, mirrored=mirrored))
    return found


NUMBERS = RANDOM.normal(50, 5, (300, 1))
LABELS = (RANDOM.random((300, 3)) < 0.4).astype(np.float32)


def test_an_ensemble_of_numbers_is_their_mean() -> None:
    candidates = noisy(NUMBERS, [0, 1, 2], "mae")
    found = ensemble.choose(candidates, NUMBERS, metric="mae")
    assert found is not None
    assert (set(found.trials), found.mirrored, found.validation_accuracy, found.confusion) == ({0, 1, 2}, True, None, ())
    mean = np.mean([each for one in candidates for each in (one.logits, one.mirrored)], 0)
    assert found.value == pytest.approx(np.abs(mean - NUMBERS).mean(), rel=1e-5)
    assert found.validation_loss == pytest.approx(np.square(mean - NUMBERS).mean(), rel=1e-5)
    assert found.gain < 0 < found.measured
    assert ensemble.Ensemble.model_validate_json(found.model_dump_json()) == found
    assert found.is_at_least(candidates[0].value)


def test_an_ensemble_of_labels_has_thresholds_of_its_own() -> None:
    candidates = noisy(4 * LABELS - 2, [0, 1, 2], "macro_f1")
    found = ensemble.choose(candidates, LABELS, mirror="never", metric="macro_f1")
    assert found is not None
    assert found.best_member_value is not None
    assert found.measured > found.best_member_value
    answers = np.stack([one.logits for one in candidates if one.trial in found.trials])
    judged = statistics.judge("macro_f1", answers, LABELS, found.thresholds)
    assert judged.metrics["macro_f1"] == pytest.approx(found.measured)
    assert judged.accuracy == pytest.approx(found.validation_accuracy)
    assert statistics.value("macro_f1", answers, LABELS, [0.99] * 3) < found.measured


def test_an_ensemble_of_single_labels_is_stored_as_before() -> None:
    labels = np.array([0, 1, 1, 0])
    logits = np.eye(2, dtype=np.float32)[labels]
    found = ensemble.of_members([Candidate(trial=1, value=1.0, logits=logits, mirrored=logits)], labels, mirrored=False)
    assert found.confusion == ((2, 0), (0, 2))
    assert "by_class" not in found.model_dump(mode="json")


@pytest.fixture
def facts_of(make_best: Callable[..., Best]) -> Callable[[TargetKind], ModelFacts]:
    def make(kind: TargetKind) -> ModelFacts:
        spec = StudySpec.model_validate({"name": "plants", "data": DATA[kind]})
        classes = ("age",) if kind is TargetKind.NUMBER else ("scab", "rust")
        always = "always the mean, 7" if kind is TargetKind.NUMBER else "always the same labels"
        prepared = PREPARED.model_copy(
            update={"classes": classes, "always": always, "baseline_validation": 0.4, "baseline_test": 0.5, "commonest": ""}
        )
        best = make_best(
            spec=spec, prepared=prepared, value=0.75, test_accuracy=None, hyperparameters=Hyperparameters(loss=LOSSES[kind][0])
        )
        test = {"value": 0.7} | ({} if kind is TargetKind.NUMBER else {"accuracy": 0.6})
        best = replace(best, found=replace(best.found, attributes={**best.found.attributes, "test": test}))
        counts = COUNTS if kind is TargetKind.LABELS else ()
        return ModelFacts(
            title="Trial 17", headline="Trial 17.", spec=spec, config=spec, hyperparameters=best.of_images, temperature=1.0,
            prepared=prepared, curve=(), split="validation", confusion=(), best=best, by_class=counts,
            classes=statistics.of_labels(counts, classes) if counts else (),
        )  # fmt: skip

    return make


EXPORTED = errands.Exported(
    classes=("scab", "rust"), num_parameters=10, seconds={}, probes=(), num_compared=5, packages={}, versions={"python": "3", "tuner": "1"}
)
ROWS = [
    {"file": "model.keras", "label_agreement": 1.0, "max_difference": 0.0, "milliseconds_an_image": 1.0, "bytes": 10, "images_compared": 5,
     "format": "keras"}
]  # fmt: skip


def test_metrics_of_labels_have_their_thresholds(facts_of: Callable[[TargetKind], ModelFacts]) -> None:
    found = model_facts.metrics(facts_of(TargetKind.LABELS))
    assert (found["target"], found["metric"], found["thresholds"]) == ("labels", "macro_f1", [0.4, 0.5])
    assert found["validation"]["value"] == 0.75
    assert found["validation"]["classes"][0] == {
        "name": "scab", "num_images": 30, "precision": 0.8, "recall": pytest.approx(2 / 3), "f1": pytest.approx(40 / 55),
        "threshold": 0.4, "average_precision": 0.8,
    }  # fmt: skip
    assert (found["test"]["value"], found["test"]["accuracy"], found["test"]["num_images"]) == (0.7, 0.6, 2000)
    assert bundle.as_json(found)


def test_metrics_of_numbers_have_no_accuracy(facts_of: Callable[[TargetKind], ModelFacts]) -> None:
    found = model_facts.metrics(facts_of(TargetKind.NUMBER))
    assert (found["target"], found["metric"], found["test"]) == ("number", "mae", {"num_images": 2000, "value": 0.7})
    assert found["without_a_look"] == {"answer": "always the mean, 7", "validation": 0.4, "test": 0.5}
    assert "thresholds" not in found
    assert bundle.as_json(found)


@pytest.mark.parametrize(
    ("kind", "said", "unsaid"),
    [
        (
            TargetKind.LABELS,
            ["| | macro f1 | images |", "| test | 0.7000 | 2,000 |", "| test, images with exactly the right labels | 0.6000 | 2,000 |",
             "| scab | 30 | 0.800 | 0.667 | 0.727 | 0.800 | 0.400 |", 'thresholds = json.load(open("metrics.json"',
             "The test macro f1 was measured on 2,000 images", "knows 2 labels, and no others"],
            ["assigns one of them"],
        ),
        (
            TargetKind.NUMBER,
            ["| | mae | images |", "| validation, always the mean, 7 | 0.4000 | 500 |", "[[number]] = ", "Each has a number: age",
             "tags: [image-regression", "The validation mae is too low"],
            ["precision", "accuracy", "probabilities", "confusion"],
        ),
    ],
)  # fmt: skip
def test_the_card_shows_the_target(
    kind: TargetKind, said: list[str], unsaid: list[str], facts_of: Callable[[TargetKind], ModelFacts]
) -> None:
    text = card.text(facts_of(kind), EXPORTED, ROWS, {})
    assert not [words for words in said if words not in text]
    assert not [words for words in unsaid if words in text]


@pytest.mark.parametrize("kind", TargetKind)
def test_the_example_of_the_card_is_a_program(kind: TargetKind) -> None:
    compile(card.example(kind).format(image="a.png", size=32), "card", "exec")
    assert kind is not TargetKind.LABEL or card.example(kind) == card.EXAMPLE


def contents(kind: TargetKind, *labels: str) -> bundle.Contents:
    limits = (0.2, 0.9, 0.5) if kind is TargetKind.LABELS else ()
    return bundle.Contents(model=Path("m"), labels=labels, size=32, resize="stretch", value_range=None, kind=kind, thresholds=limits)


@pytest.mark.parametrize(
    ("kind", "row", "line", "answer"),
    [
        (TargetKind.NUMBER, (41.23456,), "age 41.235", {"name": "age", "number": 41.23456}),
        (TargetKind.LABELS, (0.3, 0.8, 0.6), "rot 0.600, scab 0.300", {"labels": ["rot", "scab"]}),
        (TargetKind.LABELS, (0.1, 0.1, 0.1), "no label", {"labels": []}),
        (TargetKind.LABEL, (0.1, 0.7, 0.2), "rust 0.700", {"predictions": [{"label": "rust", "probability": 0.7}]}),
    ],
)
def test_a_prediction_is_told_in_words_and_in_json(kind: TargetKind, row: tuple[float, ...], line: str, answer: dict[str, Any]) -> None:
    own = contents(kind, *(["age"] if kind is TargetKind.NUMBER else ["scab", "rust", "rot"]))
    assert bundles.in_line(row, own, 1) == line
    told = bundles.in_plain(row, own, 1)
    assert {name: told[name] for name in answer} == answer


def test_an_exported_trial_says_what_a_constant_answer_scores(facts_of: Callable[[TargetKind], ModelFacts]) -> None:
    result = export.resolved_images(facts_of(TargetKind.NUMBER).best).result
    assert result is not None
    assert result["always_commonest_class"] == {"answer": "always the mean, 7", "value": 0.4, "test_value": 0.5}
    assert (result["metric"], result["value"], result["test_value"]) == ("mae", 0.75, 0.7)


def test_a_page_has_a_table_of_labels_in_place_of_the_confusion(facts_of: Callable[[TargetKind], ModelFacts]) -> None:
    trial = replace(facts_of(TargetKind.LABELS).best.found, by_class=COUNTS)
    found = charts.confusion(trial, ["scab", "rust"])
    assert found["has_several"] is True
    assert [(one.name, one.threshold) for one in found["class_scores"]] == [("scab", 0.4), ("rust", 0.5)]
    assert charts.confusion(facts_of(TargetKind.NUMBER).best.found, ["age"])["class_scores"] == []


def test_requirements_of_accuracies_are_refused_for_numbers(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"target": "number", "metric": "mae"}')
    asked = bundles.VerifyOptions(
        signature=None, require=tmp_path / "r.yaml", data=None, robustness=False, images=1, tolerance=0.1, cache=None, storage=""
    )
    with pytest.raises(errors.RequestError, match="--require is .*, but .* has a model that predicts numbers; drop --require"):
        bundles.verify(tmp_path, asked, as_json=False)


@pytest.mark.parametrize("given", ['"target": "text"', '"target": "labels", "metric": "beauty"', '"target": "labels", "thresholds": 3'])
def test_a_bundle_that_does_not_say_what_its_outputs_mean_is_not_measured(tmp_path: Path, given: str) -> None:
    (tmp_path / "metrics.json").write_text("{" + given + "}")
    assert "metrics.json does not say what the outputs of the model mean" in verification.answers(tmp_path)[1]
