"""Values for which user code asks while its trial runs: each is chosen once, and stored before it is used."""

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.studies import by_hand
from tuner.errors import LeaseLost
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.results import best as bests
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues
from tuner.storage import queries, tables
from tuner.storage.engine import Storage
from tuner.studies import control, data_check, trials
from tuner.studies import study as studies
from tuner.studies.claims import Claim
from tuner.studies.questions import TrialQuestions
from tuner.studies.study import Study
from tuner.studies.trials import WorkerId

PREPARED = by_hand.PREPARED.model_copy(update={"classes": (), "num_train": 0, "num_validation": 0, "num_test": 0, "epochs": 0})


@pytest.fixture
def objective(storage: Storage) -> Callable[..., Study]:
    def begin(**sections: Any) -> Study:
        given = {"name": "obj", "task": "objective", "function": "my.py:objective", "objective": "minimize"}
        study = studies.join(study_file.parse(given | sections, "obj.yaml"), storage)
        data_check.admit(study, PREPARED)
        return study

    return begin


def claim(study: Study, worker: str = "hand") -> Claim:
    found = trials.claim(study, WorkerId.here(worker), num_train=0, num_classes=0, epochs=0)
    assert found is not None
    return found


def ask_x(high: float = 10.0) -> messages.Ask:
    return messages.Ask(trial=0, name="x", low=-10.0, high=high)


def ask_kind(*choices: str) -> messages.Ask:
    return messages.Ask(trial=0, name="kind", choices=choices or ("a", "b"))


def end(study: Study, claimed: Claim, value: float | None, asked: dict[str, Any], ending: Ending = Ending.COMPLETED) -> None:
    finished = messages.Finished(trial=claimed.number, ending=ending, value=value, asked=asked)
    trials.finish(study, claimed, finished, [], device="cpu")


def run(study: Study, value: float = 1.0) -> Any:
    """Run a trial that asks for x and kind."""
    claimed = claim(study)
    questions = TrialQuestions(study, claimed)
    asked = {question.name: questions.answer(question).value for question in (ask_x(), ask_kind())}
    end(study, questions.claim, value, asked)
    return asked


def test_an_answer_is_stored_before_it_is_given(objective: Callable[..., Study]) -> None:
    study = objective()
    claimed = claim(study)
    assert claimed.hyperparameters == ChosenValues(values={})
    answer = TrialQuestions(study, claimed).answer(ask_x())
    assert isinstance(answer.value, float)
    assert -10 <= answer.value <= 10
    assert study.optuna.get_trials()[0].params == {"x": answer.value}


def test_a_resumed_attempt_gets_the_same_answers(objective: Callable[..., Study]) -> None:
    study = objective()
    first = TrialQuestions(study, claim(study, "first"))
    before = [first.answer(question).value for question in (ask_x(), ask_kind())]
    trials.release(study, first.claim)
    again = TrialQuestions(study, claim(study, "second"))
    assert again.claim.number == 0
    assert again.claim.attempt == 2
    assert [again.answer(question).value for question in (ask_x(), ask_kind())] == before


def test_one_name_has_one_value(objective: Callable[..., Study]) -> None:
    study = objective()
    questions = TrialQuestions(study, claim(study))
    assert questions.answer(ask_x()) == questions.answer(ask_x())


def test_what_earlier_trials_asked_for_is_chosen_beforehand_and_needs_no_statement(objective: Callable[..., Study]) -> None:
    study = objective()
    run(study)
    claimed = claim(study)
    assert isinstance(claimed.hyperparameters, ChosenValues)
    assert set(claimed.hyperparameters.values) == {"x", "kind"}
    questions = TrialQuestions(study, claimed)
    with by_hand.statements(study.storage) as seen:
        answers = {question.name: questions.answer(question).value for question in (ask_x(), ask_kind())}
    assert answers == claimed.hyperparameters.values
    assert not seen


def test_another_attempt_gets_the_value_of_another_range_again(objective: Callable[..., Study]) -> None:
    study = objective()
    run(study)
    questions = TrialQuestions(study, claim(study))
    first = questions.answer(ask_x(high=20.0))
    again = TrialQuestions(study, questions.claim)  # as if the trainer had crashed
    assert again.answer(ask_x(high=20.0)) == first
    with by_hand.statements(study.storage) as seen:
        again.answer(ask_x(high=20.0))
    assert not seen


