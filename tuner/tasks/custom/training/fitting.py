"""Fitting: trains one user model with `keras.Model.fit`, reports each epoch, and resumes from a checkpoint."""

import contextlib
import functools
import inspect
import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import wording
from tuner.errors import DataError, RequestError, TrainingError
from tuner.kernels import checkpoints, keras_private
from tuner.kernels.checkpoints import EndedTraining, Progress, SuspendedTrial, TrialFiles
from tuner.protocol import messages
from tuner.protocol.messages import Stage, WorkerPort
from tuner.spec import objective as objectives
from tuner.tasks.custom.running.values import AskedValues, HyperParameters, Interrupted
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import inputs
from tuner.tasks.custom.training.inputs import LoadedData, TrainBatches
from tuner.trust import user_code

Weights = tuple[NDArray[Any], ...]

#: minimum time between two messages that an epoch still runs, unless the study allows less silence
_BUSY_SECONDS = 5.0
#: where a word of a class's name begins: `MeanSquaredError`, `TopKCategoricalAccuracy`, but not within `AUC`
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
#: predictions that are scored at once
_SCORED = 256
#: calls of a model that are timed, and calls before them
_TIMED, _WARM_UP = 30, 5
#: attributes of the message of an epoch that have a name of Keras
_KNOWN = {"loss": "loss", "accuracy": "accuracy", "validation_loss": "val_loss", "validation_accuracy": "val_accuracy"}


@dataclass(frozen=True, kw_only=True)
class CheckpointTiming:
    """When a checkpoint is written."""

    #: part of the time of training that checkpoints may take
    share: float = 0.03
    #: after so many seconds, a checkpoint is due whatever it costs
    most_seconds: float = 60.0
    #: minimum time between two checkpoints in the middle of an epoch
    part_seconds: float = 5.0


class NotFinite(Exception):
    """The loss or the metric of an epoch is no number."""


class OutOfMemory(Exception):
    """A step of the training needs more memory than there is."""


@dataclass(kw_only=True)
class Run:
    """One training: the progress that a checkpoint holds."""

    seed: int
    epochs: int = 0
    #: the epochs of the whole trial, with those of its earlier trainings
    curve: list[messages.Epoch] = field(default_factory=list)
    #: the metric of the study in each epoch
    measured: list[float] = field(default_factory=list)
    best: float | None = None
    best_step: int = 0
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    best_weights: Weights = ()
    seconds: float = 0.0
    #: finished steps of the current epoch, and their time in earlier attempts
    steps: int = 0
    part_seconds: float = 0.0

    def begin_anew(self) -> None:
        """Forget the epochs so far, but not their time."""
        del self.curve[len(self.curve) - self.epochs :]
        self.epochs, self.measured, self.best, self.best_step, self.best_metrics, self.best_weights = 0, [], None, 0, {}, ()
        self.steps, self.part_seconds = 0, 0.0

    def ended(self, first_step: int) -> EndedTraining:
        """Return the result of the training, whose first epoch is the step after `first_step`."""
        assert self.best is not None, "it reported a value"
        return EndedTraining(
            value=self.best,
            best_step=self.best_step,
            best_epoch=max(1, self.best_step - first_step),
            seconds=self.seconds,
            metrics=dict(self.best_metrics),
        )


class Code:
    """The user functions that a study names."""

    def __init__(self, study: CustomStudySpec) -> None:
        self.files = user_code.read([name for _, name in study.named_code()], study.folder)
        build = user_code.load(study.model.build, study.folder, field="model.build")
        # a class of KerasTuner's form: its objects have the methods build and fit
        self.hypermodel = user_code.called(build, doing=f"making a {study.model.build}") if isinstance(build, type) else None
        found = build if self.hypermodel is None else getattr(self.hypermodel, "build", None)
        if found is None:
            raise DataError(f"model.build is {study.model.build}, a class without a method build; expected a method build(self, hp)")
        self.build: Callable[..., Any] = found
        self.load = user_code.load(study.data.load, study.folder, field="data.load")
        user_code.require_arguments(self.build, study.model.build, field="model.build", form="build(hp)")
        user_code.require_arguments(self.load, study.data.load, field="data.load", form="load() or load(hp)", least=0)
        metric = study.objective.metric
        self.metric = user_code.load(metric, study.folder, field="objective.metric") if ":" in metric else None

    @property
    def fit(self) -> Callable[..., Any] | None:
        """The method `fit` of a class of KerasTuner's form; None if the class has none of its own."""
        if self.hypermodel is None:
            return None
        own = getattr(type(self.hypermodel), "fit", None)
        is_inherited = own is None or getattr(own, "__module__", "").startswith(("keras_tuner", "kerastuner"))
        return None if is_inherited else self.hypermodel.fit


