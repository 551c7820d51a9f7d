"""Mistakes in objectives and in study files of user code: each has one clear message."""

import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.custom.code_of_tests import AnsweringWorker, objective_study, train, write
from tuner import errors, machine
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec import file as study_file
from tuner.tasks.custom.running import objective
from tuner.trust import user_code

#: what the code is, the end of the error's kind, and the message: what happened, what was expected, what to do
IN_A_TRIAL = {
    "an exception": (
        "def objective(trial):\n    rate = 0\n    return 1 / rate",
        "ZeroDivisionError",
        r"ZeroDivisionError: division by zero \(code_\d+.py, line 3, in objective: return 1 / rate\) \(while calling the objective\)",
    ),
    "sys.exit": (
        "import sys\ndef objective(trial):\n    sys.exit(3)",
        "SystemExit",
        r"called sys.exit\(3\), which would end",
    ),
    "KeyboardInterrupt": ("def objective(trial):\n    raise KeyboardInterrupt", "KeyboardInterrupt", "no message"),
    "no memory": ("def objective(trial):\n    bytearray(1 << 62)", "MemoryError", "the code needs more memory than it can get"),
    "returns None": ("def objective(trial):\n    pass", "NotANumber", "returned null; expected one number"),
    "returns a text": ("def objective(trial):\n    return 'good'", "NotANumber", "returned 'good'; expected one number"),
    "returns two": ("def objective(trial):\n    return 0.5, 3", "NotOneValue", "returned 2 values; tuner optimizes one number: return one"),
    "low above high": (
        "def objective(trial):\n    return trial.suggest_float('x', 5, 1)",
        "ValueError",
        r"x has the range \[5, 1\], but the lower end comes first",
    ),
    "log from 0": ("def objective(trial):\n    return trial.suggest_float('x', 0, 1, log=True)", "ValueError", "starts at 0, which a log"),
    "objects as choices": (
        "def objective(trial):\n    return trial.suggest_categorical('x', [object(), 1])",
        "ValueError",
        "x has the choice .*object.*; expected numbers, text, true, false or None",
    ),
    "no choices": ("def objective(trial):\n    return trial.suggest_categorical('x', [])", "ValueError", "x has no choices"),
    "asked twice": (
        "def objective(trial):\n    return trial.suggest_int('n', 1, 4) + trial.suggest_int('n', 1, 8)",
        "ChangedDistribution",
        r"asks twice for n, first with the range \[1.*, 4.*\], then with the range \[1.*, 8.*\]; give both the same values, or one of them",
    ),
    "trial.study": ("def objective(trial):\n    return trial.study.best_value", "AttributeError", "trial.study does not exist here: the"),
    "unknown method": ("def objective(trial):\n    return trial.suggest('x')", "AttributeError", "a trial of tuner has no suggest; it has"),
    "reports a text": ("def objective(trial):\n    trial.report('x', 1)", "TypeError", "the value 'x' was reported; expected a number"),
    "reports tokens as steps": (
        "def objective(trial):\n    trial.report(1.0, 3_000_000_000)",
        "ValueError",
        "the step 3000000000 was reported; expected a whole number from 0 to 2,147,483,647",
    ),
    "key of 600 characters": ("def objective(trial):\n    trial.set_user_attr('k' * 600, 1)", "ValueError", "an attribute has the key"),
    "key with a zero": ("def objective(trial):\n    trial.set_user_attr('k\\0', 1)", "ValueError", "an attribute has the key"),
    "infinite choice": (
        "def objective(trial):\n    trial.suggest_categorical('clip', [1.0, float('inf')])",
        "ValueError",
        "clip has the choice inf, which no database can hold",
    ),
    "attribute without JSON": ("def objective(trial):\n    trial.set_user_attr('a', {1, 2})", "TypeError", "set is not JSON serializable"),
    "missing package": (
        "def objective(trial):\n    import no_such_package",
        "ModuleNotFoundError",
        "No module named 'no_such_package'; install no_such_package for .*, or put its file beside the code",
    ),
    "runs a study": (
        "import tuner\ndef objective(trial):\n    from tuner import errors\n    raise errors.RequestError('tuner.run was called')",
        "RequestError",
        r"^tuner.run was called \(code",
    ),
}

