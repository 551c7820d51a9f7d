"""User models in a trainer: the same curve after an interruption, early stopping, checkpoints, several trainings."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tuner.errors import DataError, RequestError, TrainingError
from tuner.kernels import checkpoints
from tuner.machine import TrainerShare
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import ChosenValues
from tuner.tasks.custom.spec.custom_study import CustomStudySpec
from tuner.tasks.custom.training import custom, fitting, inputs
from tuner.tasks.custom.training.custom import PreparedCode

CODE = """
import keras
import numpy as np

def load():
    random = np.random.default_rng(0)
    x = random.normal(size=(96, 4)).astype("float32")
    y = (x[:, :1] - 2 * x[:, 1:2]).astype("float32")
    return (x[:64], y[:64]), (x[64:80], y[64:80]), (x[80:], y[80:])

def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")), "mse", metrics=["mae"])
    return model
"""


#: the same without graphs: to trace them takes longer than a few steps. What may depend on a graph, such as the rest of an epoch, uses CODE
EAGER = CODE.replace('["mae"])', '["mae"], run_eagerly=True)')
#: the same arrays as batches that depend on their index only
BATCHES = """
class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        (x, y), *_ = arrays()
        return x[16 * index : 16 * index + 16], y[16 * index : 16 * index + 16]

def load():
    return Batches(), arrays()[1]
"""
#: the same arrays in a pipeline whose order only its author knows
PIPELINE = """
import tensorflow as tf

def load():
    return tf.data.Dataset.from_tensor_slices(arrays()[0]).batch(16), arrays()[1]
"""


class Recording(keras.Model):  # type: ignore[misc]
    """A model that learns nothing, but remembers the forms and types of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.compile("sgd")

    def train_step(self, data: Any) -> dict[str, Any]:
        self.seen.append(tf.nest.map_structure(lambda tensor: (tensor.dtype.name, tuple(tensor.shape)), data))
        return {"loss": keras.ops.zeros(())}


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches that depend on their index only."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return tuple(tf.nest.map_structure(lambda array: array[4 * index : 4 * index + 4], each) for each in (self.x, self.y))


X = np.random.default_rng(0).normal(size=(10, 3))
Y, WEIGHTS = X[:, 0], np.ones(10)
#: what `fit` takes as x, y and sample_weight
GIVEN = {
    "float64": (X, Y),
    "float16": (X.astype("float16"), Y.astype("float32")),
    "weights": (X, Y, WEIGHTS),
    "a column": (X, Y[:, None]),
    "a dict": ({"a": X, "b": X[:, :1]}, {"u": Y, "v": Y}),
    "a dict and weights": (X, {"u": Y, "v": Y}, WEIGHTS),
    "a dict and its weights": (X, {"u": Y, "v": Y}, {"u": WEIGHTS, "v": WEIGHTS}),
    "a tuple": ((X, X[:, :1]), Y),
    "no labels": (X,),
    "a dict without labels": ({"a": X},),
    "a tuple without labels": ((X, X),),
    "whole numbers": (np.arange(10), np.arange(10, dtype="int32") % 2),
    "pixels": (np.ones((10, 2, 2, 3), np.uint8), np.array([True] * 10)),
    "text": (np.array(["a"] * 10, dtype=object), Y),
}
#: data sets, which are only made in a trainer
MADE: dict[str, Callable[[], Any]] = {
    "a pipeline": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
    "a pipeline without labels": lambda: tf.data.Dataset.from_tensor_slices(X).batch(4),
    "batches": lambda: Numbered(X, Y),
    "batches of dicts": lambda: Numbered({"a": X}, {"u": Y}),
}


