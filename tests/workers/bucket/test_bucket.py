"""Files into a bucket and out of it, against a real S3 service on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import buckets
from tuner.errors import ArtifactsError
from tuner.workers.bucket import bucket as bucket_files
from tuner.workers.bucket.bucket import Bucket

#: more than what is put in one piece
LARGE = 20_000_000


@pytest.fixture(scope="module")
def service() -> Iterator[buckets.Service]:
    with buckets.service() as made:
        made.make("models")
        yield made


@pytest.fixture
def bucket(service: buckets.Service, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in buckets.only(service.environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket_files, "_PAUSE_SECONDS", (0.01, 0.02))
    return Bucket("s3://models/models/team/")


def why_not(bucket: Bucket) -> ArtifactsError:
    """Why it is refused."""
    with pytest.raises(ArtifactsError) as refused:
        bucket.require()
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize("num_bytes", [0, 1000, LARGE])
def test_a_file_comes_back_as_it_was_put_and_can_be_deleted_twice(bucket: Bucket, tmp_path: Path, num_bytes: int) -> None:
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


def test_only_what_lies_below_the_prefix_is_seen(bucket: Bucket, service: buckets.Service) -> None:
    service.client.put_object(Bucket="models", Key="models/teams/other", Body=b"x")
    bucket.require()
    assert list(bucket.objects()) == []
    assert service.keys("models") == ["models/teams/other"]


def test_an_upload_that_was_broken_off_is_seen_by_no_one_who_fetches_and_can_be_forgotten(
    bucket: Bucket, service: buckets.Service, tmp_path: Path
) -> None:
    key = "study/trial-00001/weights.npz"
    uploads = service.client.create_multipart_upload(Bucket="models", Key=f"models/team/{key}")
    service.client.upload_part(Bucket="models", Key=uploads["Key"], UploadId=uploads["UploadId"], PartNumber=1, Body=b"x" * 1000)
    assert not bucket.fetch(key, tmp_path / "weights.npz")
    (upload,) = bucket.unfinished()
    assert (upload.key, upload.upload) == (key, uploads["UploadId"])
    bucket.abort_upload(upload)
    assert list(bucket.unfinished()) == []


def test_a_service_that_is_away_is_asked_again_and_then_told(bucket: Bucket, service: buckets.Service) -> None:
    service.stop()
    error = why_not(bucket)
    service.start()
    assert error.may_pass
    assert f"cannot be used: {bucket.endpoint} does not answer (" in str(error)
    bucket.require()


def test_a_bucket_that_is_not_there_is_told(bucket: Bucket, tmp_path: Path) -> None:
    other = Bucket("s3://nowhere")
    (tmp_path / "here").touch()
    assert f"the artifacts s3://nowhere cannot be used: there is no bucket nowhere at {bucket.endpoint}; create it" in str(why_not(other))
    for call in (lambda: other.put("a", tmp_path / "here"), lambda: other.fetch("a", tmp_path / "b"), lambda: list(other.objects())):
        with pytest.raises(ArtifactsError, match="there is no bucket nowhere") as refused:
            call()
        assert refused.value.may_pass  # someone may be about to make it


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": ""}, "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
        ({"AWS_PROFILE": "nobody"}, "there is no profile nobody; set AWS_PROFILE to an existing profile"),
        ({"AWS_ENDPOINT_URL_S3": "nonsense"}, "the endpoint is not a URL; expected for example AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000"),
    ],
)
def test_what_is_missing_in_the_environment_is_told(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(ArtifactsError) as refused:
        Bucket("s3://models").require()
    assert said in str(refused.value)
    assert "not-a-secret" not in str(refused.value)


def test_credentials_that_the_service_refuses_are_told_without_them(bucket: Bucket, service: buckets.Service) -> None:
    policy = """{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "*"}]}"""
    service.client.create_bucket(Bucket="closed")
    service.client.put_bucket_policy(Bucket="closed", Policy=policy)
    error = why_not(Bucket("s3://closed"))
    assert not error.may_pass
    assert str(error).endswith("refuses the credentials (403); set those of a user who may write to the bucket closed")
