"""The cache: arrays computed once, computed again when damaged, within a size limit, and kept while in use."""

import json
import logging
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner import errors
from tuner.cache import arrays, entries

KB = 1024


def wanted(name: str = "some", *, rows: int = 8, kind: str = "features") -> arrays.ArraySpec:
    """Return an array with a kilobyte in each row."""
    return arrays.ArraySpec(kind=kind, key=name, shape=(rows, 256), dtype="float32", words={"data": name, "what": "train"})


def numbers(rows: int = 8) -> Iterator[NDArray[np.float32]]:
    """Yield its rows, three at a time."""
    whole = np.arange(rows * 256, dtype=np.float32).reshape(rows, 256)
    yield from (whole[start : start + 3] for start in range(0, rows, 3))


def put(folder: Path, name: str, *, rows: int = 8) -> Path:
    """Make an entry that no process uses."""
    arrays.entry(folder, wanted(name, rows=rows), lambda: numbers(rows))
    return wanted(name, rows=rows).path(folder)


def never() -> Iterator[NDArray[Any]]:
    raise AssertionError("it was computed once more")


def age(path: Path, days: float) -> None:
    then = entries.about_path(path).stat().st_mtime - days * 86_400
    os.utime(entries.about_path(path), (then, then))


def test_an_entry_is_written_part_by_part_and_mapped_read_only(tmp_path: Path) -> None:
    made = arrays.entry(tmp_path, wanted(), numbers)
    found = arrays.entry(tmp_path, wanted(), never)
    assert (made == np.concatenate(list(numbers()))).all() and (found == made).all()
    assert isinstance(made, np.memmap) and isinstance(found, np.memmap)
    assert not made.flags.writeable
    assert (np.load(wanted().path(tmp_path)) == made).all()


def test_an_entry_without_rows_needs_no_file(tmp_path: Path) -> None:
    assert arrays.entry(tmp_path, wanted(rows=0), never).shape == (0, 256)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        arrays.ArraySpec(kind="images", key="some", shape=(8, 256), dtype="float32", words={}),
        arrays.ArraySpec(kind="features", key="other", shape=(8, 256), dtype="float32", words={}),
        arrays.ArraySpec(kind="features", key="some", shape=(9, 256), dtype="float32", words={}),
        arrays.ArraySpec(kind="features", key="some", shape=(8, 256), dtype="float16", words={}),
    ],
)
def test_another_key_kind_shape_or_type_is_another_entry(tmp_path: Path, other: arrays.ArraySpec) -> None:
    put(tmp_path, "some")
    arrays.entry(tmp_path, other, lambda: [np.zeros(other.shape, other.dtype)])
    assert len(entries.find(tmp_path)) == 2


def fetch(folder: Path, log: Path) -> float:
    """Run in each of several processes."""

    def compute() -> Iterator[NDArray[np.float32]]:
        with log.open("a") as file:
            file.write("computed\n")
        yield from numbers(3_000)

    return float(arrays.entry(folder, wanted(rows=3_000), compute).sum())


