"""An errand into its answer, by a process of its own that has Keras and leaves afterwards."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tuner import errands
from tuner.errors import RequestError, TrainingError
from tuner.workers import trainer

#: what starts the process; two files and the number of threads come after it
COMMAND: tuple[str, ...] = (sys.executable, "-m", "tuner.training.errand")


def run(errand: errands.Errand, *, threads: int = 0) -> errands.Exported | errands.Compared | errands.Predicted | errands.Verified:
    """Have it done; `threads` 0: all cores.

    Raises:
        RequestError: what was asked for cannot be had so.
        TrainingError: it failed, or the process died.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-errand-") as folder:
        asked, answered, log = (Path(folder) / name for name in ("errand.json", "answer.json", "log"))
        asked.write_text(errand.model_dump_json(), encoding="utf-8")
        with log.open("wb") as written:
            done = subprocess.run(
                [*COMMAND, str(asked), str(answered), "--threads", str(threads)],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=trainer.QUIET | os.environ,
                check=False,
            )
        if not answered.exists():
            how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"left with exit code {done.returncode}"
            last_words = trainer.tail(log)
            raise TrainingError(f"the process that was to {errand.kind} {how}" + (f"; it last wrote:\n{last_words}" if last_words else ""),
                                kind="errand")  # fmt: skip
        answer = errands.read_answer(answered.read_bytes())
    if isinstance(answer, errands.Failed):
        if answer.is_request:
            raise RequestError(answer.message)
        raise TrainingError(answer.message.strip().splitlines()[0], kind="errand")
    return answer
