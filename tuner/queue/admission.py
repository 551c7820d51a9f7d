"""Admission: refuses a study that cannot run, before it is queued or started: its data, its model, its code and its packages."""

import importlib.machinery
import importlib.metadata
import sys
from pathlib import Path

from tuner.errors import DataError
from tuner.sampling import enumeration
from tuner.spec import model as spec_model
from tuner.spec.data import PythonData
from tuner.spec.model import TrialModel
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.tasks.images.data import sources, splits
from tuner.tasks.images.data.dataset import Dataset
from tuner.tasks.images.data.splits import Splits
from tuner.trust import keras_file, user_code

#: names of a running program as a module
_PROGRAMS = ("__main__", "__mp_main__")


def require_usable(spec: StudySpec, cache: Path) -> tuple[Dataset, Splits] | None:
    """Refuse a study that cannot run; return its images and their splits, or None if only a trainer can read them.

    Raises:
        DataError: the images cannot be used as they are, or a file of the model does not exist.
        MissingPackage: the sampler or the backbone needs a package that is not installed.
        SpecError: the sampler cannot enumerate the search space.
    """
    require_runnable(spec)
    if sources.needs_keras(spec.data):
        return None
    data = sources.open(spec.data, cache=cache)
    parts = splits.split(data, spec.data, spec.seed)
    splits.require_measurable(data, parts, spec.objective.metric)
    if spec.num_folds > 1:
        splits.divide(data, parts, spec.data, spec.num_folds, spec.seed)
    return data, parts


def require_runnable(spec: AnyStudySpec) -> None:
    """Refuse a study whose sampler, code or model this machine does not have; its data is not read.

    Raises what `require_usable` and `require_code` raise.
    """
    if not isinstance(spec, StudySpec):
        require_code(spec)
        return
    enumeration.check_sampler(spec)
    _require_function(spec)
    for model in spec.model.combinations():
        _require_model(model)


def require_code(spec: AnyStudySpec) -> None:
    """Refuse a study of user code whose files or modules do not exist.

    Raises:
        DataError: a file or a module does not exist.
        MissingPackage: the sampler needs a package that is not installed.
        SpecError: the sampler cannot enumerate the search space.
    """
    enumeration.check_sampler(spec)
    folder = getattr(spec, "folder", None)
    user_code.read([name for _, name in spec.named_code()], folder)
    for field, name in spec.named_code():
        place = name.rpartition(":")[0]
        if place in _PROGRAMS or not (place.endswith(".py") or _is_importable(place)):
            what = "is the program or notebook itself" if place in _PROGRAMS else "was not found"
            cure = "Write the file, such as my_code.py:build; or install the module, or add its folder to PYTHONPATH"
            raise DataError(f"{field} is {name}, but the module {place} {what}. {cure}.")


def _require_model(model: TrialModel) -> None:
    """Refuse files and modules that do not exist, and files of other formats. Only a trainer can load them."""
    name, is_weights_file = model.backbone, model.weights not in ("imagenet", "none")
    if is_weights_file:
        keras_file.require_weights(Path(model.weights).expanduser())
    if name.endswith((".keras", ".h5")):
        keras_file.require_model(Path(name).expanduser())
    if is_weights_file and (name.endswith((".keras", ".h5")) or name.startswith(("python:", "kerashub:"))):
        raise DataError(
            f"model.weights is {model.weights}, but the weights of model.backbone {name} come with it; drop model.weights. "
            "A python: function can load weights itself."
        )
    if name.startswith("python:") and not _is_importable(name.split(":")[1]):
        cure = "install it, start tuner in the folder of the module, or add that folder to PYTHONPATH"
        raise DataError(f"model.backbone is {name}, but its module was not found; {cure}.")
    package = spec_model.PACKAGES.get(name)
    if package is not None and model.weights == "imagenet" and not _is_installed(package.name):
        raise spec_model.missing_weights(name)


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _require_function(spec: StudySpec) -> None:
    """Refuse functions that only this process has: trainers are processes of their own, and import them from files."""
    named = [("model.backbone", name.removeprefix("python:")) for name in spec.model.backbones if name.startswith("python:")]
    if isinstance(spec.data, PythonData):
        named.append(("data.function", spec.data.function))
    for field, name in named:
        module, _, function = name.partition(":")
        if module in _PROGRAMS or (module in sys.modules and not _is_importable(module)):
            what = "the program or notebook itself" if module in _PROGRAMS else "a module without a file"
            raise DataError(
                f"{field} names {name}, but {module} is {what}, and a trainer is a process of its own that cannot import it. "
                f"Move {function} to a file, for example my_code.py beside it, and write my_code:{function}."
            )


def _is_importable(module: str) -> bool:
    """Return whether a module is installed, in the current folder or on the import path, without running it or its packages."""
    name = ""
    places: list[str] | None = None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        here = importlib.machinery.PathFinder.find_spec(name, [str(Path.cwd())]) if places is None else None
        try:
            found = here or next((found for finder in sys.meta_path if (found := finder.find_spec(name, places)) is not None), None)
        except KeyError:  # a folder without __init__.py, for which Python needs the imported package above
            places = [str(folder) for place in places or () if (folder := Path(place, part)).is_dir()]
            continue
        if found is None:
            return False
        places = list(found.submodule_search_locations or ())
    return True
