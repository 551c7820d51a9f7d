"""Bundles with models that are not real: their files, their texts, and what is never written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.results import rehearsed_errand
from tuner.errors import RequestError, TrainingError, TunerError
from tuner.protocol import errands, messages
from tuner.protocol.errands import Format
from tuner.protocol.messages import Stage
from tuner.results import export
from tuner.results.best import Best
from tuner.results.bundle import bundle, card, manifest
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.statistics import ClassFigures
from tuner.spec import file as study_file
from tuner.spec.study import images_of
from tuner.storage.epochs import EpochRow
from tuner.workers.worker import evaluation

ALL = tuple(Format)
RUN = evaluation.run


@pytest.fixture(autouse=True)
def _without_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "run", rehearsed_errand.run)


def told(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
    monkeypatch.setenv("ERRANDS", json.dumps({name.replace("__", " "): value for name, value in answers.items()}))


def epoch(step: int) -> EpochRow:
    return EpochRow(
        stage=Stage.PROBE if step < 3 else Stage.FINE_TUNE, step=step, loss=1 / step, accuracy=1 - 0.3 / step,
        validation_loss=1 / step, validation_accuracy=1 - 0.4 / step, learning_rate=1e-3, seconds=0.1,
    )  # fmt: skip


def finding_of(best: Best, **changes: Any) -> ModelFacts:
    given: dict[str, Any] = {
        "title": "Trial 17 of the study animals",
        "headline": "Trial 17 of the study animals, the best of 12 completed trials: validation accuracy 0.9760.",
        "spec": best.spec,
        "config": export.resolved(best),
        "hyperparameters": best.hyperparameters,
        "temperature": 1.0,
        "prepared": best.prepared,
        "curve": [epoch(step) for step in range(1, 6)],
        "confusion": [[5, 1], [0, 4]],
        "split": "validation",
        "classes": [
            ClassFigures(name="Bear", num_images=6, precision=1.0, recall=5 / 6, f1=10 / 11),
            ClassFigures(name="A|b\nc", num_images=4, precision=0.8, recall=1.0, f1=None),
        ],
        "best": best,
    }
    return ModelFacts(**given | changes)


@pytest.fixture
def make(make_best: Callable[..., Best], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a bundle and returns its folder."""

    def make(formats: tuple[Format, ...] = (Format.KERAS,), **changes: Any) -> Path:
        wanted = bundle.BundleOptions(formats=formats, cache=tmp_path / "cache", threads=1)
        bundle.write(finding_of(make_best(**changes)), [tmp_path / "weights.npz"], tmp_path / "bundle", wanted, lambda line: None)
        return tmp_path / "bundle"

    return make


def test_a_bundle_holds_the_models_and_their_description(make: Callable[..., Path]) -> None:
    folder = make(ALL)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("model.keras", "saved_model/saved_model.pb", "model.onnx", "model.tflite", "model.int8.tflite"),
        *("labels.txt", "config.yaml", "metrics.json", "environment.lock", "README.md", "formats.json", "manifest.json"),
        *("probes/000.png", "probes/predictions.json", "plots/curve.png", "plots/confusion.png"),
    }
    assert manifest.check(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert (folder / "labels.txt").read_text() == "Bear\nBird\n"


def test_the_config_trains_the_trial_again(make: Callable[..., Path], make_best: Callable[..., Best]) -> None:
    folder = make()
    assert study_file.read_images(folder / "config.yaml") == export.resolved(make_best())
    assert (folder / "config.yaml").read_text() == export.as_yaml(make_best())


def test_the_lock_names_differences_and_leaves_tuner_out(make: Callable[..., Path]) -> None:
    lines = (make() / "environment.lock").read_text().splitlines()
    assert lines[0] == "# Trained with python 3.11.2, keras 3.15.1, tensorflow 2.21.0, tuner 0.1.0."
    assert lines[1] == "# Other versions wrote this bundle: keras."
    assert [line for line in lines if not line.startswith("#")] == ["keras==3.15.1"]


def test_the_formats_are_compared_one_by_one(make: Callable[..., Path]) -> None:
    folder = make(ALL)
    rows = json.loads((folder / "formats.json").read_text())
    assert [row["format"] for row in rows] == [form.value for form in ALL]
    assert rows[1] == {
        "format": "savedmodel",
        "file": "saved_model",
        "bytes": len("savedmodel"),
        "images_compared": 1000,
        "label_agreement": 1.0,
        "max_difference": 1e-6,
        "milliseconds_an_image": 1.5,
        "load_seconds": 0.5,
    }


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"onnx__agreement": 0.9989}, "onnx does not agree with the Keras model: 99.89% of 1000 labels are equal"),
        ({"litert__agreement": 0.5}, "litert does not agree"),
        ({"int8__agreement": 0.979}, r"int8 does not agree .* expected at least 98.0% equal labels"),
        ({"savedmodel__difference": 0.02}, "savedmodel does not agree"),
        ({"onnx__difference": float("nan")}, "onnx does not agree"),
    ],
)
def test_a_format_that_does_not_agree_is_an_error_and_nothing_is_written(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: dict[str, float], message: str
) -> None:
    told(monkeypatch, **answers)
    with pytest.raises(TrainingError, match=message):
        make(ALL)
    assert list(tmp_path.iterdir()) == []


