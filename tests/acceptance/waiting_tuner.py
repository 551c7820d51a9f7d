"""The command `tuner` as it is, but its trainers, which train, wait at the points in the environment variable TRAINER_WAITS_AT.

The points are those of `Script.wait_at` of a rehearsal: a trainer waits when the epoch is trained, before it reports the epoch. The
checkpoint of the epoch before is written by then, however short that epoch was. An interruption by its worker ends the wait, too.
"""

import functools
import json
import os
import sys
import time
from pathlib import Path

from tuner.protocol import messages
from tuner.workers.engines import local
from tuner.workers.worker import process
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.trainer import ChildTrainer

#: the first argument of a trainer
TRAINER = "--trainer"


def start(assignment: Assignment) -> ChildTrainer:
    """Start the trainer of an assignment."""
    return ChildTrainer(
        threads=assignment.threads,
        log=assignment.trainer_log,
        memory_bytes=assignment.memory_limit_bytes,
        command=(sys.executable, __file__, TRAINER),
    )


def train(arguments: list[str]) -> None:
    """Be a trainer that waits."""
    from tuner.kernels import imports

    imports.import_keras()
    from tuner.kernels import checkpoints
    from tuner.tasks.images.training import trial
    from tuner.trainer import inbox
    from tuner.trainer import process as trainer_process

    points = json.loads(os.environ["TRAINER_WAITS_AT"])

    class WaitingInbox(inbox.Inbox):
        def send(self, message: messages.Message) -> None:
            if isinstance(message, messages.Epoch):
                self._wait(points.get(f"trial {message.trial} epoch {message.step}"))
            super().send(message)

        def _wait(self, file: str | None) -> None:
            if file is not None:
                Path(f"{file}.reached").touch()
                while not Path(file).exists() and self.interruption() is None:
                    time.sleep(0.01)

    inbox.Inbox = WaitingInbox  # type: ignore[misc]
    timing = checkpoints.TrialTiming(worth_writing_seconds=-1.0)
    trial.TrialTraining = functools.partial(trial.TrialTraining, timing=timing)  # type: ignore[misc, assignment]
    trainer_process.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == TRAINER:
        train(sys.argv[2:])
        sys.exit()
    if sys.argv[1].isdigit():
        sys.exit(process.main(int(sys.argv[1]), start))
    local.COMMAND = (sys.executable, __file__)
    process.start_trainer = start
    from tuner.cli import main

    sys.exit(main.main())
