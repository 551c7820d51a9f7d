"""Hardware: whether this machine's GPUs, cores, memory and disks can be used, and for how many workers."""

import importlib.metadata
import os
import resource
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from tuner import machine, wording
from tuner.cache import entries
from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.workers.engines import gpus
from tuner.workers.engines.gpus import Gpu

#: memory of a worker and its trainer with a small network
WORKER_BYTES = 1.3 * 2**30
#: minimum limit of open files
_MIN_OPEN_FILES = 1024
#: part of the swap space in use that slows training down
_MAX_SWAP_USED = 0.5
#: file systems on which SQLite's locks are not reliable
_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "ceph", "fuse.ceph", "gluster", "fuse.gluster", "beegfs", "gpfs", "afs")
#: free space below which nothing can be stored, and below which a study may not fit
_FULL_BYTES = 200 * 2**20
_SCARCE_BYTES = 2 * 2**30
_MIB = 2**20


def gpu() -> Iterator[Finding]:
    """Check which GPUs workers can use, and whether TensorFlow's CUDA packages are installed."""
    has_driver = shutil.which("nvidia-smi") is not None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield from judge_gpus(gpus.find(), has_driver=has_driver, visible=visible, num_packages=_num_cuda_packages())


def judge_gpus(found: Sequence[Gpu], *, has_driver: bool, visible: str | None, num_packages: int) -> Iterator[Finding]:
    """Judge the GPUs that were found; `visible` is the value of CUDA_VISIBLE_DEVICES."""
    if not has_driver:
        yield findings.note("GPU", "nvidia-smi is not installed; trials train on the CPU")
    elif not found and visible is not None:
        hidden = f"CUDA_VISIBLE_DEVICES={visible} hides all GPUs; trials train on the CPU"
        yield findings.note("GPU", hidden, "unset CUDA_VISIBLE_DEVICES to use them")
    elif not found:
        cure = "run nvidia-smi and fix the error that it shows; in a container, pass the GPUs to the container"
        yield findings.warning("GPU", "nvidia-smi lists no GPU; trials train on the CPU", cure)
    else:
        names = "; ".join(_shown(gpu) for gpu in found)
        yield findings.ok("GPU", f"{len(found)} found: {names}")
        if num_packages == 0:
            cure = "pip install 'tensorflow[and-cuda]' in the installed version, unless CUDA is installed on this machine"
            yield findings.warning("CUDA", "no nvidia-* packages are installed; TensorFlow may not find the GPU", cure)
        else:
            yield findings.ok("CUDA", f"{num_packages} nvidia-* packages installed")


def _shown(gpu: Gpu) -> str:
    if gpu.memory_mb is None:
        return gpu.name
    return f"{gpu.name} with {entries.show_size(gpu.memory_mb * _MIB)}, {entries.show_size(gpu.free_mb * _MIB)} free"


def _num_cuda_packages() -> int:
    return len({name for each in importlib.metadata.distributions() if (name := each.name or "").lower().startswith("nvidia-")})


def cores_and_memory() -> Iterator[Finding]:
    """Check the cores, the memory, the swap space and the limit of open files."""
    available = min(psutil.virtual_memory().available, machine.memory_bytes())
    yield judge_memory(machine.num_cores(), machine.memory_bytes(), available)
    swap = psutil.swap_memory()
    if swap.total and swap.used > _MAX_SWAP_USED * swap.total:
        found = f"{entries.show_size(swap.used)} of {entries.show_size(swap.total)} in use"
        yield findings.warning("swap", found, "close other programs or use fewer workers; training is slow when memory is swapped")
    yield judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def judge_memory(num_cores: int, memory_bytes: int, available_bytes: int) -> Finding:
    """Judge for how many workers the memory is sufficient."""
    num_workers = int(memory_bytes / WORKER_BYTES)
    cores = wording.count(num_cores, "core")
    found = f"{cores}, {entries.show_size(memory_bytes)} of memory, {entries.show_size(available_bytes)} free"
    need = f"a worker needs about {entries.show_size(WORKER_BYTES)}"
    if num_workers < 1:
        return findings.warning("machine", found, f"{need}; add memory to this machine")
    if available_bytes < WORKER_BYTES:
        return findings.warning("machine", found, f"{need}; close other programs first")
    each = f"about {entries.show_size(WORKER_BYTES)} each"
    return findings.ok("machine", f"{found}; memory for {wording.count(num_workers, 'worker')} of {each}")


