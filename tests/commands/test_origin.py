"""A study from another machine: the path of its images here, and its allowed code."""

from pathlib import Path
from typing import Any

import pytest

from tuner.commands import origin
from tuner.commands.origin import LocalSettings
from tuner.errors import RequestError
from tuner.spec.study import StudySpec


def spec(data: dict[str, Any], backbone: str = "squeezenet1_1") -> StudySpec:
    return StudySpec.model_validate({"name": "flowers", "data": data, "model": {"backbone": backbone}}, context={"folder": "/there"})


def at(data: Path | None = None, allowed: str = "") -> LocalSettings:
    return LocalSettings(data=data, allowed_code=origin.read_allowed_code(allowed), wait_seconds=0)


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
        origin.read_allowed_code(f"fine,{given}")
