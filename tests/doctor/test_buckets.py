"""The command `tuner doctor` with artifacts in a bucket."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests import buckets, databases
from tests.studies import by_hand
from tuner.cli import main
from tuner.doctor import artifacts as doctor_artifacts
from tuner.doctor import buckets as doctor_buckets
from tuner.doctor import checks
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.workers.bucket import transfer


@pytest.fixture
def service(bucket_service: buckets.Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> buckets.Service:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNER_SCRATCH", str(tmp_path / "scratch"))
    return bucket_service


def run_doctor(capsys: pytest.CaptureFixture[str], folder: Path, bucket: str, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Return the exit code and the findings by subject."""
    url = f"sqlite:///{folder / 'tuner.db'}"
    code = main.main(["doctor", "--storage", url, "--artifacts", f"s3://{bucket}/models/team", "--json", "--timeout", "300", *options])
    found: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(capsys.readouterr().out):
        found.setdefault(each["subject"], []).append(each)
    assert {"storage", "bucket", "leftovers"} <= set(found), found
    return code, found


def test_fix_deletes_files_of_interrupted_work_in_a_bucket(
    service: buckets.Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.make("held")
    study = studies.join(by_hand.spec(), storages.open(databases.sqlite(tmp_path)))
    first = by_hand.must_claim(study)
    by_hand.must_claim(study)  # trial 1 still runs
    names = ("trial-00000/checkpoint", "trial-00000/weights.npz", "trial-00001/checkpoint")
    for name in names:
        service.client.put_object(Bucket="held", Key=f"models/team/by-hand/{name}", Body=bytes(1024))
    service.client.put_object(Bucket="held", Key="models/team/other/trial-00000/checkpoint", Body=b"x")
    service.client.put_object(Bucket="held", Key="elsewhere/by-hand/trial-00000/checkpoint", Body=b"x")
    service.client.create_multipart_upload(Bucket="held", Key="models/team/by-hand/trial-00001/weights.npz")
    by_hand.finish(study, first, 0.5)
    study.storage.close()

    code, found = run_doctor(capsys, tmp_path, "held")
    (bucket,) = found["bucket"]
    assert (code, bucket["level"]) == (0, "ok")
    assert bucket["found"].startswith("s3://held/models/team at 127.0.0.1:")
    assert "it holds 4 files (3 KB)" in bucket["found"]
    # moto dates every upload to 2010; the checkpoint is a few seconds old, so a worker may still use it
    assert [each["found"] for each in found["leftovers"]][1:] == ["1 file (0 bytes) of interrupted work in s3://held/models/team"]

    storage = storages.open(databases.sqlite(tmp_path))
    (fixed,) = checks.fix_all(list(doctor_buckets.interrupted_work(storage, "s3://held/models/team", age_seconds=-5.0)))
    assert (fixed.fixed, fixed.found) == (True, "deleted 2 files (1 KB) of interrupted work in s3://held/models/team")
    left = [f"models/team/by-hand/{name}" for name in names[1:]] + ["models/team/other/trial-00000/checkpoint"]
    assert service.keys("held") == ["elsewhere/by-hand/trial-00000/checkpoint", *left]
    assert "Uploads" not in service.client.list_multipart_uploads(Bucket="held")
    known = storage.read(doctor_artifacts.ends)
    storage.close()
    assert doctor_buckets.find_interrupted(transfer.open_bucket("s3://held/models/team"), known, before=time.time() + 5.0) == []


def test_a_missing_bucket_is_reported_once(service: buckets.Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    studies.join(by_hand.spec(), storages.open(databases.sqlite(tmp_path))).storage.close()
    code, found = run_doctor(capsys, tmp_path, "nowhere")
    assert code == 1
    problems = [each for each in (*found["bucket"], *found["leftovers"]) if each["level"] == "problem"]
    assert [each["found"].partition(" at 127")[0] for each in problems] == [
        "the artifacts s3://nowhere/models/team cannot be used: there is no bucket nowhere"
    ]
