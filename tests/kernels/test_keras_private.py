"""The private names of Keras and TensorFlow that tuner uses: each exists and means what `keras_private` says."""

import gc
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner.kernels import keras_private

IMAGE = np.ones((2, 4), np.float32)


class Own(keras.Model):  # type: ignore[misc]
    """A model with its own `call`."""

    def call(self, inputs: Any) -> Any:
        return super().call(inputs) * 2


def functional() -> keras.Model:
    """Two layers of one input, their sum, and a dropout."""
    given = keras.Input((4,))
    left, right = keras.layers.Dense(3, name="left")(given), keras.layers.Dense(3, name="right")(given)
    return keras.Model(given, keras.layers.Dropout(0.5, name="dropout")(keras.layers.Add(name="sum")([left, right])))


def test_the_pin_allows_only_versions_whose_private_names_are_known() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    [requirement] = [each for each in pyproject["project"]["dependencies"] if each.startswith("keras>")]
    assert requirement == "keras>=3.15,<3.16"
    assert metadata.version("keras").startswith("3.15.")


def test_the_graph_of_a_model_is_itself_that_of_a_sequential_one_its_functional_model() -> None:
    model = functional()
    assert keras_private.graph_of(model) is model
    sequential = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    graph = keras_private.graph_of(sequential)
    assert isinstance(graph, keras.Model)
    np.testing.assert_array_equal(graph(IMAGE), sequential(IMAGE))


def test_a_layer_and_a_model_with_its_own_call_have_no_graph() -> None:
    given = keras.Input((4,))
    assert keras_private.graph_of(keras.layers.Dense(3)) is None
    assert keras_private.graph_of(Own(given, keras.layers.Dense(3)(given))) is None


def test_the_calls_of_a_graph_come_in_an_order_in_which_they_can_be_computed() -> None:
    model = functional()
    calls = list(keras_private.calls(model))
    assert [call.operation.name for call in calls[2:]] == ["sum", "dropout"]
    assert {call.operation.name for call in calls[:2]} == {"left", "right"}
    known = {id(tensor) for tensor in model.inputs}
    for call in calls:
        assert {id(tensor) for tensor in call.input_tensors} <= known
        known |= {id(tensor) for tensor in call.outputs}
    assert {id(tensor) for tensor in model.outputs} <= known


def test_arguments_are_filled_in_and_give_what_the_layer_gives() -> None:
    model = functional()
    values = {id(model.inputs[0]): tf.constant(IMAGE)}
    for call in keras_private.calls(model):
        args, kwargs = keras_private.fill_in(call.arguments, values)
        [output] = call.outputs
        values[id(output)] = keras_private.infer(call.operation, args, kwargs)
    np.testing.assert_allclose(values[id(model.outputs[0])], model(IMAGE, training=False))


def test_inference_switches_dropout_off() -> None:
    dropout = keras.layers.Dropout(0.5)
    np.testing.assert_array_equal(keras_private.infer(dropout, [IMAGE], {}), IMAGE)
    np.testing.assert_array_equal(keras_private.infer(dropout, [IMAGE], {"training": True}), IMAGE)
    np.testing.assert_array_equal(keras_private.infer(keras.layers.ReLU(), [-IMAGE], {}), 0 * IMAGE)


def test_the_layers_inside_a_layer_are_found() -> None:
    inner = keras.layers.BatchNormalization()
    outer = keras.Sequential([keras.Input((4,)), keras.Sequential([keras.layers.Dense(3), inner])])
    found = list(keras_private.inner_layers(outer))
    assert found[0] is outer
    assert any(layer is inner for layer in found)


def test_a_function_with_constants_has_no_variables_and_gives_the_same() -> None:
    model = functional()
    traced = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec([None, 4])]).get_concrete_function()
    constant = keras_private.with_constants(traced)
    assert traced.variables
    assert not constant.variables
    np.testing.assert_allclose(constant(tf.constant(IMAGE))[0], model(IMAGE, training=False), rtol=1e-6)


def test_the_graphs_of_a_model_go_with_the_model() -> None:
    def steps() -> int:
        gc.collect()
        return len([one for one in gc.get_objects() if type(one).__name__ == "FuncGraph" and one.name == "one_step_on_data"])

    def fit() -> None:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "silu"), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        model.fit(IMAGE, IMAGE[:, :1], verbose=0)

    keras_private.release_gradients()
    before = steps()
    fit()
    keras.backend.clear_session(free_memory=False)
    assert steps() > before  # TensorFlow keeps them
    assert keras_private.release_gradients() >= 2
    assert steps() == before


def test_a_function_of_the_users_keeps_its_custom_gradients() -> None:
    function = tf.function(tf.nn.silu)
    x = tf.Variable([1.0, 2.0])
    function(x)
    keras_private.release_gradients()
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(function(x))
    assert tape.gradient(total, x) is not None