def build(study: CustomStudySpec, code: Code, hp: HyperParameters) -> keras.Model:
    """Return the compiled model of a trial.

    Raises:
        TrainingError: `build` returns something else, or an uncompiled model for which the study file gives no loss.
        UserCodeError: it raises an exception.
    """
    model = user_code.called(lambda: code.build(hp), doing="building the model", passes=(Interrupted, TrainingError))
    if not isinstance(model, keras.Model):
        what = "None; did it forget to return the model?" if model is None else f"a {type(model).__name__}"
        raise TrainingError(
            f"{study.model.build} returned {what}; expected a keras.Model".replace("?; expected", "? Expected"), kind="NotAModel"
        )
    if not model.compiled:
        _compile(study, model, hp)
    return model


def _compile(study: CustomStudySpec, model: keras.Model, hp: HyperParameters) -> None:
    training = study.training
    if training.loss is None:
        raise RequestError(
            f"{study.model.build} returned a model that is not compiled, and the study file gives no loss; "
            "call model.compile in it, or add for example `training: {loss: mse}`"
        )
    name = hp["optimizer"] if "optimizer" in hp else training.optimizer  # noqa: SIM401 -- hp is no dict
    try:
        optimizer = keras.optimizers.get(name)
        for key in ("learning_rate", "momentum", "weight_decay"):
            if key in hp and hasattr(optimizer, key):
                setattr(optimizer, key, hp[key])
        model.compile(optimizer=optimizer, loss=training.loss, metrics=list(training.metrics or ()))
    except (ValueError, TypeError) as error:
        message = f"the model cannot be compiled with optimizer {wording.show(name)} and loss {wording.show(training.loss)}: {error}"
        if "optimizer" in hp:  # another trial may have another one
            raise TrainingError(message, kind="NotCompiled") from error
        raise RequestError(message) from error


