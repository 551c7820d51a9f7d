"""Constraints of a study: what a trial exceeds, who wins, and what the sampler sees."""

import socket
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

import tuner
from tests.studies import by_hand
from tests.terminal.test_status import text
from tuner.api import LocalStudy
from tuner.commands import ensemble as commands_ensemble
from tuner.commands import options
from tuner.commands import run as commands_run
from tuner.errors import DataError, SpecError, StudyError, TrainingError, TunerError
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.report import content
from tuner.results import best as bests
from tuner.results import export
from tuner.results.bundle import custom_bundle
from tuner.results.versions import versions
from tuner.sampling.history import SamplerHistory
from tuner.spec import file as study_file
from tuner.spec import objective
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import INFEASIBLE
from tuner.studies import data_check, endings, retention, trials, workers
from tuner.studies import study as studies
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.terminal import status as screens
from tuner.views import trial as trial_views
from tuner.views import trials as trial_rows
from tuner.views.trials import SortOrder
from tuner.workers.bucket.transfer import Folders
from tuner.workers.engines import local
from tuner.workers.worker import evaluation
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

GIVEN = {
    "name": "small",
    "task": "custom",
    "model": {"build": "my.py:build"},
    "data": {"load": "my.py:load"},
    "objective": "val_loss",
    "search": {"units": {"range": [1, 64]}},
    "constraints": {"latency_ms": 20, "size_mb": 10},
}


def new(tmp_path: Path, **sections: Any) -> Study:
    spec = study_file.parse({**GIVEN, **sections}, "small.yaml")
    study = studies.join(spec, storages.open(f"sqlite:///{tmp_path}/tuner.db"))
    data_check.admit(study, by_hand.PREPARED)
    return study


def finish(study: Study, value: float, *, weights: str | None = None, **costs: float) -> int:
    claimed = by_hand.must_claim(study)
    epoch = messages.Epoch(trial=claimed.number, stage=Stage.TRAIN, step=1, seconds=1.0, value=value)
    finished = messages.Finished(trial=claimed.number, ending=Ending.COMPLETED, value=value, best_step=1, weights=weights, costs=costs)
    trials.finish(study, claimed, finished, [epoch], device="cpu")
    return claimed.number


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"latency_ms": 20.0, "size_mb": 1.0}, ""),
        ({"latency_ms": 20.5, "size_mb": 1.0}, "latency_ms is 20.5, above the constraint 20"),
        ({"latency_ms": 31, "size_mb": 11}, "latency_ms is 31, above the constraint 20; size_mb is 11, above the constraint 10"),
        ({"latency_ms": float("nan"), "size_mb": 1.0}, "latency_ms is nan, above the constraint 20"),
        ({"size_mb": 1.0}, "latency_ms was not measured"),
    ],
)
def test_what_a_trial_exceeds_in_words(measured: dict[str, float], said: str) -> None:
    assert objective.exceeded({"latency_ms": 20, "size_mb": 10}, measured) == said


def test_a_trial_that_exceeds_a_constraint_never_wins(tmp_path: Path) -> None:
    study = new(tmp_path)
    finish(study, 0.5, latency_ms=5.0, size_mb=1.0)
    finish(study, 0.1, latency_ms=5.0, size_mb=12.5)
    finish(study, 0.4, latency_ms=7.12345, size_mb=2.0)
    best = bests.best(study)
    assert (best.trial, best.rank, best.num_completed) == (2, 1, 2)
    assert best.costs == {"latency_ms": 7.1235, "size_mb": 2.0}
    assert "latency_ms 7.1235, at most 20" in text(screens.best_trial(best))
    other = trial_views.load(study, 1)
    assert other.attributes[INFEASIBLE] == "size_mb is 12.5, above the constraint 10"
    assert (export.resolved(best).result or {})["latency_ms"] == 7.1235
    assert export.resolved(best).limits == {}


def test_a_study_without_a_trial_within_its_constraints_says_so(tmp_path: Path) -> None:
    study = new(tmp_path)
    finish(study, 0.5, latency_ms=50.0, size_mb=1.0)
    with pytest.raises(
        StudyError, match=r"no trial of the study small keeps its constraints \(latency_ms 20, size_mb 10\), but 1 trial completed"
    ):
        bests.best(study)


