"""`tuner init` and `tuner check`: a study file for a folder of images, and what a study file will do, before anything is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from tuner import machine
from tuner.errors import RequestError
from tuner.queue import admission
from tuner.spec import file as study_file
from tuner.spec import plan as plans
from tuner.spec import space
from tuner.spec.data import FolderData
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.tasks import task
from tuner.tasks.images.data import survey
from tuner.tasks.images.data.dataset import Dataset
from tuner.tasks.images.data.splits import Splits
from tuner.tasks.images.spec import cost
from tuner.terminal import plain, plan, printing


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
#: assumed number of images if only a trainer can read the source
_ASSUMED_TRAIN, _ASSUMED_VALIDATION = 1_000, 200


def check(path: Path, cache: Path) -> int:
    """Print what a study file will do; raise the errors of `require_usable`."""
    spec = study_file.read(path)
    if not isinstance(spec, StudySpec):
        return _check_code(spec, path, cache)
    num_train, num_validation = _show_images(spec, admission.require_usable(spec, cache), cache)
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

    admission.require_code(spec)
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


def _plan_time(spec: StudySpec, num_train: int, num_validation: int, epochs: int) -> str:
    """Return the plan of a study with a timeout, in words; "" if there is nothing to plan."""
    from tuner.studies import planning  # it imports Optuna, which takes as long as the rest of the command

    found = planning.choose(spec, num_train=num_train, num_validation=num_validation, usual_epochs=epochs)
    return "" if found is None else f"{found.words}; the study measures the speed of its machine before it decides"


def print_warning(remark: str) -> None:
    """Print a warning to stderr."""
    plain.line(f"warning: {remark}")


def admit(spec: AnyStudySpec, cache: Path, *, tell: Callable[[str], None] = print_warning) -> None:
    """Refuse a study that cannot run, as `require_usable` does, and tell what a user should know about its images.

    Of images that only a trainer can read, its worker tells the same (`messages.Prepared.warnings`).
    """
    if isinstance(spec, StudySpec):
        _warn(spec, admission.require_usable(spec, cache), cache, tell)
    else:
        admission.require_code(spec)


def _warn(spec: StudySpec, opened: tuple[Dataset, Splits] | None, cache: Path, tell: Callable[[str], None]) -> None:
    metric, num_folds = spec.objective.metric, spec.num_folds
    for warning in survey.warnings(*opened, spec.data, cache=cache, metric=metric, num_folds=num_folds) if opened is not None else ():
        tell(warning)


def _show_images(spec: StudySpec, opened: tuple[Dataset, Splits] | None, cache: Path) -> tuple[int, int]:
    """Print the images, if they can be read without Keras; return the numbers of train and validation images."""
    if opened is None:
        printing.result(printing.section("Images", f"source {spec.data.source}: read when the study runs"))
        return _ASSUMED_TRAIN, _ASSUMED_VALIDATION
    data, parts = opened
    printing.result(printing.section("Images", plan.images(data, parts, spec.objective.metric)))
    _warn(spec, opened, cache, print_warning)
    return len(parts.train), len(parts.validation)
