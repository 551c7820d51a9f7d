"""User models in every format: several inputs and outputs, classes of their own, sequences, and formats that lack something."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.results import conftest as results
from tuner.errors import DataError, StudyError
from tuner.kernels import checkpoints
from tuner.machine import TrainerShare
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results.best import Best
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues
from tuner.storage.attributes import WEIGHTS
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import custom, user_models
from tuner.tasks.custom.training.inputs import Part
from tuner.trainer import errand
from tuner.trainer.export import custom_model, exported_model, formats
from tuner.trust import keras_file, user_code

RANDOM = np.random.default_rng(0)


def order(folder: Path, *forms: Format) -> errands.ExportCode:
    (folder / "bundle").mkdir()
    return errands.ExportCode(
        spec="",
        trial=3,
        values={},
        weights="",
        cache="",
        formats=forms,
        folder=str(folder / "bundle"),
        examples=str(folder / "examples.npz"),
        predictions=str(folder / "predictions.npz"),
        num_examples=4,
        answers=str(folder / "answers.npz"),
        num_compared=10,
    )


def write(model: keras.Model, x: Any, folder: Path, *forms: Format) -> errands.ExportedCode:
    asked = order(folder, *forms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return custom_model.write(model, Part(name="validation", arrays=(x, np.zeros(20))), asked)


def compare(written: errands.ExportedCode, form: Format, folder: Path) -> errands.Compared:
    asked = errands.Compare(
        format=form,
        path=str(folder / "bundle" / errands.BUNDLE_PATHS[form]),
        answers=str(folder / "answers.npz"),
        inputs=tuple(given.name for given in written.inputs),
        outputs=tuple(found.meaning for found in written.outputs),
    )
    return exported_model.compare(asked, threads=1)


def several() -> keras.Model:
    age, size = keras.Input((1,), name="age"), keras.Input((2,), name="size")
    both = keras.layers.Concatenate()([age, size])
    return keras.Model({"size": size, "age": age}, {"price": keras.layers.Dense(1)(both), "kind": keras.layers.Dense(3, "softmax")(both)})


def test_a_model_of_several_inputs_and_outputs_agrees_in_every_format(tmp_path: Path) -> None:
    x = {"size": RANDOM.normal(size=(20, 2)), "age": RANDOM.normal(size=20)}
    written = write(several(), x, tmp_path, Format.KERAS, Format.SAVED_MODEL, Format.ONNX, Format.LITERT)
    assert [(given.name, given.shape, given.dtype) for given in written.inputs] == [("age", (1,), "float32"), ("size", (2,), "float32")]
    assert [(found.name, found.meaning) for found in written.outputs] == [("kind", "probabilities"), ("price", "numbers")]
    assert (written.refused, written.num_compared) == ({}, 10)
    for form in written.written:
        compared = compare(written, form, tmp_path)
        assert (compared.num_images, compared.agreement) == (10, 1.0)
        assert compared.max_difference < 1e-5
    with np.load(tmp_path / "examples.npz") as examples, np.load(tmp_path / "predictions.npz") as predictions:
        assert {name: array.shape for name, array in examples.items()} == {"age": (4, 1), "size": (4, 2)}
        assert {name: array.shape for name, array in predictions.items()} == {"kind": (4, 3), "price": (4, 1)}
    assert (tmp_path / "bundle" / "model.weights.h5").is_file()
    asked = errands.PredictArrays(
        format=Format.KERAS, path=str(tmp_path / "bundle" / "model.keras"), inputs=written.inputs, outputs=("kind", "price"),
        arrays=str(tmp_path / "examples.npz"), to=str(tmp_path / "again.npz"),
    )  # fmt: skip
    assert exported_model.predict_arrays(asked, threads=1).num_examples == 4
    with np.load(tmp_path / "again.npz") as again, np.load(tmp_path / "predictions.npz") as predictions:
        assert np.allclose(again["price"], predictions["price"], atol=1e-5)


class OwnModel(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def test_a_model_of_its_own_class_has_no_keras_file_but_its_weights_and_other_formats(tmp_path: Path) -> None:
    model, x = OwnModel(), RANDOM.normal(size=(20, 3)).astype(np.float32)
    model(x[:1])
    written = write(model, x, tmp_path, Format.KERAS, Format.LITERT)
    assert written.model == "OwnModel"
    assert (written.written, list(written.refused)) == ((Format.LITERT,), [Format.KERAS])
    assert written.refused[Format.KERAS] == "it would load only with your code, which has its class OwnModel"
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["model.tflite", "model.weights.h5"]
    assert compare(written, Format.LITERT, tmp_path).max_difference < 1e-5


def test_a_model_with_a_lambda_has_no_keras_file(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(1)])
    written = write(model, RANDOM.normal(size=(20, 3)), tmp_path, Format.KERAS)
    assert "it would load only with your code: its configuration names 'Lambda'" in written.refused[Format.KERAS]
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["model.weights.h5"]


def test_a_model_for_sequences_is_safe_to_load_and_a_format_without_its_operations_says_so(tmp_path: Path) -> None:
    layers = [keras.layers.Embedding(9, 4, mask_zero=True), keras.layers.Bidirectional(keras.layers.GRU(3)), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((None,), dtype="int32"), *layers])
    written = write(model, RANDOM.integers(0, 9, (20, 5)), tmp_path, Format.KERAS)
    assert written.written == (Format.KERAS,)
    assert [(given.name, given.shape, given.dtype) for given in written.inputs] == [("x", (None,), "int32")]
    assert keras_file.problems(tmp_path / "bundle" / "model.keras") == []
    assert compare(written, Format.KERAS, tmp_path).max_difference < 1e-5


def test_the_operation_that_a_format_lacks_is_named() -> None:
    message = "<unknown>:0: error: loc(callsite(x)): error: 'tf.TensorListReserve' op requires element_shape to be static\nmore"
    assert formats._reason(ValueError(message)) == "'tf.TensorListReserve' op requires element_shape to be static"
    assert formats._reason(ValueError("first\nsecond")) == "first"


def test_examples_of_batches_are_joined_while_their_shapes_are_equal() -> None:
    batches = [np.zeros((4, 3)), np.ones((4, 3)), np.ones((4, 5))]
    joined = custom_model.examples(Part(name="validation", arrays=None, dataset=iter(batches)), 100)
    assert joined.shape == (8, 3)
    dataset = tf.data.Dataset.from_tensor_slices((np.arange(20.0), np.zeros(20))).batch(8)
    assert custom_model.examples(Part(name="validation", arrays=None, dataset=dataset), 10).tolist() == list(range(10))


def test_data_without_an_input_of_the_model_are_refused() -> None:
    with pytest.raises(DataError, match="no array for the input size"):
        custom_model.interface(several(), {"age": np.zeros((2, 1)), "length": np.zeros((2, 2))})


@pytest.mark.parametrize(
    ("loss", "found", "meaning"),
    [
        ("mse", [[0.2, 0.8], [1, 0]], "probabilities"),
        ("mse", [[0.2], [0.8]], "numbers"),
        ("mse", [[0.2, 0.9]], "numbers"),
        (keras.losses.BinaryCrossentropy(), [[0.2], [0.8]], "probability"),
        ("binary_crossentropy", [[0.2], [1.8]], "numbers"),
    ],
)
def test_the_meaning_of_an_output_is_known(loss: Any, found: Any, meaning: str) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss=loss)
    assert custom_model._meaning(model, np.array(found, np.float32)) == meaning


def test_a_difference_of_numbers_is_relative_and_other_shapes_are_refused() -> None:
    assert exported_model.difference(np.array([99.0]), np.array([100.0]), "numbers") == pytest.approx(0.01)
    assert exported_model.difference(np.array([0.4]), np.array([0.5]), "probability") == pytest.approx(0.1)
    with pytest.raises(DataError, match="returns"):
        exported_model.difference(np.zeros((2, 1)), np.zeros((2, 2)), "numbers")


CODE = """
import keras
import numpy as np


