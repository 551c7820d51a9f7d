"""Mistakes in user models and data: each has one clear message."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.custom.code_of_tests import AnsweringWorker, custom_study, train
from tuner import errors, machine
from tuner.protocol.messages import Ending
from tuner.tasks.custom.training import custom

HEAD = "import keras\nimport numpy as np\n"
X = "np.linspace(0, 1, 24, dtype='float32').reshape(12, 2)"
LOAD = f"def load():\n    x = {X}\n    return (x[:8], x[:8, :1]), (x[8:], x[8:, :1])\n"
BUILD = """
def build(hp):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile('sgd', 'mse', metrics=['mae'])
    return model
"""

#: code without its usual `build` or `load`, and the message
BUILDS = {
    "returns None": (
        "def build(hp):\n    keras.Sequential()",
        "NotAModel",
        "build returned None; did it forget to return",
    ),
    "returns a function": ("def build(hp):\n    return lambda x: x", "NotAModel", "build returned a function; expected a keras.Model"),
    "no loss": (
        "def build(hp):\n    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])",
        "RequestError",
        "returned a model that is not compiled, and the study file gives no loss; call model.compile in it, or add for example",
    ),
    "unknown name": (
        "def build(hp):\n    return hp['unitz']",
        "KeyError",
        r"KeyError: there is no hyperparameter unitz. Known: units. Did you mean units\? \(code_\d+.py, line \d+, in build",
    ),
    "wrong input shape": (
        BUILD.replace("(2,)", "(5,)"),
        "ValueError",
        "(?i)incompatible.*shape.*5.*while fitting the model; the data are: train 8 examples: x .8, 2. float32, y .8, 1. float32",
    ),
    "wrong loss": (
        BUILD.replace("'mse'", "'categorical_crossentropy'").replace("Dense(1)", "Dense(3)").replace("metrics=['mae']", ""),
        "ValueError",
        "(?i)shape.*the data are: train 8 examples",
    ),
    "unknown loss": (BUILD.replace("'mse'", "'msee'"), "ValueError", "(?i)msee"),
    "metric never reported": (
        BUILD.replace("metrics=['mae']", "metrics=['mse']"),
        "RequestError",
        r"objective.metric is val_mae, but fit reports only .*val_mse.* in model.compile.* Did you mean val_",
    ),
}
LOADS = {
    "returns None": ("def load():\n    pass", "the data function returned a NoneType; expected .train, validation. or"),
    "returns one thing": (f"def load():\n    return {X}", "the data function returned a ndarray; expected .train, validation"),
    "lengths differ": (
        f"def load():\n    x = {X}\n    return (x, x[:5]), (x, x)",
        r"lengths as train: \(12, 2\) float32; \(5, 2\)",
    ),
    "empty": (f"def load():\n    x = {X}\n    return (x, x), (x[:0], x[:0])", "returned no examples as validation"),
    "ragged": (
        "def load():\n    x = [[1], [1, 2]]\n    return (x, x), (x, x)",
        "train data that is no array: its rows differ",
    ),
    "objects": (
        "def load():\n    x = np.array([{}, {}])\n    return (x, x), (x, x)",
        "train data of objects .dict.; expected numbers",
    ),
    "many things": (f"def load():\n    x = {X}\n    return (x, x, x, x), (x, x)", r"returned 4 things as train; expected \(x, y\)"),
    "two arguments": (
        "def load(hp, path):\n    pass",
        "which needs hp, path; expected load.. or load.hp.. Give",
    ),
    "exception": (
        "def load():\n    raise OSError('no disk')",
        r"no disk \(code_\d+.py, line \d+, in load: .* \(while load",
    ),
    "no validation": (
        f"def load():\n    return {{'train': {X}}}",
        "returned a dict with train; expected train, validation",
    ),
}


@pytest.mark.parametrize("case", BUILDS)
def test_a_mistake_in_a_model_ends_its_trial_with_one_message(case: str, tmp_path: Path) -> None:
    code, kind, message = BUILDS[case]
    study = custom_study(tmp_path, HEAD + LOAD + code, objective="val_mae", search={"units": [1, 4]})
    with pytest.raises((errors.TrainingError, errors.RequestError)) as raised:
        _prepared(study).train(train(tmp_path, units=2), AnsweringWorker())
    found = str(raised.value)
    assert re.fullmatch(kind, getattr(raised.value, "kind", type(raised.value).__name__)), (type(raised.value), found)
    assert re.search(message, found), found
    assert "\n" not in found and "Traceback" not in found


@pytest.mark.parametrize("case", LOADS)
def test_a_mistake_in_the_data_is_refused_before_a_trial_starts(case: str, tmp_path: Path) -> None:
    code, message = LOADS[case]
    with pytest.raises(errors.DataError, match=message) as raised:
        _prepared(custom_study(tmp_path, HEAD + code + BUILD))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("raise OSError('no disk')", "OSError", r"OSError: no disk \(code_\d+.py, line \d+, in load: .*\) \(while loading the data\)"),
        ("hp.Int('rows', 5, 1)", "ValueError", r"rows has the range \[5, 1\], but the lower end comes first"),
        ("hp.Int('rows', 1, 5) + hp.Int('rows', 1, 6)", "ChangedDistribution", "asks twice for rows, first with the range"),
    ],
)
def test_a_mistake_in_the_data_of_one_trial_ends_that_trial(line: str, error: str, message: str, tmp_path: Path) -> None:
    prepared = _prepared(custom_study(tmp_path, HEAD + f"def load(hp):\n    {line}\n" + BUILD))
    with pytest.raises(errors.TrainingError, match=message) as raised:
        prepared.train(train(tmp_path), AnsweringWorker())
    assert raised.value.kind == error


def test_a_table_of_pandas_is_taken_as_an_array(tmp_path: Path) -> None:
    table = f"import pandas as pd\nx = pd.DataFrame({X}, columns=['a', 'b'])\n"
    code = f"{table}def load():\n    return (x[:8], x[:8]['a']), (x[8:], x[8:]['a'])\n"
    prepared = _prepared(custom_study(tmp_path, HEAD + code + BUILD))
    assert prepared.describe(seconds=0).num_train == 8


def test_a_loss_that_is_not_a_number_ends_the_trial_with_its_reason(tmp_path: Path) -> None:
    study = custom_study(
        tmp_path, HEAD + LOAD + BUILD.replace("'sgd'", "keras.optimizers.SGD(1e30)"), training={"epochs": 4, "batch_size": 2}
    )
    finished = _prepared(study).train(train(tmp_path), AnsweringWorker())
    assert finished.ending is Ending.NOT_FINITE
    assert re.fullmatch(r"the (loss|val_loss) was (nan|inf) in epoch \d; the learning rate may be too high", finished.reason)


def test_a_class_without_build_and_a_build_without_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="a class without a method build; expected a method build.self, hp."):
        _prepared(custom_study(tmp_path, HEAD + LOAD + "class build:\n    pass"))
    with pytest.raises(errors.DataError, match="which takes no arguments; expected build.hp."):
        _prepared(custom_study(tmp_path, HEAD + LOAD + "def build():\n    pass"))


def test_a_check_warns_of_a_value_that_is_never_used_and_of_a_metric_that_fit_does_not_report(tmp_path: Path) -> None:
    code = HEAD + LOAD + BUILD.replace("def build(hp):", "def build(hp):\n    hp['units']")
    search = {"units": [1, 4], "unitz": [1, 4], "epochs": [1, 2]}
    study = custom_study(tmp_path, code, objective={"metric": "val_mea", "direction": "minimize"}, search=search)
    warnings = [text for name, text in _prepared(study).try_once() if name == "warning"]
    assert len(warnings) == 2
    assert re.fullmatch(r"objective.metric is val_mea, but fit will probably report only .*val_mae.* Did you mean val_mae\?", warnings[0])
    assert re.match(r"search.unitz is never used: code_\d+.py:build does not read hp\['unitz'\]; remove it", warnings[1])


def test_what_code_printed_before_it_failed_is_kept(tmp_path: Path) -> None:
    from tuner.trust import user_code

    study = custom_study(tmp_path, HEAD + LOAD + "def build(hp):\n    print('two layers')\n    return 1 / 0")
    with pytest.raises(user_code.UserCodeError) as raised:
        _prepared(study).train(train(tmp_path), AnsweringWorker())
    assert user_code.printed_before(raised.value) == "two layers\n"
    assert "tuner/tasks" not in raised.value.traceback()


def _prepared(study: Any) -> custom.PreparedCode:
    return custom.prepare(study, cache=Path(os.devnull), share=machine.TrainerShare(threads=1))
