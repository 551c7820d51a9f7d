"""The trainer handle, with small child processes without Keras."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from tuner.machine import AwakeClock
from tuner.protocol import messages
from tuner.workers.engines.gpus import GpuShare
from tuner.workers.worker import trainer
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import ChildTrainer, Limits, TrainerDied, TrainerHung, WarmTrainer

PRELUDE = """
import os, sys, time
from multiprocessing.connection import Connection
from tuner.protocol import messages
pipe = Connection(int(sys.argv[1]))
"""
ECHO = """
while True:
    message = messages.decode(pipe.recv_bytes())
    if isinstance(message, messages.Quit):
        break
    pipe.send_bytes(messages.encode(message))
"""


def start(tmp_path: Path, code: str) -> ChildTrainer:
    return ChildTrainer(threads=1, log=tmp_path / "logs" / "child.log", command=(sys.executable, "-c", PRELUDE + code))


def test_a_message_passes_through_the_pipe_and_back(tmp_path: Path) -> None:
    child = start(tmp_path, ECHO)
    child.send(messages.Proceed())
    assert child.receive(30) == messages.Proceed()
    child.close()
    assert not psutil.pid_exists(child.pid)


def test_an_infinite_loss_passes_through_the_pipe(tmp_path: Path) -> None:
    child = start(tmp_path, ECHO)
    epoch = messages.Epoch(
        trial=0, stage=messages.Stage.PROBE, step=1, loss=float("inf"), accuracy=0, validation_loss=float("nan"),
        validation_accuracy=0, learning_rate=1, seconds=1,
    )  # fmt: skip
    child.send(epoch)
    received = child.receive(30)
    child.close()
    assert isinstance(received, messages.Epoch)
    assert received.loss == float("inf")
    assert received.validation_loss != received.validation_loss


def test_receiving_from_a_silent_child_returns_none(tmp_path: Path) -> None:
    child = start(tmp_path, "pipe.recv_bytes()")
    assert child.receive(0.01) is None
    child.kill()


def test_the_memory_of_an_ended_child_is_zero(tmp_path: Path) -> None:
    child = start(tmp_path, ECHO)
    child.send(messages.Proceed())
    assert child.receive(30) == messages.Proceed()  # it has replaced the copy of this process and is not empty
    assert child.memory_bytes() > 2**20
    child.kill()
    assert child.memory_bytes() == 0


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("os._exit(3)", "left with exit code 3"),
        ("os.kill(os.getpid(), 11)", "crashed (signal 11)"),
        ("os.kill(os.getpid(), 9)", "was killed (SIGKILL: often the machine ran out of memory)"),
        ("raise SystemExit(0)", "left with exit code 0"),
    ],
)
def test_the_error_of_a_dead_child_has_its_cause_and_its_last_lines(tmp_path: Path, code: str, cause: str) -> None:
    child = start(tmp_path, f"print('so long', flush=True)\n{code}")
    with pytest.raises(TrainerDied, match="so long") as caught:
        child.receive(30)
    assert caught.value.cause == cause
    child.close()


def test_sending_to_a_dead_child_raises_its_death(tmp_path: Path) -> None:
    child = start(tmp_path, "pipe.close(); os._exit(3)")
    with pytest.raises(TrainerDied):
        child.receive(30)
    with pytest.raises(TrainerDied, match="exit code 3"):
        child.send(messages.Proceed())
    child.kill()


def test_a_child_has_its_own_session(tmp_path: Path) -> None:
    child = start(tmp_path, ECHO)
    assert os.getsid(child.pid) == child.pid
    child.close()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (None, "--threads 1 sees nothing"),
        (GpuShare(gpu="GPU-aaaa"), "--threads 1 --gpu sees GPU-aaaa"),
        (GpuShare(gpu="GPU-bbbb", memory_mb=9000), "--threads 1 --gpu --memory-limit-mb 9000 sees GPU-bbbb"),
    ],
)
def test_a_child_gets_its_share_of_a_gpu_and_sees_no_other(tmp_path: Path, place: GpuShare | None, told: str) -> None:
    code = "import os, sys; print(*sys.argv[2:], 'sees', os.environ.get('CUDA_VISIBLE_DEVICES') or 'nothing')"
    child = ChildTrainer(threads=1, log=tmp_path / "child.log", gpu=place, command=(sys.executable, "-c", code))
    with pytest.raises(TrainerDied, match=told):
        child.receive(30)
    child.close()


def test_a_child_gets_its_memory_limit(tmp_path: Path) -> None:
    code = "import sys; print(*sys.argv[2:])"
    child = ChildTrainer(threads=1, log=tmp_path / "child.log", memory_bytes=2**30, command=(sys.executable, "-c", code))
    with pytest.raises(TrainerDied, match=f"--threads 1 --memory-bytes {2**30}"):
        child.receive(30)
    child.close()


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    assert trainer.last_lines(log).splitlines() == [f"line {number}" for number in range(80, 100)]
    assert trainer.last_lines(tmp_path / "none") == ""


def test_the_start_of_a_crash_report_is_shown_without_the_list_of_modules(tmp_path: Path) -> None:
    log = tmp_path / "log"
    calls = [f'  File "lib.py", line {number} in call' for number in range(40)]
    described = ["Fatal Python error: Segmentation fault", "", "Thread 0x1 (most recent call first):", *calls, "Extension modules: a, b, c"]
    log.write_text("\n".join(["epoch 1", *described]))
    found = trainer.last_lines(log).splitlines()
    assert found == ["epoch 1", "Fatal Python error: Segmentation fault", "Thread 0x1 (most recent call first):", *calls[:17]]


def test_a_trainer_gets_the_import_path_of_the_program(tmp_path: Path) -> None:
    code = PRELUDE + "print(sys.argv[2:], flush=True); pipe.recv_bytes()"
    child = ChildTrainer(threads=1, log=tmp_path / "child.log", command=(sys.executable, "-c", code), import_path=("/home/me/a: b", "/src"))
    child.close()
    assert child.last_lines() == """['--threads', '1', '--import-path', '["/home/me/a: b", "/src"]']"""


def test_the_place_of_the_code_is_read_whole_if_the_child_writes_with_pauses(tmp_path: Path) -> None:
    code = """
import signal
def dump(number, frame):
    for line in ('Thread 0x1 (most recent call first):', '  File "/me/mine.py", line 7 in objective'):
        print(line, flush=True)
        time.sleep(0.3)
signal.signal(signal.SIGUSR1, dump)
pipe.send_bytes(messages.encode(messages.Proceed()))
time.sleep(60)
"""
    child = start(tmp_path, code)
    assert child.receive(30) == messages.Proceed()
    place = child.place()
    child.kill()
    assert place == "mine.py, line 7, in objective"


def test_a_trainer_that_slept_with_its_worker_has_not_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    clock = AwakeClock(lambda: now[0], period_seconds=1.0, least_seconds=5.0)
    monkeypatch.setattr(Rehearsal, "receive", lambda silent, timeout_seconds: None)
    warm = WarmTrainer(lambda: Rehearsal(Script()), Limits(hang_seconds=60.0), Stopping())
    warm.heed_sleep(clock)
    now[0] += 36_000.0
    assert warm.receive() is None
    assert warm.slept_seconds() == pytest.approx(35_999.0)
    for _ in range(58):
        now[0] += 1.0
        assert warm.receive() is None
    now[0] += 2.0
    with pytest.raises(TrainerHung, match="silent for 61 s"):
        warm.receive()
