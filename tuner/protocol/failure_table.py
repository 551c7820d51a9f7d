"""Failures: what can go wrong with a study, how tuner notices it, what it does and what the user sees.

`TREATMENTS` is both what the code follows and the table in docs/troubleshooting.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

#: attempts of one worker at a trial before a failure of its trainer counts as the trial's failure
TRAINER_TRIES = 2
#: a trial that lost its worker this many times has failed
MAX_LOSSES = 3
#: consecutive failures of one kind that stop a study
MAX_FAILURES = 3
#: how long the weights of a completed trial wait for disk space
DISK_PATIENCE_SECONDS = 600.0
#: how long the start and the end of a trial wait for a storage that does not answer
STORAGE_PATIENCE_SECONDS = 600.0


class Failure(StrEnum):
    """Failures, by their names in the docs."""

    OUT_OF_MEMORY = "out of memory"
    NOT_FINITE = "not finite"
    PREEMPTION = "preemption"
    CRASH = "crash"
    HANG = "hang"
    TIME_LIMIT = "time limit of a trial"
    USER_CODE = "your own code"
    SAME_AGAIN = "the same failure again"
    BAD_DATA = "bad data"
    FULL_DISK = "full disk"
    WORKER_LOST = "worker lost"
    STORAGE_AWAY = "storage away"


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """Handling of a failure, in sentences for the docs."""

    #: how tuner notices the failure
    noticed: str
    #: what tuner does
    done: str
    #: what the user sees
    seen: str
    #: attempts of one worker at the trial before this failure ends it; 1: no retry
    tries: int = 1


TREATMENTS: Mapping[Failure, Treatment] = {
    Failure.OUT_OF_MEMORY: Treatment(
        noticed="TensorFlow runs out of memory in a training step. If the system kills the trainer for it, that is a crash. "
        "If TensorFlow stops responding, that is a hang.",
        done="The trainer computes the batch in smaller parts, down to one image or example. The batch size stays the same. "
        "A model with its own `train_step` is not split.",
        seen="A line in the log. If not even one image or example fits, the trial fails with `OutOfMemory` and what to do.",
    ),
    Failure.NOT_FINITE: Treatment(
        noticed="A loss is infinite or not a number after an epoch.",
        done="The trial is pruned with its best value so far.",
        seen="`pruned` with the reason: which loss, at which step.",
    ),
    Failure.PREEMPTION: Treatment(
        noticed="SIGTERM, SIGINT or SIGHUP.",
        done="The trainer stops at its next step, writes a checkpoint, and the worker releases the trial. "
        "The next worker resumes it from there.",
        seen="`suspended`. The trial waits to be resumed.",
    ),
    Failure.CRASH: Treatment(
        noticed="The trainer closes its end of the pipe.",
        done=f"The worker starts the trial at most {TRAINER_TRIES} times, each time in a new trainer, "
        "from its last checkpoint if there is one.",
        seen="`replaced` with the last lines of the trainer's log, then `failed`.",
        tries=TRAINER_TRIES,
    ),
    Failure.HANG: Treatment(
        noticed="The trainer sends nothing for `training.stall_timeout`. Without that key: for `--hang-limit`, or for ten times its "
        "longest epoch if that is longer.",
        done=f"The worker kills the trainer and starts the trial at most {TRAINER_TRIES} times, as after a crash.",
        seen="`replaced` with the time without a message, then `failed`.",
        tries=TRAINER_TRIES,
    ),
    Failure.TIME_LIMIT: Treatment(
        noticed="A trial takes longer than `budget.trial_timeout`.",
        done="The trainer ends the trial at its next step. A trainer that does not obey within 30 s is killed. "
        "The trial is not tried again.",
        seen="`pruned` with its best value so far and the reason. `failed` with `TrialTimeout` if a killed trainer had reported no value.",
    ),
    Failure.USER_CODE: Treatment(
        noticed="Code of yours raises an exception, calls `sys.exit`, or returns something else than tuner expects.",
        done="The trial fails. The trainer and the worker continue with the next trial.",
        seen="`failed` with the exception, and the lines of your code that led to it.",
    ),
    Failure.SAME_AGAIN: Treatment(
        noticed=f"The last {MAX_FAILURES} trials that ended failed in the same way.",
        done="The study stops. When you have fixed the cause, `tuner run` continues it.",
        seen="Exit code 1 and the failure.",
    ),
    Failure.BAD_DATA: Treatment(
        noticed="A file cannot be read as an image or a label, or the images or your code differ from those that the study started with.",
        done="No trial starts.",
        seen="Exit code 2 and the file, or the difference.",
    ),
    Failure.FULL_DISK: Treatment(
        noticed="The system has no space for a file.",
        done="The cache skips files that can be computed again. Results for the storage stay in memory. "
        "An SQLite storage is retried like a storage that cannot be reached. A trial continues without its checkpoint and tries to "
        f"write it after each epoch. Weights wait {DISK_PATIENCE_SECONDS / 60:.0f} minutes for space; after that, the trial is completed "
        "without them.",
        seen="A line that says what does not fit, where, and how much space it needs.",
    ),
    Failure.WORKER_LOST: Treatment(
        noticed="Its process has ended, or the worker was silent for a minute (ten minutes if its process still runs on the same machine).",
        done=f"The trial waits for the next worker, which resumes it from its checkpoint. After {MAX_LOSSES} losses the trial fails.",
        seen="A line from the worker that noticed it. `failed` with the history: each attempt, its worker, and when it was last seen.",
    ),
    Failure.STORAGE_AWAY: Treatment(
        noticed="A statement fails for longer than 5 s because of the connection, a lock or a restart.",
        done="Training of the current trial continues, and its reports wait on disk. The end of the trial and the next trial wait "
        f"{STORAGE_PATIENCE_SECONDS / 60:.0f} minutes. After that the worker ends. The next worker on its machine delivers the reports.",
        seen="One line when it starts, with the file. `delivered` for reports of a worker that has ended.",
    ),
}


def rows() -> list[tuple[str, str, str, str]]:
    """Return the table in the docs: failure, how it is noticed, what is done, what is seen."""
    return [(failure.value, treatment.noticed, treatment.done, treatment.seen) for failure, treatment in TREATMENTS.items()]
