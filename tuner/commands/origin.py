"""Origin of a study: how this machine treats a study that was made elsewhere, its images and its code."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tuner.errors import RequestError
from tuner.spec.data import Data, FolderData, ManifestData, NpzData, existing
from tuner.spec.study import AnyStudySpec, StudySpec

SpecT = TypeVar("SpecT", bound=AnyStudySpec)

ALLOW_CODE = "TUNER_ALLOW_CODE"
#: a module, or a file of Python, and possibly one function of it
_MODULE = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:,]+\.py)(:[A-Za-z_]\w*)?")


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """Settings that may differ between the machines of one study."""

    #: where the images are on this machine; None: where the study says
    data: Path | None
    #: what a study from the storage may import: modules with everything below them, and functions as `module:function`
    allowed_code: tuple[str, ...]
    #: how long a worker waits for a storage or a study that does not exist yet
    wait_seconds: float
    #: whether to go on with code that differs from what the study recorded
    accept_code: bool = False

    def localize(self, spec: SpecT) -> SpecT:
        """Return the study with the paths that its images have on this machine.

        Raises:
            RequestError: its images do not come from files.
        """
        if not isinstance(spec, StudySpec):
            spec = _with_folder_here(spec)
        if self.data is None:
            return spec
        if not isinstance(spec, StudySpec):
            raise RequestError(f"--data is {self.data}, but the study {spec.name} loads its data with code of its own; drop --data.")
        return spec.model_copy(update={"data": _moved(spec, existing(self.data.expanduser().absolute()))})

    def require_allowed(self, spec: AnyStudySpec) -> None:
        """Refuse to import code that a study from the storage names, unless the user of this machine allows it.

        Otherwise everyone who may write to the storage could choose what every worker runs.

        Raises:
            RequestError: it names a module that is not allowed; the message says how to allow it.
        """
        for field, name in spec.named_code():
            if not any(_covers(allowed, name) for allowed in self.allowed_code):
                module = name.partition(":")[0]
                known = f" Allowed: {', '.join(self.allowed_code)}." if self.allowed_code else ""
                raise RequestError(
                    f"the study {spec.name} in this storage names code to import, {field} {name}, which is not allowed here.{known} "
                    f"If you trust it: --allow-code {module}, or {ALLOW_CODE}={module} in the environment. "
                    "Code named in your own study file is always allowed."
                )


def read_allowed_code(given: str | None) -> tuple[str, ...]:
    """Return the modules and functions of a list with commas.

    Raises:
        RequestError: an entry is not the name of a module.
    """
    names = tuple(name for part in (given or "").split(",") if (name := part.strip()))
    for name in names:
        if not _MODULE.fullmatch(name):
            expected = "expected modules or files such as my_package,my_other.module,churn.py, or my_module:function"
            raise RequestError(f"--allow-code names {name!r}; {expected}.")
    return names


def _covers(allowed: str, name: str) -> bool:
    """Return whether an allowed module, file or function includes this function: `a.b` covers `a.b:f` and `a.b.c:f`, not `a.bc:f`.

    A file is only covered by its own name, as the study writes it: `churn.py` does not cover `../churn.py`.
    """
    if name == allowed or ":" in allowed:
        return name == allowed
    is_file = name.rpartition(":")[0].endswith(".py")
    return name.startswith(f"{allowed}:") or (not is_file and name.startswith(f"{allowed}."))


def _with_folder_here(spec: SpecT) -> SpecT:
    """Return a study of code of the user's with the folder of its files here: its own, or else the current one."""
    folder = getattr(spec, "folder", None)
    if folder is None or folder.is_dir():
        return spec
    return spec.model_copy(update={"folder": Path.cwd()})


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
    raise RequestError(f"--data is {to}, but the study {spec.name} has the source {data.source}, which reads no local files; drop --data.")


def _file(before: Path, to: Path) -> Path:
    """Return where a file is now: the given path, or the file of the same name if the path is a folder."""
    return to / before.name if to.is_dir() else to


def _root(data: ManifestData, path: Path) -> Path | None:
    """Return the root of a manifest's images: it moves together with the table if it is in the table's folder."""
    if data.root is None or not data.root.is_relative_to(data.path.parent):
        return data.root
    return Path(os.path.normpath(path.parent / data.root.relative_to(data.path.parent)))
