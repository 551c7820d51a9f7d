"""An errand into its answer, by a process of its own that has Keras and leaves afterwards.

Kept weights into what they make of images: the score of one trial on the test split, and the logits of whole splits.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.errors import Dismissed, RequestError, TrainingError
from tuner.protocol import errands, messages
from tuner.studies import data_check
from tuner.studies.study import Study
from tuner.workers.worker import trainer
from tuner.workers.worker.places import Places
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import Limits, Trainer, TrainerDied, TrainerHung, WarmTrainer, request_error

#: what starts the process; two files and the number of threads come after it
COMMAND: tuple[str, ...] = (sys.executable, "-m", "tuner.trainer.errand")


def run(errand: errands.Errand, *, threads: int = 0) -> errands.Exported | errands.Compared | errands.ImagePredictions | errands.Verified:
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
    if isinstance(answer, errands.ErrandFailed):
        if answer.is_request:
            raise RequestError(answer.message)
        raise TrainingError(answer.message.strip().splitlines()[0], kind="errand")
    return answer


class Examiner:
    """A trainer that is ready to say what kept weights make of a study's images."""

    def __init__(self, trainer: WarmTrainer, stopping: Stopping) -> None:
        self._trainer, self._stopping = trainer, stopping

    def ask(self, order: messages.Evaluate | messages.Predict) -> messages.Evaluated | messages.Predicted:
        """The trainer's answer.

        Raises:
            Dismissed: the caller is asked to stop meanwhile.
            RequestError: the images or the weights cannot be used.
            TrainingError: the weights could not be scored.
        """
        try:
            self._trainer.send(order)
            while not self._stopping.is_asked:
                match self._trainer.look():
                    case messages.Evaluated() | messages.Predicted() as answer:
                        return answer
                    case messages.Failed(is_request=True) as failed:
                        raise request_error(failed)
                    case messages.Failed() as failed:
                        raise TrainingError(f"the weights could not be scored: {failed.message}", kind=failed.error)
        except (TrainerDied, TrainerHung) as error:
            raise TrainingError(f"the weights could not be scored: {error}", kind="evaluation") from error
        raise Dismissed("asked to stop")


@contextmanager
def examiner(study: Study, *, start: Callable[[], Trainer], places: Places, limits: Limits, stopping: Stopping) -> Iterator[Examiner]:
    """Have one while a `with` block runs.

    Raises:
        Dismissed: the caller is asked to stop meanwhile.
        TrainingError: the trainer cannot be made ready.
        StudyError: the images are not those that the study was begun with.
    """
    trainer = WarmTrainer(start, limits, stopping)
    try:
        prepared = trainer.warm_up(messages.Prepare(spec=study.spec.model_dump_json(), cache=str(places.cache)))
        if prepared is None:
            raise Dismissed("asked to stop")
        data_check.admit(study, prepared)
        yield Examiner(trainer, stopping)
    finally:
        if stopping.is_asked:
            trainer.drop()
        trainer.close()


def evaluate(
    study: Study,
    wanted: messages.Evaluate,
    *,
    start: Callable[[], Trainer],
    places: Places,
    limits: Limits,
    stopping: Stopping,
) -> messages.Evaluated | None:
    """The score of one trial on images that nothing was chosen by; None if the caller is asked to stop meanwhile.

    Raises:
        RequestError: the images or the weights cannot be used.
        TrainingError: the weights could not be scored.
        StudyError: the images are not those that the study was begun with.
    """
    try:
        with examiner(study, start=start, places=places, limits=limits, stopping=stopping) as ready:
            answer = ready.ask(wanted)
    except Dismissed:
        return None
    assert isinstance(answer, messages.Evaluated)
    return answer
