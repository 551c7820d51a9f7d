"""User models for the trainer: implements the interfaces of `tasks.task`."""

import gc
import hashlib
import math
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import wording
from tuner.errors import DataError, TrainingError
from tuner.kernels import checkpoints, devices, keras_private
from tuner.kernels.checkpoints import EndedTraining, SuspendedTrial, TrialFiles
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import Ending, WorkerPort
from tuner.spec import objective as objectives
from tuner.spec.hyperparameters import ChosenValues, Plain
from tuner.tasks.custom.running.values import AskedValues, HyperParameters, Interrupted
from tuner.tasks.custom.spec import choices
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import fitting, folds, inputs, user_models
from tuner.tasks.custom.training.fitting import Fitting, NotFinite, OutOfMemory, Run
from tuner.tasks.custom.training.inputs import LoadedData
from tuner.tasks.custom.training.user_models import Code
from tuner.trust import user_code

#: hyperparameters that the training reads, not the model
_OF_FIT = ("epochs", "batch_size")
#: examples with which a model is tried
_TRIED_EXAMPLES = 8


class PreparedCode:
    """A study of a user model, ready to train its trials; implements `task.PreparedStudy`."""

    num_traced = 0
    timing = fitting.CheckpointTiming()

    def __init__(self, study: CustomStudySpec, *, share: TrainerShare) -> None:
        self._study, self._share = study, share
        self._code = Code(study)
        self._asked: tuple[messages.Ask, ...] = ()
        self._metrics: tuple[str, ...] = ()
        self._needs_values = inputs.needs_values(self._code.load)
        #: None: each trial loads its own
        self._data = None if self._needs_values else loaded(study, self._code, None)
        #: a checkpoint of other code is ignored
        self._identity = identity_of(self._code)

    def describe(self, *, seconds: float) -> messages.Prepared:
        """Return the facts that the worker records about the study."""
        data = self._data
        counts = {part.name: part.num_examples for part in data.parts} if data is not None else {}
        return messages.Prepared(
            device=devices.describe(devices.gpu(), self._share),
            classes=(),
            num_train=counts.get("train", 0),
            num_validation=counts.get("validation", 0),
            num_test=counts.get("test", 0),
            epochs=self._study.training.epochs,
            fingerprint="" if data is None else data.fingerprint,
            splits=_digest(data),
            versions=versions(),
            seconds=seconds,
            code=self._code.files,
            asked=self._asked,
            metrics=self._metrics,
        )

    def try_once(self) -> tuple[tuple[str, str], ...]:
        """Build a model of the first values, and train it on one batch.

        Raises:
            DataError: the code fails.
        """
        try:
            return self._tried()
        except TrainingError as error:
            raise DataError(str(error)) from error

    def _tried(self) -> tuple[tuple[str, str], ...]:
        study, order = self._study, messages.Train(trial=0, hyperparameters=first_values(self._study), seed=0, weights="", checkpoint="")
        questions = AskedValues(order, FirstAnswers(), declared=frozenset(study.search))
        hp = HyperParameters(questions)
        data = self._data or loaded(study, self._code, hp)
        model = user_models.build(study, self._code, hp)
        batch = inputs.batch_of(data.train, _TRIED_EXAMPLES)
        logs = user_code.called(lambda: model.train_on_batch(*batch, return_dict=True), doing="training one batch")
        reported = [*logs, *(f"val_{name}" for name in logs)]
        self._asked, self._metrics = questions.questions, tuple(reported)
        names = list(user_models.plain_names(reported).values())
        asked = {name: value for name, value in questions.asked.items() if name not in study.search}
        return (
            *((part.name, part.words) for part in data.parts),
            *([("folds", data.words_of_folds)] if data.words_of_folds else []),
            ("model", f"{type(model).__name__} with {model.count_params():,} parameters"),
            ("metrics", wording.listed(names)),
            *([("asks for", wording.listed(f"{name} (first: {wording.value(value)})" for name, value in asked.items()))] if asked else []),
            *(("warning", warning) for warning in self._doubts(names, questions)),
        )

    def _doubts(self, reported: Sequence[str], questions: AskedValues) -> Iterator[str]:
        """Yield what looks like a mistake after the code was tried once."""
        wanted = self._study.objective.metric
        if ":" not in wanted and self._code.fit is None and objectives.find(wanted, dict.fromkeys(reported, 0.0)) is None:
            yield (
                f"objective.metric is {wanted}, but fit will probably report only {wording.listed(reported)}."
                f"{wording.question(wanted, reported)}"
            )
        if self._code.fit is not None:
            return  # it may read the others
        unused = [name for name in questions.asked if name not in questions.used and name not in _OF_FIT]
        for name in unused:
            yield f"search.{name} is never used: {self._study.model.build} does not read hp[{name!r}]; remove it from the file, or use it"

    def train(self, order: messages.Train, worker: WorkerPort) -> messages.Finished:
        """Train one trial."""
        devices.set_precision(self._study.training.precision)  # the end of the trial before has reset it
        try:
            trial = TrialOfCode(self._study, self._code, self._data, order, worker, identity=self._identity, timing=self.timing)
            return trial.run()
        finally:
            _release_models()

    def evaluate(self, order: messages.Evaluate) -> messages.Evaluated:
        """Score the weights of a trial on the test split, or measure what the constraints limit."""
        model, data, hp = self.trained(order, order.weights)
        if order.measures == "costs":
            return messages.Evaluated(trial=order.trial, num_images=1, costs=user_models.costs(model, data.validation))
        if data.test is None:
            raise TrainingError("the data function returns no test split", kind="NoTestSplit")
        batch_size = int(hp["batch_size"]) if "batch_size" in hp else self._study.training.batch_size
        test = data.test
        if test.arrays is not None:
            x, *rest = test.arrays
            options = dict(zip(("y", "sample_weight"), rest, strict=False))
            logs = model.evaluate(x, **options, batch_size=batch_size, verbose=0, return_dict=True)
        else:
            logs = model.evaluate(test.dataset, verbose=0, return_dict=True)
        logs = {name: float(value) for name, value in logs.items()}
        numbers = {plain: logs[name] for name, plain in user_models.plain_names(logs).items()}
        wanted = self._study.objective.metric.removeprefix("val_")
        metric = self._code.metric
        if metric is not None:
            true, predicted = user_models.outputs(model, test, batch_size)
            value: float | None = float(user_code.called(lambda: metric(true, predicted), doing="computing the metric"))
        else:
            value = objectives.find(wanted, logs)
        return messages.Evaluated(trial=order.trial, loss=numbers.get("loss"), num_images=test.num_examples, value=value, metrics=numbers)

    def predict(self, order: messages.Predict) -> messages.Predicted:
        """Write what the model of a trial predicts for whole splits."""
        model, data, hp = self.trained(order, order.weights[0])
        batch_size = int(hp["batch_size"]) if "batch_size" in hp else self._study.training.batch_size
        parts = {part.name: part for part in data.parts}
        arrays: dict[str, Any] = {}
        start = time.perf_counter()
        for split in order.splits:
            true, predicted = user_models.outputs(model, parts[split], batch_size)
            leaves = tf.nest.flatten(predicted)
            arrays |= {split: np.asarray(leaves[0]), f"{split}_labels": np.asarray(tf.nest.flatten(true)[0])}
        checkpoints.write_arrays(Path(order.to), arrays)
        return messages.Predicted(trial=order.trial, seconds=time.perf_counter() - start)

    @property
    def loads_for_each_trial(self) -> bool:
        """Whether the data depend on the values of a trial."""
        return self._needs_values

    def score(self, model: keras.Model, part: inputs.Part, true: Any, predicted: NDArray[Any]) -> float:
        """Return the metric of the study for predictions (n, …) of a split, of whatever model; `model` says loss and metrics.

        Raises:
            TrainingError: loss and metrics do not give the metric of the study.
        """
        metric, wanted = self._code.metric, self._study.objective.metric.removeprefix("val_")
        if metric is not None:
            return float(user_code.called(lambda: metric(true, predicted), doing="computing the metric"))
        logs = user_code.called(lambda: user_models.logs_of(model, part, true, predicted), doing="scoring predictions")
        found = objectives.find(wanted, logs)
        if found is None:
            raise TrainingError(
                f"the loss and the metrics of the model give no {wanted}, only {wording.listed(user_models.plain_names(logs).values())}",
                kind="NoMetric",
            )
        return float(found)

    def trained(self, order: messages.Evaluate | messages.Predict, weights: str) -> tuple[keras.Model, LoadedData, HyperParameters]:
        """Return the model of a trial with its stored weights, its data and its values."""
        devices.set_precision(self._study.training.precision)
        hp = known_values(order.trial, order.chosen)
        data = self._data or loaded(self._study, self._code, hp)
        model = user_models.build(self._study, self._code, hp)
        _take_weights(model, data, Path(weights), identity=self._identity)
        return model, data, hp


