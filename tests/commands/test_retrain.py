"""What `tuner retrain` refuses, before anything is written or trained, and how it retrains a user model."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import databases
from tests.studies import by_hand
from tuner import wording
from tuner.cli import main
from tuner.commands import ensemble
from tuner.commands import retrain as commands_retrain
from tuner.errors import Dismissed, StudyError
from tuner.protocol import messages
from tuner.protocol.messages import Ending, Stage
from tuner.report import facts
from tuner.results import best as bests
from tuner.results.best import Best
from tuner.results.retrain import trainings
from tuner.results.versions import versions
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues, Hyperparameters
from tuner.spec.hyperparameters import of_images as of_images_values
from tuner.storage import engine as storages
from tuner.studies import data_check, retraining, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.tasks.custom.spec.custom_study import CustomStudySpec


def searched(folder: Path, *, num_test: int = 200, value: float | None = 0.9, **sections: Any) -> Study:
    study = studies.join(by_hand.spec(sampler="random", budget={"trials": 4}, **sections), storages.open(databases.sqlite(folder)))
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"num_test": num_test}))
    if value is not None:
        by_hand.finish(study, by_hand.must_claim(study), value)
    return study


def retrain(folder: Path, *given: str) -> int:
    url = f"sqlite:///{folder / 'tuner.db'}"
    return main.main(["retrain", *given, "--storage", url, "--cache", str(folder / "cache"), "--artifacts", str(folder / "artifacts")])


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert retrain(folder, *given) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_retraining_cannot_be_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(tmp_path)
    retraining.begin(study, retraining.configs(study, 1), (1,), top=1)
    assert "retrain that study: tuner retrain by-hand" in refused(tmp_path, capsys, "by-hand-retrain-1")


def test_a_study_without_test_images_cannot_be_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(tmp_path, num_test=0)
    assert "has no test images (data.test is 0)" in refused(tmp_path, capsys, "by-hand")
    assert studies.names(study.storage) == ["by-hand"]


def test_a_study_without_a_completed_trial_cannot_be_retrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(tmp_path, value=None)
    assert "has no completed trial yet" in refused(tmp_path, capsys, "by-hand")
    assert studies.names(study.storage) == ["by-hand"]


#: what an image may be asked for, the metric of a study of it, and its figures: on the test images, and the accuracy there
ASKED = {
    "number": ({"target": "number"}, "mae", 2.75, None),
    "several": ({"labels": "several"}, "mean_average_precision", 0.62, 0.5),
    "one": ({}, "macro_f1", 0.62, 0.66),
}


def of_images(folder: Path, what: str) -> Study:
    """A finished search of images: trials 0 to 2, the last one is the best."""
    labels = {"number": np.arange(24.0), "several": np.tile([[0, 1], [1, 1], [1, 0]], (8, 1)), "one": np.arange(24) % 2}[what]
    pictures = np.random.default_rng(0).integers(256, size=(24, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", x=pictures, y=labels)
    keys, metric, *_ = ASKED[what]
    data = {"source": "npz", "path": str(folder / "images.npz"), **keys}
    spec = by_hand.spec(
        name="pictures", data=data, objective=metric, sampler="random", budget={"trials": 3}, search={"dropout": [0.1, 0.4]}
    )
    study = studies.join(spec, storages.open(databases.sqlite(folder)))
    data_check.admit(study, by_hand.PREPARED)
    values = (3.0, 2.5, 2.0) if metric == "mae" else (0.3, 0.4, 0.5)
    for value in values:
        train_on_images(study, folder, value)
    return study


def train_on_images(study: Study, folder: Path, value: float) -> Hyperparameters:
    """Train the next trial of a study of images by hand."""
    claimed = by_hand.must_claim(study)
    path = folder / f"{study.name}-{claimed.number}.weights"
    path.write_bytes(b"weights")
    finished = by_hand.finished(claimed, value).model_copy(update={"weights": str(path), "metrics": {"accuracy": 0.25}})
    trials.finish(study, claimed, finished, [], device="cpu")
    return of_images_values(claimed.hyperparameters)


@pytest.mark.parametrize("what", ASKED)
def test_images_are_retrained_in_the_metric_of_their_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    study, (_, metric, test, accuracy) = of_images(tmp_path, what), ASKED[what]
    trained: list[Hyperparameters] = []
    measured: list[int] = []

    def train_all(again: Study, *_: object) -> list[trainings.RetrainedConfig]:
        # trials 2, 1 and the rule with a seed, then with another one; the number 1 of the search is worse than its number 2
        for value in (2.4, 2.1, 9.0, 2.6, 2.3, 9.0) if metric == "mae" else (0.4, 0.43, 0.1, 0.42, 0.45, 0.1):
            trained.append(train_on_images(again, tmp_path, value))
        return trainings.read(again)

    def measure(again: Study, best: Best, *_: object) -> None:
        measured.append(best.trial)
        trials.keep_test(again, messages.Evaluated(trial=best.trial, num_images=200, value=test, accuracy=accuracy))

    monkeypatch.setattr(commands_retrain, "_train_all", train_all)
    monkeypatch.setattr(ensemble, "measure_trial", measure)
    asked = ("pictures", "--top", "2", "--seeds", "2")
    assert retrain(tmp_path, *asked) == 0
    said = capsys.readouterr()
    assert trained[0] == bests.of(study, 2).hyperparameters
    best, mean, searched_value = ("2.1", "2.2 ± 0.1414", "2.5") if metric == "mae" else ("0.4500", "0.4400 ± 0.0141", "0.4000")
    assert f"pictures-retrain-1 trial 1 is chosen: {metric} {mean} over 2 seeds" in said.err
    assert said.out == (
        f"pictures 1: {metric} {best}, the best of 2 seeds (mean {mean}); on the test split {wording.figure(test)}. "
        f"In the search it was {searched_value}.\n"
    )
    (version,) = versions.all(study.storage, "pictures")
    number = 1 if metric == "mae" else 4
    assert (version.model.study, version.model.trial, measured) == ("pictures-retrain-1", number, [number])
    assert version.model.artifact == str(tmp_path / f"pictures-retrain-1-{number}.weights")
    known = version.model.metrics
    assert (known["metric"], known["value"], known["test_value"]) == (metric, float(best), test)
    assert (known["mean"], known["seeds"]) == (pytest.approx(float(mean.split()[0])), 2)
    readings = versions.readings(study.storage, "pictures")
    assert [(reading.content.purpose, reading.content.accuracy) for reading in readings] == ([("retrain", accuracy)] if accuracy else [])
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    assert main.main(["versions", "pictures", "--storage", url]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pictures 1")]
    assert re.search(rf" {wording.figure(float(best))} +{wording.figure(test)} +once ", row)  # and not the accuracies
    (listed, _) = facts.version_rows(study)
    assert (listed[0].validation_value, listed[0].test_value, listed[0].interval) == (float(best), test, "")
    assert retrain(tmp_path, *asked, "--json") == 0
    told = capsys.readouterr()
    assert "was finished before" in told.err
    assert json.loads(told.out)["test_value"] == test
    assert len(trained) == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--on", "train+validation"), "pictures optimizes mae, and the validation images choose its version; drop --on"),
        (("--single",), "pictures optimizes mae, and its version is always one network; drop --single"),
    ],
)
def test_options_of_a_verdict_are_refused_for_another_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], message: str
) -> None:
    study = of_images(tmp_path, "number")
    assert message in refused(tmp_path, capsys, "pictures", *given)
    assert studies.names(study.storage) == ["pictures"]


@pytest.mark.parametrize(
    ("sections", "given", "on"),
    [
        ({}, (), "train"),
        ({"validation": {"folds": 2}}, (), "train+validation"),
        ({"validation": {"folds": 2}}, ("--on", "train"), "train"),
        ({"validation": {"folds": 2}, "objective": "macro_f1"}, (), "train"),
    ],
)
def test_the_version_of_a_search_with_folds_is_trained_on_all_images_unless_you_say_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any], given: tuple[str, ...], on: str
) -> None:
    searched(tmp_path, **sections)
    asked: list[tuple[str | None, int]] = []

    def train(_: Study, again: Study, wanted: commands_retrain.RetrainOptions, *__: object) -> None:
        asked.append((wanted.on, again.spec.num_folds))
        raise Dismissed("enough")

    for name in ("_train_and_judge", "_train_and_choose"):
        monkeypatch.setattr(commands_retrain, name, train)
    assert retrain(tmp_path, "by-hand", *given) == 1
    assert asked == [(on, 1)]


def of_code(folder: Path, /, **sections: Any) -> Study:
    """A finished search of a user model: trials 0 to 2, the last one is the best."""
    code = {"model": {"build": "my.py:build"}, "data": {"load": "my.py:load"}, "search": {"units": [1, 64]}}
    given = {"name": "prices", "task": "custom", "objective": "val_mae", "sampler": "random", **code, **sections}
    study = studies.join(study_file.parse(given, "prices.yaml"), storages.open(databases.sqlite(folder)))
    data_check.admit(study, by_hand.PREPARED)
    for value in (3.0, 2.5, 2.0):
        train(study, folder, value)
    return study


def train(study: Study, folder: Path, value: float) -> dict[str, Any]:
    """Train the next trial of a study by hand, and return its values; the code asked for `depth`, too."""
    claimed = by_hand.must_claim(study)
    chosen = claimed.hyperparameters
    assert isinstance(chosen, ChosenValues)
    asked = {**chosen.values, "depth": 2}
    path = folder / f"{study.name}-{claimed.number}.npz"
    path.write_bytes(b"weights")
    epoch = messages.Epoch(trial=claimed.number, stage=Stage.TRAIN, step=1, seconds=1.0, value=value)
    finished = messages.Finished(
        trial=claimed.number, ending=Ending.COMPLETED, value=value, best_step=1, weights=str(path), asked=asked, fine_tune_seconds=1.0
    )
    trials.finish(study, claimed, finished, [epoch], device="cpu")
    return dict(chosen.values)


def rehearse(monkeypatch: pytest.MonkeyPatch, train_all: Callable[..., list[trainings.RetrainedConfig]], *, test_value: float) -> None:
    """Let a function train all configurations in place of workers; every trial gets the same value on the test split."""

    def measure(again: Study, best: Best, *_: object) -> None:
        trials.keep_test(again, messages.Evaluated(trial=best.trial, num_images=200, value=test_value))

    monkeypatch.setattr(commands_retrain, "_train_all", train_all)
    monkeypatch.setattr(ensemble, "measure_trial", measure)


def test_a_model_of_the_users_is_retrained_and_its_best_training_becomes_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = of_code(tmp_path)
    searched_values = [bests.of(study, number).hyperparameters for number in (2, 1)]
    trained: list[dict[str, Any]] = []

    def train_all(again: Study, *_: object) -> list[trainings.RetrainedConfig]:
        for value in (2.4, 2.1, 2.2, 2.5):  # trial 2 with both seeds: 2.4 and 2.2; trial 1: 2.1 and 2.5
            trained.append(train(again, tmp_path, value))
        return trainings.read(again)

    rehearse(monkeypatch, train_all, test_value=2.75)
    asked = ("prices", "--top", "2", "--seeds", "2", "--allow-code", "my.py")
    assert retrain(tmp_path, *asked) == 0
    said = capsys.readouterr()
    assert [values["units"] for values in trained] == [values["units"] for values in searched_values] * 2  # type: ignore[index]
    assert "prices-retrain-1 trial 2 is chosen: val_mae 2.3 ± 0.1414 over 2 seeds" in said.err
    assert said.out == ("prices 1: val_mae 2.2, the best of 2 seeds (mean 2.3 ± 0.1414); on the test split 2.75. In the search it was 2.\n")
    (version,) = versions.all(study.storage, "prices")
    assert (version.model.study, version.model.trial) == ("prices-retrain-1", 2)
    assert version.model.artifact.endswith("prices-retrain-1-2.npz")
    assert version.model.metrics["test_value"] == 2.75
    assert retrain(tmp_path, *asked) == 0
    assert "was finished before" in capsys.readouterr().err
    assert len(trained) == 4


def test_a_small_value_keeps_its_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    of_code(tmp_path)

    def train_all(again: Study, *_: object) -> list[trainings.RetrainedConfig]:
        for value in (3e-7, 1e-7):
            train(again, tmp_path, value)
        (config,) = trainings.read(again)
        assert [run.value for run in config.by_value] == [1e-7, 3e-7]  # less is better
        return [config]

    rehearse(monkeypatch, train_all, test_value=2.5e-7)
    assert retrain(tmp_path, "prices", "--top", "1", "--seeds", "2", "--allow-code", "my.py") == 0
    said = capsys.readouterr()
    assert "val_mae 2e-7 ± 1.414e-7 over 2 seeds" in said.err
    assert said.out == (
        "prices 1: val_mae 1e-7, the best of 2 seeds (mean 2e-7 ± 1.414e-7); on the test split 2.5e-7. In the search it was 2.\n"
    )
    assert main.main(["versions", "prices", "--storage", f"sqlite:///{tmp_path / 'tuner.db'}"]) == 0
    assert " once " in capsys.readouterr().out  # the test split was read when the training was measured
    assert main.main(["versions", "prices", "--json", "--storage", f"sqlite:///{tmp_path / 'tuner.db'}"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["metric"], listed["value"], listed["test_value"]) == ("val_mae", 1e-7, 2.5e-7)


def test_a_retraining_from_another_machine_resumes_with_the_code_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = of_code(tmp_path, folder=str(tmp_path / "elsewhere"))
    retraining.begin(study, retraining.configs(study, 1), retraining.seeds(study, 1), top=1)
    monkeypatch.chdir(tmp_path)
    folders: list[Path | None] = []

    def train(study: Study, again: Study, *_: object) -> None:
        folders.extend(getattr(one.spec, "folder", None) for one in (study, again))
        raise Dismissed

    monkeypatch.setattr(commands_retrain, "_train_and_choose", train)
    assert retrain(tmp_path, "prices", "--top", "1", "--seeds", "1", "--allow-code", "my.py") == 1
    assert folders == [tmp_path, tmp_path]
    assert "does not exist here; its files are read from" in capsys.readouterr().err


def train_folds(study: Study, folder: Path, value: float, best_epochs: list[int]) -> None:
    """Train the next trial of a study with two folds by hand."""
    claimed = by_hand.must_claim(study)
    assert isinstance(claimed.hyperparameters, ChosenValues)
    found = {"folds": [value - 1, value + 1], "standard_deviation": 1.4142, "best_epochs": best_epochs}
    finished = messages.Finished(
        trial=claimed.number, ending=Ending.COMPLETED, value=value, asked=dict(claimed.hyperparameters.values), attributes=found
    )
    trials.finish(study, claimed, finished, [], device="cpu")


def test_the_final_model_of_folds_is_trained_on_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"name": "prices", "task": "custom", "objective": "val_mae", "sampler": "random", "search": {"units": [1, 64]}}
    code = {"model": {"build": "my.py:build"}, "data": {"load": "my.py:load"}}
    sections = {"validation": {"folds": 2}, "training": {"epochs": 30, "early_stopping": {"patience": 3}}}
    study = studies.join(study_file.parse(given | code | sections, "prices.yaml"), storages.open(databases.sqlite(tmp_path)))
    data_check.admit(study, by_hand.PREPARED)
    for value in (3.0, 2.5, 2.0):
        train_folds(study, tmp_path, value, [10, 12])
    trained: list[Study] = []

    def train_all(again: Study, *_: object) -> list[trainings.RetrainedConfig]:
        trained.append(again)
        if again.name.endswith("-all"):
            train(again, tmp_path, 0.5)
        for value in () if again.name.endswith("-all") else (2.4, 2.1, 2.2, 2.5):  # trial 2: 2.4 and 2.2; trial 1: 2.1 and 2.5
            train_folds(again, tmp_path, value, [9, 12] if value > 2.3 else [20, 22])
        return trainings.read(again)

    rehearse(monkeypatch, train_all, test_value=2.75)
    asked = ("prices", "--top", "2", "--seeds", "2", "--allow-code", "my.py")
    assert retrain(tmp_path, *asked) == 0
    said = capsys.readouterr()
    assert said.out == (
        "prices 1: val_mae 2.3 ± 0.1414, the mean over 2 folds and 2 seeds; trained on all folds for 16 epochs; "
        "on the test split 2.75. In the search it was 2.\n"
    )
    compared, final = trained
    assert compared.spec.num_folds == 2
    assert isinstance(final.spec, CustomStudySpec)
    assert final.spec.validation is not None
    assert (final.name, final.spec.validation.train_on) == ("prices-retrain-1-all", "all")
    assert (final.spec.training.epochs, final.spec.training.early_stopping) == (16, None)
    assert bests.of(final, 0).hyperparameters["units"] == bests.of(study, 2).hyperparameters["units"]  # type: ignore[index]
    (version,) = versions.all(study.storage, "prices")
    assert (version.model.study, version.model.artifact) == (final.name, str(tmp_path / "prices-retrain-1-all-0.npz"))
    assert version.model.metrics["value"] == pytest.approx(2.3)  # not 0.5, which was measured on what was trained on
    assert version.model.config["validation"]["train_on"] == "all"
    study_file.parse(version.model.config, "version.yaml")
    assert retrain(tmp_path, *asked) == 0
    assert "was finished before" in capsys.readouterr().err
    assert len(trained) == 2


def test_a_trial_with_folds_has_no_model_to_export_or_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = of_code(tmp_path, validation={"folds": 5})
    cure = "trained a model for each of 5 folds, and none of them on all the data. Train the final model: tuner retrain prices. To export"
    url = f"sqlite:///{tmp_path / 'tuner.db'}"
    for command in (["export", "prices", "--to", str(tmp_path / "home")], ["versions", "prices", "--add", "2"]):
        assert main.main([*command, "--storage", url]) == 2
        assert cure in capsys.readouterr().err
    with pytest.raises(StudyError, match="tuner retrain prices"):
        _ = bests.best(study).model


def test_what_a_study_of_code_cannot_be_retrained_with_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_code(tmp_path)
    assert "--allow-code my.py" in refused(tmp_path, capsys, "prices")
    assert "drop --on" in refused(tmp_path, capsys, "prices", "--on", "train+validation", "--allow-code", "my.py")


def test_an_objective_is_refused_with_what_to_do_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = study_file.parse({"name": "o", "task": "objective", "function": "my.py:f", "objective": "minimize"}, "o.yaml")
    studies.join(spec, storages.open(databases.sqlite(tmp_path)))
    assert "to run its best trial again: tuner export o --to best.yaml, then tuner run best.yaml" in refused(tmp_path, capsys, "o")


def test_an_unknown_study_is_refused_and_no_database_is_created(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no study elsewhere" in refused(tmp_path, capsys, "elsewhere")
    assert not (tmp_path / "tuner.db").exists()


def test_a_number_of_seeds_below_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--seeds" in refused(tmp_path, capsys, "by-hand", "--seeds", "0")
