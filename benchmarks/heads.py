"""Measure the solvers of a probe: accuracy and seconds of the head of a linear probe, and the fine-tuning that starts from it."""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in a trainer

import numpy as np
import runs
from numpy.typing import NDArray

from tuner.kernels import devices
from tuner.kernels.checkpoints import TrialTiming
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Augmentation, Features, Flip, Hyperparameters, ProbeSolver
from tuner.tasks.images.training import evaluation, features, probe, study_context, trial, views
from tuner.tasks.images.training.study_context import StudyContext

DIGITS = "{source: digits}"
#: the recipe of trial 0
RECIPE: dict[str, Any] = {
    "probe_learning_rate": 1.73e-3,
    "label_smoothing": 0.1,
    "layer_decay": 0.94,
    "ema": 0.99,
    "augmentation": {"flip": "horizontal", "translation": 0.1, "zoom": 0.1, "brightness": 0.1, "contrast": 0.1},
}


class Worker:
    """Lets every trial run to its end."""

    def __init__(self) -> None:
        #: validation accuracy of each epoch
        self.curve: list[float] = []

    def send(self, message: messages.Message) -> None:
        if isinstance(message, messages.Epoch):
            self.curve.append(round(message.validation_accuracy, 4))

    def interruption(self) -> None:
        return None

    def decision(self) -> messages.Proceed:
        return messages.Proceed()


def main() -> None:
    """Print a JSON line for each data set, kind of features and solver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npz", type=Path, help="a data set in an .npz file")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of a probe by sgd")
    parser.add_argument("--folder", type=Path, help="folder of the cache; default: a new one")
    parser.add_argument("--data", action="append", help="measure only this data set (repeatable)")
    parser.add_argument("--fine-tune", type=int, metavar="EPOCHS", help="fine-tune instead, with the recipe of trial 0, and --seeds seeds")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    share = TrainerShare(threads=given.threads)
    devices.limit_tensorflow(share)
    with tempfile.TemporaryDirectory() as scratch:
        for name, data, _ in [*runs.data_sets(given.npz, epochs=(0, 0)), ("digits", DIGITS, 0)]:
            if given.data and name not in given.data:
                continue
            context = prepare(name, data, given.fine_tune or 0, given.folder or Path(scratch), share)
            found = fine_tuned(context, given.seeds, Path(scratch)) if given.fine_tune else probed(context, given.seeds)
            for row in found:
                print(json.dumps({"data": name} | row), flush=True)


def prepare(name: str, data: str, epochs: int, folder: Path, share: TrainerShare) -> StudyContext:
    """Return the context of a study at 96 pixels."""
    file = folder / f"heads-{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(runs.STUDY.format(name=name, data=data, epochs=epochs, promote=1.0, trials=1, sampler="tpe", seed=0), encoding="utf-8")
    return study_context.prepare(study_file.read_images(file), cache=folder / "cache", share=share)


def probed(context: StudyContext, num_seeds: int) -> Iterator[dict[str, object]]:
    """Yield what each solver reaches with each kind of features."""
    test = standardized_test(context)
    flip = Flip.NONE if context.study.name == "digits" else Flip.HORIZONTAL
    for kind in Features:
        for solver in ProbeSolver:
            hyperparameters = Hyperparameters(
                probe_solver=solver, features=kind, probe_learning_rate=1.73e-3, label_smoothing=0.1, augmentation=Augmentation(flip=flip)
            )
            list(probe.begin(context, hyperparameters, seed=0).epochs())  # traces the program
            context.solved.clear()
            rows = [probe_once(context, hyperparameters, seed, test) for seed in range(num_seeds if solver is ProbeSolver.SGD else 1)]
            again = probe_once(context, hyperparameters, 1, test)
            means = {name: round(statistics.mean(row[name] for row in rows), 4) for name in rows[0]}
            strength = max((found.strength for found in context.solved.values()), default=None)
            yield {"features": kind.value, "solver": solver.value} | means | {"again_seconds": again["seconds"], "strength": strength}


def probe_once(context: StudyContext, hyperparameters: Hyperparameters, seed: int, test: NDArray[np.float32]) -> dict[str, float]:
    """Run one probe, and score its last head on the test split."""
    start, processor = time.perf_counter(), time.process_time()
    running = probe.begin(context, hyperparameters, seed=seed)
    *_, last = running.epochs()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    kernel, bias = running.weights()
    logits = test[:, -len(kernel) :] @ kernel + bias
    return {
        "validation": last.validation.accuracy,
        "validation_loss": last.validation.loss,
        "test": float((logits.argmax(1) == context.data.test.labels).mean()),
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
    }


def standardized_test(context: StudyContext) -> NDArray[np.float32]:
    """Return the standardized features of the test split."""
    found = np.concatenate(
        list(features.compute(lambda images: context.backbone.features(images, Features.SEVERAL), context.data.test.images, views.ORIGINAL))
    )
    mean, variance = context.moments(Hyperparameters(features=Features.SEVERAL))
    return np.asarray((found - mean) / np.sqrt(variance), np.float32)


def fine_tuned(context: StudyContext, num_seeds: int, scratch: Path) -> Iterator[dict[str, object]]:
    """Yield what the recipe reaches from the head of a probe in steps, and from an exact one."""
    for seed in range(num_seeds):
        for solver in (ProbeSolver.SGD, ProbeSolver.LBFGS):
            hyperparameters = Hyperparameters.model_validate(RECIPE | {"probe_solver": solver, "features": "several"})
            paths = {"weights": str(scratch / "weights"), "checkpoint": str(scratch / "checkpoint")}
            order = messages.Train(trial=0, hyperparameters=hyperparameters, seed=seed, **paths)
            start = time.perf_counter()
            worker = Worker()
            finished = trial.TrialTraining(context, order, worker, timing=TrialTiming(worth_writing_seconds=1e9)).run()
            seconds = time.perf_counter() - start
            score = evaluation.evaluate(context, messages.Evaluate(trial=0, hyperparameters=hyperparameters, weights=str(finished.weights)))
            yield {
                "solver": solver.value, "seed": seed, "validation": finished.value, "test": round(score.accuracy, 4),
                "test_loss": round(score.loss, 4), "seconds": round(seconds, 1), "curve": worker.curve[-context.epochs - 1 :],
            }  # fmt: skip


if __name__ == "__main__":
    main()
