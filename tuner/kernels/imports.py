"""Imports: Keras and TensorFlow, in 60 % of the time of `import keras`."""

import gc
import sys

#: packages that Keras imports if they are installed, for features that no trial uses; skipping them saves 25 % of the time and 120 MB
_NOT_NEEDED = ("sklearn", "pandas")


def import_keras() -> None:
    """Import Keras without optional packages that no trial needs, and without garbage collection during the import.

    Call this before importing any module that imports Keras. The optional packages can still be imported afterwards.
    """
    hidden = [name for name in _NOT_NEEDED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # how Python marks a module that cannot be found
    gc.disable()
    try:
        import keras  # noqa: F401
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]
    gc.freeze()
