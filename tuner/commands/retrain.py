"""Trainings that are done into a version: what is asked of a trainer, and what is kept of its answers.

`tuner retrain`: the best configs of a study trained again, and from what comes of them a version that can be believed.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuner import wording
from tuner.commands import check, control, engines, options, run, show, waiting
from tuner.commands.origin import Here
from tuner.errors import Dismissed, RequestError, TunerError
from tuner.protocol.messages import Split
from tuner.results import best as bests
from tuner.results import export as configs_of
from tuner.results.best import Best
from tuner.results.bundle import manifest
from tuner.results.retrain import networks, trainings
from tuner.results.retrain import verdict as retrain_verdict
from tuner.results.retrain.networks import Network, SplitLogits
from tuner.results.retrain.trainings import RetrainedConfig, TrainingRun
from tuner.results.retrain.verdict import Verdict, VerdictSubject
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading, NewVersion, Version, WeightsSource
from tuner.studies import retraining as again_of
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.terminal import versions as shown
from tuner.views import status
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation, process
from tuner.workers.worker.evaluation import EvaluationTrainer
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping, on_signals


@dataclass(frozen=True, kw_only=True)
class EvaluationSetup:
    """Where trained networks are examined."""

    #: of the workers that trained them
    assignment: Assignment
    stopping: Stopping
    #: who asks
    by: str


class CachedEvaluator:
    """Asks a trainer about the networks of one study; what was asked before is not asked again."""

    def __init__(self, study: Study, examiner: EvaluationTrainer, folder: Path) -> None:
        self._study, self._examiner, self._folder = study, examiner, folder
        self._known: dict[tuple[tuple[TrainingRun, ...], Split], SplitLogits] = {}

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split) -> SplitLogits:
        """What the average of the weights of some trainings makes of a split."""
        key = (tuple(runs), split)
        if key not in self._known:
            self._known[key] = self._ask(config, runs, split, average=None)
        return self._known[key]

    def mix(self, network: Network, to: Path) -> None:
        """Write the average of the weights of a network's trainings to a file; asks about validation images, never about the test split."""
        self._ask(network.config, network.runs, "validation", average=to)

    def _ask(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split, *, average: Path | None) -> SplitLogits:
        to = self._folder / f"{'-'.join(str(run.trial) for run in runs)}-{split}.npz"
        with ExitStack() as stack:
            # a folder each: files out of a bucket have the same name
            fetched = {run: options.fetched(_weights(run), self._folder / str(run.trial)) for run in runs}
            weights = {run: str(stack.enter_context(file)) for run, file in fetched.items()}
            self._examiner.ask(networks.prediction_request(config, weights, split=split, average=average, to=to))
        return networks.read_logits(to, split)


def conclude(study: Study, again: Study, configs: Sequence[RetrainedConfig], matter: VerdictSubject, room: EvaluationSetup) -> Version:
    """The version of the config that is chosen, trained on the train split. Reads the test split, once."""
    with _questions(again, room) as ask:
        field = retrain_verdict.build_candidates(configs, matter.rule, ask)
        verdict, network = retrain_verdict.judge(matter, field, ask, notes=_notes(study))
        artifact = _artifact(again, network, ask, room)
    return _keep(study, again, verdict, network, artifact, room)


def conclude_on_all(
    study: Study,
    of_train: tuple[Study, Sequence[RetrainedConfig]],
    on_all: tuple[Study, RetrainedConfig],
    matter: VerdictSubject,
    room: EvaluationSetup,
) -> Version:
    """The version of the config that is chosen, trained on the train and the validation split. Reads the test split, once."""
    again, configs = of_train
    target, config = on_all
    with _questions(again, room) as ask, _questions(target, room) as ask_target:
        field = retrain_verdict.build_candidates(configs, matter.rule, ask)
        verdict, network = retrain_verdict.judge_on_all(matter, field, ask, (config, ask_target), notes=_notes(study))
        artifact = _artifact(target, network, ask_target, room)
    return _keep(study, target, verdict, network, artifact, room)