def test_a_better_trial_that_exceeds_a_constraint_is_not_called_the_best(tmp_path: Path) -> None:
    study = new(tmp_path)
    finish(study, 0.1, latency_ms=50.0, size_mb=1.0)
    only = bests.of(study, 0)
    assert (only.is_best, only.exceeds) == (False, "latency_ms is 50, above the constraint 20")
    word = "which exceeds a constraint of the study (latency_ms is 50, above the constraint 20)"
    assert export.as_yaml(only).splitlines()[0].startswith(f"# Trial 0 of the study small, {word}: ")
    finish(study, 0.5, latency_ms=5.0, size_mb=1.0)
    finish(study, 0.2, latency_ms=50.0, size_mb=1.0)
    found = [bests.of(study, number) for number in range(3)]
    assert [(one.is_best, one.rank) for one in found] == [(False, 2), (True, 1), (False, 3)]
    assert word in custom_bundle.headline(found[0]) and "the best of 1 completed trial" in custom_bundle.headline(found[1])
    assert word in custom_bundle.caution(found[0])
    assert "exceeds a constraint" in text(screens.best_trial(found[0]))
    assert (export.resolved(found[0]).result or {})["exceeds"] == found[0].exceeds


def test_a_cost_is_rounded_once(tmp_path: Path) -> None:
    finished = messages.Finished(trial=0, ending=Ending.COMPLETED, value=0.5, costs={"latency_ms": 20.00004, "size_mb": float("nan")})
    assert finished.costs["latency_ms"] == 20.0
    assert objective.exceeded({"latency_ms": 20}, finished.costs) == ""
    study = new(tmp_path)
    finish(study, 0.5, latency_ms=20.00004, size_mb=1.0)
    assert bests.best(study).costs["latency_ms"] == 20.0


def test_a_list_of_the_best_trials_begins_with_the_best(tmp_path: Path) -> None:
    study = new(tmp_path)
    for value, latency in ((0.1, 50.0), (0.5, 5.0), (0.2, 50.0), (0.4, 5.0)):
        finish(study, value, latency_ms=latency, size_mb=1.0)

    def read(order: SortOrder, offset: int, limit: int) -> list[int]:
        def page(connection: Connection) -> list[trial_rows.TrialRow]:
            return trial_rows.page(connection, study.id, order=order, maximizes=False, offset=offset, limit=limit, total=4)

        return [row.number for row in study.storage.read(page)]

    wanted = {SortOrder.BEST: [3, 1, 0, 2], SortOrder.WORST: [2, 0, 1, 3]}
    for order, expected in wanted.items():
        assert read(order, 0, 4) == read(order, 0, 3) + read(order, 3, 3) == expected
    valued = content.read(study).valued
    assert [trial.number for trial in content.ranked(valued, study.spec.objective)] == [3, 1, 0, 2]


def test_a_run_whose_trials_exceed_the_constraints_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.py").write_text("def build(hp): ...\ndef load(): ...\n")
    study = new(tmp_path, folder=str(tmp_path), budget={"trials": 2})
    finish(study, 0.5, latency_ms=50.0, size_mb=1.0)
    claimed = by_hand.must_claim(study)
    trials.fail(study, claimed, messages.Failed(trial=claimed.number, error="ValueError", message="ValueError: no"))
    monkeypatch.setattr(local, "run", lambda *_, **__: [0])
    with pytest.raises(StudyError, match=r"no trial of the study small keeps its constraints \(latency_ms 20, size_mb 10\), but 1 trial"):
        LocalStudy.of(study, is_own=True).run(workers=1, cache=tmp_path, artifacts=tmp_path / "a")


def test_the_command_names_constraints_that_no_trial_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = new(tmp_path, budget={"trials": 1})
    finish(study, 0.5, latency_ms=50.0, size_mb=1.0)
    folders = Folders(cache=tmp_path, artifacts=tmp_path / "a")
    given: dict[str, Any] = {"study": study.name, "spec": study.spec, "storage": study.storage.url, "worker": "w", "folders": folders}
    assignment = Assignment(**given, threads=1, hang_limit_seconds=60.0)
    ended = commands_run.FinishedRun(study=study, again="small.yaml", assignment=assignment, export_to=None)
    assert commands_run.finish(ended, Stopping()) == 1
    assert "no trial of the study small keeps its constraints (latency_ms 20, size_mb 10), but 1 trial" in capsys.readouterr().err


def test_a_refused_run_changes_no_budget(tmp_path: Path) -> None:
    study = new(tmp_path, folder=str(tmp_path), budget={"trials": 2})
    with pytest.raises(DataError, match="my.py, which does not exist"):
        LocalStudy.of(study, is_own=True).run(workers=1, trials=9, cache=tmp_path, artifacts=tmp_path / "a")
    assert studies.load("small", study.storage).spec.budget.trials == 2