#: what the code is, the function that the file names, and the message
AT_THE_START = {
    "no argument": (
        "def objective():\n    return 1",
        "objective",
        r"which takes no arguments; expected objective\(trial\)",
    ),
    "two arguments": (
        "def objective(trial, data):\n    return 1",
        "objective",
        "which needs trial, data; expected objective.trial",
    ),
    "no function": ("objective = 3", "objective", "which is a int; expected a function objective"),
    "function missing": ("def objectiv(trial):\n    return 1", "objective", r"has no objective. Known: objectiv. Did you mean objectiv\?"),
    "syntax error": (
        "def objective(trial)\n    return 1",
        "objective",
        r"SyntaxError: expected ':' \(code_\d+.py, line 1: def",
    ),
    "exception at import": (
        "table = {}\nrate = table['rate']\ndef objective(trial):\n    return 1",
        "objective",
        r"KeyError: 'rate' \(code_\d+.py, line 2, in <module>: rate = table\['rate'\]\) \(while importing code_\d+.py\)",
    ),
    "sys.exit at import": ("import sys\nsys.exit()", "objective", r"called sys.exit\(None\)"),
    "missing package": ("import no_such_package", "objective", "install no_such_package for"),
    "starts a study": (
        "import tuner\ndef objective(trial):\n    return 1\ntuner.run(None)",
        "objective",
        "tuner.run was called while tuner imported the code that a study names",
    ),
}

SEARCHES = {
    "upside down": ({"x": {"range": [3, 1]}}, r"search.x has the range \[3, 1\], but the lower end comes first; write \[1, 3\]"),
    "when of an unknown name": (
        {"x": [1, 2], "optimizer": ["adam", "sgd"], "momentum": {"range": [0.1, 0.9], "when": {"optimiser": "sgd"}}},
        "search.momentum acts when optimiser has a value, but search has no optimiser. .*Did you mean optimizer",
    ),
    "when of an impossible value": (
        {"optimizer": ["adam", "sgd"], "momentum": {"range": [0.1, 0.9], "when": {"optimizer": "sgdd"}}},
        "search.momentum acts when optimizer is 'sgdd', which is not among its values",
    ),
    "log from 0": (
        {"x": {"range": [0, 1], "log": True}},
        "search.x has a range that starts at 0, which a logarithmic scale does",
    ),
    "objects as choices": ({"x": [[1, 2], [3, 4]]}, r"search.x contains \[1, 2\]; expected numbers, text, true, false or null"),
}


@pytest.mark.parametrize("case", IN_A_TRIAL)
def test_a_mistake_in_an_objective_ends_its_trial_with_one_message(case: str, tmp_path: Path) -> None:
    code, kind, message = IN_A_TRIAL[case]
    prepared = _prepared(objective_study(tmp_path, code))
    with pytest.raises(errors.TrainingError) as raised:
        prepared.train(train(tmp_path), AnsweringWorker())
    assert raised.value.kind == kind
    assert re.search(message, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("case", AT_THE_START)
def test_a_mistake_in_a_file_is_refused_before_a_trial_starts(case: str, tmp_path: Path) -> None:
    code, function, message = AT_THE_START[case]
    with pytest.raises(errors.DataError, match=message) as raised:
        _prepared(objective_study(tmp_path, code, function))
    assert "\n" not in str(raised.value)


def test_an_import_cycle_is_explained(tmp_path: Path) -> None:
    other = tmp_path / "cycle_of_tests.py"
    name = write(tmp_path, "from cycle_of_tests import load\ndef objective(trial):\n    return load()\n")
    other.write_text(f"from {Path(name).stem} import objective\ndef load():\n    return 1\n")
    study = study_file.parse({"name": "x", "task": "objective", "function": f"{name}:objective", "objective": "minimize"}, "x", tmp_path)
    with pytest.raises(errors.DataError, match="two files import each other: move what both need to a third one") as raised:
        _prepared(study)
    assert "(cycle_of_tests.py, line 1: " in str(raised.value) or "cycle_of_tests.py, line 1, in <module>" in str(raised.value)


def test_a_file_that_does_not_exist_is_looked_for_nearby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    study = objective_study(tmp_path, "def objective(trial):\n    return 1")
    name = study.function.partition(":")[0]  # type: ignore[attr-defined]
    moved = study.model_copy(update={"folder": tmp_path / "here"})
    with pytest.raises(errors.DataError, match=f"names the file {tmp_path}/here/{name}, which does not exist. Write it beside"):
        _prepared(moved)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.DataError, match=f"There is a {name} in {tmp_path}: move it beside the study file, or write its whole path"):
        _prepared(moved)


