"""A real trainer process: its messages, and when it exits."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.keras_studies import DIGITS, NETWORK, study
from tests.trainer import child
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec.hyperparameters import Hyperparameters
from tuner.trainer import loop

QUICK = Hyperparameters(batch_size=20, probe_learning_rate=1e-2, learning_rate=3e-3, unfreeze=0.6, dropout=0.2)


def kinds(run: child.Run) -> list[str]:
    return [message.kind for message in run.told]


def evaluate(trainer: child.Child, weights: str, hyperparameters: Hyperparameters = QUICK) -> messages.Message:
    return trainer.ask(messages.Evaluate(trial=0, hyperparameters=hyperparameters, weights=weights))


def failure(message: messages.Message) -> messages.Failed:
    assert isinstance(message, messages.Failed), message
    return message


def test_preparing_a_study_reports_everything_that_a_worker_records(trainer: child.Child, cache: Path) -> None:
    prepared = trainer.ask(messages.Prepare(spec=study().model_dump_json(), cache=str(cache)))
    assert isinstance(prepared, messages.Prepared)
    assert (prepared.num_train, prepared.num_validation, prepared.num_test, prepared.epochs) == (100, 60, 50, 2)
    assert prepared.device == "cpu, 1 thread"
    assert prepared.classes == tuple("0123456789")
    assert set(prepared.versions) == {"python", "keras", "tensorflow", "tuner"}
    assert prepared.seconds > 0


def test_a_trial_reports_its_epochs_waits_for_the_decision_and_reports_its_end(trainer: child.Child, tmp_path: Path) -> None:
    run = trainer.train(tmp_path, QUICK)
    # on a slow machine, epochs are worth a checkpoint
    assert [kind for kind in kinds(run) if kind != "kept"] == ["epoch"] * 3 + ["probed"] + ["epoch"] * 2 + ["finished"]
    assert [epoch.step for epoch in run.curve] == [1, 2, 3, 4, 5]
    assert run.finished.ending is Ending.COMPLETED
    assert run.finished.value == max(epoch.validation_accuracy for epoch in run.curve)
    assert {path.name for path in tmp_path.iterdir()} - {"checkpoint-0"} == {"confusion.png", "logits.npz", "mistakes.jpg", "weights-0.npz"}


def test_pretrained_weights_are_fine_tuned(trainer: child.Child, tmp_path: Path, cache: Path) -> None:
    trainer.prepare(study(model=NETWORK, training={"probe_epochs": 20, "epochs": 3}), cache)
    run = trainer.train(tmp_path, QUICK.model_copy(update={"learning_rate": 1e-3}))
    assert len(run.curve) == 23
    assert run.finished.value is not None
    assert run.finished.value > 0.3


def test_a_replay_in_a_warm_trainer_gives_the_same_curve_bit_for_bit(trainer: child.Child, tmp_path: Path) -> None:
    first, between, second = (trainer.train(tmp_path / str(number), QUICK, seed=seed) for number, seed in enumerate((1, 2, 1)))
    assert first.curve == second.curve != between.curve


def test_a_bfloat16_study_trains_on_the_processor_and_the_next_study_is_float32_again(
    trainer: child.Child, cache: Path, tmp_path: Path
) -> None:
    before = trainer.train(tmp_path / "before", QUICK)
    half = study(training={"probe_epochs": 3, "epochs": 2, "precision": "bfloat16"})
    prepared = trainer.ask(messages.Prepare(spec=half.model_dump_json(), cache=str(cache)))
    trainer.forget()
    assert isinstance(prepared, messages.Prepared)
    assert prepared.device == "cpu, 1 thread, bfloat16"
    run = trainer.train(tmp_path / "half", QUICK)
    assert run.finished.ending is Ending.COMPLETED
    assert np.isfinite([epoch.loss for epoch in run.curve]).all()
    assert run.curve != before.curve
    assert isinstance(evaluate(trainer, str(run.finished.weights)), messages.Evaluated)
    trainer.prepare(study(), cache)
    assert trainer.train(tmp_path / "after", QUICK).curve == before.curve


def stop_at(kind: str, what: messages.Stop | messages.Suspend) -> child.Answer:
    """A worker that interrupts at the first message of a kind; `fine_tune` is the first epoch of that stage."""

    def answer(message: messages.Message) -> messages.Message | None:
        if kind in (message.kind, getattr(message, "stage", None)):
            return what
        return child.go_on(message)

    return answer


#: epochs of a stage that lasts until it is interrupted
ENDLESS = 10_000


@pytest.mark.parametrize(
    ("at", "epochs", "stages"),
    [
        ("epoch", (ENDLESS, 2), {"probe"}),
        ("probed", (3, ENDLESS), {"probe"}),
        ("fine_tune", (3, ENDLESS), {"probe", "fine_tune"}),
    ],
)
@pytest.mark.parametrize(("what", "ending"), [(messages.Stop(), Ending.STOPPED), (messages.Suspend(), Ending.SUSPENDED)])
def test_a_trial_is_interrupted_at_any_time(
    trainer: child.Child, cache: Path, tmp_path: Path, at: str, epochs: tuple[int, int], stages: set[str], what: Any, ending: Ending
) -> None:
    trainer.prepare(study(training={"probe_epochs": epochs[0], "epochs": epochs[1]}), cache)
    run = trainer.train(tmp_path, QUICK, answer=stop_at(at, what))
    assert run.finished.ending is ending
    assert {epoch.stage.value for epoch in run.curve} == stages
    assert len(run.curve) < ENDLESS


def test_a_message_for_the_previous_trial_does_not_reach_the_next(trainer: child.Child, tmp_path: Path) -> None:
    def late(message: messages.Message) -> messages.Message | None:
        return messages.Stop() if message.kind == "finished" else child.go_on(message)

    trainer.train(tmp_path, QUICK, answer=late)
    assert trainer.train(tmp_path, QUICK).finished.ending is Ending.COMPLETED


def test_an_infinite_loss_is_reported_and_does_not_affect_the_next_trial(trainer: child.Child, cache: Path, tmp_path: Path) -> None:
    before = trainer.train(tmp_path, QUICK)
    trainer.prepare(study(training={"probe_epochs": 3, "epochs": 2, "gradient_clip": 1e30}), cache)
    wild = {
        "optimizer": "sgd",
        "learning_rate": 100.0,
        "head_units": (32, 32, 32, 32),
        "activation": "elu",
        "batch_size": 10,
        "dropout": 0.0,
    }
    run = trainer.train(tmp_path, Hyperparameters.model_validate(wild))
    assert run.finished.ending is Ending.NOT_FINITE
    assert "the learning rate is likely too high" in run.finished.reason
    assert not np.isfinite([run.curve[-1].loss, run.curve[-1].validation_loss]).all()
    trainer.prepare(study(), cache)
    assert trainer.train(tmp_path / "after", QUICK).curve == before.curve


def test_a_new_trainer_scores_and_repeats_a_trial_like_the_first_one_and_exits_with_its_worker(
    trainer: child.Child, cache: Path, tmp_path: Path
) -> None:
    run = trainer.train(tmp_path, QUICK)
    weights = run.finished.weights
    assert weights is not None
    here = evaluate(trainer, weights)
    with child.start() as fresh:
        unprepared = failure(evaluate(fresh, weights))
        assert (unprepared.trial, unprepared.error, unprepared.is_request) == (0, "NotPrepared", False)
        fresh.prepare(study(), cache)
        there = evaluate(fresh, weights)
        assert fresh.train(tmp_path / "fresh", QUICK).curve == run.curve
        fresh.prepare(study(training={"probe_epochs": 10_000, "epochs": 2}), cache)
        fresh.send(messages.Train(trial=0, hyperparameters=QUICK, seed=1, weights=weights, checkpoint=str(tmp_path / "c")))
        assert fresh.receive().kind == "epoch"
        fresh.pipe.close()
        assert fresh.process.wait(60) == 0
    assert isinstance(here, messages.Evaluated)
    assert here == there
    assert here.num_images == 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "folder", "path": "/no/such/folder"}, "/no/such/folder"),
        ({"source": "npz", "path": "/no/such/file.npz"}, "does not exist; expected an .npz file. Check data.path"),
        ({"source": "python", "function": "no_such_module:images"}, "data.function no_such_module:images cannot be imported"),
        (DIGITS | {"train": 5000}, "5000 of the"),
    ],
)
def test_a_study_with_missing_data_is_a_request_error(trainer: child.Child, cache: Path, data: dict[str, Any], message: str) -> None:
    told = failure(trainer.ask(messages.Prepare(spec=study(data=data).model_dump_json(), cache=str(cache))))
    trainer.forget()
    assert told.is_request
    assert told.trial is None
    assert told.error == "DataError"
    assert message in told.message


def test_after_a_study_that_failed_to_load_only_the_next_one_is_trained(trainer: child.Child, cache: Path, tmp_path: Path) -> None:
    wanted = study(model={"backbone": "no_such_file.keras", "image_size": 32})
    told = failure(trainer.ask(messages.Prepare(spec=wanted.model_dump_json(), cache=str(cache))))
    trainer.forget()
    assert told.is_request
    assert "no_such_file.keras, which is not a file" in told.message
    assert failure(trainer.train(tmp_path, QUICK).told[-1]).error == "NotPrepared"
    trainer.prepare(study(), cache)
    assert trainer.train(tmp_path, QUICK).finished.ending is Ending.COMPLETED


def test_a_failed_trial_is_reported_with_its_traceback_and_the_trainer_continues(trainer: child.Child, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told = failure(trainer.train(tmp_path / "file", QUICK, number=4).told[-1])
    assert (told.trial, told.is_request) == (4, False)
    assert told.error in ("NotADirectoryError", "FileExistsError")
    assert "Traceback (most recent call last)" in told.traceback
    missing = failure(evaluate(trainer, str(tmp_path / "gone.npz")))
    assert missing.error == "FileNotFoundError"
    assert "gone.npz" in missing.message
    assert trainer.train(tmp_path, QUICK).finished.ending is Ending.COMPLETED


def test_a_trainer_outlives_a_ctrl_c_of_the_terminal(trainer: child.Child, tmp_path: Path) -> None:
    trainer.process.send_signal(signal.SIGINT)
    assert trainer.train(tmp_path, QUICK).finished.ending is Ending.COMPLETED


def test_an_error_inside_a_graph_is_reported_in_one_line() -> None:
    inverse = tf.function(tf.linalg.inv)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        inverse(tf.zeros((2, 2)))
    assert len(str(caught.value).splitlines()) > 1
    assert loop._message_of(caught.value) == "Input is not invertible."


def test_a_trainer_goes_from_study_to_study_and_back_with_the_same_curve_and_bounded_memory(
    trainer: child.Child, cache: Path, tmp_path: Path
) -> None:
    here, other = study(), study(name="other", seed=3, model=NETWORK | {"weights": "none"})
    trainer.prepare(here, cache)
    first = trainer.train(tmp_path / "first", QUICK)
    used = []
    for number in range(4):
        for one in (other, here):
            trainer.prepare(one, cache)
            run = trainer.train(tmp_path / f"{one.name}-{number}", QUICK)
        used.append(psutil.Process(trainer.process.pid).memory_info().rss)
    assert run.curve == first.curve
    assert used[-1] - used[1] < 100 * 2**20
