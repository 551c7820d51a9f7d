"""A study from another machine: the path of its images here, and its allowed code."""

import re
from pathlib import Path
from typing import Any

import pytest

from tuner.commands.origin import LocalSettings
from tuner.errors import RequestError
from tuner.spec import file as study_file
from tuner.spec.study import StudySpec
from tuner.trust import user_code


def spec(data: dict[str, Any], backbone: str = "squeezenet1_1") -> StudySpec:
    return StudySpec.model_validate({"name": "flowers", "data": data, "model": {"backbone": backbone}}, context={"folder": "/there"})


def at(data: Path | None = None, allowed: str = "") -> LocalSettings:
    return LocalSettings(data=data, allowed_code=user_code.read_allowed(allowed), wait_seconds=0)


@pytest.mark.parametrize(
    ("data", "path", "root"),
    [
        ({"source": "folder", "path": "photos"}, "", None),
        # a file goes by its name where a folder is named
        ({"source": "npz", "path": "photos.npz"}, "photos.npz", None),
        ({"source": "manifest", "path": "photos/labels.csv"}, "labels.csv", None),
        # a root inside of the table's folder moves with it, another one stays
        ({"source": "manifest", "path": "photos/labels.csv", "root": "photos/jpg"}, "labels.csv", "jpg"),
        ({"source": "manifest", "path": "photos/labels.csv", "root": "/mnt/jpg"}, "labels.csv", "/mnt/jpg"),
    ],
)
def test_images_are_read_from_their_path_on_this_machine(tmp_path: Path, data: dict[str, Any], path: str, root: str | None) -> None:
    moved: Any = at(tmp_path).localize(spec(data)).data
    assert moved.path == tmp_path / path
    assert getattr(moved, "root", None) == (None if root is None else tmp_path / root)


def test_a_file_may_have_another_name_here(tmp_path: Path) -> None:
    moved: Any = at(tmp_path / "others.npz").localize(spec({"source": "npz", "path": "photos.npz"})).data
    assert moved.path == tmp_path / "others.npz"


def test_without_the_option_the_path_of_the_study_is_used() -> None:
    study = spec({"source": "folder", "path": "photos"})
    assert at().localize(study) is study


def test_a_path_is_refused_for_a_source_without_files(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--data is .* the source digits, which reads no local files; drop --data"):
        at(tmp_path).localize(spec({"source": "digits"}))


@pytest.mark.parametrize("allowed", ["mine", "mine.data", "mine.data:read", "other, mine.data"])
def test_an_allowed_module_includes_everything_below_it(allowed: str) -> None:
    at(allowed=allowed).require_allowed(spec({"source": "python", "function": "mine.data:read"}))


@pytest.mark.parametrize("allowed", ["", "min", "mine.dat", "mine.data.more", "mine.data:other", "other"])
def test_other_allowed_names_do_not_help(allowed: str) -> None:
    with pytest.raises(RequestError, match=r"data\.function mine\.data:read, which is not allowed here.*TUNER_ALLOW_CODE=mine\.data "):
        at(allowed=allowed).require_allowed(spec({"source": "python", "function": "mine.data:read"}))


def test_the_backbone_must_be_allowed_too_and_the_message_lists_the_allowed_names() -> None:
    study = spec({"source": "python", "function": "mine.data:read"}, backbone="python:theirs:build")
    with pytest.raises(RequestError, match=r"model\.backbone theirs:build, which is not allowed here\. Allowed: mine, ours\.") as raised:
        at(allowed="mine,ours").require_allowed(study)
    assert "--allow-code theirs," in str(raised.value)


def test_a_study_without_code_is_always_allowed() -> None:
    at().require_allowed(spec({"source": "digits"}))


@pytest.mark.parametrize("given", ["*", "my package", "a..b", "a.", "1st", "a:b:c", "a/b"])
def test_an_invalid_module_name_is_refused(given: str) -> None:
    with pytest.raises(RequestError, match="--allow-code names .*expected modules"):
        user_code.read_allowed(f"fine,{given}")


def custom(folder: Path | None, build: str = "churn.py:build", metric: str = "val_auc") -> Any:
    given = {"name": "churn", "task": "custom", "objective": {"metric": metric, "direction": "maximize"}, "model": {"build": build}}
    return study_file.parse(given | {"data": {"load": "churn.py:load"}, "folder": None if folder is None else str(folder)}, "x", folder)


@pytest.mark.parametrize(
    ("build", "allowed", "refused"),
    [
        ("churn.py:build", "churn.py", ""),
        ("churn.py:build", "churn.py:build,churn.py:load", ""),
        ("churn.py:build", "", "model.build churn.py:build"),
        ("churn.py:build", "churn.py:build", "data.load churn.py:load"),
        # a module is not a file of that name, and a file is only itself
        ("churn.py:build", "churn", "model.build churn.py:build"),
        ("../churn.py:build", "churn.py", "model.build ../churn.py:build"),
        ("../churn.py:build", "churn.py,../churn.py", ""),
        ("/srv/churn.py:build", "churn.py", "model.build /srv/churn.py:build"),
        ("/srv/churn.py:build", "churn.py,/srv/churn.py", ""),
        ("churn/../../evil.py:build", "churn,churn.py", "model.build churn/../../evil.py:build"),
    ],
)
def test_a_file_of_code_is_allowed_by_its_own_name_only(build: str, allowed: str, refused: str, tmp_path: Path) -> None:
    study = custom(tmp_path, build)
    if not refused:
        at(allowed=allowed).require_allowed(study)
        return
    with pytest.raises(RequestError, match=re.escape(f"names code to import, {refused}, which is not allowed here")):
        at(allowed=allowed).require_allowed(study)


def test_a_metric_that_is_a_function_must_be_allowed_too(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"objective\.metric scores\.py:gain, which is not allowed here"):
        at(allowed="churn.py").require_allowed(custom(tmp_path, metric="scores.py:gain"))


def test_code_is_in_the_folder_of_the_study_or_else_in_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert at().localize(custom(tmp_path / "there")).folder == tmp_path / "there"
    assert at().localize(custom(tmp_path / "gone")).folder == tmp_path
