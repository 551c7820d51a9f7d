"""Kept weights into what they make of images: the score of one trial on the test split, and the logits of whole splits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tuner import messages
from tuner.errors import Dismissed, TrainingError
from tuner.search import admission
from tuner.search.study import Study
from tuner.workers.places import Places
from tuner.workers.stopping import Stopping
from tuner.workers.trainer import Trainer, TrainerDied
from tuner.workers.warm import Limits, TrainerHung, WarmTrainer, request_error


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
        admission.admit(study, prepared)
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