def test_what_a_trial_did_not_ask_for_is_removed(objective: Callable[..., Study]) -> None:
    study = objective()
    run(study)
    claimed = claim(study)
    questions = TrialQuestions(study, claimed)
    value = questions.answer(ask_x()).value
    end(study, questions.claim, 0.5, {"x": value})
    assert study.optuna.get_trials()[1].params == {"x": value}
    assert bests.best(study).hyperparameters == {"x": value}


def test_other_possible_values_than_in_earlier_trials_are_refused_as_optuna_does(objective: Callable[..., Study]) -> None:
    study = objective()
    run(study)
    questions = TrialQuestions(study, claim(study))
    refused = questions.answer(ask_kind("a", "b", "c"))
    assert refused.refusal.startswith("the parameter kind had other possible values in earlier trials: CategoricalDistribution")
    assert questions.answer(ask_x(high=20.0)).refusal == ""  # Optuna allows another range


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (messages.Ask(trial=0, name="x", low=2.0, high=1.0), "low"),
        (messages.Ask(trial=0, name="x", low=0.0, high=1.0, log=True), "low"),
        (messages.Ask(trial=0, name="x", choices=()), "choices"),
    ],
)
def test_an_impossible_question_is_refused(objective: Callable[..., Study], question: messages.Ask, words: str) -> None:
    study = objective()
    assert words in TrialQuestions(study, claim(study)).answer(question).refusal


def test_a_worker_that_lost_its_trial_gets_no_answer_and_changes_nothing(objective: Callable[..., Study]) -> None:
    study = objective()
    lost = TrialQuestions(study, claim(study, "lost"))
    trials.release(study, lost.claim)
    claim(study, "other")
    with pytest.raises(LeaseLost):
        lost.answer(ask_x())
    assert study.optuna.get_trials()[0].params == {}


def test_an_enqueued_value_is_the_answer(objective: Callable[..., Study]) -> None:
    study = objective()
    study.optuna.enqueue_trial({"x": 2.5})
    questions = TrialQuestions(study, claim(study))
    assert questions.answer(ask_x()).value == 2.5


def test_an_enqueued_value_that_the_code_does_not_allow_is_refused(objective: Callable[..., Study]) -> None:
    study = objective()
    study.optuna.enqueue_trial({"x": 99.0})
    refused = TrialQuestions(study, claim(study)).answer(ask_x())
    assert refused.refusal == "the trial was enqueued with x 99, which the code does not allow"


def test_values_that_were_added_by_another_program_are_the_answers(objective: Callable[..., Study]) -> None:
    study = objective()
    waiting = optuna.trial.create_trial(
        state=TrialState.WAITING, params={"x": 2.5}, distributions={"x": optuna.distributions.FloatDistribution(0.0, 5.0)}
    )
    study.optuna.add_trial(waiting)
    assert TrialQuestions(study, claim(study)).answer(ask_x()).value == 2.5


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_asked_and_declared_values_are_drawn_independently(objective: Callable[..., Study], sampler: str) -> None:
    study = objective(sampler=sampler, search={"declared": {"range": [-10.0, 10.0]}})
    for number in range(8):
        claimed = claim(study)
        assert isinstance(claimed.hyperparameters, ChosenValues)
        declared = claimed.hyperparameters.values["declared"]
        first = TrialQuestions(study, claimed)
        x = first.answer(ask_x()).value
        again = TrialQuestions(study, first.claim)  # of another attempt
        y = again.answer(messages.Ask(trial=0, name="y", low=-10.0, high=10.0)).value
        assert len({declared, x, y}) == 3
        end(study, again.claim, float(number), {"declared": declared, "x": x, "y": y})


