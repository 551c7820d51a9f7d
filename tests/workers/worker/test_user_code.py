"""User code in a real trainer process: it ends its trial at worst, never the worker."""

import re
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import databases
from tuner.errors import StudyError
from tuner.spec import file as study_file
from tuner.storage import engine as storages
from tuner.storage.attributes import CODE, LOG, MESSAGE
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import ChildTrainer, Limits, WarmTrainer
from tuner.workers.worker.worker import Worker

#: what each trial does, and how it ends: its state and the start of its message
TRIALS = [
    ("sys.exit(2)", "FAIL", "SystemExit: the code called sys.exit(2), which would end the trainer"),
    ("os._exit(3)", "FAIL", "the training process left with exit code 3"),
    ("raise ValueError('no data')", "FAIL", "ValueError: no data (mine.py, line "),
    ("fork_and_die()", "FAIL", "the training process left with exit code 4"),
    ("endless()", "FAIL", "the code reported nothing for "),
    ("bytearray(1 << 62)", "FAIL", "MemoryError: the code needs more memory than it can get"),
    ("ask_in_a_fork(trial)", "COMPLETE", ""),
    ("recurse(0)", "FAIL", "RecursionError: maximum recursion depth exceeded"),
    ("os.kill(os.getpid(), 9)", "FAIL", "the training process was killed (SIGKILL: often the machine ran out of memory)"),
    ("print('still here')", "COMPLETE", ""),
]
CODE_FILE = """
import os, sys, time

def fork_and_die():
    child = os.fork()
    if child == 0:
        time.sleep(600)
    with open({pids!r}, "a") as file:
        file.write(f"{{child}}\\n")
    os._exit(4)

def endless():
    while True:
        pass

def ask_in_a_fork(trial):
    child = os.fork()
    if child == 0:
        trial.suggest_float("x", 0, 1)
    os.waitpid(child, 0)

def recurse(depth):
    return recurse(depth + 1)

def objective(trial):
    print("trial", trial.number, "begins")
{branches}
    return float(trial.number)
"""


def join(folder: Path, code: str, **sections: Any) -> Study:
    (folder / "mine.py").write_text(textwrap.dedent(code))
    given = {"name": "mine", "task": "objective", "function": "mine.py:objective", "objective": "minimize", "sampler": "random"}
    spec = study_file.parse(given | sections, "study.yaml", folder)
    return studies.join(spec, storages.open(databases.sqlite(folder)))


def work(study: Study, folder: Path, limits: Limits, *, accept_code: bool = False) -> list[Event]:
    """Be a worker with a real trainer until it ends."""
    events: list[Event] = []
    trainer = WarmTrainer(lambda: ChildTrainer(threads=1, log=folder / "trainer.log", with_keras=False), limits, Stopping())
    folders = Folders(cache=folder / "cache", artifacts=folder / "artifacts")
    worker = Worker(study, trainer, identity=trials.WorkerId.here("w1"), folders=folders, stopping=Stopping(), tell=events.append)
    worker.run(accept_code=accept_code)
    return events


def test_no_code_ends_its_worker(tmp_path: Path) -> None:
    branches = "\n".join(f"    if trial.number == {number}:\n        {code}" for number, (code, _, _) in enumerate(TRIALS))
    pids = tmp_path / "pids"
    study = join(tmp_path, CODE_FILE.format(pids=str(pids), branches=branches), budget={"trials": len(TRIALS)})
    events = work(study, tmp_path, Limits(stall_seconds=3.0))
    found = study.optuna.get_trials(deepcopy=False)
    assert [trial.state.name for trial in found] == [state for _, state, _ in TRIALS]
    for trial, (code, _, message) in zip(found, TRIALS, strict=True):
        assert trial.user_attrs.get(MESSAGE, "").startswith(message), code
        assert "tuner/trainer" not in trial.user_attrs.get(MESSAGE, "")
    assert "(it is at mine.py, line " in found[4].user_attrs[MESSAGE]
    assert re.search(r"in objective; mine.py, line \d+, in endless\); look for an endless loop", found[4].user_attrs[MESSAGE])
    assert found[4].system_attrs[LOG].endswith("trial 4 begins")
    assert found[2].system_attrs[LOG].startswith("trial 2 begins\nTraceback of your code (most recent call last):\n")
    assert "tuner/" not in found[2].system_attrs[LOG]
    assert found[9].system_attrs[LOG] == "trial 9 begins\nstill here\n"
    assert len({trial.user_attrs[CODE] for trial in found}) == 1
    assert events[-1].what is EventKind.ENDED
    (failure,) = [event.message for event in events if event.what is EventKind.FAILED and event.trial == 2]
    assert failure.startswith("ValueError: no data (mine.py, line ")
    assert not [pid for pid in map(int, pids.read_text().split()) if _is_running(pid)]


