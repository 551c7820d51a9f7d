"""Abilities: what a pool worker can serve, and a study with the paths that it has below the data root of this worker."""

import importlib.metadata
from pathlib import Path, PurePosixPath

from tuner.errors import RequestError
from tuner.queue import admission
from tuner.queue.entries import Entry
from tuner.queue.pool import Abilities
from tuner.spec.data import Data, FolderData, ManifestData, NpzData, moved
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.tasks.images.data import listings, manifests
from tuner.trust import user_code
from tuner.workers.engines import gpus
from tuner.workers.engines.gpus import GpuShare

#: packages whose versions are shown for each worker
_PACKAGES = ("tuner", "keras", "tensorflow", "onnxruntime", "keras-hub", "torch")
#: label of a worker with a GPU
GPU = "gpu"


def find(labels: tuple[str, ...], *, gpu: GpuShare | None, data_root: Path | None, allowed_code: tuple[str, ...]) -> Abilities:
    """Return what a worker of this process can serve."""
    return Abilities(
        labels=tuple(sorted({*labels, *([] if gpu is None else [GPU])})),
        gpu_memory_bytes=0 if gpu is None else _gpu_memory_bytes(gpu),
        data_root="" if data_root is None else str(data_root),
        allowed_code=allowed_code,
        packages=dict(_installed()),
    )


def at_home(spec: AnyStudySpec, entry: Entry, abilities: Abilities) -> AnyStudySpec:
    """Return a study of the queue with its paths on this machine.

    Raises:
        RequestError: this worker cannot serve the study; the message says why.
    """
    user_code.require_allowed(spec.name, spec.named_code(), abilities.allowed_code)
    root = Path(abilities.data_root) if abilities.data_root else None
    if isinstance(spec, StudySpec):
        _require_models_below(spec, root)
        spec = spec.model_copy(update={"data": _data_below(spec.data, entry.data_path, root)})
    elif getattr(spec, "folder", None) is not None:
        spec = spec.model_copy(update={"folder": Path.cwd()})  # allowed names are those of files here
    admission.require_runnable(spec)
    return spec


def relative_path(spec: AnyStudySpec, root: Path | None) -> str:
    """Return the path of the images of a study below a data root; "" if it is not below it, or if the study reads no files."""
    path = getattr(getattr(spec, "data", None), "path", None)
    if root is None or not isinstance(path, Path) or not path.is_relative_to(root):
        return ""
    return str(path.relative_to(root))


def _data_below(data: Data, known: str, root: Path | None) -> Data:
    """Return the section with its images below the data root: at the same relative path, or else at the same name."""
    if not isinstance(data, FolderData | NpzData | ManifestData):
        return data
    if root is None:
        raise RequestError(f"it reads {data.path}, and this worker has no --data-root")
    relative = known or (str(data.path.relative_to(root)) if data.path.is_relative_to(root) else data.path.name)
    if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
        raise RequestError(f"its path {relative} leads out of the data root {root}")
    path = root / relative
    if not path.exists():
        raise RequestError(f"no {'folder' if isinstance(data, FolderData) else 'file'} {path}")
    _require_below(path, root)
    found = moved(data, path)
    assert found is not None, "the section reads files"
    for image in _files(found):
        _require_below(image, root)
    return found


def _files(data: Data) -> list[Path]:
    """Return the files that a section reads, as far as a link or a table may name files elsewhere."""
    match data:
        case FolderData():
            found = listings.list_folder(
                data.path,
                class_order=data.class_order,
                class_pattern=data.class_pattern,
                group_pattern=data.group_pattern,
                ignore=data.ignore,
            )
        case ManifestData():
            found = manifests.list_manifest(data)
        case _:
            return []
    return [Path(image) for image in found.paths if isinstance(image, str)]


def _require_below(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise RequestError(f"{path} leads out of the data root {root}")


def _require_models_below(spec: StudySpec, root: Path | None) -> None:
    """Refuse files of networks and weights outside of the data root."""
    for model in spec.model.combinations():
        files = [model.weights] if model.weights not in ("imagenet", "none") else []
        files += [model.backbone] if model.backbone.endswith((".keras", ".h5")) else []
        for file in files:
            if root is None:
                raise RequestError(f"it reads {file}, and this worker has no --data-root")
            _require_below(Path(file).expanduser(), root)


def _gpu_memory_bytes(share: GpuShare) -> int:
    found = next((gpu.memory_mb for gpu in gpus.find() if gpu.name == share.gpu), None)
    return int((share.memory_mb or found or 0) * 2**20)


def _installed() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
