"""Worker processes with short trials and without Keras."""

import fcntl
import os
import signal
from collections.abc import Collection
from multiprocessing.connection import Connection
from pathlib import Path

from tests.studies import by_hand
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.storage import engine as storages
from tuner.studies import copying, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.studies.trials import Claim, WorkerId
from tuner.views import status

#: pause between two checks for a trial without a worker, in seconds
_LOOK_SECONDS = 0.25


def claim_and_wait(url: str, name: str, pipe: Connection) -> None:
    """Claim a trial, report its number, and then wait."""
    pipe.send(by_hand.must_claim(studies.load(name, storages.open(url))).number)
    signal.pause()


def copy_and_wait(source: str, name: str, target: str, pipe: Connection) -> None:
    """Begin to copy a study, report how many of its trials are copied, and then wait."""

    def wait(name: str, num_trials: int) -> None:
        pipe.send(num_trials)
        signal.pause()

    copying.copy(studies.load(name, storages.open(source)), storages.open(target), name=name, by="eve", batch=4, tell=wait)


def work(url: str, name: str, marks: str, label: str, waiting: Collection[int] = ()) -> None:
    """Join a study and work until all of its trials have ended, including those of other workers.

    The first attempts at the `waiting` trials wait in their middle until this process is killed.
    """
    study = studies.join(by_hand.spec(name=name, budget={"trials": 24}, pruner="none"), storages.open(url))
    worker = WorkerId.here(label)
    ends = signal.sigtimedwait
    while True:
        claimed = by_hand.claim(study, worker)
        if claimed is not None:
            _train(study, claimed, Path(marks), waits=claimed.attempt == 1 and claimed.number in waiting)
        elif _is_over(study):
            return
        else:
            ends([signal.SIGUSR1], _LOOK_SECONDS)


def _is_over(study: Study) -> bool:
    seen = status.snapshot(study)
    return seen.stop_reason is not None and not seen.running and not seen.num_waiting


def _train(study: Study, claimed: Claim, marks: Path, *, waits: bool) -> None:
    """One trial, with a lock on a file that the kernel takes back from whoever is killed."""
    with (marks / f"{claimed.number}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (marks / f"{claimed.number}.run-by-two").touch()
        (marks / f"{claimed.number}.{claimed.attempt}.{os.getpid()}").touch()
        curve = by_hand.epochs(claimed, [0.5, 0.6])
        for epoch in curve:
            trials.report(study, claimed, [epoch])
        if waits:
            signal.pause()
        value = (claimed.seed % 1000) / 1000
        promoted = trials.promotion(study, claimed, messages.Probed(trial=claimed.number, value=value)).is_promoted
        ending = Ending.COMPLETED if promoted else Ending.STOPPED
        finished = by_hand.finished(claimed, value, ending=ending, reason="" if promoted else "its probe was not among the best")
        trials.finish(study, claimed, finished, curve, device=by_hand.PREPARED.device)
