"""`training.executions` of an objective: several calls with different seeds are one trial."""

import os
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.custom.code_of_tests import AnsweringWorker, objective_study, train
from tuner import machine
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec.study import AnyStudySpec
from tuner.tasks.custom.running import objective
from tuner.tasks.custom.spec import choices

#: returns a value by the seed, which the tests of the seeds know: 7, then 7 + 7919, then 7 + 2 * 7919
OF_SEEDS = """
    def objective(trial):
        x = trial.suggest_float("x", 2, 4)
        for step in range(3):
            trial.report(trial.seed + step, step)
        trial.set_user_attr("last", trial.seed)
        with open("CALLS", "a") as calls:
            print(trial.seed, x, file=calls)
        return x * trial.seed
"""
SEEDS = [7, 7926, 15845]


def test_the_value_is_the_mean_of_the_calls_with_their_seeds(tmp_path: Path) -> None:
    worker = AnsweringWorker()
    finished = _trained(_study(tmp_path), tmp_path, worker)
    assert _calls(tmp_path) == ["7 2.0", "7926 2.0", "15845 2.0"]
    assert finished.value == 2 * 7926
    assert finished.attributes == {
        "executions": [14, 15852, 31690],
        "standard_deviation": pytest.approx(15838),
        "last": 15845,
    }
    assert finished.asked == {"x": 2.0}


def test_the_steps_of_reports_count_on_through_the_calls(tmp_path: Path) -> None:
    worker = AnsweringWorker()
    finished = _trained(_study(tmp_path), tmp_path, worker)
    assert [(epoch.step, epoch.measured) for epoch in _epochs(worker)] == [
        (0, 7),
        (1, 8),
        (2, 9),
        (3, 7926),
        (4, 7927),
        (5, 7928),
        (6, 15845),
        (7, 15846),
        (8, 15847),
    ]
    assert finished.best_step == 0


def test_steps_that_begin_with_1_count_on_without_a_gap(tmp_path: Path) -> None:
    worker = AnsweringWorker()
    _trained(_study(tmp_path, OF_SEEDS.replace("step)\n", "step + 1)\n")), tmp_path, worker)
    assert [epoch.step for epoch in _epochs(worker)] == list(range(1, 10))


def test_a_call_that_reports_nothing_is_not_pruned_by_what_an_earlier_call_reported(tmp_path: Path) -> None:
    code = """
        def objective(trial):
            before = trial.should_prune()
            trial.report(1.0, 0)
            trial.should_prune()
            return float(before)
    """
    worker = _PruningWorker()
    assert _trained(_study(tmp_path, code), tmp_path, worker).value == 0
    assert worker.num_asked == 3


def test_a_resumed_trial_repeats_no_call_that_has_returned(tmp_path: Path) -> None:
    study = _study(tmp_path, OF_SEEDS.replace("(trial):\n", "(trial):\n        trial.suggest_categorical('kind', ['a'])\n"))
    first, second = _SuspendingWorker(5), AnsweringWorker()
    assert _trained(study, tmp_path, first).ending is Ending.SUSPENDED
    assert _calls(tmp_path) == ["7 2.0"]
    resumed = _trained(study, tmp_path, second)
    assert _calls(tmp_path) == ["7 2.0", "7926 2.0", "15845 2.0"]
    (told,) = (message for message in second.told if isinstance(message, messages.Resumed))
    assert [epoch.step for epoch in told.curve] == [0, 1, 2, 3, 4]
    assert [epoch.step for epoch in _epochs(second)] == [3, 4, 5, 6, 7, 8]
    assert resumed.value == 2 * 7926
    assert resumed.attributes["executions"] == [14, 15852, 31690]
    assert resumed.asked == {"x": 2.0, "kind": "a"}
    assert resumed.best_step == 0


def test_a_trial_whose_worker_was_killed_after_the_last_call_is_not_called_again(tmp_path: Path) -> None:
    study = _study(tmp_path)
    finished = _trained(study, tmp_path, AnsweringWorker())
    again = _trained(study, tmp_path, AnsweringWorker())
    assert _calls(tmp_path) == [f"{seed} 2.0" for seed in SEEDS]
    assert again == finished


