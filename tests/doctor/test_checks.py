"""The command `tuner doctor`: what it prints, what it fixes, what it leaves unchanged."""

import dataclasses
import datetime as dt
import functools
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tests import databases
from tests.studies import by_hand, odd_ones
from tuner.cli import main
from tuner.doctor import checks, findings, lost_trials
from tuner.doctor.findings import DoctorContext, Finding, Level
from tuner.results.versions import versions
from tuner.storage import engine as storages
from tuner.storage import migrating, tables
from tuner.storage.attributes import PREPARED, SPEC, STOPPED
from tuner.storage.engine import Storage
from tuner.studies import leases
from tuner.studies import study as studies
from tuner.studies.leases import WorkerId
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with new folders for artifacts and cache."""
    for name in ("artifacts", "cache"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"TUNER_{name.upper()}", str(tmp_path / name))
    return tmp_path


def run_doctor(capsys: pytest.CaptureFixture[str], url: str, *options: str, code: int = 0) -> list[dict[str, Any]]:
    """Return the findings of the command, after checking its exit code."""
    given = main.main(["doctor", "--storage", url, "--json", "--timeout", "300", *options])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert given == code, found
    assert all(set(each) == {"subject", "level", "found", "cure", "fixed"} for each in found)
    assert all(each["cure"] for each in found if each["level"] == WARNING)
    return found


def of(found: list[dict[str, Any]], subject: str) -> list[dict[str, Any]]:
    return [each for each in found if each["subject"] == subject]


def begin(url: str, **sections: Any) -> Study:
    return studies.join(by_hand.spec(**sections), storages.open(url))


@functools.cache
def ended_process() -> tuple[int, float]:
    """Return pid and start of a process of this host that was a worker and has ended."""
    script = "from tuner.studies.leases import WorkerId; w = WorkerId.here('gone'); print(w.pid, w.process_started)"
    pid, started = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    return int(pid), float(started)


def ended_worker() -> WorkerId:
    """Return a worker of this host whose process has ended."""
    pid, started = ended_process()
    return dataclasses.replace(WorkerId.here("gone"), pid=pid, process_started=started)


def running(study: Study) -> dict[int, bool]:
    """Return for each running trial whether its lease is open."""
    held = study.storage.read(lambda connection: leases.of_running_trials(connection, study.id))
    return {lease.trial_number: lease.ended_at is None for lease in held}


def test_a_healthy_storage_of_each_kind_is_ok(places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage_url)
    claimed = by_hand.must_claim(study)
    found = run_doctor(capsys, storage_url)
    study.storage.close()
    for subject in ("storage", "schema", "clock", "zombies", "leftovers"):
        assert [each["level"] for each in of(found, subject)] == [OK], subject
    assert "1 study, 1 trial" in of(found, "storage")[0]["found"]
    assert f"and 11 of tuner's (step {migrating.HEAD} of {migrating.HEAD})" in of(found, "schema")[0]["found"]
    assert "running or suspended: 1 trial" in of(found, "zombies")[0]["found"]
    assert claimed.number == 0
    assert bool(of(found, "connections")) == storage_url.startswith("postgresql")
    assert bool(of(found, "storage disk")) == storage_url.startswith("sqlite")


def test_checks_leave_no_rows_and_no_files(places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage_url)
    run_doctor(capsys, storage_url, "--fix")
    count = sqlalchemy.select(sqlalchemy.func.count()).select_from(tables.EPOCHS)
    assert study.storage.read(lambda connection: connection.scalar(count)) == 0
    study.storage.close()
    assert not [*(places / "artifacts").iterdir(), *(places / "cache").iterdir()]


def test_fix_releases_the_trial_of_an_ended_worker_and_not_that_of_a_running_one(
    places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = begin(storage_url)
    by_hand.must_claim(study, WorkerId.here("alive"))
    # not with `claim`, which would give the trial of the ended worker to the next worker
    study.storage.write(
        lambda connection: leases.grant(
            connection, study.id, ended_worker(), trial_number=1, trial_id=tables.create_trial(connection, study.id, 1), attempt=1
        )
    )
    # silent for longer than a lease lasts, but its process runs: it only cannot reach the database
    by_hand.grow_old(study, 2 * leases.PATIENCE_SECONDS)
    seen = of(run_doctor(capsys, storage_url), "zombies")
    assert [each["level"] for each in seen] == [WARNING, WARNING]
    assert "by-hand 1" in seen[0]["found"]
    assert "--fix" in seen[0]["cure"]
    assert "by-hand 0" in seen[1]["found"]
    assert running(study) == {0: True, 1: True}

    fixed = of(run_doctor(capsys, storage_url, "--fix"), "zombies")
    assert [each["fixed"] for each in fixed] == [True, False]
    assert fixed[0]["found"] == "released 1 trial of ended workers"
    assert running(study) == {0: True, 1: False}

    again = of(run_doctor(capsys, storage_url, "--fix"), "zombies")
    assert not any(each["fixed"] for each in again)
    assert running(study) == {0: True, 1: False}
    study.storage.close()


def test_fix_fails_a_trial_that_lost_too_many_workers(places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage_url)
    for _ in range(3):
        by_hand.must_claim(study, ended_worker())
    (seen,) = of(run_doctor(capsys, storage_url), "zombies")
    assert f"by-hand 0 (worker {socket.gethostname()}/gone, last seen " in seen["found"]
    fixed = of(run_doctor(capsys, storage_url, "--fix"), "zombies")
    assert "failed because they lost their worker 3 times: by-hand 0" in fixed[0]["found"]
    assert running(study) == {}
    (trial,) = study.optuna.get_trials()
    assert trial.user_attrs["error"] == "WorkerLost"
    study.storage.close()


def test_a_worker_of_another_machine_counts_as_ended_after_ten_minutes_of_silence(places: Path) -> None:
    here = WorkerId.here("doctor")
    lease = leases.Lease(
        trial_number=0, trial_id=1, attempt=1, worker_key="k", worker="elsewhere/w1", namespace="elsewhere", pid=1, process_started=0.0,
        started_at=0.0, seen_at=1000.0, ended_at=None, ending="",
    )  # fmt: skip
    assert lease.is_vacant(here, 1100.0)
    assert not lost_trials.is_gone(lease, here, 1100.0)
    assert lost_trials.is_gone(lease, here, 1001.0 + leases.PATIENCE_SECONDS)


def test_a_trial_without_a_lease_is_reported_and_not_changed(places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage_url)
    study.storage.write(lambda connection: tables.create_trial(connection, study.id, 0))
    seen = of(run_doctor(capsys, storage_url, "--fix"), "zombies")
    assert [(each["level"], each["fixed"]) for each in seen] == [(WARNING, False)]
    assert "by-hand 0" in seen[0]["found"]
    study.storage.close()


def test_a_stopped_study_is_reported_with_its_reason(places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage_url)
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {STOPPED: "3 trials failed"}))
    (seen,) = of(run_doctor(capsys, storage_url), "studies")
    assert (seen["level"], seen["found"]) == (WARNING, "by-hand stopped because of failures: 3 trials failed")
    study.storage.close()


def test_packages_that_differ_from_those_of_a_study_are_reported(
    places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = begin(storage_url)
    kept = by_hand.PREPARED.model_dump(mode="json") | {"versions": {"keras": "3.0.1", "never-installed": "1"}}
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: kept}))
    (seen,) = of(run_doctor(capsys, storage_url), "versions")
    assert seen["level"] == NOTE
    assert "by-hand (keras 3.0.1, here 3." in seen["found"]
    assert "never-installed" not in seen["found"]
    study.storage.close()


def test_a_study_that_this_version_cannot_read_is_reported(places: Path, storage_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = begin(storage_url)
    spec = study.spec.model_dump(mode="json") | {"from_the_future": True}
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {SPEC: json.dumps(spec)}))
    (seen,) = of(run_doctor(capsys, storage_url), "versions")
    assert (seen["level"], seen["found"].rpartition(": ")[2]) == (WARNING, "by-hand")
    study.storage.close()


def test_odd_studies_are_reported_and_stop_no_check(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(places)
    storage = storages.open(url)
    odd_ones.add(storage)
    found = run_doctor(capsys, url, "--fix")
    (seen,) = [each for each in of(found, "versions") if each["level"] == WARNING]
    assert seen["found"].startswith("this version of tuner cannot read: null, number, list, ")
    assert {each["found"].split()[0] for each in of(found, "studies")} == {"attributes-1", "attributes-2"}
    storage.close()


def test_a_listing_leaves_out_odd_studies_with_their_reasons(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(places)
    storage = storages.open(url)
    odd_ones.add(storage)
    assert main.main(["status", "--storage", url, "--json"]) == 0
    printed = capsys.readouterr()
    assert {study["study"] for study in json.loads(printed.out)} == {"good", "attributes-1", "attributes-2", "attributes-3"}
    assert "left out: the study cut cannot be read" in printed.err
    assert len(printed.err.splitlines()) == 22
    storage.close()


def test_fix_deletes_files_of_interrupted_work_and_keeps_files_that_may_be_needed(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(places)
    study = begin(url)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)  # trial 0 has ended
    by_hand.must_claim(study)  # trial 1 has not
    old, now = time.time() - 7200, time.time()
    written = {
        "by-hand/trial-00000/checkpoint": old,
        "by-hand/trial-00000/weights.npz.123.part": old,
        "by-hand/trial-00000/weights.npz": old,
        "by-hand/trial-00001/checkpoint": old,
        "by-hand/trial-00001/weights.npz.124.part": now,
        "other/trial-00000/checkpoint": old,
    }
    for name, moment in written.items():
        path = places / "artifacts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(512))
        os.utime(path, (moment, moment))
    (seen,) = of(run_doctor(capsys, url), "leftovers")
    assert seen["found"].startswith("2 files (1 KB)")
    (fixed,) = of(run_doctor(capsys, url, "--fix"), "leftovers")
    assert fixed["fixed"]
    left = {str(path.relative_to(places / "artifacts")) for path in (places / "artifacts").rglob("*") if path.is_file()}
    assert left == set(written) - {"by-hand/trial-00000/checkpoint", "by-hand/trial-00000/weights.npz.123.part"}
    assert [(each["level"], each["fixed"]) for each in of(run_doctor(capsys, url, "--fix"), "leftovers")] == [(OK, False)]
    study.storage.close()


def test_a_checkpoint_younger_than_the_end_of_its_trial_is_kept(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(places)
    study = begin(url)
    by_hand.finish(study, by_hand.must_claim(study), 0.5)
    earlier = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(days=1)
    study.storage.write(lambda connection: connection.execute(sqlalchemy.update(tables.TRIALS).values(datetime_complete=earlier)))
    path = places / "artifacts" / "by-hand" / "trial-00000" / "checkpoint"
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (time.time() - 7200,) * 2)
    assert [each["level"] for each in of(run_doctor(capsys, url, "--fix"), "leftovers")] == [OK]
    assert path.exists()
    study.storage.close()


def test_a_missing_database_is_not_created(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_doctor(capsys, f"sqlite:///{places / 'none.db'}", "--fix")
    assert of(found, "storage")[0]["level"] == NOTE
    assert [each["level"] for each in of(found, "storage disk")] == [OK]
    assert not (places / "none.db").exists()


def test_a_file_that_is_not_a_database_is_a_problem(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (places / "tuner.db").write_bytes(b"no database" * 1000)
    (seen,) = of(run_doctor(capsys, databases.sqlite(places), code=1), "storage")
    assert seen["level"] == PROBLEM
    assert "is not an SQLite database" in seen["found"]


def test_a_database_with_damaged_pages_is_a_problem_without_a_traceback(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = places / "tuner.db"
    begin(f"sqlite:///{path}").storage.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    found = run_doctor(capsys, f"sqlite:///{path}", code=1)
    assert {each["level"] for each in of(found, "storage")} == {PROBLEM}
    assert of(found, "machine")


@pytest.mark.parametrize(
    ("change", "missing"),
    [("ALTER TABLE tuner_epochs DROP COLUMN learning_rate", "tuner_epochs.learning_rate"), ("DROP TABLE tuner_versions", "tuner_versions")],
)
def test_a_missing_table_or_column_is_a_problem(places: Path, capsys: pytest.CaptureFixture[str], change: str, missing: str) -> None:
    url = databases.sqlite(places)
    study = begin(url)
    study.storage.write(lambda connection: connection.exec_driver_sql(change))
    study.storage.close()
    (seen,) = of(run_doctor(capsys, url, code=1), "schema")
    assert (seen["level"], seen["found"]) == (PROBLEM, f"missing tables or columns: {missing}")


def test_changed_and_missing_weights_of_versions_are_reported(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = databases.sqlite(places)
    study = begin(url)
    assert of(run_doctor(capsys, url), "weights") == []
    for name in ("first", "second", "third"):
        (places / name).write_bytes(name.encode())
        keep(study.storage, places / name)
    keep(study.storage, Path("s3://bucket/weights"))
    (seen,) = of(run_doctor(capsys, url), "weights")
    assert (seen["level"], seen["found"]) == (OK, "4 versions, 3 with files on this machine, 3 read and unchanged")
    (places / "first").write_bytes(b"other")
    (places / "second").unlink()
    changed, gone = of(run_doctor(capsys, url, code=1), "weights")
    study.storage.close()
    assert (changed["level"], changed["found"]) == (
        PROBLEM,
        f"files that were changed since the version was made: flowers 1 ({places / 'first'})",
    )
    assert (gone["level"], gone["found"]) == (WARNING, f"not on this machine: flowers 2 ({places / 'second'})")


def keep(storage: Storage, weights: Path) -> None:
    """Add a version with these weights."""
    new = versions.NewVersion(
        name="flowers", study="flowers", origin=versions.WeightsSource.TRIAL, trial=0, config={}, metrics={}, fingerprint="", splits="",
        artifact=str(weights).replace("s3:/", "s3://"), sha256=hashlib.sha256(weights.name.encode()).hexdigest(), created_by="ada",
    )  # fmt: skip
    versions.add(storage, new)


def test_an_unreachable_server_is_reported_within_seconds(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unheard:  # bound, so that no other program uses it, and not listening
        unheard.bind(("127.0.0.1", 0))
        began = time.monotonic()
        found = run_doctor(capsys, f"postgresql://someone:sesame@127.0.0.1:{unheard.getsockname()[1]}/tuner", code=1)
    assert time.monotonic() - began < 30
    (seen,) = of(found, "storage")
    assert "no server listens there" in seen["found"]
    assert "sesame" not in json.dumps(found)


def test_a_standby_server_is_reported_with_the_cure(places: Path, postgresql: Any, capsys: pytest.CaptureFixture[str]) -> None:
    begin(postgresql.get_uri()).storage.close()
    postgresql.stop()
    (postgresql.pgdata / "standby.signal").touch()
    postgresql.start()
    (seen,) = of(run_doctor(capsys, postgresql.get_uri(), code=1), "storage")
    assert seen["level"] == PROBLEM
    assert "name its primary" in seen["cure"]


def test_a_check_that_hangs_becomes_a_finding(places: Path) -> None:
    ends = threading.Event()

    def hang(context: DoctorContext) -> list[Finding]:
        ends.wait()
        return []

    context = DoctorContext(url="", is_storage_there=False, folders=Folders(artifacts=places, cache=places))
    found = checks.run_all(context, 0.2, [("cache", hang), ("machine", lambda context: [findings.ok("machine", "2 cores")])])
    ends.set()
    assert [(each.subject, each.level) for each in found] == [("cache", Level.PROBLEM), ("machine", Level.OK)]
    assert "no answer within 0.2 s" in found[0].found


def test_a_check_that_fails_becomes_a_finding(places: Path) -> None:
    def fail(context: DoctorContext) -> list[Finding]:
        raise PermissionError(13, "Permission denied", str(context.folders.cache))

    (seen,) = checks.run_all(
        DoctorContext(url="", is_storage_there=False, folders=Folders(artifacts=places, cache=places)), 60, [("cache", fail)]
    )
    assert (seen.subject, seen.level) == ("cache", Level.PROBLEM)
    assert "Permission denied" in seen.found


def test_a_file_instead_of_a_folder_is_a_problem(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (places / "file").touch()
    found = run_doctor(capsys, f"sqlite:///{places / 'none.db'}", "--artifacts", str(places / "file" / "artifacts"), code=1)
    assert of(found, "artifacts")[0]["level"] == PROBLEM
    assert "name a folder with --artifacts" in of(found, "artifacts")[0]["cure"]


def test_an_invalid_cache_limit_is_a_problem(places: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "much")
    found = run_doctor(capsys, f"sqlite:///{places / 'none.db'}", code=1)
    assert any("TUNER_CACHE_LIMIT is 'much'" in each["found"] for each in of(found, "cache"))


def test_the_text_output_has_a_line_for_each_finding_and_a_summary(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["doctor", "--storage", f"sqlite:///{places / 'none.db'}"]) == 0
    *lines, blank, summary = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["note", "storage"]
    assert {line.split()[0] for line in lines} <= {OK, NOTE, WARNING, PROBLEM}
    assert not blank
    assert summary.endswith(".")


def test_an_unknown_option_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["doctor", "--mend"]) == 2
    assert "--mend" in capsys.readouterr().err


def test_tensorflow_is_not_imported(places: Path) -> None:
    script = (
        "import sys; from tuner.cli import main; code = main.main(['doctor', '--storage', sys.argv[1]]); "
        "sys.exit(code or 10 * any(name in sys.modules for name in ('tensorflow', 'keras')))"
    )
    done = subprocess.run([sys.executable, "-c", script, f"sqlite:///{places / 'none.db'}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
