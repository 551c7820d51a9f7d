"""Folds from the search to the final model, and the mean of the best models: real workers and trainers with small networks."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.conftest import Place
from tuner.storage import engine as storages
from tuner.studies import study as studies

CODE = """
import keras
import numpy as np

def load():
    random = np.random.default_rng(0)
    x = random.normal(size=(90, 4)).astype("float32")
    y = (x[:, 0] - x[:, 1] > 0).astype("int64")
    return {"train": (x[:60], y[:60]), "test": (x[60:], y[60:]), "groups": np.arange(60) // 2}

def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp["units"], "relu"), keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    return model
"""
STUDY = {
    "name": "small",
    "task": "custom",
    "model": {"build": "small.py:build"},
    "data": {"load": "small.py:load"},
    "objective": "val_accuracy",
    "training": {"epochs": 3},
    "validation": {"folds": 3},
    "search": {"units": [4, 16]},
    "budget": {"trials": 2},
}


#: a model that predicts its bias, whatever it is trained on; the right answer is 0
CONSTANTS = """
import keras
import numpy as np

def load():
    part = lambda count: (np.ones((count, 4), "float32"), np.zeros((count, 1), "float32"))
    return part(10), part(20), part(30)

def build(hp):
    constant = keras.initializers.Constant(hp["bias"])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=constant)])
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return model
"""


def write(folder: Path) -> None:
    (folder / "small.py").write_text(CODE)
    (folder / "small.yaml").write_text(json.dumps(STUDY))


def said(place: Place, *call: str, code: int = 0) -> tuple[str, str]:
    """Return what a command says on stdout and on stderr."""
    found, out, lines = place.here(*call)
    assert found == code, lines
    return out, "\n".join(lines)


@pytest.mark.timeout(900)
def test_the_final_model_of_folds_is_trained_exported_and_predicts(place: Place) -> None:
    write(place.folder)
    run = place.real_tuner("run", "small.yaml", "--threads", "1")
    code, _ = run.end()
    assert code == 0, run.lines
    found = json.loads(said(place, "best", "small", "--json")[0])["result"]
    assert found["value"] == pytest.approx(sum(found["folds"]) / 3)
    assert "the mean over 3 folds, with a standard deviation of " in said(place, "best", "small")[0]
    assert said(place, "export", "small", "--to", "home", "--allow-code", "small.py", code=2)[0] == ""
    out, _ = said(place, "retrain", "small", "--top", "1", "--seeds", "1", "--threads", "1", "--allow-code", "small.py")
    assert "the mean over 3 folds and 1 seed; trained on all folds for " in out
    assert "on the test split not measured" not in out
    said(place, "export", "small", "--version", "1", "--to", "home", "--allow-code", "small.py")
    home = place.folder / "home"
    metrics = json.loads((home / "metrics.json").read_text())
    mean = float(out.split("val_accuracy ")[1].split(",")[0])
    assert metrics["value"] == pytest.approx(mean, abs=1e-4)
    assert metrics["examples"] == {"train": 60, "validation": 0, "test": 30}
    assert "| val_accuracy on folds that were not trained on, mean |" in (home / "README.md").read_text()
    said(place, "predict", "home", "home/examples.npz", "--to", "out.npz")
    with np.load(place.folder / "out.npz") as arrays, np.load(home / "predictions.npz") as expected:
        assert np.allclose(arrays["output"], expected["output"], atol=1e-5)


@pytest.mark.timeout(900)
def test_the_mean_of_the_best_models_is_shown_beside_the_best_one_and_exported(place: Place) -> None:
    (place.folder / "small.py").write_text(CONSTANTS)
    study = {name: value for name, value in STUDY.items() if name != "validation"}
    sections = {"objective": "val_loss", "training": {"epochs": 1}, "search": {"bias": {"choices": [1.0, -0.9, 3.0]}}, "sampler": "grid"}
    (place.folder / "small.yaml").write_text(json.dumps(study | sections | {"budget": {"trials": 3}}))
    run = place.real_tuner("run", "small.yaml", "--threads", "1", "--no-export")
    code_of_run, shown = run.end()
    assert code_of_run == 0, run.lines
    found = json.loads(said(place, "best", "small", "--json")[0])["result"]
    _, told = said(place, "export", "small", "--to", "home", "--allow-code", "small.py")
    metrics = json.loads((place.folder / "home" / "metrics.json").read_text())
    formed = found["ensemble"]
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    biases = [trial.params["bias"] for trial in studies.load("small", storage).optuna.get_trials(deepcopy=False)]
    storage.close()
    order = sorted(range(3), key=lambda number: abs(biases[number]))
    assert formed["trials"] == order[:2]  # the third one makes the mean worse
    assert formed["best_member_value"] == pytest.approx(found["value"]) == pytest.approx(0.81)
    assert formed["value"] == pytest.approx(0.05**2) == pytest.approx(formed["test_value"])
    assert formed["num_test"] == 30
    assert " alone" in shown
    assert f"exporting the ensemble, mean of trials {order[0]}, {order[1]}: val_loss 0.0025, of trial {order[0]} alone 0.8100" in told
    assert metrics["ensemble"]["value"] == formed["value"]
    said(place, "predict", "home", "home/examples.npz", "--to", "out.npz")
    with np.load(place.folder / "out.npz") as arrays:
        assert np.allclose(arrays["output"], 0.05)
    said(place, "export", "small", "--to", "alone", "--single", "--allow-code", "small.py")
    assert "ensemble" not in json.loads((place.folder / "alone" / "metrics.json").read_text())
