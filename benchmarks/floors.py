"""Measure floors of standardized features: a study's probe and fine-tuning with trial 0's hyperparameters, by floor, solver and seed."""

import argparse
import itertools
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in a trainer

from optuna.trial import FixedTrial

from tuner.kernels import devices
from tuner.kernels.checkpoints import TrialTiming
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.spec import file as study_file
from tuner.spec import space as spaces
from tuner.spec.hyperparameters import Hyperparameters, ProbeSolver
from tuner.tasks.images.spec import recipe
from tuner.tasks.images.training import study_context, trial
from tuner.tasks.images.training.study_context import StudyContext


class Worker:
    """Lets every trial run to its end."""

    def __init__(self) -> None:
        self.epochs: list[messages.Epoch] = []

    def send(self, message: messages.Message) -> None:
        self.epochs += [message] if isinstance(message, messages.Epoch) else []

    def interruption(self) -> None:
        return None

    def decision(self) -> messages.Proceed:
        return messages.Proceed()


def main() -> None:
    """Print a JSON line for each study, solver, floor and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, nargs="+", help="study file that fixes everything but the rule's choices")
    parser.add_argument("--floor", type=float, action="append", help="value of feature_floor (repeatable)")
    parser.add_argument("--solver", action="append", choices=[each.value for each in ProbeSolver], help="solver of the probe (repeatable)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", type=json.loads, help="JSON object of other hyperparameters (repeatable)")
    parser.add_argument("--cache", type=Path, help="folder of the cache; default: a new one")
    given = parser.parse_args()
    share = TrainerShare(threads=0)
    devices.limit_tensorflow(share)
    with tempfile.TemporaryDirectory() as scratch:
        for file in given.study:
            context = study_context.prepare(study_file.read_images(file), cache=given.cache or Path(scratch), share=share)
            wanted = itertools.product(range(given.seeds), given.solver or ["lbfgs"], given.floor or [0.0, 0.3], given.set or [{}])
            for seed, solver, floor, other in wanted:
                changed = other | {"probe_solver": solver, "feature_floor": floor}
                found = train(context, changed, seed, scratch)
                print(json.dumps({"study": file.stem, "seed": seed} | changed | found), flush=True)


def train(context: StudyContext, changed: dict[str, object], seed: int, scratch: str) -> dict[str, object]:
    """Return the values of the probe and of each epoch of the fine-tuning, the best validation loss, and the last training loss."""
    space, training = context.study.space, context.data.train
    chosen = recipe.parameters(len(training.labels), context.num_classes, space, fine_tunes=context.epochs > 0)
    rule = spaces.suggest(FixedTrial(chosen), space, fine_tunes=context.epochs > 0)
    hyperparameters = Hyperparameters.model_validate(rule.model_dump() | changed)
    paths = {"weights": f"{scratch}/weights", "checkpoint": f"{scratch}/checkpoint"}
    order, worker = messages.Train(trial=0, hyperparameters=hyperparameters, seed=seed, **paths), Worker()
    finished = trial.TrialTraining(context, order, worker, timing=TrialTiming(worth_writing_seconds=1e9)).run()
    curve = worker.epochs[-context.epochs - 1 :]
    return {
        "best": round(finished.value, 4), "probe": round(curve[0].measured, 4), "curve": [round(each.measured, 4) for each in curve[1:]],
        "validation_loss": round(min(each.validation_loss for each in curve), 4), "loss": round(curve[-1].loss, 4),
    }  # fmt: skip


if __name__ == "__main__":
    main()
