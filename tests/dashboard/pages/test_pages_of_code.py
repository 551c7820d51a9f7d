"""Pages, reports and figures of studies with any metric: names, directions and figures of the objective, and nothing about images."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from starlette.testclient import TestClient

from tests import databases
from tests.dashboard.clients import authentication_of
from tests.dashboard.pages import serving
from tests.dashboard.pages.test_pages import HOSTILE, assert_nothing_runs
from tests.report.test_page import assert_nothing_runs_or_is_fetched
from tests.studies import by_hand, of_code
from tests.terminal.test_status import text as screen
from tuner.dashboard import app, notifications
from tuner.drawing import charts
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.report import content, diagrams, page
from tuner.results import best as bests
from tuner.results import export
from tuner.storage import engine as storages
from tuner.storage import queries, tables
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.studies import control, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.terminal import status as status_screens
from tuner.terminal import watch as watch_screens
from tuner.views import figures, regret, status
from tuner.views import trials as trial_lists

#: words that only studies of images need
OF_IMAGES = ("accuracy", "image", "probe", "fine-tun", "class", "confusion", "backbone", "the rule")


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = storages.open(databases.sqlite(tmp_path))
    yield opened
    opened.close()


class Texts(HTMLParser):
    """The visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._hidden = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag if tag in ("style", "script") else self._hidden

    def handle_endtag(self, tag: str) -> None:
        self._hidden = "" if tag == self._hidden else self._hidden

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.found.append(data)


def shown(text: str) -> str:
    return " ".join(" ".join(Texts(text).found).split())


def assert_says_nothing_of_images(text: str) -> None:
    assert [word for word in OF_IMAGES if word in text.lower()] == []


@pytest.fixture
def cost(storage: Storage) -> Study:
    return of_code.objective(storage, budget={"trials": 40, "target": 0.0})


@pytest.fixture
def churn(storage: Storage) -> Study:
    return of_code.custom(storage)


@pytest.fixture
def flowers(storage: Storage) -> Study:
    study = studies.join(by_hand.spec(name="flowers"), storage)
    prepared = {PREPARED: by_hand.PREPARED.model_dump(mode="json")}
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, prepared))
    by_hand.finish(study, by_hand.must_claim(study), 0.75)
    return study


def test_the_overview_names_the_metric_of_each_study(client: TestClient, cost: Study, churn: Study, flowers: Study) -> None:
    text = shown(client.get("/").text)
    assert "1e-7 cost, lower is better, trial 1" in text
    assert "0.7500 val_auc, trial 1" in text
    assert "0.7500 validation accuracy, trial 0" in text
    assert "my.py:cost, 40 trials, or a cost of 0" in text


def test_a_minimized_study_shows_its_lowest_value_as_the_best(client: TestClient, cost: Study) -> None:
    text = client.get(f"/tuner/studies/{cost.id}").text
    assert "best cost 1e-7 trial 1 , lower is better" in shown(text)
    assert "objective cost; lower is better" in shown(text)
    assert "what the code asks for, sampler tpe" in shown(text)
    assert "rate 1e-5 to 0.1, logarithmic when the code asks for it" in shown(text)
    assert "kind plain or fast when the code asks for it" in shown(text)
    assert "1234.5" in shown(text)
    assert "Target: cost" in shown(text)
    assert 'name="target" inputmode="decimal" value="0.0"' in text
    assert "cost-model" not in text  # an objective has no model
    assert_nothing_runs(text)
    assert_says_nothing_of_images(shown(text))


def test_the_best_so_far_of_a_minimized_study_goes_down(cost: Study) -> None:
    found = cost.storage.read(lambda connection: queries.best_so_far(connection, cost.id, num_trials=3))
    chart = charts.history(found, 3, maximizes=False)
    assert chart is not None
    assert chart.series[0].path == "M0 6.0H500V94.0H1000"
    assert charts.steps(found, 3, maximizes=False) == "M0 6.0H500V94.0H1000"


