"""What is to be in a bucket, in the background, while the bucket is there and while it is away."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.errors import ArtifactsError
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Uploads


class Shelf:
    """A bucket in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.is_away = False
        #: what was asked for, in order
        self.asked: list[str] = []
        #: cleared: whoever asks waits
        self.gate = threading.Event()
        self.gate.set()
        self.is_asked = threading.Event()

    def put(self, key: str, path: Path) -> None:
        self._ask(f"put {key}")
        self.files[key] = path.read_bytes()

    def remove(self, key: str) -> None:
        self._ask(f"remove {key}")
        self.files.pop(key, None)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        self.is_asked.set()
        assert self.gate.wait(10)
        if self.is_away:
            raise ArtifactsError("it is away", may_pass=True)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(transfer, "_PAUSE_SECONDS", (0.01, 0.02))
    return Shelf()


@pytest.fixture
def troubles() -> list[str]:
    return []


@pytest.fixture
def begun(shelf: Shelf, troubles: list[str]) -> Iterator[Uploads]:
    made = Uploads(shelf, troubles.append)
    yield made
    shelf.gate.set()
    made.close()


def done(begun: Uploads, key: str | None = None, *, unless: Callable[[], bool] = lambda: False) -> bool:
    return begun.wait(key, seconds=10, unless=unless)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_is_put_moved_and_removed(shelf: Shelf, begun: Uploads, tmp_path: Path) -> None:
    begun.put("a", written(tmp_path / "a", "one"))
    begun.move("b", written(tmp_path / "b", "two"))
    assert done(begun)
    assert shelf.files == {"a": b"one", "b": b"two"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    begun.remove("a")
    assert done(begun, "a")
    assert list(shelf.files) == ["b"]


def test_a_file_that_is_gone_when_its_turn_comes_is_no_trouble(shelf: Shelf, begun: Uploads, troubles: list[str], tmp_path: Path) -> None:
    begun.put("a", tmp_path / "gone")
    assert done(begun)
    assert (shelf.files, troubles) == ({}, [])


def test_of_several_wishes_for_a_file_only_the_latest_is_fulfilled(shelf: Shelf, begun: Uploads, tmp_path: Path) -> None:
    shelf.gate.clear()
    begun.put("first", written(tmp_path / "a", "one"))
    assert shelf.is_asked.wait(10)
    for _ in range(5):
        begun.put("a", tmp_path / "a")
    begun.put("b", tmp_path / "a")
    begun.remove("b")
    begun.put("c", tmp_path / "a")
    begun.forget("c")
    shelf.gate.set()
    assert done(begun)
    assert shelf.asked == ["put first", "put a", "remove b"]


def test_a_bucket_that_is_away_is_told_of_once_and_gets_everything_when_it_is_back(
    shelf: Shelf, begun: Uploads, troubles: list[str], tmp_path: Path
) -> None:
    shelf.is_away = True
    begun.put("a", written(tmp_path / "a", "one"))
    assert not done(begun, "a", unless=lambda: begun.is_away and len(shelf.asked) > 3)
    begun.put("a", written(tmp_path / "a", "two"))
    begun.move("b", written(tmp_path / "b", "three"))
    assert troubles == ["training goes on, and its files wait here until the bucket takes them: it is away"]
    shelf.is_away = False
    assert done(begun)
    assert shelf.files == {"a": b"two", "b": b"three"}
    assert len(troubles) == 1
    shelf.is_away = True
    begun.remove("a")
    assert not done(begun, "a", unless=lambda: begun.is_away)
    assert len(troubles) == 2


def test_what_is_given_up_while_it_is_tried_is_not_tried_again(shelf: Shelf, begun: Uploads, tmp_path: Path) -> None:
    shelf.is_away = True
    shelf.gate.clear()
    begun.put("a", written(tmp_path / "a", "one"))
    assert shelf.is_asked.wait(10)
    begun.forget("a")
    shelf.gate.set()
    assert done(begun)
    assert shelf.asked == ["put a"]


def test_what_is_not_there_at_the_end_is_named(shelf: Shelf, begun: Uploads, tmp_path: Path) -> None:
    shelf.is_away = True
    begun.put("a", written(tmp_path / "a", "one"))
    begun.move("b", written(tmp_path / "b", "two"))
    assert not begun.wait(seconds=0.1, unless=lambda: False)
    assert begun.close() == [tmp_path / "b"]
