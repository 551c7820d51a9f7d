"""The trainer's loop: carries out the orders of a worker one after another, in a process that keeps its graphs from trial to trial."""

import gc
import json
import sys
import time
import traceback
from pathlib import Path

from tuner import errors
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.spec import tasks
from tuner.tasks import task
from tuner.trainer import inbox
from tuner.trust import user_code

#: starts of lines that TensorFlow puts before the error itself
_PREAMBLE = ("Graph execution error", "Detected at node", "File ", "Stack trace")


def serve(box: inbox.Inbox, share: TrainerShare) -> None:
    """Carry out orders until the worker sends quit."""
    ready: task.PreparedStudy | None = None
    num_traced = 0
    while not isinstance(order := box.order(), messages.Quit):
        trial = None if isinstance(order, messages.Prepare) else order.trial
        try:
            if isinstance(order, messages.Prepare):
                start = time.perf_counter()
                if ready is not None:  # a pool worker goes to another study
                    ready = None
                    _free()
                study = tasks.parse(json.loads(order.spec))
                ready = task.training(study.task).prepare(study, cache=Path(order.cache), share=share)
                facts = ready.try_once() if order.tries else ()
                box.send(ready.describe(seconds=time.perf_counter() - start).model_copy(update={"facts": facts}))
                gc.freeze()
            elif ready is None:
                raise errors.TrainingError("the trainer got a trial before a study; expected a Prepare message first", kind="NotPrepared")
            elif isinstance(order, messages.Train):
                box.send(ready.train(order, box))
            elif isinstance(order, messages.Predict):
                if not isinstance(ready, task.PredictsLogits):
                    raise errors.TrainingError("this study has no classifiers, so there are no logits", kind="NoNetwork")
                box.send(ready.predict(order))
            else:
                box.send(ready.evaluate(order))
        except Exception as error:  # noqa: BLE001 - the attempt fails here, and the trainer continues
            box.send(_failed(trial, error))
        num_traced = _collect(ready, num_traced)


def _free() -> None:
    """Free all that an earlier study held: its images, networks and graphs."""
    gc.unfreeze()
    gc.collect()


def _collect(ready: task.PreparedStudy | None, num_traced: int) -> int:
    """Free the memory of an order, and return the number of graphs traced so far.

    Discarded graphs are in reference cycles of hundreds of megabytes. Searching the graphs in use takes tenths of a second, so they are
    searched only if there are new ones.
    """
    now = num_traced if ready is None else ready.num_traced
    if now != num_traced:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
    else:
        gc.collect()
    return now


def _failed(trial: int | None, error: Exception) -> messages.Failed:
    kind = error.kind if isinstance(error, errors.TrainingError) else type(error).__name__
    users = error if isinstance(error, user_code.UserCodeError) else None
    return messages.Failed(
        trial=trial,
        error=kind,
        message=_message_of(error) or kind,
        is_request=isinstance(error, errors.RequestError),
        is_users=users is not None,
        traceback="".join(traceback.format_exception(error)) if users is None else users.traceback(),
        log=user_code.printed_before(error),
    )


def _message_of(error: Exception) -> str:
    """Return the message of an error; if it was raised inside a graph and contains a traceback, only its essential line."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
        lines = [line.strip() for line in (error.message or "").splitlines() if line.strip()]
        return next((line for line in lines if not line.startswith(_PREAMBLE)), "") or type(error).__name__
    text = str(error).strip()
    return text.splitlines()[-1].strip() if text.startswith("in user code") else text