class TrialOfCode:
    """Trains one trial, once."""

    def __init__(
        self,
        study: CustomStudySpec,
        code: Code,
        data: LoadedData | None,
        order: messages.Train,
        worker: WorkerPort,
        *,
        identity: str,
        timing: fitting.CheckpointTiming,
    ) -> None:
        self._study, self._code, self._data, self._order, self._worker, self._identity = study, code, data, order, worker, identity
        self._timing = timing
        self._files = TrialFiles(order, worker, study=identity)
        self._questions = AskedValues(order, worker, declared=frozenset(study.search))
        self._ended: list[EndedTraining] = []
        self._seconds = 0.0
        self._best: Run | None = None
        self._costs: dict[str, float] = {}
        self._curve: Sequence[messages.Epoch] = ()

    def run(self) -> messages.Finished:
        """Train the trial, resume it if there is a checkpoint, and report every epoch to the worker."""
        with user_code.captured() as printed, user_code.contained(self._warn):
            try:
                self._train_all()
                ending, reason = Ending.COMPLETED, ""
            except Interrupted as interrupted:
                ending = Ending.STOPPED if isinstance(interrupted.wanted, messages.Stop) else Ending.SUSPENDED
                reason = ""
            except NotFinite as error:
                ending, reason = Ending.NOT_FINITE, str(error)
        return self._finished(ending, reason, printed.last())

    def _warn(self, message: str) -> None:
        self._worker.send(messages.TrialWarning(trial=self._order.trial, message=message))

    def _train_all(self) -> None:
        suspended = self._files.read()
        num_trainings = self._study.num_folds * self._study.training.executions
        if suspended is not None:
            self._ended = list(suspended.progress.ended)
            self._seconds = sum(one.seconds for one in self._ended)
            self._questions.restore(suspended.progress.asked)
            self._worker.send(messages.Resumed(trial=self._order.trial, curve=suspended.progress.curve))
        data = self._data or loaded(self._study, self._code, HyperParameters(self._questions))
        curve: Sequence[messages.Epoch] = ()
        for number in range(len(self._ended), num_trainings):
            part, seed = data if data.folds is None else data.of_fold(number), self._order.seed_of(number)
            run, state = self._begin(suspended, curve, seed=seed)
            one = Fitting(
                self._study,
                self._code,
                self._order,
                self._worker,
                files=self._files,
                questions=self._questions,
                ended=self._ended,
                best_weights=self._best.best_weights if self._best is not None else (),
                identity=self._identity,
                timing=self._timing,
            )
            if self._ended and suspended is None:
                one.write_checkpoint(run, (), None)  # an ended training is not repeated
            while not self._train_one(one, part, run, state):
                run, state = self._begin(self._files.read(), curve, seed=seed)
            suspended, curve = None, run.curve
            self._ended.append(run.ended(one.first_step))
            if self._study.limits and len(self._ended) == num_trainings:
                self._costs = one.costs(data.validation)

    def _begin(self, suspended: SuspendedTrial | None, curve: Sequence[messages.Epoch], *, seed: int) -> tuple[Run, user_models.Weights]:
        """Return a training at its beginning, or as a checkpoint has it, with the state of its model; `curve`: the epochs before it."""
        if suspended is None:
            return Run(seed=seed, curve=list(curve)), ()
        progress = suspended.progress
        value = None if np.isnan(progress.value) else progress.value
        has_weights = fitting.is_best_training(self._study, value, self._ended)
        run = Run(
            seed=seed,
            epochs=progress.epochs,
            curve=list(progress.curve),
            measured=list(progress.measured),
            best=value,
            best_step=progress.best_step,
            best_metrics=progress.metrics,
            best_weights=suspended.best if has_weights else (),
            seconds=progress.fine_tune_seconds,
            steps=0 if progress.part is None else progress.part.steps,
            part_seconds=0.0 if progress.part is None else progress.part.seconds,
        )
        if self._ended and not has_weights:
            self._best = self._best_of_ended(suspended.best, seed=seed)
        return run, suspended.state

    def _best_of_ended(self, weights: user_models.Weights, *, seed: int) -> Run:
        """Return the best training that ended before a checkpoint was written."""
        best = self._ended[0]
        for one in self._ended[1:]:
            best = one if self._study.objective.is_better(one.value, best.value) else best
        return Run(seed=seed, best=best.value, best_step=best.best_step, best_metrics=best.metrics, best_weights=weights)

    def _train_one(self, one: Fitting, data: LoadedData, run: Run, state: user_models.Weights) -> bool:
        """Train once; return whether it ended: if the memory was too small, it is to be repeated in smaller parts."""
        is_repeated = False
        try:
            one.train(run, data, state)
        except OutOfMemory as error:
            is_repeated = True
            self._warn(one.make_room(data, error))
        finally:
            if not is_repeated:
                self._take(run)
        if is_repeated:
            _release_models()  # not before: the exception holds the model
        return not is_repeated

    def _take(self, run: Run) -> None:
        self._curve, self._seconds = run.curve, self._seconds + run.seconds
        if self._best is None or self._is_better(run):
            self._best = run

    def _is_better(self, run: Run) -> bool:
        before = None if self._best is None else self._best.best
        return run.best is not None and (before is None or self._study.objective.is_better(run.best, before))

    def _finished(self, ending: Ending, reason: str, printed: str) -> messages.Finished:
        weights, spread = None, {}
        run = self._best or Run(seed=self._order.seed)
        value = run.best
        if ending is Ending.COMPLETED:
            weights = self._files.write_weights(run.best_weights) if run.best_weights else None
            if len(self._ended) > 1:
                values = [one.value for one in self._ended]
                value, spread = statistics.fmean(values), messages.spread(values)
        elif ending is not Ending.SUSPENDED:
            self._files.clear()
        if self._study.num_folds > 1:
            return self._of_folds(ending, reason, printed, spread)
        return messages.Finished(
            trial=self._order.trial,
            ending=ending,
            reason=reason,
            value=value,
            best_step=run.best_step or None,
            weights=weights,
            fine_tune_seconds=self._seconds,
            asked=None if ending is Ending.SUSPENDED else dict(self._questions.asked),
            attributes=spread,
            printed=printed,
            metrics=dict(run.best_metrics),
            costs=self._costs,
        )

    def _of_folds(self, ending: Ending, reason: str, printed: str, spread: dict[str, Any]) -> messages.Finished:
        """Return the outcome of a trial with folds: the mean over the folds, and no weights, because no fold has seen all data."""
        known = [epoch.measured for epoch in self._curve if math.isfinite(epoch.measured)]
        names = set.intersection(*(set(one.metrics) for one in self._ended)) if self._ended else set()
        if spread:
            spread = {"folds" if name == "executions" else name: value for name, value in spread.items()}
            spread |= {"best_epochs": [one.best_epoch for one in self._ended]}
        return messages.Finished(
            trial=self._order.trial,
            ending=ending,
            reason=reason,
            value=statistics.fmean(one.value for one in self._ended) if ending is Ending.COMPLETED else known[-1] if known else None,
            fine_tune_seconds=self._seconds,
            asked=None if ending is Ending.SUSPENDED else dict(self._questions.asked),
            attributes=spread,
            printed=printed,
            metrics={name: statistics.fmean(one.metrics[name] for one in self._ended) for name in sorted(names)},
            costs=self._costs,
        )


