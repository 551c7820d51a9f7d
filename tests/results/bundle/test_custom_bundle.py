"""Bundles of user models, with models that are not real: their files and texts, their verification, and predictions."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results import conftest as results
from tests.trust import keras_files
from tuner.commands import bundles as commands
from tuner.errors import RequestError, StudyError, TrainingError
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results import best as bests
from tuner.results.best import Best
from tuner.results.bundle import bundle, custom_bundle, manifest
from tuner.results.bundle.bundle import BundleOptions
from tuner.results.verify import verification
from tuner.results.verify.verification import Outcome, VerificationOptions
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues
from tuner.storage import attributes
from tuner.trust import user_code
from tuner.workers.worker import evaluation

CODE = "def build(hp): ...\ndef load(): ...\n"
Errands = Callable[[errands.Errand], errands.Answer]


@pytest.fixture
def best(tmp_path: Path) -> Best:
    """Trial 3 of a study of a model in the file my.py."""
    (tmp_path / "my.py").write_text(CODE)
    given = {"name": "prices", "task": "custom", "model": {"build": "my.py:build"}, "data": {"load": "my.py:load"}}
    spec = study_file.parse({**given, "objective": "val_mae", "folder": str(tmp_path)}, "prices.yaml")
    stored = {attributes.TEST: {"accuracy": None, "value": 2.5, "metrics": {"mae": 2.5}}, attributes.METRICS: {"val_mae": 2.25}}
    found = results.as_trial(3, 2.25, stored)
    chosen = ChosenValues(values={"units": 8}).model_dump(mode="json")
    prepared = results.PREPARED.model_copy(update={"classes": (), "code": user_code.read(["my.py:build"], tmp_path)})
    found = dataclasses.replace(found, hyperparameters=chosen)
    return Best(spec=spec, found=found, rank=1, num_completed=5, rule=None, prepared=prepared)


def export(order: errands.ExportCode, refused: dict[Format, str]) -> errands.ExportedCode:
    folder = Path(order.folder)
    for form in order.formats:
        if form not in refused:
            (folder / errands.BUNDLE_PATHS[form]).write_bytes(keras_files.packed() if form is Format.KERAS else b"model")
    (folder / errands.WEIGHTS_FILE).write_bytes(b"weights")
    np.savez(order.examples, x=np.ones((2, 3), np.float32))
    np.savez(order.predictions, output=np.array([[10.0], [20.0]], np.float32))
    np.savez(order.answers, in_0=np.ones((2, 3)), out_0=np.ones((2, 1)))
    return errands.ExportedCode(
        model="Functional",
        num_parameters=4,
        inputs=(errands.ModelInput(name="x", shape=(3,), dtype="float32"),),
        outputs=(errands.ModelOutput(name="output", meaning="numbers"),),
        num_compared=2,
        written=tuple(form for form in order.formats if form not in refused),
        refused=refused,
        packages={"keras": "3.15.1", "tuner": "0.1.0"},
        versions={"python": "3.11.2", "keras": "3.15.1", "tuner": "0.1.0"},
    )


def rehearsed(*, refused: dict[Format, str] | None = None, off: float = 1e-7, found: Any = ((10.0,), (20.0,))) -> Any:
    """Return `evaluation.run` without processes: `off` is the difference of every format but Keras'."""

    def run(order: errands.Errand, *, threads: int = 0) -> Any:
        match order:
            case errands.ExportCode():
                return export(order, refused or {})
            case errands.Compare():
                difference = 0.0 if order.format is Format.KERAS else off
                return errands.Compared(num_images=2, max_difference=difference, agreement=1.0, milliseconds=0.5, load_seconds=0.1)
            case errands.PredictArrays():
                np.savez(order.to, output=np.array(found, np.float32))
                return errands.ArrayPredictions(num_examples=len(found))
        raise AssertionError(order)

    return run


@pytest.fixture
def write(best: Best, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., custom_bundle.Written]:
    def written(*forms: Format, **answers: Any) -> custom_bundle.Written:
        monkeypatch.setattr(evaluation, "run", rehearsed(**answers))
        wanted = BundleOptions(formats=(Format.KERAS, *forms), cache=tmp_path, threads=1)
        return custom_bundle.write(best, tmp_path / "w.npz", tmp_path / "home", wanted, lambda line: None)

    return written


