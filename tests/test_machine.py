"""Machine: the limits of a container, read from the kernel's cgroup files."""

from pathlib import Path

import pytest

from tuner import machine


@pytest.mark.parametrize(("text", "cores"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("400000 100000\n", 4.0), ("", None)])
def test_the_cores_of_a_container_are_its_quota_divided_by_its_period(text: str, cores: float | None) -> None:
    assert machine.read_cores(text) == cores


@pytest.mark.parametrize(("text", "granted"), [("max\n", None), ("2147483648\n", 2**31), ("", None)])
def test_the_memory_of_a_container_is_read(text: str, granted: int | None) -> None:
    assert machine.read_memory_bytes(text) == granted


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("0::/\n", ["."]),
        ("12:cpu:/old\n0::/user.slice/app.scope\n", ["user.slice/app.scope", "user.slice", "."]),
        ("0::/../other\n", ["."]),
        ("12:cpu:/old\n", ["."]),
    ],
)
def test_parent_cgroups_are_read_too(own: str, expected: list[str]) -> None:
    root = Path("/cgroups")
    assert list(dict.fromkeys(machine.folders(own, root))) == [root / path for path in expected]


def test_the_smallest_limit_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("0::/box\n")
    (tmp_path / "box").mkdir()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "box" / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**20}\n")
    (tmp_path / "box" / "memory.max").write_text("max\n")
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    assert machine.num_cores() == 1
    assert machine.memory_bytes() == 2**20