def test_a_value_chosen_beforehand_that_is_not_among_those_asked_for_is_chosen_anew(objective: Callable[..., Study]) -> None:
    study = objective()
    for _ in range(6):
        questions = TrialQuestions(study, claim(study))
        n = questions.answer(messages.Ask(trial=0, name="n", low=5, high=8, integer=True)).value
        end(study, questions.claim, 1.0, {"n": n})
    questions = TrialQuestions(study, claim(study))
    assert isinstance(questions.claim.hyperparameters, ChosenValues)
    assert questions.claim.hyperparameters.values["n"] in (5, 6, 7, 8)
    answer = questions.answer(messages.Ask(trial=0, name="n", low=1, high=2, integer=True))
    assert answer.value in (1, 2)
    assert study.optuna.get_trials()[6].params == {"n": answer.value}


def test_a_choice_that_no_database_can_hold_is_refused(objective: Callable[..., Study]) -> None:
    study = objective(sampler="random")
    question = messages.Ask(trial=0, name="clip", choices=(float("inf"),))
    answer = TrialQuestions(study, claim(study)).answer(question)
    assert answer.refusal.startswith("no value can be chosen for clip: ")


def test_a_stopped_trial_keeps_its_best_value_and_only_what_it_asked_for(objective: Callable[..., Study]) -> None:
    study = objective()
    run(study)
    questions = TrialQuestions(study, claim(study))
    x = questions.answer(ask_x()).value
    curve = [
        messages.Epoch(trial=1, stage=messages.Stage.TRAIN, step=step, seconds=0.1, value=value)
        for step, value in enumerate([5.0, 1.0, 3.0, math.nan])
    ]
    trials.report(study, questions.claim, curve)
    asked = questions.asked()
    assert asked == {"x": x}
    trials.keep_asked(study, questions.claim, asked)  # it runs still: nothing is removed
    assert set(study.optuna.get_trials()[1].params) == {"x", "kind"}
    assert control.stop_trial(study, 1, by="ann") == 1.0
    trials.keep_asked(study, questions.claim, asked)
    stopped = study.optuna.get_trials()[1]
    assert (stopped.state, stopped.value, stopped.params) == (TrialState.PRUNED, 1.0, {"x": x})


def test_the_best_trial_of_a_minimized_study_has_the_lowest_value(objective: Callable[..., Study]) -> None:
    study = objective(budget={"trials": 10, "target": 0.05})
    for value in (3.0, 0.1, 2.0):
        run(study, value)
    best = bests.best(study)
    assert (best.trial, best.value, best.rank, best.num_completed) == (1, 0.1, 1, 3)
    assert bests.of(study, 2).rank == 2
    assert study.optuna.best_trial.number == 1
    found = study.storage.read(lambda connection: queries.best_so_far(connection, study.id, num_trials=3))
    assert [record.value for record in found.records] == [3.0, 0.1]
    assert trials.stop_reason(study) is None
    run(study, 0.04)
    assert trials.stop_reason(study) == "the target 0.05 is reached: 0.0400"


def test_the_values_of_an_objective_are_stored_as_it_reported_them(objective: Callable[..., Study]) -> None:
    study = objective()
    claimed = claim(study)
    curve = [
        messages.Epoch(trial=0, stage=messages.Stage.TRAIN, step=step, seconds=0.1, value=value)
        for step, value in enumerate([3.0, 1.0, 2.0])
    ]
    trials.report(study, claimed, curve)
    assert study.optuna.get_trials()[0].intermediate_values == {0: 3.0, 1: 1.0, 2: 2.0}


def test_attributes_of_the_users_do_not_replace_those_of_tuner(objective: Callable[..., Study]) -> None:
    study = objective()
    claimed = claim(study)
    finished = messages.Finished(
        trial=0, ending=Ending.COMPLETED, value=1.0, asked={}, attributes={"note": {"a": 1}, "seed": "mine"}, printed="hello\n"
    )
    trials.finish(study, claimed, finished, [], device="cpu")
    stored = study.optuna.get_trials()[0].user_attrs
    assert stored["note"] == {"a": 1}
    assert stored["user.seed"] == "mine"
    assert isinstance(stored["seed"], int)
    system = study.storage.read(lambda connection: tables.get(connection, tables.TRIAL_SYSTEM, claimed.trial_id, "tuner:log"))
    assert system == {"tuner:log": "hello\n"}
