"""`tuner run` with real trainers: killed, interrupted, resumed and finished."""

import signal
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.acceptance.conftest import Place
from tuner.kernels import scoring
from tuner.spec import file as study_file
from tuner.spec.objective import ImageMetric
from tuner.spec.study import images_of
from tuner.storage import engine as storages
from tuner.storage import epochs, queries
from tuner.studies import retention
from tuner.studies import study as studies

TINY = {
    "data": {"source": "digits", "train": 64, "validation": 40, "test": 40},
    "model": {"backbone": "squeezenet1_1", "image_size": 32},
    "training": {"probe_epochs": 2, "epochs": 4, "promote": 1.0},
    "budget": {"trials": 2},
}


@pytest.mark.timeout(600)
def test_a_study_survives_a_killed_trainer_and_ctrl_c(place: Place) -> None:
    place.write(**TINY)
    first_point, second_point = place.wait_point("trial 0 epoch 3"), place.wait_point("trial 0 epoch 4")
    run = place.real_tuner("run", "study.yaml", waits_at=[first_point, second_point])
    run.until("trial 0 promoted")
    first_point.until_reached()
    run.trainer().kill()
    run.until("trial 0 replaced", "SIGKILL")
    first_point.go_on()
    run.until("trial 0 promoted")
    second_point.until_reached()
    run.signal(signal.SIGINT)
    code, out = run.end()
    assert code == 0, run.lines
    assert "you stopped it" in out
    assert any("trial 0 suspended" in line for line in run.lines)
    assert place.states() == ["RUNNING"]

    again = place.real_tuner("run", "study.yaml")
    code, out = again.end()
    assert code == 0, again.lines
    assert any("trial 0 resumed" in line for line in again.lines)
    assert place.states() == ["COMPLETE"] * 2
    assert "on 40 unseen images" in out
    assert (place.folder / "study-best.yaml").exists()


def test_a_program_runs_a_study_and_gets_its_best_trial(tmp_path: Path) -> None:
    spec = images_of(study_file.parse(TINY | {"name": "called", "training": {"probe_epochs": 2, "epochs": 0}}, "a test"))
    best = tuner.run(spec, storage=f"sqlite:///{tmp_path}/tuner.db", cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
    assert best.trial in (0, 1)
    assert 0 < best.value <= 1


@pytest.mark.parametrize("metric", ["macro_f1", "log_loss"])
def test_a_study_optimizes_another_metric_of_its_images(tmp_path: Path, metric: ImageMetric) -> None:
    given = {"name": metric, "objective": metric, "training": {"probe_epochs": 2, "epochs": 2, "promote": 1.0}}
    model = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 32}
    url = f"sqlite:///{tmp_path}/tuner.db"
    spec = images_of(study_file.parse(TINY | given | {"model": model}, "a test"))
    best = tuner.run(spec, storage=url, cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
    storage = storages.open(url)
    study = studies.load(metric, storage)
    values = storage.read(lambda connection: queries.values(connection, study.id))
    curve = storage.read(lambda connection: epochs.read(connection, study.id, best.trial))
    measured = [epoch.value for epoch in curve if epoch.value is not None]
    better = min if metric == "log_loss" else max
    assert best.value == better(values.values()) == better(measured)
    assert {"accuracy", "balanced_accuracy"} <= curve[-1].metrics.keys()
    fine_tuned = next(one for one in retention.stored(study) if one.logits is not None)
    with np.load(fine_tuned.logits or "") as arrays:
        found = scoring.value(metric, arrays["validation"], arrays["validation_labels"])
    assert found == pytest.approx(values[fine_tuned.number], rel=1e-3)
    storage.close()
    assert best.test_value is not None and best.test_accuracy is not None
    assert best.baseline.startswith("always the commonest class" if metric == "macro_f1" else "always the shares of the classes")
    if best.ensemble is not None:
        assert (best.ensemble.metric, best.ensemble.is_at_least(best.value)) == (metric, True)
