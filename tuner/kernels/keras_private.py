"""Private names of Keras and TensorFlow: every one that tuner uses, here and nowhere else.

`pyproject.toml` pins Keras to the minor versions in which these names mean what this module says, and
`tests/kernels/test_keras_private.py` checks it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src.backend import config

#: the functions of `keras.Model.fit` whose graphs belong to one model
_STEPS = {"one_step_on_data", "one_step_on_data_distributed", "multi_step_on_data", "multi_step_on_iterator"}
#: the `call` methods of models that consist of a graph; a model whose class defines its own `call` counts as one layer
_GRAPH_CALLS = {"Functional.call", "Sequential.call"}


def use_home(given: str | None) -> None:
    """Make Keras keep downloads in a folder; None is the one that Keras chooses without KERAS_HOME."""
    user = os.path.expanduser("~")  # noqa: PTH111 -- Path.home fails for a user without a home folder, and Keras does not
    config._KERAS_DIR = given or f"{user if os.access(user, os.W_OK) else '/tmp'}/.keras"


def graph_of(layer: Any) -> Any | None:
    """Return the functional model that a model consists of, or None for a plain layer or a model that defines its own `call`."""
    if not isinstance(layer, keras.Model) or type(layer).call.__qualname__ not in _GRAPH_CALLS:
        return None
    return layer._functional if isinstance(layer, keras.Sequential) else layer


def calls(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a functional model, inputs left out, each after the nodes whose outputs it needs.

    Of a node, `operation` is the layer, `arguments` what it is called with, `input_tensors` and `outputs` are Keras tensors.
    """
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from (node for node in graph._nodes_by_depth[depth] if node.operation and not node.is_input)


def fill_in(arguments: Any, tensors: Mapping[int, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the positional and keyword arguments of a node, each Keras tensor replaced by the tensor given for its `id`."""
    args, kwargs = arguments.fill_in(tensors)
    return args, kwargs


def infer(layer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call a layer in inference mode."""
    if getattr(layer, "_call_has_training_arg", False):
        kwargs = kwargs | {"training": False}
    return layer(*args, **kwargs)


def inner_layers(layer: Any) -> Iterator[Any]:
    """Yield a layer and every layer inside it."""
    yield from layer._flatten_layers()


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return what a model was compiled with, as its `compile` got it; {} if it was not."""
    compiled = getattr(model, "_compile_config", None)
    return dict(compiled.config) if compiled is not None else {}


def build_metrics(model: Any, batch: Any) -> None:
    """Make the variables of the loss and the metrics that `compile` named, as the first batch would; a model's own metrics have theirs."""
    if any(part is not None and not part.built for part in (model._compile_metrics, model._compile_loss)):
        model._symbolic_build(data_batch=batch)


def with_constants(function: Any) -> Any:
    """Return a concrete TensorFlow function with its variables replaced by constants; there is no public name for it."""
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(function)


def release_gradients() -> int:
    """Forget the custom gradients of the training steps of models that are no longer used, and return their number.

    TensorFlow registers each call of a function with a custom gradient in a graph, such as `silu` or the update of every optimizer of
    Keras, and never forgets it. Each entry keeps the whole graph of a step in memory. Gradients in functions of the user's own stay.
    """
    from tensorflow.python.framework import ops

    registered = ops.gradient_registry._registry
    names = [name for name, entry in registered.items() if name.startswith("CustomGradient-") and _is_of_step(entry["type"])]
    for name in names:
        del registered[name]
    return len(names)


def _is_of_step(gradient: Any) -> bool:
    inner = _closure(gradient).get("tape_grad_fn")
    results = [] if inner is None else _leaves(_closure(inner).get("result"))
    return any(getattr(getattr(result, "graph", None), "name", "") in _STEPS for result in results)


def _closure(function: Any) -> dict[str, Any]:
    """Return the values of the outer variables that a function uses, by their names."""
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ()), strict=True))


def _leaves(given: Any) -> list[Any]:
    return list(keras.tree.flatten(given))
