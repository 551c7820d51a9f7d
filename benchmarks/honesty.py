"""Check the interval that `tuner retrain` reports: searches and retrainings on different splits, scored on held-out images.

    python -m benchmarks.honesty FOLDER --repetitions 10 [--npz cifar10_small.npz] [--size 96 --epochs 3 --trials 6]

A repetition is a whole search and a whole retraining on newly drawn images. By default, trials are probes at 32 pixels, so that ten
repetitions take minutes. Images outside all splits are held out, and the version is scored on them. Workers and trainer run in this
process, so that TensorFlow is loaded only once; they do the same as `tuner run` and `tuner retrain`. Repetitions in FOLDER/results.jsonl
are not repeated.
"""

import argparse
import json
import os
import socket
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tuner import machine
from tuner.commands import retrain as commands_retrain
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.results.retrain import trainings
from tuner.results.retrain.verdict import Verdict
from tuner.results.versions.versions import Version
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import retraining as again_of
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import process
from tuner.workers.worker.events import Event, EventKind
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

TOP, SEEDS, TRIALS = 2, 2, 15
#: images of a repetition; the others are held out
SPLITS = {"train": 500, "validation": 250, "test": 500}


class Beside:
    """The trainer, in a thread of this process, loaded once for all studies; implements `trainer.Trainer`."""

    def __init__(self) -> None:
        from tuner.kernels import devices
        from tuner.trainer import inbox, loop

        ours, theirs = socket.socketpair()
        self._pipe = Connection(ours.detach())
        share = TrainerShare(threads=machine.num_cores())
        devices.limit_tensorflow(share)
        box = inbox.Inbox(Connection(theirs.detach()))
        threading.Thread(target=loop.serve, args=(box, share), daemon=True).start()

    def send(self, message: messages.Message) -> None:
        self._pipe.send_bytes(messages.encode(message))

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        return messages.decode(self._pipe.recv_bytes()) if self._pipe.poll(timeout_seconds) else None

    def memory_bytes(self) -> int:
        return 0

    def last_lines(self) -> str:
        return ""

    def place(self) -> str:
        return ""

    def kill(self) -> None:
        """Do nothing: the trainer continues with the next study."""

    def close(self) -> None:
        """Do nothing: the trainer continues with the next study."""


