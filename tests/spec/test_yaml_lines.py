"""YAML with lines: values, their lines, and every syntax mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner import errors
from tuner.spec import yaml_lines


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "study.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> errors.Problem:
    with pytest.raises(errors.SpecError) as caught:
        yaml_lines.read(path)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", 1e-3),
        ("a: off", "off"),
        ("a: no", "no"),
        ("a: true", True),
        ("a: ~", None),
        ("a:", None),
        ("a: 1_000", 1000),
        ("a: 0x10", 16),
        ("a: 010", 10),
        # times and dates stay text
        ("a: 2025-11-22", "2025-11-22"),
        ("a: 12:30", "12:30"),
        ("a: '3'", "3"),
        ("a: [1, {b: 2}]", [1, {"b": 2}]),
        ("a: &x [1]\nb: *x", [1]),
        ('{"a": 0.5}', 0.5),
        ("\ufeffa: 1", 1),
        ("a: é", "é"),
    ],
)
def test_values_are_read_as_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    document = yaml_lines.read(written(tmp_path, text))
    assert document.value["a"] == value
    assert type(document.value["a"]) is type(value)
    assert not document.problems


def test_the_line_of_every_value_is_known(tmp_path: Path) -> None:
    document = yaml_lines.read(written(tmp_path, "a: 1\nb:\n  c: [1,\n      2]\n\n  d:\n    - {e: 1}\n"))
    assert document.lines[("b", "c", 1)] == 4
    assert document.lines[("b", "d", 0, "e")] == 7
    # a missing value has the line of its section
    assert document.line(("b", "d", "missing")) == 6
    assert document.line(("missing",)) is None


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a:\n\tb: 1", 2, "is not valid YAML: there is a tab here; indent with spaces (column 1)"),
        ("a: [1, 2\nb: 3", 2, "a comma or a closing bracket is missing"),
        ("a: [1, 2", 1, "a bracket is opened but never closed"),
        ("a: 'x\n", 2, "a quote is opened but never closed"),
        ("a: b: c", 1, "there is one colon too many here, or the indentation is wrong"),
        ("a: 1\n b: 2", 2, "there is one colon too many here, or the indentation is wrong"),
        ("a: @x", 1, "text that starts with this character needs quotes"),
        ("a: *x", 1, "text that starts with * needs quotes"),
        ("a: 1\n---\nb: 2", 2, "a second document starts here"),
        ("a: 1\nb\n", 2, "a colon is missing after the key"),
    ],
)
def test_invalid_yaml_is_refused_with_its_line_and_what_to_do(tmp_path: Path, text: str, line: int, message: str) -> None:
    problem = refusal(written(tmp_path, text))
    assert message in problem.message
    assert problem.line == line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is a binary file; expected text (YAML or JSON)"),
        (b"name: x\n# caf\xe9\n", "is not UTF-8 text from here on; save it as UTF-8"),
        (b"a: \x07", "contains control characters"),
        (b"a: " + b"x" * 1_000_001, "is larger than 1 MB, too large for a study file"),
        (b"[" * 700, "is nested too deeply"),
        (b"a: &x [*x]", "has an alias that refers to itself"),
        # aliases of aliases: each line has ten times the values of the line before
        (
            b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 9)),
            "200,000 values",
        ),
    ],
)
def test_a_file_that_is_no_study_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refusal(written(tmp_path, content)).message


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda folder: folder, "is a folder; expected a study file"),
        (lambda folder: folder / "missing" / "study.yaml", "does not exist. Write one with: tuner init"),
        (lambda folder: folder / ("x" * 300), "cannot be read: File name too long"),
        (lambda folder: Path("a\0b"), "is not a valid file name"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, place: Callable[[Path], Path], message: str) -> None:
    assert message in refusal(place(tmp_path)).message


def test_a_missing_file_is_refused_with_the_files_in_its_folder(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x")
    assert refusal(tmp_path / "studdy.yaml").message == f"does not exist. Files there: {path}"


def test_syntax_mistakes_that_leave_the_rest_readable_are_collected(tmp_path: Path) -> None:
    document = yaml_lines.read(written(tmp_path, "a: 1\na: 2\n3: 4\nb: !x 5\nc: {true: 1}"))
    assert [(problem.line, problem.field) for problem in document.problems] == [(2, "a"), (3, ""), (4, "b"), (5, "c")]
    assert document.value["a"] == 1