def loaded(study: CustomStudySpec, code: Code, hp: HyperParameters | None) -> LoadedData:
    """Return the data of a study, with its folds if it has some.

    Raises:
        DataError: the data have another form, or cannot be divided.
        UserCodeError: the code raises an exception.
    """
    data = inputs.load(code.load, hp, has_folds=study.validation is not None)
    return data if study.validation is None or study.num_folds == 1 else folds.divide(data, study.validation, seed=study.seed)


def _digest(data: LoadedData | None) -> str:
    """Return the SHA-256 of the folds; "" if there are none, or each trial loads its own data."""
    return "" if data is None or data.folds is None else hashlib.sha256(data.folds.astype("<i8").tobytes()).hexdigest()


def _release_models() -> None:
    """Free the memory of models that are no longer used."""
    keras.backend.clear_session(free_memory=False)
    keras_private.release_gradients()
    gc.collect()


class FirstAnswers:
    """A worker that answers each question with the first possible value, to try code once."""

    def send(self, message: messages.Message) -> None:
        """Drop a report."""

    def interruption(self) -> None:
        """Return nothing: nobody ends the trial."""

    def decision(self) -> messages.Proceed:
        """Return that the trial continues."""
        return messages.Proceed()

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        """Return the first possible value."""
        if isinstance(question, messages.AskPruning):
            return messages.Answer(value=False)
        first = question.choices[0] if question.low is None else question.low
        return messages.Answer(value=int(first) if question.integer and isinstance(first, int | float) else first)