def test_a_budget_that_is_given_is_the_budget_of_an_existing_study(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("def build(hp): ...\ndef load(): ...\n")
    given: dict[str, Any] = {"build": "my.py:build", "data": "my.py:load", "objective": "val_loss", "folder": str(tmp_path)}
    storage = f"sqlite:///{tmp_path}/tuner.db"

    def trials_of(**sections: Any) -> int | None:
        return tuner.study("kept", storage=storage, **given, **sections).spec.budget.trials

    assert [trials_of(budget={"trials": 2}), trials_of(), trials_of(budget={"trials": 5}), trials_of()] == [2, 2, 5, 5]
    spec = study_file.parse({**GIVEN, "folder": str(tmp_path)}, "small.yaml")
    changed = study_file.parse({**GIVEN, "folder": str(tmp_path), "budget": {"trials": 3}}, "small.yaml")
    opened = [tuner.study(each, storage=storage).spec.budget.trials for each in (spec, changed, spec)]
    assert opened == [40, 3, 3]


def test_a_target_counts_only_within_the_constraints(tmp_path: Path) -> None:
    study = new(tmp_path, budget={"trials": 9, "target": 0.2})
    finish(study, 0.1, latency_ms=50.0, size_mb=1.0)
    assert by_hand.claim(study) is not None


def test_the_sampler_sees_the_constraints(tmp_path: Path) -> None:
    study = new(tmp_path)
    finish(study, 0.5, latency_ms=5.0, size_mb=1.0)
    finish(study, 0.1, latency_ms=50.0, size_mb=1.0)
    reader = SamplerHistory()
    for _ in range(2):  # also from what it remembers
        seen = study.storage.read(lambda connection: reader.read(connection, study.id, maximizes=False, is_constrained=True))
        assert [trial.constraints for trial in seen] == [{"latency_ms": -15.0, "size_mb": -9.0}, {"latency_ms": 30.0, "size_mb": -9.0}]
    stored = study.storage.cached.get_all_trials(study.id)
    assert [trial.constraints["latency_ms"] for trial in stored] == [-15.0, 30.0]


def test_a_study_without_constraints_measures_nothing(tmp_path: Path) -> None:
    study = new(tmp_path, constraints={})
    finish(study, 0.5)
    assert (bests.best(study).costs, study.spec.limits) == ({}, {})
    seen = study.storage.read(lambda connection: SamplerHistory().read(connection, study.id, maximizes=False))
    assert [trial.constraints for trial in seen] == [{}]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="constraints.size_mb"):
        study_file.parse({**GIVEN, "constraints": {"size_mb": 0}}, "small.yaml")


def test_a_study_of_code_keeps_the_weights_of_as_many_trials_as_its_file_says(tmp_path: Path) -> None:
    study = new(tmp_path, constraints={}, results={"keep": 2})
    for value in (0.9, 0.5, 0.4, 0.3):
        finish(study, value, weights=f"{value}.npz")
    assert [one.number for one in retention.overtaken(study)] == [1]  # never trial 0
    assert retention.is_among_best(study, 0.35, is_fine_tuned=True)
    assert not retention.is_among_best(study, 0.45, is_fine_tuned=True)


def test_a_version_of_a_trial_has_its_value_and_its_costs(tmp_path: Path) -> None:
    study = new(tmp_path)
    finish(study, 0.5, weights=str(tmp_path / "w.npz"), latency_ms=5.0, size_mb=1.0)
    (tmp_path / "w.npz").write_bytes(b"weights")
    version, reading = versions.of_trial(bests.best(study), tmp_path / "w.npz", by="ann")
    assert reading is None
    assert version.metrics == {
        "metric": "val_loss", "value": 0.5, "test_value": None, "latency_ms": 5.0, "size_mb": 1.0, "num_test": 200,
    }  # fmt: skip


class Alone:
    """A trainer that measures each trial with a latency of its own; an error ends it."""

    def __init__(self, latencies: dict[int, float], *, device: str = "cpu", error: TunerError | None = None) -> None:
        self.asked: list[int] = []
        self.device = device
        self._latencies, self._error = latencies, error

    def __call__(self, *_: object, **__: object) -> "Alone":
        return self

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, order: messages.Evaluate) -> messages.Evaluated:
        assert order.measures == "costs"
        assert Path(order.weights).read_bytes() == b"weights"
        if order.trial not in self._latencies and self._error is not None:
            raise self._error
        self.asked.append(order.trial)
        return messages.Evaluated(trial=order.trial, num_images=1, costs={"latency_ms": self._latencies[order.trial], "size_mb": 1.0})


