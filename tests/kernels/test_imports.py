"""Keras is imported without optional packages, which can be imported afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import gc, sys
from tuner.kernels import imports
imports.import_keras()
assert {"keras", "tensorflow"} <= sys.modules.keys()
assert not {"sklearn", "pandas"} & sys.modules.keys()
assert gc.isenabled() and gc.get_freeze_count() > 100_000
from tuner.trainer import loop
assert not {"sklearn", "pandas"} & sys.modules.keys()
import pandas, sklearn.linear_model
imports.import_keras()
assert sys.modules["pandas"] is pandas
print(len(pandas.DataFrame({"a": [1, 2]})))
"""


def test_packages_hidden_from_keras_can_be_imported_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


_SETTINGS = """
import os
from tuner.kernels import imports
imports.import_keras()
import keras
from keras.src.backend.config import keras_home
print(keras.backend.backend(), keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon())
print(keras_home(), os.environ.get("KERAS_HOME"))
"""


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"backend": "jax", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.1}, "KERAS_HOME"),
        ({"floatx": "bfloat16", "epsilon": 1}, "HOME"),  # Keras refuses both, and is then not imported
    ],
)
def test_keras_has_its_default_settings_whatever_keras_json_says(settings: dict[str, object], variable: str, tmp_path: Path) -> None:
    folder = tmp_path / (".keras" if variable == "HOME" else "")
    folder.mkdir(exist_ok=True)
    (folder / "keras.json").write_text(json.dumps(settings))
    given = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_")}
    done = subprocess.run(
        [sys.executable, "-c", _SETTINGS], env=given | {"KERAS_BACKEND": "tensorflow", variable: str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    home = str(tmp_path) if variable == "KERAS_HOME" else None
    assert done.stdout.splitlines() == ["tensorflow float32 channels_last 1e-07", f"{folder} {home}"], done.stderr


_NO_HOME = "import pwd; pwd.getpwuid = lambda number: {}[number]"


def test_keras_is_imported_for_a_user_without_a_home_folder(tmp_path: Path) -> None:
    given = {name: value for name, value in os.environ.items() if not name.startswith("KERAS_") and name != "HOME"}
    for variables, home in (({}, "/tmp/.keras"), ({"KERAS_HOME": str(tmp_path)}, str(tmp_path))):
        done = subprocess.run(
            [sys.executable, "-c", _NO_HOME + _SETTINGS], env=given | {"KERAS_BACKEND": "tensorflow"} | variables,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.stdout.splitlines()[1:] == [f"{home} {variables.get('KERAS_HOME')}"], done.stderr
