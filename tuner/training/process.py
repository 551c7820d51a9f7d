"""The trainer: a process that does what a worker tells it down a pipe, and is warm from trial to trial.

Run as `python -m tuner.training.process FD --threads N`, where FD is the open end of a socket.
"""

import argparse
import gc
import platform
import signal
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path

import keras
import tensorflow as tf

from tuner import errors, messages, spec
from tuner.training import attempt, bench, inbox


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to quit, or until the worker is gone."""
    parser = argparse.ArgumentParser(prog="tuner.training.process")
    parser.add_argument("fd", type=int)
    parser.add_argument("--threads", type=int, default=0, help="threads of one operation; 0: all cores")
    given = parser.parse_args(arguments)
    # the worker decides when this ends; a terminal's Ctrl-C must not
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _set_up(given.threads)
    serve(inbox.Inbox(Connection(given.fd)), threads=given.threads)


def serve(box: inbox.Inbox, *, threads: int) -> None:
    """Carry out orders until one says quit."""
    ready: bench.Bench | None = None
    while not isinstance(order := box.order(), messages.Quit):
        trial = None if isinstance(order, messages.Prepare) else order.trial
        try:
            if isinstance(order, messages.Prepare):
                start, ready = time.perf_counter(), None
                ready = bench.prepare(spec.StudySpec.model_validate_json(order.spec), cache=Path(order.cache))
                box.send(_prepared(ready, _device(threads), time.perf_counter() - start))
                gc.freeze()
            elif ready is None:
                raise errors.TrainingError("the trainer was given a trial before a study", kind="NotPrepared")
            elif isinstance(order, messages.Train):
                box.send(attempt.Attempt(ready, order, box).run())
            else:
                box.send(attempt.evaluate(ready, order))
        except Exception as error:  # noqa: BLE001 - an attempt is marked failed here; the trainer goes on
            box.send(_failed(trial, error))
        # the steps that were traced for a trial are in reference cycles, hundreds of megabytes of them after ten trials
        gc.collect()


def _set_up(threads: int) -> None:
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def _device(threads: int) -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name))
    return f"cpu, {threads} threads" if threads != 1 else "cpu, 1 thread"


def _prepared(ready: bench.Bench, device: str, seconds: float) -> messages.Prepared:
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


def _told(error: Exception) -> str:
    """What the error says; of one raised inside a graph, whose text begins with a traceback, the last line."""
    text = str(error).strip()
    return text.splitlines()[-1].strip() if text.startswith("in user code") else text


if __name__ == "__main__":
    main()
