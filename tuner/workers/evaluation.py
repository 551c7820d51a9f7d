"""Kept weights of a trial into its accuracy on the test split, measured once."""

from collections.abc import Callable

from tuner import messages
from tuner.errors import TrainingError
from tuner.search import admission
from tuner.search.study import Study
from tuner.workers.places import Places
from tuner.workers.stopping import Stopping
from tuner.workers.trainer import Trainer, TrainerDied
from tuner.workers.warm import Limits, TrainerHung, WarmTrainer


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
        TrainingError: the weights could not be scored.
        StudyError: the images are not those that the study was begun with.
    """
    trainer = WarmTrainer(start, limits, stopping)
    try:
        prepare = messages.Prepare(spec=study.spec.model_dump_json(), cache=str(places.cache))
        prepared = trainer.warm_up(prepare)
        if prepared is None:
            return None
        admission.admit(study, prepared)
        trainer.send(wanted)
        return _await_score(trainer, stopping)
    except (TrainerDied, TrainerHung) as error:
        raise TrainingError(f"the test split could not be scored: {error}", kind="evaluation") from error
    finally:
        if stopping.is_asked:
            trainer.drop()
        trainer.close()


def _await_score(trainer: WarmTrainer, stopping: Stopping) -> messages.Evaluated | None:
    while not stopping.is_asked:
        match trainer.look():
            case messages.Evaluated() as score:
                return score
            case messages.Failed() as failed:
                raise TrainingError(f"the test split could not be scored: {failed.message}", kind=failed.error)
    return None
