"""`tuner retrain`: train the best configurations of a study again with several seeds, and store the chosen one as a version."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tuner import machine, wording
from tuner.commands import artifacts, engines, ensemble, run, show, waiting
from tuner.commands.origin import LocalSettings
from tuner.errors import Dismissed, RequestError, TrainingError, TunerError
from tuner.protocol.messages import Split
from tuner.queue import admission
from tuner.results import best as bests
from tuner.results import export as exports
from tuner.results.best import Best
from tuner.results.bundle import manifest
from tuner.results.retrain import networks, trainings
from tuner.results.retrain import verdict as retrain_verdict
from tuner.results.retrain.networks import Forms, Network, SplitLogits
from tuner.results.retrain.trainings import RetrainedConfig, TrainingRun
from tuner.results.retrain.verdict import Verdict, VerdictSubject
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading, NewVersion, Version, WeightsSource
from tuner.spec.tasks import OBJECTIVE
from tuner.studies import retraining as retrainings
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.terminal import versions as screens
from tuner.views import status
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation, process
from tuner.workers.worker.evaluation import EvaluationTrainer
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping, on_signals

TrainedOn = Literal["train", "train+validation"]
#: folder for the answers of trainers and for files from a bucket, which is deleted after an evaluation
_ANSWERS = "answers"
_BUSY = "evaluating the trained networks on validation and test images …"


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """Configurations to train again, and the settings of the retraining."""

    #: number of distinct configurations, best first
    top: int
    #: trainings per configuration
    seeds: int
    #: images that the version is trained on; None: the train split, with folds also the validation split
    on: TrainedOn | None
    #: whether the version is one network, even if an ensemble is better
    single: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluationSetup:
    """The process that evaluates the trained networks."""

    #: assignment of the workers that trained them
    assignment: Assignment
    stopping: Stopping
    #: user who runs the command
    by: str


@dataclass(frozen=True, kw_only=True)
class _Workers:
    """The workers of a retraining, and when they stop."""

    ready: engines.ReadyEngine
    folders: Folders
    local: LocalSettings
    stopping: Stopping

    def assignments(self, study: Study) -> list[Assignment]:
        """Return the assignments of the workers of a study."""
        return list(run.make_assignments(study, self.ready.storage, self.folders, self.ready.workers))


def retrain(
    name: str,
    url: str,
    asked: RetrainOptions,
    *,
    local: LocalSettings,
    folders: Folders,
    engine: engines.EngineOptions,
    as_json: bool,
) -> int:
    """Train the best configurations again, choose one, measure it once on the test split and store it as a version; return the exit code.

    The same command resumes an interrupted retraining, and shows the version of a finished one.
    """
    study = _load_search(name, url, local)
    asked = _require_applicable(study, asked)
    if study.is_of_images:
        admission.require_usable(study.images, folders.cache)
    artifacts.require_bucket(folders.bucket)
    with engines.open_engine(engine, url) as ready:
        again = _begin_or_resume(study, asked)
        again = studies.at(again, local.localize(again.spec))
        target = _target_name(again, "train+validation" if again.spec.num_folds > 1 else asked.on or "train")
        existing = _find_version(study, target, single=asked.single if _is_judged(study) else None)
        if existing is not None:
            plain.line(f"{study.name}: {again.name} was finished before. Nothing was trained, and the test split was not read.")
            return _print_version(existing, as_json=as_json)
        stopping = Stopping()
        workers = _Workers(ready=ready, folders=folders, local=local, stopping=stopping)
        with on_signals(stopping):
            try:
                train = _train_and_judge if _is_judged(study) else _train_and_choose
                version = train(study, again, asked, workers)
            except Dismissed:
                plain.line(f"{study.name}: stopped before a version was stored. Run the same command to resume.")
                return run.KILLED if stopping.is_urgent else 1
    return _print_version(version, as_json=as_json)


def _is_judged(study: Study) -> bool:
    """Return whether a version gets a verdict, whose intervals, comparisons and ensembles of seeds are those of an accuracy."""
    return study.is_of_images and study.images.objective.metric == "accuracy"


def _require_applicable(study: Study, asked: RetrainOptions) -> RetrainOptions:
    """Return the options with their defaults; refuse options of a verdict for a study whose version is the best training.

    Raises:
        RequestError: an option does not apply.
    """
    name, metric = study.name, study.spec.objective.metric
    if asked.on is None:
        asked = dataclasses.replace(asked, on="train+validation" if _is_judged(study) and study.spec.num_folds > 1 else "train")
    if not study.is_of_images and asked.on != "train":
        raise RequestError(
            f"--on is {asked.on}, but {name} loads its data with code of its own, which decides what is trained on; drop --on."
        )
    if not study.is_of_images or _is_judged(study):
        return asked
    if asked.on != "train":
        raise RequestError(
            f"--on is {asked.on}, but {name} optimizes {metric}, and the validation images choose its version; drop --on. "
            "Only a study of accuracy trains its version on them, too."
        )
    if asked.single:
        raise RequestError(
            f"--single is given, but {name} optimizes {metric}, and its version is always one network; drop --single. "
            "Only a study of accuracy may store an ensemble of the seeds."
        )
    return asked


def _load_search(name: str, url: str, local: LocalSettings) -> Study:
    """Load the study whose configurations are trained again, with the paths that its images have on this machine.

    Raises:
        RequestError: it cannot be trained again.
    """
    found = show.load_study(name, url)
    if found.spec.task == OBJECTIVE:
        raise RequestError(
            f"the study {name} has an objective, whose models tuner does not know; to run its best trial again: "
            f"tuner export {name} --to best.yaml, then tuner run best.yaml"
        )
    retraining = found.spec.retraining
    if retraining is not None:
        raise RequestError(f"{name} is itself a retraining of {retraining.study}; retrain that study: tuner retrain {retraining.study}")
    local.require_allowed(found.spec)
    prepared = retrainings.prepared(found)
    if found.is_of_images and not prepared.num_test:
        raise RequestError(
            f"the study {name} has no test images (data.test is 0), so the chosen configuration could not be measured; "
            "start a new study, in a file with another name, that has data.test, for example 0.15"
        )
    return show.localized(found, local)


def _begin_or_resume(study: Study, asked: RetrainOptions) -> Study:
    """Return the study that trains the configurations again: an earlier one with the same options and no version, else a new one."""
    configs, seeds = retrainings.configs(study, asked.top), retrainings.seeds(study, asked.seeds)
    wanted = tuple(config.trial for config in configs)
    for other in retrainings.existing(study):
        spec = other.spec.retraining
        assert spec is not None
        if (spec.top, spec.seeds) != (asked.top, seeds):
            continue
        if spec.trials == wanted:
            return other
        if _find_version(study, other.name) is None and _find_version(study, _target_name(other, "train+validation")) is None:
            plain.line(
                f"{study.name}: {other.name} resumes with the configurations that it was started with, trials "
                f"{wording.listed(spec.trials)}. The best are now trials {wording.listed(wanted)}; the next retraining will use them."
            )
            return other
        break
    return retrainings.begin(study, configs, seeds, top=asked.top)


def _train_and_judge(study: Study, again: Study, asked: RetrainOptions, workers: _Workers) -> Version:
    """Finish the trainings and store the version of the chosen configuration."""
    configs = _train_all(again, workers, _describe_work(study, again, workers.ready.workers.num_workers))
    chosen = trainings.choose(configs)
    for line in trainings.choice_words(configs):
        plain.line(f"{again.name} {line}")
    subject = verdict_subject(study, again, configs, single=asked.single)
    (assignment, *_) = workers.assignments(again)
    setup = EvaluationSetup(assignment=assignment, stopping=workers.stopping, by=machine.user_name())
    if asked.on == "train":
        with printing.busy(f"{again.name}: {_BUSY}"):
            return store_version(study, again, configs, subject, setup)
    on_all = retrainings.on_all(study, again)
    if on_all is None:
        on_all = retrainings.begin_on_all(study, again, retrainings.config(study, chosen.trial), fine_tunes=_fine_tunes(again, chosen))
    (on_all_config,) = _train_all(on_all, workers, _describe_work(study, on_all, workers.ready.workers.num_workers))
    trainings.choose([on_all_config])
    with printing.busy(f"{on_all.name}: {_BUSY}"):
        return store_version_on_all(study, (again, configs), (on_all, on_all_config), subject, setup)


def _train_and_choose(study: Study, again: Study, asked: RetrainOptions, workers: _Workers) -> Version:
    """Finish the trainings, and store the best training of the configuration with the best mean as a version."""
    configs = _train_all(again, workers, _describe_work(study, again, workers.ready.workers.num_workers))
    chosen, objective = trainings.choose(configs), again.spec.objective
    for config in configs:
        verb = "is chosen" if config is chosen else "was trained again" if config.is_complete else "did not complete with every seed"
        plain.line(f"{again.name} trial {config.trial} {verb}: {objective.metric} {config.shown}")
    figures = {"mean": chosen.mean, "standard_deviation": chosen.spread, "seeds": len(chosen.values), "search_value": chosen.search_value}
    if again.spec.num_folds > 1:
        return _train_on_all_folds(study, again, chosen, workers, figures)
    return _add_training(study, again, chosen.by_value[0], workers, figures)


def _train_on_all_folds(study: Study, again: Study, chosen: RetrainedConfig, workers: _Workers, figures: dict[str, Any]) -> Version:
    """Train the chosen configuration on all folds for the mean of its best epochs, and store this training as a version."""
    epochs = chosen.usual_epochs
    final = retrainings.on_all(study, again)
    if final is None:
        config = dataclasses.replace(retrainings.config(study, chosen.trial), value=chosen.mean)
        final = retrainings.begin_on_all_folds(study, again, config, epochs=epochs)
    final = studies.at(final, again.spec)
    (trained,) = _train_all(final, workers, _describe_work(study, final, workers.ready.workers.num_workers))
    run, *_ = trainings.choose([trained]).runs
    return _add_training(study, final, run, workers, {**figures, "folds": again.spec.num_folds, "epochs": epochs})


def _add_training(study: Study, target: Study, run: TrainingRun, workers: _Workers, figures: dict[str, Any]) -> Version:
    """Measure a training on the test split, unless that was done before, and store it as a version."""
    best = bests.of(target, run.trial)
    if best.test_value is None:
        (assignment, *_) = workers.assignments(target)
        with printing.busy(f"{target.name}: measuring trial {run.trial} on the test split …"):
            _measure(target, best, assignment, workers.stopping)
        best = bests.of(target, run.trial)
    with artifacts.local_copy(_weights(run), workers.folders.of_study(target.name)) as path:
        new, reading = versions.of_trial(best, path, by=machine.user_name())
    reading = None if reading is None else dataclasses.replace(reading, purpose="retrain")
    new = dataclasses.replace(new, name=study.name, metrics={**new.metrics, **figures})
    return versions.add(study.storage, new, reading=reading)


def _measure(again: Study, best: Best, assignment: Assignment, stopping: Stopping) -> None:
    """Measure a training on the test split; without one, its data function returned none."""
    try:
        ensemble.measure_trial(again, best, assignment, stopping)
    except TrainingError as error:
        plain.line(f"{again.name}: the version has no test value: {error}")


def _train_all(study: Study, workers: _Workers, description: str) -> list[RetrainedConfig]:
    """Train every configuration with every seed, and return the results.

    Raises:
        Dismissed: someone stopped it before the end.
        TunerError: the workers could not continue.
    """
    study = studies.at(study, workers.local.localize(study.spec))
    trials.resume(study)
    if not waiting.is_over(study):
        plain.line(description)
    is_unfinished = True
    while is_unfinished and waiting.needs_worker(study, workers.stopping):  # workers of other machines may train the last ones
        fatal, codes = run.train(study, workers.ready, workers.assignments(study), stopping=workers.stopping)
        failure = waiting.find_failure(study, fatal, codes)
        if failure is not None and not workers.stopping.is_asked:
            raise failure
        is_unfinished = not status.snapshot(study).num_enqueued  # enqueued trials are left only if someone asked the workers to end
    if workers.stopping.is_asked:
        raise Dismissed("asked to stop")
    _require_finished(study)
    return trainings.read(study)


def _require_finished(study: Study) -> None:
    """Refuse to choose while trainings are left, because someone stopped the study or its workers."""
    seen = status.snapshot(study)
    left = seen.num_enqueued + seen.num_waiting + len(seen.running)
    if left:
        reason = trials.stopped(study) or (f"it was stopped by {seen.halted_by}" if seen.halted_by else "its workers were asked to end")
        raise TunerError(f"{study.name}: {wording.count(left, 'training')} left: {reason}. Resume with the same command")


def _describe_work(study: Study, again: Study, num_workers: int) -> str:
    """Say how many trainings there are, and how long they take if they are as fast as in the search."""
    spec = again.spec.retraining
    assert spec is not None
    configs, seeds = wording.count(len(spec.trials), "configuration"), wording.count(len(spec.seeds), "seed")
    seen = status.snapshot(again)
    done = seen.num_completed + seen.num_pruned + seen.num_failed
    left = spec.num_trainings - done
    which = wording.listed(f"trial {trial}" for trial in spec.trials)
    text = f"{again.name}: {configs} ({which}) x {seeds} = {wording.count(spec.num_trainings, 'training')}"
    text += f", {done} of them done" if done else ""
    if not again.spec.measured_on_new_data:
        on = "train and validation images, so the accuracies" if study.is_of_images else "all folds, so the values"
        text += f", on {on} shown here are on {'training images' if study.is_of_images else 'training data'}"
    seconds = _mean_seconds(study, spec.trials)
    if seconds is None:
        return text
    trainings_each, before = (each.spec.num_folds * each.spec.num_executions for each in (again, study))
    about = wording.duration(seconds * left * trainings_each / before / max(1, num_workers))
    return f"{text}; about {about} with {wording.count(num_workers, 'worker')}, estimated from the search"


def _mean_seconds(study: Study, numbers: Sequence[int]) -> float | None:
    """Return the mean duration of some trials of a search, or None if it is unknown."""
    known = [seconds for number in numbers if (seconds := retrainings.config(study, number).seconds) is not None]
    return sum(known) / len(known) if known else None


def verdict_subject(study: Study, again: Study, configs: Sequence[RetrainedConfig], *, single: bool = False) -> VerdictSubject:
    """Return the subject of a verdict on a retraining."""
    best = bests.best(study)
    rule = next((config.of_images for config in configs if config.trial == 0), None)
    return VerdictSubject(
        study=study.name,
        retraining=again.name,
        classes=best.prepared.classes,
        best=(best.trial, best.value),
        num_folds=study.spec.num_folds,
        rule=rule or bests.rule(study),
        forms=Forms(ensembles=not single, mirror=study.images.results.mirror),
    )


def _fine_tunes(again: Study, chosen: RetrainedConfig) -> bool:
    """Return whether most trainings of a configuration were best during fine-tuning, after the probe."""
    probe_epochs = again.spec.probe_epochs
    later = [run for run in chosen.runs if run.best_epoch is not None and run.best_epoch > probe_epochs]
    return 2 * len(later) > len(chosen.runs)


def _target_name(again: Study, on: TrainedOn) -> str:
    """Return the name of the study whose weights become the version."""
    return again.name if on == "train" else retrainings.name_on_all(again)


def _find_version(study: Study, target: str, *, single: bool | None = None) -> Version | None:
    """Return the version that was made from a study of trainings; None if there is none, or it was deleted.

    With `single`, only a version of one network counts; without, only one for which an ensemble was allowed; None: every version.
    """
    found = [version for version in versions.all(study.storage, study.name) if version.model.study == target]
    if single is not None:
        verdicts = [(version, Verdict.model_validate(version.model.metrics)) for version in found]
        found = [version for version, verdict in verdicts if (not verdict.networks[0].is_ensemble if single else not verdict.single)]
    return found[-1] if found else None


def _print_version(version: Version, *, as_json: bool) -> int:
    if version.model.origin is WeightsSource.TRIAL:
        return _print_training(version, as_json=as_json)
    verdict = Verdict.model_validate(version.model.metrics)
    if as_json:
        plain.result(json.dumps({"name": version.name, "version": version.number, **verdict.model_dump(mode="json")}, indent=2))
    else:
        printing.result(*screens.verdict(verdict, name=version.name, number=version.number))
    return 0


def _print_training(version: Version, *, as_json: bool) -> int:
    """Print a version that is one training, in the metric of its study."""
    metrics = version.model.metrics
    if as_json:
        plain.result(json.dumps({"name": version.name, "version": version.number, "study": version.model.study, **metrics}, indent=2))
        return 0
    figures = {name: wording.figure(metrics[name]) for name in ("value", "search_value")}
    mean = wording.with_spread(metrics["mean"], metrics.get("standard_deviation"))
    test = "not measured" if metrics.get("test_value") is None else wording.figure(metrics["test_value"])
    if "folds" in metrics:
        plain.result(
            f"{version.name} {version.number}: {metrics['metric']} {mean}, the mean over {metrics['folds']} folds "
            f"and {wording.count(metrics['seeds'], 'seed')}; trained on all folds for {wording.count(metrics['epochs'], 'epoch')}; "
            f"on the test split {test}. In the search it was {figures['search_value']}."
        )
        return 0
    plain.result(
        f"{version.name} {version.number}: {metrics['metric']} {figures['value']}, the best of "
        f"{wording.count(metrics['seeds'], 'seed')} (mean {mean}); on the test split {test}. "
        f"In the search it was {figures['search_value']}."
    )
    return 0


class CachedEvaluator:
    """Asks a trainer for the predictions of networks of one study, and remembers the answers."""

    def __init__(self, trainer: EvaluationTrainer, folder: Path) -> None:
        self._trainer, self._folder = trainer, folder
        self._known: dict[tuple[tuple[TrainingRun, ...], Split], SplitLogits] = {}

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split, *, mirrored: bool = False) -> SplitLogits:
        """Return the predictions on a split of the network whose weights are the average of these trainings."""
        key = (tuple(runs), split)
        known = self._known.get(key)
        if known is None or (mirrored and known.mirrored is None):
            known = self._known[key] = self._ask(config, runs, split, mirrored=mirrored, average=None)
        return known

    def write_average(self, network: Network, to: Path) -> None:
        """Write the average weights of a network's trainings to a file. This reads validation images, never the test split."""
        self._ask(network.config, network.runs, "validation", mirrored=False, average=to)

    def _ask(
        self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split, *, mirrored: bool, average: Path | None
    ) -> SplitLogits:
        to = self._folder / f"{'-'.join(str(run.trial) for run in runs)}-{split}.npz"
        with _local_copies(runs, self._folder) as copies:
            weights = {run: str(copy) for run, copy in copies.items()}
            self._trainer.ask(networks.prediction_request(config, weights, split=split, mirrored=mirrored, average=average, to=to))
        return networks.read_logits(to, split)


