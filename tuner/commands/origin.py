"""Origin of a study: how this machine treats a study that was made elsewhere, its images and its code."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tuner.errors import RequestError
from tuner.spec.data import existing, moved
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.trust import user_code

SpecT = TypeVar("SpecT", bound=AnyStudySpec)


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """Settings that may differ between the machines of one study."""

    #: where the images are on this machine; None: where the study says
    data: Path | None
    #: what a study from the storage may import: modules with everything below them, and functions as `module:function`
    allowed_code: tuple[str, ...]
    #: how long a worker waits for a storage or a study that does not exist yet
    wait_seconds: float
    #: whether to continue with code that differs from what the study recorded
    accept_code: bool = False

    def localize(self, spec: SpecT) -> SpecT:
        """Return the study with the paths that its images have on this machine.

        Raises:
            RequestError: its images do not come from files.
        """
        if not isinstance(spec, StudySpec):
            spec = with_folder_here(spec)
        if self.data is None:
            return spec
        if not isinstance(spec, StudySpec):
            raise RequestError(f"--data is {self.data}, but the study {spec.name} loads its data with code of its own; drop --data.")
        data = moved(spec.data, existing(self.data.expanduser().absolute()))
        if data is None:
            what = f"the study {spec.name} has the source {spec.data.source}, which reads no local files"
            raise RequestError(f"--data is {self.data}, but {what}; drop --data.")
        return spec.model_copy(update={"data": data})

    def require_allowed(self, spec: AnyStudySpec) -> None:
        """Refuse to import code that a study from the storage names, unless the user of this machine allows it.

        Raises:
            RequestError: it names a module that is not allowed; the message says how to allow it.
        """
        user_code.require_allowed(spec.name, spec.named_code(), self.allowed_code)


def with_folder_here(spec: SpecT) -> SpecT:
    """Return a study of user code with the folder of its files here: its own, or else the current one."""
    folder = getattr(spec, "folder", None)
    if folder is None or folder.is_dir():
        return spec
    return spec.model_copy(update={"folder": Path.cwd()})