@pytest.mark.parametrize("name", [*GIVEN, *MADE])
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_a_train_step_gets_the_batches_that_plain_fit_gives(name: str) -> None:
    keras.utils.set_random_seed(0)
    plain, ours = Recording(), Recording()
    given = GIVEN.get(name) or MADE[name]()
    named = dict(zip(("x", "y", "sample_weight"), given, strict=False)) if name in GIVEN else {"x": given}
    plain.fit(**named, batch_size=4 if name in GIVEN else None, verbose=0)
    train = inputs.read((given, given)).train
    batches, steps = inputs.TrainBatches(train, batch_size=4, steps_per_epoch=None, seed=0).rest(lambda: 0, first_step=0)
    ours.fit(batches, steps_per_epoch=steps, verbose=0)
    assert ours.seen[0] == plain.seen[0]


class Killed(BaseException):
    """The end of a trainer that is killed."""


class Control:
    """A worker in the same process: it gives fixed answers, and interrupts after some epochs."""

    def __init__(
        self, *, suspend_after: int | None = None, suspend_at: int | None = None, dies_at: int | None = None, **values: Any
    ) -> None:
        """`suspend_at`, `dies_at`: after so many batches, of training and of validation."""
        self.told: list[messages.Message] = []
        self.num_batches = 0
        self._suspend_after, self._suspend_at, self._dies_at, self._values = suspend_after, suspend_at, dies_at, values

    def send(self, message: messages.Message) -> None:
        self.told.append(message)

    def interruption(self) -> messages.Stop | messages.Suspend | None:
        self.num_batches += 1
        if self.num_batches == self._dies_at:
            raise Killed
        suspends = self.num_batches == self._suspend_at or (self._suspend_after is not None and len(self.epochs) >= self._suspend_after)
        return messages.Suspend() if suspends else None

    def decision(self) -> messages.Proceed:
        raise AssertionError("a trial of code has no probe")

    def ask(self, question: messages.Ask | messages.AskPruning) -> messages.Answer:
        assert isinstance(question, messages.Ask)
        return messages.Answer(value=self._values[question.name])

    @property
    def epochs(self) -> list[messages.Epoch]:
        return [message for message in self.told if isinstance(message, messages.Epoch)]

    @property
    def values(self) -> list[float]:
        return [epoch.measured for epoch in self.epochs]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Callable[..., PreparedCode]]:
    def prepared(code: str = CODE, **sections: Any) -> PreparedCode:
        (tmp_path / "code").mkdir(exist_ok=True)
        path = tmp_path / "code" / f"mine{len(list((tmp_path / 'code').iterdir()))}.py"
        path.write_text(code)
        given = {
            "name": "mine",
            "task": "custom",
            "model": {"build": f"{path.name}:build"},
            "data": {"load": f"{path.name}:load"},
            "objective": "val_mae",
            "training": {"epochs": 5, "batch_size": 16},
        }
        spec = study_file.parse(given | sections, "mine.yaml", path.parent)
        assert isinstance(spec, CustomStudySpec)
        return custom.prepare(spec, cache=tmp_path, share=TrainerShare(threads=1))

    yield prepared
    keras.backend.clear_session()


def order(tmp_path: Path, number: int = 0, **values: Any) -> messages.Train:
    folder = tmp_path / f"trial-{number}"
    return messages.Train(
        trial=number,
        hyperparameters=ChosenValues(values=values),
        seed=7 + number,
        weights=str(folder / "weights"),
        checkpoint=str(folder / "checkpoint"),
    )


