"""Real processes of the command `tuner`, with real or rehearsed trainers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tuner.storage import engine as storages
from tuner.studies import study as studies

REHEARSED = (sys.executable, str(Path(__file__).with_name("rehearsed_tuner.py")))
REAL = (sys.executable, "-m", "tuner")


class Command:
    """A `tuner` process whose lines are read while it runs."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], *, script: dict[str, Any] | None) -> None:
        self.lines: list[str] = []
        environment = dict(os.environ) | {"TUNER_CACHE": str(folder / "cache"), "REHEARSAL": json.dumps(script or {})}
        environment.pop("TUNER_STORAGE", None)
        self.process = subprocess.Popen(
            [*(REAL if script is None else REHEARSED), *arguments],
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
        return self._start(arguments, script or {"epoch_seconds": 0.02})

    def real_tuner(self, *arguments: str) -> Command:
        """Start a command whose trainers train."""
        return self._start(arguments, None)

    def states(self) -> list[str]:
        """The state of each trial of the study, in order."""
        storage = storages.open(f"sqlite:///{self.folder / 'tuner.db'}")
        found = [trial.state.name for trial in studies.load("study", storage).optuna.get_trials(deepcopy=False)]
        storage.engine.dispose()
        return found

    def _start(self, arguments: tuple[str, ...], script: dict[str, Any] | None) -> Command:
        command = Command(self.folder, arguments, script=script)
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
