"""`tuner init`: a folder of images into a study file to start from.

`tuner check`: a study file, its images, its search and its cost, before anything is trained.
"""

import importlib.machinery
import importlib.util
from pathlib import Path

from pydantic import ValidationError

from tuner import machine
from tuner.errors import DataError, RequestError
from tuner.sampling import enumeration
from tuner.spec import file as study_file
from tuner.spec import space
from tuner.spec.model import Model
from tuner.spec.study import StudySpec
from tuner.tasks.images.data import dataset, sources, splits, survey
from tuner.tasks.images.data.dataset import Dataset
from tuner.tasks.images.data.splits import Splits
from tuner.tasks.images.spec import cost
from tuner.terminal import plain, plan, printing


def init(name: str, images: Path, to: Path, cache: Path) -> int:
    """Write the study file and print what was seen; a file that is there is left alone."""
    _check_name(name)
    if to.exists():
        raise RequestError(f"{to} already exists; choose another name, or remove the file")
    seen = survey.survey(images, cache=cache)
    survey.write_new(survey.study_file(name, seen, images.expanduser()), to)
    plain.result("\n".join(survey.summarize(seen)))
    if not seen.is_usable:
        plain.line("warning: the study cannot run on this folder as it is")
    plain.result(f"\nWrote {to}. What it will do: tuner check {to}")
    return 0


def _check_name(name: str) -> None:
    try:
        StudySpec.model_validate({"name": name, "data": {"source": "digits"}})
    except ValidationError as error:
        raise RequestError(
            f"NAME is {name!r}; expected letters, digits, dots, underscores and hyphens, at most 100 of them, a letter or digit first"
        ) from error


#: a source that only the trainer can read is assumed to be this big
_ASSUMED_TRAIN, _ASSUMED_VALIDATION = 1_000, 200


def check(path: Path, cache: Path) -> int:
    """Print what the study is; raises what `require` raises."""
    spec = study_file.read(path)
    num_train, num_validation = _show_images(spec, require(spec, cache))
    rows = space.rows(spec)
    epochs = spec.training.num_epochs(num_train)
    num_cores = machine.num_cores()
    estimated = cost.estimate(spec, num_train=num_train, num_validation=num_validation, epochs=epochs, num_cores=num_cores)
    printing.result(
        plan.headed("Search", plan.search(rows)),
        plan.headed("Plan", plan.plan(spec, epochs, sum(row.is_searched for row in rows))),
        plan.headed("Cost", plan.cost(estimated, num_cores=num_cores, num_trials=spec.budget.trials)),
        f"{path} is in order. Start it with: tuner run {path}",
    )
    return 0


def require(spec: StudySpec, cache: Path) -> tuple[Dataset, Splits] | None:
    """The images of a study and their splits, None where only the trainer can read them; refuses a study that cannot be worked on.

    Raises:
        DataError: the images cannot be used as they are, or the model is not there.
        MissingPackage: the sampler needs a package that is not installed.
        SpecError: the sampler cannot go through the search space.
    """
    enumeration.check_sampler(spec)
    _require_model(spec.model)
    if sources.needs_keras(spec.data):
        return None
    data = sources.open(spec.data, cache=cache)
    return data, splits.split(data, spec.data, spec.seed)


def _require_model(model: Model) -> None:
    """Refuse files and modules that are not there; only the trainer can look into them."""
    start = "A relative path starts at the folder of the study file."
    if model.weights not in ("imagenet", "none") and not Path(model.weights).expanduser().is_file():
        raise DataError(f"model.weights is {model.weights}, but there is no such file; expected imagenet, none, or a weights file. {start}")
    name = model.backbone
    if name.endswith((".keras", ".h5")) and not Path(name).expanduser().is_file():
        raise DataError(f"model.backbone is {name}, but there is no such file; expected a model that Keras saved. {start}")
    if name.startswith("python:") and not _is_importable(name.split(":")[1]):
        raise DataError(f"model.backbone is {name}, but its module is not there; install it, or start tuner in the folder where it lies.")


def _is_importable(module: str) -> bool:
    """Whether the package at the top of a module is there, in the current folder too; nothing of it is run."""
    top = module.partition(".")[0]
    return importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd())]) is not None or importlib.util.find_spec(top) is not None


def _show_images(spec: StudySpec, opened: tuple[Dataset, Splits] | None) -> tuple[int, int]:
    """Print the images where they can be read without Keras; how many train and choose."""
    if opened is None:
        printing.result(plan.headed("Images", f"source {spec.data.source}: read when the study runs"))
        return _ASSUMED_TRAIN, _ASSUMED_VALIDATION
    data, parts = opened
    printing.result(plan.headed("Images", plan.images(data, parts)))
    for remark in dataset.notes(data):
        plain.line(f"warning: {remark}")
    return len(parts.train), len(parts.validation)
