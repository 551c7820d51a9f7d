"""Notifications, received by a webhook on this machine."""

import json
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests import databases
from tests.studies import by_hand
from tests.waiting import pass_seconds
from tuner import errors
from tuner.dashboard import notifications
from tuner.queue import entries, pool
from tuner.queue.entries import Submission
from tuner.queue.pool import Abilities
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.leases import WorkerId
from tuner.views import figures


class Hook(HTTPServer):
    """A webhook that refuses the first message."""

    def __init__(self) -> None:
        self.taken: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.refused = 0
        super().__init__(("127.0.0.1", 0), Answering)


class Answering(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        is_first = not self.server.refused
        self.server.refused += is_first
        self.send_response(500 if is_first else 200)
        self.end_headers()
        if not is_first:
            self.server.taken.put(sent["title"])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_new_best_a_failure_and_the_end_are_sent(hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = storages.open(databases.sqlite(tmp_path))
    study = studies.join(by_hand.spec(budget={"trials": 2}), opened)
    first = by_hand.must_claim(study)
    monkeypatch.setenv(notifications.TARGETS, f"json://127.0.0.1:{hook.server_port}/hook")
    read = threading.Event()
    real = figures.of_all

    def read_and_signal(storage: storages.Storage) -> object:
        found = real(storage)
        read.set()
        return found

    monkeypatch.setattr(figures, "of_all", read_and_signal)
    with notifications.watching(opened, period_seconds=0.05):
        assert read.wait(20)
        by_hand.finish(study, first, 0.75)
        assert hook.taken.get(timeout=120) == "by-hand: new best 0.7500"
        second = by_hand.must_claim(study)
        read.clear()
        assert read.wait(20)
        trials.fail(study, second, by_hand.failed(second))
        assert hook.taken.get(timeout=120) == "by-hand: failed"
        assert hook.taken.get(timeout=120) == "by-hand: finished"
    assert hook.refused == 1


FIGURES = figures.Figures(
    id=1,
    name="flowers",
    task="image_classification",
    metric="accuracy",
    metric_in_words="validation accuracy",
    direction="maximize",
    trials={"running": 2, "complete": 1, "pruned": 0, "fail": 0, "waiting": 0},
    best_value=0.5,
    best_trial=0,
    num_workers=2,
    silent_seconds=1.0,
)


def test_a_stall_is_sent_once() -> None:
    stalled = replace(FIGURES, num_workers=0, silent_seconds=601.0)
    (message,) = notifications.compare(FIGURES, stalled, stop_reason=None)
    assert (message.title, "no worker" in message.body.lower()) == ("flowers: stalled", True)
    assert list(notifications.compare(stalled, replace(stalled, silent_seconds=700.0), stop_reason=None)) == []


def test_without_events_nothing_is_sent() -> None:
    assert list(notifications.compare(FIGURES, FIGURES, stop_reason=None)) == []
    ended = replace(FIGURES, trials=FIGURES.trials | {"running": 0, "complete": 3})
    assert list(notifications.compare(FIGURES, ended, stop_reason=None)) == []  # the workers were stopped, the study has not ended


def test_an_invalid_address_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "targets"
    file.write_text("json://127.0.0.1/a\nnonsense:secret\n")
    monkeypatch.setenv(notifications.TARGETS_FILE, str(file))
    opened = storages.open(databases.sqlite(tmp_path))
    with pytest.raises(errors.RequestError, match="address 2 of TUNER_NOTIFY is invalid") as raised, notifications.watching(opened):
        pass
    assert "secret" not in str(raised.value)
    monkeypatch.setenv(notifications.TARGETS_FILE, str(tmp_path / "none"))
    with pytest.raises(errors.RequestError, match="none, which cannot be read"), notifications.watching(opened):
        pass


def test_the_owner_of_a_queued_study_hears_of_its_end_and_that_nobody_can_serve_it(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = storages.open(databases.sqlite(tmp_path))
    for name, owner, needs in (("flowers", "ann", ()), ("roses", "bob", ()), ("large", "ann", ("gpu",))):
        spec = by_hand.spec(name=name, budget={"trials": 1})
        entries.submit(opened, spec, Submission(owner=owner, needs=needs))
    monkeypatch.setenv("TUNER_NOTIFY", f"ann=json://127.0.0.1:{hook.server_port}/")
    with notifications.watching(opened, period_seconds=0.1):
        pass_seconds(0.5)
        for name in ("roses", "flowers"):
            study = studies.load(name, opened)
            by_hand.finish(study, by_hand.must_claim(study), 0.5)
            entries.settle(study)
        assert hook.taken.get(timeout=60) == "flowers: done"
        pool.register(opened, WorkerId.here("w1"), Abilities())
        assert hook.taken.get(timeout=60) == "large: cannot be served"
    opened.close()


def test_what_is_told_of_the_queue_names_the_owner_and_the_reason(tmp_path: Path) -> None:
    opened = storages.open(databases.sqlite(tmp_path))
    entry = entries.submit(opened, by_hand.spec(name="flowers"), Submission(owner="ann"))
    before = {1: notifications.QueuedStudy(entry=entry)}
    failed = replace(entry, state=entries.QueueState.FAILED, message="no trial completed")
    for now, body in (
        (notifications.QueuedStudy(entry=failed), "flowers of ann has failed: no trial completed."),
        (notifications.QueuedStudy(entry=entry, unserved="no gpu"), "flowers of ann cannot be served: no gpu."),
    ):
        [message] = notifications.compare_queue(before, {1: now})
        assert (message.owner, message.body) == ("ann", body)
    assert list(notifications.compare_queue({}, before)) == []
    opened.close()