def test_trials_of_a_minimized_study_are_sorted_by_their_merit(client: TestClient, cost: Study) -> None:
    listed = client.get(f"/tuner/studies/{cost.id}?sort=best").text.partition('id="trials"')[2].partition("</table>")[0]
    assert re.findall(r"/trials/(\d+)\"", listed) == ["1", "2", "0"]


def test_a_running_trial_shows_the_lowest_value_so_far(client: TestClient, storage: Storage) -> None:
    study = of_code.objective(storage, running=[3.25, 1.25, 2.25])
    text = shown(client.get(f"/tuner/studies/{study.id}").text)
    assert re.search(r"3 hand train 2 1\.25 ", text), text
    assert "cost so far 1.25 best 1e-7, lower is better reports 3" in shown(client.get(f"/tuner/studies/{study.id}/trials/3").text)


def test_a_running_trial_of_plain_optuna_shows_the_lowest_value_so_far(client: TestClient, storage: Storage) -> None:
    study = optuna.create_study(storage=storage.rdb, study_name="losses", direction="minimize")
    trial = study.ask()
    for step, value in enumerate((3.25, 1.25, 2.25)):
        trial.report(value, step)
    assert "value so far 1.25" in shown(client.get(f"/tuner/studies/{study._study_id}/trials/0").text)


def test_a_trial_that_measured_nothing_finite_has_no_value_yet(client: TestClient, storage: Storage) -> None:
    study = of_code.objective(storage, values=[], running=[float("nan"), float("inf")])
    assert "cost so far – reports 2" in shown(client.get(f"/tuner/studies/{study.id}/trials/0").text)
    assert status.snapshot(study).running[0].value is None


def with_folds(storage: Storage) -> Study:
    """Return a study whose trials 0 (ended) and 1 (running) have epochs of two folds; in the second one, their means get worse."""
    study = of_code.custom(storage, values=[], validation={"folds": 5}, training={"epochs": 30})
    for is_running in (False, True):
        claimed = of_code.claim(study)
        first, second = of_code.epochs(claimed, [0.75, 0.875], [{}] * 2), of_code.epochs(claimed, [0.625, 0.5], [{}] * 2)
        # early stopping ended the first fold after its second epoch
        curve = [*first, *(epoch.model_copy(update={"step": 30 + epoch.step}) for epoch in second)]
        trials.report(study, claimed, curve)
        if not is_running:
            finished = messages.Finished(trial=0, ending=Ending.COMPLETED, value=0.5, fine_tune_seconds=4.0, asked={"units": 16})
            trials.finish(study, claimed, finished, curve, device="cpu, 2 threads")
    return study


def test_a_running_trial_with_folds_shows_its_last_mean_and_how_many_epochs_it_trained(client: TestClient, storage: Storage) -> None:
    study = with_folds(storage)
    of_study, of_trial = (shown(client.get(f"/tuner/studies/{study.id}{path}").text) for path in ("", "/trials/1"))
    assert re.search(r"stage epoch of all 5 folds val_auc .* 1 hand train 4 0\.5000 ", of_study), of_study
    assert re.search(r"curve epochs of all 5 folds ended .* 0 ★ best trial completed 0\.5000 4 ", of_study), of_study
    assert "val_auc so far 0.5000 best 0.5000 epochs 4 of all 5 folds" in of_trial
    seen = status.snapshot(study)
    assert (seen.running[0].value, seen.running[0].epoch) == (0.5, 4)
    assert re.search(r"epoch of all 5 folds +val_auc\n.*\n? *1 +hand +train +4 +0\.5000", screen(status_screens.study(study.spec, seen)))
    assert control.stop_trial(study, 1, by="ann") == 0.5


@pytest.mark.parametrize("write", [page.html, page.markdown])
def test_a_report_of_a_study_with_folds_counts_the_epochs_of_all_of_them(write: object, storage: Storage) -> None:
    assert callable(write)
    text = write(content.read(with_folds(storage)))
    text = shown(text) if text.startswith("<!doctype") else text.replace("|", " ").replace("  ", " ")
    assert "epochs of all 5 folds" in text
    assert re.search(r"\b0 +0\.5000 +– +4 +4\.0 ", text), text


