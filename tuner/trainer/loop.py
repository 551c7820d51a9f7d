"""Orders of a worker into trials trained and answers given, one after another, in a process that is warm from trial to trial."""

import gc
import platform
import time
import traceback
from importlib import metadata
from pathlib import Path

import keras
import tensorflow as tf

from tuner import errors
from tuner.kernels import devices
from tuner.protocol import messages
from tuner.spec import study as spec_study
from tuner.tasks.images.training import context, evaluation
from tuner.tasks.images.training import trial as training_trial
from tuner.trainer import inbox


def serve(box: inbox.Inbox, share: devices.TrainerShare) -> None:
    """Carry out orders until one says quit."""
    ready: context.StudyContext | None = None
    num_traced = 0
    while not isinstance(order := box.order(), messages.Quit):
        trial = None if isinstance(order, messages.Prepare) else order.trial
        try:
            if isinstance(order, messages.Prepare):
                start, ready = time.perf_counter(), None
                study = spec_study.StudySpec.model_validate_json(order.spec)
                devices.use(study.training.precision)
                ready = context.prepare(study, cache=Path(order.cache), share=share)
                box.send(_prepared(ready, devices.words(devices.gpu(), share), time.perf_counter() - start))
                gc.freeze()
            elif ready is None:
                raise errors.TrainingError("the trainer was given a trial before a study", kind="NotPrepared")
            elif isinstance(order, messages.Train):
                box.send(training_trial.TrialTraining(ready, order, box).run())
            elif isinstance(order, messages.Predict):
                box.send(evaluation.predict(ready, order))
            else:
                box.send(evaluation.evaluate(ready, order))
        except Exception as error:  # noqa: BLE001 - an attempt is marked failed here; the trainer goes on
            box.send(_failed(trial, error))
        num_traced = _collect(ready, num_traced)


def _collect(ready: context.StudyContext | None, num_traced: int) -> int:
    """Free what an order left behind; returns how many graphs there have been.

    Graphs that are no longer kept are in reference cycles, hundreds of megabytes of them. Those that are kept take tenths of a second to
    look through, which is done only when there are new ones.
    """
    now = num_traced if ready is None else ready.traced.num_traced
    if now != num_traced:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    else:
        gc.collect()
    return now


def _prepared(ready: context.StudyContext, device: str, seconds: float) -> messages.Prepared:
    data = ready.data
    return messages.Prepared(
        device=device,
        classes=data.classes,
        num_train=len(data.train.labels),
        num_validation=len(data.validation.labels),
        num_test=len(data.test.labels),
        epochs=ready.epochs,
        fingerprint=data.fingerprint,
        splits=data.splits,
        versions={
            "python": platform.python_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "tuner": metadata.version("tuner"),
        },
        seconds=seconds,
    )


def _failed(trial: int | None, error: Exception) -> messages.Failed:
    kind = error.kind if isinstance(error, errors.TrainingError) else type(error).__name__
    return messages.Failed(
        trial=trial,
        error=kind,
        message=_told(error) or kind,
        is_request=isinstance(error, errors.RequestError),
        traceback="".join(traceback.format_exception(error)),
    )


#: what TensorFlow puts before the words that say what went wrong
_PLACES = ("Graph execution error", "Detected at node", "File ", "Stack trace")


def _told(error: Exception) -> str:
    """What the error says; of one raised inside a graph, whose text holds a traceback, the line that says what."""
    if isinstance(error, tf.errors.OpError):
        lines = [line.strip() for line in (error.message or "").splitlines() if line.strip()]
        return next((line for line in lines if not line.startswith(_PLACES)), "") or type(error).__name__
    text = str(error).strip()
    return text.splitlines()[-1].strip() if text.startswith("in user code") else text
