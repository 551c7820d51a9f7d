"""The command `tuner doctor` and files: a locked or damaged storage, undelivered reports, damaged cache entries."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from tests import databases
from tests.cache.test_arrays import put
from tests.doctor.test_checks import NOTE, OK, PROBLEM, WARNING, begin, of, places, run_doctor
from tests.studies import by_hand
from tuner.cache import entries
from tuner.doctor import database
from tuner.studies import trials
from tuner.workers.worker import outbox

__all__ = ["places"]


def test_a_locked_file_is_reported_with_the_process_that_locks_it(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = places / "tuner.db"
    begin(f"sqlite:///{path}").storage.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        found = database.locked(path, timeout_seconds=0.2)
        assert found is not None
        assert (found.level, f"process {os.getpid()} (" in found.found) == (PROBLEM, True)
        assert "end it" in found.cure
        holder.execute("ROLLBACK")
    assert database.locked(path, timeout_seconds=0.2) is None
    found_again = run_doctor(capsys, f"sqlite:///{path}")
    assert [each["level"] for subject in ("journal", "pages") for each in of(found_again, subject)] == [OK, OK]


def test_damaged_pages_are_reported(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = places / "tuner.db"
    study = begin(f"sqlite:///{path}")
    by_hand.must_claim(study)
    query = "SELECT rootpage FROM sqlite_master WHERE name='tuner_leases'"
    root = int(str(study.storage.read(lambda connection: connection.exec_driver_sql(query).scalar_one())))
    study.storage.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096 * (root - 1) + 1)
        file.write(b"\xff" * 7)
    (seen,) = of(run_doctor(capsys, f"sqlite:///{path}", code=1), "pages")
    assert (seen["level"], seen["found"].startswith("the file is damaged: ")) == (PROBLEM, True)
    assert ".recover" in seen["cure"]


def test_the_check_of_pages_stops_at_its_time_limit(places: Path) -> None:
    study = begin(databases.sqlite(places))
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)"
    fill = f"{numbers} INSERT INTO tuner_epochs (study_id, trial_number, step, stage) SELECT 9, i, i, 'x' FROM n"
    study.storage.write(lambda connection: connection.exec_driver_sql(fill))
    (seen,) = database.pages(study.storage, timeout_seconds=-1.0)
    assert (seen.level, "no damage found within" in seen.found) == (OK, True)
    study.storage.close()


def test_undelivered_reports_are_reported(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(places)
    study = begin(url)
    claimed = by_hand.must_claim(study)
    kept = {}
    for name in ("by-hand", "deleted"):
        origin = outbox.SpoolHeader(study=name, worker="host/w1", device="cpu", claim=claimed)
        kept[name] = outbox.Spool(places / "artifacts" / name / "spool", origin)
        kept[name].write(by_hand.epochs(claimed, [0.5]))
    (seen,) = of(run_doctor(capsys, url), "undelivered")
    assert (seen["level"], seen["found"].partition(":")[0]) == (NOTE, "reports of running workers that wait for the storage")
    for each in kept.values():
        each.close()
        os.utime(each.path, (time.time() - 3 * 3600,) * 2)
    (places / "artifacts" / "by-hand" / "spool" / "torn.jsonl").write_bytes(b"{")
    seen_by_level = {each["found"].partition(":")[0]: (each["level"], each["found"]) for each in of(run_doctor(capsys, url), "undelivered")}
    assert seen_by_level["reports of ended workers"] == (WARNING, "reports of ended workers: 1 file of by-hand, the oldest 3 h old")
    assert seen_by_level["reports of studies that are not in this storage"][1].endswith("1 file of deleted, the oldest 3 h old")
    assert seen_by_level["files that cannot be read"][1].endswith("torn.jsonl")
    trials.release(study, claimed)
    study.storage.close()


def test_fix_deletes_broken_cache_entries(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = places / "cache"
    paths = [put(folder, name) for name in ("whole", "short", "changed", "unknown")]
    whole, short, changed, unknown = paths
    short.write_bytes(short.read_bytes()[:-1])
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    entries.about_path(unknown).unlink()
    url = f"sqlite:///{places / 'none.db'}"
    (seen,) = (each for each in of(run_doctor(capsys, url), "cache") if "damaged" in each["found"])
    assert (seen["level"], seen["found"].startswith("3 entries damaged: ")) == (NOTE, True)
    assert all(why in seen["found"] for why in ("instead of", "its checksum is wrong", "its description is missing"))
    (fixed,) = (each for each in of(run_doctor(capsys, url, "--fix"), "cache") if "damaged" in each["found"])
    assert (fixed["fixed"], fixed["found"]) == (True, "deleted 3 damaged entries")
    assert [path for path in paths if path.exists()] == [whole]
