"""The outbox and its spool files."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.studies import by_hand
from tuner.spec.hyperparameters import Hyperparameters
from tuner.studies.trials import Claim
from tuner.workers.worker import outbox
from tuner.workers.worker.events import Event, EventEmitter, EventKind
from tuner.workers.worker.outbox import Outbox, Spool, SpoolHeader

CLAIM = Claim(number=3, trial_id=4, hyperparameters=Hyperparameters(), seed=7, attempt=2, epochs=4, worker_key="k" * 16)
ORIGIN = SpoolHeader(study="study", worker="box/w1", device="cpu", claim=CLAIM)
CURVE = by_hand.epochs(CLAIM, [0.5, 0.6, 0.7])
OUTCOME = by_hand.finished(CLAIM, 0.7)


def abandoned(folder: Path) -> list[outbox.AbandonedSpool]:
    return list(outbox.abandoned_spools(folder))


def test_spooled_reports_are_read_in_order(tmp_path: Path) -> None:
    kept = Spool(tmp_path, ORIGIN)
    kept.write(CURVE[:1])
    kept.write(CURVE)
    kept.write([*CURVE, OUTCOME])
    kept.close()
    (found,) = abandoned(tmp_path)
    assert found == outbox.AbandonedSpool(path=kept.path, origin=ORIGIN, epochs=tuple(CURVE), outcome=OUTCOME)
    assert kept.path.name == f"trial-00003-attempt-2-{'k' * 16}.jsonl"


def test_only_files_of_ended_writers_are_read(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    writer = context.Process(target=keep_and_wait, args=(tmp_path, theirs), daemon=True)
    writer.start()
    assert ours.poll(60) and ours.recv() == "kept"
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    assert abandoned(tmp_path) == []
    writer.kill()
    writer.join()
    assert abandoned(tmp_path)[0].epochs == tuple(CURVE)


def keep_and_wait(folder: Path, pipe: Connection) -> None:
    kept = Spool(folder, ORIGIN)
    kept.write(CURVE)
    pipe.send("kept")
    signal.pause()


def test_two_workers_do_not_read_the_same_file(tmp_path: Path) -> None:
    kept = Spool(tmp_path, ORIGIN)
    kept.write(CURVE)
    kept.close()
    looking = outbox.abandoned_spools(tmp_path)
    assert next(looking).epochs == tuple(CURVE)
    assert abandoned(tmp_path) == []
    assert list(looking) == []


@pytest.mark.parametrize("cut", [1, 20])
def test_an_incomplete_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    kept = Spool(tmp_path, ORIGIN)
    kept.write([*CURVE, OUTCOME])
    kept.close()
    os.truncate(kept.path, kept.path.stat().st_size - cut)
    (found,) = abandoned(tmp_path)
    assert found.epochs == tuple(CURVE)
    # only the end of the line is missing
    assert found.outcome == (OUTCOME if cut == 1 else None)


@pytest.mark.parametrize("text", [b"", b"not a spool\n", b'{"kind": "stop"}\n'])
def test_a_file_without_a_header_is_found_without_an_origin(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(text)
    (found,) = abandoned(tmp_path)
    assert (found.origin, found.epochs, found.outcome) == (None, (), None)


def test_the_outbox_has_a_file_only_between_a_failed_and_a_successful_delivery(tmp_path: Path) -> None:
    outbox = Outbox(CLAIM, Spool(tmp_path / "spool", ORIGIN), EventEmitter("study", "w1", lambda event: None))
    for epoch in CURVE:
        outbox.add(epoch)
    assert not (tmp_path / "spool").exists()
    outbox.save()
    assert outbox.location.endswith(".jsonl")
    outbox.clear()
    assert list((tmp_path / "spool").iterdir()) == []
    assert (outbox.unsent, outbox.curve) == ((), CURVE)


def test_epochs_during_an_outage_are_written_to_disk_once(tmp_path: Path) -> None:
    outbox = Outbox(CLAIM, Spool(tmp_path, ORIGIN), EventEmitter("study", "w1", lambda event: None))
    outbox.add(CURVE[0])
    outbox.save()
    for epoch in CURVE:  # a new trainer starts again
        outbox.add(epoch)
    outbox.close()
    assert abandoned(tmp_path)[0].epochs == tuple(CURVE)


@pytest.fixture
def no_larger() -> Iterator[Callable[[int | None], None]]:
    """Return a function that limits the size of files, to simulate a full disk; None removes the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if num_bytes is None else num_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_once_and_reports_are_written_when_there_is_space(
    tmp_path: Path, no_larger: Callable[[int | None], None]
) -> None:
    told: list[Event] = []
    kept = Spool(tmp_path, ORIGIN)
    outbox = Outbox(CLAIM, kept, EventEmitter("study", "w1", told.append))
    outbox.add(CURVE[0])
    outbox.save()
    no_larger(kept.path.stat().st_size + 10)
    for epoch in CURVE[1:]:
        outbox.add(epoch)
    outbox.save()
    no_larger(None)
    assert (outbox.location, outbox.is_on_disk) == ("memory", False)
    assert [event.what for event in told] == [EventKind.TROUBLE]
    assert "File too large" in told[0].message
    outbox.save(OUTCOME)
    assert outbox.is_on_disk
    outbox.close()
    (found,) = abandoned(tmp_path)
    assert (found.epochs, found.outcome) == (tuple(CURVE), OUTCOME)


def test_reports_stay_in_memory_if_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file where the folder should be")
    told: list[Event] = []
    outbox = Outbox(CLAIM, Spool(tmp_path / "spool", ORIGIN), EventEmitter("study", "w1", told.append))
    outbox.add(CURVE[0])
    outbox.save()
    outbox.save()
    assert (outbox.location, list(outbox.unsent), len(told)) == ("memory", CURVE[:1], 1)