def test_a_trial_of_a_keras_model_shows_its_metrics_values_and_log(client: TestClient, churn: Study) -> None:
    answer = client.get(f"/tuner/studies/{churn.id}/trials/0").text
    text = shown(answer)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", answer) == ["auc", "loss", "steps_lost"]
    assert 'aria-label="auc in training and on validation data over the epochs"' in answer
    assert 'aria-label="steps_lost over the epochs"' in answer
    assert "1234.5" in text  # the highest value of a chart
    assert "val_auc 0.6250 best 0.7500" in text
    assert re.search(r"units \d+ \d+ ", text)  # beside the best trial
    assert "values." not in answer
    assert "width.on" in text
    assert "Log Epoch 1: fine" in text
    assert "Last part of what the code printed" in answer
    assert "metrics.val_loss 1234.5" in text
    assert [name for name in ("probe_seconds", "fine_tune_seconds", "train_accuracy") if name in answer] == []
    assert_says_nothing_of_images(text.replace("origin rule", ""))


def test_a_trial_of_an_objective_shows_what_its_code_printed_and_set(client: TestClient, cost: Study) -> None:
    answer = client.get(f"/tuner/studies/{cost.id}/trials/1").text
    text = shown(answer)
    assert "Log trial 1 printed <b>this</b>" in text
    assert "Attributes note {a: 1} sizes [1, 2] user.seed mine" in text
    assert "cost over the steps" in answer
    assert "step 0" in text
    assert_nothing_runs(answer)


def test_a_study_of_a_keras_model_has_a_plan_of_its_own(client: TestClient, churn: Study) -> None:
    text = shown(client.get(f"/tuner/studies/{churn.id}").text)
    assert "model churn.py:build data churn.py:load a trial 10 epochs objective val_auc; higher is better" in text
    assert "tuner export churn --to churn-model" in text
    assert "width.on" in text
    assert_says_nothing_of_images(text)


def test_the_regret_of_a_minimized_study_is_below_its_best_value(storage: Storage, cost: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regret.RegretBounds, "at", lambda *given: regret.Bound(at_most=1e-9, parameters=("rate",), num_trials=3))
    text = shown(TestClient(serving.build(storage)).get(f"/tuner/studies/{cost.id}").text)
    assert "at most 1e-9 less than the best value" in text
    assert "Consider stopping" not in text  # the standard error of a cost is unknown


@pytest.mark.parametrize("write", [page.html, page.markdown])
def test_a_report_of_a_minimized_objective(write: object, cost: Study) -> None:
    assert callable(write)
    text = write(content.read(cost))
    text = shown(text) if text.startswith("<!doctype") else text
    assert "1e-7 is the lowest cost of 3 completed trials." in text
    assert "how far to trust its value" in text
    ranks = re.findall(r"(?:^\| |\b)[012] \|? ?(1e-7|20\.25|1234\.5) ", text, re.MULTILINE)
    assert ranks == ["1e-7", "20.25", "1234.5"]
    assert "when the code asks for it" in text
    assert_says_nothing_of_images(text)


@pytest.mark.parametrize("write", [page.html, page.markdown])
def test_a_report_of_a_keras_model(write: object, storage: Storage, churn: Study) -> None:
    assert callable(write)
    test = {"test": {"accuracy": None, "loss": 0.5, "num_images": 400, "value": 0.6875}}
    trial_id = storage.read(lambda connection: tables.trial_id(connection, churn.id, 1))
    storage.write(lambda connection: tables.put(connection, tables.TRIAL_USER, trial_id, test))
    text = write(content.read(churn))
    text = shown(text) if text.startswith("<!doctype") else text.replace("\\", "")
    assert "0.7500 is the highest val_auc of 2 completed trials, each at its best epoch." in text
    assert "chose the trial by its 500 validation examples, so expect a lower value on new data" in text
    assert "On 400 test examples, which the search did not use, the value is 0.6875." in text
    assert_says_nothing_of_images(text.replace("origin", ""))


