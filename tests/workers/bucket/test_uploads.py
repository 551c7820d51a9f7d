"""Uploads in the background, with a bucket that answers and with one that does not."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.errors import ArtifactsError
from tuner.workers.bucket.transfer import Uploads


class MemoryBucket:
    """A bucket in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.is_unreachable = False
        #: the requests, in order
        self.asked: list[str] = []
        #: while it is cleared, requests wait
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
        if self.is_unreachable:
            raise ArtifactsError("it is away", may_pass=True)


@pytest.fixture
def stored() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def troubles() -> list[str]:
    return []


@pytest.fixture
def uploads(stored: MemoryBucket, troubles: list[str]) -> Iterator[Uploads]:
    made = Uploads(stored, troubles.append, pauses=(0.01, 0.02))
    yield made
    stored.gate.set()
    made.close()


def done(uploads: Uploads, key: str | None = None, *, unless: Callable[[], bool] = lambda: False) -> bool:
    return uploads.wait(key, seconds=10, unless=unless)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_is_put_moved_and_removed(stored: MemoryBucket, uploads: Uploads, tmp_path: Path) -> None:
    uploads.put("a", written(tmp_path / "a", "one"))
    uploads.move("b", written(tmp_path / "b", "two"))
    assert done(uploads)
    assert stored.files == {"a": b"one", "b": b"two"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    uploads.remove("a")
    assert done(uploads, "a")
    assert list(stored.files) == ["b"]


def test_a_file_deleted_before_its_upload_is_ignored(stored: MemoryBucket, uploads: Uploads, troubles: list[str], tmp_path: Path) -> None:
    uploads.put("a", tmp_path / "gone")
    assert done(uploads)
    assert (stored.files, troubles) == ({}, [])


def test_only_the_latest_of_several_requests_for_a_file_is_performed(stored: MemoryBucket, uploads: Uploads, tmp_path: Path) -> None:
    stored.gate.clear()
    uploads.put("first", written(tmp_path / "a", "one"))
    assert stored.is_asked.wait(10)
    for _ in range(5):
        uploads.put("a", tmp_path / "a")
    uploads.put("b", tmp_path / "a")
    uploads.remove("b")
    uploads.put("c", tmp_path / "a")
    uploads.cancel("c")
    stored.gate.set()
    assert done(uploads)
    assert stored.asked == ["put first", "put a", "remove b"]


def test_an_outage_is_reported_once_and_everything_is_uploaded_after_it(
    stored: MemoryBucket, uploads: Uploads, troubles: list[str], tmp_path: Path
) -> None:
    stored.is_unreachable = True
    uploads.put("a", written(tmp_path / "a", "one"))
    assert not done(uploads, "a", unless=lambda: uploads.is_unreachable and len(stored.asked) > 3)
    uploads.put("a", written(tmp_path / "a", "two"))
    uploads.move("b", written(tmp_path / "b", "three"))
    assert troubles == ["training continues, and its files stay on this machine until the bucket accepts them: it is away"]
    stored.is_unreachable = False
    assert done(uploads)
    assert stored.files == {"a": b"two", "b": b"three"}
    assert len(troubles) == 1
    stored.is_unreachable = True
    uploads.remove("a")
    assert not done(uploads, "a", unless=lambda: uploads.is_unreachable)
    assert len(troubles) == 2


def test_an_upload_cancelled_during_a_try_is_not_retried(stored: MemoryBucket, uploads: Uploads, tmp_path: Path) -> None:
    stored.is_unreachable = True
    stored.gate.clear()
    uploads.put("a", written(tmp_path / "a", "one"))
    assert stored.is_asked.wait(10)
    uploads.cancel("a")
    stored.gate.set()
    assert done(uploads)
    assert stored.asked == ["put a"]


def test_close_returns_the_files_that_are_not_uploaded(stored: MemoryBucket, uploads: Uploads, tmp_path: Path) -> None:
    stored.is_unreachable = True
    uploads.put("a", written(tmp_path / "a", "one"))
    uploads.move("b", written(tmp_path / "b", "two"))
    assert not uploads.wait(seconds=0.1, unless=lambda: False)
    assert uploads.close() == [tmp_path / "b"]