def test_a_suspended_trial_resumes_with_the_same_curve(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare()
    whole = Control(learning_rate=0.01)
    uninterrupted = ready.train(order(tmp_path, 0), whole)
    assert uninterrupted.ending is Ending.COMPLETED
    first = Control(learning_rate=0.01, suspend_after=2)
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    assert ready.train(wanted, first).ending is Ending.SUSPENDED
    second = Control(learning_rate=0.01)
    resumed = ready.train(wanted, second)
    told = next(message for message in second.told if isinstance(message, messages.Resumed))
    assert [epoch.measured for epoch in told.curve] == whole.values[: len(told.curve)]
    assert len(told.curve) >= 1
    assert [epoch.measured for epoch in told.curve] + second.values == pytest.approx(whole.values, abs=1e-6)
    assert resumed.value == pytest.approx(uninterrupted.value, abs=1e-6)
    assert resumed.best_step == uninterrupted.best_step


#: batches of an epoch of `CODE`, with that of the validation data
BATCHES_OF_EPOCH = 5


def uninterrupted(ready: PreparedCode, tmp_path: Path) -> list[messages.Epoch]:
    whole = Control(learning_rate=0.01)
    assert ready.train(order(tmp_path, 0), whole).ending is Ending.COMPLETED
    assert whole.num_batches == 5 * BATCHES_OF_EPOCH
    return whole.epochs


def assert_resumed(control: Control, whole: list[messages.Epoch]) -> None:
    """Assert that the epochs, with their metrics on training data, are those of the uninterrupted training."""
    told = next(message for message in control.told if isinstance(message, messages.Resumed))
    epochs = [*told.curve, *control.epochs]
    assert [epoch.step for epoch in epochs] == [epoch.step for epoch in whole]
    assert [epoch.metrics for epoch in epochs] == [pytest.approx(epoch.metrics, abs=1e-6) for epoch in whole]


def with_data(load: str) -> str:
    """Return the code with other data, and a metric that is no mean."""
    code = CODE.replace('["mae"]', '["mae", keras.metrics.RootMeanSquaredError(name="rmse")]')
    return code.replace("def load():", "def arrays():") + (load or "\n\ndef load():\n    return arrays()\n")


THREADS = BATCHES.replace("Batches()", "Batches(workers=2)")


@pytest.mark.parametrize("load", ["", BATCHES, THREADS], ids=["arrays", "PyDataset", "PyDataset with threads"])
def test_a_trial_that_is_suspended_in_an_epoch_resumes_after_its_last_step(
    prepare: Callable[..., PreparedCode], tmp_path: Path, load: str
) -> None:
    ready = prepare(with_data(load))
    whole = uninterrupted(ready, tmp_path)
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    done = 2 * BATCHES_OF_EPOCH + 2
    assert ready.train(wanted, Control(learning_rate=0.01, suspend_at=done)).ending is Ending.SUSPENDED
    second = Control(learning_rate=0.01)
    ready.train(wanted, second)
    assert second.num_batches == 5 * BATCHES_OF_EPOCH - done
    assert_resumed(second, whole)


def test_a_killed_trial_repeats_the_steps_since_the_checkpoint_in_its_epoch(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(with_data(""), training={"epochs": 5, "batch_size": 16, "steps_per_epoch": 4})
    whole = uninterrupted(ready, tmp_path)
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    ready.timing = fitting.CheckpointTiming(share=1e9, part_seconds=0.0)
    dies_at = 2 * BATCHES_OF_EPOCH + 3
    with pytest.raises(Killed):
        ready.train(wanted, Control(learning_rate=0.01, dies_at=dies_at))
    second = Control(learning_rate=0.01)
    ready.train(wanted, second)
    assert second.num_batches == 5 * BATCHES_OF_EPOCH - (dies_at - 1)
    assert_resumed(second, whole)


def test_an_optimizer_that_averages_weights_resumes_after_whole_epochs(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    averaging = 'sampling="log"), use_ema=True, ema_momentum=0.9)'
    ready = prepare(with_data("").replace('sampling="log"))', averaging))
    ready.timing = fitting.CheckpointTiming(share=1e9)
    whole = uninterrupted(ready, tmp_path)
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    assert ready.train(wanted, Control(learning_rate=0.01, suspend_at=2 * BATCHES_OF_EPOCH + 2)).ending is Ending.SUSPENDED
    second = Control(learning_rate=0.01)
    ready.train(wanted, second)
    assert_resumed(second, whole)


def test_an_epoch_of_a_pipeline_of_the_users_is_repeated(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(with_data(PIPELINE))
    ready.timing = fitting.CheckpointTiming(share=1e9, part_seconds=0.0)
    whole = uninterrupted(ready, tmp_path)
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    assert ready.train(wanted, Control(learning_rate=0.01, suspend_at=2 * BATCHES_OF_EPOCH + 2)).ending is Ending.SUSPENDED
    second = Control(learning_rate=0.01)
    ready.train(wanted, second)
    assert second.num_batches == 3 * BATCHES_OF_EPOCH
    assert_resumed(second, whole)


def test_an_epoch_tells_every_metric_under_its_plain_name(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare()
    for number in range(2):  # Keras counts the names in a warm process
        control = Control(learning_rate=0.01)
        finished = ready.train(order(tmp_path, number), control)
        assert set(control.epochs[0].metrics) == {"loss", "mae", "val_loss", "val_mae"}
    last = control.epochs[-1]
    assert last.validation_loss == last.metrics["val_loss"]
    assert last.learning_rate == pytest.approx(0.01)
    assert finished.value == min(control.values)
    assert finished.metrics == next(epoch.metrics for epoch in control.epochs if epoch.step == finished.best_step)
    assert finished.asked == {"learning_rate": 0.01}


def test_the_stored_weights_are_those_of_the_best_epoch(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER)
    finished = ready.train(order(tmp_path), Control(learning_rate=0.1))
    assert finished.weights is not None
    chosen = ChosenValues(values={"learning_rate": 0.1})
    model = custom.load_model(ready._study, 0, chosen.values, Path(finished.weights))
    data = ready._data
    assert data is not None
    parts: dict[str, Any] = {part.name: part.arrays for part in data.parts}
    error, of_test = (float(np.mean(np.abs(model.predict(x, verbose=0) - y))) for x, y in (parts["validation"], parts["test"]))
    assert error == pytest.approx(finished.value, rel=1e-5)
    scored = ready.evaluate(messages.Evaluate(trial=0, hyperparameters=chosen, weights=finished.weights))
    assert scored.value == pytest.approx(of_test, rel=1e-5)
    assert scored.num_images == 16


def test_early_stopping_ends_a_trial_that_counts(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER, training={"epochs": 50, "batch_size": 64, "early_stopping": {"patience": 2}})
    control = Control(learning_rate=0.1)
    finished = ready.train(order(tmp_path), control)
    assert finished.ending is Ending.COMPLETED
    assert len(control.epochs) < 50
    assert min(control.values[-2:]) >= min(control.values[:-2])


def test_the_value_of_several_trainings_is_their_mean(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER, training={"epochs": 2, "executions": 3})
    control = Control(learning_rate=0.01)
    finished = ready.train(order(tmp_path), control)
    assert [epoch.step for epoch in control.epochs] == [1, 2, 3, 4, 5, 6]
    bests = [min(control.values[start : start + 2]) for start in (0, 2, 4)]
    assert len(set(bests)) == 3
    assert finished.value == pytest.approx(sum(bests) / 3)
    assert finished.attributes["executions"] == pytest.approx(bests)


def test_a_metric_that_fit_does_not_report_is_named(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER, objective="val_mse")
    with pytest.raises(
        RequestError,
        match="objective.metric is val_mse, but fit reports only loss, mae, val_loss, val_mae; name one of these, or add the metric in",
    ):
        ready.train(order(tmp_path), Control(learning_rate=0.01))


def test_a_loss_that_is_no_number_ends_the_trial_with_its_reason(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER.replace("- 2 * x[:, 1:2])", "* np.nan)"))
    finished = ready.train(order(tmp_path), Control(learning_rate=0.01))
    assert finished.ending is Ending.NOT_FINITE
    assert finished.reason == "the loss was nan in epoch 1; the learning rate may be too high"
    assert finished.value is None


def test_a_function_is_the_metric(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    metric = "\ndef worst(true, predicted):\n    return float(abs(true - predicted).max())\n"
    ready = prepare(EAGER + metric, objective={"metric": "mine0.py:worst", "direction": "minimize"})
    finished = ready.train(order(tmp_path), Control(learning_rate=0.01))
    assert finished.value is not None
    assert finished.value > 0


def test_the_names_that_keras_tuner_gives_a_class_work(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    hypermodel = (
        EAGER.replace("def build(hp):", "class Model:\n  def build(self, hp):")
        .replace("\n    model", "\n        model")
        .replace("\n    return model", "\n        return model")
    )
    code = (
        hypermodel
        + "\n  def fit(self, hp, model, *args, **kwargs):\n    return model.fit(*args, batch_size=hp.Choice('batch', [8, 32]), **kwargs)\n"
    )
    ready = prepare(code, model={"build": "mine0.py:Model"})
    finished = ready.train(order(tmp_path), Control(learning_rate=0.01, batch=8))
    assert finished.asked == {"learning_rate": 0.01, "batch": 8}
    assert finished.value is not None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("pass", r"mine0.py:build returned None; did it forget to return the model\? Expected a keras.Model"),
        ("return 3", "mine0.py:build returned a int; expected a keras.Model"),
        (
            "raise ValueError('mine')",
            r"ValueError: mine \(mine0.py, line \d+, in build: raise ValueError\('mine'\)\) \(while building the model\)",
        ),
        ("import sys; sys.exit(3)", r"the code called sys.exit\(3\), which would end the trainer"),
    ],
)
def test_a_mistake_in_build_fails_the_trial_with_the_users_line(
    prepare: Callable[..., PreparedCode], tmp_path: Path, body: str, message: str
) -> None:
    ready = prepare(CODE[: CODE.index("def build")] + f"def build(hp):\n    {body}\n")
    with pytest.raises(TrainingError, match=message):
        ready.train(order(tmp_path), Control())


def test_what_a_constraint_limits_is_measured_after_the_training(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    limited = prepare(constraints={"latency_ms": 1000}, training={"epochs": 1})
    finished = limited.train(order(tmp_path, 0), Control(learning_rate=0.01))
    assert set(finished.costs) == {"latency_ms", "size_mb"}
    assert finished.costs["size_mb"] == round(49 * 4 / 1e6, 4)
    assert 0 < finished.costs["latency_ms"] < 1000
    assert finished.weights is not None
    chosen = ChosenValues(values={"learning_rate": 0.01})
    alone = limited.evaluate(messages.Evaluate(trial=0, hyperparameters=chosen, weights=finished.weights, measures="costs"))
    assert alone.costs["size_mb"] == finished.costs["size_mb"]
    assert 0 < alone.costs["latency_ms"] < 1000
    assert alone.value is None
    free = prepare(EAGER, training={"epochs": 1})
    assert free.train(order(tmp_path, 1), Control(learning_rate=0.01)).costs == {}


def test_every_trial_of_a_trainer_has_the_precision_of_the_study(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    seen = "\n    POLICIES.append(model.layers[0].compute_dtype)\n    model.compile("
    code = "POLICIES = []\n" + EAGER.replace("\n    model.compile(", seen)
    ready = prepare(code, training={"epochs": 1, "precision": "bfloat16"})
    weights = [ready.train(order(tmp_path, number), Control(learning_rate=0.01)).weights for number in range(2)]
    assert weights[1] is not None
    ready.evaluate(messages.Evaluate(trial=1, hyperparameters=ChosenValues(values={"learning_rate": 0.01}), weights=weights[1]))
    assert ready._code.build.__globals__["POLICIES"] == ["bfloat16"] * 3


def test_metrics_whose_names_end_in_numbers_stay_apart(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    named = '[keras.metrics.MeanAbsoluteError(name="mean_at_5"), keras.metrics.MeanAbsoluteError(name="mean_at_10")]'
    ready = prepare(EAGER.replace('["mae"]', named), objective={"metric": "val_mean_at_5", "direction": "minimize"})
    control = Control(learning_rate=0.01)
    finished = ready.train(order(tmp_path), control)
    assert set(control.epochs[0].metrics) == {"loss", "mean_at_5", "mean_at_10", "val_loss", "val_mean_at_5", "val_mean_at_10"}
    assert finished.weights is not None
    chosen = ChosenValues(values={"learning_rate": 0.01})
    scored = ready.evaluate(messages.Evaluate(trial=0, hyperparameters=chosen, weights=finished.weights))
    assert scored.value == pytest.approx(scored.metrics["mean_at_5"])


def test_fewer_steps_than_batches_resume_with_the_same_curve(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER, training={"epochs": 4, "batch_size": 16, "steps_per_epoch": 3})  # of 4 batches
    whole = Control(learning_rate=0.01)
    ready.train(order(tmp_path, 0), whole)
    for after in (1, 2, 3):
        wanted = order(tmp_path, after).model_copy(update={"seed": 7})
        first, second = Control(learning_rate=0.01, suspend_after=after), Control(learning_rate=0.01)
        assert ready.train(wanted, first).ending is Ending.SUSPENDED
        ready.train(wanted, second)
        told = next(message for message in second.told if isinstance(message, messages.Resumed))
        assert [epoch.measured for epoch in told.curve] + second.values == pytest.approx(whole.values, abs=1e-6)


def test_a_trial_of_several_trainings_resumes_with_the_best_of_all(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER, training={"epochs": 2, "executions": 3})
    whole = Control(learning_rate=0.05)
    uninterrupted = ready.train(order(tmp_path, 0), whole)
    wanted = order(tmp_path, 1).model_copy(update={"seed": 7})
    first, second = Control(learning_rate=0.05, suspend_after=5), Control(learning_rate=0.05)
    assert ready.train(wanted, first).ending is Ending.SUSPENDED
    resumed = ready.train(wanted, second)
    told = next(message for message in second.told if isinstance(message, messages.Resumed))
    assert [epoch.step for epoch in (*told.curve, *second.epochs)] == [1, 2, 3, 4, 5, 6]
    assert [epoch.measured for epoch in (*told.curve, *second.epochs)] == pytest.approx(whole.values, abs=1e-6)
    assert resumed.best_step == uninterrupted.best_step
    assert resumed.attributes["executions"] == pytest.approx(uninterrupted.attributes["executions"], abs=1e-6)
    assert resumed.weights is not None
    assert uninterrupted.weights is not None
    stored = [checkpoints.read_weights(Path(kept), study=ready._identity) for kept in (uninterrupted.weights, resumed.weights)]
    for one, other in zip(*stored, strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_a_trial_that_early_stopping_has_ended_is_not_trained_further(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER, training={"epochs": 50, "batch_size": 64, "early_stopping": {"patience": 2}})
    ready.timing = fitting.CheckpointTiming(share=1e9)  # a checkpoint is due after each epoch
    whole, again = Control(learning_rate=0.1), Control(learning_rate=0.1)
    finished = ready.train(order(tmp_path), whole)
    resumed = ready.train(order(tmp_path), again)  # as if its worker had been killed before it recorded the result
    told = next(message for message in again.told if isinstance(message, messages.Resumed))
    assert [epoch.measured for epoch in told.curve] == whole.values
    assert again.values == []
    assert (resumed.ending, resumed.value, resumed.best_step) == (Ending.COMPLETED, finished.value, finished.best_step)


def test_an_iterator_as_data_is_refused(prepare: Callable[..., PreparedCode]) -> None:
    code = CODE.replace("return (x[:64], y[:64])", "return iter([(x[:64], y[:64])])")
    with pytest.raises(DataError, match="returned a list_iterator as train, which gives each batch once, but there are many trials"):
        prepare(code)


def test_an_optimizer_that_does_not_exist_fails_its_trial_only(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    code = CODE[: CODE.index("    model.compile")] + "    return model\n"
    ready = prepare(code, search={"optimizer": ["adam", "adamm"]}, training={"epochs": 1, "loss": "mse", "metrics": ["mae"]})
    assert ready.train(order(tmp_path, 0, optimizer="adam"), Control()).value is not None
    with pytest.raises(TrainingError, match="the model cannot be compiled with optimizer 'adamm'"):
        ready.train(order(tmp_path, 1, optimizer="adamm"), Control())


def test_weights_can_be_read_after_the_study_got_another_name(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    ready = prepare(EAGER)
    finished = ready.train(order(tmp_path), Control(learning_rate=0.1))
    assert finished.weights is not None
    renamed = custom.prepare(ready._study.model_copy(update={"name": "other"}), cache=tmp_path, share=TrainerShare(threads=1))
    chosen = ChosenValues(values={"learning_rate": 0.1})
    scored = renamed.evaluate(messages.Evaluate(trial=0, hyperparameters=chosen, weights=finished.weights))
    assert scored.value is not None


#: a layer that has memory for eight examples
SMALL_MEMORY = """
import tensorflow as tf

class Small(keras.layers.Layer):
    def call(self, inputs):
        def check(given):
            if len(given) > LIMIT:
                raise MemoryError("no memory")  # TensorFlow makes a ResourceExhaustedError of it
            return given
        checked = tf.numpy_function(check, [tf.stop_gradient(inputs)], tf.float32)
        return inputs + 0 * tf.reshape(checked, tf.shape(inputs))
"""


def with_memory(limit: int, *, layer: str = "") -> str:
    """Return the code of a model that trains so many examples at once, without dropout."""
    added = f"keras.layers.Dense(8, 'relu'), {layer}Small(), " if limit else f"keras.layers.Dense(8, 'relu'), {layer}"
    code = CODE.replace('keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), ', added)
    return f"LIMIT = {limit}\n" + code.replace("def load", SMALL_MEMORY + "\ndef load")


def warnings_of(control: Control) -> list[str]:
    return [message.message for message in control.told if isinstance(message, messages.TrialWarning)]


def test_a_batch_without_memory_is_trained_in_parts_with_the_same_curve(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    # 64 examples are a batch of 50, in parts of 7, and one of 14
    training = {"epochs": 3, "batch_size": 50}
    whole, parts = Control(learning_rate=0.01), Control(learning_rate=0.01)
    prepare(with_memory(0), training=training).train(order(tmp_path, 0), whole)
    ready = prepare(with_memory(7), training=training)
    assert ready.train(order(tmp_path, 1).model_copy(update={"seed": 7}), parts).ending is Ending.COMPLETED
    assert [epoch.metrics for epoch in parts.epochs] == [pytest.approx(epoch.metrics, rel=1e-4) for epoch in whole.epochs]
    told = warnings_of(parts)
    assert [text[: text.index(" at once")] for text in told] == [f"out of memory with {size} examples" for size in (50, 25, 13)]
    assert told[-1].endswith("with 7 at a time and the same batch size")


def test_parts_are_said_to_change_batch_normalization(prepare: Callable[..., PreparedCode], tmp_path: Path) -> None:
    control = Control(learning_rate=0.01)
    code = with_memory(8, layer="keras.layers.BatchNormalization(), ")
    ready = prepare(code, training={"epochs": 1, "batch_size": 16})
    assert ready.train(order(tmp_path), control).ending is Ending.COMPLETED
    [told] = warnings_of(control)
    assert told.endswith("its BatchNormalization uses the statistics of these parts instead of those of the batch")


@pytest.mark.parametrize(
    ("limit", "changes", "message"),
    [
        (0, {}, r"cannot be trained with 1 example at once, .* because it is one example. Lower batch_size, or make the model smaller"),
        (8, {"keras.Sequential(": "Own("}, "cannot be trained with 16 examples at once, .* because the model has its own train_step"),
        (8, {'"mse",': "keras.losses.MeanSquaredError(reduction='sum'),"}, "because its loss is no mean over the examples"),
    ],
)
def test_a_step_that_cannot_be_split_fails_in_one_message(
    limit: int, changes: dict[str, str], message: str, prepare: Callable[..., PreparedCode], tmp_path: Path
) -> None:
    code = with_memory(8).replace("LIMIT = 8", f"LIMIT = {limit}")
    own = "class Own(keras.Sequential):\n    def train_step(self, data):\n        return super().train_step(data)\n\n"
    for before, after in changes.items():
        assert before in code
        code = code.replace(before, after)
    with pytest.raises(TrainingError, match=message) as caught:
        prepare(code.replace("def load", own + "def load")).train(order(tmp_path), Control(learning_rate=0.01))
    assert caught.value.kind == "OutOfMemory"
