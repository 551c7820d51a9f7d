"""The end of a search: the best trial, the ensemble and the network that it teaches, each measured once on the test split.

In a study with a limit of the latency, the best trials are measured again before, because other workers trained when they were measured.
"""

import math
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from tuner import wording
from tuner.commands import artifacts
from tuner.errors import Dismissed, TunerError
from tuner.kernels import targets
from tuner.protocol import errands, messages
from tuner.results import best as bests
from tuner.results import ensemble as ensembles
from tuner.results import statistics
from tuner.results.best import Best
from tuner.results.ensemble import Candidate, CodeEnsemble, Ensemble, Taught
from tuner.results.statistics import Labels, Logits
from tuner.spec.hyperparameters import LOSSES, ChosenValues, ClassWeights, TargetKind
from tuner.spec.objective import ImageMetric
from tuner.spec.study import StudySpec
from tuner.spec.tasks import CUSTOM
from tuner.storage import queries
from tuner.storage.attributes import LATENCY_MS
from tuner.studies import endings, retention, trials, workers
from tuner.studies.retention import Finalist, StoredWeights
from tuner.studies.study import Study
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.terminal import plain
from tuner.trust import at_rest
from tuner.workers.bucket import transfer
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation, process
from tuner.workers.worker.evaluation import EvaluationTrainer
from tuner.workers.worker.process import Assignment
from tuner.workers.worker.stopping import Stopping

