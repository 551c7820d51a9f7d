"""`tuner.run` in a program; its workers are processes with rehearsed trainers."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests.acceptance import rehearsed_tuner
from tests.acceptance.conftest import REHEARSED
from tests.waiting import WaitPoint
from tuner.spec.study import StudySpec
from tuner.workers.engines import local
from tuner.workers.worker import process
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment

SPEC = {"name": "called", "data": {"source": "digits"}, "budget": {"trials": 2}, "sampler": "random", "pruner": "none"}


@pytest.fixture(autouse=True)
def rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use rehearsed trainers, and folders that only the environment names."""
    monkeypatch.setattr(local, "COMMAND", REHEARSED)
    monkeypatch.setattr(process, "start_trainer", rehearsed_tuner.start)
    monkeypatch.setenv("REHEARSAL", "{}")
    monkeypatch.setenv("TUNER_STORAGE", f"sqlite:///{tmp_path / 'named.db'}")
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "named"))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))


def spec() -> StudySpec:
    return StudySpec.model_validate(SPEC)


def test_a_program_gets_the_best_trial_with_its_test_accuracy_and_uses_the_folders_of_the_environment(tmp_path: Path) -> None:
    best = tuner.run(spec())
    assert best.test_accuracy is not None
    assert best.num_completed >= 1
    assert (tmp_path / "named.db").exists()
    assert (tmp_path / "named" / "called").is_dir()


def test_ctrl_c_stops_a_program_in_order_and_the_next_call_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = local.run

    def interrupted(assignments: Sequence[Assignment], *, tell: Any, **others: Any) -> list[int]:
        def listen(event: Event) -> None:
            if event.what is EventKind.STARTED:
                os.kill(os.getpid(), signal.SIGINT)
            tell(event)

        return real(assignments, tell=listen, **others)

    before = signal.getsignal(signal.SIGINT)
    second_epoch = WaitPoint(tmp_path, "trial 0 epoch 2")
    monkeypatch.setenv("REHEARSAL", json.dumps(second_epoch.script))
    monkeypatch.setattr(local, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuner.run(spec())
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr(local, "run", real)
    second_epoch.go_on()
    assert tuner.run(spec()).num_completed >= 1


def test_crashed_workers_raise_an_error_in_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL", json.dumps({"always": "no such fault"}))
    with pytest.raises(tuner.TunerError, match="The workers gave up before the study ended: the worker crashed"):
        tuner.run(spec())


def test_a_program_reads_each_warning_about_the_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REHEARSAL", json.dumps({"warnings": ["almost the same in two splits: 2 of 20 images"]}))
    tuner.run(StudySpec.model_validate(SPEC | {"data": {"source": "digits", "validation": 20}}), workers=2)
    texts = [record.getMessage() for record in caplog.records if record.name == "tuner.api" and "database" not in record.getMessage()]
    step = "validation has only 20 images: accuracy moves in steps of 5 points, too coarse to choose the best trial"
    assert texts[0] == f"study called: {step}; raise data.validation, or add images"
    assert [text.partition(" [")[0] for text in texts[1:]] == ["called warning: almost the same in two splits: 2 of 20 images"]


@pytest.mark.parametrize("function", ["__main__:load", "no_such_module_anywhere:load"])
def test_a_function_that_trainers_cannot_import_is_refused_before_anything_is_written(function: str, tmp_path: Path) -> None:
    with pytest.raises(tuner.TunerError, match=function):
        tuner.run(StudySpec.model_validate(SPEC | {"data": {"source": "python", "function": function}}))
    assert not (tmp_path / "named.db").exists()
    assert not (tmp_path / "named").exists()
