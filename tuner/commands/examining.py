"""Trainings that are done into a version: what is asked of a trainer, and what is kept of its answers."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import wording
from tuner.commands import artifacts
from tuner.errors import TunerError
from tuner.messages import Split
from tuner.results import best as bests
from tuner.results import config as configs_of
from tuner.results import examination, judging, manifest, versions
from tuner.results.best import Best
from tuner.results.examination import Answers, Network
from tuner.results.judging import Matter
from tuner.results.retrained import Retrained, Run
from tuner.results.verdict import Verdict
from tuner.results.versions import NewReading, NewVersion, Origin, Version
from tuner.search.study import Study
from tuner.workers import evaluation, process, shipping
from tuner.workers.evaluation import Examiner
from tuner.workers.process import Assignment
from tuner.workers.stopping import Stopping


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where trained networks are examined."""

    #: of the workers that trained them
    assignment: Assignment
    stopping: Stopping
    #: who asks
    by: str


class Questions:
    """Asks a trainer about the networks of one study; what was asked before is not asked again."""

    def __init__(self, study: Study, examiner: Examiner, folder: Path) -> None:
        self._study, self._examiner, self._folder = study, examiner, folder
        self._known: dict[tuple[tuple[Run, ...], Split], Answers] = {}

    def __call__(self, config: Retrained, runs: Sequence[Run], split: Split) -> Answers:
        """What the average of the weights of some trainings makes of a split."""
        key = (tuple(runs), split)
        if key not in self._known:
            self._known[key] = self._ask(config, runs, split, average=None)
        return self._known[key]

    def mix(self, network: Network, to: Path) -> None:
        """Write the average of the weights of a network's trainings to a file; asks about validation images, never about the test split."""
        self._ask(network.config, network.runs, "validation", average=to)

    def _ask(self, config: Retrained, runs: Sequence[Run], split: Split, *, average: Path | None) -> Answers:
        to = self._folder / f"{'-'.join(str(run.trial) for run in runs)}-{split}.npz"
        with ExitStack() as stack:
            # a folder each: files out of a bucket have the same name
            fetched = {run: artifacts.fetched(_weights(run), self._folder / str(run.trial)) for run in runs}
            weights = {run: str(stack.enter_context(file)) for run, file in fetched.items()}
            self._examiner.ask(examination.order(config, weights, split=split, average=average, to=to))
        return examination.answers(to, split)


def conclude(study: Study, again: Study, configs: Sequence[Retrained], matter: Matter, room: Room) -> Version:
    """The version of the config that is chosen, trained on the train split. Reads the test split, once."""
    with _questions(again, room) as ask:
        field = judging.enter(configs, matter.rule, ask)
        verdict, network = judging.judge(matter, field, ask, notes=_notes(study))
        artifact = _artifact(again, network, ask, room)
    return _keep(study, again, verdict, network, artifact, room)


def conclude_on_all(
    study: Study, of_train: tuple[Study, Sequence[Retrained]], on_all: tuple[Study, Retrained], matter: Matter, room: Room
) -> Version:
    """The version of the config that is chosen, trained on the train and the validation split. Reads the test split, once."""
    again, configs = of_train
    target, config = on_all
    with _questions(again, room) as ask, _questions(target, room) as ask_target:
        field = judging.enter(configs, matter.rule, ask)
        verdict, network = judging.judge_on_all(matter, field, ask, (config, ask_target), notes=_notes(study))
        artifact = _artifact(target, network, ask_target, room)
    return _keep(study, target, verdict, network, artifact, room)


@contextmanager
def _questions(study: Study, room: Room) -> Iterator[Questions]:
    places = room.assignment.places
    folder = places.of_study(study.name) / "answers"
    try:
        with evaluation.examiner(
            study,
            start=lambda: process.child(room.assignment),
            places=places,
            limits=room.assignment.limits,
            stopping=room.stopping,
        ) as examiner:
            yield Questions(study, examiner, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _notes(study: Study) -> list[str]:
    """Who read the test split before, in sentences."""
    prepared = bests.best(study).prepared
    before = [reading for reading in versions.readings(study.storage, study.name) if reading.look.splits == prepared.splits]
    said = []
    if before:
        numbers = wording.listed(sorted({reading.version for reading in before}))
        said.append(
            f"This test split was read {wording.count(len(before), 'time')} before, for version {numbers}: where that led to this one, "
            "the test accuracy is no more of unseen images."
        )
    best = bests.best(study)
    if best.test_accuracy is not None:
        said.append(f"`tuner run` scored the search's best, trial {best.trial}, on the same test images: {best.test_accuracy:.4f}.")
    return said


def _artifact(study: Study, network: Network, ask: Questions, room: Room) -> tuple[str, str]:
    """Path or URL of a network's weights, and their SHA-256."""
    places = room.assignment.places
    if not network.is_soup:
        weights = _weights(network.runs[0])
        with artifacts.fetched(weights, places.of_study(study.name)) as path:
            return weights, manifest.digest(path)
    key = f"soup-{'-'.join(str(run.trial) for run in network.runs)}.npz"
    path = places.of_study(study.name) / key
    ask.mix(network, path)
    digest = manifest.digest(path)
    if places.bucket is None:
        return str(path), digest
    bucket = shipping.open_bucket(places.bucket)
    bucket.put(f"{study.name}/{key}", path)
    path.unlink()
    return bucket.url_of(f"{study.name}/{key}"), digest


def _keep(study: Study, target: Study, verdict: Verdict, network: Network, artifact: tuple[str, str], room: Room) -> Version:
    best = bests.of(target, network.runs[0].trial)
    reading = NewReading(
        splits=best.prepared.splits, by=room.by, purpose="retrain", accuracy=verdict.test_accuracy, num_images=verdict.num_test
    )
    new = NewVersion(
        name=study.name,
        study=target.name,
        origin=Origin.RETRAINING,
        trial=network.runs[0].trial,
        config=_config(best, network),
        metrics=verdict.model_dump(mode="json"),
        fingerprint=best.prepared.fingerprint,
        splits=best.prepared.splits,
        artifact=artifact[0],
        sha256=artifact[1],
        created_by=room.by,
    )
    return versions.add(study.storage, new, reading=reading)


def _config(best: Best, network: Network) -> dict[str, Any]:
    """The study of one trial that trains the network again; of a soup its first ingredient, with the seeds of all."""
    spec = configs_of.resolved(best)
    if network.is_soup:
        spec = spec.model_copy(update={"result": {**(spec.result or {}), "soup_seeds": [run.seed for run in network.runs]}})
    return spec.model_dump(mode="json")


def _weights(run: Run) -> str:
    if run.weights is None:
        raise TunerError(f"the weights of trial {run.trial} were not kept")
    return run.weights
