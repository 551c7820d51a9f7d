"""This machine into whether its GPUs, cores and memory can be used, and for how many workers.

A path into what is known of the disk below it: its kind, its free space, whether it can be written.

The installed packages into whether they are those that this version of tuner asks for.
"""

import importlib.metadata
import os
import platform
import resource
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import psutil
from packaging.requirements import Requirement

import tuner
from tuner import machine, wording
from tuner.cache import entries
from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.workers.engines import gpus
from tuner.workers.engines.gpus import Gpu

#: what a worker and its trainer take, with a small network
WORKER_BYTES = 1.3 * 2**30
_FEW_FILES = 1024
_SWAPPED = 0.5
_MIB = 2**20


def gpu() -> Iterator[Finding]:
    """The GPUs that workers will find, and whether TensorFlow's CUDA packages are there for them."""
    has_driver = shutil.which("nvidia-smi") is not None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield from judge_gpus(gpus.found(), has_driver=has_driver, visible=visible, num_packages=_num_cuda_packages())


def judge_gpus(found: Sequence[Gpu], *, has_driver: bool, visible: str | None, num_packages: int) -> Iterator[Finding]:
    """What is said of these GPUs; `visible` is CUDA_VISIBLE_DEVICES."""
    if not has_driver:
        yield findings.note("GPU", "no nvidia-smi; trials train on the cores")
    elif not found and visible is not None:
        shown = f"CUDA_VISIBLE_DEVICES={visible} hides all GPUs; trials train on the cores"
        yield findings.note("GPU", shown, "unset CUDA_VISIBLE_DEVICES if that is not meant")
    elif not found:
        cure = "run nvidia-smi and mend what it says; in a container, pass the GPUs into it"
        yield findings.warning("GPU", "nvidia-smi lists none; trials train on the cores", cure)
    else:
        names = "; ".join(_show(gpu) for gpu in found)
        yield findings.ok("GPU", f"{len(found)} found: {names}")
        if num_packages == 0:
            cure = "pip install 'tensorflow[and-cuda]' in the version that is installed, unless this machine has CUDA of its own"
            yield findings.warning("CUDA", "no nvidia-* packages are installed; TensorFlow may not see the GPU", cure)
        else:
            yield findings.ok("CUDA", f"{num_packages} nvidia-* packages installed")


def cores_and_memory() -> Iterator[Finding]:
    """Cores, memory, swap and open files."""
    available = min(psutil.virtual_memory().available, machine.memory_bytes())
    yield judge_memory(machine.num_cores(), machine.memory_bytes(), available)
    swap = psutil.swap_memory()
    if swap.total and swap.used > _SWAPPED * swap.total:
        found = f"{entries.show_size(swap.used)} of {entries.show_size(swap.total)} in use"
        yield findings.warning("swap", found, "end other programs or use fewer workers; training from swap is slow")
    yield judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def judge_memory(num_cores: int, memory_bytes: int, available_bytes: int) -> Finding:
    """For how many workers that is enough."""
    num_workers = int(memory_bytes / WORKER_BYTES)
    cores = f"{num_cores} core{'' if num_cores == 1 else 's'}"
    found = f"{cores}, {entries.show_size(memory_bytes)} of memory, {entries.show_size(available_bytes)} free"
    if num_workers < 1:
        return findings.warning("machine", found, f"a worker takes about {entries.show_size(WORKER_BYTES)}; give this machine more memory")
    if available_bytes < WORKER_BYTES:
        return findings.warning("machine", found, f"a worker takes about {entries.show_size(WORKER_BYTES)}; end other programs first")
    each = f"about {entries.show_size(WORKER_BYTES)} each"
    return findings.ok("machine", f"{found}; memory for {num_workers} worker{'' if num_workers == 1 else 's'} of {each}")


def judge_files(limit: int) -> Finding:
    """Whether a process may open enough files."""
    if limit == resource.RLIM_INFINITY:
        return findings.ok("open files", "no limit")
    found = f"a process may have {limit:,} at once"
    return findings.warning("open files", found, f"ulimit -n {_FEW_FILES}") if limit < _FEW_FILES else findings.ok("open files", found)


def _show(gpu: Gpu) -> str:
    if gpu.memory_mb is None:
        return gpu.name
    return f"{gpu.name} with {entries.show_size(gpu.memory_mb * _MIB)}, {entries.show_size(gpu.free_mb * _MIB)} free"