class Fitting:
    """Trains one model, once."""

    def __init__(  # noqa: PLR0913
        self,
        study: CustomStudySpec,
        code: Code,
        order: messages.Train,
        worker: WorkerPort,
        *,
        files: TrialFiles,
        questions: AskedValues,
        ended: Sequence[EndedTraining],
        best_weights: Weights,
        identity: str,
        timing: CheckpointTiming,
    ) -> None:
        """`ended`: the trainings of the trial that have ended; `best_weights`: those of the best of them."""
        self._study, self._code, self._order, self._worker = study, code, order, worker
        self._files, self._questions, self._identity = files, questions, identity
        self._ended, self._best_weights = tuple(ended), best_weights
        self.timing = timing
        #: examples that a step processes at once; None: the whole batch
        self._part_size: int | None = None
        #: None: the user's own `fit` chooses them
        self.batches: TrainBatches | None = None
        #: the model of the training, once it is built
        self.model: keras.Model | None = None
        self.hp = HyperParameters(questions)

    def train(self, run: Run, data: LoadedData, state: Weights = ()) -> None:
        """Train a model from the state of a checkpoint, or from its beginning; `run` follows the progress.

        Raises:
            Interrupted: the worker ends the trial.
            NotFinite: the loss or the metric is no number.
            TrainingError: the model cannot be trained.
            RequestError: `fit` does not report the metric of the study.
            OutOfMemory: a step needs too much memory; `make_room` may help.
        """
        own_fit = self._code.fit
        if own_fit is None:
            steps = self._study.training.steps_per_epoch
            self.batches = user_code.called(
                lambda: TrainBatches(data.train, batch_size=self.batch_size, steps_per_epoch=steps, seed=run.seed),
                doing="counting the batches",
            )
        if own_fit is not None and run.epochs and not _takes_initial_epoch(own_fit):
            run.begin_anew()
            state = ()
        keras.utils.set_random_seed((run.seed + run.epochs) % 2**32)
        model = self.model = build(self._study, self._code, self.hp)
        if state:
            _build_layers(model, data)
            if run.steps:
                # a model that only runs eagerly begins the rest of its epoch with metrics at zero
                with contextlib.suppress(user_code.UserCodeError):
                    one = inputs.batch_of(data.train, 1)
                    user_code.called(lambda: keras_private.build_metrics(model, one), doing="building the metrics")
        if self._part_size is not None:
            _split_steps(model, data, self._part_size)
        watch = _Watch(self, run, model, data, state)
        try:
            if own_fit is not None:
                result = user_code.called(lambda: self._call_own_fit(own_fit, model, data, run, watch), doing="fitting", passes=_OURS)
                self._take_result(result, run)
            elif not self.has_stalled(run):  # a checkpoint may be of the last epoch
                user_code.called(lambda: self._fit(model, data, run, watch), doing="fitting the model", passes=_OURS)
        except user_code.UserCodeError as error:
            if isinstance(error.__cause__, tf.errors.ResourceExhaustedError):
                raise OutOfMemory from error.__cause__
            raise _explained(error, data) from error.__cause__
        if run.best is None:
            raise RequestError(f"fit reported no epoch, so the study has no {self._study.objective.metric} to choose by")

    def make_room(self, data: LoadedData, error: OutOfMemory) -> str:
        """Process half as many examples at once from now on, and return what is done, in words.

        Raises:
            TrainingError: not even one example fits, or a step cannot be split without another result.
        """
        model, self.model = self.model, None
        assert model is not None, "it was trained"
        size = self._part_size or _size_of_batch(data, self.batch_size)
        why = "it is one example" if size == 1 else _why_whole(model, self._code)
        if why:
            raise TrainingError(
                f"out of memory: the model cannot be trained with {wording.count(size, 'example')} at once, and tuner cannot split such a "
                f"step, because {why}. Lower batch_size, or make the model smaller",
                kind="OutOfMemory",
            ) from error.__cause__
        self._part_size = -(-size // 2)
        averages = any(isinstance(layer, keras.layers.BatchNormalization) for layer in keras_private.inner_layers(model))
        note = "; its BatchNormalization uses the statistics of these parts instead of those of the batch" if averages else ""
        return (
            f"out of memory with {wording.count(size, 'example')} at once; the training continues from its last checkpoint, "
            f"or begins again, with {self._part_size} at a time and the same batch size{note}"
        )

    def costs(self, part: inputs.Part) -> dict[str, float]:
        """Return the time of one example in milliseconds, and the size of the weights in megabytes.

        Raises:
            DataError: the split is a generator, which has no example to try.
        """
        assert self.model is not None, "it was trained"
        return costs(self.model, part)

    @property
    def metric(self) -> str:
        """Name of the metric of the study."""
        return self._study.objective.metric

    @property
    def num_epochs(self) -> int:
        """Epochs of a training."""
        if not self._study.measured_on_new_data:
            return self._study.training.epochs  # the mean of the best epochs, whatever the trial searched
        return int(self.hp["epochs"]) if "epochs" in self.hp else self._study.training.epochs

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return int(self.hp["batch_size"]) if "batch_size" in self.hp else self._study.training.batch_size

    def _fit(self, model: keras.Model, data: LoadedData, run: Run, watch: "_Watch") -> None:
        """Call `fit`, which begins with whole epochs only: the rest of an epoch is a call of its own."""
        if run.steps:
            self._fit_epochs(model, data, run, watch, last=run.epochs + 1)
            if model.stop_training:
                return
        if run.epochs < self.num_epochs:
            self._fit_epochs(model, data, run, watch, last=self.num_epochs)

    def _fit_epochs(self, model: keras.Model, data: LoadedData, run: Run, watch: "_Watch", *, last: int) -> None:
        assert self.batches is not None, "the model has no `fit` of its own"
        batches, steps = self.batches.rest(lambda: run.epochs, first_step=run.steps)
        model.fit(
            batches,
            epochs=last,
            initial_epoch=run.epochs,
            steps_per_epoch=steps,
            shuffle=self.batches.num_steps is None and isinstance(batches, keras.utils.PyDataset),  # Keras warns of other data sets
            validation_data=_validation(data),
            validation_batch_size=(self._part_size or self.batch_size) if data.validation.arrays is not None else None,
            callbacks=[watch],
            verbose=0,
        )

    def _call_own_fit(self, fit: Callable[..., Any], model: keras.Model, data: LoadedData, run: Run, watch: "_Watch") -> Any:
        """Call the method `fit` of a class of KerasTuner's form as KerasTuner does."""
        arrays = (data.train.dataset,) if data.train.arrays is None else data.train.arrays
        options = {"validation_data": _validation(data), "callbacks": [watch], "epochs": self.num_epochs, "verbose": 0}
        if run.epochs and _takes_initial_epoch(fit):
            options["initial_epoch"] = run.epochs
        return fit(self.hp, model, *arrays, **options)

    def _take_result(self, result: Any, run: Run) -> None:
        """Take the value that a method `fit` returns, if it is one; a history or nothing is what the epochs reported.

        Raises:
            NotFinite: it is no number.
            TrainingError: it is something else.
        """
        metric = self._study.objective.metric
        if result is None or isinstance(result, keras.callbacks.History):
            return
        if isinstance(result, Mapping):
            named = {str(name): value for name, value in result.items()}
            result = named.get(metric, named.get(next((name for name in named if objectives.plain_name(name) == metric), metric)))
            if result is None:
                raise TrainingError(
                    f"fit returned {wording.listed(named) or 'an empty dict'}, but objective.metric is {metric}; return it, too",
                    kind="NotANumber",
                )
        try:
            if isinstance(result, str | bytes | bool | tuple | list):
                raise TypeError
            run.best = float(result)
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"fit returned {wording.show(result)}; expected a number, a dict with {metric}, a History or None", kind="NotANumber"
            ) from error
        if not math.isfinite(run.best):
            value, run.best = run.best, None
            raise NotFinite(f"fit returned {value:g}")

    @property
    def busy_seconds(self) -> float:
        """Minimum time between two messages that an epoch still runs."""
        return min(_BUSY_SECONDS, (self._study.stall_seconds or math.inf) / 4)

    def can_resume_after(self, step: int) -> bool:
        """Return whether a trial can resume after a step of an epoch: the order of the batches is known, and some are left."""
        num_steps = None if self.batches is None else self.batches.num_steps
        # at the end of each `fit`, Keras replaces the weights by their average, which the rest of an epoch would do too early
        averages = bool(getattr(getattr(self.model, "optimizer", None), "use_ema", False))
        return num_steps is not None and 0 < step < num_steps and not averages

    def wanted(self) -> messages.Stop | messages.Suspend | None:
        """Return the worker's request to end the trial, if there is one."""
        return self._worker.interruption()

    def busy(self) -> None:
        """Tell the worker that a long epoch still runs."""
        self._worker.send(messages.Busy(trial=self._order.trial))

    def report(self, epoch: messages.Epoch) -> None:
        """Send an epoch to the worker."""
        self._worker.send(epoch)

    def epoch(self, run: Run, logs: Mapping[str, float], value: float, *, seconds: float, learning_rate: float) -> messages.Epoch:
        """Return the message of an epoch."""
        known = {name: float(logs[key]) for name, key in _KNOWN.items() if key in logs}
        return messages.Epoch(
            trial=self._order.trial,
            stage=Stage.TRAIN,
            step=self.first_step + run.epochs,
            seconds=seconds,
            value=self._mean_with(value, run),
            metrics={plain: float(logs[name]) for name, plain in plain_names(logs).items()},
            learning_rate=learning_rate,
            **known,
        )

    @property
    def first_step(self) -> int:
        """Step before the first epoch of the training."""
        return len(self._ended) * self.num_epochs

    def _mean_with(self, value: float, run: Run) -> float:
        """Return the value of an epoch; in a study with folds, the mean over the folds so far, each with its best epoch so far."""
        if self._study.num_folds == 1:
            return value
        best = value if self.is_better(value, run) or run.best is None else run.best
        return statistics.fmean([*(one.value for one in self._ended), best])

    def value_of(self, model: keras.Model, logs: Mapping[str, float], data: LoadedData) -> float:
        """Return the metric of the study after an epoch.

        Raises:
            RequestError: `fit` does not report it.
        """
        metric = self._study.objective.metric
        if self._code.metric is not None:
            return self._measured(self._code.metric, model, data)
        found = objectives.find(metric, logs)
        if found is None:
            names = list(plain_names(logs).values())
            raise RequestError(
                f"objective.metric is {metric}, but fit reports only {wording.listed(names)}; name one of these, or add the metric in "
                f"model.compile.{wording.question(metric, names)}"
            )
        return float(found)

    def _measured(self, metric: Callable[..., Any], model: keras.Model, data: LoadedData) -> float:
        true, predicted = outputs(model, data.validation, self._part_size or self.batch_size)
        value = user_code.called(lambda: metric(true, predicted), doing="computing the metric")
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise TrainingError(f"the metric returned {wording.show(value)}; expected one number", kind="NotANumber") from error

    def is_better(self, value: float, run: Run) -> bool:
        """Return whether a value is the best of a training; if nothing measures it on new data, the last one is."""
        if not self._study.measured_on_new_data:
            return math.isfinite(value)
        return math.isfinite(value) and (run.best is None or self._study.objective.is_better(value, run.best))

    def has_stalled(self, run: Run) -> bool:
        """Return whether early stopping ends a training."""
        stopping = self._study.training.early_stopping
        if stopping is None or not self._study.measured_on_new_data:
            return False
        merit, wait, best = self._study.objective.merit, 0, -math.inf
        for value in run.measured:
            improves = math.isfinite(value) and merit(value) > best + stopping.min_delta
            wait, best = (0, merit(value)) if improves else (wait + 1, best)
        return wait >= stopping.patience

    def kept_weights(self, model: keras.Model) -> Weights:
        """Return the weights of a model whose epoch is the best so far; the model of one fold is not kept."""
        return tuple(model.get_weights()) if self._study.num_folds == 1 else ()

    def write_checkpoint(self, run: Run, state: Weights, part: checkpoints.EpochPart | None) -> None:
        """Write the progress of a training, from which another trainer resumes it."""
        progress = Progress(
            study=self._identity,
            hyperparameters=self._order.hyperparameters,
            seed=self._order.seed,
            epochs=run.epochs,
            curve=tuple(run.curve),
            best_step=run.best_step,
            value=math.nan if run.best is None else run.best,
            loss=math.nan,
            probe_seconds=0.0,
            fine_tune_seconds=run.seconds,
            part=part,
            ended=self._ended,
            measured=tuple(run.measured),
            metrics=dict(run.best_metrics),
            asked=dict(self._questions.asked),
        )
        is_best = is_best_training(self._study, run.best, self._ended)
        best = run.best_weights if is_best else self._best_weights
        self._files.write_checkpoint(SuspendedTrial(progress=progress, state=state, best=best))


