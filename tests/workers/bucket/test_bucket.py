"""Files in a bucket, with a real S3 service on the loopback interface."""

import os
from pathlib import Path

import pytest

from tests import buckets
from tuner.errors import ArtifactsError
from tuner.workers.bucket.bucket import Bucket

#: more than an upload in one piece
LARGE = 20_000_000
#: seconds between two tries
PAUSES = (0.01, 0.02)


@pytest.fixture
def bucket(bucket_service: buckets.Service) -> Bucket:
    if "models" not in [found["Name"] for found in bucket_service.client.list_buckets()["Buckets"]]:
        bucket_service.make("models")
    return Bucket("s3://models/models/team/", pauses=PAUSES)


def why_not(bucket: Bucket) -> ArtifactsError:
    """Return the error of a check of the bucket."""
    with pytest.raises(ArtifactsError) as refused:
        bucket.require()
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize("num_bytes", [0, 1000, LARGE])
def test_a_file_can_be_uploaded_downloaded_and_deleted_twice(bucket: Bucket, tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "here").write_bytes(os.urandom(num_bytes))
    bucket.put("study/trial-00001/checkpoint", tmp_path / "here")
    assert [(found.key, found.num_bytes, found.upload) for found in bucket.objects()] == [("study/trial-00001/checkpoint", num_bytes, "")]
    assert bucket.fetch("study/trial-00001/checkpoint", tmp_path / "new" / "there")
    assert (tmp_path / "new" / "there").read_bytes() == (tmp_path / "here").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["there"]
    for _ in range(2):
        bucket.remove("study/trial-00001/checkpoint")
    assert list(bucket.objects()) == []
    assert not bucket.fetch("study/trial-00001/checkpoint", tmp_path / "gone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "new"]


def test_only_files_below_the_prefix_are_listed(bucket: Bucket, bucket_service: buckets.Service) -> None:
    bucket_service.client.put_object(Bucket="models", Key="models/teams/other", Body=b"x")
    bucket.require()
    assert list(bucket.objects()) == []
    assert bucket_service.keys("models") == ["models/teams/other"]


def test_an_incomplete_upload_is_invisible_and_can_be_aborted(bucket: Bucket, bucket_service: buckets.Service, tmp_path: Path) -> None:
    key = "study/trial-00001/weights.npz"
    uploads = bucket_service.client.create_multipart_upload(Bucket="models", Key=f"models/team/{key}")
    bucket_service.client.upload_part(Bucket="models", Key=uploads["Key"], UploadId=uploads["UploadId"], PartNumber=1, Body=b"x" * 1000)
    assert not bucket.fetch(key, tmp_path / "weights.npz")
    (upload,) = bucket.unfinished()
    assert (upload.key, upload.upload) == (key, uploads["UploadId"])
    bucket.abort_upload(upload)
    assert list(bucket.unfinished()) == []


def test_a_service_that_does_not_answer_is_retried_and_then_reported(bucket: Bucket, bucket_service: buckets.Service) -> None:
    bucket_service.stop()
    error = why_not(bucket)
    bucket_service.start()
    assert error.may_pass
    assert f"cannot be used: {bucket.endpoint} does not answer (" in str(error)
    bucket.require()


def test_a_missing_bucket_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    other = Bucket("s3://nowhere", pauses=PAUSES)
    (tmp_path / "here").touch()
    assert f"the artifacts s3://nowhere cannot be used: there is no bucket nowhere at {bucket.endpoint}; create it" in str(why_not(other))
    for call in (lambda: other.put("a", tmp_path / "here"), lambda: other.fetch("a", tmp_path / "b"), lambda: list(other.objects())):
        with pytest.raises(ArtifactsError, match="there is no bucket nowhere") as refused:
            call()
        assert refused.value.may_pass  # someone may create it soon


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        ({"AWS_PROFILE": "nobody"}, "there is no profile nobody; set AWS_PROFILE to an existing profile"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "the endpoint is not a URL; expected for example AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000"),
    ],
)
def test_wrong_settings_in_the_environment_are_reported(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(ArtifactsError) as refused:
        Bucket("s3://models", pauses=PAUSES).require()
    assert said in str(refused.value)
    assert "not-a-secret" not in str(refused.value)


def test_refused_credentials_are_reported_but_not_shown(bucket: Bucket, bucket_service: buckets.Service) -> None:
    policy = """{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "*"}]}"""
    bucket_service.client.create_bucket(Bucket="closed")
    bucket_service.client.put_bucket_policy(Bucket="closed", Policy=policy)
    error = why_not(Bucket("s3://closed", pauses=PAUSES))
    assert not error.may_pass
    assert str(error).endswith("refuses the credentials (403); set those of a user who may write to the bucket closed")
