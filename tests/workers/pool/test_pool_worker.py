"""A worker of the pool with rehearsed trainers: it goes from study to study, keeps its trainer, and says what it cannot serve."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.waiting import until
from tuner.queue import entries, limits, pool
from tuner.queue.entries import Entry, QueueState, Submission
from tuner.queue.pool import Abilities
from tuner.spec import file as study_file
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.pool.pool_worker import PoolTiming, PoolWorker
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping

SHORT = PoolTiming(poll_seconds=0.05, leave_after_seconds=0.3)


@dataclass
class Crew:
    """Workers of one pool, as threads of this process."""

    storage: Storage
    folder: Path
    script: Script = field(default_factory=Script)
    stopping: Stopping = field(default_factory=Stopping)
    events: list[Event] = field(default_factory=list)

    def submit(self, name: str, *, trials: int = 2, sections: dict[str, Any] | None = None, **asked: Any) -> Entry:
        given = {
            "name": name, "data": {"source": "digits"}, "budget": {"trials": trials}, "sampler": "random", "pruner": "none",
            "training": {"probe_epochs": 2, "promote": 1.0},
        }  # fmt: skip
        spec = study_file.parse(given | (sections or {}), "study.yaml", self.folder)
        return entries.submit(self.storage, spec, Submission(**({"owner": "ann"} | asked)))

    def work(self, name: str = "w1", abilities: Abilities | None = None, timing: PoolTiming = SHORT) -> None:
        """Be a worker until it ends."""

        def assignment(study: Study) -> Assignment:
            folders = Folders(cache=self.folder / "cache", artifacts=self.folder / "artifacts", bucket=None)
            return Assignment(study=study.name, spec=study.spec, storage=self.storage.url, worker=name, folders=folders, threads=1)

        PoolWorker(
            self.storage, WorkerId.here(name), abilities or Abilities(),
            assignment=assignment, start=lambda _: Rehearsal(self.script), stopping=self.stopping, tell=self.events.append,
        ).run(timing)  # fmt: skip

    def begin(self, name: str = "w1", abilities: Abilities | None = None, timing: PoolTiming = SHORT) -> threading.Thread:
        """Let a worker work in a thread."""
        thread = threading.Thread(target=self.work, args=(name, abilities, timing))
        thread.start()
        return thread

    def happened(self, what: EventKind) -> list[tuple[str, int | None]]:
        """Return study and trial of each event of a kind."""
        return [(event.study, event.trial) for event in self.events if event.what is what]

    def states(self) -> dict[str, QueueState]:
        """Return the state of each study in the queue."""
        return {one.name: one.state for one in entries.entries(self.storage)}

    def values(self, name: str) -> list[str]:
        """Return the state of each trial of a study."""
        return [trial.state.name for trial in studies.load(name, self.storage).optuna.get_trials(deepcopy=False)]


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    opened = storages.open(databases.sqlite(tmp_path))
    yield Crew(storage=opened, folder=tmp_path)
    opened.close()


def test_one_trainer_serves_all_studies_of_the_queue_in_their_order(crew: Crew) -> None:
    for name, priority in (("a", 0), ("b", 2), ("c", 1)):
        crew.submit(name, priority=priority)
    crew.work()
    assert crew.states() == dict.fromkeys("abc", QueueState.DONE)
    assert [study for study, _ in crew.happened(EventKind.COMPLETED)] == ["b", "b", "c", "c", "a", "a"]
    assert crew.script.num_started == 1
    assert crew.happened(EventKind.TROUBLE) == []
    [member] = pool.members(crew.storage)
    assert member.ending == "there was nothing to do"
    assert limits.usage(crew.storage)["ann"].num_trials == 6


def test_a_study_that_names_code_gets_a_trainer_of_its_own(crew: Crew) -> None:
    crew.submit("a")
    (crew.folder / "my_backbones.py").write_text("def build(size): ...")
    crew.submit("b", sections={"model": {"backbone": "python:json:loads", "weights": "none"}})
    crew.submit("c")
    crew.work(abilities=Abilities(allowed_code=("json",)))
    assert set(crew.states().values()) == {QueueState.DONE}
    assert crew.script.num_started == 3


@pytest.mark.parametrize(
    ("sections", "abilities", "reason"),
    [
        ({"model": {"backbone": "python:json:loads", "weights": "none"}}, {}, "names code to import, model.backbone json:loads"),
        ({"data": {"source": "folder", "path": "flowers"}}, {}, "and this worker has no --data-root"),
        ({"data": {"source": "folder", "path": "flowers"}}, {"data_root": "{folder}/data"}, "no folder {folder}/data/flowers"),
        ({"data": {"source": "npz", "path": "{folder}/link.npz"}}, {"data_root": "{folder}/data"}, "leads out of the data root"),
    ],
)
def test_what_a_worker_cannot_serve_is_stored_with_the_reason(
    crew: Crew, sections: dict[str, Any], abilities: dict[str, Any], reason: str
) -> None:
    (crew.folder / "data").mkdir()
    (crew.folder / "outside.npz").touch()
    (crew.folder / "data" / "link.npz").symlink_to(crew.folder / "outside.npz")
    (crew.folder / "link.npz").touch()
    filled = {
        section: {key: value.replace("{folder}", str(crew.folder)) for key, value in values.items()} for section, values in sections.items()
    }
    able = {key: value.replace("{folder}", str(crew.folder)) for key, value in abilities.items()}
    found = crew.submit("refused", sections=filled, priority=5)
    crew.submit("served")
    worker = crew.begin(abilities=Abilities(**able), timing=PoolTiming(poll_seconds=0.05))
    until(lambda: crew.states()["served"] is QueueState.DONE)
    crew.stopping.ask()
    worker.join()
    assert crew.states()["refused"] is QueueState.QUEUED
    [message] = {event.message for event in crew.events if event.what is EventKind.REFUSED}
    assert reason.replace("{folder}", str(crew.folder)) in message
    assert crew.values(found.name) == []


@pytest.mark.parametrize("path", ["../outside", "/etc", "a/../../outside"])
def test_a_path_that_leads_out_of_the_data_root_is_refused(crew: Crew, path: str) -> None:
    (crew.folder / "data").mkdir()
    (crew.folder / "outside").mkdir()
    crew.submit("hostile", sections={"data": {"source": "folder", "path": "x"}}, data_path=path)
    crew.work(abilities=Abilities(data_root=str(crew.folder / "data")))
    [message] = {event.message for event in crew.events if event.what is EventKind.REFUSED}
    assert "leads out of the data root" in message


def test_the_trial_of_a_lower_priority_is_suspended_for_a_study_that_preempts_and_resumes_later(crew: Crew, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    crew.script = Script(keeps_epochs=True, wait_at={"trial 0 epoch 3": str(gate)})
    crew.submit("low", trials=1)
    worker = crew.begin()
    until(Path(f"{gate}.reached").exists)
    crew.submit("urgent", trials=1, priority=5, preempts=True)
    until(lambda: crew.happened(EventKind.SUSPENDED))
    gate.touch()
    worker.join()
    assert crew.happened(EventKind.SUSPENDED) == [("low", 0)]
    assert crew.happened(EventKind.COMPLETED) == [("urgent", 0), ("low", 0)]
    assert crew.happened(EventKind.RESUMED) == [("low", 0)]
    assert crew.script.num_started == 1


def test_a_stopped_pool_suspends_its_trials_and_continues_when_it_is_started(crew: Crew, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    crew.script = Script(keeps_epochs=True, wait_at={"trial 0 epoch 3": str(gate)})
    crew.submit("a", trials=1)
    worker = crew.begin(timing=PoolTiming(poll_seconds=0.05, leave_after_seconds=3.0))
    until(Path(f"{gate}.reached").exists)
    limits.stop(crew.storage, by="ann")
    until(lambda: crew.happened(EventKind.SUSPENDED))
    gate.touch()
    assert crew.happened(EventKind.COMPLETED) == []
    limits.start(crew.storage)
    worker.join()
    assert crew.states() == {"a": QueueState.DONE}


@pytest.mark.parametrize("now", [False, True])
def test_a_drained_worker_leaves_after_its_trial_or_at_once(crew: Crew, tmp_path: Path, now: bool) -> None:
    gate = tmp_path / "gate"
    crew.script = Script(keeps_epochs=True, wait_at={"trial 0 epoch 3": str(gate)})
    crew.submit("a", trials=3)
    worker = crew.begin()
    until(Path(f"{gate}.reached").exists)
    pool.drain(crew.storage, "w1", now=now, by="eve")
    if now:
        until(lambda: crew.happened(EventKind.SUSPENDED))
    gate.touch()
    worker.join()
    assert crew.happened(EventKind.SUSPENDED if now else EventKind.COMPLETED) == [("a", 0)]
    assert [member.ending for member in pool.members(crew.storage)] == ["drained by eve"]
    crew.work("w2")
    assert crew.states() == {"a": QueueState.DONE}
    assert crew.values("a") == ["COMPLETE"] * 3


def test_a_cancelled_study_is_left_at_once(crew: Crew, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    crew.script = Script(keeps_epochs=True, wait_at={"trial 0 epoch 3": str(gate)})
    crew.submit("a", trials=3)
    worker = crew.begin()
    until(Path(f"{gate}.reached").exists)
    entries.cancel(crew.storage, "a", by="eve")
    until(lambda: crew.happened(EventKind.SUSPENDED))
    worker.join()
    assert crew.states() == {"a": QueueState.CANCELLED}
    assert crew.happened(EventKind.COMPLETED) == []


def test_a_study_whose_images_cannot_be_used_is_refused_and_the_worker_serves_the_next(crew: Crew) -> None:
    crew.script = Script(refusal="the images are broken")
    crew.submit("a", priority=1)
    crew.work()
    assert crew.states() == {"a": QueueState.RUNNING}
    assert [event.message for event in crew.events if event.what is EventKind.REFUSED] == ["the images are broken"]


def test_several_workers_share_studies_and_train_each_budget_exactly(crew: Crew) -> None:
    wanted = {"a": 3, "b": 1, "c": 2}
    for name, number in wanted.items():
        crew.submit(name, trials=6, num_wanted=number, owner=name)
    crew.script = Script(epoch_seconds=0.01)
    threads = [crew.begin(f"w{number}") for number in range(4)]
    for thread in threads:
        thread.join()
    assert crew.states() == dict.fromkeys(wanted, QueueState.DONE)
    assert {name: crew.values(name) for name in wanted} == dict.fromkeys(wanted, ["COMPLETE"] * 6)
    assert len(crew.happened(EventKind.COMPLETED)) == 18
