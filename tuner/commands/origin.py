"""What this machine says of a study that comes from elsewhere: where its images lie, and which code it may import."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import RequestError
from tuner.spec.data import Data, FolderData, ManifestData, NpzData, PythonData
from tuner.spec.study import StudySpec

ALLOW_CODE = "TUNER_ALLOW_CODE"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?")


@dataclass(frozen=True, kw_only=True)
class Here:
    """What differs between the machines that work on one study."""

    #: where the images lie; None: where the study says
    data: Path | None
    #: modules, with all that is in them, and functions `module:function`, that a study out of the storage may name
    allowed_code: tuple[str, ...]
    #: how long a worker waits for a storage or a study that is not there yet
    wait_seconds: float

    def place(self, spec: StudySpec) -> StudySpec:
        """The study with its images where this machine has them.

        Raises:
            RequestError: they do not come from files.
        """
        return spec if self.data is None else spec.model_copy(update={"data": _moved(spec, self.data.expanduser().absolute())})

    def require_allowed(self, spec: StudySpec) -> None:
        """Refuse to import code that a study out of the storage names, unless this machine's user allows it.

        Whoever may write to the storage would otherwise choose what every worker runs.

        Raises:
            RequestError: it names a module that is not allowed; says what to set.
        """
        for field, name in _code(spec):
            if not any(_covers(allowed, name) for allowed in self.allowed_code):
                module = name.partition(":")[0]
                known = f" Allowed: {', '.join(self.allowed_code)}." if self.allowed_code else ""
                raise RequestError(
                    f"the study {spec.name} in this storage names code to import, {field} {name}, which is not allowed here.{known} "
                    f"If you trust it: --allow-code {module}, or {ALLOW_CODE}={module} in the environment. "
                    "Code that a study file of your own names needs no leave."
                )


def read_code(given: str | None) -> tuple[str, ...]:
    """The modules and functions of a list with commas.

    Raises:
        RequestError: one of them is no name of a module.
    """
    names = tuple(name for part in (given or "").split(",") if (name := part.strip()))
    for name in names:
        if not _MODULE.fullmatch(name):
            raise RequestError(f"--allow-code names {name!r}; expected modules such as my_package,my_other.module, or my_module:function.")
    return names


def _covers(allowed: str, name: str) -> bool:
    """Whether leave for a module or function is leave for this function: `a.b` covers `a.b:f` and `a.b.c:f`, not `a.bc:f`."""
    return name == allowed or (":" not in allowed and name.startswith((f"{allowed}:", f"{allowed}.")))


def _code(spec: StudySpec) -> Iterator[tuple[str, str]]:
    """Each field of a study that names a function to import, and the function."""
    if isinstance(spec.data, PythonData):
        yield "data.function", spec.data.function
    if spec.model.backbone.startswith("python:"):
        yield "model.backbone", spec.model.backbone.removeprefix("python:")


def _moved(spec: StudySpec, to: Path) -> Data:
    data = spec.data
    match data:
        case FolderData():
            return data.model_copy(update={"path": to})
        case NpzData():
            return data.model_copy(update={"path": _file(data.path, to)})
        case ManifestData():
            path = _file(data.path, to)
            return data.model_copy(update={"path": path, "root": _root(data, path)})
    raise RequestError(
        f"--data is {to}, but the images of the study {spec.name} come from the source {data.source}, which has no place; leave it out."
    )


def _file(before: Path, to: Path) -> Path:
    """A file where it was moved to: the path named, or in the folder named the file of the same name."""
    return to / before.name if to.is_dir() else to


def _root(data: ManifestData, path: Path) -> Path | None:
    """The root of a manifest's images: it moves with the table if it lies in the table's folder."""
    if data.root is None or not data.root.is_relative_to(data.path.parent):
        return data.root
    return Path(os.path.normpath(path.parent / data.root.relative_to(data.path.parent)))
