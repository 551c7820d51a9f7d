"""This machine into whether its GPUs, cores and memory can be used, and for how many workers."""

import importlib.metadata
import os
import resource
import shutil
from collections.abc import Iterator, Sequence

import psutil

from tuner import machine
from tuner.data import room
from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.workers import gpus
from tuner.workers.gpus import Gpu

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
        found = f"{room.show_size(swap.used)} of {room.show_size(swap.total)} in use"
        yield findings.warning("swap", found, "end other programs or use fewer workers; training from swap is slow")
    yield judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def judge_memory(num_cores: int, memory_bytes: int, available_bytes: int) -> Finding:
    """For how many workers that is enough."""
    num_workers = int(memory_bytes / WORKER_BYTES)
    cores = f"{num_cores} core{'' if num_cores == 1 else 's'}"
    found = f"{cores}, {room.show_size(memory_bytes)} of memory, {room.show_size(available_bytes)} free"
    if num_workers < 1:
        return findings.warning("machine", found, f"a worker takes about {room.show_size(WORKER_BYTES)}; give this machine more memory")
    if available_bytes < WORKER_BYTES:
        return findings.warning("machine", found, f"a worker takes about {room.show_size(WORKER_BYTES)}; end other programs first")
    each = f"about {room.show_size(WORKER_BYTES)} each"
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
    return f"{gpu.name} with {room.show_size(gpu.memory_mb * _MIB)}, {room.show_size(gpu.free_mb * _MIB)} free"


def _num_cuda_packages() -> int:
    return len({name for each in importlib.metadata.distributions() if (name := each.name or "").lower().startswith("nvidia-")})