def main() -> None:
    """Print a table of the repetitions, and how often the interval contained the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--npz", type=Path, help="a data set in an .npz file, whose own splits are joined; default: the animals")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of fine-tuning")
    parser.add_argument("--trials", type=int, default=TRIALS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    data = {"source": "animals"} if given.npz is None else {"source": "npz", "path": str(pooled(given.npz, given.folder))}
    results = given.folder / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    trainer = Beside() if len(done) < given.repetitions else None
    for seed in range(len(done), given.repetitions):
        assert trainer is not None
        done.append(repetition(_spec(data, seed, given), given.folder, trainer))
        with results.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(line(done[-1]), flush=True)
    print(*table(done), sep="\n")


def pooled(path: Path, folder: Path) -> Path:
    """Return the images of a data set, with its own splits joined."""
    to = folder / "pooled.npz"
    if not to.exists():
        with np.load(path, allow_pickle=False) as arrays:
            parts = [name for name in ("train", "val", "test") if f"x_{name}" in arrays]
            joined = {axis: np.concatenate([arrays[f"{axis}_{part}"] for part in parts]) for axis in "xy"}
            np.savez(to, classes=arrays["classes"], **joined)
    return to


def _spec(data: dict[str, Any], seed: int, given: argparse.Namespace) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": f"seed-{seed}",
            "data": data | SPLITS,
            "model": {"backbone": "efficientnet_lite0", "image_size": given.size},
            "training": {"epochs": given.epochs},
            "budget": {"trials": given.trials},
            "search": {"augmentation": {"flip": "none"}},
            "seed": seed,
        }
    )


def repetition(spec: StudySpec, folder: Path, trainer: Beside) -> dict[str, Any]:
    """Search, retrain, and score the version on all images outside the splits."""
    began = time.monotonic()
    storage = storages.open(f"sqlite:///{folder / 'tuner.db'}")
    study = studies.join(spec, storage)
    work(study, folder, trainer)
    version = retrain(study, folder, trainer)
    verdict = Verdict.model_validate(version.model.metrics)
    accuracy, num = held_out(study, version, folder)
    storage.close()
    return {
        "seed": spec.seed,
        "search": verdict.optimism.search_value,
        "mean": verdict.networks[0].mean,
        "test": verdict.test_accuracy,
        "interval": list(verdict.test_interval),
        "held_out": accuracy,
        "num_held_out": num,
        "is_soup": len(verdict.networks[0].chosen_seeds) > 1 and not verdict.networks[0].is_ensemble,
        "error_before": verdict.calibration.error_before,
        "error_after": verdict.calibration.error_after,
        "seconds": time.monotonic() - began,
    }


def retrain(study: Study, folder: Path, trainer: Beside) -> Version:
    """Do what `tuner retrain` does, with this trainer."""
    again = again_of.begin(study, again_of.configs(study, TOP), again_of.seeds(study, SEEDS), top=TOP)
    work(again, folder, trainer)
    configs = trainings.read(again)
    process.start_trainer = lambda assignment: trainer  # type: ignore[assignment]
    room = commands_retrain.EvaluationSetup(assignment=assignment(again, folder), stopping=Stopping(), by="benchmark")
    return commands_retrain.store_version(study, again, configs, commands_retrain.verdict_subject(study, again, configs), room)


def work(study: Study, folder: Path, trainer: Beside) -> None:
    """Work on the study until its budget is spent."""

    def tell(event: Event) -> None:
        if event.what in (EventKind.FAILED, EventKind.TROUBLE):
            print(event.study, event.trial, event.message, flush=True)

    process.run_worker(assignment(study, folder), stopping=Stopping(), tell=tell, start=lambda assignment: trainer)


def assignment(study: Study, folder: Path) -> Assignment:
    return Assignment(
        study=study.name, spec=study.spec, storage=f"sqlite:///{folder / 'tuner.db'}", worker=f"w{os.getpid()}",
        folders=Folders(cache=folder / "cache", artifacts=folder / "artifacts"), threads=machine.num_cores(), hang_limit_seconds=3600,
    )  # fmt: skip


def held_out(study: Study, version: Version, folder: Path) -> tuple[float, int]:
    """Return the accuracy of a version on images outside all splits, without duplicates of images in them, and their number."""
    from tuner.tasks.images.data import resized, splits
    from tuner.tasks.images.training import evaluation, study_context, training_data

    target = studies.load(version.model.study, study.storage)
    ready = study_context.prepare(target.spec, cache=folder / "cache")
    data = training_data.open_dataset(target.spec.data, cache=folder / "cache")
    parts = splits.split(data, target.spec.data, target.spec.seed)
    used = np.concatenate([parts.train, parts.validation, parts.test])
    fresh = ~np.isin(data.digests, data.digests[used])
    fresh[used] = False
    rows = np.flatnonzero(fresh)
    images = resized.load(data, rows, size=ready.backbone.size, resize=target.spec.model.resize, cache=folder / "cache", words={})
    ready = replace(ready, data=replace(ready.data, test=training_data.Split(images=images, labels=data.labels[rows])))
    assert version.model.trial is not None
    found = next(each for each in trainings.read(target) if version.model.trial in [run.trial for run in each.runs])
    order = messages.Evaluate(trial=version.model.trial, hyperparameters=found.hyperparameters, weights=version.model.artifact)
    return evaluation.evaluate(ready, order).accuracy, len(rows)


def line(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    holds = "yes" if low <= one["held_out"] <= high else "no"
    return (
        f"| {one['seed']} | {one['search']:.3f} | {one['mean']:.3f} | {one['test']:.3f} | {low:.3f} to {high:.3f} "
        f"| {one['held_out']:.4f} | {holds} | {one['search'] - one['test']:+.3f} | {one['search'] - one['held_out']:+.3f} |"
    )


def table(done: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table with all repetitions and their summary."""
    holds = sum(one["interval"][0] <= one["held_out"] <= one["interval"][1] for one in done)
    head = "| seed | search | retrained | test | 95 % interval | held out | in it | search - test | search - held out |"
    by_test, by_held_out = (np.array([one["search"] - one[name] for one in done]) for name in ("test", "held_out"))
    errors = [float(np.mean([one[name] for one in done])) for name in ("error_before", "error_after")]
    return [
        head,
        "|---|---|---|---|---|---|---|---|---|",
        *(line(one) for one in done),
        f"the interval holds in {holds} of {len(done)}; {done[0]['num_held_out']:,} images held out",
        f"search - test {by_test.mean():+.4f} on average (from {by_test.min():+.4f} to {by_test.max():+.4f}), "
        f"search - held out {by_held_out.mean():+.4f}",
        f"test - held out {np.mean([one['test'] - one['held_out'] for one in done]):+.4f} on average",
        f"soups kept {sum(one['is_soup'] for one in done)}; calibration error {errors[0]:.4f}, with the temperature {errors[1]:.4f}",
    ]


if __name__ == "__main__":
    main()