def test_the_best_tenth_of_a_minimized_study_has_the_lowest_values(storage: Storage) -> None:
    study = of_code.objective(storage, values=[float(number) for number in range(20)])
    read = content.read(study)
    assert [trial.number for trial in content.ranked(read.valued, study.spec.objective)[:3]] == [0, 1, 2]
    drawn = page.html(read)
    assert "the best tenth" in drawn
    assert "PED-ANOVA" in drawn
    assert "with the same versions and code and data" in drawn


def test_parameters_of_code_have_the_names_that_the_code_gives_them(storage: Storage) -> None:
    search = {"head_layers": {"choices": [1, 4]}, "decay.on": [True, False]}
    study = of_code.custom(storage, values=[0.5, 0.25, 0.75, 0.625], search=search, sampler="grid")
    assert {axis.name for axis in diagrams.axes(content.read(study).valued, study.spec)} == {"head_layers", "decay.on"}
    assert "head_units" not in page.markdown(content.read(study))


def test_figures_for_programs_name_metric_and_direction(storage: Storage, cost: Study, churn: Study, flowers: Study, users: Path) -> None:
    found = {one.name: one for one in figures.of_all(storage)}
    assert [(one.task, one.metric, one.metric_in_words, one.direction, one.best_value) for one in found.values()] == [
        ("objective", "cost", "cost", "minimize", 1e-7),
        ("custom", "val_auc", "val_auc", "maximize", 0.75),
        ("image_classification", "accuracy", "validation accuracy", "maximize", 0.75),
    ]
    browser = TestClient(app.build(storage, authentication_of(users, open_metrics=True)), base_url="http://127.0.0.1:8080")
    lines = browser.get("/metrics").text.splitlines()
    assert 'tuner_best_value{study="cost"} 1e-07' in lines
    assert 'tuner_study_info{direction="minimize",metric="cost",study="cost",task="objective"} 1.0' in lines


def test_a_lower_value_of_a_minimized_study_is_a_new_best(storage: Storage, cost: Study) -> None:
    (before,) = figures.of_all(storage)
    claimed, asked = of_code.ask(cost)
    of_code.finish(cost, claimed, 30.0, asked)
    (worse,) = figures.of_all(storage)
    assert list(notifications.compare(before, worse, stop_reason=None)) == []
    claimed, asked = of_code.ask(cost)
    of_code.finish(cost, claimed, -2.5, asked)
    (better,) = figures.of_all(storage)
    (message,) = notifications.compare(worse, better, stop_reason=None)
    assert message == notifications.Message(title="cost: new best -2.5", body="Trial 4 has cost -2.5.")


def test_screens_show_the_metric_with_its_figures(cost: Study, churn: Study) -> None:
    seen = status.snapshot(cost)
    assert "best 1e-7 cost  trial 1" in screen(status_screens.study(cost.spec, seen))
    assert "best 1e-7 by trial 1" in watch_screens.line(
        cost.spec, watch_screens.WatchedStudy(snapshot=seen, workers=(), curve=(), failures=())
    )
    assert status.best_curve(cost) == [1234.5, 1e-7, 1e-7]
    table = screen(status_screens.studies_table([(cost.spec, seen), (churn.spec, status.snapshot(churn))]))
    assert re.search(r"cost +idle +3 of 40 +0 +1e-7 +cost, minimized", table)
    assert re.search(r"churn +idle +2 of 8 +0 +0\.7500 +val_auc ", table)
    best = screen(status_screens.best_trial(bests.best(cost)))
    assert "cost  trial 1, cost 1e-7" in best
    assert "in probes" not in screen(status_screens.cost(seen, 1.0))
    told = json.loads(json.dumps(status_screens.as_json(cost.spec, seen)))
    assert (told["task"], told["objective"]) == ("objective", {"metric": "cost", "direction": "minimize"})
    assert told["best_value"] == 1e-7


