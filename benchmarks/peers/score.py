"""Score what a run gives its user on the test split, outside its time budget: `python -m benchmarks.peers.score FOLDER`.

That is the best saved model of a peer, and of tuner the model that `tuner export` writes. Trials of tuner alone are scored beside it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import contenders, journal, ours
from benchmarks.peers.task import Task

#: from images (n, size, size, 3) to one number for each class
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_BATCH = 64
#: beside the splits of the run, with the further images as its test split
_MORE = "more.npz"


def main() -> None:
    """Print validation and test accuracy of the model as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    task = Task.read(parser.parse_args().folder)
    print(json.dumps(_of_tuner(task) if contenders.is_tuner(task.contender) else _of_peer(task)))


def _of_peer(task: Task) -> dict[str, Any]:
    from benchmarks.peers import training

    epochs = journal.read(task.folder, until_seconds=task.minutes * 60)
    model = training.best_model(task)
    if model is None:
        return {"validation": None, "test": None}
    scored = _accuracies(task, lambda images: model.predict(images, batch_size=_BATCH, verbose=0), model.input_shape[1])
    return {"validation": epochs[-1].best if epochs else None, **scored}


def _of_tuner(task: Task) -> dict[str, Any]:
    from tuner.errors import StudyError
    from tuner.results import best as bests
    from tuner.storage import engine as storages
    from tuner.studies import study as studies

    study = studies.load(task.study().name, storages.open(f"sqlite:///{ours.database(task)}"))
    try:
        before = bests.best(study)
    except StudyError:  # no trial was completed
        return {"validation": None, "test": None}
    found = _exported(task, "result")
    best = bests.best(study)  # the export forms the ensemble of a study that was interrupted
    ensemble = best.ensemble
    scored: dict[str, Any] = {"validation": best.value if ensemble is None else ensemble.validation_accuracy, **found}
    scored["is_formed_late"] = before.ensemble is None and ensemble is not None
    for name, trial in (("alone", best.trial), ("first", 0)):
        found = _exported(task, name, "--trial", str(trial), "--mirror", "never")
        scored |= {f"{name}_{split}": accuracy for split, accuracy in found.items()}
    return scored | {"members": [] if ensemble is None else list(ensemble.trials), "best_trial": best.trial}


def _exported(task: Task, name: str, *options: str) -> dict[str, float | None]:
    """Export a model as a user would, and return its accuracies; None for a trial whose weights were not kept."""
    import keras

    to = task.folder / name
    places = ["--storage", f"sqlite:///{ours.database(task)}", "--artifacts", str(task.folder / "artifacts"), "--cache", str(task.cache)]
    command = [sys.executable, "-m", "tuner", "export", task.study().name, "--to", str(to), "--force", *places, *options]
    ended = subprocess.run(command, stdout=sys.stderr, check=False)
    if ended.returncode and options:
        return {"test": None}
    ended.check_returncode()
    model = keras.models.load_model(to / "model.keras")
    return _accuracies(task, lambda images: model.predict(images, batch_size=_BATCH, verbose=0), model.input_shape[1])


def _accuracies(task: Task, predict: Predict, size: int) -> dict[str, float | None]:
    from benchmarks.peers import training

    found: dict[str, float | None] = {}
    for name in ("test",) if task.more is None else ("test", "more"):
        study = task.study() if name == "test" else task.study(npz=_joined(task))
        split = training.sized(study, size, task.cache).test
        predicted = np.concatenate([predict(np.asarray(split.images[at : at + 1000])) for at in range(0, len(split.labels), 1000)])
        found[name] = float(np.mean(predicted.argmax(1) == split.labels))
    return found


def _joined(task: Task) -> str:
    """Return a file like that of the run, whose test images are the further images."""
    assert task.npz is not None and task.more is not None
    to = task.folder / _MORE
    if to.exists():
        return str(to)
    with np.load(task.npz) as arrays, np.load(task.more) as more:
        np.savez(to, **{name: arrays[name] for name in arrays if not name.endswith("_test")}, x_test=more["x"], y_test=more["y"])
    return str(to)


if __name__ == "__main__":
    main()