def test_only_one_of_eight_processes_computes_an_entry(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ProcessPoolExecutor(8, multiprocessing.get_context("spawn")) as processes:
        sums = list(processes.map(fetch, [tmp_path / "cache"] * 8, [log] * 8))
    assert log.read_text() == "computed\n"
    assert set(sums) == {float(np.concatenate(list(numbers(3_000))).sum())}


def test_a_waiting_process_gets_ticks_and_can_stop_waiting(tmp_path: Path) -> None:
    called: list[int] = []

    def tick() -> None:
        called.append(1)
        if len(called) == 3:
            raise InterruptedError

    path = wanted().path(tmp_path)
    with arrays.locked(path), pytest.raises(InterruptedError):
        arrays.entry(tmp_path, wanted(), never, tick=tick, tick_seconds=0.01)
    assert len(called) == 3
    arrays.entry(tmp_path, wanted(), numbers, tick=tick)
    assert len(called) == 3


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "another file": lambda content: b"x" * len(content),
    "one byte": lambda content: content[:4_000] + bytes([content[4_000] ^ 1]) + content[4_001:],
    "another form": lambda content: content.replace(b"(8, 256)", b"(4, 512)"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_logged_and_computed_again(tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "some")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert (arrays.entry(tmp_path, wanted(), numbers) == np.concatenate(list(numbers()))).all()
    assert path.read_bytes() == whole
    assert f"the cache entry {path} (features: some, train) is damaged and will be computed again" in caplog.text
    caplog.clear()
    arrays.entry(tmp_path, wanted(), never)
    assert not caplog.text


@pytest.mark.parametrize("content", ["", "{}", "[]", json.dumps({"version": 99})])
def test_an_entry_without_a_description_is_computed_again(tmp_path: Path, content: str) -> None:
    path = put(tmp_path, "some")
    entries.about_path(path).write_text(content)
    assert (arrays.entry(tmp_path, wanted(), numbers) == np.concatenate(list(numbers()))).all()
    arrays.entry(tmp_path, wanted(), never)


def test_a_copied_entry_is_verified_once(tmp_path: Path) -> None:
    path = put(tmp_path, "some")
    before = entries.read_about(path)
    path.with_name("copy").write_bytes(path.read_bytes())
    path.with_name("copy").replace(path)
    arrays.entry(tmp_path, wanted(), never)
    after = entries.read_about(path)
    assert before is not None and after is not None
    assert after.verified != before.verified
    assert after.checksum == before.checksum


def test_an_entry_in_a_read_only_cache_is_verified_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "some")
    os.utime(path, (1, 1))

    def refuse(*_: Any) -> None:
        raise PermissionError("the cache belongs to another user")

    monkeypatch.setattr(entries, "write_about", refuse)
    assert arrays.find(tmp_path, wanted("some")) is not None


def test_a_failed_computation_leaves_no_files(tmp_path: Path) -> None:
    def failing() -> Iterator[NDArray[np.float32]]:
        yield from list(numbers())[:1]
        raise errors.DataError("an image is gone")

    with pytest.raises(errors.DataError, match="an image is gone"):
        arrays.entry(tmp_path, wanted(), failing)
    assert not entries.find(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a limit for three entries of eight kilobytes and their headers."""
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "25KB")


@pytest.mark.usefixtures("limit")
def test_the_least_recently_used_entry_makes_room(tmp_path: Path) -> None:
    first, second, third = (put(tmp_path, name) for name in ("first", "second", "third"))
    age(first, 1)
    age(second, 2)
    age(third, 3)
    arrays.entry(tmp_path, wanted("third"), never)
    put(tmp_path, "fourth")
    assert first.exists() and third.exists()
    assert not second.exists() and not entries.about_path(second).exists()


@pytest.mark.usefixtures("limit")
def test_a_mapped_entry_is_never_deleted(tmp_path: Path) -> None:
    held = arrays.entry(tmp_path, wanted("held"), numbers)
    row = held[3]
    del held
    age(wanted("held").path(tmp_path), 9)
    for name in ("second", "third", "fourth", "fifth"):
        put(tmp_path, name)
    assert wanted("held").path(tmp_path).exists()
    del row
    put(tmp_path, "sixth")
    assert not wanted("held").path(tmp_path).exists()


MAPS = """
import sys
from pathlib import Path
from tests.cache import test_arrays
from tuner.cache import arrays
held = arrays.entry(Path(sys.argv[1]), test_arrays.wanted("held"), test_arrays.numbers)
print("mapped", flush=True)
sys.stdin.readline()
print(held.sum(), flush=True)
"""


@pytest.mark.usefixtures("limit")
def test_an_entry_that_another_process_maps_is_held_until_that_process_ends(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", MAPS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "mapped\n"
    [entry] = entries.find(tmp_path)
    assert entry.is_in_use()
    assert not entry.remove()
    with pytest.raises(entries.CacheFull, match="running processes use the rest"):
        arrays.entry(tmp_path, wanted(rows=20), never)
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert not entry.is_in_use()
    put(tmp_path, "large", rows=20)
    assert not entry.path.exists()


def test_the_mapping_of_a_deleted_file_can_still_be_read(tmp_path: Path) -> None:
    held = arrays.entry(tmp_path, wanted(), numbers)
    wanted().path(tmp_path).unlink()
    assert (held == np.concatenate(list(numbers()))).all()
    assert (arrays.entry(tmp_path, wanted(), numbers) == held).all()


@pytest.mark.usefixtures("limit")
def test_an_entry_larger_than_the_limit_is_refused_before_anything_is_deleted(tmp_path: Path) -> None:
    put(tmp_path, "small")
    message = r"has no room for 30 KB: its limit is 25 KB, .* TUNER_CACHE_LIMIT or --cache-limit, free some space on the disk"
    with pytest.raises(entries.CacheFull, match=message):
        arrays.entry(tmp_path, wanted(rows=30), never)
    assert len(entries.find(tmp_path)) == 1


@pytest.mark.usefixtures("limit")
def test_an_optional_entry_without_room_is_none_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert arrays.optional(tmp_path, wanted(rows=30), never) is None
    assert "not cached: features: some, train: the cache folder" in caplog.text
    kept = arrays.optional(tmp_path, wanted(), numbers)
    assert kept is not None and len(kept) == 8


def test_an_entry_larger_than_the_disk_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    huge = arrays.ArraySpec(kind="images", key="huge", shape=(2**30, 2**20), dtype="uint8", words={"data": "huge"})
    with pytest.raises(entries.CacheFull):
        arrays.entry(tmp_path, huge, never)
    assert arrays.optional(tmp_path, huge, never) is None


def test_a_disk_that_cannot_reserve_space_is_an_error_with_its_cure(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * KB, before[1]))
    try:
        with pytest.raises(
            entries.CacheFull, match=r"has no room for .* \(File too large\)\. Free some space there, or name another folder"
        ):
            arrays.entry(tmp_path, wanted(rows=20), never)
        assert arrays.optional(tmp_path, wanted(rows=20), never) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_fills_while_a_file_is_written_is_an_error_with_its_cure(tmp_path: Path) -> None:
    # every write to this device fails with a full disk
    (tmp_path / "index.json.part").symlink_to("/dev/full")
    full = pytest.raises(
        errors.DataError, match=r"cannot be written \(No space left on device\); free some space there, or name another folder"
    )
    with full, arrays.written_beside(tmp_path / "index.json") as file:
        file.write(bytes(100))


@pytest.mark.usefixtures("limit")
def test_entries_being_written_count_and_those_of_killed_writers_do_not(tmp_path: Path) -> None:
    left = tmp_path / "features" / "0123456789abcdef01234567.npy.part"
    left.parent.mkdir()
    left.write_bytes(bytes(20 * KB))
    put(tmp_path, "some", rows=20)
    assert not left.exists()

    def writing() -> Iterator[NDArray[np.float32]]:
        with pytest.raises(entries.CacheFull):
            arrays.entry(tmp_path, wanted("meanwhile", rows=10), never)
        yield from numbers(20)

    arrays.entry(tmp_path, wanted("long", rows=20), writing)


def test_other_files_in_the_cache_folder_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "10KB")
    mine = tmp_path / "features" / "mine.npy"
    mine.parent.mkdir()
    np.save(mine, np.zeros(100))
    (tmp_path / "features" / "mine.json").write_text("{}")
    download = tmp_path / "features" / "download.npy.part"
    download.touch()
    put(tmp_path, "first")
    put(tmp_path, "second")
    assert mine.exists() and download.exists()
    assert [entry.words["data"] for entry in entries.find(tmp_path)] == ["second"]


@pytest.mark.parametrize("about", [None, "{", json.dumps({"version": 99})])
def test_an_entry_without_a_description_is_listed_counted_and_removed(tmp_path: Path, about: str | None) -> None:
    path = put(tmp_path, "some")
    entries.about_path(path).unlink()
    if about is not None:
        entries.about_path(path).write_text(about)
    (found,) = entries.find(tmp_path)
    assert (found.words["what"], found.num_bytes) == ("unknown", path.stat().st_size)
    assert found.remove()
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("given", ["much", "0GB", "-3GB", "5 apples"])
def test_an_invalid_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TUNER_CACHE_LIMIT", given)
    with pytest.raises(errors.RequestError, match="TUNER_CACHE_LIMIT is .*; expected a size such as 800MB or 4GB"):
        put(tmp_path, "some")


def test_without_a_limit_the_cache_uses_half_of_the_free_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNER_CACHE_LIMIT", raising=False)
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    assert entries.limit_bytes(tmp_path / "not" / "there") == pytest.approx(free / 2, rel=0.05)


@pytest.mark.parametrize(
    ("num_bytes", "shown"), [(0, "0 bytes"), (999, "999 bytes"), (1536, "1.5 KB"), (1023 * KB, "1023 KB"), (20 * KB**3, "20 GB")]
)
def test_a_size_has_few_digits(num_bytes: int, shown: str) -> None:
    assert entries.show_size(num_bytes) == shown
