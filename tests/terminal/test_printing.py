"""Text from data on a terminal and in a log: shown as it is, never obeyed."""

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Group
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tuner.results import statistics
from tuner.terminal import plain, printing, versions

#: names of classes, and how a screen shows them
NAMES = {
    "Bird [adult]": "Bird [adult]",
    "Bird [chick]": "Bird [chick]",
    "[bold red]x[/bold red]": "[bold red]x[/bold red]",
    "[/]": "[/]",
    ":bear:": ":bear:",
    "a|b`c*d_e": "a|b`c*d_e",
    "<b>&amp;</b>": "<b>&amp;</b>",
    "\x1b[31mred\x1b[0m": r"\u001b[31mred\u001b[0m",
    "\x9b2J": r"\u009b2J",
    "bell\a\b": r"bell\u0007\u0008",
    "a\rb": r"a\rb",
    "evil\u202egnp": r"evil\u202egnp",
    "mark\u200f": r"mark\u200f",
    "\ufeffbom": r"\ufeffbom",
    "שלום": "שלום",
    "日本": "日本",
    "family \U0001f468\u200d\U0001f469": "family \U0001f468\u200d\U0001f469",
}


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    made = printing._console(is_terminal=request.param, stderr=False)
    monkeypatch.setattr(type(made), "is_terminal", request.param)
    made.file = io.StringIO()
    monkeypatch.setattr(printing, "stdout", lambda: made)
    return made.file


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_a_name_is_shown_as_it_is_in_every_part_of_a_screen(name: str, shown: str, console: io.StringIO) -> None:
    rows = printing.table("class", name)
    rows.add_row("in a cell", name)
    printing.result(name, Text(name), Group(Text.assemble((name, "strong"), " styled")), rows, printing.section(name, name))
    text = console.getvalue()
    # rich removes some characters from text that is styled before it is printed
    assert text.count(shown) == (4 if set(name) & set("\a\b\r") else 7)
    assert "\x1b[31m" not in text.replace("\x1b[31m\x1b[0m", "")
    assert not set(text) & set("\x9b\a\b\u202e\u200f\ufeff")


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_a_name_is_shown_as_it_is_in_a_line(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain.line(f"warning: {name}")
    plain.result(f"{name}: 0.9\n")
    found = capsys.readouterr()
    assert (found.out, found.err) == (f"{shown}: 0.9\n", f"warning: {shown}\n")


def test_json_stays_the_same_json(capsys: pytest.CaptureFixture[str]) -> None:
    plain.result(json.dumps([*NAMES, "a\nb\u2028\x7f"], ensure_ascii=False, indent=2))
    assert json.loads(capsys.readouterr().out) == [*NAMES, "a\nb\u2028\x7f"]


def test_a_document_is_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    plain.document("name: mark\u200f\n")
    assert capsys.readouterr().out == "name: mark\u200f\n"


def test_a_stream_without_unicode_shows_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    plain.escape_unknown_letters()
    plain.result("Löwe 日 \udcff")
    assert stream.buffer.getvalue() == b"L\\xf6we \\u65e5 \\udcff\n"


def test_a_busy_message_is_not_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    made = printing._console(is_terminal=True, stderr=True)
    monkeypatch.setattr(type(made), "is_terminal", True)
    made.file = io.StringIO()
    monkeypatch.setattr(printing, "stderr", lambda: made)
    with printing.busy("reading Bird [adult]") as shown:
        assert isinstance(shown, Status)
        assert str(shown.renderable.text) == "reading Bird [adult]"


def test_columns_of_a_confusion_matrix_have_different_names() -> None:
    figures = [
        statistics.ClassFigures(name=name, num_images=1, precision=1.0, recall=1.0, f1=1.0) for name in ("Bird [adult]", "Bird [chick]")
    ]

    class Judged:
        classes: Any = figures
        confusion = ((1, 0), (0, 1))

    table = versions._confusion(Judged())  # type: ignore[arg-type]
    assert isinstance(table, Table)
    assert [column.header for column in table.columns] == ["true class", "Bir…t]", "Bir…k]"]
