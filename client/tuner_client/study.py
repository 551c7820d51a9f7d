"""The client, and a study on a server as an object."""

import json
import os
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner_client.connection import Connection, Json, TunerClientError, part

#: states in which a study is served no more
ENDED = ("done", "failed", "cancelled")
_PAGE = 1000
_CHUNK_BYTES = 1 << 20


class StudyFailed(TunerClientError):
    """The study that was waited for failed or was cancelled; the message says why."""


class Client:
    """A tuner server."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout_seconds: float = 60.0, tries: int = 6, context: ssl.SSLContext | None = None
    ) -> None:
        """`token` is one of `tuner dashboard tokens add`, by default the environment's TUNER_TOKEN; it is never shown."""
        given = token if token is not None else os.environ.get("TUNER_TOKEN")
        self._connection = Connection(url, given, timeout_seconds=timeout_seconds, tries=tries, context=context)

    def __repr__(self) -> str:
        return f"Client({self._connection.address!r})"

    def submit(
        self,
        study: str | os.PathLike[str] | Mapping[str, Any],
        *,
        priority: int = 0,
        workers: int = 1,
        needs: Sequence[str] = (),
        after: Sequence[str] = (),
        preempt: bool = False,
        key: str | None = None,
    ) -> "RemoteStudy":
        """Submit a study file, or the values of one, and return the study.

        A submission is repeated while the server does not answer, and still submits once: each has a key of its own. With a `key` of yours,
        later calls with it also return the first study.

        Raises:
            Refused: the file has mistakes, all of them in `problems`, or the queue refuses the study.
            TunerClientError: the server does not answer, or does not allow it.
        """
        body = {
            "file": _text(study), "priority": priority, "workers": workers, "needs": list(needs), "after": list(after),
            "preempt": preempt,
        }  # fmt: skip
        headers = {"idempotency-key": key or secrets.token_hex(16)}
        return RemoteStudy(self._connection, str(self._connection.json("POST", "/queue", body=body, headers=headers)["name"]))

    def check(self, study: str | os.PathLike[str] | Mapping[str, Any]) -> Json:
        """Return the mistakes of a study file as `problems`; if there are none, its `plan` and its `cost`."""
        return self._connection.json("POST", "/validate", body={"file": _text(study)})

    def study(self, name: str) -> "RemoteStudy":
        """Return a study of the queue.

        Raises:
            NotFound: the queue has no such study.
        """
        found = RemoteStudy(self._connection, name)
        found.refresh()
        return found

    def queue(self) -> list[Json]:
        """Return the studies of the queue in the order in which they are served; the ended ones last."""
        return list(self._pages("/queue", "studies"))

    def pool(self) -> Json:
        """Return the workers of the pool, and how the last day was used."""
        return self._connection.json("GET", "/pool")

    def data(self, path: str | None = None) -> Json:
        """Return what a folder of data on the server contains; without a path, its roots."""
        return self._connection.json("GET", "/data", path=path)

    def upload(self, archive: str | os.PathLike[str], name: str) -> Json:
        """Upload a zip file of images into a new folder of yours; return the folder and what was left out."""
        with Path(archive).open("rb") as file:
            return self._connection.upload("/data", file, os.fstat(file.fileno()).st_size, name=name)

    def _pages(self, path: str, field: str) -> Iterator[Json]:
        yield from pages(self._connection, path, field)


class RemoteStudy:
    """A study in the queue of a server."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self.name = connection, name
        self._path = f"/queue/{part(name)}"

    def __repr__(self) -> str:
        return f"RemoteStudy({self.name!r} at {self._connection.address!r})"

    def refresh(self) -> Json:
        """Return everything that the queue knows of the study: state, priority, workers, why it waits."""
        return self._connection.json("GET", self._path)

    @property
    def state(self) -> str:
        """The state: queued, running, paused, done, failed or cancelled."""
        return str(self.refresh()["state"])

    @property
    def best(self) -> Json:
        """The best trial as a study file with its result.

        Raises:
            NotFound: no trial has completed yet.
        """
        return self._connection.json("GET", f"/studies/{self._id()}/best")

    def wait(self, timeout: float | None = None, *, poll_seconds: float = 2.0) -> "RemoteStudy":
        """Wait until the study is done, and return it.

        Raises:
            StudyFailed: it failed or was cancelled.
            TimeoutError: it is not done after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (found := self.refresh())["state"] not in ENDED:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the study {self.name} is {found['state']} after {timeout:g} s; {found['waits'] or 'it goes on'}")
            time.sleep(poll_seconds)
        if found["state"] != "done":
            raise StudyFailed(f"the study {self.name} is {found['state']}: {found['message'] or 'no reason is known'}")
        return self

    def trials(self) -> list[Json]:
        """Return all trials, by number."""
        return list(pages(self._connection, f"/studies/{self._id()}/trials", "trials"))

    def events(self) -> Iterator[Json]:
        """Yield the state of the study, then what changes of it, until it is deleted; the stream opens again when it ends."""
        return self._connection.events(f"/studies/{self._id()}/events")

    def files(self) -> list[Json]:
        """Return the files of the study that can be downloaded: `name` and `num_bytes`."""
        found: list[Json] = self._connection.json("GET", f"/studies/{self._id()}/files")["files"]
        return found

    def download(self, name: str, to: str | os.PathLike[str] | None = None) -> Path:
        """Download a file of the study, such as best.yaml, and return its path; it appears when it is whole.

        Raises:
            NotFound: the server has no such file; the message names those that it has.
        """
        path = Path(to) if to is not None else Path(name).with_name(Path(name).name)
        path = path / Path(name).name if path.is_dir() else path
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with self._connection.open("GET", f"/studies/{self._id()}/files/{part(name)}") as answer, partial.open("xb") as file:
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def cancel(self) -> None:
        """End the study; running trials are suspended."""
        self._connection.json("POST", f"{self._path}/cancel")

    def pause(self) -> None:
        """Stop the study after its running trials, until it is resumed."""
        self._connection.json("POST", f"{self._path}/pause")

    def resume(self) -> None:
        """Queue the study again after it was paused or cancelled, or has failed."""
        self._connection.json("POST", f"{self._path}/resume")

    def move(self, *, priority: int | None = None, place: int | None = None) -> None:
        """Change the priority of the study, or its place among your studies of that priority, counted from 1."""
        self._connection.json("PATCH", self._path, body={"priority": priority, "place": place})

    def _id(self) -> int:
        return int(self.refresh()["id"])


def pages(connection: Connection, path: str, field: str) -> Iterator[Json]:
    """Yield the items of all pages of a list."""
    cursor: int | None = 0
    while cursor is not None:
        page = connection.json("GET", path, cursor=cursor, limit=_PAGE)
        yield from page[field]
        cursor = page["next_cursor"]


def _text(study: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    """Return the text of a study file; JSON is YAML."""
    if isinstance(study, Mapping):
        return json.dumps(study)
    return Path(study).read_text(encoding="utf-8-sig")
