"""The GPUs that this process may use, found without TensorFlow, and the part of one that each worker gets."""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuner.errors import RequestError

#: part of a GPU's memory that its workers may take together; the rest is for what CUDA keeps beside TensorFlow
_MEMORY_SHARE = 0.9
_QUERY = ("--query-gpu=index,uuid,memory.total,memory.free", "--format=csv,noheader,nounits")
_PATIENCE_SECONDS = 30.0
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU."""

    #: as CUDA_VISIBLE_DEVICES names it
    name: str
    #: MiB; None where the driver does not tell
    memory_mb: int | None
    #: MiB that nothing uses now
    free_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class GpuShare:
    """What a worker gets of a GPU."""

    #: as CUDA_VISIBLE_DEVICES names it
    gpu: str
    #: MiB that its trainer may take; None: what it needs, as it needs it
    memory_mb: int | None = None


def found() -> tuple[Gpu, ...]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES does not hide, the one with the most free memory first."""
    visible = os.environ.get(_VISIBLE)
    if shutil.which("nvidia-smi") is None or visible == "":
        return ()
    try:
        told = subprocess.run(["nvidia-smi", *_QUERY], capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    gpus = read(told.stdout, visible) if told.returncode == 0 else ()
    return tuple(sorted(gpus, key=lambda gpu: -gpu.free_mb))


def read(told: str, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that nvidia-smi told of, as far as CUDA_VISIBLE_DEVICES shows them: None is all; an unknown one hides what follows."""
    by_index = dict(_rows(told))
    if visible is None:
        return tuple(by_index.values())
    shown = (_named(name.strip(), by_index) for name in visible.split(","))
    return tuple(gpu for gpu in itertools.takewhile(lambda gpu: gpu is not None, shown) if gpu is not None)


def _named(name: str, by_index: Mapping[str, Gpu]) -> Gpu | None:
    """A GPU by its index, by its name or the beginning of it, or a slice of one."""
    if name.startswith("MIG-"):
        return Gpu(name=name, memory_mb=None)
    return by_index.get(name) or next((gpu for gpu in by_index.values() if name and gpu.name.startswith(name)), None)


def _rows(told: str) -> Iterator[tuple[str, Gpu]]:
    for line in told.splitlines():
        match [part.strip() for part in line.split(",")]:
            case [index, uuid, total, free]:
                memory_mb = int(total) if total.isdigit() else None
                yield index, Gpu(name=uuid, memory_mb=memory_mb, free_mb=int(free) if free.isdigit() else 0)


def places(gpus: Sequence[Gpu], *, slots: int | None, num_workers: int | None) -> tuple[GpuShare | None, ...]:
    """The place of each worker: one GPU after another, `slots` workers on each; None is a place on the cores.

    Without `num_workers` there are as many as find a place, without a GPU one.

    Raises:
        RequestError: there is no GPU for the slots, or there are fewer slots than workers.
    """
    if not gpus:
        if slots is not None and slots > 1:
            cure = "check that nvidia-smi lists it and that CUDA_VISIBLE_DEVICES does not hide it, or leave the option out"
            raise RequestError(f"--slots-per-gpu is {slots}, but no GPU found; {cure}.")
        return (None,) * (num_workers or 1)
    slots = slots or 1
    num_places = slots * len(gpus)
    wanted = num_workers or num_places
    if wanted > num_places:
        given = f"{len(gpus)} GPU{'s' if len(gpus) > 1 else ''} with {slots} {'slots' if slots > 1 else 'slot'} each hold {num_places}"
        needed = -(-wanted // len(gpus))
        cure = f"give --slots-per-gpu {needed}, or hide the GPUs with {_VISIBLE}= to train on the cores"
        raise RequestError(f"--workers is {wanted}, but {given}; {cure}.")
    return tuple(_place(gpus[number % len(gpus)], slots) for number in range(wanted))


def part(gpu: Gpu, share: float) -> GpuShare:
    """A share of a GPU, and as much of its memory; 1 is the GPU as a whole.

    Raises:
        RequestError: nothing is known of its memory.
    """
    if share >= 1:
        return GpuShare(gpu=gpu.name)
    if gpu.memory_mb is None:
        raise RequestError(f"--gpus-per-worker is {share:g}, but nvidia-smi does not tell the memory of {gpu.name}; give it 1.")
    return GpuShare(gpu=gpu.name, memory_mb=int(gpu.memory_mb * _MEMORY_SHARE * share))


def _place(gpu: Gpu, slots: int) -> GpuShare:
    if slots == 1:
        return GpuShare(gpu=gpu.name)
    if gpu.memory_mb is None:
        raise RequestError(f"--slots-per-gpu is {slots}, but nvidia-smi does not tell the memory of {gpu.name}; give it 1.")
    return GpuShare(gpu=gpu.name, memory_mb=int(gpu.memory_mb * _MEMORY_SHARE / slots))


def environment(given: Mapping[str, str], place: GpuShare | None) -> dict[str, str]:
    """An environment in which a process sees no GPU but that of its place."""
    return dict(given) if place is None else dict(given) | {_VISIBLE: place.gpu}
