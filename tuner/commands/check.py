"""`tuner init` and `tuner check`: a study file for a folder of images, and what a study file will do, before anything is trained."""

import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from tuner import machine
from tuner.errors import DataError, RequestError
from tuner.sampling import enumeration
from tuner.spec import file as study_file
from tuner.spec import model as spec_model
from tuner.spec import plan as plans
from tuner.spec import space
from tuner.spec.data import FolderData, PythonData
from tuner.spec.model import TrialModel
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.tasks import task
from tuner.tasks.images.data import sources, splits, survey
from tuner.tasks.images.data.dataset import Dataset
from tuner.tasks.images.data.splits import Splits
from tuner.tasks.images.spec import cost
from tuner.terminal import plain, plan, printing
from tuner.trust import keras_file, user_code


def init(name: str, images: str, to: Path, cache: Path, *, class_pattern: str | None = None, ignore: Sequence[str] = ()) -> int:
    """Write a study file for a folder of images, and print what the folder contains. An existing file is never overwritten."""
    _check_name(name)
    if to.exists():
        raise RequestError(f"{to} already exists; choose another file with --to, or remove it")
    data = _folder_data(images, class_pattern, ignore)
    seen = survey.survey(data.path, cache=cache, class_pattern=data.class_pattern, ignore=data.ignore)
    survey.write_new(survey.study_file(name, seen, data.path), to)
    plain.result("\n".join(survey.summarize(seen)))
    for warning in seen.warnings:
        print_warning(warning)
    if not seen.is_usable:
        print_warning("a study cannot run on this folder as it is")
    plain.result(f"\nWrote {to}. See what it will do with: tuner check {to}")
    return 0


def _check_name(name: str) -> None:
    try:
        StudySpec.model_validate({"name": name, "data": {"source": "digits"}})
    except ValidationError as error:
        raise RequestError(
            f"NAME is {name!r}; expected at most 100 letters, digits, dots, underscores and hyphens, starting with a letter or a digit"
        ) from error


def _folder_data(images: str, class_pattern: str | None, ignore: Sequence[str]) -> FolderData:
    """Return the `data` section for a folder, in which a path is read as in a study file."""
    try:
        given = {"source": "folder", "path": images, "class_pattern": class_pattern, "ignore": list(ignore)}
        return FolderData.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{_OPTIONS[str(first['loc'][0])]} {first['msg'].removeprefix('Value error, ')}") from error


#: option of `tuner init` for a key of the `data` section
_OPTIONS = {"path": "--images", "class_pattern": "--class-pattern", "ignore": "--ignore"}
#: names of a running program as a module
_PROGRAMS = ("__main__", "__mp_main__")
#: assumed number of images if only a trainer can read the source
_ASSUMED_TRAIN, _ASSUMED_VALIDATION = 1_000, 200


def check(path: Path, cache: Path) -> int:
    """Print what a study file will do; raise the errors of `require_usable`."""
    spec = study_file.read(path)
    if not isinstance(spec, StudySpec):
        return _check_code(spec, path, cache)
    num_train, num_validation = _show_images(spec, require_usable(spec, cache), cache)
    rows = space.rows(spec)
    epochs = spec.training.num_epochs(num_train)
    num_cores = machine.num_cores()
    estimated = cost.estimate(spec, num_train=num_train, num_validation=num_validation, epochs=epochs, num_cores=num_cores)
    size = cost.DataSize(num_train=num_train, num_validation=num_validation, epochs=epochs)
    models = [(model, cost.of_model(spec, model, size, num_cores=num_cores)) for model in spec.model.combinations()]
    told = "" if spec.budget.timeout is None else _plan_time(spec, num_train, num_validation, epochs)
    printing.result(
        printing.section("Search", plan.search(rows)),
        printing.section("Plan", plan.plan(spec, plans.about_images(spec, epochs), sum(row.is_searched for row in rows), told)),
        *([printing.section("Models", plan.costs(models))] if len(models) > 1 else []),
        printing.section("Cost", plan.cost(estimated, num_cores=num_cores, num_trials=spec.budget.trials)),
        f"{path} has no mistakes. Start the study with: tuner run {path}",
    )
    return 0