_FOLDER = "ensemble"
#: what happens to files of other machines and of full disks
_UNREADABLE = (TunerError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
#: epochs of a taught network as a multiple of a trial's, and the weight of the ensemble's probabilities in its targets: a teacher must be
#: patient and may replace the labels (Beyer and others, arXiv 2106.05237)
PATIENCE, _TEACHER_SHARE = 2, 1.0
#: what differs between a taught network and the trial with its form: probabilities are smooth already, and regularize
_STUDENT = {"label_smoothing": 0.0, "dropout": 0.1, "class_weights": ClassWeights.NONE}


def is_unmeasured(best: Best) -> bool:
    """Return whether a trial was never measured on the test split, which exists, and its weights are within reach."""
    prepared = best.prepared
    has_no_test = bool(prepared.num_train and prepared.num_validation and not prepared.num_test) and not isinstance(best.spec, StudySpec)
    return best.test_value is None and not has_no_test and best.weights is not None and _is_reachable(best.weights)


def measure(study: Study, assignment: Assignment, stopping: Stopping) -> None:
    """Measure the best trial on the test split, form the ensemble of the study and measure it, unless that was done before.

    The ensemble is measured only if its members have changed since the last reading of the test split.

    Raises:
        Dismissed: the caller is asked to stop meanwhile.
        TrainingError: stored weights could not be measured.
        StorageError: a result could not be stored.
        TunerError: files are in a bucket that cannot be read.
    """
    if isinstance(study.spec, CustomStudySpec):
        _measure_code(study, assignment, stopping)
        return
    best = bests.best(study)
    formed, known = form(study, assignment.folders), ensembles.read(study)
    is_new = formed is not None and (not formed.is_same(known) or (known is not None and known.num_test == 0 and best.num_test > 0))
    if formed is None and known is not None and not known.is_at_least(best.value):
        ensembles.store(study, None)  # a better trial has completed since
    if not is_new and not is_unmeasured(best):
        return
    if is_new:
        ensembles.store(study, formed)  # so that it is kept if the measurement is interrupted
    with _trainer(study, assignment, stopping) as (trainer, scratch):
        if is_unmeasured(best):
            _measure_best(study, best, trainer, assignment)
        if is_new and formed is not None:
            ensembles.store(study, _measured(study, formed, trainer, scratch))


def try_measure(study: Study, assignment: Assignment, stopping: Stopping, warn: Callable[[str], None]) -> None:
    """Measure as `measure` does; what cannot be measured is a warning, because the search itself has its result."""
    try:
        measure(study, assignment, stopping)
    except Dismissed:
        pass
    except TunerError as error:
        if getattr(error, "kind", "") != "NoTestSplit":  # data that each trial loads for itself: only a trainer knows its splits
            warn(str(error))


def measure_trial(study: Study, best: Best, assignment: Assignment, stopping: Stopping) -> None:
    """Measure a trial on the test split once, and store the result with it.

    Raises:
        Dismissed: it was stopped.
        TunerError: the trial cannot be measured; its data may have no test split.
    """
    with _trainer(study, assignment, stopping) as (trainer, _):
        _measure_best(study, best, trainer, assignment)


def finalists(study: Study) -> list[Finalist]:
    """Return the trials that may win and are to be measured again on this machine, the best first; none if others trained some of them."""
    found = [one for one in retention.finalists(study) if _is_reachable(one.stored.weights)]
    return found if {one.host for one in found} <= {socket.gethostname()} else []


def try_again(study: Study, assignment: Assignment, stopping: Stopping, tell: Callable[[str], None]) -> None:
    """Measure again what the constraints limit, of the best trials one after another, and correct which of them keep the constraints.

    The workers of this run have ended; if another one trains the study, nothing is measured. A failure is only told.
    """
    try:
        found, others = finalists(study), study.storage.read(lambda connection: workers.alive(connection, study.id))
        if found and others:
            tell(f"{study.name}: the latency of the best trials was measured while others trained, and another worker still trains")
        elif found:
            _measure_again(study, found, assignment, stopping, tell)
    except Dismissed:
        pass
    except _UNREADABLE as error:
        tell(f"{study.name}: the latency of the best trials was not measured again: {error}")


def _measure_again(
    study: Study, found: Sequence[Finalist], assignment: Assignment, stopping: Stopping, tell: Callable[[str], None]
) -> None:
    """Measure trials, and more than a few only until one keeps the constraints; tell what changed, even if the rest is interrupted."""
    measured: list[tuple[Finalist, str, float]] = []
    before = _best_number(study)
    try:
        with _trainer(study, assignment, stopping) as (trainer, _):
            for one in found:
                if len(measured) >= retention.NUM_FINALISTS and not all(exceeds for _, exceeds, _ in measured):
                    break
                if one.device == trainer.device:
                    costs = _costs(study, one.stored, trainer, assignment)
                    measured.append((one, endings.correct_costs(study, one.stored.number, costs), costs[LATENCY_MS]))
    finally:
        if measured:
            tell(f"{study.name}: {_again_words(measured, before, _best_number(study))}")


def _costs(study: Study, stored: StoredWeights, trainer: EvaluationTrainer, assignment: Assignment) -> Mapping[str, float]:
    """Return what a trainer measures of a trial."""
    chosen = bests.of(study, stored.number).chosen
    with artifacts.local_copy(stored.weights, assignment.folders.of_study(study.name)) as path:
        answer = trainer.ask(messages.Evaluate(trial=stored.number, hyperparameters=chosen, weights=str(path), measures="costs"))
    assert isinstance(answer, messages.Evaluated)
    return answer.costs


def _best_number(study: Study) -> int | None:
    best = study.storage.read(lambda connection: queries.best(connection, study.id))
    return None if best is None else best.number


def _again_words(measured: Sequence[tuple[Finalist, str, float]], before: int | None, after: int | None) -> str:
    """Say in a line which trials keep or exceed the constraints since they were measured again."""
    numbers = [one.stored.number for one, _, _ in measured]
    which = f"trial{'s' if len(numbers) > 1 else ''} {wording.listed(numbers)}"
    changes = []
    for one, exceeds, now in measured:
        found = f"exceeds a constraint now ({exceeds}" if exceeds else f"keeps the constraints now (latency_ms {now:.4g}"
        if bool(exceeds) != bool(one.exceeds):
            changes.append(f"trial {one.stored.number} {found}; before {one.latency_ms:.4g})")
    if before != after:
        changes.append("no trial keeps the constraints" if after is None else f"the best trial is trial {after} now")
    return f"the latency of {which} was measured again without other workers: {'; '.join(changes) or 'nothing changes'}"


def _measure_code(study: Study, assignment: Assignment, stopping: Stopping) -> None:
    """Do the same for a study of user models."""
    formed, known = form_code(study, assignment.folders, threads=assignment.limits.threads or 0), ensembles.read_code(study)
    if formed != known:
        ensembles.store(study, formed)
    best = bests.best(study)
    if is_unmeasured(best):
        with _trainer(study, assignment, stopping) as (trainer, _):
            _measure_best(study, best, trainer, assignment)
        best = bests.best(study)
    winner = best.ensemble_of_code
    if winner is not None and winner.test_value is None and best.test_value is not None and not stopping.is_asked:
        found = _means(study, winner.trials, "test", assignment.folders, assignment.limits.threads or 0)
        if found.values:
            ensembles.store(study, winner.model_copy(update={"test_value": found.values[-1], "num_test": found.num_examples}))


def form_code(study: Study, folders: Folders, *, threads: int) -> CodeEnsemble | None:
    """Return the ensemble of the best trials of user models whose weights are within reach; the test split is not read.

    None: there are no two such trials, or the study has constraints, which a mean of several models would exceed, or it only retrains.
    """
    spec = study.spec
    if spec.task != CUSTOM or spec.limits or spec.num_folds > 1 or spec.retraining is not None or not spec.measured_on_new_data:
        return None
    stored = retention.among_best(study, retention.stored(study))
    kept, all_numbers = [one for one in stored if _is_reachable(one.weights)], [one.number for one in stored]
    known, numbers = ensembles.read_code(study), tuple(one.number for one in kept)
    if len(kept) < 2 or (known is not None and known.considered == numbers):
        return known
    try:
        found = _means(study, numbers, "validation", folders, threads)
        if found.refused:
            formed = CodeEnsemble(considered=numbers, refused=found.refused)
        else:
            # a trial of several trainings keeps the weights of one, and its value is the mean
            of_one = isinstance(study.spec, CustomStudySpec) and study.spec.training.executions == 1
            formed = ensembles.choose_means(numbers, found.values, kept[0].value if of_one else found.values[0], study.spec.objective)
            if known is not None and known.trials == formed.trials:  # the test split is read once for a mean
                formed = formed.model_copy(update={"test_value": known.test_value, "num_test": known.num_test})
    except TunerError as error:
        plain.line(f"{study.name}: no ensemble was formed: {error}")
        return known
    if known is not None and known.value is not None and not set(known.trials) <= set(numbers) and set(known.trials) <= {*all_numbers}:
        # another machine has the weights of a member; a mean that is better than what it formed takes its place
        is_better = formed.value is not None and study.spec.objective.is_better(formed.value, known.value)
        formed = formed if is_better else known
    if formed.refused:
        plain.line(f"{study.name}: no ensemble of trials {wording.listed(numbers)}: {formed.refused}")
    return formed


def _means(study: Study, numbers: Sequence[int], split: messages.Split, folders: Folders, threads: int) -> errands.MeansMeasured:
    """Return the values of the means of the first, the first two, … of some trials."""
    with ExitStack() as stack:
        members = tuple(stack.enter_context(trained_code(study, number, folders)) for number in numbers)
        order = errands.MeanOfCode(spec=study.spec.model_dump_json(), cache=str(folders.cache), members=members, split=split)
        answer = evaluation.run(order, threads=threads)
    assert isinstance(answer, errands.MeansMeasured)
    return answer


@contextmanager
def trained_code(study: Study, number: int, folders: Folders) -> Iterator[errands.TrainedCode]:
    """Give a trial of user code, with its weights as a file of this machine, while a `with` block runs."""
    member = bests.of(study, number)
    chosen = member.chosen
    assert isinstance(chosen, ChosenValues), "a trial of user code has values by name"
    with artifacts.local_copy(_weights(member), folders.of_study(study.name) / _FOLDER / str(number)) as path:
        yield errands.TrainedCode(trial=number, values=dict(chosen.values), weights=str(path))


def current(study: Study, folders: Folders) -> Ensemble | None:
    """Return the stored ensemble if no trial is better; if the workers of the study formed none, form it now.

    Its members are those within reach of this machine. Without a `tuner run`, nobody has measured it on the test split.
    """
    best = bests.best(study)
    if best.ensemble is None and ensembles.read(study) is None and (formed := form(study, folders)) is not None:
        ensembles.store(study, formed)
        return formed
    return best.ensemble


def form(study: Study, folders: Folders) -> Ensemble | None:
    """Return the ensemble of the fine-tuned trials whose weights are within reach, without reading the test split."""
    if not isinstance(study.spec, StudySpec) or not study.spec.measured_on_new_data or study.spec.retraining is not None:
        return None  # the validation images cannot choose members
    kept = retention.among_best(study, [one for one in retention.stored(study) if one.logits is not None])
    candidates: list[Candidate] = []
    labels: Labels | None = None
    for one in kept:
        found = _read(one, folders.of_study(study.name))
        if found is not None:
            candidate, labels = found
            candidates.append(candidate)
    return (
        None
        if labels is None
        else ensembles.choose(candidates, labels, mirror=study.images.results.mirror, metric=study.images.objective.metric)
    )


def _read(one: StoredWeights, folder: Path) -> tuple[Candidate, Labels] | None:
    """Return a trial and the labels of the validation images; None if its files are not within reach of this machine."""
    assert one.logits is not None
    if not (_is_reachable(one.weights) and _is_reachable(one.logits)):
        plain.line(f"trial {one.number} can be no member of the ensemble: its weights are not on this machine")
        return None
    try:
        return _read_logits(one, one.logits, folder)
    except _UNREADABLE as error:
        plain.line(f"trial {one.number} can be no member of the ensemble: its logits cannot be read: {error}")
        return None


def _read_logits(one: StoredWeights, location: str, folder: Path) -> tuple[Candidate, Labels]:
    with (
        artifacts.local_copy(location, folder) as path,
        at_rest.opened(path) as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        logits, mirrored, labels = (arrays[name] for name in ("validation", "validation_mirrored", "validation_labels"))
    return Candidate(trial=one.number, value=one.value, logits=logits, mirrored=mirrored), labels


def predictions(study: Study, numbers: Sequence[int], folder: Path) -> tuple[list[Candidate], Labels] | None:
    """Return trials with their predictions for the validation images, in the given order, and the labels.

    None: the predictions of a trial are not within reach of this machine, or it has none, because it was not fine-tuned.
    """
    known = {one.number: one for one in retention.stored(study)}
    candidates: list[Candidate] = []
    labels: Labels | None = None
    for number in numbers:
        one = known.get(number)
        if one is None or one.logits is None or not _is_reachable(one.logits):
            return None
        candidate, labels = _read_logits(one, one.logits, folder)
        candidates.append(candidate)
    return None if labels is None else (candidates, labels)


def _is_reachable(location: str) -> bool:
    return artifacts.is_in_bucket(location) or Path(location).is_file()


@contextmanager
def _trainer(study: Study, assignment: Assignment, stopping: Stopping) -> Iterator[tuple[EvaluationTrainer, Path]]:
    """Open a trainer, and a folder for its answers."""
    folder = assignment.folders.of_study(study.name) / _FOLDER
    try:
        with evaluation.open_trainer(
            study,
            start=lambda: process.start_trainer(assignment),
            folders=assignment.folders,
            limits=assignment.limits,
            stopping=stopping,
        ) as trainer:
            yield trainer, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measure_best(study: Study, best: Best, trainer: EvaluationTrainer, assignment: Assignment) -> None:
    assert best.weights is not None
    with artifacts.local_copy(best.weights, assignment.folders.of_study(study.name)) as path:
        score = trainer.ask(messages.Evaluate(trial=best.trial, hyperparameters=best.chosen, weights=str(path)))
    assert isinstance(score, messages.Evaluated)
    trials.keep_test(study, score)


def _measured(study: Study, formed: Ensemble, trainer: EvaluationTrainer, scratch: Path) -> Ensemble:
    """Return the ensemble with its scores on the test split, which is read once for it; without test images, as it is."""
    several = members(study, formed)
    if not several[0].num_test:
        return formed
    answers, seconds = [], 0.0
    labels: Labels | None = None
    for member in several:
        to = scratch / f"{member.trial}.npz"
        with artifacts.local_copy(_weights(member), scratch) as weights:
            asked = messages.Predict(
                trial=member.trial,
                hyperparameters=member.hyperparameters,
                weights=(str(weights),),
                splits=("test",),
                mirrored=formed.mirrored,
                to=str(to),
            )
            answer = trainer.ask(asked)
        assert isinstance(answer, messages.Predicted)
        seconds += answer.seconds * (2 if formed.mirrored else 1)
        with at_rest.opened(to) as file, np.load(file, allow_pickle=False) as arrays:
            labels = arrays["test_labels"]
            answers += [arrays["test"], arrays["test_mirrored"]] if formed.mirrored else [arrays["test"]]
    assert labels is not None
    measured = _scores(formed, np.stack(answers), labels) | {
        "num_test": len(labels),
        "milliseconds": round(1000 * seconds / len(labels), 2),
    }
    return formed.model_copy(update=measured)


def _scores(formed: Ensemble, answers: Logits, labels: Labels) -> dict[str, float | None]:
    """Return accuracy and value of the networks of an ensemble on the test split."""
    value = None if formed.metric == "accuracy" else statistics.value(formed.metric, answers, labels, formed.thresholds or None)
    if targets.kind_of(formed.metric, labels) is TargetKind.LABEL:
        return {"test_accuracy": statistics.accuracy(answers, labels), "test_value": value}
    accuracy = statistics.judge(formed.metric, answers, labels, formed.thresholds or None).accuracy
    return {"test_accuracy": accuracy if math.isfinite(accuracy) else None, "test_value": value}


def teach(study: Study, formed: Ensemble, assignment: Assignment, stopping: Stopping, tell: Callable[[messages.Epoch], None]) -> Taught:
    """Train one network of the best trial's form on the probabilities of the ensemble, measure it once and store it.

    If the same training was interrupted before, it resumes at its last checkpoint.

    Raises:
        Dismissed: the caller is asked to stop meanwhile.
        TrainingError: the network cannot be trained.
        TunerError: files are in a bucket that cannot be read or written.
    """
    best = bests.best(study)
    name = f"taught-{'-'.join(str(number) for number in formed.trials)}"
    folder = assignment.folders.of_study(study.name) / name
    with _trainer(study, assignment, stopping) as (trainer, scratch), ExitStack() as stack:
        networks = [
            messages.TrainedMember(
                hyperparameters=member.hyperparameters,
                weights=str(stack.enter_context(artifacts.local_copy(_weights(member), scratch / str(member.trial)))),
            )
            for member in members(study, formed)
        ]
        order = messages.Train(
            trial=best.trial,
            hyperparameters=best.of_images.model_copy(update=_STUDENT | {"loss": LOSSES[study.images.data.kind][0]}),
            seed=best.seed,
            weights=str(folder / "weights"),
            checkpoint=str(folder / "checkpoint"),
            epochs=PATIENCE * best.prepared.epochs,
            teacher=messages.Teacher(members=tuple(networks), share=_TEACHER_SHARE),
        )
        finished = trainer.train(order, tell)
        taught = _taught(formed, order, finished, _kept(finished, study, assignment))
        if best.num_test:
            assert finished.weights is not None
            asked = messages.Evaluate(trial=best.trial, hyperparameters=order.hyperparameters, weights=finished.weights)
            score = trainer.ask(asked)
            assert isinstance(score, messages.Evaluated)
            tested = {"test_accuracy": score.accuracy, "num_test": score.num_images}
            taught = taught.model_copy(update=tested | ({} if formed.metric == "accuracy" else {"test_value": score.value}))
    ensembles.store_taught(study, taught)
    (folder / "checkpoint").unlink(missing_ok=True)
    return taught


def _taught(formed: Ensemble, order: messages.Train, finished: messages.Finished, weights: str) -> Taught:
    assert finished.value is not None
    assert finished.logits is not None
    with at_rest.opened(Path(finished.logits)) as file, np.load(file, allow_pickle=False) as arrays:
        loss = statistics.error(formed.metric, arrays["validation"], arrays["validation_labels"])
    return Taught(
        trials=formed.trials,
        trial=order.trial,
        hyperparameters=order.hyperparameters,
        weights=weights,
        validation_accuracy=_accuracy_of(finished, formed.metric),
        validation_loss=loss,
        by_class=finished.by_class,
        confusion=finished.confusion if len(finished.confusion) <= ensembles.CONFUSED_CLASSES else (),
        seconds=round(finished.probe_seconds + finished.fine_tune_seconds, 1),
        metric=formed.metric,
        value=None if formed.metric == "accuracy" else finished.value,
    )


def _accuracy_of(finished: messages.Finished, metric: ImageMetric) -> float | None:
    """Return the accuracy of a trial on the validation images; None if it predicts numbers."""
    known = {**finished.metrics, metric: finished.value}
    return known.get("accuracy", known.get("exact_match"))


def _kept(finished: messages.Finished, study: Study, assignment: Assignment) -> str:
    """Return the path or URL at which the weights of the taught network stay."""
    assert finished.weights is not None
    if assignment.folders.bucket is None:
        return finished.weights
    path = Path(finished.weights)
    key = f"{study.name}/{path.parent.name}/{path.name}"
    bucket = transfer.open_bucket(assignment.folders.bucket)
    bucket.put(key, path)
    return bucket.url_of(key)


def members(study: Study, ensemble: Ensemble) -> Sequence[Best]:
    """Return the trials of an ensemble.

    Raises:
        TunerError: the weights of one were not stored.
    """
    found = [bests.of(study, number) for number in ensemble.trials]
    for member in found:
        _weights(member)
    return found


def _weights(member: Best) -> str:
    if member.weights is None:
        raise TunerError(f"the weights of trial {member.trial}, a member of the ensemble, are no longer stored; run the study again")
    return member.weights
