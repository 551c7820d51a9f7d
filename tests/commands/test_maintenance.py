"""`tuner cache`: which entries it shows, deletes and keeps."""

import io
import json
from pathlib import Path

import pytest

from tests.cache import test_arrays
from tuner.cache import arrays, entries
from tuner.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache with features of two studies, images of one study, and an index."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path))
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "1MB")
    for days, (study, kind) in enumerate([("flowers", "features"), ("flowers", "images"), ("animals", "features")]):
        wanted = arrays.ArraySpec(
            kind=kind, key=study, shape=(8, 256), dtype="float32", words={"study": study, "data": "photos", "size": "96", "what": "train"}
        )
        arrays.entry(tmp_path, wanted, test_arrays.numbers)
        test_arrays.age(wanted.path(tmp_path), 3 * days)
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "0123456789abcdef01234567.json").write_text("{}")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> list[tuple[str, str]]:
    assert main.main(["cache", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["limit_bytes"] == 2**20
    return [(entry["kind"], entry["words"].get("study", "")) for entry in found["entries"]]


def test_entries_are_shown_with_their_kind_words_size_and_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = arrays.entry(folder, test_arrays.wanted("held"), test_arrays.numbers)
    assert main.main(["cache"]) == 0
    out = capsys.readouterr().out
    lines = {" ".join(line.split()) for line in out.splitlines()}
    assert "images flowers, photos, 96, train 8.12 KB 3 d ago" in lines
    assert any("held, train 8.12 KB" in line and line.endswith("in use") for line in lines)
    assert f"5 entries, 32.5 KB of at most 1 MB, in {folder}" in out
    assert len(held) == 8


def test_json_has_the_same_entries(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_bytes"] == sum(entry["num_bytes"] for entry in found["entries"])
    assert {entry["in_use"] for entry in found["entries"]} == {False}
    assert all(Path(entry["path"]).exists() for entry in found["entries"])


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ([], [("index", ""), ("features", "flowers"), ("images", "flowers"), ("features", "animals")]),
        (["--kind", "images"], [("images", "flowers")]),
        (["--study", "flowers"], [("features", "flowers"), ("images", "flowers")]),
        (["--older-than", "2d"], [("images", "flowers"), ("features", "animals")]),
        (["--older-than", "2d", "--kind", "features"], [("features", "animals")]),
        (["--study", "unknown"], []),
    ],
)
def test_show_and_clear_select_the_same_entries(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], meant: list[tuple[str, str]]
) -> None:
    before = shown(capsys)
    assert shown(capsys, *options) == meant
    assert main.main(["cache", "clear", "--yes", *options]) == 0
    assert f"{len(meant)} entr" in capsys.readouterr().out
    assert shown(capsys) == [entry for entry in before if entry not in meant]


def test_clearing_everything_leaves_only_the_lock_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cache", "clear", "--yes"]) == 0
    assert capsys.readouterr().out == "Freed 24.4 KB: 4 entries.\n"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["room.lock"]


def test_entries_in_use_are_kept_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = arrays.entry(folder, test_arrays.wanted("held"), test_arrays.numbers)
    assert main.main(["cache", "clear", "--yes"]) == 0
    assert capsys.readouterr().out == "Freed 24.4 KB: 4 entries. Kept 1 entry, 8.12 KB: running processes use them.\n"
    assert [entry.words["data"] for entry in entries.find(folder)] == ["held"]
    assert len(held) == 8


class Terminal(io.StringIO):
    """A terminal at which someone answers."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("yes\n", 0, 0), ("n\n", 1, 4), ("\n", 1, 4), ("", 1, 4)])
def test_clearing_asks_for_a_confirmation(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main.main(["cache", "clear"]) == code
    assert capsys.readouterr().err.startswith(f"Delete 4 entries, 24.4 KB from {folder}? [y/N] ")
    assert len(shown(capsys)) == left


def test_nothing_is_deleted_without_a_terminal_to_confirm_at(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main.main(["cache", "clear"]) == 2
    assert capsys.readouterr().err == "nothing was deleted, because there is no terminal to confirm at; confirm with --yes.\n"
    assert len(shown(capsys)) == 4


def test_an_unknown_kind_is_refused_with_the_known_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cache", "clear", "--kind", "feature", "--yes"]) == 2
    assert capsys.readouterr().err.endswith("but the cache has no such entries; expected features, images, index.\n")


def test_an_empty_cache_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert main.main(["cache", "--cache", nowhere]) == 0
    assert main.main(["cache", "clear", "--yes", "--cache", nowhere]) == 0
    assert "has no matching entries" in capsys.readouterr().out
    assert not Path(nowhere).exists()
