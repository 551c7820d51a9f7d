"""Files of code that a study names: how they are recognized, and what changed in them."""

import hashlib
from pathlib import Path

from tuner.trust import user_code
from tuner.trust.user_code import CodeFile


def file(text: str, name: str = "churn.py") -> CodeFile:
    return CodeFile(name=name, sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def test_each_file_is_read_once_and_named_by_the_start_of_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "churn.py").write_text("a = 1\n")
    (tmp_path / "data.py").write_text("b = 2\n")
    found = user_code.read(["churn.py:build", "data.py:load", "churn.py:load", "package.module:score"], tmp_path)
    assert [each.name for each in found] == ["churn.py", "data.py"]
    assert user_code.digits(found) == "cb78bd8a17f7 17dd98c94951"  # by sha256sum


def test_equal_files_have_no_changes() -> None:
    assert user_code.changes([file("a\n")], [file("a\n")]) == []
    assert user_code.changes([], [file("a\n")]) == []  # an earlier version of tuner recorded no code


def test_changes_are_counted_and_the_first_ones_shown() -> None:
    before, now = file("x = 1\nunits = 64\nz = 3\n"), file("x = 1\nunits = 128\n  deeper = 2\nz = 3\n")
    (change,) = user_code.changes([before], [now])
    assert change == (
        f"churn.py: 2 lines added, 1 removed (SHA-256 {before.sha256[:12]} -> {now.sha256[:12]})\n"
        "    - units = 64\n"
        "    + units = 128\n"
        "    +   deeper = 2"
    )


def test_many_changes_are_cut_and_control_characters_shown() -> None:
    (change,) = user_code.changes([file("")], [file("".join(f"{number}\x1b[2J{'x' * 200}\n" for number in range(9)))])
    assert "it is too long to show" in change  # an empty file has no text, as a long one
    (change,) = user_code.changes([file("a\n")], [file("".join(f"{number}\x1b[2J{'x' * 200}\n" for number in range(9)))])
    lines = change.splitlines()
    assert (lines[0].startswith("churn.py: 9 lines added, 1 removed"), len(lines), lines[-1]) == (True, 8, "    … 4 more lines")
    assert "\x1b" not in change
    assert max(map(len, lines)) < 120


def test_a_long_file_and_other_line_ends_are_named_as_such() -> None:
    long = CodeFile(name="churn.py", sha256="1" * 64, text="")
    assert user_code.changes([long], [file("a\n")])[0].endswith("it is too long to show what changed")
    assert user_code.changes([file("a\nb\n")], [file("a\r\nb\r\n")])[0].startswith("churn.py differs in its line ends only")


def test_the_users_lines_are_found_in_what_faulthandler_writes() -> None:
    dump = (
        'Thread 0x00007f (most recent call first):\n  File "/usr/lib/python3.11/threading.py", line 331 in wait\n\n'
        'Current thread 0x00007e (most recent call first):\n  File "/home/me/churn.py", line 13 in endless\n'
        f'  File "/home/me/churn.py", line 36 in objective\n  File "{user_code.__file__}", line 223 in called\n'
    )
    assert user_code.where(dump) == "churn.py, line 36, in objective; churn.py, line 13, in endless"
    assert user_code.where("") == ""