def is_best_training(study: CustomStudySpec, value: float | None, ended: Sequence[EndedTraining]) -> bool:
    """Return whether a training with this best value so far is the best one of its trial, given those that have ended."""
    return value is not None and all(study.objective.is_better(value, one.value) for one in ended)


#: exceptions of tuner that pass through `fit`
_OURS = (Interrupted, NotFinite, RequestError, TrainingError)


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports each epoch, keeps the best weights, writes checkpoints, and ends the training when the worker wants that."""

    def __init__(self, fitting: Fitting, run: Run, model: keras.Model, data: LoadedData, state: Weights) -> None:
        super().__init__()
        self._fitting, self._training, self._data, self._state, self._first_model = fitting, run, data, state, model
        self._began = self._told_at = time.perf_counter()
        self._written_at, self._cost_seconds = time.perf_counter(), 0.0
        #: steps of the current epoch before this call of `fit`
        self._first_step = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the time, and tell the worker that the training begins."""
        self._fitting.busy()
        self._began = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restore the state of the checkpoint, if this is its epoch: the model and its optimizer are built now."""
        run = self._training
        self._first_step = run.steps
        if self._state and epoch == run.epochs:
            restore(self.model, self._state)
            if not run.steps:
                self.model.reset_metrics()
            self._state = ()
        self._begin_anew_if_unrestored()

    def _begin_anew_if_unrestored(self) -> None:
        """Forget the checkpoint if a user's `fit` begins at another epoch."""
        if self._state:
            self._state = ()
            self._training.begin_anew()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Obey the worker, and write a checkpoint or tell it that the training still runs, in a long epoch."""
        now = time.perf_counter()
        wanted, step = self._fitting.wanted(), self._first_step + batch + 1
        if self._fitting.can_resume_after(step):
            part = checkpoints.EpochPart(steps=step, sums=(0.0, 0.0), seconds=self._training.part_seconds + now - self._began)
            if isinstance(wanted, messages.Suspend) and wanted.keeps:
                self._write(part)
            elif wanted is None and now - self._written_at > self._fitting.timing.part_seconds:
                self._write_if_due(now, part)
        self._obey(wanted, now)

    def _obey(self, wanted: messages.Stop | messages.Suspend | None, now: float) -> None:
        if wanted is not None:
            raise Interrupted(wanted)
        if now - self._told_at > self._fitting.busy_seconds:
            self._told_at = now
            self._fitting.busy()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Obey the worker while the validation data are scored."""
        self._obey(self._fitting.wanted(), time.perf_counter())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report the epoch."""
        self._begin_anew_if_unrestored()  # a user's loop may tell of ends only
        fitting, run = self._fitting, self._training
        logs = {name: float(value) for name, value in (logs or {}).items()}
        value = fitting.value_of(self.model, logs, self._data)
        now = time.perf_counter()
        seconds, self._began = run.part_seconds + now - self._began, now
        run.steps, run.part_seconds, self._first_step = 0, 0.0, 0
        run.epochs, run.seconds = epoch + 1, run.seconds + seconds
        message = fitting.epoch(run, logs, value, seconds=seconds, learning_rate=_learning_rate(self.model))
        run.curve.append(message)
        run.measured.append(value)
        if fitting.is_better(value, run):
            run.best, run.best_step, run.best_metrics = value, message.step, message.metrics
            run.best_weights = fitting.kept_weights(self.model)
        fitting.report(message)
        for name, number in (("loss", logs.get("loss", 0.0)), (fitting.metric, value)):
            if not math.isfinite(number):
                raise NotFinite(f"the {name} was {number:g} in epoch {epoch + 1}; the learning rate may be too high")
        if fitting.has_stalled(run):
            self.model.stop_training = True
        self._write_if_due(now)
        self._began = time.perf_counter()

    def _write_if_due(self, now: float, part: checkpoints.EpochPart | None = None) -> None:
        """Write a checkpoint if the training since the last one is worth its cost."""
        since, timing = now - self._written_at, self._fitting.timing
        if since >= min(self._cost_seconds / timing.share, timing.most_seconds):
            self._write(part)

    def _write(self, part: checkpoints.EpochPart | None) -> None:
        """Write a checkpoint, in the middle of an epoch with the part of it that is trained."""
        start = time.perf_counter()
        self._fitting.write_checkpoint(self._training, state_of(self.model, in_epoch=part is not None), part)
        self._written_at = time.perf_counter()
        self._cost_seconds = self._written_at - start


def plain_names(reported: Iterable[str]) -> dict[str, str]:
    """Return the name of each reported metric without the number that Keras appends to a name of its own that it gives again.

    `val_auc_2` becomes `val_auc`; `recall_at_5`, which the user has named, stays, as do `auc` and `auc_1` beside each other.
    """
    names = list(reported)
    own = {name: objectives.plain_name(name) for name in names}
    alike = Counter(own.values())
    return {name: plain if alike[plain] == 1 and _is_of_keras(plain) else name for name, plain in own.items()}


def _is_of_keras(name: str) -> bool:
    """Return whether a name ends like one that Keras gives to a metric: behind the name of an output, or behind `val`."""
    return any(name == known or name.endswith(f"_{known}") for known in _names_of_metrics())


@functools.cache
def _names_of_metrics() -> frozenset[str]:
    """Return the names that Keras gives to its metrics: `mean_squared_error`, `auc`."""
    kinds = [kind for kind in vars(keras.metrics).values() if isinstance(kind, type) and issubclass(kind, keras.metrics.Metric)]
    return frozenset(_CAPITAL.sub("_", kind.__name__).lower() for kind in kinds)


def _takes_initial_epoch(fit: Callable[..., Any]) -> bool:
    """Return whether a method `fit` passes keyword arguments on, or has this one."""
    parameters = inspect.signature(fit).parameters
    return "initial_epoch" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _validation(data: LoadedData) -> Any:
    validation = data.validation
    return validation.dataset if validation.arrays is None else validation.arrays


def _learning_rate(model: keras.Model) -> float:
    try:
        return float(model.optimizer.learning_rate)
    except (AttributeError, TypeError, ValueError):  # several optimizers, or one without a rate
        return math.nan


def optimizers(model: keras.Model) -> list[Any]:
    """Return the optimizers of a model: that of `compile`, and those that a user's `train_step` has."""
    found = [model.optimizer, *vars(model).values()]
    return list({id(each): each for each in found if isinstance(each, keras.optimizers.Optimizer)}.values())