@contextmanager
def _local_copies(runs: Sequence[TrainingRun], folder: Path) -> Iterator[dict[TrainingRun, Path]]:
    """Give the weights of trainings as files of this machine, while a `with` block runs."""
    with ExitStack() as stack:
        # one folder each: files from a bucket have the same name
        yield {run: stack.enter_context(artifacts.local_copy(_weights(run), folder / str(run.trial))) for run in runs}


def store_version(
    study: Study, again: Study, configs: Sequence[RetrainedConfig], subject: VerdictSubject, setup: EvaluationSetup
) -> Version:
    """Choose a configuration and store its version, trained on the train split. This reads the test split once."""
    with _evaluator(again, setup) as evaluate:
        candidates = retrain_verdict.build_candidates(configs, subject.rule, evaluate, subject.forms)
        verdict, network = retrain_verdict.judge(subject, candidates, evaluate, notes=_notes(study))
        artifact = _store_weights(again, network, evaluate, setup)
    return _add_version(study, again, verdict, network, artifact, setup)


def store_version_on_all(
    study: Study,
    of_train: tuple[Study, Sequence[RetrainedConfig]],
    on_all: tuple[Study, RetrainedConfig],
    subject: VerdictSubject,
    setup: EvaluationSetup,
) -> Version:
    """Choose a configuration and store its version, trained on the train and the validation split. This reads the test split once."""
    again, configs = of_train
    target, config = on_all
    with _evaluator(again, setup) as evaluate, _evaluator(target, setup) as evaluate_target:
        candidates = retrain_verdict.build_candidates(configs, subject.rule, evaluate, subject.forms)
        verdict, network = retrain_verdict.judge_on_all(subject, candidates, evaluate, (config, evaluate_target), notes=_notes(study))
        artifact = _store_weights(target, network, evaluate_target, setup)
    return _add_version(study, target, verdict, network, artifact, setup)