def test_int8_may_differ_a_little(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, int8__agreement=0.981, int8__difference=0.3, onnx__agreement=0.999)
    assert make(ALL).is_dir()


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ({"refuses": "the weights are another study's"}, RequestError, "^the weights are another study's$"),
        ({"dies": True}, TrainingError, "the process for export ended with exit code 1; it last wrote:\nthe last words"),
    ],
)
def test_an_errand_that_fails_leaves_nothing(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: Any, error: type[TunerError], message: str
) -> None:
    told(monkeypatch, **answers)
    monkeypatch.setattr(evaluation, "run", RUN)
    monkeypatch.setattr(evaluation, "COMMAND", (sys.executable, rehearsed_errand.__file__))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    with pytest.raises(error, match=message):
        make()
    assert list(tmp_path.iterdir()) == []


def test_other_folders_are_not_overwritten(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle.check_place(folder, force=False)  # an empty folder is allowed
    (folder / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(RequestError, match="exists and is not a bundle"):
            bundle.check_place(folder, force=force)
    with pytest.raises(RequestError, match="the folder .*nowhere does not exist; create it first"):
        bundle.check_place(tmp_path / "nowhere" / "bundle", force=False)


def test_a_bundle_is_replaced_only_with_force(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(ALL)
    with pytest.raises(RequestError, match="is already a bundle; .*--force"):
        bundle.check_place(folder, force=False)
    bundle.check_place(folder, force=True)
    make(trial=3)
    assert not (folder / "model.onnx").exists()
    assert manifest.check(folder) == []
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_card_starts_with_the_header_of_hugging_face(make: Callable[..., Path]) -> None:
    _, front, text = (make() / "README.md").read_text().split("---\n", 2)
    told = YAML(typ="safe", pure=True).load(front)
    assert (told["library_name"], told["pipeline_tag"]) == ("keras", "image-classification")
    [result] = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.968
    assert result["dataset"]["split"] == "test"
    assert text.startswith("\n# animals-trial-17\n")


def test_the_card_holds_the_example_the_numbers_and_the_plots(make: Callable[..., Path]) -> None:
    text = (make(ALL) / "README.md").read_text()
    assert card.EXAMPLE.format(image="probes/000.png", size=160) in text
    assert len(card.EXAMPLE.splitlines()) == 10
    for words in (
        "| test | 0.9680, 95 % interval 0.9593 to 0.9749 | 2,000 |",
        "| A\\|b c | 4 | 0.800 | 1.000 | – |",
        "f" * 64,
        "plots/curve.png",
        "12,345 parameters",
    ):
        assert words in text


def test_the_card_compares_with_always_the_commonest_class(make: Callable[..., Path], prepared: messages.Prepared) -> None:
    known = {"commonest": "A|b", "commonest_validation": 0.9, "commonest_test": 0.8}
    text = (make(prepared=prepared.model_copy(update=known)) / "README.md").read_text()
    assert "| test, always A\\|b (the commonest class) | 0.8000 | 2,000 |" in text
    assert "| validation, always A\\|b (the commonest class) | 0.9000 | 500 |" in text


def test_the_card_lists_a_hundred_classes_at_most(make_best: Callable[..., Best]) -> None:
    figures = [ClassFigures(name=f"class {number}", num_images=1, precision=1.0, recall=1.0, f1=1.0) for number in range(10_000)]
    text = card._results(finding_of(make_best(), classes=figures))
    assert text.count("| class ") == 1 + 100
    assert text.endswith("The figures of all 10,000 classes are in `metrics.json`.")


def test_names_in_the_card_are_not_markup(make_best: Callable[..., Best]) -> None:
    figures = [ClassFigures(name="Bird [adult](x) <b>`c` *d* \x1b[0m\u202e", num_images=1, precision=1.0, recall=1.0, f1=1.0)]
    text = card._results(finding_of(make_best(), classes=figures))
    assert r"| Bird \[adult\](x) \<b\>\`c\` \*d\* \\u001b\[0m\\u202e | 1 |" in text


def test_labels_stay_one_line_each(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a\nb\rc\u2028d\x85e", "Bird [adult]")
    monkeypatch.setattr(rehearsed_errand, "CLASSES", names)
    folder = make()
    assert (folder / "labels.txt").read_text().splitlines() == [r"a\nb\rc\u2028d\u0085e", "Bird [adult]"]
    assert json.loads((folder / "probes" / "predictions.json").read_text())["classes"] == list(names)


def test_without_a_test_score_the_card_says_that_the_accuracy_is_from_the_search(make: Callable[..., Path]) -> None:
    folder = make(test_accuracy=None)
    text = (folder / "README.md").read_text()
    assert "the highest of 12 trials on the images by which it was chosen" in text
    assert "split: validation" in text
    assert json.loads((folder / "metrics.json").read_text())["test"] is None


def test_metrics_json_holds_the_measurements(make: Callable[..., Path]) -> None:
    told = json.loads((make() / "metrics.json").read_text())
    assert told["validation"]["confusion"] == [[5, 1], [0, 4]]
    assert told["validation"]["classes"][0] == {"name": "Bear", "num_images": 6, "precision": 1.0, "recall": 5 / 6, "f1": 10 / 11}
    assert (told["test"]["accuracy"], told["test"]["num_images"]) == (0.968, 2000)
    assert told["test"]["interval"] == pytest.approx((0.9593, 0.9749), abs=1e-4)
    assert told["note"].startswith("The test accuracy was measured on 2,000 images that were not used for any choice.")


def test_reading_a_folder_that_is_not_a_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not a bundle; create one with: tuner export"):
        bundle.read(tmp_path)


def test_a_bundle_records_the_range_of_values_that_auto_stood_for(make: Callable[..., Path], make_best: Callable[..., Best]) -> None:
    data = {"source": "folder", "path": "/x-rays", "value_range": "auto"}
    spec = images_of(study_file.parse({"name": "animals", "data": data, "budget": {"trials": 20}}, "animals.yaml"))
    prepared = make_best().prepared.model_copy(update={"value_range": (0.0, 4095.0)})
    folder = make(spec=spec, prepared=prepared)
    assert "value_range: [0, 4095]" in (folder / "config.yaml").read_text()
    assert bundle.read(folder).value_range == (0, 4095)
    assert json.loads((folder / "metrics.json").read_text())["value_range"] == [0, 4095]
    assert (
        "The training images were files with values from 0 to 4095, mapped linearly to 0 to 255 and clipped."
        in (folder / "README.md").read_text()
    )


def test_a_bundle_whose_range_is_unknown_is_refused(make: Callable[..., Path]) -> None:
    folder = make()
    (folder / "config.yaml").write_text("name: a\ndata: {source: folder, path: /x-rays, value_range: auto}\n")
    with pytest.raises(RequestError, match=r"has data.value_range: auto; set it to the range of the training images, such as \[0, 4095\]"):
        bundle.read(folder)


def test_reading_a_bundle_returns_what_predicting_needs(make: Callable[..., Path]) -> None:
    folder = make()
    found = bundle.read(folder)
    assert (found.labels, found.size, found.resize) == (("Bear", "Bird"), 160, "stretch")
    assert found.value_range is None
    assert found.model == folder / errands.BUNDLE_PATHS[Format.KERAS]
    (folder / "config.yaml").write_text("name: [")
    with pytest.raises(RequestError, match="is a damaged bundle"):
        bundle.read(folder)
