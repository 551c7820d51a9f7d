"""Machine: the limits of a container, read from the kernel's cgroup files."""

import gc
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import waiting
from tuner import machine
from tuner.cli import main


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


class Hand:
    """The hand of a clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_a_clock_stands_still_in_each_long_pause_between_two_readings() -> None:
    hand = Hand()
    clock = machine.AwakeClock(hand, period_seconds=1.0, least_seconds=5.0)
    began = clock.seconds()
    assert clock.slept() == (0.0, math.inf)
    for pause in (1.0, 0.5, 5.9, 1.0):  # a busy machine
        hand.at += pause
        clock.seconds()
    assert clock.slept() == (0.0, math.inf)
    assert clock.seconds() - began == pytest.approx(8.4)
    hand.at += 3601.0
    assert clock.slept()[0] == pytest.approx(3600.0)
    assert clock.slept()[1] == 0.0
    hand.at += 2.0
    assert clock.slept()[0] == pytest.approx(3600.0)
    assert clock.slept()[1] == pytest.approx(2.0)
    hand.at += 101.0
    assert clock.seconds() - began == pytest.approx(12.4)
    assert clock.slept()[0] == pytest.approx(3700.0)


def test_a_clock_that_nobody_reads_takes_no_pause_for_sleep() -> None:
    hand = Hand()
    clock = machine.AwakeClock(hand, period_seconds=1.0, least_seconds=5.0)
    clock.seconds()
    clock.stop()
    hand.at += 3600.0
    assert clock.slept() == (0.0, math.inf)


def test_a_stopped_process_notices_its_sleep_and_no_other(tmp_path: Path) -> None:
    code = """
import sys, time
from tuner import machine
from tuner.cli import main
watch = machine.SleepWatch(period_seconds=0.05, least_seconds=0.5)
with watch.on():
    print("awake", flush=True)
    sys.stdin.readline()
    for clock in (watch.running, watch.passing):
        slept, awake = clock.slept()
        print(round(slept, 1), awake < 60, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "awake\n"
    process.send_signal(signal.SIGSTOP)
    waiting.pass_seconds(2.0)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("go on\n", timeout=60)
    for line in out.splitlines():
        slept, is_recent = line.split()
        assert float(slept) >= 1.5
        assert is_recent == "True"
    assert len(out.splitlines()) == 2


def test_commands_search_for_garbage_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(gc, "set_threshold", asked.append)
    assert main.main(["--version"]) == 0
    assert asked == [50_000]
