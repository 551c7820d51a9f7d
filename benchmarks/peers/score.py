"""Score the best saved model of a run on the test split, outside its time budget: `python -m benchmarks.peers.score FOLDER`."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.peers import contenders, ours
from benchmarks.peers.task import Task


def main() -> None:
    """Print validation and test accuracy of the model as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    task = Task.read(parser.parse_args().folder)
    print(json.dumps(_ours(task) if task.contender == contenders.OURS else _peer(task)))


def _peer(task: Task) -> dict[str, Any]:
    from benchmarks.peers import journal, training

    epochs = journal.read(task.folder, until_seconds=task.minutes * 60)
    return {"validation": epochs[-1].best if epochs else None, "test": training.test_accuracy(task)}


def _ours(task: Task) -> dict[str, Any]:
    """Return the best completed or suspended trial; the weights of other trials are not kept."""
    from optuna.trial import FrozenTrial, TrialState

    from tuner.kernels import checkpoints
    from tuner.protocol import messages
    from tuner.storage import engine as storages
    from tuner.studies import claims, trials
    from tuner.studies import study as studies
    from tuner.tasks.images.training import evaluation, study_context

    joined = studies.load(task.study().name, storages.open(f"sqlite:///{ours.database(task)}"))
    ready = study_context.prepare(joined.spec, cache=task.cache)
    folder = task.folder / "artifacts" / joined.name

    def kept(trial: FrozenTrial) -> tuple[float, Path] | None:
        weights = trial.user_attrs.get("weights")
        if trial.state is TrialState.COMPLETE and trial.value is not None and weights:
            return trial.value, Path(weights)
        hyperparameters = trials.hyperparameters(trial)
        if trial.state is not TrialState.RUNNING or hyperparameters is None:
            return None
        checkpoint, taken = folder / f"trial-{trial.number:05d}" / "checkpoint", folder / f"benchmark-{trial.number:05d}.npz"
        seed = claims.seed(joined, trial.number)
        order = messages.Train(
            trial=trial.number, hyperparameters=hyperparameters, seed=seed, weights=str(taken), checkpoint=str(checkpoint)
        )
        suspended = checkpoints.read(checkpoint, order, study=ready.identity)
        if suspended is None:
            return None
        checkpoints.write_weights(taken, suspended.best, study=ready.identity)
        return suspended.progress.value, taken

    found = joined.storage.call(lambda: joined.storage.rdb.get_all_trials(joined.id, deepcopy=False))
    candidates = [(*one, trial) for trial in found if (one := kept(trial)) is not None]
    if not candidates:
        return {"validation": None, "test": None}
    value, weights, trial = max(candidates, key=lambda candidate: (candidate[0], -candidate[2].number))
    best = trials.hyperparameters(trial)
    assert best is not None, "a trial with weights has hyperparameters"
    scored = evaluation.evaluate(ready, messages.Evaluate(trial=trial.number, hyperparameters=best, weights=str(weights)))
    return {"validation": value, "test": scored.accuracy}


if __name__ == "__main__":
    main()