def test_a_loop_without_an_end_ends_at_the_time_limit_of_a_trial_and_is_not_tried_again(tmp_path: Path) -> None:
    code = "def objective(trial):\n    while trial.number == 0:\n        pass\n    return 1.0\n"
    study = join(tmp_path, code, budget={"trials": 2, "trial_timeout": "1s"})
    events = work(study, tmp_path, Limits(obey_seconds=2.0))
    assert [trial.state.name for trial in study.optuna.get_trials()] == ["FAIL", "COMPLETE"]
    (failure,) = [event.message for event in events if event.what is EventKind.FAILED]
    reason = "it reached the time limit of 1.0 s for one trial (budget.trial_timeout); the code was at mine.py, line "
    assert failure.startswith(f"TrialTimeout: {reason}")
    assert [event.trial for event in events if event.what is EventKind.STARTED] == [0, 1]
    assert not [event for event in events if event.what in (EventKind.RESUMED, EventKind.REPLACED)]


def test_changed_code_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    code = "def objective(trial):\n    units = 64\n    return float(units)\n"
    work(join(tmp_path, code, budget={"trials": 1}), tmp_path, Limits())
    study = join(tmp_path, code.replace("64", "128"), budget={"trials": 2})
    with pytest.raises(StudyError) as raised:
        work(study, tmp_path, Limits())
    text = str(raised.value)
    assert text.startswith(
        "the code of the study mine differs here from the code that its trials ran:\n  mine.py: 1 line added, 1 removed (SHA"
    )
    assert "\n    -     units = 64\n    +     units = 128\n" in text
    assert "Restore the file, or start a new study under another name. To continue with the file as it is here, add --accept-code" in text
    events = work(study, tmp_path, Limits(), accept_code=True)
    (told,) = [event.message for event in events if event.what is EventKind.TROUBLE]
    assert told.startswith("the study continues with changed code, accepted by --accept-code: mine.py: 1 line added, 1 removed")
    first, second = (trial.user_attrs[CODE] for trial in study.optuna.get_trials())
    assert first != second
    assert len(first) == len(second) == 12
    again = join(tmp_path, code.replace("64", "128"), budget={"trials": 3})
    assert [event.what for event in work(again, tmp_path, Limits()) if event.trial == 2][-1] is EventKind.COMPLETED


def test_threads_and_prints_of_a_failed_trial_reach_the_user(tmp_path: Path) -> None:
    code = """
        import threading
        ended = threading.Event()
        def objective(trial):
            threading.Thread(target=ended.wait, name="logger").start()
            print("the rate is", 3)
            return None
    """
    study = join(tmp_path, code, budget={"trials": 1})
    events = work(study, tmp_path, Limits())
    (warning,) = [event for event in events if event.what is EventKind.TROUBLE]
    assert (warning.trial, warning.message.startswith("the code left 1 thread running (logger)")) == (0, True)
    (trial,) = study.optuna.get_trials()
    assert trial.system_attrs[LOG].startswith("the rate is 3\n")


def test_a_grid_of_code_tries_each_combination_once(tmp_path: Path) -> None:
    code = "def objective(trial):\n    return trial.suggest_categorical('a', [1, 2, 3]) * 10.0\n"
    study = join(tmp_path, code, search={"a": {"choices": [1, 2, 3]}}, sampler="grid", budget={"trials": None, "timeout": "10m"})
    work(study, tmp_path, Limits())
    assert sorted(trial.value or 0.0 for trial in study.optuna.get_trials()) == [10.0, 20.0, 30.0]


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