def judge_files(limit: int) -> Finding:
    """Judge the limit of files that a process may have open."""
    if limit == resource.RLIM_INFINITY:
        return findings.ok("open files", "no limit")
    found = f"at most {limit:,} in one process"
    if limit < _MIN_OPEN_FILES:
        return findings.warning("open files", found, f"raise the limit: ulimit -n {_MIN_OPEN_FILES}")
    return findings.ok("open files", found)


class Mount(Protocol):
    """A mounted file system, as psutil describes it."""

    @property
    def mountpoint(self) -> str:
        """The folder where it is mounted."""

    @property
    def fstype(self) -> str:
        """The kind of file system."""


def nearest(path: Path) -> Path:
    """Return the path itself, or its nearest parent that exists."""
    whole = path.absolute()
    return next(existing for existing in (whole, *whole.parents) if existing.exists())


def kind(path: Path) -> str:
    """Return the kind of file system that holds a path; "" if it is unknown."""
    return kind_among(nearest(path).resolve(), psutil.disk_partitions(all=True))


def kind_among(path: Path, mounts: Iterable[Mount]) -> str:
    """Return the kind of the innermost mount that holds a path; if two mounts are in one folder, the later one counts."""
    holding = [mount for mount in mounts if path.is_relative_to(mount.mountpoint)]
    # `max` takes the first of equals
    return max(reversed(holding), key=lambda mount: len(Path(mount.mountpoint).parts)).fstype if holding else ""


def is_network(kind: str) -> bool:
    """Return whether a kind of file system is on another machine."""
    return kind.lower().startswith(_NETWORK)


def space(subject: str, path: Path) -> Finding:
    """Check the free space on the disk of a path."""
    return judge_space(subject, nearest(path), shutil.disk_usage(nearest(path)).free)


def judge_space(subject: str, folder: Path, free_bytes: int) -> Finding:
    """Judge whether the free space is sufficient."""
    found = f"{entries.show_size(free_bytes)} free on the disk of {folder}"
    if free_bytes < _FULL_BYTES:
        return findings.problem(subject, found, "free some space there")
    if free_bytes < _SCARCE_BYTES:
        return findings.warning(subject, found, f"free some space there; a study needs {entries.show_size(_SCARCE_BYTES)} or more")
    return findings.ok(subject, found)


def writable(subject: str, folder: Path, option: str) -> Iterator[Finding]:
    """Check that files can be written in a folder, by writing one; a missing folder is not created."""
    cure = f"give this user write permission, or name another folder with {option}"
    existing = nearest(folder)
    if not existing.is_dir():
        yield findings.problem(subject, f"{existing} is a file", f"name a folder with {option}")
    elif existing != folder.absolute():
        if os.access(existing, os.W_OK | os.X_OK):
            yield findings.ok(subject, f"{folder} does not exist yet and can be created in {existing}")
        else:
            yield findings.problem(subject, f"{folder} does not exist, and {existing} cannot be written", cure)
    else:
        try:
            _write(folder)
        except OSError as error:
            yield findings.problem(subject, f"{folder} cannot be written: {error.strerror or error}", cure)
        else:
            yield findings.ok(subject, f"{folder} can be written")


def _write(folder: Path) -> None:
    """Write, flush, rename and delete a file, as tuner does with its own files."""
    beside, path = (folder / f".tuner-doctor-{os.getpid()}{end}" for end in (".part", ""))
    try:
        with beside.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
