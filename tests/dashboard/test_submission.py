"""Submitted study files: all their mistakes are told, and nothing in them reaches out of the roots or runs code."""

import builtins
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.dashboard import submission
from tuner.dashboard.submission import CheckedStudy, SubmissionRules
from tuner.errors import SpecError
from tuner.spec.data import FolderData
from tuner.spec.study import StudySpec
from tuner.trust.roots import Roots

GOOD = "name: flowers\ndata:\n  source: folder\n  path: flowers\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    for number in range(40):
        image = tmp_path / "data" / "flowers" / ("rose", "lily")[number % 2] / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"not decoded here")
    (tmp_path / "secret" / "images").mkdir(parents=True)
    (tmp_path / "secret" / "images" / "1.jpg").write_bytes(b"secret")
    (tmp_path / "data" / "outer").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "mine.keras").write_bytes(b"")
    return tmp_path


@pytest.fixture
def check(disk: Path) -> Callable[..., CheckedStudy]:
    def run(text: str, **rules: Any) -> CheckedStudy:
        return submission.check(text.replace("DISK", str(disk)), SubmissionRules(roots=Roots.of([disk / "data"]), **rules))

    return run


def test_a_good_file_has_a_plan_a_cost_and_an_absolute_path(check: Callable[..., CheckedStudy], disk: Path) -> None:
    found = check(GOOD)
    assert found.problems == ()
    spec = found.require()
    assert isinstance(spec, StudySpec)
    assert isinstance(spec.data, FolderData)
    assert spec.data.path == disk / "data" / "flowers"
    assert ("images", "40 files, about 28 to train on") in found.plan
    assert [name for name, _ in found.cost] == ["once", "a trial", "the study", ""]


def test_each_mistake_has_its_line_and_column(check: Callable[..., CheckedStudy]) -> None:
    found = check("name: flowers\nsampler: randm\ndata: {source: folder, path: /etc}\nsearch:\n  dropuot: 0.1\n  dropout: hot\n")
    assert [(one.field, one.line, one.column) for one in found.problems] == [
        *(("sampler", 2, 1), ("data.path", 3, 24), ("search.dropuot", 5, 3), ("search.dropout", 6, 3)),
    ]
    with pytest.raises(SpecError, match=r"the study file:5: search\.dropuot is not a hyperparameter"):
        found.require()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        *(("../secret", r"contains `\.\.`"), ("DISK/secret", "outside the folders"), ("/etc/passwd", "outside the folders")),
        *(
            ("outer/images", "outside the folders"),
            ("~/x", "home folders"),
            ("$HOME", "home folders"),
            ("${TUNER_STORAGE}", "home folders"),
        ),
        *(
            ('"a\\0b"', "characters that no path needs"),
            ('"a\\u202eb"', "characters"),
            ("x" * 5000, "too long"),
            ("gone", "does not exist"),
        ),
    ],
)
def test_a_path_outside_the_roots_is_refused(check: Callable[..., CheckedStudy], path: str, reason: str) -> None:
    (problem,) = check(GOOD.replace("path: flowers", f"path: {path}")).problems
    assert re.search(reason, problem.message)
    assert (problem.field, problem.line, problem.column) == ("data.path", 4, 3)
    for source in ("manifest", "npz"):
        assert check(f"name: x\ndata: {{source: {source}, path: {path}}}\n").problems
    assert check(f"name: x\ndata: {{source: manifest, path: flowers, root: {path}}}\n").problems


@pytest.mark.parametrize(
    "model",
    [
        *("backbone: ../x.keras", "backbone: /etc/x.keras", "backbone: [efficientnet_lite0, outer/x.keras]", "weights: DISK/secret/w.h5"),
        *(
            "weights: ~/w.h5",
            "backbone: kerashub:/etc/x",
            "backbone: kerashub:../x",
            "backbone: kerashub:kaggle://x/y",
            "backbone: $X.keras",
        ),
        *("backbone: python:os.path:join", "backbone: python:my_code:build"),
    ],
)
def test_a_model_from_elsewhere_is_refused(check: Callable[..., CheckedStudy], model: str) -> None:
    assert check(GOOD + f"model: {{{model}}}\n").problems
    assert not check(GOOD + "model: {backbone: mine.keras}\n").problems


