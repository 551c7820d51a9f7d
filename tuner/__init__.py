"""The public interface of tuner. Each name is loaded on first use, so that importing tuner is quick.

spec = tuner.read("studies/animals.yaml")
best = tuner.run(spec, storage="sqlite:///tuner.db", workers=2)
print(best.value, best.hyperparameters)

study = tuner.study("churn", build=build, data=load, objective="val_auc", epochs=20)    # functions of a file
best = study.run(workers=4, trials=60)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.api import LocalStudy as Study
    from tuner.api import load, run, study
    from tuner.errors import TunerError
    from tuner.results.best import Best, best
    from tuner.spec.file import read
    from tuner.spec.hyperparameters import Hyperparameters
    from tuner.spec.study import StudySpec
    from tuner.storage.engine import open as open_storage

__version__ = "0.1.0"
__all__ = [
    "Best",
    "Hyperparameters",
    "Study",
    "StudySpec",
    "TunerError",
    "__version__",
    "best",
    "load",
    "open_storage",
    "read",
    "run",
    "study",
]

_SOURCES = {
    "Best": ("tuner.results.best", "Best"),
    "Hyperparameters": ("tuner.spec.hyperparameters", "Hyperparameters"),
    "Study": ("tuner.api", "LocalStudy"),
    "StudySpec": ("tuner.spec.study", "StudySpec"),
    "TunerError": ("tuner.errors", "TunerError"),
    "best": ("tuner.results.best", "best"),
    "load": ("tuner.api", "load"),
    "open_storage": ("tuner.storage.engine", "open"),
    "read": ("tuner.spec.file", "read"),
    "run": ("tuner.api", "run"),
    "study": ("tuner.api", "study"),
}


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
