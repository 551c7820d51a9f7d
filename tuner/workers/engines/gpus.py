"""GPUs: which ones this process may use, found without TensorFlow, and the share of one that each worker gets."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuner.errors import RequestError

#: part of a GPU's memory that all its workers together may use; CUDA needs the rest outside of TensorFlow
_MEMORY_SHARE = 0.9
_QUERY = ("--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS = 30.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    #: as CUDA_VISIBLE_DEVICES names it
    name: str
    #: MiB; None if the driver does not report it
    memory_mb: int | None
    #: unused MiB
    free_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class GpuShare:
    """The share of a GPU that a worker uses."""

    #: as CUDA_VISIBLE_DEVICES names it
    gpu: str
    #: MiB that its trainer may use; None: no limit
    memory_mb: int | None = None


def find(*, timeout_seconds: float = _TIMEOUT_SECONDS) -> tuple[Gpu, ...]:
    """Return the GPUs of this machine that CUDA_VISIBLE_DEVICES shows, the one with the most free memory first.

    There are none if nvidia-smi does not answer in time.
    """
    visible = os.environ.get(_VISIBLE)
    if shutil.which("nvidia-smi") is None or visible == "":
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", *_QUERY], capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    gpus = read(listed.stdout, visible) if listed.returncode == 0 else ()
    return tuple(sorted(gpus, key=lambda gpu: -gpu.free_mb))


def read(output: str, visible: str | None) -> tuple[Gpu, ...]:
    """Read the output of nvidia-smi; return the GPUs in CUDA_VISIBLE_DEVICES, all if it is None. An unknown name hides all later GPUs."""
    by_index = dict(_rows(output))
    if visible is None:
        return tuple(by_index.values())
    shown = (_named(name.strip(), by_index) for name in visible.split(","))
    return tuple(gpu for gpu in itertools.takewhile(lambda gpu: gpu is not None, shown) if gpu is not None)


def _named(name: str, by_index: Mapping[str, Gpu]) -> Gpu | None:
    """Return the GPU with an index, a name or the start of a name, or a MIG slice; None if there is none."""
    if name.startswith("MIG-"):
        return Gpu(name=name, memory_mb=None)
    return by_index.get(name) or next((gpu for gpu in by_index.values() if name and gpu.name.startswith(name)), None)


def _rows(output: str) -> Iterator[tuple[str, Gpu]]:
    for line in output.splitlines():
        match [part.strip() for part in line.split(",")]:
            case [index, uuid, total, free]:
                memory_mb = int(total) if total.isdigit() else None
                yield index, Gpu(name=uuid, memory_mb=memory_mb, free_mb=int(free) if free.isdigit() else 0)


def shares(gpus: Sequence[Gpu], *, slots: int | None, num_workers: int | None) -> tuple[GpuShare | None, ...]:
    """Return the GPU share of each worker, `slots` workers on each GPU; None for a worker on the CPU.

    Without `num_workers`, every slot gets a worker; without a GPU, there is one worker.

    Raises:
        RequestError: there is no GPU for the slots, or there are fewer slots than workers.
    """
    if not gpus:
        if slots is not None and slots > 1:
            cure = "check that nvidia-smi lists it and that CUDA_VISIBLE_DEVICES does not hide it, or drop the option"
            raise RequestError(f"--slots-per-gpu is {slots}, but no GPU was found; {cure}.")
        return (None,) * (num_workers or 1)
    slots = slots or 1
    num_slots = slots * len(gpus)
    wanted = num_workers or num_slots
    if wanted > num_slots:
        given = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''} with {slots} {'slots' if slots > 1 else 'slot'} each hold {num_slots}"
        needed = -(-wanted // len(gpus))
        cure = f"set --slots-per-gpu {needed}, or hide the GPUs with {_VISIBLE}= to train on the CPU"
        raise RequestError(f"--workers is {wanted}, but {given}; {cure}.")
    return tuple(_share(gpus[number % len(gpus)], slots) for number in range(wanted))


def part(gpu: Gpu, share: float) -> GpuShare:
    """Return a share of a GPU and of its memory; 1 is the whole GPU.

    Raises:
        RequestError: its memory is unknown.
    """
    if share >= 1:
        return GpuShare(gpu=gpu.name)
    if gpu.memory_mb is None:
        raise RequestError(f"--gpus-per-worker is {share:g}, but nvidia-smi does not report the memory of {gpu.name}; set it to 1.")
    return GpuShare(gpu=gpu.name, memory_mb=int(gpu.memory_mb * _MEMORY_SHARE * share))


def _share(gpu: Gpu, slots: int) -> GpuShare:
    if slots == 1:
        return GpuShare(gpu=gpu.name)
    if gpu.memory_mb is None:
        raise RequestError(f"--slots-per-gpu is {slots}, but nvidia-smi does not report the memory of {gpu.name}; set it to 1.")
    return GpuShare(gpu=gpu.name, memory_mb=int(gpu.memory_mb * _MEMORY_SHARE / slots))


def environment(given: Mapping[str, str], share: GpuShare | None) -> dict[str, str]:
    """Return an environment in which a process sees only the GPU of its share."""
    return dict(given) if share is None else dict(given) | {_VISIBLE: share.gpu}
