"""Report files: formats, and files that are never overwritten."""

from pathlib import Path

import pytest

from tests import databases
from tests.studies import odd_ones
from tuner.cli import main
from tuner.report.page import MARKS
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.study import Study


def tuner(storage: Storage, *arguments: object) -> int:
    return main.main(["report", *map(str, arguments), "--storage", storage.url])


@pytest.mark.parametrize(("name", "mark"), list(zip(("report.html", "report.md"), MARKS, strict=True)))
def test_the_suffix_selects_the_format(storage: Storage, worked: Study, tmp_path: Path, name: str, mark: str) -> None:
    assert tuner(storage, worked.name, "--to", tmp_path / name) == 0
    assert mark in (tmp_path / name).read_text(encoding="utf-8")
    assert tuner(storage, worked.name, "--to", tmp_path / name) == 0  # a newer report replaces an older one


def test_the_format_option_selects_the_format(storage: Storage, fresh: Study, tmp_path: Path) -> None:
    assert tuner(storage, fresh.name, "--to", tmp_path / "report.txt", "--format", "md") == 0
    assert (tmp_path / "report.txt").read_text(encoding="utf-8").startswith("<!-- tuner report -->")


def test_an_unwritable_path_is_refused_with_advice(
    storage: Storage, fresh: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "diary.html").write_text("dear diary", encoding="utf-8")
    for arguments, said in (
        ((fresh.name, "--to", tmp_path / "report"), "expected .html or .md"),
        ((fresh.name, "--to", tmp_path / "nowhere" / "report.html"), "mkdir -p"),
        ((fresh.name, "--to", tmp_path, "--format", "html"), "is a folder"),
        ((fresh.name, "--to", tmp_path / "diary.html"), "is not a report of tuner, so it was not changed"),
        (("other", "--to", tmp_path / "report.html"), "there is no study other"),
    ):
        assert tuner(storage, *arguments) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "diary.html").read_text(encoding="utf-8") == "dear diary"
    assert tuner(storage, fresh.name, "--to", tmp_path / "diary.html", "--force") == 0


def test_a_study_that_another_program_changed_is_reported_or_refused_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = storages.open(databases.sqlite(tmp_path))
    odd_ones.add(odd)
    for name in studies.names(odd):
        code = tuner(odd, name, "--to", tmp_path / "report.md")
        said = capsys.readouterr().err
        assert code in (0, 2), said
        assert "unexpected error" not in said
    odd.close()
