"""Notifications: messages about new best values, failures, finished and stalled studies, sent with apprise."""

import contextlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

from tuner import wording
from tuner.errors import MissingPackage, RequestError, StorageError, StudyError
from tuner.queue import entries, pool
from tuner.queue.entries import Entry, QueueState
from tuner.storage.engine import Storage
from tuner.studies import leases
from tuner.studies import study as studies
from tuner.views import figures, status
from tuner.views.figures import Figures

#: environment variable with addresses in the form of apprise, separated by commas or spaces
TARGETS = "TUNER_NOTIFY"
#: environment variable with a file of such addresses, one per line
TARGETS_FILE = "TUNER_NOTIFY_FILE"
_PERIOD_SECONDS = 5.0
#: studies of the queue that are watched, the open ones first
_MAX_QUEUED = 2_000
#: an address that gets only what concerns the studies of one owner
_OWNED = re.compile(r"([\w.@+-]+)=(\w[\w+.-]*://.*)")
_MAX_TRIES = 5
_MAX_PAUSE_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Message:
    """A notification."""

    title: str
    body: str
    #: owner of the study in the queue that it is about; "": it is for everyone
    owner: str = ""


@dataclass(frozen=True, kw_only=True)
class QueuedStudy:
    """A study in the queue, as notifications see it."""

    entry: Entry
    #: why no worker can serve it; "": one can, or there is no worker
    unserved: str = ""


def compare(before: Figures, now: Figures, *, stop_reason: str | None) -> Iterator[Message]:
    """Yield a message for each event between two reads of a study. `stop_reason` says why it ended; None if it has not ended."""
    if now.best_value is not None and (before.best_value is None or now.is_better(now.best_value, before.best_value)):
        value = wording.figure(now.best_value)
        yield Message(title=f"{now.name}: new best {value}", body=f"Trial {now.best_trial} has {now.measured} {value}.")
    failed = now.trials["fail"] - before.trials["fail"]
    if failed > 0:
        counted = "A trial has" if failed == 1 else f"{failed} trials have"
        yield Message(title=f"{now.name}: failed", body=f"{counted} failed. For details, run: tuner status {now.name}")
    if before.trials["running"] and not now.trials["running"] and stop_reason is not None:
        best = "" if now.best_value is None else f" Its best {now.measured} is {wording.figure(now.best_value)} (trial {now.best_trial})."
        yield Message(title=f"{now.name}: finished", body=f"The study ended because {stop_reason}.{best}")
    if _is_stalled(now) and not _is_stalled(before):
        running = now.trials["running"]
        silent = wording.duration(leases.timing().patience_seconds)
        yield Message(title=f"{now.name}: stalled", body=f"No worker was seen for {silent}. Running trials: {running}.")


def compare_queue(before: Mapping[int, QueuedStudy], now: Mapping[int, QueuedStudy]) -> Iterator[Message]:
    """Yield a message for the owner of each study that has ended between two reads of the queue, or that no worker can serve any more."""
    for key, study in now.items():
        earlier, entry = before.get(key), study.entry
        if earlier is None:
            continue
        if entry.state in (QueueState.DONE, QueueState.FAILED) and earlier.entry.state is not entry.state:
            yield _to_owner(entry, entry.state.value, "is done" if entry.state is QueueState.DONE else "has failed", entry.message)
        if study.unserved and not earlier.unserved:
            yield _to_owner(entry, "cannot be served", "cannot be served", study.unserved)


def _to_owner(entry: Entry, title: str, what: str, why: str) -> Message:
    return Message(title=f"{entry.name}: {title}", body=f"{entry.name} of {entry.owner} {what}: {why}.", owner=entry.owner)


