"""Real processes of the command `tuner`, with real or rehearsed trainers."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance import waiting_tuner
from tests.waiting import WaitPoint
from tuner.cli import main
from tuner.storage import engine as storages
from tuner.studies import study as studies

REHEARSED = (sys.executable, str(Path(__file__).with_name("rehearsed_tuner.py")))
WAITING = (sys.executable, str(Path(__file__).with_name("waiting_tuner.py")))
REAL = (sys.executable, "-m", "tuner")


class Command:
    """A `tuner` process whose lines are read while it runs."""

    def __init__(self, folder: Path, command: Sequence[str], **variables: str) -> None:
        """`variables`: of the environment."""
        self.lines: list[str] = []
        environment = dict(os.environ) | {"TUNER_CACHE": str(folder / "cache")} | variables
        environment.pop("TUNER_STORAGE", None)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, *words: str) -> str:
        """Wait for a line of stderr that contains all the words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if all(word in line for word in words):
                return line
        raise AssertionError(f"no line with {words} in:\n" + "\n".join(self.lines))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def trainer(self) -> psutil.Process:
        """The only trainer of a command whose trainers wait at points."""
        (found,) = [member for member in self.family() if waiting_tuner.TRAINER in member.cmdline()]
        return found

    def family(self) -> list[psutil.Process]:
        """Every process below this one."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> tuple[int, str]:
        """Wait for the end; exit code and stdout. What came on stderr meanwhile is among the lines."""
        out, err = self.process.communicate()
        self.lines += err.splitlines()
        return self.process.returncode, out


class Place:
    """A folder in which commands run, with one study file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commands: list[Command] = []

    def write(self, **sections: Any) -> None:
        """Write study.yaml; JSON is YAML."""
        given = {
            "name": "study",
            "data": {"source": "digits"},
            "training": {"probe_epochs": 2, "promote": 1.0},
            "sampler": "random",
            "pruner": "none",
        }
        (self.folder / "study.yaml").write_text(json.dumps(given | sections))

    def tuner(self, *arguments: str, script: dict[str, Any] | None = None) -> Command:
        """Start a command whose trainers play a script."""
        return self._start(*REHEARSED, *arguments, REHEARSAL=json.dumps(script or {"epoch_seconds": 0.02}))

    def real_tuner(self, *arguments: str, waits_at: Sequence[WaitPoint] = ()) -> Command:
        """Start a command whose trainers train, and wait after the epochs of the points."""
        if not waits_at:
            return self._start(*REAL, *arguments)
        points = {point: file for each in waits_at for point, file in each.at.items()}
        return self._start(*WAITING, *arguments, TRAINER_WAITS_AT=json.dumps(points))

    def here(self, *arguments: str) -> tuple[int, str, list[str]]:
        """Run a command in this process, which is faster; its workers and trainers are others. Exit code, stdout and lines of stderr."""
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patched,
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patched.delenv("TUNER_STORAGE", raising=False)
            patched.setenv("TUNER_CACHE", str(self.folder / "cache"))
            code = main.main([*arguments])
        return code, out.getvalue(), err.getvalue().splitlines()

    def wait_point(self, *points: str) -> WaitPoint:
        """Points at which trainers wait until the test lets them go on."""
        return WaitPoint(self.folder, *points)

    def states(self) -> list[str]:
        """The state of each trial of the study, in order."""
        storage = storages.open(f"sqlite:///{self.folder / 'tuner.db'}")
        found = [trial.state.name for trial in studies.load("study", storage).optuna.get_trials(deepcopy=False)]
        storage.engine.dispose()
        return found

    def _start(self, *arguments: str, **variables: str) -> Command:
        command = Command(self.folder, arguments, **variables)
        self._commands.append(command)
        return command

    def clear(self) -> None:
        """Leave no process behind."""
        for command in self._commands:
            if command.process.poll() is None:
                family = command.family()
                command.process.kill()
                for member in family:
                    member.kill()
            command.process.communicate()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, list[str]]]:
    """Give the folder of a study that two workers finished, and the exit code, stdout and lines of that run."""
    made = Place(tmp_path_factory.mktemp("finished"))
    made.write(budget={"trials": 4})
    run = made.tuner("run", "study.yaml", "--workers", "2")
    code, out = run.end()
    return made.folder, (code, out, run.lines)


@pytest.fixture
def finished(first_run: tuple[Path, tuple[int, str, list[str]]], tmp_path: Path) -> Iterator[Place]:
    """Give a copy of a finished study."""
    made = Place(shutil.copytree(first_run[0], tmp_path / "copy"))
    yield made
    made.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.write(budget={"trials": 4})
    yield made
    made.clear()


def wait_until_gone(processes: list[psutil.Process], timeout_seconds: float = 20) -> None:
    """Wait for the end of processes that are not child processes of the test."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_seconds)
    assert not alive


@pytest.fixture
def gone() -> Callable[[list[psutil.Process]], None]:
    return wait_until_gone
