"""Bucket: files in a bucket of an S3-compatible service; every error is one line that says what to do.

boto3 finds the endpoint, the region and the credentials in the environment, in its files or on the machine. Messages show the
endpoint only. Files appear whole or not at all.
"""

import datetime as dt
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore import exceptions
from botocore.config import Config
from optuna.artifacts import Boto3ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from tuner.errors import ArtifactsError

T = TypeVar("T")

SCHEME = "s3://"
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
#: tries of one call, with pauses of up to two seconds, while the service does not answer or is busy
_TRIES = 4
_PAUSE_SECONDS = (0.1, 2.0)
_BUSY = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError", "ServiceUnavailable")
_DENIED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
#: error codes of a missing bucket, which someone may create soon
_MISSING = ("NoSuchBucket", "404")
_NO_CREDENTIALS = (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError)
_NO_ANSWER = (
    exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError, exceptions.ResponseStreamingError,
)  # fmt: skip
_ERRORS = (exceptions.BotoCoreError, exceptions.ClientError, Boto3Error)


@dataclass(frozen=True, kw_only=True)
class Object:
    """A file in a bucket."""

    #: key below the prefix of the bucket's URL
    key: str
    num_bytes: int
    #: seconds since the epoch, by the service's clock
    written_at: float
    #: id of an incomplete upload, whose file is invisible; "" for a complete file
    upload: str = ""


class Bucket:
    """The files below `s3://BUCKET/PREFIX`."""

    def __init__(self, url: str, *, pauses: tuple[float, float] = _PAUSE_SECONDS) -> None:
        """`pauses`: shortest and longest seconds between two tries of a request."""
        self._pauses = pauses
        self.url = url.rstrip("/")
        self.name, _, prefix = self.url.removeprefix(SCHEME).partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        once = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"total_max_attempts": 1})
        try:
            self._client: Any = boto3.session.Session().client("s3", config=once)
        except (*_ERRORS, ValueError) as error:
            raise self._error(error) from error
        # the store may close the file after the upload
        self._store = Boto3ArtifactStore(self.name, self._client, avoid_buf_copy=True)

    @property
    def endpoint(self) -> str:
        """The host of the service, with its port if the URL has one."""
        return urlsplit(str(self._client.meta.endpoint_url)).netloc.rpartition("@")[2]

    def url_of(self, key: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{key}"

    def put(self, key: str, path: Path) -> None:
        """Upload a file, which replaces an earlier one.

        Raises:
            ArtifactsError: the upload failed.
            FileNotFoundError: the local file does not exist.
        """

        def put() -> None:
            with path.open("rb") as file:
                self._store.write(self._prefix + key, file)

        self._retry(put)

    def fetch(self, key: str, path: Path) -> bool:
        """Download a file, written beside its target and renamed; return False if the bucket does not have it.

        Raises:
            ArtifactsError: the download failed.
            OSError: the local file cannot be written, for example because the disk is full.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")

        def fetch() -> bool:
            try:
                with self._store.open_reader(self._prefix + key) as body, beside.open("wb") as file:
                    shutil.copyfileobj(body, file)
            except ArtifactNotFound as error:
                if isinstance(error.__cause__, exceptions.ClientError) and _code(error.__cause__) == "NoSuchBucket":
                    raise error.__cause__ from error
                return False
            beside.replace(path)
            return True

        try:
            return self._retry(fetch)
        finally:
            beside.unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """Delete a file if it exists.

        Raises:
            ArtifactsError: the deletion failed.
        """
        self._retry(lambda: self._store.remove(self._prefix + key))

    def objects(self) -> Iterator[Object]:
        """Yield the files.

        Raises:
            ArtifactsError: the bucket cannot be listed.
        """
        for page in self._pages("list_objects_v2"):
            for found in page.get("Contents", ()):
                yield Object(key=self._key(found), num_bytes=int(found["Size"]), written_at=_seconds(found["LastModified"]))

    def unfinished(self) -> Iterator[Object]:
        """Yield the multipart uploads that are running or were interrupted; their sizes are unknown.

        Raises:
            ArtifactsError: the bucket cannot be listed.
        """
        for page in self._pages("list_multipart_uploads"):
            for found in page.get("Uploads", ()):
                yield Object(key=self._key(found), num_bytes=0, written_at=_seconds(found["Initiated"]), upload=found["UploadId"])

    def abort_upload(self, upload: Object) -> None:
        """Abort an incomplete upload.

        Raises:
            ArtifactsError: the bucket refuses.
        """
        wanted = {"Bucket": self.name, "Key": self._prefix + upload.key, "UploadId": upload.upload}
        self._retry(lambda: self._client.abort_multipart_upload(**wanted))

    def require(self) -> None:
        """Check that the bucket can be used, by writing and deleting an empty file.

        Raises:
            ArtifactsError: the bucket does not exist, does not answer or cannot be written.
        """
        key = f"{self._prefix}.tuner-{secrets.token_hex(4)}"

        def write_and_delete() -> None:
            self._client.put_object(Bucket=self.name, Key=key, Body=b"")
            self._store.remove(key)

        self._retry(write_and_delete)

    def _pages(self, what: str) -> list[dict[str, Any]]:
        return self._retry(lambda: list(self._client.get_paginator(what).paginate(Bucket=self.name, Prefix=self._prefix)))

    def _key(self, found: dict[str, Any]) -> str:
        return str(found["Key"]).removeprefix(self._prefix)

    def _retry(self, work: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(min=self._pauses[0], max=self._pauses[1]),
            reraise=True,
        )
        try:
            return retrying(work)
        except _ERRORS as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> ArtifactsError:
        return ArtifactsError(
            f"the artifacts {self.url} cannot be used: {self._why(error)}", may_pass=may_pass(error) or _code(error) in _MISSING
        )

    def _why(self, error: Exception) -> str:
        code = _code(error)
        if isinstance(error, exceptions.ProfileNotFound):
            return f"there is no profile {error.kwargs.get('profile')}; set AWS_PROFILE to an existing profile, or unset it"
        if isinstance(error, _NO_CREDENTIALS):
            return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile with credentials"
        if code in _MISSING:
            return f"there is no bucket {self.name} at {self.endpoint}; create it, or name another one with --artifacts"
        if code in _DENIED:
            return f"{self.endpoint} refuses the credentials ({code}); set those of a user who may write to the bucket {self.name}"
        if isinstance(error, ValueError):
            return "the endpoint is not a URL; expected for example AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000"
        if isinstance(error, _NO_ANSWER):
            return f"{self.endpoint} does not answer ({type(error).__name__}); check AWS_ENDPOINT_URL_S3, and that the service runs"
        return f"{self.endpoint} answers {code or ' '.join(str(error).split())}"


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in _BUSY
    return isinstance(error, _NO_ANSWER)


def _code(error: BaseException) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, exceptions.ClientError) else ""


def _seconds(moment: dt.datetime) -> float:
    return moment.timestamp()
