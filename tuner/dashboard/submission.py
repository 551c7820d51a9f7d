"""Submitted study files: what a server accepts from others, every mistake with its place, and the plan of the study and its cost.

A submitted file may only name data below the roots of the server, and code that the server allows. It is judged as text and by the names
and links of files: no image is decoded, no code is imported, and no regular expression of the file is run.
"""

import copy
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner import errors, wording
from tuner.errors import DataError, Problem, RequestError, SpecError
from tuner.sampling import enumeration
from tuner.spec import file as study_file
from tuner.spec import plan as plans
from tuner.spec import yaml_lines
from tuner.spec.data import ManifestData
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.spec.yaml_lines import Document
from tuner.tasks import task
from tuner.tasks.images.data import image_file, manifests
from tuner.tasks.images.spec import cost
from tuner.trust import roots, user_code
from tuner.trust.image_zip import ZipLimits
from tuner.trust.roots import Roots

#: a submitted study file is never larger: a complete one has less than a tenth of it
MAX_BYTES = 100_000
#: values of a submitted study file; only nested aliases make more
_MAX_VALUES = 20_000
#: mistakes that are shown
_MAX_PROBLEMS = 100
_ORIGIN = "the study file"
#: keys of a study file with paths: of a file or folder, or of a name that may also be one
_PATHS = (("data", "path"), ("data", "root"))
_NAMES = (("model", "backbone"), ("model", "weights"))
_FILES = (".keras", ".h5", ".hdf5", ".pth", ".pkl", ".npz")
_PRESET = re.compile(r"kerashub:[A-Za-z0-9_.-]+")
_TFDS = re.compile(r"\w+(/\w[\w.-]*)?(:\d+\.\d+\.\d+)?", re.ASCII)
#: a larger table of images is not read
_MOST_TABLE_BYTES = 64 << 20
#: assumed number of images where it is not counted
_ASSUMED_IMAGES = 1_500
#: cores that the cost is told for
_CORES = 4
#: studies that are checked at the same time
_AT_ONCE = threading.BoundedSemaphore(2)


@dataclass(frozen=True, kw_only=True)
class SubmissionRules:
    """What a server accepts from others."""

    #: folders with data
    roots: Roots
    #: folder with a folder of uploaded images for each owner; it is one of the roots. None: no uploads
    uploads: Path | None = None
    #: modules, or functions of modules, that a submitted study may name
    allowed_code: tuple[str, ...] = ()
    zip_limits: ZipLimits = field(default_factory=ZipLimits)


@dataclass(frozen=True, kw_only=True)
class CheckedStudy:
    """A submitted study file that was checked."""

    #: None: the file has mistakes
    spec: AnyStudySpec | None
    problems: tuple[Problem, ...] = ()
    #: the plan of the study and its rough cost, as pairs of a name and a text
    plan: tuple[tuple[str, str], ...] = ()
    cost: tuple[tuple[str, str], ...] = ()

    def require(self) -> AnyStudySpec:
        """Return the study.

        Raises:
            SpecError: the file has mistakes.
        """
        if self.spec is None:
            raise SpecError(_ORIGIN, self.problems)
        return self.spec


def check(text: str, rules: SubmissionRules) -> CheckedStudy:
    """Check the text of a study file; every mistake is told, with its line and column."""
    with _AT_ONCE:
        try:
            document = _document(text)
            spec = _read(document, rules)
            enumeration.check_sampler(spec)
        except SpecError as error:
            return CheckedStudy(spec=None, problems=error.problems[:_MAX_PROBLEMS])
        except RequestError as error:
            return CheckedStudy(spec=None, problems=(Problem(field="", message=str(error)),))
        objections = [document.problem(tuple(name.split(".")), message) for name, message in _objections(spec, rules)]
        if objections:
            return CheckedStudy(spec=None, problems=tuple(objections))
        plan, costs = _told(spec)
        return CheckedStudy(spec=spec, plan=plan, cost=costs)


def _read(document: Document, rules: SubmissionRules) -> AnyStudySpec:
    if isinstance(document.value, Mapping):
        document.value = copy.deepcopy(document.value)
        for path, message in _refused(document.value, rules):
            document.problems.append(document.problem(path, message))
    try:
        return study_file.build(document, origin=_ORIGIN, folder=rules.roots.folders[0])
    except RecursionError as error:
        raise _refuse("is nested too deeply to be a study file") from error


def _document(text: str) -> Document:
    """Return the content of a file, which is small enough to be one."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise _refuse(f"is larger than {MAX_BYTES // 1000} kB, too large for a study file")
    if "\0" in text:
        raise _refuse("has characters that no text has; expected YAML or JSON")
    document = yaml_lines.parse(text, Path(_ORIGIN))
    if document.num_values > _MAX_VALUES:
        raise _refuse(f"contains more than {_MAX_VALUES:,} values, too many for a study file")
    return document


def _refuse(message: str) -> SpecError:
    return SpecError(_ORIGIN, [Problem(field="", message=message)])


def _refused(value: dict[str, Any], rules: SubmissionRules) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each value that is not accepted, with the reason, and put a harmless one in its place, so that the others are checked too.

    An accepted path is replaced by the one that it leads to, so that a link that changes later does not lead elsewhere.
    """
    for path in (*_PATHS, *_NAMES):
        section = value.get(path[0])
        given = section.get(path[1]) if isinstance(section, dict) else None
        for index, one in enumerate(given if isinstance(given, list) and path in _NAMES else [given]):
            harmless, message = _judge(one, path, rules)
            if message:
                yield path, message
            if isinstance(given, list) and path in _NAMES:
                given[index] = harmless
            elif given is not None:
                section[path[1]] = harmless  # type: ignore[index]
    if "folder" in value:
        value.pop("folder")
        yield ("folder",), "is set by tuner; remove it"
    data = value.get("data")
    if isinstance(data, dict) and data.get("source") == "tfds" and not _TFDS.fullmatch(str(data.get("name", ""))[:200]):
        yield (
            ("data", "name"),
            f"is {wording.show(data.get('name'))}; expected the name of a data set of TensorFlow Datasets, such as tf_flowers",
        )


