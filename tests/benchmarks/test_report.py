"""The report of the benchmark: tables of who reached which accuracy when."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import report, space
from benchmarks.peers.task import STUDY, Task
from tuner.spec import file as study_file
from tuner.spec import space as spaces

CURVE = ((10.0, 0.5), (20.0, 0.7), (30.0, 0.7), (40.0, 0.81))


def run(contender: str = "optuna", **given: Any) -> report.Run:
    """Return a run of twelve minutes."""
    curve = given.pop("curve", CURVE)
    best = curve[-1][1] if curve else None
    plain = {"data": "animals", "seed": 0, "minutes": 12.0, "epochs": 6, "threads": 2, "workers": 1, "trials": 3, "epochs_trained": 18}
    return report.Run(**{"contender": contender, "curve": curve, "best": best, "test": 0.7, "validation_of_scored": best} | plain | given)


@pytest.mark.parametrize(
    ("accuracy", "seconds"),
    [
        (0.5, 10.0),  # the first epoch is enough
        (0.6, 20.0),  # between two
        (0.7, 20.0),  # equal counts, and the earlier of two equals
        (0.82, None),  # never
    ],
)
def test_the_time_to_an_accuracy_is_the_time_of_the_first_epoch_that_reaches_it(accuracy: float, seconds: float | None) -> None:
    assert report.seconds_to(CURVE, accuracy) == seconds


def test_a_race_is_against_the_peer_with_the_best_accuracy_of_the_same_seed() -> None:
    runs = [
        run("tuner", curve=((4.0, 0.75), (9.0, 0.85)), test=0.84),
        run("optuna", curve=((300.0, 0.74),), test=0.73),
        run("ray", curve=((450.0, 0.80), (600.0, 0.80)), test=0.72),
        run("random", curve=((1.0, 0.99),), seed=1),
    ]
    [race] = report.races(runs)
    assert (race.peer, race.accuracy, race.peer_seconds, race.our_seconds, race.ratio) == ("ray", 0.80, 450.0, 9.0, 50.0)
    assert (race.our_accuracy, race.our_test, race.best_peer_test) == (0.85, 0.84, 0.73)


def test_among_equal_peers_the_fastest_is_the_best() -> None:
    runs = [run("tuner"), run("optuna", curve=((300.0, 0.8),)), run("ray", curve=((200.0, 0.8),))]
    assert report.races(runs)[0].peer == "ray"


def test_an_accuracy_that_tuner_did_not_reach_has_no_ratio() -> None:
    [race] = report.races([run("tuner", curve=((4.0, 0.5),)), run("optuna")])
    assert race.our_seconds is None and race.ratio is None
    assert "not in time" in report.races_table([race])


def test_a_row_shows_how_many_seeds_reached_the_accuracy() -> None:
    table = report.contenders_table([run("tuner"), run("optuna"), run("optuna", seed=1, curve=((5.0, 0.6),))])
    title = "Optuna, TPE and median pruner, XLA switched off"
    assert f"| {title} | 2 | 0.705 | 0.600 | 0.700 | none | none | none | 0.705 | 22.5 s | 40.0 s (1 of 2) | 3 | 40.0 s |" in table


def test_a_peer_without_a_finished_epoch_is_listed_but_not_compared() -> None:
    runs = [run("tuner"), run("ray", curve=(), test=None)]
    assert report.races(runs) == []
    assert (
        "| Ray Tune, OptunaSearch and ASHA | 1 | none | none | none | none | none | none | none | not in time | not in time | 3 |"
        in report.contenders_table(runs)
    )


def test_results_are_read_from_the_folders_of_the_runs(tmp_path: Path) -> None:
    for seed in (1, 0):
        folder = tmp_path / "animals" / "optuna" / f"seed-{seed}-minutes-12"
        folder.mkdir(parents=True)
        plain = vars(run(seed=seed)) | {"npz": None}
        (folder / "result.json").write_text(json.dumps(plain), encoding="utf-8")
    assert report.read(tmp_path) == [run(seed=0), run(seed=1)]


def test_a_task_and_its_study_are_read_back_from_its_folder(tmp_path: Path) -> None:
    task = Task(
        contender="tuner", data="photos", npz="/photos.npz", seed=3, minutes=2.0, epochs=6, threads=2, workers=1, folder=tmp_path / "run"
    )
    task.write()
    assert Task.read(task.folder) == task
    study = study_file.read_images(task.study_path)
    assert (study.seed, study.budget.timeout, study.data) == (3, 45.0, task.study().data)  # the rest is for its start and its ensemble


class _First:
    """A chooser that takes the first of several values and the lower end of each range."""

    def __init__(self, **wishes: Any) -> None:
        self._wishes = wishes
        self.asked: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        self.asked.append(name)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        self.asked.append(name)
        return low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked.append(name)
        wish = self._wishes.get(name, choices[0])
        assert wish in choices
        return wish


@pytest.mark.parametrize(("unfreezes", "rate"), [(True, "learning_rate.sgd"), (False, "probe_learning_rate.sgd")])
def test_peers_search_the_ranges_of_the_study(unfreezes: bool, rate: str) -> None:
    study = study_file.read_images(STUDY)
    chooser = _First(**{"optimizer": "sgd", "unfreeze.on": unfreezes, "image_size": 128})
    recipe = space.recipe(space.suggest(chooser, study), study)
    assert [name for name in chooser.asked if "learning_rate" in name] == [rate]
    assert recipe.learning_rate == getattr(study.search, rate.removesuffix(".sgd"))["sgd"].low
    assert (recipe.unfreeze > 0) is unfreezes
    assert (recipe.backbone, recipe.image_size) == ("efficientnet_lite0", 128)
    assert space.Recipe.of(json.loads(json.dumps(recipe.plain()))) == recipe


def task(folder: Path, contender: str, **given: Any) -> Task:
    """Return a run of twelve minutes on silhouettes."""
    plain: dict[str, Any] = {"data": "animals", "npz": None, "seed": 3, "minutes": 12.0, "epochs": 6, "threads": 2, "workers": 1}
    return Task(**(plain | {"contender": contender, "folder": folder} | given))


def test_every_trial_of_the_recipe_has_the_hyperparameters_of_trial_0_at_one_size(tmp_path: Path) -> None:
    search, recipe = (task(tmp_path, name).study() for name in ("tuner", "recipe-128"))
    assert (search.model.sizes, recipe.model.sizes, recipe.model.backbones) == ((96, 128, 160), (128,), ("efficientnet_lite0",))
    assert spaces.rows(search) != [] and not any(row.is_searched for row in spaces.rows(recipe))
    assert recipe.search.model_dump(mode="json")["learning_rate"] == {"adamw": 3e-4}
    assert (recipe.training.promote, recipe.budget.timeout, search.budget.timeout) == (1.0, 645, 645)
