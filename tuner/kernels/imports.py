"""Imports: Keras and TensorFlow, in 60 % of the time of `import keras`, and without the settings of the user's keras.json."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: packages that Keras imports if they are installed, for features that no trial uses; skipping them saves 25 % of the time and 120 MB
_NOT_NEEDED = ("sklearn", "pandas")


def import_keras() -> None:
    """Import Keras with its default settings, without optional packages that no trial needs, and without garbage collection meanwhile.

    Call this before importing any module that imports Keras. The optional packages can still be imported afterwards.
    """
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # how Python marks a module that cannot be found
    gc.disable()
    try:
        with _no_settings_file():
            import keras  # noqa: F401
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]
    gc.freeze()


@contextmanager
def _no_settings_file() -> Iterator[None]:
    """Hide keras.json from an import of Keras in a `with` block: another floatx or image_data_format would change or end each trial.

    Downloaded weights stay in the folder that KERAS_HOME names.
    """
    if "keras" in sys.modules:
        yield
        return
    home = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = os.devnull  # a file, so Keras finds no keras.json below it, and writes none
    try:
        yield
    finally:
        del os.environ["KERAS_HOME"]
        if home is not None:
            os.environ["KERAS_HOME"] = home
    from tuner.kernels import keras_private

    keras_private.use_home(home)