def _judge(given: Any, path: tuple[str, str], rules: SubmissionRules) -> tuple[Any, str]:
    """Return a path or a name as it is used, and why it is refused, or "" if it is not."""
    if not isinstance(given, str) or (path in _NAMES and not _is_file(given)):
        return given, ""
    if given.startswith("kerashub:"):
        return (
            ("efficientnet_lite0", "is not the name of a preset, such as kerashub:resnet_18_imagenet")
            if not _PRESET.fullmatch(given)
            else (given, "")
        )
    try:
        return str(rules.roots.resolve(given)), ""
    except DataError as error:
        placeholder = (
            str(rules.roots.folders[0] / "refused") if path in _PATHS else "imagenet" if path[1] == "weights" else "efficientnet_lite0"
        )
        return placeholder, str(error)


def _is_file(name: str) -> bool:
    return name.startswith("kerashub:") or name.lower().endswith(_FILES) or ("/" in name and not name.startswith("python:"))


def _objections(spec: AnyStudySpec, rules: SubmissionRules) -> Iterator[tuple[str, str]]:
    """Yield each field that names code that is not allowed, or data that is missing or has links out of the roots, and the reason."""
    for name, function in spec.named_code():
        if function.rpartition(":")[0].endswith(".py"):
            yield name, f"is {function}, a file, but a submitted study can only name a module that the workers have installed"
        elif not user_code.is_allowed(function, rules.allowed_code):
            known = f" Allowed: {', '.join(rules.allowed_code)}." if rules.allowed_code else ""
            yield name, f"is {function}, which this server does not allow.{known} An admin allows a module with --allow-code"
    data = getattr(spec, "data", None)
    for key in ("path", "root"):
        path = getattr(data, key, None)
        if isinstance(path, Path) and (message := _missing(path, rules.roots)):
            yield f"data.{key}", message
            return
    if isinstance(data, ManifestData) and (message := _rows_elsewhere(data, rules.roots)):
        yield "data.path", message


def _missing(path: Path, allowed: Roots) -> str:
    """Return why data cannot be used, as a clause; "" if it can."""
    if not path.exists():
        return f"is {path}, which does not exist on this server"
    link = allowed.link_out(path) if path.is_dir() else None
    return "" if link is None else f"is {path}, but the link {link} in it leads out of the folders of this server; remove the link"


def _rows_elsewhere(data: ManifestData, allowed: Roots) -> str:
    """Return why the images of a table cannot be used, as a clause; "" if they can."""
    if data.path.stat().st_size > _MOST_TABLE_BYTES:
        return f"is {data.path}, a table of more than {_MOST_TABLE_BYTES >> 20} MiB, which this server does not read"
    try:
        paths = manifests.list_manifest(data).paths
    except DataError as error:
        return f"is {data.path}, which cannot be used: {error}"
    outside = next((path for path in paths if isinstance(path, str) and not allowed.contains(Path(path))), None)
    return "" if outside is None else f"is {data.path}, but its image {outside} is outside the folders of this server"


def _told(spec: AnyStudySpec) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Return the plan of a study and its rough cost."""
    about = task.spec(spec.task)
    num_searched = sum(row.is_searched for row in about.rows(spec))
    if not isinstance(spec, StudySpec):
        return tuple(plans.facts(spec, about.facts(spec, None), num_searched)), ()
    counted = _num_images(spec)
    num_train, num_validation = _shares(spec, counted or _ASSUMED_IMAGES)
    epochs = spec.training.num_epochs(num_train)
    images = "not counted" if counted is None else f"{counted:,} files, about {num_train:,} to train on"
    facts = [("images", images), *plans.facts(spec, plans.about_images(spec, epochs), num_searched)]
    estimated = cost.estimate(spec, num_train=num_train, num_validation=num_validation, epochs=epochs, num_cores=_CORES)
    return tuple(facts), tuple(cost.words(estimated, num_cores=_CORES, num_trials=spec.budget.trials))


def _num_images(spec: StudySpec) -> int | None:
    """Return the number of image files below the folder of a study; None if its images are elsewhere."""
    folder = getattr(spec.data, "path", None)
    if not isinstance(folder, Path) or not folder.is_dir():
        return None
    return sum(Path(entry.name).suffix.lower() in image_file.SUFFIXES for entry in roots.walk(folder))


def _shares(spec: StudySpec, num_images: int) -> tuple[int, int]:
    """Return about how many images a study trains on, and how many choose the best trial."""
    held = [int(share) if share >= 2 else int(share * num_images) for share in (spec.data.validation, spec.data.test)]
    train = spec.data.train
    num_train = num_images - sum(held) if train is None else int(train) if train >= 2 else int(train * num_images)
    return max(1, num_train), max(1, held[0])


def owner_folder(owner: str) -> str:
    """Return the name of an owner's folder, which is never hidden and leads nowhere else.

    Raises:
        DataError: the name of the owner cannot be that of a folder.
    """
    if not re.fullmatch(r"\w[\w.@+-]{0,63}", owner):
        raise errors.DataError(
            f"the user {wording.show(owner)} cannot have a folder of uploads: the name must start with a letter or a digit"
        )
    return owner