def searched(tmp_path: Path, *trials_of: tuple[float, float]) -> Study:
    """A study whose trials have these values and latencies, each with weights."""
    study = new(tmp_path)
    (tmp_path / "w.npz").write_bytes(b"weights")
    for value, latency in trials_of:
        finish(study, value, weights=str(tmp_path / "w.npz"), latency_ms=latency, size_mb=1.0)
    return study


def again(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Alone) -> list[str]:
    """End a run of a study, and return what is told."""
    monkeypatch.setattr(evaluation, "open_trainer", trainer)
    folders = Folders(cache=tmp_path, artifacts=tmp_path / "a")
    (assignment,) = commands_run.make_assignments(study, study.storage.url, folders, options.plan_workers(1, None, None, None, None))
    told: list[str] = []
    commands_ensemble.try_again(study, assignment, Stopping(), told.append)
    return told


def notes_of(study: Study) -> dict[str, str]:
    """The notes of a study and of its trials, by their first line."""
    found = study.storage.read(lambda connection: tables.all_of(connection, tables.STUDY_SYSTEM, study.id))
    return {str(key): text for key, text in found.items() if isinstance(text, str)}


def test_the_best_trials_are_measured_again_at_the_end_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # trial 0 is far too slow; 1 is said to be too slow, 2 to be fast enough
    study, trainer = searched(tmp_path, (0.05, 90.0), (0.1, 25.0), (0.2, 15.0), (0.3, 18.0)), Alone({1: 19.0, 2: 21.5, 3: 18.5})
    assert bests.best(study).trial == 2
    (line,) = again(study, tmp_path, monkeypatch, trainer)
    assert trainer.asked == [1, 2, 3]
    assert line == (
        "small: the latency of trials 1, 2, 3 was measured again without other workers: trial 1 keeps the constraints now (latency_ms 19; "
        "before 25); trial 2 exceeds a constraint now (latency_ms is 21.5, above the constraint 20; before 15); "
        "the best trial is trial 1 now"
    )
    found = [bests.of(study, number) for number in range(4)]
    assert [(one.is_best, one.exceeds) for one in found[1:3]] == [(True, ""), (False, "latency_ms is 21.5, above the constraint 20")]
    assert found[0].costs["latency_ms"] == 90.0
    stored = study.storage.cached.get_all_trials(study.id)
    assert [trial.constraints["latency_ms"] for trial in stored] == [70.0, -1.0, 1.5, -1.5]
    texts = [text for text in notes_of(study).values() if "latency_ms" in text or "Best so far" in text]
    assert any("Best so far: **0.1000** by trial 1" in text for text in texts)
    assert any("**completed with 0.1000**" in text and "| latency_ms | 19 |" in text for text in texts)
    assert again(study, tmp_path, monkeypatch, trainer) == []  # once
    assert trainer.asked == [1, 2, 3]


def test_a_note_that_a_user_changed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = searched(tmp_path, (0.1, 25.0))
    (key,) = [key for key, text in notes_of(study).items() if "**completed with 0.1000**" in text]
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_SYSTEM, study.id, {key: "mine"}))
    again(study, tmp_path, monkeypatch, Alone({0: 19.0}))
    assert notes_of(study)[key] == "mine"


def test_more_trials_are_measured_only_until_one_keeps_the_constraints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = searched(tmp_path, *((0.1 * number, 15.0) for number in range(1, 9)))
    trainer = Alone({number: 30.0 if number < 6 else 10.0 for number in range(8)})
    (line,) = again(study, tmp_path, monkeypatch, trainer)
    assert trainer.asked == [0, 1, 2, 3, 4, 5, 6]
    assert line.endswith("the best trial is trial 6 now")


def test_a_run_after_which_no_trial_keeps_the_constraints_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = searched(tmp_path, (0.1, 15.0))
    (line,) = again(study, tmp_path, monkeypatch, Alone({0: 30.0}))
    assert line.endswith("before 15); no trial keeps the constraints")
    with pytest.raises(StudyError, match="no trial of the study small keeps its constraints"):
        bests.best(study)
    noted = [text for text in notes_of(study).values() if text.startswith("**small**")]
    assert noted
    assert "Best so far" not in noted[0]


def test_nothing_changes_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = again(searched(tmp_path, (0.1, 15.0)), tmp_path, monkeypatch, Alone({0: 14.0}))
    assert told == ["small: the latency of trial 0 was measured again without other workers: nothing changes"]


