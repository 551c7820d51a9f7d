"""A bucket of an S3-compatible service into files that are put there, fetched, listed and deleted, or one line that says why not.

Endpoint, region and credentials are those that boto3 finds in the environment, in its files or on the machine; none of them is ever shown
but the endpoint. What is written appears whole or not at all.
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
from botocore import exceptions as refusals
from botocore.config import Config
from optuna.artifacts import Boto3ArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from tuner.errors import ArtifactsError

T = TypeVar("T")

SCHEME = "s3://"
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
#: of one call, with pauses of up to two seconds, while the service does not answer, or says that it is busy
_TRIES = 4
_PAUSE_SECONDS = (0.1, 2.0)
_BUSY = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "InternalError", "ServiceUnavailable")
_NO_ENTRY = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
#: a bucket that someone may be about to make
_MISSING = ("NoSuchBucket", "404")
_NO_KEYS = (refusals.NoCredentialsError, refusals.PartialCredentialsError, refusals.CredentialRetrievalError)
_SILENCE = (
    refusals.ConnectionError, refusals.HTTPClientError, refusals.IncompleteReadError, refusals.ResponseStreamingError,
)  # fmt: skip
_REFUSALS = (refusals.BotoCoreError, refusals.ClientError, Boto3Error)


@dataclass(frozen=True, kw_only=True)
class Object:
    """A file in a bucket."""

    #: below the prefix of the bucket's URL
    key: str
    num_bytes: int
    #: when, in seconds since the epoch, by the clock of the service
    written_at: float
    #: of an upload that did not come to its end, of which no one sees anything; "" of a file that is whole
    upload: str = ""


class Bucket:
    """What lies below `s3://BUCKET/PREFIX`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.name, _, prefix = self.url.removeprefix(SCHEME).partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        once = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"total_max_attempts": 1})
        try:
            self._client: Any = boto3.session.Session().client("s3", config=once)
        except (*_REFUSALS, ValueError) as error:
            raise self._refusal(error) from error
        # a file is opened for one upload, and may be closed by it
        self._store = Boto3ArtifactStore(self.name, self._client, avoid_buf_copy=True)

    @property
    def endpoint(self) -> str:
        """The host of the service, and its port if it says one."""
        return urlsplit(str(self._client.meta.endpoint_url)).netloc.rpartition("@")[2]

    def url_of(self, key: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{key}"

    def put(self, key: str, path: Path) -> None:
        """Have a file in the bucket, in place of the one before it.

        Raises:
            ArtifactsError: the bucket does not take it.
            FileNotFoundError: it is not there.
        """

        def put() -> None:
            with path.open("rb") as file:
                self._store.write(self._prefix + key, file)

        self._insist(put)

    def fetch(self, key: str, path: Path) -> bool:
        """Have a file of the bucket here, written beside and renamed; False if there is none.

        Raises:
            ArtifactsError: the bucket does not give it.
            OSError: there is no room for it here, for example.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}.part")

        def fetch() -> bool:
            try:
                with self._store.open_reader(self._prefix + key) as body, beside.open("wb") as file:
                    shutil.copyfileobj(body, file)
            except ArtifactNotFound as error:
                if isinstance(error.__cause__, refusals.ClientError) and _code(error.__cause__) == "NoSuchBucket":
                    raise error.__cause__ from error
                return False
            beside.replace(path)
            return True

        try:
            return self._insist(fetch)
        finally:
            beside.unlink(missing_ok=True)

    def remove(self, key: str) -> None:
        """Delete a file, if it is there.

        Raises:
            ArtifactsError: the bucket does not let it.
        """
        self._insist(lambda: self._store.remove(self._prefix + key))

    def objects(self) -> Iterator[Object]:
        """The files.

        Raises:
            ArtifactsError: the bucket does not list them.
        """
        for page in self._pages("list_objects_v2"):
            for found in page.get("Contents", ()):
                yield Object(key=self._key(found), num_bytes=int(found["Size"]), written_at=_seconds(found["LastModified"]))

    def unfinished(self) -> Iterator[Object]:
        """Uploads in parts that are under way, or were broken off; what they hold is not known.

        Raises:
            ArtifactsError: the bucket does not list them.
        """
        for page in self._pages("list_multipart_uploads"):
            for found in page.get("Uploads", ()):
                yield Object(key=self._key(found), num_bytes=0, written_at=_seconds(found["Initiated"]), upload=found["UploadId"])

    def break_off(self, upload: Object) -> None:
        """Forget an upload that is not finished.

        Raises:
            ArtifactsError: the bucket does not let it.
        """
        wanted = {"Bucket": self.name, "Key": self._prefix + upload.key, "UploadId": upload.upload}
        self._insist(lambda: self._client.abort_multipart_upload(**wanted))

    def require(self) -> None:
        """Refuse a bucket that is not there, does not answer or cannot be written, by writing a little and deleting it.

        Raises:
            ArtifactsError: it is so.
        """
        key = f"{self._prefix}.tuner-{secrets.token_hex(4)}"

        def write_a_little() -> None:
            self._client.put_object(Bucket=self.name, Key=key, Body=b"")
            self._store.remove(key)

        self._insist(write_a_little)

    def _pages(self, what: str) -> list[dict[str, Any]]:
        return self._insist(lambda: list(self._client.get_paginator(what).paginate(Bucket=self.name, Prefix=self._prefix)))

    def _key(self, found: dict[str, Any]) -> str:
        return str(found["Key"]).removeprefix(self._prefix)

    def _insist(self, work: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(min=_PAUSE_SECONDS[0], max=_PAUSE_SECONDS[1]),
            reraise=True,
        )
        try:
            return retrying(work)
        except _REFUSALS as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ArtifactsError:
        return ArtifactsError(
            f"the artifacts {self.url} cannot be used: {self._why(error)}", may_pass=may_pass(error) or _code(error) in _MISSING
        )

    def _why(self, error: Exception) -> str:
        code = _code(error)
        if isinstance(error, refusals.ProfileNotFound):
            return f"there is no profile {error.kwargs.get('profile')}; set AWS_PROFILE to one that is there, or leave it out"
        if isinstance(error, _NO_KEYS):
            return "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile that has them"
        if code in _MISSING:
            return f"there is no bucket {self.name} at {self.endpoint}; make it, or name another with --artifacts"
        if code in _NO_ENTRY:
            return f"{self.endpoint} refuses the credentials ({code}); set those of a user who may write the bucket {self.name}"
        if isinstance(error, ValueError):
            return "the endpoint is no URL; expected for example AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000"
        if isinstance(error, _SILENCE):
            return f"{self.endpoint} does not answer ({type(error).__name__}); is AWS_ENDPOINT_URL_S3 right, and the service up?"
        return f"{self.endpoint} says {code or ' '.join(str(error).split())}"


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed later, without anyone changing the request."""
    if isinstance(error, refusals.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in _BUSY
    return isinstance(error, _SILENCE)


def _code(error: BaseException) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, refusals.ClientError) else ""


def _seconds(moment: dt.datetime) -> float:
    return moment.timestamp()
