"""A trial from its hyperparameters to its result, interrupted and resumed at any point."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.keras_studies import DIGITS, study
from tuner import errors
from tuner.kernels import checkpoints, losses, scoring
from tuner.kernels.checkpoints import TrialTiming
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Epoch, Stage
from tuner.spec.hyperparameters import Augmentation, ClassWeights, Features, Hyperparameters, Optimizer, ProbeSolver
from tuner.tasks.images.training import evaluation, fine_tune, probe, steps, training_data, trial
from tuner.tasks.images.training.study_context import StudyContext

#: everything that one epoch hands on to the next is on: dropout, momentum, averages, random changes
RICH = Hyperparameters.model_validate(
    {
        "head_units": (16,),
        "dropout": 0.2,
        "batch_size": 16,
        "probe_learning_rate": 1e-2,
        "learning_rate": 3e-3,
        "unfreeze": 0.6,
        "layer_decay": 0.7,
        "ema": 0.6,
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "augmentation": {"flip": "horizontal", "translation": 0.1, "brightness": 0.2, "erasing": 0.2, "mixup": 0.2},
    }
)
PLAIN = Hyperparameters(batch_size=20, probe_learning_rate=1e-2, learning_rate=3e-3, unfreeze=0.6, dropout=0.0)
#: the head alone is trained well, and the fine-tuning spoils it
SPOILED = PLAIN.model_copy(update={"optimizer": Optimizer.SGD, "learning_rate": 50.0, "warmup": 0.0})
#: the head alone is hardly trained, and the fine-tuning makes up for it
MENDED = PLAIN.model_copy(update={"probe_learning_rate": 1e-6, "learning_rate": 1e-2, "unfreeze": 1.0, "ema": 0.3})
DEEPER = MENDED.model_copy(update={"features": Features.SEVERAL, "unfreeze": 0.4, "head_units": (8,)})


class Control:
    """A worker in the same process that sends given answers."""

    def __init__(
        self,
        *,
        interrupt: Callable[[list[messages.Message], int], messages.Stop | messages.Suspend | None] | None = None,
        epochs: int | None = None,
    ) -> None:
        self.told: list[messages.Message] = []
        self._interrupt, self._epochs, self._looks = interrupt, epochs, itertools.count()

    def send(self, message: messages.Message) -> None:
        self.told.append(message)

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        return self._interrupt(self.told, next(self._looks)) if self._interrupt else None

    def decision(self) -> messages.Proceed | messages.Stop | messages.Suspend:
        return self.interruption() or messages.Proceed(epochs=self._epochs)

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        raise AssertionError("a trial of images asks for nothing")

    @property
    def curve(self) -> list[Epoch]:
        return [message.model_copy(update={"seconds": 0.0}) for message in self.told if isinstance(message, Epoch)]


def order(folder: Path, hyperparameters: Hyperparameters, *, seed: int = 7) -> messages.Train:
    weights, checkpoint = str(folder / "weights"), str(folder / "checkpoint")
    return messages.Train(trial=3, hyperparameters=hyperparameters, seed=seed, weights=weights, checkpoint=checkpoint)


#: a checkpoint after every epoch, and another attempt soon at a full disk
EAGER = TrialTiming(worth_writing_seconds=-1.0, retry_seconds=0.05)


def run(
    context: StudyContext, wanted: messages.Train, control: Control | None = None, *, timing: TrialTiming = EAGER
) -> tuple[messages.Finished, Control]:
    control = control or Control()
    return trial.TrialTraining(context, wanted, control, timing=timing).run(), control


def after(count: int, what: messages.Stop | messages.Suspend, *, stage: Stage, looks: int = 0) -> Control:
    """A worker that interrupts a number of checks after a number of epochs of a stage."""
    seen: list[int] = []

    def interrupt(told: list[messages.Message], look: int) -> messages.Stop | messages.Suspend | None:
        if sum(isinstance(message, Epoch) and message.stage is stage for message in told) < count:
            return None
        seen.append(look)
        return what if len(seen) > looks else None

    return Control(interrupt=interrupt)


@pytest.mark.parametrize("solver", ["lbfgs", "conjugate_gradient", "ridge"])
def test_fine_tuning_starts_from_the_head_of_an_exact_probe(context: StudyContext, tmp_path: Path, solver: str) -> None:
    wanted = PLAIN.model_copy(update={"probe_solver": ProbeSolver(solver)})
    finished, control = run(context, order(tmp_path / "whole", wanted))
    assert finished.ending is Ending.COMPLETED
    # the probe is one epoch, with the number of the last epoch of any probe
    assert [(epoch.stage, epoch.step) for epoch in control.curve] == [(Stage.PROBE, 3), (Stage.FINE_TUNE, 4), (Stage.FINE_TUNE, 5)]
    suspended, first = run(
        replace(context, solved={}), order(tmp_path / "parts", wanted), after(1, messages.Suspend(), stage=Stage.FINE_TUNE)
    )
    assert suspended.ending is Ending.SUSPENDED
    resumed, second = run(replace(context, solved={}), order(tmp_path / "parts", wanted))
    assert resumed.value == finished.value
    assert second.curve[-1:] == control.curve[-1:]
    assert first.curve == control.curve[: len(first.curve)]


def test_a_trial_that_is_shortened_after_its_probe_is_one_with_fewer_epochs(context: StudyContext, tmp_path: Path) -> None:
    _, shortened = run(context, order(tmp_path / "shortened", PLAIN), Control(epochs=1))
    _, short = run(context, order(tmp_path / "short", PLAIN).model_copy(update={"epochs": 1}))
    assert shortened.curve == short.curve
    assert [epoch.stage for epoch in short.curve[-2:]] == [Stage.PROBE, Stage.FINE_TUNE]


@pytest.fixture(scope="module")
def plain(_context: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[messages.Finished, Control]:
    """A plain trial without interruptions."""
    return run(_context, order(tmp_path_factory.mktemp("plain"), PLAIN))


@pytest.fixture(scope="module")
def rich(_context: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[messages.Finished, Control]:
    """A trial of three epochs with many features on, without interruptions."""
    return run(replace(_context, epochs=3), order(tmp_path_factory.mktemp("rich"), RICH))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_trial_probes_then_fine_tunes_and_its_value_is_its_best_epoch(plain: tuple[messages.Finished, Control]) -> None:
    finished, control = plain
    # on a slow machine, epochs are worth a checkpoint
    told = [type(message).__name__ for message in control.told if not isinstance(message, messages.CheckpointWritten)]
    assert told == ["Epoch"] * 3 + ["Probed"] + ["Epoch"] * 2
    curve = control.curve
    assert [(epoch.step, epoch.stage) for epoch in curve] == [(1, "probe"), (2, "probe"), (3, "probe"), (4, "fine_tune"), (5, "fine_tune")]
    values = [epoch.validation_accuracy for epoch in curve]
    [probed] = [message for message in control.told if isinstance(message, messages.Probed)]
    assert probed.value == max(values[:3])
    assert finished.ending is Ending.COMPLETED
    assert finished.value == max(values)
    assert finished.best_step is not None
    assert values[finished.best_step - 1] == finished.value
    assert np.sum(finished.confusion) == 60
    assert np.trace(finished.confusion) / 60 == pytest.approx(finished.value)
    assert finished.weights is not None
    assert finished.weights.endswith("/weights.npz")
    assert finished.probe_seconds > 0
    assert finished.fine_tune_seconds > 0


def test_the_learning_rate_of_each_epoch_is_reported(plain: tuple[messages.Finished, Control]) -> None:
    rates = [epoch.learning_rate for epoch in plain[1].curve]
    assert rates[0] > rates[1] > rates[2] > 0
    assert rates[0] < 1e-2
    assert 0 < rates[4] < rates[3] < 3e-3


def test_a_trial_that_unfreezes_nothing_ends_with_the_probe(context: StudyContext, tmp_path: Path) -> None:
    finished, control = run(context, order(tmp_path, PLAIN.model_copy(update={"unfreeze": 0.0})))
    assert [type(message).__name__ for message in control.told] == ["Epoch"] * 3
    assert finished.ending is Ending.COMPLETED
    assert finished.fine_tune_seconds == 0


def test_a_study_without_fine_tuning_ends_each_trial_with_the_probe(context: StudyContext, tmp_path: Path) -> None:
    finished, control = run(replace(context, epochs=0), order(tmp_path, PLAIN))
    assert len(control.told) == 3
    assert finished.ending is Ending.COMPLETED


def test_a_replayed_trial_gives_the_same_curve_bit_for_bit(
    context: StudyContext, tmp_path: Path, rich: tuple[messages.Finished, Control]
) -> None:
    finished, control = run(replace(context, epochs=3), order(tmp_path, RICH))
    assert control.curve == rich[1].curve
    assert (finished.value, finished.best_step, finished.confusion) == (rich[0].value, rich[0].best_step, rich[0].confusion)


def test_another_seed_gives_another_curve(context: StudyContext, tmp_path: Path, plain: tuple[messages.Finished, Control]) -> None:
    _, other = run(context, order(tmp_path, PLAIN, seed=8))
    assert [one.loss != two.loss for one, two in zip(plain[1].curve, other.curve, strict=True)] == [True] * 5


@pytest.mark.parametrize(("looks", "steps"), [(0, 0), (3, 3), (6, 6)], ids=["between epochs", "within an epoch", "after its last step"])
def test_a_suspended_trial_resumes_at_its_step_and_gives_the_same_result(
    context: StudyContext, tmp_path: Path, looks: int, steps: int, rich: tuple[messages.Finished, Control]
) -> None:
    longer, wanted = replace(context, epochs=3), order(tmp_path, RICH)
    suspended, before = run(longer, wanted, after(1, messages.Suspend(), stage=Stage.FINE_TUNE, looks=looks))
    assert suspended.ending is Ending.SUSPENDED
    assert suspended.weights is None
    assert kept(tmp_path) == ["checkpoint"]
    found = checkpoints.read(tmp_path / "checkpoint", wanted, study=longer.identity)
    assert found is not None
    assert found.progress.done == (0, 1, steps)
    finished, rest = run(longer, wanted)
    assert finished.ending is Ending.COMPLETED
    assert before.curve + rest.curve == rich[1].curve
    assert (finished.value, finished.best_step, finished.confusion) == (rich[0].value, rich[0].best_step, rich[0].confusion)
    assert finished.mistakes == rich[0].mistakes
    # the checkpoint is the worker's to delete, when the storage has the result
    assert kept(tmp_path) == ["checkpoint", "confusion.png", "logits.npz", "mistakes.jpg", "weights.npz"]


def test_a_trial_that_is_suspended_again_and_again_repeats_no_step(
    context: StudyContext, tmp_path: Path, rich: tuple[messages.Finished, Control]
) -> None:
    longer, wanted = replace(context, epochs=3), order(tmp_path, RICH)
    curve: list[Epoch] = []
    num_attempts = 0
    ending = Ending.SUSPENDED
    while ending is Ending.SUSPENDED:
        num_attempts += 1
        # two steps an attempt, one between two epochs
        looks = itertools.count()
        control = Control(interrupt=lambda told, _, looks=looks: messages.Suspend() if _steps(told, looks) > 2 else None)  # type: ignore[misc]
        finished, control = run(longer, wanted, control)
        ending, curve = finished.ending, curve + control.curve
    assert num_attempts > 4
    assert curve == rich[1].curve
    assert finished.value == rich[0].value


def _steps(told: list[messages.Message], looks: "itertools.count[int]") -> int:
    """Number of times that the trial checked for an interruption after its probe."""
    is_probing = any(isinstance(message, Epoch) and message.stage is Stage.PROBE for message in told)
    return 0 if is_probing and not any(isinstance(message, messages.Probed) for message in told) else next(looks)


def test_a_worker_that_resumes_a_trial_gets_epochs_that_the_previous_worker_may_not_have_reported(
    context: StudyContext, tmp_path: Path, rich: tuple[messages.Finished, Control]
) -> None:
    class Killed(Exception):
        pass

    class Mortal(Control):
        """A worker that is killed when the checkpoint has the first epoch of fine-tuning."""

        def send(self, message: messages.Message) -> None:
            if isinstance(message, messages.CheckpointWritten):
                raise Killed
            super().send(message)

    longer, wanted = replace(context, epochs=3), order(tmp_path, RICH)
    mortal = Mortal()
    with pytest.raises(Killed):
        run(longer, wanted, mortal)
    measured = [message for message in mortal.told if isinstance(message, Epoch)]
    _, second = run(longer, wanted, after(1, messages.Suspend(), stage=Stage.FINE_TUNE))
    assert second.told[0] == messages.Resumed(trial=3, curve=tuple(measured))
    measured += [message for message in second.told if isinstance(message, Epoch)]
    finished, third = run(longer, wanted)
    assert third.told[0] == messages.Resumed(trial=3, curve=tuple(measured))
    assert [epoch.model_copy(update={"seconds": 0.0}) for epoch in measured] + third.curve == rich[1].curve
    assert finished.fine_tune_seconds == pytest.approx(
        sum(epoch.seconds for epoch in (*measured, *(message for message in third.told if isinstance(message, Epoch))) if epoch.step > 3)
    )
    assert finished.value == rich[0].value


def test_a_trial_that_another_worker_took_over_does_not_touch_the_files(context: StudyContext, tmp_path: Path) -> None:
    lost = after(1, messages.Suspend(keeps=False), stage=Stage.FINE_TUNE, looks=3)
    run(replace(context, epochs=3), order(tmp_path, RICH), lost)
    found = checkpoints.read(tmp_path / "checkpoint", order(tmp_path, RICH), study=context.identity)
    assert found is not None
    assert found.progress.done == (0, 1, 0)


def test_a_trial_resumes_from_the_further_of_two_checkpoints(
    context: StudyContext, tmp_path: Path, rich: tuple[messages.Finished, Control]
) -> None:
    longer, wanted = replace(context, epochs=3), order(tmp_path, RICH)
    run(longer, wanted, after(1, messages.Suspend(), stage=Stage.FINE_TUNE))
    behind = (tmp_path / "checkpoint").rename(tmp_path / "behind")
    run(longer, wanted.model_copy(update={"fetched": str(behind)}), after(1, messages.Suspend(), stage=Stage.FINE_TUNE, looks=4))
    for one, two in ((tmp_path / "checkpoint", behind), (behind, tmp_path / "checkpoint")):
        here = wanted.model_copy(update={"checkpoint": str(tmp_path / "here"), "fetched": str(two)})
        shutil.copy(one, tmp_path / "here")
        _, control = run(longer, here)
        assert control.curve == rich[1].curve[-len(control.curve) :]
        assert len(control.curve) == 1


def test_a_damaged_checkpoint_is_ignored(context: StudyContext, tmp_path: Path, plain: tuple[messages.Finished, Control]) -> None:
    (tmp_path / "checkpoint").write_bytes(b"hello")
    _, again = run(context, order(tmp_path, PLAIN))
    assert again.curve == plain[1].curve


def test_a_short_epoch_is_not_worth_a_checkpoint(context: StudyContext, tmp_path: Path) -> None:
    control = after(1, messages.Suspend(), stage=Stage.FINE_TUNE)
    finished, _ = run(context, order(tmp_path, PLAIN), control, timing=TrialTiming(worth_writing_seconds=1e6))
    assert finished.ending is Ending.SUSPENDED
    assert kept(tmp_path) == []


@pytest.mark.parametrize("what", [messages.Stop(), messages.Suspend()])
@pytest.mark.parametrize(("count", "stage", "epochs"), [(1, Stage.PROBE, 1), (3, Stage.PROBE, 3), (1, Stage.FINE_TUNE, 4)])
def test_a_trial_obeys_at_the_next_step(
    context: StudyContext, tmp_path: Path, what: messages.Stop | messages.Suspend, count: int, stage: Stage, epochs: int
) -> None:
    finished, control = run(context, order(tmp_path, PLAIN), after(count, what, stage=stage))
    assert finished.ending is (Ending.STOPPED if isinstance(what, messages.Stop) else Ending.SUSPENDED)
    assert len(control.curve) == epochs
    assert finished.value == max(epoch.validation_accuracy for epoch in control.curve)
    assert finished.weights is None


def test_a_stopped_trial_leaves_no_file_behind(context: StudyContext, tmp_path: Path) -> None:
    run(context, order(tmp_path, PLAIN), after(1, messages.Stop(), stage=Stage.FINE_TUNE, looks=3))
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("hyperparameters", "stage"),
    [
        ({"optimizer": "sgd", "probe_learning_rate": 100.0, "head_units": (32, 32, 32, 32), "activation": "elu"}, "probe"),
        ({"optimizer": "sgd", "learning_rate": 100.0, "head_units": (32, 32, 32, 32), "activation": "elu"}, "fine_tune"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_trial_with_the_reason(
    context: StudyContext, tmp_path: Path, hyperparameters: dict[str, Any], stage: str
) -> None:
    unclipped = replace(context, study=study(training={"probe_epochs": 3, "epochs": 2, "gradient_clip": 1e30}))
    finished, control = run(
        unclipped, order(tmp_path, Hyperparameters.model_validate({"dropout": 0.0, "batch_size": 10} | hyperparameters))
    )
    assert finished.ending is Ending.NOT_FINITE
    last = control.curve[-1]
    assert last.stage == stage
    assert finished.reason.startswith(("the loss was", "the validation loss was"))
    assert f"in step {last.step} ({stage}); the learning rate is likely too high" in finished.reason
    assert kept(tmp_path) == []
    assert messages.decode(messages.encode(last)).kind == "epoch"


def test_a_trial_is_not_affected_by_an_earlier_one_that_diverged(
    context: StudyContext, tmp_path: Path, plain: tuple[messages.Finished, Control]
) -> None:
    for variable in context.backbone.network.variables:
        variable.assign(variable * np.nan)
    _, after_it = run(context, order(tmp_path, PLAIN))
    assert after_it.curve == plain[1].curve


@pytest.mark.parametrize(
    "hyperparameters",
    [MENDED, DEEPER, SPOILED],
    ids=["best while fine-tuning", "best while fine-tuning, several depths", "best in the probe"],
)
def test_the_stored_weights_reproduce_the_best_validation_accuracy(
    context: StudyContext, tmp_path: Path, hyperparameters: Hyperparameters
) -> None:
    finished, control = run(context, order(tmp_path, hyperparameters))
    assert finished.weights is not None
    assert finished.best_step is not None
    assert (finished.best_step > 3) == (hyperparameters is not SPOILED)
    on_validation = replace(context, data=replace(context.data, test=context.data.validation))
    found = evaluation.evaluate(on_validation, messages.Evaluate(trial=3, hyperparameters=hyperparameters, weights=finished.weights))
    assert found.accuracy == finished.value
    assert found.confusion == finished.confusion
    assert found.loss == pytest.approx(control.curve[finished.best_step - 1].validation_loss, rel=1e-3)
    assert found.num_images == 60


@pytest.mark.parametrize("hyperparameters", [MENDED, SPOILED], ids=["best while fine-tuning", "best in the probe"])
def test_a_fine_tuned_trial_leaves_the_logits_of_the_validation_images_and_of_their_mirror_images(
    context: StudyContext, tmp_path: Path, hyperparameters: Hyperparameters
) -> None:
    finished, _ = run(context, order(tmp_path, hyperparameters))
    assert finished.logits is not None
    assert finished.weights is not None
    asked = messages.Predict(
        trial=3,
        hyperparameters=hyperparameters,
        weights=(finished.weights,),
        splits=("validation",),
        mirrored=True,
        to=str(tmp_path / "p.npz"),
    )
    evaluation.predict(context, asked)
    with np.load(finished.logits) as written, np.load(tmp_path / "p.npz") as wanted:
        assert sorted(written) == sorted(wanted) == ["validation", "validation_labels", "validation_mirrored"]
        for name in ("validation", "validation_mirrored"):
            assert written[name].dtype == np.float16
            np.testing.assert_allclose(written[name], wanted[name], rtol=2e-3, atol=2e-3)
        assert (written["validation"].argmax(1) == written["validation_labels"]).mean() == pytest.approx(finished.value, abs=0.02)
        assert np.abs(written["validation"] - written["validation_mirrored"]).max() > 0.1


def test_a_trial_that_ends_with_its_probe_leaves_no_logits(context: StudyContext, tmp_path: Path) -> None:
    finished, _ = run(context, order(tmp_path, PLAIN.model_copy(update={"unfreeze": 0.0})))
    assert finished.weights is not None
    assert finished.logits is None


def test_weights_of_a_study_without_test_images_are_not_scored(context: StudyContext, tmp_path: Path, cache: Path) -> None:
    finished, _ = run(context, order(tmp_path, PLAIN))
    assert finished.weights is not None
    without = replace(context, data=training_data.load(study(data=DIGITS | {"test": 0}), cache=cache))
    with pytest.raises(errors.DataError, match=r"data.test is 0"):
        evaluation.evaluate(without, messages.Evaluate(trial=3, hyperparameters=PLAIN, weights=finished.weights))


def test_weights_that_cannot_be_scored_leave_the_backbone_as_pretrained(
    context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    finished, _ = run(context, order(tmp_path, MENDED))
    monkeypatch.setattr(fine_tune, "predict", fail)
    with pytest.raises(MemoryError):
        evaluation.evaluate(context, messages.Evaluate(trial=3, hyperparameters=MENDED, weights=str(finished.weights)))
    assert is_pretrained(context)


def test_a_trial_leaves_the_backbone_as_pretrained(context: StudyContext, tmp_path: Path) -> None:
    run(context, order(tmp_path, PLAIN))
    assert is_pretrained(context)


def is_pretrained(context: StudyContext) -> bool:
    variables = context.backbone.network.variables
    return all((variable.numpy() == value).all() for variable, value in zip(variables, context.pretrained, strict=True))


def unseen(context: StudyContext, cache: Path) -> StudyContext:
    """The same with an empty cache."""
    return replace(context, store=replace(context.store, cache=cache, watch=[], _vectors={}, _activations={}))


def test_a_trial_that_computes_features_reports_that_it_is_busy(
    context: StudyContext, tmp_path: Path, plain: tuple[messages.Finished, Control]
) -> None:
    fresh = unseen(context, tmp_path / "cache")
    _, control = run(fresh, order(tmp_path, PLAIN), timing=TrialTiming(busy_seconds=-1.0))
    assert control.told[0] == messages.Busy(trial=3)
    assert control.curve == plain[1].curve
    assert fresh.store.watch == []
    _, control = run(unseen(context, tmp_path / "other"), order(tmp_path, PLAIN), timing=TrialTiming(busy_seconds=1e6))
    assert not [message for message in control.told if isinstance(message, messages.Busy)]


@pytest.mark.parametrize("what", [messages.Stop(), messages.Suspend()])
def test_a_trial_obeys_while_it_computes_features(
    context: StudyContext, tmp_path: Path, what: messages.Stop | messages.Suspend, plain: tuple[messages.Finished, Control]
) -> None:
    fresh = unseen(context, tmp_path / "cache")
    finished, control = run(fresh, order(tmp_path, PLAIN), Control(interrupt=lambda told, look: what))
    assert finished.ending is (Ending.STOPPED if isinstance(what, messages.Stop) else Ending.SUSPENDED)
    assert (finished.value, control.told) == (None, [])
    assert fresh.store.watch == []
    _, again = run(fresh, order(tmp_path, PLAIN))
    assert again.curve == plain[1].curve


#: other values of RICH, traced as it is
ALIKE = RICH.model_copy(
    update={
        "head_units": (12,),
        "dropout": 0.5,
        "batch_size": 20,
        "learning_rate": 1e-2,
        "layer_decay": 0.9,
        "weight_decay": 0.1,
        "ema": 0.9,
        "label_smoothing": 0.0,
        "class_weights": ClassWeights.NONE,
        "augmentation": Augmentation.model_validate({"rotation": 0.1, "contrast": 0.1, "erasing": 0.4, "mixup": 0.1}),
    }
)
#: of another shape in every respect
OTHER = Hyperparameters.model_validate(
    {"optimizer": "sgd", "unfreeze": 1.0, "features": "several", "loss": "focal", "batch_size": 25, "augmentation": {"flip": "both"}}
)


@pytest.mark.parametrize("wanted", [RICH, OTHER], ids=["rich", "other"])
def test_a_trial_is_the_same_bit_for_bit_whatever_was_trained_before(
    context: StudyContext, tmp_path: Path, wanted: Hyperparameters
) -> None:
    first = replace(context, traced=steps.TracedSteps())
    finished, control = run(first, order(tmp_path / "first", wanted))
    used = replace(context, traced=steps.TracedSteps())
    for number, before in enumerate([ALIKE, OTHER, RICH, ALIKE]):
        run(used, order(tmp_path / str(number), before, seed=number))
    again, same = run(used, order(tmp_path / "again", wanted))
    assert same.curve == control.curve
    assert (again.value, again.best_step, again.confusion) == (finished.value, finished.best_step, finished.confusion)
    assert Path(str(again.weights)).read_bytes() == Path(str(finished.weights)).read_bytes()


def test_the_second_trial_of_a_shape_traces_nothing(context: StudyContext, tmp_path: Path) -> None:
    own = replace(context, traced=steps.TracedSteps())
    run(own, order(tmp_path, RICH))
    count = own.traced.num_traced
    assert count > 0
    run(own, order(tmp_path, ALIKE, seed=9))
    assert own.traced.num_traced == count


def test_a_trial_with_its_own_number_of_epochs_is_one_of_a_study_with_that_number(context: StudyContext, tmp_path: Path) -> None:
    wanted = order(tmp_path / "own", PLAIN).model_copy(update={"epochs": 1})
    own = run(context, wanted)[1].curve
    assert [epoch.stage for epoch in own] == ["probe"] * 3 + ["fine_tune"]
    assert own == run(replace(context, epochs=1), order(tmp_path / "study", PLAIN))[1].curve


def of_metric(context: StudyContext, metric: str) -> StudyContext:
    """Return the small study with another objective."""
    return replace(context, study=study(objective=metric))


def scored(accuracy: float, loss: float, value: float) -> probe.MeasuredEpoch:
    found = losses.Scores(accuracy=accuracy, loss=loss, value=value, confusion=(), metrics={"accuracy": accuracy})
    return probe.MeasuredEpoch(loss=1.0, accuracy=0.5, learning_rate=0.0, validation=found)


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("macro_f1", [0.2, 0.6, 0.4], 2),
        ("log_loss", [0.9, 0.5, 0.7], 2),
        ("log_loss", [0.3, 0.5, 0.7], 1),
        # the loss of the trial decides between equal values, and the first of equal epochs stays
        ("balanced_accuracy", [0.5, 0.5, 0.5], 3),
        ("accuracy", [0.9, 0.8, 0.7], 1),
    ],
)
def test_the_best_epoch_is_that_of_the_metric_of_the_study(
    context: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, values: list[float], best: int
) -> None:
    # the accuracy falls, so that another metric must choose
    measured = [scored(0.9 - 0.1 * step, 1.0 - 0.1 * step, value) for step, value in enumerate(values)]

    class Scripted(probe.StepwiseProbe):
        def epochs(self) -> Iterator[probe.MeasuredEpoch]:
            yield from measured

    monkeypatch.setattr(probe, "StepwiseProbe", Scripted)
    wanted = order(tmp_path, PLAIN.model_copy(update={"unfreeze": 0.0}))
    finished, control = run(of_metric(context, metric), wanted)
    assert (finished.best_step, finished.value) == (best, values[best - 1])
    assert finished.metrics == {"accuracy": measured[best - 1].validation.accuracy}
    assert [epoch.measured for epoch in control.curve] == values
    assert [epoch.validation_accuracy for epoch in control.curve] == [each.validation.accuracy for each in measured]


@pytest.mark.parametrize("metric", ["log_loss", "auc"])
def test_a_trial_reports_and_resumes_with_the_metric_of_its_study(context: StudyContext, tmp_path: Path, metric: str) -> None:
    measuring = of_metric(context, metric)
    better = min if metric == "log_loss" else max
    finished, control = run(measuring, order(tmp_path / "whole", RICH))
    values = [epoch.measured for epoch in control.curve]
    [probed] = [message for message in control.told if isinstance(message, messages.Probed)]
    assert (probed.value, finished.value) == (better(values[:3]), better(values))
    assert control.curve[0].metrics.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "top_5_accuracy"} - {metric}
    assert finished.best_step is not None
    assert finished.metrics == control.curve[finished.best_step - 1].metrics
    assert finished.logits is not None
    with np.load(finished.logits) as arrays:
        measured = scoring.value(metric, arrays["validation"], arrays["validation_labels"])  # type: ignore[arg-type]
    assert measured == pytest.approx(finished.value, rel=1e-3)
    parts = order(tmp_path / "parts", RICH)
    run(measuring, parts, after(1, messages.Suspend(), stage=Stage.FINE_TUNE, looks=2))
    again, _ = run(measuring, parts)
    assert (again.value, again.best_step, again.metrics) == (finished.value, finished.best_step, finished.metrics)


def test_a_checkpoint_belongs_to_the_metric_that_chose_its_best_epoch(context: StudyContext, tmp_path: Path) -> None:
    run(of_metric(context, "log_loss"), order(tmp_path, RICH), after(1, messages.Suspend(), stage=Stage.FINE_TUNE))
    _, control = run(of_metric(context, "accuracy"), order(tmp_path, RICH))
    assert not any(isinstance(message, messages.Resumed) for message in control.told)
    assert of_metric(context, "accuracy").identity == context.identity  # the files of earlier versions are read
