"""Evaluation: what stored weights predict, asked of a trainer, and errands, which a process of their own does and then ends."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tuner import machine
from tuner.errors import Dismissed, RequestError, TrainingError
from tuner.protocol import errands, messages
from tuner.protocol.messages import Ending
from tuner.spec.study import AnyStudySpec
from tuner.spec.tasks import TASKS
from tuner.studies import data_check
from tuner.studies.study import Study
from tuner.trust import user_code
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import trainer
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import ChildTrainer, Limits, Trainer, TrainerDied, TrainerHung, WarmTrainer, request_error

#: command of the errand process; two files and the number of threads are appended
COMMAND: tuple[str, ...] = (sys.executable, *trainer.PYTHON, "tuner.trainer.errand")


#: answers of an errand that succeeded
ErrandResult = (
    errands.Exported
    | errands.Measured
    | errands.Compared
    | errands.ImagePredictions
    | errands.Verified
    | errands.ExportedCode
    | errands.ArrayPredictions
    | errands.MeansMeasured
)


def run(errand: errands.Errand, *, threads: int = 0) -> ErrandResult:
    """Run an errand and return its answer; with 0 `threads`, it uses all cores.

    Raises:
        RequestError: the request is wrong.
        TrainingError: the errand failed, or its process died.
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
                env=trainer.child_environment(os.environ),
                check=False,
            )
        if not answered.exists():
            how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with exit code {done.returncode}"
            last_lines = trainer.last_lines(log)
            raise TrainingError(f"the process for {errand.kind} {how}" + (f"; it last wrote:\n{last_lines}" if last_lines else ""),
                                kind="errand")  # fmt: skip
        answer = errands.read_answer(answered.read_bytes())
    if isinstance(answer, errands.ErrandFailed):
        if answer.is_request:
            raise RequestError(answer.message)
        raise TrainingError(answer.message.strip().splitlines()[0], kind="errand")
    return answer


class EvaluationTrainer:
    """A prepared trainer that evaluates stored weights on the images of a study."""

    def __init__(self, trainer: WarmTrainer, stopping: Stopping, *, device: str = "") -> None:
        self._trainer, self._stopping = trainer, stopping
        #: for example "cpu, 2 threads"
        self.device = device

    def ask(self, request: messages.Evaluate | messages.Predict) -> messages.Evaluated | messages.Predicted:
        """Return the trainer's answer.

        Raises:
            Dismissed: the caller is asked to stop meanwhile.
            RequestError: the images or the weights cannot be used.
            TrainingError: the weights cannot be scored.
        """
        try:
            self._trainer.send(request)
            while not self._stopping.is_asked:
                match self._trainer.receive():
                    case messages.Evaluated() | messages.Predicted() as answer:
                        return answer
                    case messages.Failed(is_request=True) as failed:
                        raise request_error(failed)
                    case messages.Failed() as failed:
                        raise TrainingError(f"the weights cannot be scored: {failed.message}", kind=failed.error)
        except (TrainerDied, TrainerHung) as error:
            raise TrainingError(f"the weights cannot be scored: {error}", kind="evaluation") from error
        raise Dismissed("asked to stop")

    def train(self, order: messages.Train, tell: Callable[[messages.Epoch], None]) -> messages.Finished:
        """Train a network outside a search, to its end; `tell` receives every epoch.

        Raises:
            Dismissed: the caller is asked to stop meanwhile; the training can resume from its checkpoint.
            RequestError: the images cannot be used.
            TrainingError: the network cannot be trained.
        """
        try:
            self._trainer.send(order)
            is_suspended = False
            while True:
                if self._stopping.is_asked and not is_suspended:
                    self._trainer.send(messages.Suspend())
                    is_suspended = True
                match self._trainer.receive():
                    case messages.Finished(ending=Ending.COMPLETED) as finished:
                        return finished
                    case messages.Finished(ending=Ending.SUSPENDED):
                        raise Dismissed("asked to stop")
                    case messages.Finished() as finished:
                        raise TrainingError(f"the network cannot be trained: {finished.reason}", kind=finished.ending)
                    case messages.Probed():
                        self._trainer.send(messages.Proceed())
                    case messages.Epoch() as epoch:
                        tell(epoch)
                    case messages.Failed(is_request=True) as failed:
                        raise request_error(failed)
                    case messages.Failed() as failed:
                        raise TrainingError(f"the network cannot be trained: {failed.message}", kind=failed.error)
        except (TrainerDied, TrainerHung) as error:
            raise TrainingError(f"the network cannot be trained: {error}", kind="training") from error


def try_code(spec: AnyStudySpec, cache: Path) -> messages.Prepared:
    """Return what a trainer finds that imports the code of a study, builds a model and trains one batch; nothing is stored.

    Raises:
        RequestError: the code cannot be used.
        TrainingError: the trainer ended.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-check-") as folder:
        log = Path(folder) / "trainer.log"
        threads = max(1, machine.num_cores())
        trainer = WarmTrainer(
            lambda: ChildTrainer(threads=threads, log=log, import_path=user_code.import_path(), with_keras=TASKS[spec.task].needs_keras),
            Limits(threads=threads, stall_seconds=spec.stall_seconds),
            Stopping(),
        )
        try:
            found = trainer.warm_up(messages.Prepare(spec=spec.model_dump_json(), cache=str(cache), tries=True))
        finally:
            trainer.close()
    assert found is not None, "nobody asks this trainer to stop"
    return found


@contextmanager
def open_trainer(
    study: Study, *, start: Callable[[], Trainer], folders: Folders, limits: Limits, stopping: Stopping
) -> Iterator[EvaluationTrainer]:
    """Open a trainer for evaluations while a `with` block runs.

    Raises:
        Dismissed: the caller is asked to stop meanwhile.
        TrainingError: the trainer cannot be prepared.
        StudyError: the images are not those of the study.
    """
    trainer = WarmTrainer(start, replace(limits, stall_seconds=None), stopping)  # a whole split may take longer than a step of a trial
    try:
        prepared = trainer.warm_up(messages.Prepare(spec=study.spec.model_dump_json(), cache=str(folders.cache)))
        if prepared is None:
            raise Dismissed("asked to stop")
        data_check.admit(study, prepared)
        yield EvaluationTrainer(trainer, stopping, device=prepared.device)
    finally:
        if stopping.is_asked:
            trainer.kill()
        trainer.close()
