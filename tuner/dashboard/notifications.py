"""What happens in the studies into messages to people: by webhook, mail or whatever else apprise knows."""

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_exponential

from tuner.errors import MissingPackage, RequestError, StorageError, StudyError
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.leases import PATIENCE_SECONDS
from tuner.views import figures, status
from tuner.views.figures import Figures

#: addresses as apprise writes them, with commas or blanks between them
TARGETS = "TUNER_NOTIFY"
#: a file of such addresses, one a line
TARGETS_FILE = "TUNER_NOTIFY_FILE"
_LOOK_SECONDS = 5.0
_TRIES = 5
_LONGEST_PAUSE_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What people are told."""

    title: str
    body: str


def compare(before: Figures, now: Figures, *, stop_reason: str | None) -> Iterator[Message]:
    """What happened to a study between two looks; `stop_reason` says why it has ended, if it has."""
    if now.best_value is not None and (before.best_value is None or now.best_value > before.best_value):
        yield Message(
            title=f"{now.name}: new best {now.best_value:.4f}", body=f"Trial {now.best_trial} has validation accuracy {now.best_value:.4f}."
        )
    failed = now.trials["fail"] - before.trials["fail"]
    if failed > 0:
        counted = "A trial has" if failed == 1 else f"{failed} trials have"
        yield Message(title=f"{now.name}: failed", body=f"{counted} failed; tuner status {now.name} shows how the study stands.")
    if before.trials["running"] and not now.trials["running"] and stop_reason is not None:
        best = "" if now.best_value is None else f" Its best validation accuracy is {now.best_value:.4f}, of trial {now.best_trial}."
        yield Message(title=f"{now.name}: finished", body=f"It ended because {stop_reason}.{best}")
    if _is_stalled(now) and not _is_stalled(before):
        running = now.trials["running"]
        yield Message(
            title=f"{now.name}: stalled", body=f"No worker was seen for {PATIENCE_SECONDS / 60:.0f} minutes; trials at hand: {running}."
        )


@contextlib.contextmanager
def watching(storage: Storage, *, look_seconds: float = _LOOK_SECONDS) -> Iterator[None]:
    """Tell people, from a thread, what happens while the `with` block runs; nothing if the environment names no one.

    Raises:
        RequestError: an address is not understood.
        MissingPackage: apprise is not installed.
    """
    addresses = read_targets(os.environ)
    if not addresses:
        yield
        return
    watch = _Watch(storage, _open(addresses))
    thread = threading.Thread(target=watch.run, args=(look_seconds,), name="notifications", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()
        thread.join(look_seconds)


def read_targets(environment: Mapping[str, str]) -> list[str]:
    """The addresses that the environment gives; they hold secrets.

    Raises:
        RequestError: the file cannot be read.
    """
    found = environment.get(TARGETS, "").replace(",", " ").split()
    named = environment.get(TARGETS_FILE)
    if named:
        try:
            found += Path(named).expanduser().read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise RequestError(
                f"{TARGETS_FILE} is {named}, which cannot be read: {reason}; name a file of addresses, one a line."
            ) from error
    return found


def _open(addresses: Sequence[str]) -> Any:
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its warnings may show an address
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # apprise's own, of what it and its plugins import
            import apprise

            targets = apprise.Apprise()
            understood = [targets.add(address) for address in addresses]
    except ImportError as error:
        raise MissingPackage("apprise", extra="notify", needed_for=f"{TARGETS}, by which people are told") from error
    if not all(understood):
        place = understood.index(False) + 1
        raise RequestError(f"address {place} of {TARGETS} is not understood; expected one of apprise's, such as json://host/path")
    return targets


class _Watch:
    def __init__(self, storage: Storage, targets: Any) -> None:
        self._storage = storage
        self._targets = targets
        self.ended = threading.Event()

    def run(self, look_seconds: float) -> None:
        """Look again and again until the end."""
        before: dict[int, Figures] | None = None
        while True:
            try:
                now = {study.id: study for study in figures.of_all(self._storage)}
                if before is not None:
                    for message in self._happened(before, now):
                        self._send(message)
                before = now
            except StorageError:
                pass  # what happens meanwhile is told when the database is back
            if self.ended.wait(look_seconds):
                return

    def _happened(self, before: Mapping[int, Figures], now: Mapping[int, Figures]) -> Iterator[Message]:
        for key, study in now.items():
            first = before.get(key)
            if first is not None and first.name == study.name:
                yield from compare(first, study, stop_reason=self._stop_reason(first, study))

    def _stop_reason(self, before: Figures, now: Figures) -> str | None:
        if not before.trials["running"] or now.trials["running"]:
            return None
        try:
            return status.snapshot(studies.load(now.name, self._storage)).stop_reason
        except StudyError:
            return None  # deleted in this moment

    def _send(self, message: Message) -> None:
        retrying = Retrying(
            retry=retry_if_result(lambda sent: not sent),
            stop=stop_after_attempt(_TRIES),
            wait=wait_exponential(multiplier=0.5, max=_LONGEST_PAUSE_SECONDS),
            sleep=self._pause,
            retry_error_callback=lambda state: False,
        )
        if not retrying(lambda: self.ended.is_set() or bool(self._targets.notify(body=message.body, title=message.title))):
            _log.error("no one could be told, after %d tries: %s", _TRIES, message.title)

    def _pause(self, seconds: float) -> None:
        self.ended.wait(seconds)


def _is_stalled(study: Figures) -> bool:
    return study.trials["running"] > 0 and study.silent_seconds is not None and study.silent_seconds > PATIENCE_SECONDS
