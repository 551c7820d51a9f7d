"""`tuner.study` in a program: its functions, and its runs with real workers."""

import importlib.util
import math
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tuner

ANIMALS = Path(__file__).resolve().parents[2] / "studies" / "animals.yaml"
OBJECTIVE = """
def objective(trial):
    x = trial.suggest_float("x", -3.0, 3.0)
    trial.set_user_attr("half", x / 2)
    return (x - 1) ** 2


def outer():
    def inner(trial):
        return 0.0

    return inner


def measured(true, predicted):
    return float(abs(true - predicted).max())
"""
MODEL = """
import keras
import numpy as np


def build(hp):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(hp["units"], "relu"), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log")), loss="mse")
    return model


def load():
    x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    return (x[:48], y[:48]), (x[48:], y[48:])
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use folders that only the environment names."""
    monkeypatch.setenv("TUNER_STORAGE", f"sqlite:///{tmp_path / 'tuner.db'}")
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Return the module of a file with some code, imported as a program imports it."""

    def write(name: str, code: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(code, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return write


def test_a_program_runs_its_objective_reads_a_table_of_the_trials_waits_for_it_and_stops_it(
    written: Callable[[str, str], ModuleType],
) -> None:
    code = written("quick_objective", OBJECTIVE)
    study = tuner.study("quick", function=code.objective, direction="minimize")
    best = study.run(workers=1, trials=3)
    assert (best.num_completed, study.best.trial, study.is_running) == (3, best.trial, False)
    chosen: Any = best.hyperparameters
    assert best.value == pytest.approx((chosen["x"] - 1) ** 2)
    require_columns_of_optuna(study)
    study.start(workers=1, trials=5)
    assert study.wait().num_completed == 5
    study.start(workers=1, trials=100_000)
    with pytest.raises(tuner.TunerError, match=r"the study quick already runs in this program; call wait\(\) for its end, or stop\(\)"):
        study.start(workers=1)
    with pytest.raises(TimeoutError, match=r"the study quick still runs after 0 s"):
        study.wait(0)
    study.stop()
    assert not study.is_running
    num_trials = len(study.trials_dataframe())
    assert tuner.load("quick").best.value == study.best.value
    assert len(tuner.load().trials_dataframe()) == num_trials
    with pytest.raises(tuner.TunerError, match=r"names code to import, function quick_objective.py:objective, which is not allowed here"):
        tuner.load("quick").run(trials=7)


def require_columns_of_optuna(study: tuner.Study) -> None:
    """Assert that a table of three trials has them."""
    table = study.trials_dataframe()
    columns = ["number", "value", "datetime_start", "datetime_complete", "duration", "params_x"]
    assert list(table.columns[:6]) == columns
    assert table.columns[-1] == "state"
    assert list(table["number"]) == [0, 1, 2]
    assert list(table["state"]) == ["COMPLETE"] * 3
    assert list(table["value"]) == pytest.approx([(x - 1) ** 2 for x in table["params_x"]])
    assert list(table["user_attrs_half"]) == pytest.approx([x / 2 for x in table["params_x"]])


def test_a_program_trains_its_model_and_measures_the_best_again_when_the_run_of_a_study_with_a_limit_ends(
    written: Callable[[str, str], ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    code = written("tiny_model", MODEL)
    given: dict[str, Any] = {"build": code.build, "data": code.load, "objective": "val_loss", "search": {"units": [2, 4]}}
    study = tuner.study("tiny", **given, constraints={"latency_ms": 10000}, epochs=2, pruner="none")
    assert dict(study.spec.named_code()) == {"model.build": "tiny_model.py:build", "data.load": "tiny_model.py:load"}
    with caplog.at_level("INFO"):
        best = study.run(workers=1, trials=2)
    assert best.num_completed == 2
    assert math.isfinite(best.value)
    chosen: Any = best.hyperparameters
    assert chosen.keys() == {"units", "rate"}
    assert best.best_epoch in (1, 2)
    assert re.search(r"the latency of trials \d, \d was measured again without other workers: nothing changes", caplog.text)
    table = study.trials_dataframe()
    assert table["user_attrs_measured_alone"].tolist() == [True, True]
    assert 0 < best.costs["latency_ms"] < 10000


def test_a_run_without_a_completed_trial_says_why(written: Callable[[str, str], ModuleType]) -> None:
    code = written("broken_objective", "def objective(trial):\n    return 1 / 0\n")
    study = tuner.study("broken", function=code.objective, direction="minimize")
    message = r"no trial of the study broken completed: ZeroDivisionError: division by zero \(broken_objective.py, line 2, in objective"
    with pytest.raises(tuner.TunerError, match=message):
        study.run(workers=1, trials=2)


def test_a_study_is_created_once_and_keeps_the_budget_of_its_last_run(written: Callable[[str, str], ModuleType]) -> None:
    code = written("kept_objective", OBJECTIVE)
    study = tuner.study("kept", function=code.objective, direction="minimize", budget={"trials": 2})
    assert study.run(workers=1).num_completed == 2
    study.run(workers=1, trials=3)
    assert tuner.study("kept", function=code.objective, direction="minimize").spec.budget.trials == 3
    with pytest.raises(tuner.TunerError, match="the study kept was started with another file"):
        tuner.study("kept", function=code.objective, direction="maximize")
    with pytest.raises(tuner.TunerError, match="^trials is 0; "):
        study.run(trials=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "tuner.study got no code and no data; expected build and data, or function"),
        ({"function": "a.py:f", "build": "a.py:b"}, "tuner.study got function and also build; expected build and data, or function"),
        ({"build": "a.py:b", "objective": "val_loss"}, "tuner.study: data is missing"),
        ({"build": "a.py:b", "data": "a.py:d"}, "tuner.study: objective is missing"),
        ({"build": "a.py:b", "data": "a.py:d", "objective": "val_cost"}, "objective.direction is missing: 'val_cost' does not say"),
        ({"function": "a.py:f", "direction": "minimize", "serach": {}}, "serach is not a key of a study file.* Did you mean search"),
        ({"function": "a.py:f", "direction": "minimize"}, r"a\.py:f.*a\.py|a\.py of a\.py:f"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(tuner.TunerError, match=message):
        tuner.study("odd", **given)
    with pytest.raises(tuner.TunerError, match="tuner.study got a whole study and also epochs"):
        tuner.study(tuner.read(ANIMALS), epochs=3)
    assert not (tmp_path / "tuner.db").exists()


def test_functions_that_a_trainer_cannot_import_are_refused(
    written: Callable[[str, str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = written("odd_objectives", OBJECTIVE)
    main = types.ModuleType("__main__")
    exec("def objective(trial): ...", vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    cases: dict[str, Any] = {
        "function is a lambda, which a trainer cannot import": lambda trial: 0.0,
        "function is inner, a function inside another function": code.outer(),
        "function is a builtin_function_or_method|function is a method": [].append,
        "In a notebook, write the function to a file with `%%writefile my_code.py`": main.objective,
    }
    for message, function in cases.items():
        with pytest.raises(tuner.TunerError, match=message):
            tuner.study("odd", function=function, direction="minimize")


def test_a_function_of_the_running_script_is_named_by_its_file(
    written: Callable[[str, str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = written("script", OBJECTIVE)
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    exec(OBJECTIVE, vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    study = tuner.study("of_script", function=main.objective, direction="minimize")
    assert [*study.spec.named_code()] == [("function", "script.py:objective")]
    metric = {"metric": code.measured, "direction": "minimize"}
    model = tuner.study("of_files", build="script.py:outer", data="script.py:outer", objective=metric, folder=str(tmp_path))
    assert model.spec.objective.metric == "script.py:measured"


def test_a_study_that_a_script_starts_while_a_trainer_imports_it_is_refused(tmp_path: Path) -> None:
    code = OBJECTIVE + "\nimport tuner\ntuner.study('again', function=objective, direction='minimize')\n"
    (tmp_path / "starts_again.py").write_text(code, encoding="utf-8")
    study = tuner.study("again", function="starts_again.py:objective", direction="minimize", folder=str(tmp_path))
    with pytest.raises(tuner.TunerError, match=r"tuner.study was called while tuner imported .* Put the call below `if __name__"):
        study.run(workers=1, trials=1)


def test_a_study_of_images_needs_no_code() -> None:
    study = tuner.study("digits", data={"source": "digits"}, objective="macro_f1", epochs=0, search={"dropout": 0.2})
    assert isinstance(study.spec, tuner.StudySpec)
    assert (study.spec.objective.metric, study.spec.training.epochs, study.is_of_images) == ("macro_f1", 0, True)
    assert isinstance(tuner.load("digits"), tuner.Study)
