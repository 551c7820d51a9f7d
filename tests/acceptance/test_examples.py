"""The examples, each a short search with real workers."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from tuner.cli import main
from tuner.spec import file as study_file

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
#: the pages that explain them
TEXT = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("your-own-code.md", "targets.md"))
#: an example whose trials have different hyperparameters
CONDITIONAL = "keras_tuner_port"


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the examples, beside folders that only the environment names."""
    monkeypatch.setenv("TUNER_STORAGE", f"sqlite:///{tmp_path / 'tuner.db'}")
    monkeypatch.setenv("TUNER_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    copy = Path(shutil.copytree(ROOT / "examples", tmp_path / "examples"))
    monkeypatch.chdir(copy)  # functions of images are imported from the current folder
    return copy


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_an_example_runs(name: str, examples: Path) -> None:
    spec = tuner.read(examples / f"{name}.yaml")
    training = spec.training.model_copy(update={"epochs": 2})  # type: ignore[attr-defined]
    study = tuner.study(spec.model_copy(update={"training": training}))
    num_trials = 2 if name == CONDITIONAL else 1
    best = study.run(workers=1, trials=num_trials)
    assert best.num_completed == num_trials
    assert math.isfinite(best.value)
    assert not [row for row in study.trials_dataframe().to_dict("records") if row["state"] != "COMPLETE"]


def test_images_with_several_labels_are_retrained_and_the_bundle_of_the_version_has_thresholds(
    examples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUNER_ALLOW_CODE", "shapes")
    spec = tuner.read(examples / "shapes.yaml")
    training = spec.training.model_copy(update={"epochs": 1})  # type: ignore[attr-defined]
    tuner.study(spec.model_copy(update={"training": training})).run(workers=1, trials=1)
    assert main.main(["retrain", "shapes", "--top", "1", "--seeds", "2", "--json"]) == 0
    version = json.loads(capsys.readouterr().out)
    assert (version["metric"], version["seeds"]) == ("macro_f1", 2)
    assert 0 <= version["test_value"] <= 1
    assert main.main(["export", "shapes", "--version", "1", "--to", "home"]) == 0
    found = json.loads((examples / "home" / "metrics.json").read_text(encoding="utf-8"))
    assert (found["version"], found["test"]["value"]) == (1, version["test_value"])
    assert len(found["thresholds"]) == 3
    (image, *_) = sorted((examples / "home" / "probes").glob("*.png"))
    capsys.readouterr()
    assert main.main(["predict", "home", str(image)]) == 0
    assert re.match(rf"{re.escape(str(image))}: (disk|ring|cross|no label)", capsys.readouterr().out)
    assert main.main(["verify", "home"]) == 0
    assert re.search(r"robustness .* of the probes.*: macro f1 clean \d\.\d{4}, mean \d\.\d{4}", capsys.readouterr().out)


def test_the_script_with_an_objective_of_optuna_runs(examples: Path) -> None:
    command = [sys.executable, str(examples / "optuna_port.py"), "12"]
    done = subprocess.run(command, cwd=examples, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"trial \d+: 0\.9\d\d with \{.*\}\n", done.stdout)
    table = tuner.load("optuna_port").trials_dataframe()
    assert len(table) == 12
    assert set(table["state"]) <= {"COMPLETE", "PRUNED"}


@pytest.mark.parametrize("path", sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".yaml")), ids=str)
def test_a_page_explains_each_example(path: Path) -> None:
    assert f"](../examples/{path.name})" in TEXT
    assert path.suffix == ".py" or study_file.read(path).name == path.stem