@pytest.mark.parametrize("case", SEARCHES)
def test_a_mistake_in_the_search_of_a_file_is_named(case: str, tmp_path: Path) -> None:
    search, message = SEARCHES[case]
    with pytest.raises(errors.SpecError, match=message):
        objective_study(tmp_path, "", search=search)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "custm"}, r"task is 'custm'; expected one of .*Did you mean custom\?"),
        ({"training": {"epochs": 0}}, "training.epochs is 0; expected a whole number from 1 to 1000000"),
        ({"training": {"stall_timeout": "soon"}}, "training.stall_timeout is 'soon'; expected a duration such as 90s"),
        ({"budget": {"trial_timeout": 0}}, "budget.trial_timeout is 0; expected"),
        ({"objective": "val_goodness"}, "objective.direction is missing: 'val_goodness' does not say .*; add maximize or minimize"),
        ({"model": {"build": "build"}}, "model.build is 'build'; expected a file and a function, such as my_code.py:build"),
        ({"model": {"build": lambda hp: None}}, "model.build .*lambda"),
        ({"model": {"build": 3}}, "model.build is 3"),
    ],
)
def test_a_mistake_in_a_custom_study_file_is_named(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    usual = {"name": "x", "task": "custom", "objective": "val_loss", "model": {"build": "a.py:build"}, "data": {"load": "a.py:load"}}
    with pytest.raises(errors.SpecError, match=message):
        study_file.parse(usual | given, "study.yaml", tmp_path)


def test_nan_ends_a_trial_with_its_reason(tmp_path: Path) -> None:
    finished = _trained(tmp_path, "def objective(trial):\n    return float('nan')")
    assert (finished.ending, finished.reason) == (Ending.NOT_FINITE, "the objective returned nan")


def test_what_code_changes_in_its_process_is_undone_after_its_trial(tmp_path: Path) -> None:
    code = """
        import io, os, signal, sys
        def objective(trial):
            os.chdir('/')
            sys.stdout = io.StringIO()
            sys.stderr.close()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
            signal.setitimer(signal.ITIMER_REAL, 3600)
            return 1.0
    """
    before = (Path.cwd(), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM))
    assert _trained(tmp_path, code).value == 1.0
    assert (Path.cwd(), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_threads_that_code_leaves_running_are_named(tmp_path: Path) -> None:
    code = """
        import threading
        ended = threading.Event()
        def objective(trial):
            threading.Thread(target=ended.wait, name="logger").start()
            return 1.0
    """
    worker = AnsweringWorker()
    study = objective_study(tmp_path, code)
    try:
        _prepared(study).train(train(tmp_path), worker)
    finally:
        place = tmp_path / study.function.partition(":")[0]  # type: ignore[attr-defined]
        user_code.load(f"{place}:ended", None, field="x").set()
    (warning,) = [message.message for message in worker.told if isinstance(message, messages.TrialWarning)]
    assert warning == "the code left 1 thread running (logger), which slow down the next trials; end them before the function returns"
    for thread in threading.enumerate():
        if thread.name == "logger":
            thread.join()


def test_a_copy_of_the_process_that_code_forks_does_not_report(tmp_path: Path) -> None:
    code = """
        import os
        def objective(trial):
            child = os.fork()
            trial.report(0.5 if child else 0.25, 1)
            if child:
                os.waitpid(child, 0)
            return 1.0 if child else 2.0
    """
    worker = AnsweringWorker()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
        finished = _prepared(objective_study(tmp_path, code)).train(train(tmp_path), worker)
    assert finished.value == 1.0
    assert [message.value for message in worker.told if isinstance(message, messages.Epoch)] == [0.5]


def test_what_a_failed_trial_printed_and_its_own_frames_are_kept(tmp_path: Path) -> None:
    code = """
        def deeper(rate):
            raise ValueError("no data")
        def objective(trial):
            print("the rate is", 3)
            deeper(3)
    """
    with pytest.raises(user_code.UserCodeError) as raised:
        _prepared(objective_study(tmp_path, code)).train(train(tmp_path), AnsweringWorker())
    assert user_code.printed_before(raised.value) == "the rate is 3\n"
    text = raised.value.traceback()
    assert re.findall(r"in (\w+)$", text, re.MULTILINE) == ["objective", "deeper"]
    assert text.startswith("Traceback of your code (most recent call last):\n")
    assert text.endswith("ValueError: no data\n")


def _prepared(study: Any) -> objective.PreparedObjective:
    return objective.prepare(study, cache=Path(os.devnull), share=machine.TrainerShare(threads=1))


def _trained(folder: Path, code: str) -> messages.Finished:
    return _prepared(objective_study(folder, code)).train(train(folder), AnsweringWorker())