def test_the_best_trial_of_an_objective_can_be_downloaded(client: TestClient, cost: Study) -> None:
    told = json.loads(client.get(f"/tuner/studies/{cost.id}/best.json").text)
    assert told == json.loads(export.as_json(bests.best(cost)))
    assert told["search"]["kind"] in ({"value": "plain"}, {"value": "fast"}, "plain", "fast")


def test_notes_name_the_metric_and_escape_names_of_the_users_code(storage: Storage) -> None:
    study = of_code.objective(storage, values=[])
    claimed, asked = of_code.ask(study)
    trials.report(study, claimed, of_code.epochs(claimed, [2.0]))
    of_code.finish(study, claimed, 1e-7, asked, attributes={"a|<b>": {"deep": 0.5}})
    known = storage.rdb.get_study_system_attrs(study.id)
    texts = [text for key, text in known.items() if isinstance(text, str)]
    assert any("Best so far: **1e-7** by trial 0" in text and "the value is the best cost of a trial" in text for text in texts)
    assert any(r"| a\|\<b\>.deep | 0.5 |" in text and "fine_tune" not in text for text in texts), texts


def test_a_study_of_images_can_have_another_metric(client: TestClient, storage: Storage) -> None:
    study = studies.join(by_hand.spec(objective="log_loss"), storage)
    prepared = {PREPARED: by_hand.PREPARED.model_dump(mode="json")}
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, prepared))
    for value in (0.5, 0.25):
        claimed = by_hand.must_claim(study)
        trials.promotion(study, claimed, messages.Probed(trial=claimed.number, value=0.75))
        measured = [epoch.model_copy(update={"value": value}) for epoch in by_hand.epochs(claimed, [0.5, 0.75, 0.75])]
        trials.report(study, claimed, measured)
        by_hand.finish(study, claimed, value)
    text = shown(client.get(f"/tuner/studies/{study.id}").text)
    assert "best validation log loss 0.2500 trial 1 , lower is better" in text
    of_trial = client.get(f"/tuner/studies/{study.id}/trials/0").text
    assert re.findall(r"<figcaption>(.*?)</figcaption>", of_trial) == ["Log loss", "Accuracy", "Loss"]
    assert "validation log loss 0.5000 best 0.2500, lower is better" in shown(of_trial)
    assert re.search(r"probe_log_loss 0\.75", shown(of_trial))
    assert "probe_accuracy" not in of_trial
    told = shown(page.html(content.read(study)))
    assert "0.2500 is the lowest validation log loss of 2 completed trials, measured on 200 validation images" in told
    assert "expect a higher one on new images" in told
    assert "The rule that needs no search (trial 0) reached 0.5000. The search gained 0.2500." in told