def _build_layers(model: keras.Model, data: LoadedData) -> None:
    """Make the variables of a model of its own class, as the first batch would; a user's `train_step` may need no `call`."""
    if all(layer.built for layer in keras_private.inner_layers(model)):
        return
    user_code.called(lambda: model(inputs.batch_of(data.train, 1)[0]), doing="building the layers of the model")


def _size_of_batch(data: LoadedData, batch_size: int) -> int:
    train = data.train
    return min(batch_size, train.num_examples) if train.arrays is not None else len(tf.nest.flatten(inputs.batch_of(train, 1))[0])


def _why_whole(model: keras.Model, code: Code) -> str:
    """Return why a step cannot be split into parts with the same result; "" if it can."""
    if code.fit is not None:
        return "your class has its own fit"
    if type(model).train_step is not keras.Model.train_step:
        return "the model has its own train_step"
    losses = [loss for loss in tf.nest.flatten(model.loss) if loss is not None]
    is_other = any(getattr(loss, "reduction", "mean") not in ("sum_over_batch_size", "mean") for loss in losses)
    own = [loss for loss in losses if callable(loss) and not isinstance(loss, keras.losses.Loss)]
    if is_other or any(_is_total(loss, model) for loss in own):
        return "its loss is no mean over the examples"
    return ""


