"""Roots: no path of a request leads out of them."""

import os
from pathlib import Path

import pytest

from tuner.errors import DataError, RequestError
from tuner.trust import roots
from tuner.trust.roots import Roots


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A root with flowers, a secret beside it, and links to both."""
    (tmp_path / "data" / "flowers" / "rose").mkdir(parents=True)
    (tmp_path / "data" / "flowers" / "rose" / "1.jpg").write_bytes(b"rose")
    (tmp_path / "data-of-others").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.jpg").write_bytes(b"secret")
    (tmp_path / "data" / "inner").symlink_to(tmp_path / "data" / "flowers")
    (tmp_path / "data" / "outer").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data" / "circle")
    (tmp_path / "data" / "key.jpg").symlink_to(tmp_path / "secret" / "key.jpg")
    return tmp_path


@pytest.fixture
def allowed(disk: Path) -> Roots:
    return Roots.of([disk / "data"])


@pytest.mark.parametrize("given", ["flowers", "inner", "flowers/rose/..name", "flowers/./rose"])
def test_a_path_below_a_root_is_found_without_its_links(disk: Path, allowed: Roots, given: str) -> None:
    for path in (given, str(disk / "data" / given)):
        assert allowed.resolve(path).is_relative_to(disk / "data" / "flowers")


@pytest.mark.parametrize(
    "given",
    [
        *(
            "outer",
            "outer/key.jpg",
            "key.jpg",
            "circle",
            "DISK/secret/key.jpg",
            "DISK/data-of-others",
            "DISK/data/../secret",
            "/etc/passwd",
        ),
        *("..", "../secret", "flowers/../../secret", "flowers/..", "/", "//etc", "~/x", "~root", "$HOME", "${HOME}/x", "", " ", "a\0b"),
        *("a\nb", "a\u202eb", "\ud800", "x" * 256, "a/" * 600),
    ],
)
def test_a_path_that_leads_out_is_refused(disk: Path, allowed: Roots, given: str) -> None:
    with pytest.raises(DataError, match="^(is|contains) "):
        allowed.resolve(given.replace("DISK", str(disk)))


def test_a_refusal_is_the_same_whether_the_file_outside_exists(disk: Path, allowed: Roots) -> None:
    messages = []
    for name in ("key.jpg", "nix.jpg"):
        with pytest.raises(DataError) as refused:
            allowed.resolve(str(disk / "secret" / name))
        messages.append(str(refused.value).replace(name, "NAME"))
    assert messages[0] == messages[1]


def test_a_file_is_opened_and_a_link_in_its_place_is_not_followed(disk: Path, allowed: Roots) -> None:
    path = allowed.resolve("flowers/rose/1.jpg")
    with allowed.open(path) as file:
        assert file.read() == b"rose"
    (disk / "data" / "flowers").rename(disk / "data" / "gone")
    (disk / "secret" / "rose").mkdir()
    (disk / "secret" / "rose" / "1.jpg").write_bytes(b"secret")
    (disk / "data" / "flowers").symlink_to(disk / "secret")
    with pytest.raises(OSError, match="rose|Not a directory|flowers"):
        allowed.open(path)


def test_a_pipe_is_not_opened_as_a_file(disk: Path, allowed: Roots) -> None:
    os.mkfifo(disk / "data" / "pipe.jpg")
    with pytest.raises(OSError, match="not a regular file"):
        allowed.open(allowed.resolve("pipe.jpg"))


def test_a_link_out_of_the_roots_is_found_at_any_depth(disk: Path, allowed: Roots) -> None:
    assert allowed.link_out(disk / "data" / "flowers") is None
    (disk / "data" / "flowers" / "rose" / "2.jpg").symlink_to(disk / "secret" / "key.jpg")
    assert allowed.link_out(disk / "data" / "flowers") == disk / "data" / "flowers" / "rose" / "2.jpg"


def test_a_walk_ends_after_its_limit_and_enters_no_link(disk: Path) -> None:
    names = [entry.name for entry in roots.walk(disk / "data")]
    assert names.count("rose") == 1
    assert len(list(roots.walk(disk / "data", most=2))) == 2


@pytest.mark.parametrize("given", ["/", "missing", "data/flowers/rose/1.jpg"])
def test_a_root_is_a_folder_and_not_the_whole_disk(disk: Path, given: str) -> None:
    with pytest.raises(RequestError, match="--data-roots names"):
        Roots.of([disk / given])
