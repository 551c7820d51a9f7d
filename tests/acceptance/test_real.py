"""`tuner run` with real trainers: killed, interrupted, resumed, finished, and trained again from the exported bundle."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.acceptance.conftest import Place
from tuner.kernels import scoring
from tuner.results import best as bests
from tuner.results.bundle import manifest
from tuner.spec import file as study_file
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
def test_a_study_survives_a_killed_trainer_and_ctrl_c_and_its_bundle_gives_the_same_model(place: Place) -> None:
    model = {"backbone": ["squeezenet1_1", "efficientnet_lite0"], "image_size": [32, 48]}
    place.write(**TINY | {"model": model, "training": {"probe_epochs": 2, "epochs": 5, "promote": 1.0}, "budget": {"trials": 1}})
    first_point, second_point = place.wait_point("trial 0 epoch 5"), place.wait_point("trial 0 epoch 6")
    run = place.real_tuner("run", "study.yaml", "--threads", "1", waits_at=[first_point, second_point])
    run.until("trial 0 promoted")
    first_point.until_reached()
    assert len(checkpoints(place)) == 1
    run.trainer().kill()
    run.until("trial 0 replaced", "SIGKILL")
    first_point.go_on()
    second_point.until_reached()
    run.signal(signal.SIGINT)
    code, out = run.end()
    assert code == 0, run.lines
    assert "you stopped it" in out
    assert any("trial 0 suspended" in line for line in run.lines)
    assert sum("trial 0 replaced" in line for line in run.lines) == 1, run.lines
    assert place.states() == ["RUNNING"]

    again = place.real_tuner("run", "study.yaml", "--threads", "1")
    code, out = again.end()
    assert code == 0, again.lines
    assert any("trial 0 resumed" in line for line in again.lines)
    assert place.states() == ["COMPLETE"]
    assert "on 40 unseen images" in out
    assert (place.folder / "study-best.yaml").exists()
    assert not checkpoints(place)

    for call in (["export", "study", "--to", "home"], ["run", "home/config.yaml", "--no-export", "--threads", "1"]):
        command = place.real_tuner(*call)
        code, _ = command.end()
        assert code == 0, command.lines
    assert manifest.check(place.folder / "home") == []
    [row] = json.loads((place.folder / "home" / "formats.json").read_text())
    assert (row["label_agreement"], row["images_compared"]) == (1.0, 40)
    assert curve(place, "study-trial-0") == curve(place, "study")


def checkpoints(place: Place) -> list[Path]:
    return [path for path in (place.folder / "tuner-artifacts").rglob("*") if "checkpoint" in path.name and path.is_file()]


def curve(place: Place, name: str) -> list[tuple[float | None, float | None]]:
    storage = storages.open(f"sqlite:///{place.folder / 'tuner.db'}")
    study = studies.load(name, storage)
    assert bests.best(study).trial == 0
    found = storage.read(lambda connection: epochs.read(connection, study.id, 0))
    storage.engine.dispose()
    return [(epoch.loss, epoch.validation_loss) for epoch in found]


def test_a_program_runs_a_study_of_another_metric_and_gets_its_best_trial(tmp_path: Path) -> None:
    given = {"name": "called", "objective": "log_loss", "training": {"probe_epochs": 2, "epochs": 2, "promote": 1.0}}
    model = {"backbone": "squeezenet1_1", "weights": "none", "image_size": 32}
    url = f"sqlite:///{tmp_path}/tuner.db"
    spec = images_of(study_file.parse(TINY | given | {"model": model}, "a test"))
    best = tuner.run(spec, storage=url, cache=tmp_path / "cache", artifacts=tmp_path / "artifacts")
    storage = storages.open(url)
    study = studies.load("called", storage)
    values = storage.read(lambda connection: queries.values(connection, study.id))
    curve = storage.read(lambda connection: epochs.read(connection, study.id, best.trial))
    measured = [epoch.value for epoch in curve if epoch.value is not None]
    assert best.trial in (0, 1)
    assert best.value == min(values.values()) == min(measured)
    assert {"accuracy", "balanced_accuracy"} <= curve[-1].metrics.keys()
    fine_tuned = next(one for one in retention.stored(study) if one.logits is not None)
    with np.load(fine_tuned.logits or "") as arrays:
        found = scoring.value("log_loss", arrays["validation"], arrays["validation_labels"])
    assert found == pytest.approx(values[fine_tuned.number], rel=1e-3)
    storage.close()
    assert best.test_value is not None and best.test_accuracy is not None
    assert best.baseline.startswith("always the shares of the classes")
    if best.ensemble is not None:
        assert (best.ensemble.metric, best.ensemble.is_at_least(best.value)) == ("log_loss", True)