def test_an_interrupted_measurement_keeps_what_it_found_and_loses_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, failing = searched(tmp_path, (0.1, 15.0), (0.2, 15.0)), Alone({0: 30.0}, error=TrainingError("it died", kind="x"))
    changed, failed = again(study, tmp_path, monkeypatch, failing)
    assert "trial 0 exceeds a constraint now" in changed
    assert failed == "small: the latency of the best trials was not measured again: it died"
    assert bests.best(study).trial == 1
    assert again(study, tmp_path, monkeypatch, Alone({1: 12.0})) != []  # the rest, when the study is run again
    assert bests.best(study).costs["latency_ms"] == 12.0


def test_nothing_is_measured_on_another_device_or_another_machine_or_while_others_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trainer = searched(tmp_path, (0.1, 15.0)), Alone({0: 30.0}, device="NVIDIA H100")
    assert again(study, tmp_path, monkeypatch, trainer) == []
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        assert again(study, tmp_path, monkeypatch, Alone({0: 30.0})) == []
    other = WorkerId.here("other")
    study.storage.write(lambda connection: workers.register(connection, study, other, workers.WorkerStatus(), threads=1))
    (line,) = again(study, tmp_path, monkeypatch, Alone({0: 30.0}))
    assert line == "small: the latency of the best trials was measured while others trained, and another worker still trains"
    study.storage.write(lambda connection: workers.leave(connection, study.id, other, "done"))
    assert len(again(study, tmp_path, monkeypatch, Alone({0: 14.0}))) == 1


def test_a_study_that_limits_only_the_size_is_not_measured_again(tmp_path: Path) -> None:
    study = new(tmp_path, constraints={"size_mb": 10})
    finish(study, 0.1, weights=str(tmp_path), latency_ms=15.0, size_mb=1.0)
    assert retention.finalists(study) == []


def test_the_end_of_a_run_measures_first_and_then_shows_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = searched(tmp_path, (0.1, 25.0))
    monkeypatch.setattr(evaluation, "open_trainer", Alone({0: 19.0}))
    monkeypatch.setattr(commands_ensemble, "measure", lambda *_: None)
    folders = Folders(cache=tmp_path, artifacts=tmp_path / "a")
    (assignment,) = commands_run.make_assignments(study, study.storage.url, folders, options.plan_workers(1, None, None, None, None))
    ended = commands_run.FinishedRun(study=study, again="small.yaml", assignment=assignment, export_to=None)
    stopping = Stopping()
    stopping.ask()
    commands_run.finish(ended, stopping)
    assert "measured again" not in capsys.readouterr().err  # who presses Ctrl-C waits for nothing
    assert commands_run.finish(ended, Stopping()) == 0
    said = capsys.readouterr()
    assert "the best trial is trial 0 now" in said.err
    assert "0.1000" in said.out


def test_trials_that_nearly_keep_the_latency_keep_their_weights_beside_the_best(tmp_path: Path) -> None:
    study = new(tmp_path, results={"keep": 2})
    # near: 1 to 3 with latencies up to 40; trial 4 is too slow
    for value, latency in ((0.9, 5.0), (0.3, 30.0), (0.2, 40.0), (0.1, 21.0), (0.05, 41.0), (0.5, 5.0)):
        finish(study, value, weights="w.npz", latency_ms=latency, size_mb=1.0)
    assert [one.stored.number for one in retention.finalists(study)] == [3, 2, 1, 5, 0]
    assert sorted(one.number for one in retention.overtaken(study)) == [1, 4]
    assert retention.is_finalist(study, 0.6)
    endings.correct_costs(study, 3, {"latency_ms": 22.0, "size_mb": 1.0})
    assert sorted(one.number for one in retention.overtaken(study)) == [3, 4]  # 3 is certain now, so 1 may wait


@pytest.mark.parametrize(
    ("measured", "is_near"),
    [
        ({"latency_ms": 20.0, "size_mb": 1.0}, True),
        ({"latency_ms": 40.0, "size_mb": 1.0}, True),
        ({"latency_ms": 40.1, "size_mb": 1.0}, False),
        ({"latency_ms": 30.0, "size_mb": 10.1}, False),
        ({"size_mb": 1.0}, False),
    ],
)
def test_only_a_latency_may_be_due_to_noise(measured: dict[str, float], is_near: bool) -> None:
    assert objective.is_near({"latency_ms": 20, "size_mb": 10}, measured) == is_near