def _is_total(loss: Callable[..., Any], model: keras.Model) -> bool:
    """Return whether a loss function returns one number for a batch, of which nobody knows how it depends on the examples."""
    shape = tf.nest.flatten(model.output_shape)[0] if getattr(model, "output_shape", None) else (None, 1)
    two = tf.ones([2, *(1 if size is None else int(size) for size in tuple(shape)[1:])])
    try:
        return len(user_code.called(lambda: tf.convert_to_tensor(loss(two, two)), doing="trying the loss").shape) == 0
    except user_code.UserCodeError:
        return True


def _split_steps(model: keras.Model, data: LoadedData, part_size: int) -> None:
    """Make each step of `fit` process its batch in parts, one after another; weights change once, by the mean gradient of the batch.

    Each part is a `train_step` of Keras, whose optimizer hands over the gradients. Their sum, weighted by the sizes of the parts, is exact
    for losses that are means over the examples, for an incomplete last batch, too. `gradient_accumulation_steps` of the optimizer is not:
    it joins the end of an epoch with the beginning of the next one, and changes what the optimizer stores in checkpoints.
    """
    _build_layers(model, data)
    one = inputs.batch_of(data.train, 1)
    user_code.called(lambda: keras_private.build_metrics(model, one), doing="splitting a step that needs too much memory")
    optimizer, variables = model.optimizer, model.trainable_variables
    if not optimizer.built:
        optimizer.build(variables)
    whole_step = model.train_step
    found: list[Any] = []

    def train_step(batch: Any) -> Any:
        count = tf.shape(tf.nest.flatten(batch)[0])[0]
        unused: set[int] = set()

        def add(start: Any, *sums: Any) -> tuple[Any, ...]:
            end = tf.minimum(start + part_size, count)
            found.clear()
            whole_step(tf.nest.map_structure(lambda array: array[start:end], batch))
            unused.update(index for index, gradient in enumerate(found) if gradient is None)
            share = tf.cast(end - start, tf.float32) / tf.cast(count, tf.float32)
            added = [0.0 if gradient is None else tf.cast(share, gradient.dtype) * tf.convert_to_tensor(gradient) for gradient in found]
            found.clear()
            return end, *(total + tf.cast(more, total.dtype) for total, more in zip(sums, added, strict=True))

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
        _, *sums = tf.while_loop(lambda start, *_: start < count, add, (tf.constant(0), *zeros), parallel_iterations=1)
        optimizer.apply([None if index in unused else total for index, total in enumerate(sums)], variables)
        return model.get_metrics_result()

    optimizer.apply_gradients = lambda pairs, **_: found.extend(gradient for gradient, _ in pairs)
    model.train_step = train_step
    model.jit_compile = False  # the number of parts is known at run time


