"""`training.executions` of images: several trainings with different seeds are one trial."""

import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.keras_studies import study
from tests.tasks.images.training.test_trial import MENDED, PLAIN, RICH, SPOILED, Control, after, order, run
from tuner.kernels import checkpoints
from tuner.kernels.checkpoints import TrialTiming
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.spec.hyperparameters import ProbeSolver
from tuner.tasks.images.training.study_context import StudyContext

#: the seeds of three trainings of a trial with the seed 7
SEEDS = (7, 7 + 7919, 7 + 2 * 7919)
#: the heads of the probes depend on the seed, too
STEPWISE = {"probe_solver": ProbeSolver.SGD}


def repeated(context: StudyContext, executions: int = 3) -> StudyContext:
    """The study with the log loss as its metric, which differs between any two trainings."""
    training = {"probe_epochs": 3, "epochs": 2, "executions": executions}
    return replace(context, study=study(training=training, objective="log_loss"))


@pytest.fixture(scope="module")
def alone(_context: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[messages.Finished, Control]]:
    """Each of the three trainings as a trial of its own."""
    folder = tmp_path_factory.mktemp("alone")
    return [run(repeated(_context, 1), order(folder / f"{seed}", RICH, seed=seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def whole(_context: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[messages.Finished, Control]:
    """A trial of three trainings without interruptions."""
    return run(repeated(_context), order(tmp_path_factory.mktemp("whole"), RICH))


def test_the_value_is_the_mean_of_trainings_each_as_if_it_were_alone(
    context: StudyContext, whole: tuple[messages.Finished, Control], alone: list[tuple[messages.Finished, Control]]
) -> None:
    finished, control = whole
    values = [one.value for one, _ in alone if one.value is not None]
    assert len(set(values)) > 1
    assert finished.attributes["executions"] == values
    assert finished.value == statistics.fmean(values)
    assert finished.attributes["standard_deviation"] == statistics.stdev(values)
    tuned = [[epoch for epoch in each.curve if epoch.stage is Stage.FINE_TUNE] for _, each in alone]
    assert [epoch.measured for epoch in control.curve[-6:]] == [epoch.measured for part in tuned for epoch in part]
    assert [epoch.loss for epoch in control.curve[-6:]] == [epoch.loss for part in tuned for epoch in part]


def test_steps_count_on_after_one_reported_probe(whole: tuple[messages.Finished, Control]) -> None:
    _, control = whole
    assert [(epoch.stage, epoch.step) for epoch in control.curve] == [
        *([(Stage.PROBE, 3)] if len(control.curve) == 7 else [(Stage.PROBE, step) for step in (1, 2, 3)]),
        *((Stage.FINE_TUNE, step) for step in range(4, 10)),
    ]
    assert sum(isinstance(message, messages.Probed) for message in control.told) == 1


def test_the_weights_and_findings_are_those_of_the_best_training(
    context: StudyContext, whole: tuple[messages.Finished, Control], alone: list[tuple[messages.Finished, Control]]
) -> None:
    finished, _ = whole
    best = min((one for one, _ in alone), key=lambda one: one.value or 0.0)
    assert finished.weights is not None
    assert best.weights is not None
    assert finished.logits is not None
    assert best.logits is not None
    ours, theirs = (checkpoints.read_weights(Path(path), study=repeated(context).identity) for path in (finished.weights, best.weights))
    assert len(ours) == len(theirs)
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with np.load(finished.logits) as one, np.load(best.logits) as other:
        assert np.array_equal(one["validation"], other["validation"])
    assert (finished.confusion, finished.mistakes) == (best.confusion, best.mistakes)


@pytest.mark.parametrize(("count", "looks"), [(1, 0), (2, 0), (2, 3), (3, 0), (3, 4), (5, 2)], ids=str)
def test_a_suspended_trial_resumes_in_its_training_with_the_same_result(
    context: StudyContext, tmp_path: Path, whole: tuple[messages.Finished, Control], count: int, looks: int
) -> None:
    several, wanted = repeated(context), order(tmp_path, RICH)
    suspended, first = run(several, wanted, after(count, messages.Suspend(), stage=Stage.FINE_TUNE, looks=looks))
    assert suspended.ending is Ending.SUSPENDED
    resumed, second = run(several, wanted)
    (told,) = (message for message in second.told if isinstance(message, messages.Resumed))
    seen = [epoch.model_copy(update={"seconds": 0.0}) for epoch in told.curve] + second.curve
    assert seen == whole[1].curve
    assert first.curve == whole[1].curve[: len(first.curve)]
    assert (resumed.value, resumed.attributes, resumed.best_step) == (whole[0].value, whole[0].attributes, whole[0].best_step)
    assert (resumed.confusion, resumed.mistakes) == (whole[0].confusion, whole[0].mistakes)
    assert resumed.weights is not None
    assert whole[0].weights is not None
    ours, theirs = (checkpoints.read_weights(Path(path), study=repeated(context).identity) for path in (resumed.weights, whole[0].weights))
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_training_that_has_ended_is_not_repeated(context: StudyContext, tmp_path: Path) -> None:
    several, wanted = repeated(context), order(tmp_path, RICH)

    class Killed(Exception):
        pass

    class Mortal(Control):
        """A worker that is killed when the checkpoint says that the first training has ended."""

        def send(self, message: messages.Message) -> None:
            super().send(message)
            found = checkpoints.read(tmp_path / "checkpoint", wanted, study=several.identity)
            if isinstance(message, messages.CheckpointWritten) and found is not None and found.progress.ended:
                raise Killed

    with pytest.raises(Killed):
        run(several, wanted, Mortal())
    found = checkpoints.read(tmp_path / "checkpoint", wanted, study=several.identity)
    assert found is not None
    assert found.progress.done == (1, 0, 0)
    assert found.state == found.best == ()
    _, second = run(several, wanted)
    assert [epoch.step for epoch in second.curve] == [6, 7, 8, 9]


def test_the_best_epoch_of_a_training_may_be_its_probe_which_has_no_step_if_it_is_repeated(context: StudyContext, tmp_path: Path) -> None:
    spoiled = SPOILED.model_copy(update=STEPWISE)
    alone = [run(repeated(context, 1), order(tmp_path / f"{seed}", spoiled, seed=seed))[0] for seed in SEEDS]
    finished, _ = run(repeated(context), order(tmp_path / "whole", spoiled))
    assert all(one.best_step is not None and one.best_step <= 3 for one in alone)
    values = [one.value or 0.0 for one in alone]
    assert finished.attributes["executions"] == values
    first_is_best = values.index(min(values)) == 0
    assert finished.best_step == (alone[0].best_step if first_is_best else None)


@pytest.mark.parametrize("solver", [ProbeSolver.SGD, ProbeSolver.LBFGS])
def test_a_probe_alone_is_repeated_too(context: StudyContext, tmp_path: Path, solver: ProbeSolver) -> None:
    wanted = PLAIN.model_copy(update={"unfreeze": 0.0, "probe_solver": solver})
    alone = [run(repeated(context, 1), order(tmp_path / f"{seed}", wanted, seed=seed)) for seed in SEEDS]
    finished, control = run(repeated(context), order(tmp_path / "whole", wanted))
    assert finished.attributes["executions"] == [one.value for one, _ in alone]
    assert control.curve == alone[0][1].curve
    assert control.curve[-1].step == 3
    assert finished.fine_tune_seconds == 0
    assert finished.weights is not None
    assert finished.logits is None


def test_a_trial_that_is_not_promoted_ends_after_its_first_probe(context: StudyContext, tmp_path: Path) -> None:
    finished, control = run(repeated(context), order(tmp_path, PLAIN), after(1, messages.Stop(), stage=Stage.PROBE))
    assert finished.ending is Ending.STOPPED
    assert finished.attributes == {}
    assert finished.value == control.curve[-1].measured


def test_a_shortened_trial_shortens_every_training(context: StudyContext, tmp_path: Path) -> None:
    _, control = run(repeated(context, 2), order(tmp_path, PLAIN), Control(epochs=1))
    assert [epoch.step for epoch in control.curve if epoch.stage is Stage.FINE_TUNE] == [4, 5]


def test_weights_do_not_depend_on_the_number_of_trainings(context: StudyContext) -> None:
    assert repeated(context).identity == repeated(context, 1).identity


def test_short_trainings_are_not_worth_a_checkpoint(context: StudyContext, tmp_path: Path) -> None:
    _, control = run(repeated(context, 2), order(tmp_path, PLAIN), timing=TrialTiming(worth_writing_seconds=600.0))
    assert not any(isinstance(message, messages.CheckpointWritten) for message in control.told)


def test_a_trial_that_is_stopped_in_a_later_training_has_the_best_value_so_far(context: StudyContext, tmp_path: Path) -> None:
    stopped, control = run(repeated(context), order(tmp_path, MENDED), after(3, messages.Stop(), stage=Stage.FINE_TUNE))
    assert stopped.ending is Ending.STOPPED
    assert stopped.attributes == {}
    assert stopped.value is not None
    assert stopped.value <= min(epoch.measured for epoch in control.curve)
    assert not list(tmp_path.glob("checkpoint*"))
