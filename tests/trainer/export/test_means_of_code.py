"""Means of what user models predict: their values, the model that is exported, and models that have no mean."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.trainer.export import test_custom_model as models
from tuner.kernels import checkpoints, keras_private
from tuner.machine import TrainerShare
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Plain
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import custom, user_models
from tuner.tasks.custom.training.inputs import Part
from tuner.trainer import errand
from tuner.trainer.export import custom_model
from tuner.trust import keras_file

CODE = """
import keras
import numpy as np

random = np.random.default_rng(0)
X = {"a": random.normal(size=(60, 2)).astype("float32"), "b": random.normal(size=(60, 1)).astype("float32")}
Y = (X["a"][:, 0] + X["b"][:, 0] > 0).astype("int64")


def load():
    part = lambda rows: ({name: each[rows] for name, each in X.items()}, Y[rows], np.linspace(0.5, 1.5, len(Y[rows])))
    return part(slice(0, 20)), part(slice(20, 50)), part(slice(50, 60))


def load_for_trial(hp):
    return load()


def load_shuffled():
    import tensorflow as tf
    train, validation, test = load()
    return train, tf.data.Dataset.from_tensor_slices(validation).shuffle(30).batch(8), test


def build(hp):
    keras.utils.set_random_seed(hp["seed"])
    a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
    inner = keras.layers.Dense(4, "tanh", name="same")(keras.layers.Concatenate()([a, b]))
    kind, width = hp["kind"], 3 if hp["kind"] == "wide" else 2
    found = keras.layers.Dense(width, "softmax", kernel_regularizer="l2" if kind == "regular" else None)(inner)
    if kind == "several":
        found = [found, keras.layers.Dense(1)(inner)]
    model = keras.Model({"a": a, "b": b}, found, name="mine")
    auc = keras.metrics.SparseCategoricalAccuracy(name="right")
    model.compile("adam", "sparse_categorical_crossentropy" if kind != "several" else None, metrics=[auc], weighted_metrics=[])
    return model


def share_of_ones(true, predicted):
    return float(predicted[:, 1].mean() + 10 * true.mean())