def verify(folder: Path, tmp_path: Path, **changes: Any) -> verification.Report:
    wanted = VerificationOptions(
        key=None, requirements=None, is_robustness_wanted=False, most_images=1, tolerance=0.1, cache=tmp_path, localize=lambda spec: spec,
        needs_data=False,
    )  # fmt: skip
    return verification.verify(folder, dataclasses.replace(wanted, **changes), tell=lambda line: None)


def outcomes(report: verification.Report) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in report.checks}


def test_a_bundle_has_the_model_the_code_and_what_describes_them(write: Any, best: Best, tmp_path: Path) -> None:
    written = write(Format.ONNX)
    home = tmp_path / "home"
    assert list(written.compared) == [Format.KERAS, Format.ONNX] and written.refused == {}
    names = {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "code/my.py", "config.yaml", "environment.lock", "examples.npz", "formats.json", "interface.json"),
        *("manifest.json", "metrics.json", "model.keras", "model.onnx", "model.weights.h5", "predictions.npz"),
    }
    assert manifest.check(home) == [] and bundle.is_bundle(home)
    recorded = json.loads((home / "metrics.json").read_text())
    assert (recorded["metric"], recorded["direction"], recorded["value"], recorded["test_value"]) == ("val_mae", "minimize", 2.25, 2.5)
    assert recorded["hyperparameters"] == {"units": 8}
    (code,) = recorded["code"]
    assert (code["name"], code["file"], len(code["sha256"])) == ("my.py", "code/my.py", 64)
    assert (home / "code/my.py").read_text() == CODE
    assert study_file.read(home / "config.yaml").result is not None
    card = (home / "README.md").read_text()
    assert "| val_mae on the validation data | 2.25 |" in card and "| mae on the test data | 2.5 |" in card
    assert "| input | `x` | (3) float32 |" in card and code["sha256"] in card and 'model.predict(x["x"])' in card


def test_a_format_that_cannot_be_written_or_does_not_agree_is_left_out_with_its_reason(write: Any, tmp_path: Path) -> None:
    written = write(Format.ONNX, Format.LITERT, refused={Format.ONNX: "'tf.Odd' op"}, off=0.5)
    assert list(written.compared) == [Format.KERAS]
    assert written.refused[Format.ONNX] == "'tf.Odd' op"
    assert (
        "does not agree with the Keras model: 2 examples, largest difference 5.0e-01, 0.50 ms per example" in written.refused[Format.LITERT]
    )
    assert not (tmp_path / "home" / "model.tflite").exists()
    assert "Not in this bundle: `model.onnx`: 'tf.Odd' op." in (tmp_path / "home" / "README.md").read_text()


def test_a_bundle_without_a_keras_file_says_how_to_build_the_model_and_predicts_with_another_format(write: Any, tmp_path: Path) -> None:
    write(Format.LITERT, refused={Format.KERAS: "it would load only with your code"})
    home = tmp_path / "home"
    interface = custom_bundle.read(home)
    assert custom_bundle.loaded_format(home, interface) is Format.LITERT
    assert 'model.load_weights("model.weights.h5")' in (home / "README.md").read_text()
    assert outcomes(verify(home, tmp_path))["predictions"] is Outcome.OK


def test_a_bundle_without_a_model_that_loads_alone_predicts_nothing(write: Any, tmp_path: Path) -> None:
    write(refused={Format.KERAS: "it would load only with your code"})
    home = tmp_path / "home"
    assert outcomes(verify(home, tmp_path))["predictions"] is Outcome.NOT_CHECKED
    with pytest.raises(RequestError, match="no model that loads without the user's code: it would load only with your code"):
        commands.predict(home, [str(home / "examples.npz")], top=1, as_json=False, threads=1)


def test_a_small_value_keeps_its_digits(best: Best) -> None:
    found = dataclasses.replace(best, found=dataclasses.replace(best.found, row=dataclasses.replace(best.found.row, value=1e-7)))
    assert custom_bundle.headline(found).endswith("the best of 5 completed trials: val_mae 1e-7.")


