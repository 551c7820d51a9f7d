"""`tuner run` and `tuner worker` as processes that get signals; their trainers are rehearsed."""

import signal
from collections.abc import Callable

import psutil
import pytest

from tests.acceptance.conftest import Place
from tuner.cli import main

Gone = Callable[[list[psutil.Process]], None]


def test_a_run_spends_its_budget_exports_the_best_and_ends(finished: Place, first_run: tuple[object, tuple[int, str, list[str]]]) -> None:
    _, (code, out, lines) = first_run
    assert code == 0, lines
    assert finished.states() == ["COMPLETE"] * 4
    assert (finished.folder / "study-best.yaml").exists()
    for word in ("Result", "validation accuracy", "unseen", "95 % interval", "Cost", "4 completed", "Next", "study-best.yaml"):
        assert word in out
    for number in range(4):
        assert any(f"study trial {number} started" in line for line in lines)
        assert any(f"study trial {number} completed" in line for line in lines)
    assert any("(new best)" in line for line in lines)


def test_the_dashboard_of_a_run_can_be_below_a_path_prefix(place: Place) -> None:
    run = place.tuner("run", "study.yaml", "--dashboard", "--port", "0", "--root-path", "/user/me/proxy/8080/")
    line = run.until("dashboard at ")
    address = line.split()[-1].partition("/?token=")[0]
    assert address.startswith("http://127.0.0.1:")
    assert address.endswith("/user/me/proxy/8080")
    assert run.end()[0] == 0, run.lines


def test_the_exported_configuration_runs_as_a_study(finished: Place) -> None:
    again = finished.tuner("run", "study-best.yaml", "--no-export")
    code, out = again.end()
    assert code == 0, again.lines
    assert "1 completed" in out
    assert not (finished.folder / "study-best-best.yaml").exists()


def test_a_run_of_a_finished_study_says_so_and_starts_nothing(finished: Place) -> None:
    code, out, lines = finished.here("run", "study.yaml")
    assert code == 0, lines
    assert "the budget of 4 trials is spent" in out
    assert len(finished.states()) == 4


def test_a_larger_budget_resumes_the_study_and_a_worker_keeps_the_budget(finished: Place) -> None:
    assert finished.tuner("run", "study.yaml", "--trials", "5").end()[0] == 0
    assert len(finished.states()) == 5
    assert finished.here("worker", "study.yaml")[0] == 0
    assert len(finished.states()) == 5


def test_one_signal_stops_a_run_in_order_and_the_next_run_resumes(place: Place) -> None:
    for number, word, epoch in ((signal.SIGINT, "promoted", 4), (signal.SIGTERM, "resumed", 5)):
        fine_tuning = place.wait_point(f"epoch {epoch}")
        run = place.tuner("run", "study.yaml", "--workers", "2", script=fine_tuning.script)
        run.until(word)
        run.until(word)
        run.signal(number)
        code, out = run.end()
        assert code == 0, run.lines
        assert "you stopped it" in out
        assert place.states() == ["RUNNING"] * 2
    again = place.tuner("run", "study.yaml")
    assert again.end()[0] == 0
    assert any("resumed" in line for line in again.lines)
    assert place.states() == ["COMPLETE"] * 4


def test_a_second_signal_kills(place: Place, gone: Gone) -> None:
    run = place.tuner("run", "study.yaml", "--workers", "2", script={"faults": {"0": ["hang"], "1": ["hang"]}})
    run.until("started")
    run.until("started")
    family = run.family()
    run.signal(signal.SIGINT)
    run.until("stopping")
    run.signal(signal.SIGINT)
    assert run.end()[0] == 130
    gone(family)
    assert set(place.states()) == {"RUNNING"}


def test_a_killed_worker_is_restarted_and_its_trial_resumes(place: Place) -> None:
    second_epoch = place.wait_point("trial 0 epoch 2")
    run = place.tuner("run", "study.yaml", script=second_epoch.script)
    run.until("trial 0 started")
    second_epoch.until_reached()
    (worker,) = run.family()
    worker.kill()
    run.until("crashed (signal 9)", "tuner restarts it")
    run.until("trial 0 resumed")
    second_epoch.go_on()
    assert run.end()[0] == 0
    assert place.states() == ["COMPLETE"] * 4