@contextmanager
def _evaluator(study: Study, setup: EvaluationSetup) -> Iterator[CachedEvaluator]:
    folders = setup.assignment.folders
    folder = folders.of_study(study.name) / _ANSWERS
    try:
        with evaluation.open_trainer(
            study,
            start=lambda: process.start_trainer(setup.assignment),
            folders=folders,
            limits=setup.assignment.limits,
            stopping=setup.stopping,
        ) as trainer:
            yield CachedEvaluator(trainer, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _notes(study: Study) -> list[str]:
    """Return sentences about folds of the search, and about earlier readings of the test split."""
    best = bests.best(study)
    notes = []
    if study.spec.num_folds > 1:
        notes.append(
            f"The search compared its trials by their means over {study.spec.num_folds} folds. The configurations are compared by the "
            f"{best.prepared.num_validation:,} images of the usual validation split, so these values differ from those of the search."
        )
    earlier = [reading for reading in versions.readings(study.storage, study.name) if reading.content.splits == best.prepared.splits]
    if earlier:
        numbers = wording.listed(sorted({reading.version for reading in earlier}))
        notes.append(
            f"This test split was read {wording.count(len(earlier), 'time')} before, for version {numbers}. If those results influenced "
            "this version, its test accuracy is too high: these images are no longer unseen."
        )
    if best.test_accuracy is not None:
        notes.append(
            f"`tuner run` measured the best trial of the search, trial {best.trial}, on the same test images: {best.test_accuracy:.4f}."
        )
    return notes


def _store_weights(study: Study, network: Network, evaluate: CachedEvaluator, setup: EvaluationSetup) -> tuple[str, str]:
    """Return the path or URL of a network's weights, and their SHA-256; write the weights of a soup or an ensemble as one file first."""
    folders = setup.assignment.folders
    folder = folders.of_study(study.name)
    if len(network.runs) == 1:
        weights = _weights(network.runs[0])
        with artifacts.local_copy(weights, folder) as path:
            return weights, manifest.digest(path)
    trials_of = "-".join(str(run.trial) for run in network.runs)
    key = f"ensemble-{trials_of}.zip" if network.is_ensemble else f"soup-{trials_of}.npz"
    path = folder / key
    if network.is_ensemble:
        with _local_copies(network.runs, folder / _ANSWERS) as copies:
            networks.pack([copies[run] for run in network.runs], path)
    else:
        evaluate.write_average(network, path)
    digest = manifest.digest(path)
    if folders.bucket is None:
        return str(path), digest
    bucket = transfer.open_bucket(folders.bucket)
    bucket.put(f"{study.name}/{key}", path)
    path.unlink()
    return bucket.url_of(f"{study.name}/{key}"), digest


def _add_version(
    study: Study, target: Study, verdict: Verdict, network: Network, artifact: tuple[str, str], setup: EvaluationSetup
) -> Version:
    best = bests.of(target, network.runs[0].trial)
    reading = NewReading(
        splits=best.prepared.splits, by=setup.by, purpose="retrain", accuracy=verdict.test_accuracy, num_images=verdict.num_test
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
        created_by=setup.by,
    )
    return versions.add(study.storage, new, reading=reading)


def _config(best: Best, network: Network) -> dict[str, Any]:
    """Return the study file that trains the network again; for a soup or an ensemble its first training, with the seeds of all."""
    spec = exports.resolved(best)
    seeds = [run.seed for run in network.runs]
    if network.is_ensemble:
        spec = spec.model_copy(update={"result": {**(spec.result or {}), "ensemble_seeds": seeds, "mirrored": network.mirrored}})
    elif network.is_soup:
        spec = spec.model_copy(update={"result": {**(spec.result or {}), "soup_seeds": seeds}})
    return spec.model_dump(mode="json")


def _weights(run: TrainingRun) -> str:
    if run.weights is None:
        raise TunerError(f"the weights of trial {run.trial} were not stored")
    return run.weights
