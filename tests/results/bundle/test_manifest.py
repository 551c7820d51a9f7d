import json
import os
from pathlib import Path

import pytest

from tuner import errors
from tuner.results.bundle import manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "probes").mkdir(parents=True)
    (made / "model.keras").write_bytes(b"weights" * 100)
    (made / "labels.txt").write_text("cat\ndog\n")
    (made / "probes" / "ü 1.png").write_bytes(b"image")
    manifest.write(made)
    return made


def problems(folder: Path) -> dict[str, str]:
    return {problem.field: problem.message for problem in manifest.check(folder)}


def listed(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / manifest.NAME).read_text())
    return found


def test_an_unchanged_bundle_has_no_problems(folder: Path) -> None:
    assert problems(folder) == {}
    assert list(manifest.read(folder).files) == ["labels.txt", "model.keras", "probes/ü 1.png"]
    assert manifest.read(folder).files["labels.txt"].size == 8


def test_writing_the_manifest_again_changes_nothing(folder: Path) -> None:
    before = (folder / manifest.NAME).read_bytes()
    (folder / manifest.SIGNATURE).write_text("a signature")
    manifest.write(folder)
    assert (folder / manifest.NAME).read_bytes() == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_all_problems_are_reported_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.txt").write_text("dog\ncat\n")
    (folder / "model.keras").write_bytes(b"weights" * 99)
    (folder / "probes" / "ü 1.png").unlink()
    (folder / "extra.py").write_text("print()")
    (folder / "link").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    found = problems(folder)
    assert list(found) == sorted(found)
    assert found["labels.txt"].startswith("has the SHA-256")
    assert found["model.keras"] == "has 693 bytes; the manifest says 700"
    assert "missing" in found["probes/ü 1.png"]
    assert "not in the manifest" in found["extra.py"]
    assert "is a link" in found["link"]
    assert "pipe" in found["pipe"]
    assert len(found) == 6


def test_a_file_replaced_by_a_link_to_an_equal_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.txt").rename(tmp_path / "elsewhere")
    (folder / "labels.txt").symlink_to(tmp_path / "elsewhere")
    assert list(problems(folder)) == ["labels.txt"]


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../b", "a//b", "./a", "C:/windows", "a\\b", "a\nb", "a\u202eb", "", "x" * 513])
def test_a_path_that_can_leave_the_bundle_is_refused(folder: Path, name: str) -> None:
    assert manifest.refusal(name)
    content = listed(folder)
    content["files"][name] = {"sha256": "0" * 64, "size": 1}  # type: ignore[index]
    (folder / manifest.NAME).write_text(json.dumps(content))
    assert list(problems(folder)) == [manifest.NAME]
    assert repr(name)[1:9] in problems(folder)[manifest.NAME]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a manifest"),
        ("[" * 100_000, "not a manifest"),
        ("[]", "not a manifest"),
        ('{"format": "other", "files": {}}', "format"),
        ('{"files": {"a": {"sha256": "0", "size": 1}}}', "sha256"),
        ('{"files": {"a": {"sha256": "%s", "size": "1"}}}' % ("0" * 64), "size"),
        ('{"files": {"a": {"sha256": "%s", "size": -1}}}' % ("0" * 64), "size"),
        ('{"files": {}, "files": {}}', "twice"),
        (" " * (8 * 1024**2 + 1), "larger"),
    ],
)
def test_an_invalid_manifest_is_refused_with_the_reason(folder: Path, text: str, said: str) -> None:
    (folder / manifest.NAME).write_text(text)
    assert list(problems(folder)) == [manifest.NAME]
    assert said in problems(folder)[manifest.NAME]


def test_a_missing_manifest_or_a_link_instead_of_it_is_a_problem(folder: Path, tmp_path: Path) -> None:
    (folder / manifest.NAME).rename(tmp_path / "elsewhere")
    assert "missing" in problems(folder)[manifest.NAME]
    (folder / manifest.NAME).symlink_to(tmp_path / "elsewhere")
    assert list(problems(folder)) == [manifest.NAME]
    assert "cannot be read" in problems(tmp_path / "nowhere")[""]


def test_a_manifest_never_lists_a_link(folder: Path, tmp_path: Path) -> None:
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(errors.RequestError, match="is a link"):
        manifest.write(folder)


def test_a_folder_with_too_many_files_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_FILES", 1)
    assert "more than 1 files" in problems(folder)[manifest.NAME]
