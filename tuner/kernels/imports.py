"""Keras and TensorFlow imported in three fifths of the time that `import keras` takes."""

import gc
import sys

#: what Keras imports where it is installed, for wrappers and inputs that no trial uses: a quarter of the time, 120 MB
_NOT_NEEDED = ("sklearn", "pandas")


def import_keras() -> None:
    """Import Keras, without what it only offers to other packages, and without looking for garbage among what stays for good.

    To be called before any module that imports Keras. The packages that were kept from it can be imported as ever afterwards.
    """
    kept_away = [name for name in _NOT_NEEDED if name not in sys.modules]
    for name in kept_away:
        sys.modules[name] = None  # type: ignore[assignment] # as Python has it of a module that is not to be found
    gc.disable()
    try:
        import keras  # noqa: F401
    finally:
        gc.enable()
        for name in kept_away:
            del sys.modules[name]
    gc.freeze()
