from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from rich.console import Console

import tuner
from tests import databases
from tests.studies import by_hand, of_code
from tuner import errors
from tuner.api import LocalStudy
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.report import facts
from tuner.results import best as bests
from tuner.results import export
from tuner.results.best import Best
from tuner.spec import file as study_file
from tuner.spec.objective import ImageObjective
from tuner.spec.study import StudySpec, images_of
from tuner.storage import engine as storages
from tuner.storage.attributes import METRICS, TEST
from tuner.studies import data_check, trials
from tuner.studies import study as studies
from tuner.terminal import printing
from tuner.terminal import status as screens
from tuner.trust import user_code


@pytest.fixture
def study(spec: StudySpec, tmp_path: Path) -> studies.Study:
    return studies.join(spec, storages.open(databases.sqlite(tmp_path)))


def work(study: studies.Study, prepared: messages.Prepared, values: Sequence[float | None]) -> None:
    """Claim and end one trial after another with these values; None prunes the trial."""
    worker = trials.WorkerId.here("w1")
    data_check.admit(study, prepared)
    for value in values:
        claim = trials.claim(study, worker, num_train=prepared.num_train, num_classes=2, epochs=prepared.epochs)
        assert claim is not None
        trials.finish(study, claim, ended(claim.number, value), [epoch(claim.number, value or 0.1)], device=prepared.device)


def ended(number: int, value: float | None) -> messages.Finished:
    ending = Ending.STOPPED if value is None else Ending.COMPLETED
    return messages.Finished(
        trial=number,
        ending=ending,
        value=value or 0.999,
        best_step=1,
        weights=f"trial-{number}.npz",
        probe_seconds=1.5,
        fine_tune_seconds=2.0,
    )


def epoch(number: int, accuracy: float) -> messages.Epoch:
    return messages.Epoch(
        trial=number,
        stage=Stage.PROBE,
        step=1,
        loss=0.5,
        accuracy=0.8,
        validation_loss=0.6,
        validation_accuracy=accuracy,
        learning_rate=1e-3,
        seconds=0.1,
    )


def test_the_best_trial_is_the_completed_one_with_the_highest_value(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [0.7, 0.9, None, 0.8])
    best = bests.best(study)
    assert (best.trial, best.value, best.num_completed) == (1, 0.9, 3)
    assert (best.rule_value, best.weights, best.seconds, best.best_epoch) == (0.7, "trial-1.npz", 3.5, 1)
    assert best.prepared == prepared
    assert best.spec == study.spec


def test_the_earliest_of_equal_trials_is_the_best(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [0.7, 0.9, 0.9, 0.9])
    assert bests.best(study).trial == 1


def test_the_rule_can_be_the_best_trial(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [0.9, 0.7])
    best = bests.best(study)
    assert (best.trial, best.rule_value) == (0, 0.9)
    assert bests.rule(study) == best.hyperparameters


def test_a_study_whose_rule_was_pruned_has_a_best_and_no_rule(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [None, 0.7])
    assert (bests.best(study).trial, bests.best(study).rule_value, bests.rule(study)) == (1, None, None)


def test_the_best_trial_has_the_hyperparameters_and_the_seed_of_its_claim(study: studies.Study, prepared: messages.Prepared) -> None:
    claim = trials.claim(study, trials.WorkerId.here("w1"), num_train=1000, num_classes=2, epochs=8)
    assert claim is not None
    data_check.admit(study, prepared)
    trials.finish(study, claim, ended(0, 0.9), [], device=prepared.device)
    best = bests.best(study)
    assert (best.hyperparameters, best.seed) == (claim.hyperparameters, claim.seed)


def test_a_later_test_score_is_read(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [0.7, 0.9])
    assert bests.best(study).test_accuracy is None
    for number, accuracy in enumerate((0.65, 0.85)):
        trials.keep_test(study, messages.Evaluated(trial=number, accuracy=accuracy, loss=0.4, num_images=2000, confusion=((1, 0), (0, 1))))
    assert (bests.best(study).test_accuracy, bests.best(study).rule_test_accuracy) == (0.85, 0.65)


@pytest.mark.parametrize("values", [[], [None]])
def test_a_study_without_a_completed_trial_has_no_best(study: studies.Study, prepared: messages.Prepared, values: list[None]) -> None:
    work(study, prepared, values)
    with pytest.raises(errors.StudyError, match="animals has no completed trial yet.*tuner status animals"):
        bests.best(study)
    assert bests.rule(study) is None


def test_the_exported_study_can_be_started_in_the_same_storage(study: studies.Study, prepared: messages.Prepared, tmp_path: Path) -> None:
    work(study, prepared, [0.7, 0.9])
    best = bests.best(study)
    exported = images_of(study_file.parse(export.resolved(best).model_dump(mode="json"), "exported"))
    again = studies.join(exported, study.storage)
    claim = trials.claim(again, trials.WorkerId.here("w1"), num_train=1000, num_classes=2, epochs=8)
    assert claim is not None
    assert (claim.hyperparameters, claim.seed) == (best.hyperparameters, best.seed)


def test_a_better_trial_of_another_program_takes_a_rank_and_is_not_the_result(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [0.5, 0.6])
    study.optuna.add_trial(optuna.trial.create_trial(value=0.9))
    found = bests.best(study)
    assert (found.trial, found.rank, found.is_best, found.num_completed) == (1, 2, False, 3)
    with pytest.raises(errors.StudyError, match="trial 2 of the study .* was completed by another program"):
        bests.of(study, 2)