@pytest.mark.parametrize(
    "text",
    [
        "name: x\ndata: {source: python, function: os:system}\n",
        "name: x\ntask: custom\nmodel: {build: evil_code:build}\ndata: {load: evil_code:load}\n",
        "name: x\ntask: custom\nmodel: {build: /etc/evil.py:build}\ndata: {load: ../evil.py:load}\n",
        "name: x\ntask: objective\nfunction: evil_code:objective\nfolder: /etc\n",
        "name: x\ntask: objective\nfunction: evil_code:objective\n",
        "name: x\ndata: {source: tfds, name: /etc/builder}\n",
        "name: x\ndata: {source: tfds, name: 'someone:code'}\n",
    ],
)
def test_code_that_is_not_allowed_is_refused_and_not_imported(
    check: Callable[..., CheckedStudy], disk: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (disk / "evil_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(disk)
    assert check(text).problems
    assert "evil_code" not in sys.modules


def test_allowed_code_is_accepted_and_still_not_imported(
    check: Callable[..., CheckedStudy], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (disk / "good_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(disk)
    found = check("name: x\ntask: objective\nfunction: good_code:objective\nobjective: minimize\n", allowed_code=("good_code",))
    assert found.problems == ()
    assert found.plan
    assert "good_code" not in sys.modules
    assert check("name: x\ntask: objective\nfunction: good_code.py:objective\n", allowed_code=("good_code.py",)).problems


def test_a_link_in_the_data_that_leads_out_is_refused(check: Callable[..., CheckedStudy], disk: Path) -> None:
    (disk / "data" / "flowers" / "rose" / "x.jpg").symlink_to(disk / "secret" / "x.jpg")
    (problem,) = check(GOOD).problems
    assert "leads out of the folders of this server" in problem.message


def test_a_table_that_names_images_elsewhere_is_refused(check: Callable[..., CheckedStudy], disk: Path) -> None:
    table = disk / "data" / "labels.csv"
    text = "name: x\ndata: {source: manifest, path: labels.csv}\n"
    rows = [f"flowers/{('rose', 'lily')[number % 2]}/{number}.jpg,{('rose', 'lily')[number % 2]}" for number in range(40)]
    table.write_text("\n".join(["path,label", *rows]))
    assert check(text).problems == ()
    for row in (f"{disk}/secret/images/1.jpg,rose", "../secret/images/1.jpg,rose", "outer/images/1.jpg,rose"):
        table.write_text("\n".join(["path,label", *rows, row]))
        assert "outside the folders" in check(text).problems[0].message, row


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = [
    *("", " ", "\0", "a\0b", "\ufeff", "---\n---", "[]", "1", "null", "!!python/object/apply:os.system [id]", "!!python/name:os.system"),
    *("name: !!python/object/apply:os.system [id]\n", "name: !!binary aWQ=\n", "? [a, b]\n: c\n", "<<: {name: x}\n", "a: &a [*a]\n", "*a"),
    *(
        "[" * 90_000,
        "{a: " * 20_000,
        "a:\n" + "".join(f"{' ' * depth}- \n" for depth in range(300)),
        "- " * 40_000,
        BOMB,
        f"name: x\n{BOMB}",
    ),
    *(
        f"seed: {'9' * 5_000}\n",
        f"seed: 0x{'f' * 50_000}\n",
        f"{GOOD}seed: 0x{'f' * 50_000}\n",
        f"{GOOD}seed: 1e999\n",
        f"{GOOD}seed: .nan\n",
    ),
    *("task: [1]\n", "task: {a: b}\n", "task: 7\n", "data: 7\nmodel: 7\n", "data: {path: [1], root: {a: b}}\nmodel: {backbone: {a: b}}\n"),
    *(
        f"{GOOD}  class_pattern: '{'(' * 5000}{')' * 5000}'\n",
        f"{GOOD}  class_pattern: '(a{{9999999999}})'\n",
        f"{GOOD}  ignore: ['{'*' * 999}a']\n",
    ),
    *(f"{GOOD}  class_pattern: '(a+)+$'\n", f"{GOOD}  group_pattern: '((a|a)*)*$'\n"),
    "".join(f"key{number}: 1\n" for number in range(8_000)),
    GOOD + "search:\n" + "".join(f"  dropuot{number}: 1\n" for number in range(5_000)),
    GOOD + f"{'k' * 80_000}: 1\n",
    GOOD.replace("flowers", "x" * 80_000, 1),
    GOOD + f"search: {{dropout: [{','.join(['0.1'] * 15_000)}]}}\n",
    GOOD + f"search: {{dropout: [{','.join(f'0.{number}' for number in range(1_000, 9_000))}]}}\nsampler: grid\n",
    GOOD + "model: {image_size: [" + ",".join(str(size) for size in range(32, 1024)) + "]}\n",
    GOOD + "budget: {trials: 1e308, timeout: '" + "1" * 4000 + "h'}\n",
    GOOD + "budget: {timeout: '" + "1." * 2000 + "h'}\n",
    "name: <script>alert(1)</script>\ndata: {source: digits}\n",
    "name: ../../x\ndata: {source: digits}\n",
    "name: x\ndata: {source: digits}\nresult: {" + ",".join(f"k{number}: {number}" for number in range(5_000)) + "}\n",
    "name: x\ndata: {source: digits}\nretraining: {trials: [" + ",".join("{}" for _ in range(5_000)) + "]}\n",
    json.dumps({"name": "x", "data": {"source": "folder", "path": "\ud800"}}),
    "x" * 10_000_000,
    "a: b\n" * 2_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_file_is_answered_in_words_and_soon(check: Callable[..., CheckedStudy], text: str) -> None:
    began = time.process_time()
    found = check(text)
    assert time.process_time() - began < 10
    assert (found.spec is None) == bool(found.problems)
    assert len(found.problems) <= 100
    for problem in found.problems:
        assert problem.message
        assert "Traceback" not in problem.message
        assert len(problem.message) < 20_000


@pytest.fixture
def looked_at(disk: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that a test opens or lists."""
    seen: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(path: Any, *rest: Any, **options: Any) -> Any:
            seen.append(os.fspath(path) if isinstance(path, str | os.PathLike) else str(path))
            return real(path, *rest, **options)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((os, "scandir"), (os, "listdir"), (os, "open"), (builtins, "open"), (importlib, "import_module")):
        watch(owner, name)
    return seen


@pytest.mark.parametrize(
    "path", ["../secret", "DISK/secret/images", "outer/images", "outer", "~/x", "$HOME/x", "/etc/caf\u00e9", "caf\u00e9"]
)
def test_nothing_outside_the_roots_is_opened_or_listed(
    check: Callable[..., CheckedStudy], disk: Path, looked_at: list[str], path: str
) -> None:
    check(GOOD)
    looked_at.clear()
    assert check(GOOD.replace("path: flowers", f"path: {path}") + f"model: {{weights: {path}.h5, backbone: {path}.keras}}\n").problems
    outside = [seen for seen in looked_at if seen.startswith("/") and not Path(seen).is_relative_to(disk / "data")]
    assert [seen for seen in outside if Path(seen).is_relative_to(disk) or seen.startswith(("/etc", str(Path.home() / "x")))] == []


@pytest.mark.parametrize("owner", ["..", ".", ".ssh", "a/b", "", "a\0b", "x" * 65, "-rf"])
def test_an_owner_whose_name_is_no_folder_has_none(owner: str) -> None:
    with pytest.raises(Exception, match="cannot have a folder of uploads"):
        submission.owner_folder(owner)


@pytest.mark.parametrize("owner", ["ada", "ada@example.com", "ci-1", "_x", "J\u00fcrgen"])
def test_other_owners_have_a_folder_of_their_name(owner: str) -> None:
    assert submission.owner_folder(owner) == owner