def test_another_machine_repeats_no_call_that_has_returned_on_the_first_one(tmp_path: Path) -> None:
    study, places = _study(tmp_path), [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    first, second = _SuspendingWorker(5), AnsweringWorker()
    assert _trained(study, places[0], first).ending is Ending.SUSPENDED
    assert [message for message in first.told if isinstance(message, messages.CheckpointWritten)]
    resumed = _trained(study, places[1], second, fetched=places[0] / "checkpoint")
    assert _calls(tmp_path) == ["7 2.0", "7926 2.0", "15845 2.0"]
    (told,) = (message for message in second.told if isinstance(message, messages.Resumed))
    assert [epoch.step for epoch in told.curve] == [0, 1, 2]  # and not those of the call that was interrupted
    assert (resumed.value, resumed.attributes["executions"]) == (2 * 7926, [14, 15852, 31690])
    # the first machine, which has one call, takes up the three of the second one
    again = _trained(study, places[0], fetched=places[1] / "checkpoint")
    assert (again.value, again.attributes) == (resumed.value, resumed.attributes)
    assert len(_calls(tmp_path)) == 3


def test_calls_of_other_code_or_a_damaged_file_of_another_machine_do_not_count(tmp_path: Path) -> None:
    _trained(_study(tmp_path), tmp_path, _SuspendingWorker(5))
    other, damaged = tmp_path / "other", tmp_path / "damaged"
    other.write_bytes((tmp_path / "checkpoint").read_bytes().replace(b'"code": "', b'"code": "0'))
    damaged.write_bytes(b"\x00\xffnothing")
    for number, fetched in enumerate((other, damaged, tmp_path / "missing")):
        place = tmp_path / f"place-{number}"
        place.mkdir()
        assert _trained(_study(tmp_path), place, fetched=fetched).attributes["executions"] == [14, 15852, 31690]
    assert len(_calls(tmp_path)) == 1 + 3 * 3


def test_other_code_repeats_all_calls(tmp_path: Path) -> None:
    _trained(_study(tmp_path), tmp_path, _SuspendingWorker(5))
    finished = _trained(_study(tmp_path, OF_SEEDS.replace("x * trial.seed", "x + trial.seed")), tmp_path, AnsweringWorker())
    assert finished.attributes["executions"] == [9, 7928, 15847]


def test_a_worker_that_ends_between_two_calls_suspends_the_trial(tmp_path: Path) -> None:
    code = """
        def objective(trial):
            trial.report(1.0, 0)
            return 1.0
    """
    worker = _SuspendingWorker(1)
    assert _trained(_study(tmp_path, code), tmp_path, worker).ending is Ending.SUSPENDED
    assert len(_epochs(worker)) == 1


def test_each_call_has_checkpoints_of_its_own(tmp_path: Path) -> None:
    code = """
        def objective(trial):
            found = sorted(path.name for path in trial.checkpoint_dir.iterdir())
            (trial.checkpoint_dir / "state").write_text("done")
            return len(found)
    """
    assert _trained(_study(tmp_path, code), tmp_path, AnsweringWorker()).attributes["executions"] == [0, 0, 0]


def test_a_call_that_returns_no_finite_number_ends_the_trial(tmp_path: Path) -> None:
    finished = _trained(_study(tmp_path, OF_SEEDS.replace("x * trial.seed", "float('nan') if trial.seed > 7 else 1.0")), tmp_path)
    assert (finished.ending, finished.reason, finished.value) == (Ending.NOT_FINITE, "the objective returned nan", 7928)
    assert "executions" not in finished.attributes


def test_an_attribute_of_the_users_does_not_replace_the_spread(tmp_path: Path) -> None:
    finished = _trained(_study(tmp_path, OF_SEEDS.replace('"last"', '"executions"')), tmp_path)
    assert finished.attributes["executions"] == [14, 15852, 31690]
    assert finished.attributes["user.executions"] == 15845


def test_one_call_is_as_before(tmp_path: Path) -> None:
    finished = _trained(_study(tmp_path, executions=1), tmp_path)
    assert (finished.value, finished.attributes) == (14, {"last": 7})
    assert _calls(tmp_path) == ["7 2.0"]


def test_check_says_how_often_an_objective_is_called(tmp_path: Path) -> None:
    study = _study(tmp_path)
    assert choices.facts(study, None) == [("a trial", f"3 calls with different seeds of {study.function}")]


class _PruningWorker(AnsweringWorker):
    """A worker that counts the questions whether to prune."""

    num_asked = 0

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        self.num_asked += isinstance(question, messages.AskPruning)
        return super().ask(question)


class _SuspendingWorker(AnsweringWorker):
    """A worker that suspends the trial after some epochs."""

    def __init__(self, num_epochs: int) -> None:
        super().__init__()
        self._num_epochs = num_epochs

    def send(self, message: messages.Message) -> None:
        super().send(message)
        if len(_epochs(self)) == self._num_epochs:
            self.wanted = messages.Suspend()


def _study(folder: Path, code: str = OF_SEEDS, *, executions: int = 3) -> Any:
    code = code.replace('"CALLS"', repr(str(folder / "calls")))
    return objective_study(folder, code, training={"executions": executions})


def _trained(study: AnyStudySpec, folder: Path, worker: AnsweringWorker | None = None, *, fetched: Path | None = None) -> messages.Finished:
    ready = objective.prepare(study, cache=Path(os.devnull), share=machine.TrainerShare(threads=1))  # type: ignore[arg-type]
    order = train(folder).model_copy(update={"fetched": None if fetched is None else str(fetched)})
    return ready.train(order, worker or AnsweringWorker())


def _epochs(worker: AnsweringWorker) -> list[messages.Epoch]:
    return [message for message in worker.told if isinstance(message, messages.Epoch)]


def _calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_the_spread_of_some_values_is_their_sample_standard_deviation() -> None:
    assert messages.spread([1.0, 2.0, 4.0]) == {"executions": [1.0, 2.0, 4.0], "standard_deviation": statistics.stdev([1, 2, 4])}
    assert messages.spread([1.0]) == {}