class KnownAnswers(FirstAnswers):
    """A worker that refuses questions: all values of an ended trial are known."""

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        """Refuse the question."""
        name = question.name if isinstance(question, messages.Ask) else "pruning"
        return messages.Answer(refusal=f"the trial did not ask for {name}, but the code does now: it was changed since")


def first_values(study: CustomStudySpec) -> Any:
    """Return the first possible value of each declared hyperparameter."""
    return choices.suggest(_First(), study)


class _First:
    """A chooser that takes the first possible value."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[0]


def identity_of(code: Code) -> str:
    """Return the digest of the code of a study, with which weights and checkpoints are stored; the study may get another name."""
    return hashlib.sha256("".join(file.sha256 for file in code.files).encode()).hexdigest()


def known_values(trial: int, chosen: Mapping[str, Plain]) -> HyperParameters:
    """Return the values of a trial that has ended; the code may ask for no others."""
    order = messages.Train(trial=trial, hyperparameters=ChosenValues(values=dict(chosen)), seed=0, weights="", checkpoint="")
    return HyperParameters(AskedValues(order, KnownAnswers(), declared=frozenset(chosen)))


def load_model(study: CustomStudySpec, trial: int, chosen: Mapping[str, Plain], weights: Path) -> keras.Model:
    """Return the model of a trial with its stored weights; data are loaded only if a model of its own class must be called once.

    Raises:
        RequestError: the code, the data or the weights cannot be used.
        UserCodeError: the code raises an exception.
    """
    code, hp = Code(study), known_values(trial, chosen)
    model = user_models.build(study, code, hp)
    # a model of its own class is built by its first call
    data = None if model.built else loaded(study, code, hp if inputs.needs_values(code.load) else None)
    _take_weights(model, data, weights, identity=identity_of(code))
    return model


def _take_weights(model: keras.Model, data: LoadedData | None, weights: Path, *, identity: str) -> None:
    if data is not None:
        model(inputs.batch_of(data.validation, 1)[0])
    try:
        stored = checkpoints.read_weights(weights, study=identity)
    except DataError as error:
        raise DataError(
            f"the weights in {weights} were trained with other code: a file that the study names was changed since. Restore the file"
        ) from error
    model.set_weights(stored)


def prepare(study: CustomStudySpec, *, cache: Path, share: TrainerShare) -> PreparedCode:
    """Import the code of a study, and load its data.

    Raises:
        RequestError: the code or the data cannot be used.
    """
    devices.set_precision(study.training.precision)
    try:
        return PreparedCode(study, share=share)
    except user_code.UserCodeError as error:
        raise DataError(str(error)) from error


def versions() -> dict[str, str]:
    """Return the versions of the software that trains trials."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "tuner": metadata.version("tuner"),
    }