def _num_cuda_packages() -> int:
    return len({name for each in importlib.metadata.distributions() if (name := each.name or "").lower().startswith("nvidia-")})


#: on these the locks of SQLite do not hold
_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "lustre", "ceph", "fuse.ceph", "gluster", "fuse.gluster", "beegfs", "gpfs", "afs")
_FULL_BYTES = 200 * 2**20
_SCARCE_BYTES = 2 * 2**30


class Mount(Protocol):
    """A mounted file system, as psutil tells of it."""

    @property
    def mountpoint(self) -> str:
        """The folder at which it is seen."""

    @property
    def fstype(self) -> str:
        """Its kind."""


def nearest(path: Path) -> Path:
    """The path, or the first folder above it that is there."""
    whole = path.absolute()
    return next(there for there in (whole, *whole.parents) if there.exists())


def kind(path: Path) -> str:
    """The kind of file system that holds a path; empty if it is not known."""
    return kind_among(nearest(path).resolve(), psutil.disk_partitions(all=True))


def kind_among(path: Path, mounts: Iterable[Mount]) -> str:
    """The kind of the innermost of the mounts that holds a path; of two at one place, the later one hides the other."""
    holding = [mount for mount in mounts if path.is_relative_to(mount.mountpoint)]
    # `max` takes the first of equals
    return max(reversed(holding), key=lambda mount: len(Path(mount.mountpoint).parts)).fstype if holding else ""


def is_network(kind: str) -> bool:
    """Whether a kind of file system lies on another machine."""
    return kind.lower().startswith(_NETWORK)


def space(subject: str, path: Path) -> Finding:
    """How much is free where a path lies."""
    return judge_space(subject, nearest(path), shutil.disk_usage(nearest(path)).free)


def judge_space(subject: str, folder: Path, free_bytes: int) -> Finding:
    """Whether so much is enough."""
    found = f"{entries.show_size(free_bytes)} free on the disk of {folder}"
    if free_bytes < _FULL_BYTES:
        return findings.problem(subject, found, "make room there")
    if free_bytes < _SCARCE_BYTES:
        return findings.warning(subject, found, f"make room there; a study needs {entries.show_size(_SCARCE_BYTES)} or more")
    return findings.ok(subject, found)


def writable(subject: str, folder: Path, option: str) -> Iterator[Finding]:
    """Whether files can be made in a folder, by making one; one that is not there is not made, but it must be possible."""
    cure = f"let this user write it, or name another folder with {option}"
    there = nearest(folder)
    if not there.is_dir():
        yield findings.problem(subject, f"{there} is a file", f"name a folder with {option}")
    elif there != folder.absolute():
        if os.access(there, os.W_OK | os.X_OK):
            yield findings.ok(subject, f"{folder} is not there yet and can be made in {there}")
        else:
            yield findings.problem(subject, f"{folder} is not there, and {there} cannot be written", cure)
    else:
        try:
            _write(folder)
        except OSError as error:
            yield findings.problem(subject, f"{folder} cannot be written: {error.strerror or error}", cure)
        else:
            yield findings.ok(subject, f"{folder} can be written")


def _write(folder: Path) -> None:
    """Write, flush, rename and delete a file, as what is kept there is written."""
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


_NAMED = ("optuna", "keras", "tensorflow", "optuna-dashboard")


def look() -> Iterator[Finding]:
    """Versions, and packages that are missing or of a wrong version."""
    versions = [f"Python {platform.python_version()}", f"tuner {tuner.__version__}"]
    versions += [f"{name} {version}" for name in _NAMED if (version := _version(name))]
    found = wording.listed(versions)
    try:
        asked = importlib.metadata.requires("tuner") or []
    except importlib.metadata.PackageNotFoundError:
        yield findings.note("packages", f"{found}; tuner itself is not installed, so what it asks for is not known")
        return
    wrong = mismatches(asked)
    if wrong:
        cure = "install tuner again into an environment of its own: pip install --editable ."
        yield findings.problem("packages", f"{found}; {wording.listed(wrong)}", cure)
    else:
        yield findings.ok("packages", found)


def mismatches(asked: Iterable[str]) -> list[str]:
    """`keras is 2.1, and tuner needs keras>=3` for each requirement that the installed packages do not meet; extras are left out."""
    found = []
    for requirement in map(Requirement, asked):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            found.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, and tuner needs {requirement.specifier}")
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