def state_of(model: keras.Model, *, in_epoch: bool = False) -> Weights:
    """Return the values of all variables of a model and its optimizers, with the states of its random generators.

    The first array holds their numbers: of the model, then of each optimizer, then of the metrics if this is in the middle of an epoch.
    """
    groups = [model.variables, *(optimizer.variables for optimizer in optimizers(model)), *([model.metrics_variables] if in_epoch else [])]
    counts = np.array([len(group) for group in groups])
    return (counts, *(np.asarray(variable) for group in groups for variable in group))


def restore(model: keras.Model, state: Weights) -> None:
    """Give a built model and its optimizers their earlier values.

    An optimizer of a user's `train_step` begins anew: only that code knows which variables it has.

    Raises:
        TrainingError: the code builds another model than before.
    """
    counts, values = [int(count) for count in state[0]], list(state[1:])
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    groups = [model.variables, *(optimizer.variables for optimizer in optimizers(model))]
    if len(counts) == len(groups) + 1:
        groups.append(model.metrics_variables)
    if len(groups) != len(counts) or counts[0] != len(groups[0]):
        raise _changed_model()
    for group, count in zip(groups, counts, strict=True):
        own, values = values[:count], values[count:]
        if len(group) != count:
            continue
        if [tuple(variable.shape) for variable in group] != [each.shape for each in own]:
            raise _changed_model()
        for variable, value in zip(group, own, strict=True):
            variable.assign(value)