class Own(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x)


def own(hp):
    model = Own(hp.Int("units", 1, 9))
    model.compile(loss="mse")
    return model


def plain(hp):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp["units"])])
    model.compile(loss="mse")
    return model


def load():
    if {fails}:
        raise OSError("the data are elsewhere")
    return (np.ones((4, 2)), np.ones(4)), (np.ones((4, 2)), np.ones(4))
"""


@pytest.mark.parametrize(("build", "fails"), [("plain", True), ("own", False)])
def test_best_has_the_trained_model_and_loads_data_only_for_a_class_of_its_own(tmp_path: Path, build: str, fails: bool) -> None:
    best = best_of_code(tmp_path, build, fails=fails)
    model = best.model
    assert model(np.ones((1, 2), np.float32)).numpy().tolist() == [[2.0, 2.0, 2.0]]
    (tmp_path / "my_model.py").write_text("# changed\n" + (tmp_path / "my_model.py").read_text())
    user_code._MODULES.clear()
    with pytest.raises(DataError, match="were trained with other code: .* Restore the file"):
        assert best.model is None
    with pytest.raises(StudyError, match=r"not on this machine; to fetch them: tuner export mine --trial 3"):
        assert dataclasses.replace(best, found=results.as_trial(3, 0.5, {WEIGHTS: "s3://bucket/w.npz"})).model is None


def best_of_code(folder: Path, build: str, *, fails: bool) -> Best:
    """Return the best trial of a study whose weights are all 1."""
    (folder / "my_model.py").write_text(CODE.replace("{fails}", str(fails)))
    code = {"model": {"build": f"my_model.py:{build}"}, "data": {"load": "my_model.py:load"}, "folder": str(folder)}
    spec = study_file.parse({"name": "mine", "task": "custom", "objective": "loss", **code}, "mine.yaml")
    assert isinstance(spec, CustomStudySpec)
    identity = custom.identity_of(user_models.Code(spec))
    checkpoints.write_weights(folder / "w.npz", [np.ones((2, 3), np.float32), np.zeros(3, np.float32)], study=identity)
    found = results.as_trial(3, 0.5, {WEIGHTS: str(folder / "w.npz")})
    chosen = ChosenValues(values={"units": 3}).model_dump(mode="json")
    found = dataclasses.replace(found, hyperparameters=chosen)
    return Best(spec=spec, found=found, rank=1, num_completed=5, rule=None, prepared=results.PREPARED, is_own=True)


def test_an_objective_has_no_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = study_file.parse({"name": "o", "task": "objective", "function": "my.py:f", "objective": "minimize"}, "o.yaml")
    best = dataclasses.replace(best_of_code(tmp_path, "plain", fails=True), spec=spec)
    assert best.model is None
    assert "an objective returns a number and no model" in caplog.text


def test_the_weights_of_a_trial_are_written_with_what_they_predict(tmp_path: Path) -> None:
    best = best_of_code(tmp_path, "own", fails=False)
    asked = order(tmp_path, Format.KERAS).model_copy(
        update={"spec": best.spec.model_dump_json(), "values": {"units": 3}, "weights": str(best.weights), "cache": str(tmp_path)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own, about arrays of NumPy
        written = custom_model.export(asked, TrainerShare(threads=1))
    assert (written.model, written.num_parameters, written.num_compared) == ("Own", 9, 4)
    with np.load(tmp_path / "predictions.npz") as predictions:
        assert predictions["output"].tolist() == [[2.0, 2.0, 2.0]] * 4


def test_the_errands_of_a_model_of_the_users_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = TrainerShare(threads=1)
    monkeypatch.setattr(errand, "_share", lambda threads: share)
    best = best_of_code(tmp_path, "plain", fails=False)
    asked = order(tmp_path, Format.KERAS).model_copy(
        update={"spec": best.spec.model_dump_json(), "values": {"units": 3}, "weights": str(best.weights), "cache": str(tmp_path)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = errand.carry_out(asked, threads=1)
    assert isinstance(written, errands.ExportedCode)
    predict = errands.PredictArrays(
        format=Format.KERAS, path=str(tmp_path / "bundle" / "model.keras"), inputs=written.inputs, outputs=("output",),
        arrays=str(tmp_path / "examples.npz"), to=str(tmp_path / "again.npz"),
    )  # fmt: skip
    assert errand.carry_out(predict, threads=1) == errands.ArrayPredictions(num_examples=4)
    np.savez(tmp_path / "examples.npz", x=np.zeros((2, 5), np.float32))
    failed = errand.carry_out(predict, threads=1)
    assert isinstance(failed, errands.ErrandFailed) and failed.is_request
    assert failed.message.startswith("the model cannot predict these arrays")