@pytest.mark.parametrize(("sections", "words"), [({}, ""), ({"validation": {"folds": 5}}, "of all 5 folds ")])
def test_page_and_report_show_over_which_images_a_confusion_matrix_is(
    client: TestClient, storage: Storage, sections: dict[str, Any], words: str
) -> None:
    study = studies.join(by_hand.spec(**sections), storage)
    prepared = {PREPARED: by_hand.PREPARED.model_dump(mode="json")}
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, prepared))
    by_hand.finish(study, by_hand.must_claim(study), 0.75)
    for text in (client.get(f"/tuner/studies/{study.id}/trials/0").text, page.html(content.read(study))):
        assert f"Confusion on validation images {words}true class cat dog cat 9 1 dog 2 8" in shown(text)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_of_metrics_and_attributes_are_shown_as_text(client: TestClient, storage: Storage, name: str) -> None:
    study = of_code.custom(storage, values=[], objective={"metric": name, "direction": "minimize"})
    for value in (0.5, 0.25):
        claimed = of_code.claim(study)
        trials.report(study, claimed, of_code.epochs(claimed, [value, value], [{name: 1.0, f"val_{name}": 2.0}] * 2))
        known = {"attributes": {name: name, f"{name} list": [name]}, "printed": name * 3, "metrics": {name: 1.0}}
        of_code.finish(study, claimed, value, {"units": 16, name: name}, **known)
    for path in ("/", f"/tuner/studies/{study.id}", f"/tuner/studies/{study.id}/trials/0"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert_nothing_runs(answer.text)
    read = content.read(study)
    assert_nothing_runs_or_is_fetched(page.html(read))
    assert "<script>" not in page.markdown(read).partition("Study file:")[0]


LIMITS = {"latency_ms": 20, "size_mb": 10}
#: value, latency and size of some trials: the front by latency is 1, 0, 3; by size, 0 and 3
MEASURED = ((0.75, 8.0, 2.0), (0.5, 4.0, 3.0), (0.7, 9.0, 4.0), (0.875, 16.0, 8.0), (0.99, 31.0, 1.0), (0.95, 12.0, 11.0))


def constrained(storage: Storage, **sections: Any) -> Study:
    study = of_code.custom(storage, values=(), constraints=LIMITS, **sections)
    for value, latency, size in MEASURED:
        claimed = of_code.claim(study)
        asked = claimed.hyperparameters.model_dump()["values"]
        of_code.finish(study, claimed, value, asked, best_step=1, costs={"latency_ms": latency, "size_mb": size})
    return study


def costs_of(study: Study) -> list[charts.MetricChart]:
    found = study.storage.read(lambda connection: trial_lists.measured(connection, study.id))
    return charts.costs(found, study.spec)


def test_a_chart_of_each_constraint_has_the_front_of_the_trials_that_keep_all(storage: Storage) -> None:
    latency, size = costs_of(constrained(storage))
    assert latency.label == (
        "val_auc against latency_ms, limit 20 ms: 4 of 6 trials within all constraints; "
        "front: 0.5000 at 4 ms, 0.7500 at 8 ms, 0.8750 at 16 ms"
    )
    assert size.label.endswith("front: 0.7500 at 2 MB, 0.8750 at 8 MB")
    assert latency.chart.dots.count("M") == 4
    assert latency.chart.hollow_dots.count("M") == 2
    assert latency.chart.x_labels == ("4 ms", "17.5 ms", "31 ms")
    assert latency.chart.limit is not None
    assert latency.chart.series[0].path.endswith(f"H{latency.chart.limit:.0f}")


def test_the_front_of_a_minimized_study_goes_down(storage: Storage) -> None:
    study = constrained(storage, objective="val_loss")
    assert "front: 0.5000 at 4 ms" in costs_of(study)[0].label


def test_a_study_whose_trials_all_break_a_constraint_has_no_front(storage: Storage) -> None:
    study = of_code.custom(storage, values=(), constraints={"latency_ms": 1})
    assert costs_of(study) == []
    claimed = of_code.claim(study)
    of_code.finish(study, claimed, 0.5, claimed.hyperparameters.model_dump()["values"], best_step=1, costs={"latency_ms": 3.0})
    [chart] = costs_of(study)
    assert chart.chart.series == ()
    assert chart.label == "val_auc against latency_ms, limit 1 ms: 0 of 1 trial within all constraints; front: none"


def test_page_and_report_draw_the_constraints_of_a_study_that_has_some(client: TestClient, storage: Storage) -> None:
    study = constrained(storage)
    plain = of_code.objective(storage)
    for text in (client.get(f"/tuner/studies/{study.id}").text, page.html(content.read(study))):
        assert "Constraints</h2>" in text
        assert 'aria-label="val_auc against latency_ms, limit 20 ms: 4 of 6 trials within all constraints; front: ' in text
        assert 'class="dots faint hollow"' in text
        assert "breaks a constraint" in text
    for text in (client.get(f"/tuner/studies/{plain.id}").text, page.html(content.read(plain))):
        assert "Constraints</h2>" not in text
