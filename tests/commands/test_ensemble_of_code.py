"""The ensemble of user models: when it is formed and measured, and where it is shown; errands and trainers are rehearsed."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.commands.test_retrain import of_code, train
from tuner.commands import ensemble as commands_ensemble
from tuner.commands import options, run
from tuner.errors import RequestError
from tuner.protocol import errands, messages
from tuner.report import facts
from tuner.results import best as bests
from tuner.results import ensemble as ensembles
from tuner.results import export as exports
from tuner.studies import retention, trials
from tuner.studies.study import Study
from tuner.terminal import printing, status
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation
from tuner.workers.worker.stopping import Stopping


class Errands:
    """Answers for means of models: `values` of the first 1, 2, … trials."""

    def __init__(self, *values: float, refused: str = "") -> None:
        self.asked: list[errands.MeanOfCode] = []
        self._values, self._refused = values, refused

    def run(self, order: errands.Errand, *, threads: int = 0) -> Any:
        assert isinstance(order, errands.MeanOfCode)
        self.asked.append(order)
        if self._refused:
            return errands.MeansMeasured(values=(), num_examples=0, refused=self._refused)
        count = len(order.members)
        values = self._values[:count] if order.split == "validation" else tuple(value + 1 for value in self._values[:count])
        return errands.MeansMeasured(values=values, num_examples=50)


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that ends a run of a study."""

    def measure_best(study: Study, best: bests.Best, *_: object) -> None:
        trials.keep_test(study, messages.Evaluated(trial=best.trial, num_images=200, value=2.25))

    monkeypatch.setattr(commands_ensemble, "_measure_best", measure_best)
    monkeypatch.setattr(evaluation, "open_trainer", _NoTrainer)

    def measured(study: Study, answers: Errands) -> bests.Best:
        monkeypatch.setattr(evaluation, "run", answers.run)
        places = Folders(cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
        (assignment,) = run.make_assignments(study, study.storage.url, places, options.plan_workers(1, None, None, None, None))
        commands_ensemble.measure(study, assignment, Stopping())
        return bests.best(study)

    return measured


class _NoTrainer:
    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        pass


def shown(best: bests.Best) -> str:
    console = Console(width=200, theme=printing.THEME)
    with console.capture() as captured:
        console.print(status.best_trial(best))
    return captured.get()


def test_a_better_mean_is_measured_once_and_shown_beside_the_best_trial(tmp_path: Path, measure: Any) -> None:
    study, answers = of_code(tmp_path), Errands(2.0, 1.5, 1.75)
    best = measure(study, answers)
    assert [[member.trial for member in order.members] for order in answers.asked] == [[2, 1, 0], [2, 1]]
    assert [order.split for order in answers.asked] == ["validation", "test"]
    found = best.ensemble_of_code
    assert found is not None
    assert (found.trials, found.value, found.best_member_value, found.test_value, found.num_test) == ((2, 1), 1.5, 2.0, 2.5, 50)
    assert (best.trial, best.value) == (2, 2.0)
    text = shown(best)
    assert "ensemble  1.5 val_mae, mean of trials 2, 1, better by 0.5000 than trial 2 alone" in text
    assert "2.5 val_mae on 50 unseen examples" in text
    assert any("mean of trials 2, 1, is 1.5 on the validation data; of its best trial alone" in line for line in facts._of_code(best))
    assert '"trials": [' in exports.as_json(best)
    measure(study, answers)
    assert len(answers.asked) == 2


@pytest.mark.parametrize("values", [(2.0, 2.0, 2.5), (2.0, 3.0, 4.0)])
def test_a_mean_that_is_no_better_is_never_shown(tmp_path: Path, measure: Any, values: tuple[float, ...]) -> None:
    study, answers = of_code(tmp_path), Errands(*values)
    best = measure(study, answers)
    assert best.ensemble_of_code is None
    assert [order.split for order in answers.asked] == ["validation"]  # the test data are not read for it
    assert "ensemble" not in shown(best) + exports.as_json(best)
    stored = ensembles.read_code(study)
    assert stored is not None
    assert stored.value == min(values[1:])


def test_a_better_trial_takes_the_place_of_the_ensemble(tmp_path: Path, measure: Any) -> None:
    study = of_code(tmp_path)
    measure(study, Errands(2.0, 1.5, 1.75))
    train(study, tmp_path, 1.0)
    assert bests.best(study).ensemble_of_code is None
    answers = Errands(1.0, 0.75, 1.5, 1.6)
    best = measure(study, answers)
    assert [member.trial for member in answers.asked[0].members] == [3, 2, 1, 0]
    assert best.ensemble_of_code is not None
    assert best.ensemble_of_code.trials == (3, 2)


def test_the_test_split_is_read_once_for_the_same_members(tmp_path: Path, measure: Any) -> None:
    study = of_code(tmp_path)
    measure(study, Errands(2.0, 1.5, 1.75))
    train(study, tmp_path, 9.0)  # another one is considered, and is no member
    answers = Errands(2.0, 1.5, 1.75, 1.8)
    found = measure(study, answers).ensemble_of_code
    assert [order.split for order in answers.asked] == ["validation"]
    assert (found.trials, found.test_value, found.num_test) == ((2, 1), 2.5, 50)


def test_a_machine_with_fewer_weights_keeps_a_better_ensemble(tmp_path: Path, measure: Any) -> None:
    study = of_code(tmp_path)
    first = measure(study, Errands(2.0, 1.5, 1.75)).ensemble_of_code
    (path,) = [one.weights for one in retention.stored(study) if one.number == 2]
    Path(path).unlink()
    measure(study, Errands(2.5, 2.25))
    assert bests.best(study).ensemble_of_code == first


def test_models_without_a_mean_are_named_once(tmp_path: Path, measure: Any, capsys: pytest.CaptureFixture[str]) -> None:
    study, answers = of_code(tmp_path), Errands(refused="the model of trial 2 has 2 outputs; only models with one output have a mean")
    for _ in range(2):
        assert measure(study, answers).ensemble_of_code is None
    assert capsys.readouterr().err.count("prices: no ensemble of trials 2, 1, 0: the model of trial 2 has 2 outputs") == 1
    assert len(answers.asked) == 1


def test_an_errand_that_fails_costs_no_result(tmp_path: Path, measure: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Errands):
        def run(self, order: errands.Errand, *, threads: int = 0) -> Any:
            raise RequestError("my.py was changed")

    assert measure(of_code(tmp_path), Failing()).test_value == 2.25
    assert "prices: no ensemble was formed: my.py was changed" in capsys.readouterr().err


@pytest.mark.parametrize("sections", [{"constraints": {"latency_ms": 20}}, {"validation": {"folds": 5}}, {"results": {"keep": 1}}])
def test_some_studies_have_no_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]) -> None:
    answers = Errands(2.0, 1.5, 1.75)
    monkeypatch.setattr(evaluation, "run", answers.run)
    study, places = of_code(tmp_path, **sections), Folders(cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
    assert commands_ensemble.form_code(study, places, threads=1) is None
    assert answers.asked == []