def test_a_study_that_only_another_program_trained_has_no_result(study: studies.Study) -> None:
    study.optuna.add_trial(optuna.trial.create_trial(value=0.9))
    with pytest.raises(errors.StudyError, match="trial 0 of the study .* was completed by another program"):
        bests.best(study)
    assert bests.rule(study) is None


def test_a_study_whose_first_trainer_is_unknown_has_no_best_trial(study: studies.Study, prepared: messages.Prepared) -> None:
    work(study, prepared, [0.5])
    study.optuna.set_user_attr("prepared", {"versions": 3})
    with pytest.raises(errors.StudyError, match="is not what a worker of tuner stores. Start a worker"):
        bests.best(study)


def test_a_trial_of_another_metric_keeps_its_accuracies_apart_from_its_value(spec: StudySpec, make_best: Callable[..., Best]) -> None:
    of_metric = spec.model_copy(update={"objective": ImageObjective(metric="macro_f1")})
    found = make_best(spec=of_metric, value=0.7)
    assert (found.validation_accuracy, found.test_value, found.test_accuracy) == (None, None, 0.968)  # of a tuner that measured no other
    known = {METRICS: {"accuracy": 0.9, "log_loss": 0.3}, TEST: {"accuracy": 0.88, "value": 0.66}}
    full = replace(found, found=replace(found.found, attributes={**found.found.attributes, **known}))
    assert (full.validation_accuracy, full.test_value, full.test_accuracy) == (0.9, 0.66, 0.88)
    result = export.resolved(full).result or {}
    assert {name: result[name] for name in ("metric", "value", "test_value", "test_accuracy")} == {
        "metric": "macro_f1", "value": 0.7, "test_value": 0.66, "test_accuracy": 0.88,
    }  # fmt: skip
    assert result["rule"] == {"value": 0.95}
    assert export.resolved_images(full).objective.metric == "macro_f1"  # its weights belong to this metric
    assert make_best().validation_accuracy == make_best().value


@pytest.fixture
def evil(tmp_path: Path) -> studies.Study:
    """A study of a model whose file shows that it was imported; weights of trial 1 are stored."""
    (tmp_path / "churn.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\ndef build(hp): ...\ndef load(): ...\n")
    (tmp_path / "weights.npz").write_bytes(b"weights")
    code = user_code.read(["churn.py:build"], tmp_path)
    weights = str(tmp_path / "weights.npz")
    return of_code.custom(storages.open(databases.sqlite(tmp_path)), folder=str(tmp_path), code=code, weights=weights)


def test_code_of_a_stored_study_is_imported_only_if_it_is_allowed(
    evil: studies.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNER_ALLOW_CODE", raising=False)
    with pytest.raises(errors.RequestError, match=r"model.build churn.py:build, which is not allowed here.*TUNER_ALLOW_CODE=churn.py"):
        _ = tuner.load("churn", evil.storage).best.model
    with pytest.raises(errors.RequestError, match="not allowed here"):
        _ = tuner.best(tuner.load("churn", evil.storage)).model
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("is_own", [True, False])
def test_changed_code_is_refused_before_it_is_imported(
    evil: studies.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    monkeypatch.setenv("TUNER_ALLOW_CODE", "" if is_own else "churn.py")
    with (tmp_path / "churn.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(errors.RequestError, match=r"churn.py was changed since the study churn was trained.*Restore the file"):
        _ = LocalStudy.of(evil, is_own=is_own).best.model
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_spread_of_several_trainings_is_shown_with_their_mean(tmp_path: Path, metric: str) -> None:
    training = {**by_hand.SHORT, "executions": 3}
    study = studies.join(by_hand.spec(sampler="random", training=training, objective=metric), storages.open(databases.sqlite(tmp_path)))
    data_check.admit(study, by_hand.PREPARED)
    claimed = by_hand.must_claim(study)
    outcome = by_hand.finished(claimed, 0.875).model_copy(update={"attributes": messages.spread([0.75, 0.875, 1.0])})
    trials.finish(study, claimed, outcome, [], device=by_hand.PREPARED.device)
    best = bests.best(study)
    assert best.spread == "the mean over 3 trainings with different seeds, with a standard deviation of 0.1250"
    assert best.spread in " ".join(facts.honesty(best))
    console = Console(width=200, theme=printing.THEME)
    with console.capture() as shown:
        console.print(screens.best_trial(best))
    assert best.spread in shown.get()
    file = export.resolved_images(best)
    assert file.training.executions == 3
    assert file.result is not None
    assert (file.result["executions"], file.result["standard_deviation"]) == ([0.75, 0.875, 1.0], 0.125)


def test_attributes_of_user_code_with_the_names_of_a_spread_are_none(tmp_path: Path) -> None:
    study = studies.join(by_hand.spec(sampler="random"), storages.open(databases.sqlite(tmp_path)))
    data_check.admit(study, by_hand.PREPARED)
    claimed = by_hand.must_claim(study)
    outcome = by_hand.finished(claimed, 0.9).model_copy(update={"attributes": messages.spread([0.75, 0.875, 1.0])})
    trials.finish(study, claimed, outcome, [], device=by_hand.PREPARED.device)
    assert bests.best(study).spread == ""