"""


def study(folder: Path, **sections: Any) -> CustomStudySpec:
    (folder / "means.py").write_text(CODE)
    code = {"model": {"build": "means.py:build"}, "data": {"load": "means.py:load"}, "folder": str(folder)}
    spec = study_file.parse({"name": "mine", "task": "custom", "objective": "val_loss", **code, **sections}, "mine.yaml")
    assert isinstance(spec, CustomStudySpec)
    return spec


def member(spec: CustomStudySpec, folder: Path, trial: int, kind: str = "plain") -> errands.TrainedCode:
    """Return a trial whose weights are those of its new model."""
    code = user_models.Code(spec)
    values: dict[str, Plain] = {"seed": trial, "kind": kind}
    model = user_models.build(spec, code, custom.known_values(trial, values))
    path = folder / f"{trial}.npz"
    checkpoints.write_weights(path, model.get_weights(), study=custom.identity_of(code))
    return errands.TrainedCode(trial=trial, values=dict(values), weights=str(path))


def measured(spec: CustomStudySpec, folder: Path, *members: errands.TrainedCode, split: Any = "validation") -> errands.MeansMeasured:
    order = errands.MeanOfCode(spec=spec.model_dump_json(), cache=str(folder), members=members, split=split)
    return custom_model.measure_means(order, TrainerShare(threads=1))


@pytest.mark.parametrize("metric", ["val_loss", "val_right", "means.py:share_of_ones"])
def test_the_values_are_those_of_the_mean_predictions(tmp_path: Path, metric: str) -> None:
    spec = study(tmp_path, objective={"metric": metric, "direction": "minimize"})
    members = [member(spec, tmp_path, trial) for trial in (4, 2, 7)]
    found = measured(spec, tmp_path, *members)
    prepared = custom.prepare(spec, cache=tmp_path, share=TrainerShare(threads=1))
    trained = [custom_model._trained(prepared, one) for one in members]
    x, y, weights = trained[0][1].validation.arrays or ()
    outputs = [model.predict(x, verbose=0) for model, _ in trained]
    for count, value in enumerate(found.values, 1):
        mean = np.mean(outputs[:count], axis=0)
        losses = -np.log(mean[np.arange(30), y])
        right = (mean.argmax(1) == y).astype(float)
        expected = {
            "val_loss": (losses * weights).mean(),
            "val_right": right.mean(),
            "means.py:share_of_ones": mean[:, 1].mean() + 10 * y.mean(),
        }
        assert value == pytest.approx(expected[metric], rel=1e-4)
    alone = trained[0][0].evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    if metric != "means.py:share_of_ones":
        assert found.values[0] == pytest.approx(alone[metric.removeprefix("val_")], rel=1e-4)
    assert (found.num_examples, found.refused) == (30, "")
    assert measured(spec, tmp_path, *members, split="test").num_examples == 10


@pytest.mark.parametrize(
    ("kinds", "sections", "why"),
    [
        (("plain", "wide"), {}, "the outputs of the models of trials 0 and 1 have different shapes: (2,) and (3,)"),
        (("several", "several"), {}, "the model of trial 0 has 2 outputs; only models with one output have a mean"),
        (("plain", "plain"), {"data": {"load": "means.py:load_for_trial"}}, "each trial loads its own data, so the models do not predict"),
        (("plain", "plain"), {"data": {"load": "means.py:load_shuffled"}}, "the validation data come in another order each time"),
    ],
)
def test_models_without_a_mean_are_refused_in_words(tmp_path: Path, kinds: tuple[str, ...], sections: dict[str, Any], why: str) -> None:
    spec = study(tmp_path, **sections)
    found = measured(spec, tmp_path, *(member(spec, tmp_path, trial, kind) for trial, kind in enumerate(kinds)))
    assert found.refused.startswith(why)
    assert found.values == ()


def test_models_with_different_inputs_are_refused_in_words() -> None:
    one = [errands.ModelInput(name="a", shape=(2,), dtype="float32")]
    why = custom_model._differs([np.zeros((3, 1))], [one, [*one, *one]], [np.zeros((3, 1))], trials=(3, 5))
    assert why == "the models of trials 3 and 5 have different inputs: a (2,) and a (2,), a (2,)"
    text = custom_model._differs([np.array(["x"])], [one], [], trials=(3, 3))
    assert text == "the output of the model of trial 3 is <U1; only numbers have a mean"


def test_regularization_shows_in_the_value_that_predictions_alone_give(tmp_path: Path) -> None:
    spec = study(tmp_path)
    one = member(spec, tmp_path, 0, "regular")
    found = measured(spec, tmp_path, one, member(spec, tmp_path, 1, "regular"))
    prepared = custom.prepare(spec, cache=tmp_path, share=TrainerShare(threads=1))
    model, data = custom_model._trained(prepared, one)
    x, y, weights = data.validation.arrays or ()
    whole = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"]
    assert found.values[0] < whole - 0.001  # so `choose_means` refuses


def test_the_mean_of_several_models_is_exported_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "_share", lambda threads: TrainerShare(threads=1))
    spec = study(tmp_path)
    first, *others = [member(spec, tmp_path, trial) for trial in (4, 2, 7)]
    asked = models.order(tmp_path, Format.KERAS, Format.ONNX).model_copy(
        update={
            "spec": spec.model_dump_json(), "trial": first.trial, "values": first.values, "weights": first.weights,
            "cache": str(tmp_path), "others": tuple(others),
        }
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = errand.carry_out(asked, threads=1)
    assert isinstance(written, errands.ExportedCode), written
    assert written.refused == {}
    assert [(given.name, given.shape) for given in written.inputs] == [("a", (2,)), ("b", (1,))]
    assert [(one.name, one.meaning) for one in written.outputs] == [("output", "probabilities")]
    path = tmp_path / "bundle" / "model.keras"
    assert keras_file.problems(path) == []
    prepared = custom.prepare(spec, cache=tmp_path, share=TrainerShare(threads=1))
    trained = [custom_model._trained(prepared, one)[0] for one in (first, *others)]
    with np.load(tmp_path / "examples.npz") as x:
        expected = np.mean([model.predict(dict(x), verbose=0) for model in trained], axis=0)
        loaded = keras.saving.load_model(path, compile=False)
        assert np.allclose(loaded.predict(dict(x), verbose=0), expected, atol=1e-5)
    assert models.compare(written, Format.ONNX, tmp_path).max_difference < 1e-5


def test_what_a_model_was_compiled_with_is_known() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert keras_private.compile_arguments(model) == {}
    metric = keras.metrics.MeanAbsoluteError(name="mine")
    model.compile("sgd", "mse", metrics=[metric])
    known = keras_private.compile_arguments(model)
    assert (known["loss"], known["metrics"], known["weighted_metrics"]) == ("mse", [metric], None)
    part = Part(name="validation", arrays=(np.zeros((3, 2)), np.zeros(3)))
    logs = user_models.logs_of(model, part, np.zeros((3, 1)), np.full((3, 1), 2.0))
    assert logs == {"loss": pytest.approx(4.0), "mine": pytest.approx(2.0)}
