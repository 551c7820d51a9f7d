"""Studies of user code whose trials are trained by hand: a minimized objective, and a Keras model with several metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.studies import by_hand
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.spec import file as study_file
from tuner.storage.engine import Storage
from tuner.studies import data_check, trials
from tuner.studies import study as studies
from tuner.studies.claims import Claim
from tuner.studies.questions import TrialQuestions
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId
from tuner.trust.user_code import CodeFile

PREPARED = by_hand.PREPARED.model_copy(
    update={"classes": (), "num_train": 0, "num_validation": 0, "num_test": 0, "epochs": 0, "splits": ""}
)
PREPARED_MODEL = PREPARED.model_copy(update={"num_train": 2000, "num_validation": 500, "num_test": 400})
#: metrics of two epochs of the custom study
METRICS = (
    {"loss": 0.5, "auc": 0.75, "val_loss": 1234.5, "val_auc": 0.625, "steps_lost": 3.0},
    {"loss": 0.25, "auc": 0.875, "val_loss": 1e-7, "val_auc": 0.5, "steps_lost": 2.0},
)


def claim(study: Study) -> Claim:
    found = trials.claim(study, WorkerId.here("hand"), num_train=0, num_classes=0, epochs=0)
    assert found is not None
    return found


def epochs(claimed: Claim, values: Sequence[float], metrics: Sequence[Mapping[str, float]] = ()) -> list[messages.Epoch]:
    """Return the epochs of a trial with one stage; the steps of an objective begin at 0."""
    reported = metrics or [{}] * len(values)
    return [
        messages.Epoch(trial=claimed.number, stage=Stage.TRAIN, step=step, seconds=1.0, value=value, metrics=dict(known))
        for step, (value, known) in enumerate(zip(values, reported, strict=True), 1 if metrics else 0)
    ]


def finish(study: Study, claimed: Claim, value: float | None, asked: Mapping[str, Any], **known: Any) -> None:
    best = {"ending": Ending.COMPLETED, "fine_tune_seconds": 4.0} | known
    finished = messages.Finished(trial=claimed.number, value=value, asked=dict(asked), **best)
    trials.finish(study, claimed, finished, [], device="cpu, 2 threads")


def objective(
    storage: Storage, *, values: Sequence[float] = (1234.5, 1e-7, 20.25), running: Sequence[float] = (), **sections: Any
) -> Study:
    """Return a minimized objective that asks for `rate` and `kind`, with a completed trial for each value, and perhaps one that runs."""
    given = {"name": "cost", "task": "objective", "function": "my.py:cost", "objective": {"metric": "cost", "direction": "minimize"}}
    study = studies.join(study_file.parse(given | sections, "cost.yaml"), storage)
    data_check.admit(study, PREPARED)
    for value in values:
        claimed, asked = ask(study)
        trials.report(study, claimed, epochs(claimed, [value * 2, value]))
        printed = f"trial {claimed.number} printed <b>this</b>\n"
        finish(study, claimed, value, asked, best_step=1, printed=printed, attributes={"note": {"a": 1}, "seed": "mine", "sizes": [1, 2]})
    if running:
        claimed, _ = ask(study)
        trials.report(study, claimed, epochs(claimed, running))
    return study


def ask(study: Study) -> tuple[Claim, dict[str, Any]]:
    """Return a new trial and the values that it asked for."""
    claimed = claim(study)
    wanted = (
        messages.Ask(trial=claimed.number, name="rate", low=1e-5, high=0.1, log=True),
        messages.Ask(trial=claimed.number, name="kind", choices=("plain", "fast")),
    )
    questions = TrialQuestions(study, claimed)
    asked = {question.name: questions.answer(question).value for question in wanted}
    return questions.claim, asked


def custom(
    storage: Storage,
    *,
    values: Sequence[float] = (0.625, 0.75),
    weights: str = "/weights.h5",
    code: Sequence[CodeFile] = (),
    **sections: Any,
) -> Study:
    """Return a study of a Keras model that maximizes `val_auc`, with a completed trial for each value."""
    given = {
        "name": "churn", "task": "custom", "model": {"build": "churn.py:build"}, "data": {"load": "churn.py:load"},
        "objective": "val_auc", "search": {"units": [16, 512], "width.on": [True, False]}, "budget": {"trials": 8},
    }  # fmt: skip
    study = studies.join(study_file.parse(given | sections, "churn.yaml"), storage)
    data_check.admit(study, PREPARED_MODEL.model_copy(update={"code": code}))
    for value in values:
        claimed = claim(study)
        trials.report(study, claimed, epochs(claimed, [value, 0.5], METRICS))
        asked = claimed.hyperparameters.model_dump()["values"]
        finish(study, claimed, value, asked, best_step=1, metrics=METRICS[0], weights=weights, printed="Epoch 1: fine\n")
    return study
