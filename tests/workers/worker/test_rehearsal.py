"""The rehearsal behaves like a trainer."""

from pathlib import Path

import pytest

from tests.waiting import WaitPoint
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.workers.worker.rehearsal import Fault, Rehearsal, Script
from tuner.workers.worker.trainer import TrainerDied

SPEC = StudySpec.model_validate({"name": "x", "data": {"source": "digits"}})


def prepared(script: Script) -> Rehearsal:
    trainer = Rehearsal(script)
    trainer.send(messages.Prepare(spec=SPEC.model_dump_json(), cache="."))
    assert isinstance(trainer.receive(1), messages.Prepared)
    return trainer


def train(tmp_path: Path, **changes: float) -> messages.Train:
    hyperparameters = Hyperparameters().model_copy(update=changes)
    return messages.Train(trial=0, hyperparameters=hyperparameters, seed=1, weights=str(tmp_path / "w"), checkpoint=str(tmp_path / "c"))


def until_probed(trainer: Rehearsal) -> list[messages.Message | None]:
    heard = [trainer.receive(1)]
    while not isinstance(heard[-1], messages.Probed | messages.Finished):
        heard.append(trainer.receive(1))
    return heard


def test_a_trial_waits_after_its_probe_and_continues(tmp_path: Path) -> None:
    trainer = prepared(Script())
    trainer.send(train(tmp_path))
    assert len(until_probed(trainer)) == 3
    assert trainer.receive(0.01) is None
    trainer.send(messages.Proceed())
    heard = [trainer.receive(1) for _ in range(4)]
    assert [message.step for message in heard[:3] if isinstance(message, messages.Epoch)] == [3, 4, 5]
    assert isinstance(heard[3], messages.Finished)
    assert heard[3].ending is Ending.COMPLETED


def test_a_trial_with_nothing_to_unfreeze_ends_with_its_probe(tmp_path: Path) -> None:
    trainer = prepared(Script())
    trainer.send(train(tmp_path, unfreeze=0.0))
    last = until_probed(trainer)[-1]
    assert isinstance(last, messages.Finished)


def test_a_suspended_trial_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    trainer = prepared(Script())
    trainer.send(train(tmp_path))
    until_probed(trainer)
    trainer.send(messages.Suspend())
    assert isinstance(trainer.receive(1), messages.CheckpointWritten)
    suspended = trainer.receive(1)
    assert isinstance(suspended, messages.Finished)
    assert suspended.ending is Ending.SUSPENDED
    trainer.send(train(tmp_path))
    resumed = trainer.receive(1)
    assert isinstance(resumed, messages.Resumed)
    assert [epoch.step for epoch in resumed.curve] == [1, 2]
    again = trainer.receive(1)
    assert isinstance(again, messages.Epoch)
    assert again.step == 3


@pytest.mark.parametrize("point", ["trial 0 epoch 2", "epoch 2"])
def test_a_trainer_waits_at_a_named_point_until_the_file_is_there(tmp_path: Path, point: str) -> None:
    waits = WaitPoint(tmp_path, point)
    trainer = prepared(Script(**waits.script))
    trainer.send(train(tmp_path))
    assert isinstance(trainer.receive(1), messages.Epoch)
    assert trainer.receive(0.01) is None
    waits.until_reached()
    waits.go_on()
    epoch = trainer.receive(1)
    assert isinstance(epoch, messages.Epoch)
    assert epoch.step == 2


def test_a_message_ends_the_wait_of_a_trainer(tmp_path: Path) -> None:
    trainer = prepared(Script(**WaitPoint(tmp_path, "trial 0 epoch 1").script))
    trainer.send(train(tmp_path))
    assert trainer.receive(0.01) is None
    trainer.send(messages.Stop())
    assert isinstance(trainer.receive(1), messages.Epoch)
    stopped = trainer.receive(1)
    assert isinstance(stopped, messages.Finished)
    assert stopped.ending is Ending.STOPPED


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.LATE_CRASH])
def test_a_crash_happens_once(tmp_path: Path, fault: Fault) -> None:
    script = Script(faults={0: [fault]})
    trainer = prepared(script)
    trainer.send(train(tmp_path))
    with pytest.raises(TrainerDied):
        until_probed(trainer)
        trainer.send(messages.Proceed())
        trainer.receive(1)
    fresh = prepared(script)
    fresh.send(train(tmp_path))
    until_probed(fresh)
    assert script.num_started == 2
