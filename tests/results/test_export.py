import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner import errors
from tuner.results import export
from tuner.results.best import Best
from tuner.spec import file as study_file
from tuner.spec.model import Model


@pytest.mark.parametrize("name", ["best.yaml", "best.yml", "best.json", "best.JSON", "a best one.yaml"])
def test_the_exported_file_reads_back_as_the_same_study(make_best: Callable[..., Best], name: str, tmp_path: Path) -> None:
    best = make_best()
    export.write(best, tmp_path / name)
    assert study_file.read_images(tmp_path / name) == export.resolved_images(best)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_yaml_has_a_comment_above_each_section(make_best: Callable[..., Best]) -> None:
    lines = export.as_yaml(make_best()).splitlines()
    assert lines[0] == "# Trial 17 of the study animals, the best of 12 completed trials: validation accuracy 0.9760."
    for section in ("data", "model", "budget", "training", "search", "result"):
        above = lines[next(number for number, line in enumerate(lines) if line.startswith(f"{section}:")) - 1]
        assert above.startswith("# ")


def test_the_model_of_an_export_is_the_one_that_the_trial_chose(make_best: Callable[..., Best]) -> None:
    best = make_best()
    model = Model(backbone=("squeezenet1_1", "efficientnet_lite0"), image_size=(96, 160))
    chosen = best.of_images.model_copy(update={"backbone": "squeezenet1_1", "image_size": 96})
    found = export.resolved_images(make_best(spec=best.spec.model_copy(update={"model": model}), hyperparameters=chosen))
    assert found.model == Model(backbone="squeezenet1_1", image_size=96)
    assert found.search == export.resolved_images(best).search


def test_the_json_holds_the_same_study(make_best: Callable[..., Best]) -> None:
    assert json.loads(export.as_json(make_best()))["search"]["head_units"] == [256, 64]


def test_a_later_export_of_the_same_study_replaces_the_earlier(make_best: Callable[..., Best], tmp_path: Path) -> None:
    export.write(make_best(trial=3), tmp_path / "best.yaml")
    export.write(make_best(trial=17), tmp_path / "best.yaml")
    result = study_file.read_images(tmp_path / "best.yaml").result
    assert result is not None
    assert result["trial"] == 17


@pytest.mark.parametrize(
    "content",
    [
        "name: animals\ndata: {source: animals}\n",  # the study file itself
        "name: x\ndata: {source: digits}\nresult: {study: digits}\n",  # another study's export
        "shopping: [milk]\n",
        "",
        "\x00\x01",
    ],
)
def test_other_files_are_not_overwritten(make_best: Callable[..., Best], content: str, tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_text(content)
    with pytest.raises(errors.RequestError, match="not an export of the study animals.*--force"):
        export.write(make_best(), file)
    assert file.read_text() == content
    export.replace(make_best(), file)
    assert study_file.read_images(file).name == "animals-trial-17"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("best", "ends in no suffix; expected .yaml, .yml, .json"),
        ("best.txt", "ends in .txt; expected"),
        ("nowhere/best.yaml", "the folder .*nowhere does not exist; create it first: mkdir -p"),
        ("folder.yaml", "is a folder; name a file in it"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_with_the_cure(
    make_best: Callable[..., Best], path: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for write in (export.write, export.replace):
        with pytest.raises(errors.RequestError, match=message):
            write(make_best(), tmp_path / path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.yaml"]


def test_a_file_name_that_the_system_refuses_is_named(make_best: Callable[..., Best], tmp_path: Path) -> None:
    with pytest.raises(errors.RequestError, match="cannot be written: File name too long"):
        export.replace(make_best(), tmp_path / f"{'x' * 300}.yaml")