def _changed_model() -> TrainingError:
    return TrainingError("the checkpoint does not fit the model: the code builds another one than before", kind="ChangedModel")


def outputs(model: keras.Model, part: inputs.Part, batch_size: int) -> tuple[Any, Any]:
    """Return the true values of a split (n, …) and what a model predicts for it (n, …)."""
    if part.arrays is not None:
        true = part.arrays[1] if len(part.arrays) > 1 else part.arrays[0]
        return true, model.predict(part.arrays[0], batch_size=batch_size, verbose=0)
    batches = part.dataset if not isinstance(part.dataset, keras.utils.PyDataset) else (part.dataset[i] for i in range(len(part.dataset)))
    trues, predicted = [], []
    for batch in batches:
        trues.append(tf.nest.map_structure(np.asarray, batch[1]))
        predicted.append(tf.nest.map_structure(np.asarray, model.predict_on_batch(batch[0])))
    joined = [tf.nest.map_structure(lambda *each: np.concatenate(each), *many) for many in (trues, predicted)]
    return joined[0], joined[1]


class _Given(keras.Model):  # type: ignore[misc]
    """A model that predicts what it is given."""

    def call(self, predicted: Any) -> Any:
        """Return the predictions."""
        return predicted


def _of_one_output(given: Any) -> Any:
    """Return what a model with one output was compiled with, without the name of this output."""
    return next(iter(given.values())) if isinstance(given, Mapping) and len(given) == 1 else given


def logs_of(model: keras.Model, part: inputs.Part, true: Any, predicted: NDArray[Any]) -> dict[str, float]:
    """Return what the loss and the metrics that a model was compiled with say of predictions (n, …)."""
    known = keras_private.compile_arguments(model)
    given = _Given(name="given")
    named = {name: _of_one_output(known.get(name)) for name in ("loss", "metrics", "weighted_metrics")}
    given.compile(**named, run_eagerly=known.get("run_eagerly", False))
    weights = part.arrays[2] if part.arrays is not None and len(part.arrays) > 2 else None
    found = given.evaluate(predicted, true, sample_weight=weights, batch_size=_SCORED, verbose=0, return_dict=True)
    return {name: float(value) for name, value in found.items()}


def costs(model: keras.Model, part: inputs.Part) -> dict[str, float]:
    """Return the median time of one example in milliseconds, after a warm-up, and the size of the weights in megabytes.

    Raises:
        DataError: the split is a generator, which has no example to try.
        UserCodeError: the code raises an exception.
    """
    return user_code.called(lambda: _costs(model, part), doing="measuring the time of one example", passes=(RequestError,))


def _costs(model: keras.Model, part: inputs.Part) -> dict[str, float]:
    x = inputs.batch_of(part, 1)[0]
    one = tf.nest.map_structure(lambda array: tf.convert_to_tensor(np.asarray(array)[:1]), x)
    call = tf.function(lambda given: model(given, training=False))
    times = []
    for _ in range(_WARM_UP + _TIMED):
        start = time.perf_counter()
        tf.nest.map_structure(np.asarray, call(one))
        times.append(time.perf_counter() - start)
    num_bytes = sum(weight.nbytes for weight in model.get_weights())
    return {"latency_ms": 1000 * statistics.median(times[_WARM_UP:]), "size_mb": num_bytes / 1e6}


def _explained(error: user_code.UserCodeError, data: LoadedData) -> TrainingError:
    """Return an exception of `fit` as Keras and TensorFlow mean it: without the trace of the graph, and with the shapes of the data."""
    cause, text = error.__cause__, str(error)
    if isinstance(cause, tf.errors.OpError):
        lines = [line.strip() for line in (cause.message or "").splitlines() if line.strip()]
        essential = next((line for line in lines if not line.startswith(("Graph execution error", "Detected at node", "File "))), text)
        text = f"{type(cause).__name__}: {essential} (while fitting the model)"
    if isinstance(cause, ValueError | TypeError | tf.errors.InvalidArgumentError):
        shapes = "; ".join(f"{part.name} {part.words}" for part in (data.train, data.validation))
        text = f"{text.removesuffix(')')}; the data are: {shapes})"
    return user_code.UserCodeError(text, kind=error.kind)