def test_workers_end_in_order_when_their_run_is_killed(place: Place, gone: Gone) -> None:
    run = place.tuner("run", "study.yaml", "--workers", "2", script=place.wait_point("epoch 2").script)
    run.until("started")
    run.until("started")
    family = run.family()
    run.signal(signal.SIGKILL)
    run.end()
    gone(family)
    assert place.states() == ["RUNNING"] * 2
    again = place.tuner("run", "study.yaml")
    assert again.end()[0] == 0
    assert place.states() == ["COMPLETE"] * 4


def test_workers_from_several_terminals_share_one_budget(place: Place) -> None:
    place.write(budget={"trials": 12})
    first_epoch = place.wait_point("epoch 1")
    workers = [place.tuner("worker", "study.yaml", script=first_epoch.script | {"epoch_seconds": 0.01}) for _ in range(3)]
    for worker in workers:
        worker.until("started")
    first_epoch.go_on()
    assert [worker.end()[0] for worker in workers] == [0, 0, 0]
    assert place.states() == ["COMPLETE"] * 12
    started = [line for worker in workers for line in worker.lines if " started" in line]
    assert len(started) == 12
    # each goes by a name of its own
    assert len({line.rpartition("[")[2] for line in started}) == 3


def test_an_interrupted_worker_suspends_its_trial(place: Place) -> None:
    worker = place.tuner("worker", "study.yaml", script=place.wait_point("trial 0 epoch 2").script)
    worker.until("trial 0 started")
    worker.signal(signal.SIGINT)
    assert worker.end()[0] == 0
    assert any("trial 0 suspended" in line for line in worker.lines)
    assert place.states() == ["RUNNING"]


def test_unusable_data_gives_one_message(place: Place) -> None:
    run = place.tuner("run", "study.yaml", script={"refusal": "no images of cats"})
    code, out = run.end()
    assert code == 2
    assert out == ""
    assert run.lines[-1] == "no images of cats"


def test_a_run_whose_workers_all_crash_says_why_and_fails(place: Place) -> None:
    run = place.tuner("run", "study.yaml", "--workers", "2", script={"always": "no such fault"})
    code, out = run.end()
    assert code == 1, run.lines
    assert "its workers gave up" in out
    assert run.lines[-1].startswith("The workers gave up before the study ended: the worker crashed (exit code 1; see ")
    assert place.states() == []


def test_a_study_that_stops_itself_says_why(place: Place) -> None:
    run = place.tuner("run", "study.yaml", script={"always": "fail"})
    code, _ = run.end()
    assert code == 1
    assert "ValueError" in run.lines[-1]
    assert place.states() == ["FAIL"] * 3


def test_a_changed_study_file_is_refused_with_what_changed(finished: Place) -> None:
    finished.write(budget={"trials": 4}, search={"dropout": 0.3})
    code, out, lines = finished.here("run", "study.yaml")
    assert (code, out) == (2, "")
    assert any("search.dropout" in line for line in lines)
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (["status"], "4 of 4"),
        (["status", "study"], "the budget of 4 trials is spent"),
        (["status", "--json"], '"num_completed": 4'),
        (["best", "study"], "validation accuracy"),
        (["best", "study", "--json"], '"validation_accuracy"'),
        (["best", "study", "--yaml"], "name: study-trial-"),
        (["export", "study", "--to", "kept.json"], "kept.json"),
    ],
)
def test_commands_show_a_study(
    finished: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: list[str], shown: str
) -> None:
    monkeypatch.chdir(finished.folder)
    assert main.main(call) == 0
    assert shown in capsys.readouterr().out


def test_a_new_study_starts_with_the_best_configurations_of_an_earlier_one(finished: Place) -> None:
    finished.write(name="next", search={"dropout": [0, 0.7]}, budget={"trials": 3})
    run = finished.tuner("run", "study.yaml", "--from", "study", "--no-export")
    assert run.end()[0] == 0
    assert [line for line in run.lines if "next: trial" in line and "is tried as trial 1" in line]