@contextlib.contextmanager
def watching(storage: Storage, *, period_seconds: float = _PERIOD_SECONDS) -> Iterator[None]:
    """Send messages from a thread while the `with` block runs. Does nothing if the environment has no addresses.

    Raises:
        RequestError: an address is invalid.
        MissingPackage: apprise is not installed.
    """
    addresses = read_targets(os.environ)
    if not addresses:
        yield
        return
    watch = _Watch(storage, _open(addresses))
    thread = threading.Thread(target=watch.run, args=(period_seconds,), name="notifications", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()
        thread.join(period_seconds)


def read_targets(environment: Mapping[str, str]) -> list[str]:
    """Return the addresses in the environment, which contain secrets.

    Raises:
        RequestError: the file cannot be read.
    """
    found = environment.get(TARGETS, "").replace(",", " ").split()
    named = environment.get(TARGETS_FILE)
    if named:
        try:
            found += Path(named).expanduser().read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise RequestError(
                f"{TARGETS_FILE} is {named}, which cannot be read: {reason}; expected a file of addresses, one per line."
            ) from error
    return found


def _open(addresses: Sequence[str]) -> "_Targets":
    """Return the targets of all messages, and those of single owners: `NAME=ADDRESS`."""
    of_all: list[str] = []
    of_owner: dict[str, list[str]] = {}
    for address in addresses:
        owned = _OWNED.fullmatch(address)
        if owned:
            of_owner.setdefault(owned[1], []).append(owned[2])
        else:
            of_all.append(address)
    return _Targets(
        of_all=_open_some(of_all, addresses) if of_all else None,
        of_owner={owner: _open_some(some, addresses) for owner, some in of_owner.items()},
    )


def _open_some(addresses: Sequence[str], listed: Sequence[str]) -> Any:
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its warnings can contain an address
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # from packages that apprise imports
            import apprise

            targets = apprise.Apprise()
            are_valid = [targets.add(address) for address in addresses]
    except ImportError as error:
        raise MissingPackage("apprise", extra="notify", needed_for=f"notifications ({TARGETS})") from error
    if not all(are_valid):
        number = next(at for at, one in enumerate(listed, start=1) if one.endswith(addresses[are_valid.index(False)]))
        raise RequestError(f"address {number} of {TARGETS} is invalid; expected an address of apprise, such as json://host/path")
    return targets


@dataclass(frozen=True, kw_only=True)
class _Targets:
    of_all: Any
    of_owner: Mapping[str, Any]

    def of(self, message: Message) -> list[Any]:
        """Return the targets of a message."""
        return [targets for targets in (self.of_all, self.of_owner.get(message.owner)) if targets is not None]


class _Watch:
    def __init__(self, storage: Storage, targets: _Targets) -> None:
        self._storage = storage
        self._targets = targets
        self.ended = threading.Event()

    def run(self, period_seconds: float) -> None:
        """Read the studies once per period until the end."""
        before: tuple[dict[int, Figures], dict[int, QueuedStudy]] | None = None
        while True:
            try:
                now = {study.id: study for study in figures.of_all(self._storage)}, self._queue()
                if before is not None:
                    for message in [*self._messages(before[0], now[0]), *compare_queue(before[1], now[1])]:
                        for targets in self._targets.of(message):
                            self._send(message, targets)
                before = now
            except StorageError:
                pass  # the next successful read finds what happened during the outage
            if self.ended.wait(period_seconds):
                return

    def _messages(self, before: Mapping[int, Figures], now: Mapping[int, Figures]) -> Iterator[Message]:
        for key, study in now.items():
            first = before.get(key)
            if first is not None and first.name == study.name:
                yield from compare(first, study, stop_reason=self._stop_reason(first, study))

    def _queue(self) -> dict[int, QueuedStudy]:
        found = entries.entries(self._storage, limit=_MAX_QUEUED)
        present = [member for member in pool.members(self._storage) if member.is_present] if found else []
        return {
            one.study_id: QueuedStudy(entry=one, unserved=(pool.unserved(one, present) or "") if present and one.state.is_open else "")
            for one in found
        }

    def _stop_reason(self, before: Figures, now: Figures) -> str | None:
        if not before.trials["running"] or now.trials["running"]:
            return None
        try:
            return status.snapshot(studies.load(now.name, self._storage)).stop_reason
        except StudyError:
            return None  # the study was just deleted

    def _send(self, message: Message, targets: Any) -> None:
        retrying = Retrying(
            retry=retry_if_result(lambda sent: not sent),
            stop=stop_after_attempt(_MAX_TRIES),
            wait=wait_exponential(multiplier=0.5, max=_MAX_PAUSE_SECONDS),
            sleep=self._pause,
            retry_error_callback=lambda state: False,
        )
        if not retrying(lambda: self.ended.is_set() or bool(targets.notify(body=message.body, title=message.title))):
            _log.error("notification not sent after %d tries: %s", _MAX_TRIES, message.title)

    def _pause(self, seconds: float) -> None:
        self.ended.wait(seconds)


def _is_stalled(study: Figures) -> bool:
    return study.trials["running"] > 0 and study.silent_seconds is not None and study.silent_seconds > leases.timing().patience_seconds
