"""Fitting: trains one user model with `keras.Model.fit`, reports each epoch, and resumes from a checkpoint."""

import contextlib
import inspect
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from tuner import wording
from tuner.errors import RequestError, TrainingError
from tuner.kernels import checkpoints, keras_private
from tuner.kernels.checkpoints import EndedTraining, Progress, SuspendedTrial, TrialFiles
from tuner.protocol import messages
from tuner.protocol.messages import Stage, WorkerPort
from tuner.spec import objective as objectives
from tuner.tasks.custom.running.values import AskedValues, HyperParameters, Interrupted
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import inputs, user_models
from tuner.tasks.custom.training.inputs import LoadedData, TrainBatches
from tuner.trust import user_code

#: minimum time between two messages that an epoch still runs, unless the study allows less silence
_BUSY_SECONDS = 5.0
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
    best_weights: user_models.Weights = ()
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


class Fitting:
    """Trains one model, once."""

    def __init__(  # noqa: PLR0913
        self,
        study: CustomStudySpec,
        code: user_models.Code,
        order: messages.Train,
        worker: WorkerPort,
        *,
        files: TrialFiles,
        questions: AskedValues,
        ended: Sequence[EndedTraining],
        best_weights: user_models.Weights,
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

    def train(self, run: Run, data: LoadedData, state: user_models.Weights = ()) -> None:
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
        model = self.model = user_models.build(self._study, self._code, self.hp)
        if state:
            user_models.build_layers(model, data)
            if run.steps:
                # a model that only runs eagerly begins the rest of its epoch with metrics at zero
                with contextlib.suppress(user_code.UserCodeError):
                    one = inputs.batch_of(data.train, 1)
                    user_code.called(lambda: keras_private.build_metrics(model, one), doing="building the metrics")
        if self._part_size is not None:
            user_models.split_steps(model, data, self._part_size)
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
        why = "it is one example" if size == 1 else user_models.why_whole(model, self._code)
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
        return user_models.costs(self.model, part)

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
            metrics={plain: float(logs[name]) for name, plain in user_models.plain_names(logs).items()},
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
            names = list(user_models.plain_names(logs).values())
            raise RequestError(
                f"objective.metric is {metric}, but fit reports only {wording.listed(names)}; name one of these, or add the metric in "
                f"model.compile.{wording.question(metric, names)}"
            )
        return float(found)

    def _measured(self, metric: Callable[..., Any], model: keras.Model, data: LoadedData) -> float:
        true, predicted = user_models.outputs(model, data.validation, self._part_size or self.batch_size)
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

    def kept_weights(self, model: keras.Model) -> user_models.Weights:
        """Return the weights of a model whose epoch is the best so far; the model of one fold is not kept."""
        return tuple(model.get_weights()) if self._study.num_folds == 1 else ()

    def write_checkpoint(self, run: Run, state: user_models.Weights, part: checkpoints.EpochPart | None) -> None:
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

    def __init__(self, fitting: Fitting, run: Run, model: keras.Model, data: LoadedData, state: user_models.Weights) -> None:
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
            user_models.restore(self.model, self._state)
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
        self._fitting.write_checkpoint(self._training, user_models.state_of(self.model, in_epoch=part is not None), part)
        self._written_at = time.perf_counter()
        self._cost_seconds = self._written_at - start


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


def _size_of_batch(data: LoadedData, batch_size: int) -> int:
    train = data.train
    return min(batch_size, train.num_examples) if train.arrays is not None else len(tf.nest.flatten(inputs.batch_of(train, 1))[0])


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
