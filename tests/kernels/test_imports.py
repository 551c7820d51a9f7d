"""Keras is imported without optional packages, which can be imported afterwards."""

import subprocess
import sys

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