@contextmanager
def _questions(study: Study, room: EvaluationSetup) -> Iterator[CachedEvaluator]:
    places = room.assignment.folders
    folder = places.of_study(study.name) / "answers"
    try:
        with evaluation.open_trainer(
            study,
            start=lambda: process.start_trainer(room.assignment),
            folders=places,
            limits=room.assignment.limits,
            stopping=room.stopping,
        ) as examiner:
            yield CachedEvaluator(study, examiner, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _notes(study: Study) -> list[str]:
    """Who read the test split before, in sentences."""
    prepared = bests.best(study).prepared
    before = [reading for reading in versions.readings(study.storage, study.name) if reading.content.splits == prepared.splits]
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


def _artifact(study: Study, network: Network, ask: CachedEvaluator, room: EvaluationSetup) -> tuple[str, str]:
    """Path or URL of a network's weights, and their SHA-256."""
    places = room.assignment.folders
    if not network.is_soup:
        weights = _weights(network.runs[0])
        with options.fetched(weights, places.of_study(study.name)) as path:
            return weights, manifest.digest(path)
    key = f"soup-{'-'.join(str(run.trial) for run in network.runs)}.npz"
    path = places.of_study(study.name) / key
    ask.mix(network, path)
    digest = manifest.digest(path)
    if places.bucket is None:
        return str(path), digest
    bucket = transfer.open_bucket(places.bucket)
    bucket.put(f"{study.name}/{key}", path)
    path.unlink()
    return bucket.url_of(f"{study.name}/{key}"), digest


def _keep(study: Study, target: Study, verdict: Verdict, network: Network, artifact: tuple[str, str], room: EvaluationSetup) -> Version:
    best = bests.of(target, network.runs[0].trial)
    reading = NewReading(
        splits=best.prepared.splits, by=room.by, purpose="retrain", accuracy=verdict.test_accuracy, num_images=verdict.num_test
    )
    new = NewVersion(
        name=study.name,
        study=target.name,
        origin=WeightsSource.RETRAINING,
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


def _weights(run: TrainingRun) -> str:
    if run.weights is None:
        raise TunerError(f"the weights of trial {run.trial} were not kept")
    return run.weights


On = Literal["train", "train+validation"]
_EXAMINED = "what was trained is asked about validation and test images …"


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """What is to be trained again."""

    #: distinct configs, the best first
    top: int
    #: trainings of each
    seeds: int
    #: what the version is trained on
    on: On


@dataclass(frozen=True, kw_only=True)
class _Hands:
    """Who works, with what, and when he is to stop."""

    ready: engines.Ready
    places: Folders
    here: Here
    stopping: Stopping

    def assign(self, study: Study) -> list[Assignment]:
        """What each worker of a study needs to know."""
        return list(run.assign(study, self.ready.storage, self.places, self.ready.hands))


def retrain(
    name: str, url: str, asked: RetrainOptions, *, here: Here, places: Folders, engine: engines.EngineOptions, as_json: bool
) -> int:
    """Train the best configs again, choose one, measure it once on the test split and keep it as a version; the exit code."""
    study = _searched(name, url, here)
    check.require(study.spec, places.cache)
    options.require(places.bucket)
    with engines.ready(engine, url) as ready:
        again = _begun(study, asked)
        known = _version(study, _target_name(again, asked.on))
        if known is not None:
            plain.line(f"{study.name}: {again.name} was done before; its version is shown. Nothing was trained, the test split not read.")
            return _tell(known, as_json=as_json)
        stopping = Stopping()
        hands = _Hands(ready=ready, places=places, here=here, stopping=stopping)
        with on_signals(stopping):
            try:
                version = _concluded(study, again, asked, hands)
            except Dismissed:
                plain.line(f"{study.name}: stopped before there was a version; what was trained is kept, and the same command goes on.")
                return run.KILLED if stopping.is_urgent else 1
    return _tell(version, as_json=as_json)


def _searched(name: str, url: str, here: Here) -> Study:
    """The study that was searched, with its images where this machine has them.

    Raises:
        RequestError: it cannot be trained again.
    """
    found = show.load(name, url)
    again = found.spec.retraining
    if again is not None:
        raise RequestError(f"{name} trains configs of {again.study} again; name that one: tuner retrain {again.study}")
    here.require_allowed(found.spec)
    prepared = again_of.prepared(found)
    if not prepared.num_test:
        raise RequestError(
            f"the study {name} keeps no test images (data.test is 0), so that no one could tell how good its winner is; "
            "search again with a study file of another name that has data.test, for example 0.15"
        )
    return studies.at(found, here.place(found.spec).data)


def _begun(study: Study, asked: RetrainOptions) -> Study:
    """The study that trains the configs again: one that was begun with the same wishes and has no version yet, else a new one."""
    configs, seeds = again_of.configs(study, asked.top), again_of.seeds(study, asked.seeds)
    wanted = tuple(config.trial for config in configs)
    for other in again_of.existing(study):
        spec = other.spec.retraining
        assert spec is not None
        if (spec.top, spec.seeds) != (asked.top, seeds):
            continue
        if spec.trials == wanted:
            return other
        if _version(study, other.name) is None and _version(study, _target_name(other, "train+validation")) is None:
            plain.line(
                f"{study.name}: {other.name} goes on with the configs that it was begun with, trials {wording.listed(spec.trials)}; "
                f"the best are trials {wording.listed(wanted)} by now, which the next retraining takes"
            )
            return other
        break
    return again_of.begin(study, configs, seeds, top=asked.top)


def _concluded(study: Study, again: Study, asked: RetrainOptions, hands: _Hands) -> Version:
    """The version that the retraining comes to."""
    configs = _trained(again, hands, _budget(study, again, hands.ready.hands.num_workers))
    chosen = trainings.choose(configs)
    for line in trainings.choice_words(configs):
        plain.line(f"{again.name} {line}")
    about = matter(study, again, configs)
    (assignment, *_) = hands.assign(again)
    room = EvaluationSetup(assignment=assignment, stopping=hands.stopping, by=control.user())
    if asked.on == "train":
        with printing.busy(f"{again.name}: {_EXAMINED}"):
            return conclude(study, again, configs, about, room)
    on_all = again_of.on_all(study, again)
    if on_all is None:
        on_all = again_of.begin_on_all(study, again, again_of.config(study, chosen.trial), fine_tunes=_fine_tunes(again, chosen))
    (on_all_config,) = _trained(on_all, hands, _budget(study, on_all, hands.ready.hands.num_workers))
    trainings.choose([on_all_config])
    with printing.busy(f"{on_all.name}: {_EXAMINED}"):
        return conclude_on_all(study, (again, configs), (on_all, on_all_config), about, room)


def _trained(study: Study, hands: _Hands, budget: str) -> list[RetrainedConfig]:
    """Every config with what came of it, once each is trained with every seed.

    Raises:
        Dismissed: someone stopped it before that.
        TunerError: the workers could not go on.
    """
    study = studies.at(study, hands.here.place(study.spec).data)
    trials.resume(study)
    if not waiting.is_over(study):
        plain.line(budget)
    is_left = True
    while is_left and waiting.is_needed(study, hands.stopping):  # the last ones may be with workers of other machines
        complaints, codes = run.train(study, hands.ready, hands.assign(study), stopping=hands.stopping)
        failure = waiting.failure(study, complaints, codes)
        if failure is not None and not hands.stopping.is_asked:
            raise failure
        is_left = not status.snapshot(study).num_enqueued  # else someone dismissed the workers
    if hands.stopping.is_asked:
        raise Dismissed("asked to stop")
    _require_whole(study)
    return trainings.read(study)


def _require_whole(study: Study) -> None:
    """Refuse to judge while trainings are left, because someone stopped the study or its workers."""
    seen = status.snapshot(study)
    left = seen.num_enqueued + seen.num_waiting + len(seen.running)
    if left:
        why = trials.stopped(study) or (f"it was stopped by {seen.halted_by}" if seen.halted_by else "its workers were asked to end")
        raise TunerError(f"{study.name}: {wording.count(left, 'training')} left: {why}. The same command goes on")


def _budget(study: Study, again: Study, num_workers: int) -> str:
    """How much there is to train, and how long that takes by what the search took."""
    spec = again.spec.retraining
    assert spec is not None
    configs, seeds = wording.count(len(spec.trials), "config"), wording.count(len(spec.seeds), "seed")
    seen = status.snapshot(again)
    done = seen.num_completed + seen.num_pruned + seen.num_failed
    left = spec.num_trainings - done
    which = wording.listed(f"trial {trial}" for trial in spec.trials)
    said = f"{again.name}: {configs} ({which}) x {seeds} = {wording.count(spec.num_trainings, 'training')}"
    said += f", {done} of them done" if done else ""
    if again.spec.training.images != "train":
        said += ", on train and validation images: the accuracies that are shown meanwhile are of images that were trained on"
    seconds = _seconds(study, spec.trials)
    if seconds is None:
        return said
    about = wording.duration(seconds * left / max(1, num_workers))
    return f"{said}; about {about} with {wording.count(num_workers, 'worker')}, by what they took in the search"


def _seconds(study: Study, numbers: Sequence[int]) -> float | None:
    """Mean seconds of some trials of a search; None: not known."""
    known = [seconds for number in numbers if (seconds := again_of.config(study, number).seconds) is not None]
    return sum(known) / len(known) if known else None


def matter(study: Study, again: Study, configs: Sequence[RetrainedConfig]) -> VerdictSubject:
    """What a verdict on a retraining is about."""
    best = bests.best(study)
    rule = next((config.hyperparameters for config in configs if config.trial == 0), None)
    return VerdictSubject(
        study=study.name,
        retraining=again.name,
        classes=best.prepared.classes,
        best=(best.trial, best.value),
        rule=rule or bests.rule(study),
    )


def _fine_tunes(again: Study, chosen: RetrainedConfig) -> bool:
    """Whether most trainings of a config were best after their probe."""
    probe_epochs = again.spec.training.probe_epochs
    later = [run for run in chosen.runs if run.best_epoch is not None and run.best_epoch > probe_epochs]
    return 2 * len(later) > len(chosen.runs)


def _target_name(again: Study, on: On) -> str:
    """The study whose weights a version is made of."""
    return again.name if on == "train" else again_of.name_on_all(again)


def _version(study: Study, target: str) -> Version | None:
    """The version that a study of trainings came to; None: it has none, or it was deleted."""
    known = [version for version in versions.all(study.storage, study.name) if version.model.study == target]
    return known[-1] if known else None


def _tell(version: Version, *, as_json: bool) -> int:
    verdict = Verdict.model_validate(version.model.metrics)
    if as_json:
        plain.result(json.dumps({"name": version.name, "version": version.number, **verdict.model_dump(mode="json")}, indent=2))
    else:
        printing.result(*shown.screen(verdict, name=version.name, number=version.number))
    return 0
