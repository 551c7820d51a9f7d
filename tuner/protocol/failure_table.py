"""What can go wrong with a study: how it is noticed, what is done about it and what the user sees, in one table that the code goes by."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

#: how often a trial is begun by one worker before what ends its trainer counts as the trial's failure
TRAINER_TRIES = 2
#: a trial whose worker was lost this often has failed
MAX_LOSSES = 3
#: failures in a row of one kind that stop a study
MAX_FAILURES = 3
#: how long the weights of a completed trial wait for room on the disk
ROOM_PATIENCE_SECONDS = 600.0
#: how long the begin and the end of a trial wait for a storage that is away
STORAGE_PATIENCE_SECONDS = 600.0


class Failure(StrEnum):
    """What can go wrong, in the words of the docs."""

    OUT_OF_MEMORY = "out of memory"
    NOT_FINITE = "not finite"
    PREEMPTION = "preemption"
    CRASH = "crash"
    HANG = "hang"
    SAME_AGAIN = "the same failure again"
    BAD_DATA = "bad data"
    FULL_DISK = "full disk"
    WORKER_LOST = "worker lost"
    STORAGE_AWAY = "storage away"


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What becomes of a failure, in sentences for people."""

    noticed: str
    done: str
    seen: str
    #: how often one worker begins the trial before this is the trial's end; 1: it is not tried again
    tries: int = 1


TREATMENTS: Mapping[Failure, Treatment] = {
    Failure.OUT_OF_MEMORY: Treatment(
        noticed="TensorFlow has no memory for a step of fine-tuning; where the system ends the trainer for it, or TensorFlow stands still, "
        "that is a crash or a hang",
        done="the batch goes through in smaller parts, down to one image; it is as large as before",
        seen="a line in the trainer's log; if not even one image fits, the trial fails with `OutOfMemory` and its cure",
    ),
    Failure.NOT_FINITE: Treatment(
        noticed="a loss is infinite or not a number after an epoch",
        done="the trial is pruned with the best value it had",
        seen="`pruned` and the reason: which loss, at which step",
    ),
    Failure.PREEMPTION: Treatment(
        noticed="SIGTERM, SIGINT or SIGHUP",
        done="the trainer stops at its next step, keeps a checkpoint of it, and the trial is handed back; "
        "whoever claims it goes on from there",
        seen="`suspended`; the trial waits to be gone on with",
    ),
    Failure.CRASH: Treatment(
        noticed="the trainer's end of the pipe is closed",
        done=f"the trial is begun {TRAINER_TRIES} times in all, each time in a fresh trainer, from its checkpoint if there is one",
        seen="`replaced` with the trainer's last words; then `failed`",
        tries=TRAINER_TRIES,
    ),
    Failure.HANG: Treatment(
        noticed="the trainer says nothing for `--hang-limit`, or for ten times its longest epoch if that is more",
        done=f"it is killed; the trial is begun {TRAINER_TRIES} times in all, as after a crash",
        seen="`replaced` and how long it was silent; then `failed`",
        tries=TRAINER_TRIES,
    ),
    Failure.SAME_AGAIN: Treatment(
        noticed=f"the last {MAX_FAILURES} trials that ended failed in the same way",
        done="the study stops; `tuner run` goes on with it when the cause is mended",
        seen="exit code 1 and the failure",
    ),
    Failure.BAD_DATA: Treatment(
        noticed="a file cannot be read as an image or a label, or the images are not those that the study was begun with",
        done="nothing is trained",
        seen="exit code 2 and the file, or what differs",
    ),
    Failure.FULL_DISK: Treatment(
        noticed="the system has no room for a file",
        done="the cache does without what can be computed again; what waits for the storage stays in memory; "
        "an SQLite storage is tried again as one that is away; a trial trains on without its checkpoint, and each epoch tries again; "
        f"weights wait for room for {ROOM_PATIENCE_SECONDS / 60:.0f} minutes, after which their trial is completed without them",
        seen="a line that says what has no room, where, and how much it needs",
    ),
    Failure.WORKER_LOST: Treatment(
        noticed="its process is gone, or it was not seen for a minute (ten, where its process lives on the same machine)",
        done=f"its trial waits for the next worker, which goes on from its checkpoint; after {MAX_LOSSES} losses it fails",
        seen="a line from the worker that noticed; `failed` with the history: each attempt, its worker and when that was last seen",
    ),
    Failure.STORAGE_AWAY: Treatment(
        noticed="a statement fails because of the connection, a lock or a restart, for longer than 5 s",
        done="the trial at hand is trained on, its reports wait on disk; its end and the next trial wait for "
        f"{STORAGE_PATIENCE_SECONDS / 60:.0f} minutes, then the worker ends and the next one of its machine delivers",
        seen="one line when it begins, with the file; `delivered` for what came from a worker that is gone",
    ),
}


def rows() -> list[tuple[str, str, str, str]]:
    """The table as the docs show it: failure, how it is noticed, what is done, what is seen."""
    return [(failure.value, treatment.noticed, treatment.done, treatment.seen) for failure, treatment in TREATMENTS.items()]
