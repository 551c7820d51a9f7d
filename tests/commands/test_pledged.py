"""What is checked is what is trained."""

from typing import Any

import pytest

from tuner import messages
from tuner.commands.pledged import PledgedTrainer
from tuner.errors import StudyError
from tuner.spec import StudySpec
from tuner.workers.rehearsal import Rehearsal, Script


def spec(**sections: Any) -> StudySpec:
    return StudySpec.model_validate({"name": "flowers", "data": {"source": "digits"}} | sections)


def prepare(study: StudySpec) -> messages.Prepare:
    return messages.Prepare(spec=study.model_dump_json(), cache=".")


def test_the_study_that_was_checked_is_trained_though_its_budget_has_changed() -> None:
    trainer = PledgedTrainer(Rehearsal(Script()), spec())
    trainer.send(prepare(spec(budget={"trials": 7})))
    assert isinstance(trainer.receive(1), messages.Prepared)
    assert trainer.memory_bytes() >= 0
    trainer.close()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"backbone": "python:theirs:build"}}, "model.backbone: 'efficientnet_lite0' -> 'python:theirs:build'"),
        ({"data": {"source": "python", "function": "theirs:read"}}, "data.function: not given -> 'theirs:read'"),
    ],
)
def test_a_study_that_was_changed_meanwhile_is_not(sections: dict[str, Any], said: str) -> None:
    trainer = PledgedTrainer(Rehearsal(Script()), spec())
    with pytest.raises(StudyError, match="was changed in the storage since this worker joined it") as raised:
        trainer.send(prepare(spec(**sections)))
    assert said in str(raised.value)
    assert trainer.receive(0) is None
    trainer.kill()