def test_code_that_was_changed_since_the_training_is_refused(write: Any, best: Best, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(CODE + "# new\n")
    with pytest.raises(RequestError, match=r"my.py was changed since the study prices was trained.*Restore the file"):
        write()
    assert not (tmp_path / "home").exists()


def test_an_objective_has_no_bundle(best: Best) -> None:
    spec = study_file.parse({"name": "o", "task": "objective", "function": "my.py:f", "objective": "minimize"}, "o.yaml")
    with pytest.raises(StudyError, match=r"no model. Export the values: tuner export o --to best.yaml"):
        bests.require_code(dataclasses.replace(best, spec=spec))


def test_a_bundle_passes_verification_and_its_code_is_not_run(write: Any, tmp_path: Path) -> None:
    write()
    home = tmp_path / "home"
    report = verify(home, tmp_path)
    assert report.is_good
    assert set(outcomes(report)) == {"manifest", "signature", "safe loading", "predictions"}
    assert any("the code in the bundle is not run" in line for check in report.checks for line in check.found)


@pytest.mark.parametrize("found", [[[10.0], [21.0]], [[10.0]], [[10.0], [np.nan]]])
def test_predictions_that_differ_fail(write: Any, tmp_path: Path, found: Any) -> None:
    write(found=found)
    assert outcomes(verify(tmp_path / "home", tmp_path))["predictions"] is Outcome.FAILED


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (lambda home: (home / "code/my.py").write_text("import os"), "manifest"),
        (lambda home: (home / "more.py").write_text("import os"), "manifest"),
        (lambda home: [(home / "more.py").write_text("import os"), manifest.write(home)], "safe loading"),
        (lambda home: [(home / "predictions.npz").unlink(), manifest.write(home)], "safe loading"),
        (lambda home: [shutil.copy(home / "config.yaml", home / "model.keras"), manifest.write(home)], "safe loading"),
    ],
)
def test_a_changed_bundle_is_not_loaded(write: Any, tmp_path: Path, damage: Callable[[Path], Any], failed: str) -> None:
    write()
    home = tmp_path / "home"
    damage(home)
    found = outcomes(verify(home, tmp_path))
    assert (found[failed], found["predictions"]) == (Outcome.FAILED, Outcome.NOT_CHECKED)


def test_options_of_images_are_refused(write: Any, tmp_path: Path) -> None:
    write()
    with pytest.raises(RequestError, match="--data applies only to bundles of image classifiers"):
        verify(tmp_path / "home", tmp_path, needs_data=True)


def test_predictions_are_printed_as_lines_as_json_or_written(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    home, rows = tmp_path / "home", tmp_path / "rows.csv"
    rows.write_text("1,2,3\n4,5,6\n")
    asked: dict[str, Any] = {"top": 1, "threads": 1}
    assert commands.predict(home, [str(rows)], as_json=False, **asked) == 0
    assert commands.predict(home, [str(rows)], as_json=True, **asked) == 0
    assert capsys.readouterr().out.splitlines() == ["0: 10", "1: 20", '{"output": 10.0}', '{"output": 20.0}']
    assert commands.predict(home, [str(rows)], as_json=False, to=tmp_path / "out.npz", **asked) == 0
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["output"].tolist() == [[10], [20]]
    for given, to, said in (
        ([str(rows), str(rows)], None, "one file at a time"),
        ([str(rows)], tmp_path / "out.csv", "expected a file that ends in .npz"),
    ):
        with pytest.raises(RequestError, match=said):
            commands.predict(home, given, as_json=False, to=to, **asked)


@pytest.mark.parametrize(
    ("meaning", "values", "text", "plain"),
    [
        ("probabilities", [0.25, 0.75], "class 1 0.750", [0.25, 0.75]),
        ("probability", [0.5], "0.5", 0.5),
        ("numbers", [[1.0, 2.0], [3.0, np.inf]], "1 2 3 inf", [[1, 2], [3, None]]),
        ("numbers", list(range(9)), "0 1 2 3 4 5 6 7 … (9 numbers)", list(range(9))),
    ],
)
def test_an_output_in_words_and_in_json(meaning: Any, values: Any, text: str, plain: Any) -> None:
    assert commands._in_words(meaning, np.array(values, np.float32)) == text
    assert commands._as_plain(np.array(values, np.float32)) == plain


def test_an_export_whose_model_cannot_be_built_writes_nothing(best: Best, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(order: errands.Errand, *, threads: int = 0) -> Any:
        raise TrainingError("ValueError: no (my.py, line 1)", kind="errand")

    monkeypatch.setattr(evaluation, "run", fail)
    with pytest.raises(TrainingError, match="my.py, line 1"):
        custom_bundle.write(
            best, tmp_path / "w.npz", tmp_path / "home", BundleOptions(formats=(Format.KERAS,), cache=tmp_path, threads=1), print
        )
    assert not (tmp_path / "home").exists() and sorted(path.name for path in tmp_path.iterdir()) == ["my.py"]