def _check_code(spec: AnyStudySpec, path: Path, cache: Path) -> int:
    """Print what a study of user code will do, after a trainer has tried the code once."""
    from tuner.workers.worker import evaluation  # it imports Optuna, which takes as long as the rest of the command

    require_code(spec)
    about = task.spec(spec.task)
    rows = about.rows(spec)
    with printing.busy(f"{spec.name}: a trainer tries the code …"):
        tried = evaluation.try_code(spec, cache)
    doubts = [fact for fact in tried.facts if fact[0] == "warning"]
    for _, doubt in doubts:
        print_warning(doubt)
    printing.result(
        *([printing.section("Search", plan.search(rows))] if rows else []),
        printing.section("Plan", plan.plan(spec, about.facts(spec, None), sum(row.is_searched for row in rows))),
        printing.section("Tried", plan.tried([fact for fact in tried.facts if fact not in doubts])),
        f"{path} has no mistakes. Start the study with: tuner run {path}",
    )
    return 0


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


def _plan_time(spec: StudySpec, num_train: int, num_validation: int, epochs: int) -> str:
    """Return the plan of a study with a timeout, in words; "" if there is nothing to plan."""
    from tuner.studies import planning  # it imports Optuna, which takes as long as the rest of the command

    found = planning.choose(spec, num_train=num_train, num_validation=num_validation, usual_epochs=epochs)
    return "" if found is None else f"{found.words}; the study measures the speed of its machine before it decides"


def require_usable(spec: StudySpec, cache: Path) -> tuple[Dataset, Splits] | None:
    """Refuse a study that cannot run; return its images and their splits, or None if only a trainer can read them.

    Raises:
        DataError: the images cannot be used as they are, or a file of the model does not exist.
        MissingPackage: the sampler or the backbone needs a package that is not installed.
        SpecError: the sampler cannot enumerate the search space.
    """
    enumeration.check_sampler(spec)
    _require_function(spec)
    for model in spec.model.combinations():
        _require_model(model)
    if sources.needs_keras(spec.data):
        return None
    data = sources.open(spec.data, cache=cache)
    parts = splits.split(data, spec.data, spec.seed)
    splits.require_measurable(data, parts, spec.objective.metric)
    if spec.num_folds > 1:
        splits.divide(data, parts, spec.data, spec.num_folds, spec.seed)
    return data, parts


def print_warning(remark: str) -> None:
    """Print a warning to stderr."""
    plain.line(f"warning: {remark}")


def admit(spec: AnyStudySpec, cache: Path, *, tell: Callable[[str], None] = print_warning) -> None:
    """Refuse a study that cannot run, as `require_usable` does, and tell what a user should know about its images.

    Of images that only a trainer can read, its worker tells the same (`messages.Prepared.warnings`).
    """
    if isinstance(spec, StudySpec):
        _warn(spec, require_usable(spec, cache), cache, tell)
    else:
        require_code(spec)


def _warn(spec: StudySpec, opened: tuple[Dataset, Splits] | None, cache: Path, tell: Callable[[str], None]) -> None:
    metric, num_folds = spec.objective.metric, spec.num_folds
    for warning in survey.warnings(*opened, spec.data, cache=cache, metric=metric, num_folds=num_folds) if opened is not None else ():
        tell(warning)


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


def _show_images(spec: StudySpec, opened: tuple[Dataset, Splits] | None, cache: Path) -> tuple[int, int]:
    """Print the images, if they can be read without Keras; return the numbers of train and validation images."""
    if opened is None:
        printing.result(printing.section("Images", f"source {spec.data.source}: read when the study runs"))
        return _ASSUMED_TRAIN, _ASSUMED_VALIDATION
    data, parts = opened
    printing.result(printing.section("Images", plan.images(data, parts, spec.objective.metric)))
    _warn(spec, opened, cache, print_warning)
    return len(parts.train), len(parts.validation)
