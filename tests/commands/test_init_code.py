"""The command `tuner init --from`: study files for user code."""

import json
from pathlib import Path

import pytest

from tuner.cli import main
from tuner.commands.init_code import NamedCode
from tuner.errors import RequestError
from tuner.spec import file as study_file
from tuner.spec import yaml_lines
from tuner.spec.domains import Choice, Range
from tuner.tasks.custom.spec.custom_study import CustomStudySpec, ObjectiveStudySpec

MODEL = """
import keras
import numpy as np


def build(hp):
    hidden = keras.layers.Dense(hp.Int("units", 2, 8, step=2), hp.Choice("kind", ["relu", "elu"]))
    model = keras.Sequential([keras.layers.Input((2,)), hidden])
    model.add(keras.layers.Dense(1))
    rate = hp.Float("learning_rate", 0.001, 0.1, sampling="log")
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="mse", metrics=["mae", "cosine_similarity"])
    return model


def declared(hp):
    return keras.Sequential([keras.layers.Dense(hp["units"])])


def load():
    x = np.zeros((8, 2))
    return (x, x[:, :1]), (x, x[:, :1])
"""
OBJECTIVE = """
def objective(trial):
    raise SystemExit("never called")


class Tuned:
    def build(self, hp): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with code in a folder inside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "code" / "objectives.py").write_text(OBJECTIVE, encoding="utf-8")
    return tmp_path


def test_a_model_is_built_once_and_its_space_and_metrics_are_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["init", "mine", "--from", "code/my.py:build", "--data", "code/my.py:load"]) == 0
    assert "Wrote code/mine.yaml. See what it will do with: tuner check code/mine.yaml" in capsys.readouterr().out
    spec = study_file.read(Path("code/mine.yaml"))
    assert isinstance(spec, CustomStudySpec)
    assert dict(spec.named_code()) == {"model.build": "my.py:build", "data.load": "my.py:load"}
    assert (spec.name, spec.objective.metric, spec.search) == ("mine", "val_mae", {})
    text = Path("code/mine.yaml").read_text(encoding="utf-8")
    assert "fit reports cosine_similarity, loss, mae, val_cosine_similarity, val_loss, val_mae" in text
    comment = text[text.index("# search:") :].replace("# ", "", 1).replace("\n# ", "\n")
    search = yaml_lines.parse(comment, Path("comment.yaml")).value["search"]
    read = CustomStudySpec.model_validate(spec.model_dump(mode="json") | {"search": search}).search
    assert {name: declared.domain for name, declared in read.items()} == {
        "units": Range(low=2, high=8, log=False, integer=True, step=2),
        "kind": Choice(values=("relu", "elu")),
        "learning_rate": Range(low=0.001, high=0.1, log=True, integer=False, step=None),
    }


def test_code_that_needs_a_section_search_is_refused_with_the_cure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["init", "--from", "code/my.py:declared", "--data", "code/my.py:load"]) == 2
    told = capsys.readouterr().err
    assert "there is no hyperparameter units" in told
    assert 'hp.Int("units", 1, 8)' in told
    assert not list(folder.rglob("*.yaml"))


def test_an_objective_is_imported_and_never_called(folder: Path) -> None:
    assert main.main(["init", "--from", "code/objectives.py:objective", "--direction", "minimize", "--to", "quick.yaml"]) == 0
    spec = study_file.read(Path("quick.yaml"))
    assert isinstance(spec, ObjectiveStudySpec)
    assert (spec.name, spec.function, spec.objective.direction) == ("objectives", "objectives.py:objective", "minimize")
    assert spec.folder == folder / "code"


def test_an_existing_file_is_never_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("code/my.yaml").write_text("mine", encoding="utf-8")
    assert main.main(["init", "--from", "code/my.py:build", "--data", "code/my.py:load"]) == 2
    assert "code/my.yaml already exists" in capsys.readouterr().err
    assert Path("code/my.yaml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("code", "data", "direction", "message"),
    [
        ("code/my.py", None, None, "--from is code/my.py; expected a file and a function"),
        ("code/my.py:build", "load", None, "--data is load; expected a file and a function"),
        ("code/my.py:build", None, None, "--from names code/my.py:build, which builds a model, and --data is missing"),
        ("code/objectives.py:Tuned", "code/my.py:load", "minimize", "--direction belongs to an objective"),
        ("code/objectives.py:objective", "code/my.py:load", None, "an objective, which loads its own data; drop --data"),
        ("code/objectives.py:objective", None, None, "--direction is missing; expected maximize or minimize"),
        ("code/objectives.py:objective", None, "up", "--direction is up; expected maximize or minimize"),
        ("code/none.py:objective", None, None, "--from names the file code/none.py, which cannot be read: No such file or directory"),
        ("code/objectives.py:objectiv", None, None, r"objectives.py has no objectiv. Known: .* Did you mean objective\?"),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, code: str, data: str | None, direction: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        NamedCode(code=code, data=data, direction=direction).require_kind()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "init needs NAME and --images, or --from"),
        (["x"], "init needs NAME and --images, or --from"),
        (["x", "--images", "code", "--data", "a.py:b"], "--data and --direction belong to --from"),
        (["x", "--images", "code", "--from", "a.py:b"], "--from is for your own code, and --images"),
    ],
)
def test_options_of_images_and_of_code_are_not_mixed(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_there_is_a_schema_of_each_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema", "--task", "objective"]) == 0
    assert "function" in json.loads(capsys.readouterr().out)["properties"]
    assert main.main(["schema", "--task", "costum"]) == 2
    assert "Did you mean custom?" in capsys.readouterr().err
