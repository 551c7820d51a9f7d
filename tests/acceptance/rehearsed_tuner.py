"""The command `tuner` as it is, but for its trainers: they play the script in the environment variable REHEARSAL instead of training."""

import functools
import json
import os
import queue
import sys
import threading
import time

from tuner.protocol import messages
from tuner.workers.engines import local
from tuner.workers.worker import process
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.rehearsal import Rehearsal, Script, script_from
from tuner.workers.worker.trainer import TrainerDied


class Beside:
    """A rehearsal that plays on while its worker does something else, as a real trainer does."""

    def __init__(self, script: Script) -> None:
        self._rehearsal = Rehearsal(script)
        self._lock = threading.Lock()
        self._played: queue.SimpleQueue[messages.Message | TrainerDied] = queue.SimpleQueue()
        threading.Thread(target=self._play, daemon=True).start()

    def send(self, message: messages.Message) -> None:
        with self._lock:
            self._rehearsal.send(message)

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        try:
            found = self._played.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        if isinstance(found, TrainerDied):
            raise found
        return found

    def memory_bytes(self) -> int:
        return self._rehearsal.memory_bytes()

    def last_lines(self) -> str:
        return self._rehearsal.last_lines()

    def place(self) -> str:
        return ""

    def kill(self) -> None:
        self._rehearsal.kill()

    def close(self) -> None:
        self._rehearsal.close()

    def _play(self) -> None:
        while True:
            try:
                with self._lock:
                    message = self._rehearsal.receive(0.0)
            except TrainerDied as died:
                self._played.put(died)
                return
            if message is None:
                time.sleep(0.002)
            else:
                self._played.put(message)


@functools.cache
def scripted() -> tuple[bool, Script]:
    """Whether trainers play on by themselves, and what all trainers of a worker play; faults are used up."""
    given = json.loads(os.environ.get("REHEARSAL", "{}"))
    return given.pop("beside", False), script_from(given)


def start(assignment: Assignment) -> Rehearsal | Beside:
    is_beside, script = scripted()
    return Beside(script) if is_beside else Rehearsal(script)


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        sys.exit(process.main(int(sys.argv[1]), start))
    local.COMMAND = (sys.executable, __file__)
    process.start_trainer = start
    if "ray" in sys.argv:
        from tuner.workers.engines import ray  # takes a second

        script = os.environ.get("REHEARSAL", "{}")  # a node of a cluster has another environment
        ray.COMMAND = ("/usr/bin/env", f"REHEARSAL={script}", sys.executable, __file__)
    from tuner.cli import main  # a worker does not need it

    sys.exit(main.main())
