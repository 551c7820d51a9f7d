"""GPUs, found by a fake nvidia-smi, and their shares."""

import os
from pathlib import Path

import pytest

from tuner.errors import RequestError
from tuner.workers.engines import gpus
from tuner.workers.engines.gpus import Gpu, GpuShare

TOLD = """0, GPU-aaaa-1, 81559, 1000
1, GPU-bbbb-2, 40960, 40000
2, GPU-cccc-3, [N/A], [N/A]
"""
FIRST, SECOND = Gpu(name="GPU-aaaa-1", memory_mb=81559, free_mb=1000), Gpu(name="GPU-bbbb-2", memory_mb=40960, free_mb=40000)
THIRD = Gpu(name="GPU-cccc-3", memory_mb=None)


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (None, (FIRST, SECOND, THIRD)),
        ("1", (SECOND,)),
        (" 2 , 0", (THIRD, FIRST)),
        # the start of its name is sufficient
        ("GPU-bbbb", (SECOND,)),
        # an unknown name hides all later GPUs
        ("0,7,1", (FIRST,)),
        ("-1", ()),
        ("", ()),
        ("MIG-dddd-4", (Gpu(name="MIG-dddd-4", memory_mb=None),)),
    ],
)
def test_cuda_visible_devices_shows_and_hides(visible: str | None, shown: tuple[Gpu, ...]) -> None:
    assert gpus.read(TOLD, visible) == shown


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake nvidia-smi first on the PATH; it lists three GPUs if its arguments are right."""
    program = tmp_path / "nvidia-smi"
    asked = "--query-gpu=index,uuid,memory.total,memory.free --format=csv,noheader,nounits"
    program.write_text(f'#!/bin/sh\n[ "$*" = "{asked}" ] || exit 2\ncat <<END\n{TOLD}END\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_the_gpus_of_nvidia_smi_are_sorted_by_free_memory(fake: Path) -> None:
    assert gpus.find() == (SECOND, FIRST, THIRD)


def test_a_machine_whose_gpus_are_hidden_has_none(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.find() == ()


@pytest.mark.parametrize("script", ["exit 9", "echo 'NVIDIA-SMI has failed: no driver'", "kill -9 $$"])
def test_a_driver_that_fails_means_no_gpu(fake: Path, script: str) -> None:
    fake.write_text(f"#!/bin/sh\n{script}\n")
    assert gpus.find() == ()


def test_a_driver_that_hangs_means_no_gpu(fake: Path) -> None:
    fake.write_text("#!/bin/sh\nexec cat /dev/zero >/dev/null\n")
    assert gpus.find(timeout_seconds=0.01) == ()


def test_a_machine_without_nvidia_smi_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.find() == ()


@pytest.mark.parametrize(
    ("slots", "num_workers", "placed"),
    [
        # a trainer alone on its GPU has no limit
        (None, None, (GpuShare(gpu="GPU-aaaa-1"), GpuShare(gpu="GPU-bbbb-2"))),
        (1, 1, (GpuShare(gpu="GPU-aaaa-1"),)),
        # a third of 0.9 of the memory for each
        (
            3,
            3,
            (
                GpuShare(gpu="GPU-aaaa-1", memory_mb=24467),
                GpuShare(gpu="GPU-bbbb-2", memory_mb=12288),
                GpuShare(gpu="GPU-aaaa-1", memory_mb=24467),
            ),
        ),
    ],
)
def test_workers_are_placed_on_one_gpu_after_another(slots: int | None, num_workers: int | None, placed: tuple[GpuShare, ...]) -> None:
    assert gpus.shares((FIRST, SECOND), slots=slots, num_workers=num_workers) == placed


def test_without_a_number_of_workers_every_slot_has_one() -> None:
    assert len(gpus.shares((FIRST, SECOND), slots=4, num_workers=None)) == 8


@pytest.mark.parametrize(("num_workers", "expected"), [(None, 1), (3, 3)])
def test_without_a_gpu_workers_train_on_the_cpu(num_workers: int | None, expected: int) -> None:
    assert gpus.shares((), slots=1, num_workers=num_workers) == (None,) * expected


def test_slots_on_a_machine_without_a_gpu_are_refused() -> None:
    with pytest.raises(RequestError, match="--slots-per-gpu is 2, but no GPU was found; check that nvidia-smi lists it"):
        gpus.shares((), slots=2, num_workers=None)


def test_more_workers_than_slots_are_refused_with_the_number_of_slots_needed() -> None:
    message = "--workers is 5, but 2 GPUs with 1 slot each hold 2; set --slots-per-gpu 3, or hide the GPUs with CUDA_VISIBLE_DEVICES="
    with pytest.raises(RequestError, match=message):
        gpus.shares((FIRST, SECOND), slots=None, num_workers=5)


def test_a_gpu_of_unknown_memory_is_not_shared() -> None:
    assert gpus.shares((THIRD,), slots=1, num_workers=None) == (GpuShare(gpu="GPU-cccc-3"),)
    with pytest.raises(RequestError, match="does not report the memory of GPU-cccc-3"):
        gpus.shares((THIRD,), slots=2, num_workers=None)


def test_a_process_sees_only_the_gpu_of_its_share() -> None:
    assert gpus.environment({"HOME": "/", "CUDA_VISIBLE_DEVICES": "0,1"}, GpuShare(gpu="GPU-bbbb-2")) == {
        "HOME": "/",
        "CUDA_VISIBLE_DEVICES": "GPU-bbbb-2",
    }
    assert gpus.environment({"HOME": "/"}, None) == {"HOME": "/"}


@pytest.mark.parametrize(("share", "memory_mb"), [(1.0, None), (0.5, 4500), (0.1, 900)])
def test_a_share_of_a_gpu_includes_the_same_share_of_its_memory(share: float, memory_mb: int | None) -> None:
    assert gpus.part(Gpu(name="GPU-aaaa", memory_mb=10000), share) == GpuShare(gpu="GPU-aaaa", memory_mb=memory_mb)
