"""A Keras model as the calls that it consists of, in order, those of models inside it in their place."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras

#: a tensor of a graph: the call of a model inside the model that it belongs to, and its own number
Key = tuple[int, int]
#: a model whose class brings its own `call` is one call; nobody can look into it
_OPEN = {"Functional.call", "Sequential.call"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One use of a layer."""

    layer: Any
    #: Keras' own record of what the layer is given
    arguments: Any
    #: its tensors by the numbers that `arguments` knows them by
    inputs: tuple[tuple[int, Key], ...]
    outputs: tuple[Key, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """A model with one input and one output."""

    calls: tuple[Call, ...]
    input: Key
    output: Key
    dtype: str
    #: without the number of images
    shapes: Mapping[Key, tuple[int | None, ...]]

    def places(self) -> dict[Key, int]:
        """For each tensor the number of the call that makes it; -1 is the input."""
        return {self.input: -1} | {key: number for number, call in enumerate(self.calls) for key in call.outputs}

    def separators(self) -> list[tuple[int, Key]]:
        """The tensors that everything above is computed from alone, from the bottom up, each with the number of the call that makes it."""
        places, last_use = self.places(), {self.output: len(self.calls)}
        for number, call in enumerate(self.calls):
            last_use |= {key: max(number, last_use.get(key, 0)) for _, key in call.inputs}
        alive, found = {self.input}, [(-1, self.input)]
        for number, call in enumerate(self.calls):
            alive = {key for key in alive | set(call.outputs) if last_use.get(key, -1) > number}
            if len(alive) == 1:
                [key] = alive
                found.append((places[key], key))
        return list(dict.fromkeys(found))

    def multiply_adds(self, num_calls: int) -> int:
        """What the lowest calls take for one image, as far as their weights tell: each entry of a kernel once a place of the output."""
        found = 0
        for call in self.calls[:num_calls]:
            entries = sum(math.prod(variable.shape) for variable in getattr(call.layer, "variables", ()) if len(variable.shape) > 1)
            found += entries * math.prod(length or 1 for length in self.shapes[call.outputs[0]][:-1])
        return found

    def run(self, given: Mapping[Key, Any], wanted: Sequence[Key]) -> list[Any]:
        """The values of tensors, from those of others; only what they need is computed, in inference mode."""
        values = dict(given)
        for call in self._needed(given, wanted):
            found = call.arguments.fill_in({number: values[key] for number, key in call.inputs})
            outputs = _call(call.layer, *found)
            values |= zip(call.outputs, keras.tree.flatten(outputs), strict=True)
        return [values[key] for key in wanted]

    def sized(self, image: Any) -> "Graph":
        """The same with the shapes that it has for an image (1, size, size, 3), if it leaves some lengths open."""
        if all(None not in shape for shape in self.shapes.values()):
            return self
        known = [self.input, *(key for call in self.calls for key in call.outputs)]
        return replace(
            self, shapes={key: tuple(found.shape[1:]) for key, found in zip(known, self.run({self.input: image}, known), strict=True)}
        )

    def _needed(self, given: Iterable[Key], wanted: Iterable[Key]) -> list[Call]:
        missing, found = set(wanted) - set(given), []
        for call in reversed(self.calls):
            if missing & set(call.outputs):
                found.append(call)
                missing = (missing - set(call.outputs)) | ({key for _, key in call.inputs} - set(given))
        return found[::-1]


def read(model: keras.Model) -> Graph:
    """The calls of a functional or Sequential model."""
    reader = _Reader()
    graph = _opened(model)
    if graph is None:
        image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
        graph = keras.Model(image, model(image))
    [output] = reader.read(graph, [(0, id(graph.inputs[0]))])
    return Graph(
        calls=tuple(reader.calls), input=(0, id(graph.inputs[0])), output=output, dtype=graph.inputs[0].dtype, shapes=reader.shapes
    )


def _opened(layer: Any) -> Any | None:
    """The graph of a model; None of a plain layer, and of a model that nobody can look into."""
    if not isinstance(layer, keras.Model) or type(layer).call.__qualname__ not in _OPEN:
        return None
    return layer._functional if isinstance(layer, keras.Sequential) else layer


def _call(layer: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if getattr(layer, "_call_has_training_arg", False):
        kwargs = kwargs | {"training": False}
    return layer(*args, **kwargs)


class _Reader:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.shapes: dict[Key, tuple[int | None, ...]] = {}
        self._num_opened = 0

    def read(self, graph: Any, inputs: Sequence[Key]) -> list[Key]:
        """Add the calls of a graph whose inputs are these tensors; returns its outputs."""
        number, self._num_opened = self._num_opened, self._num_opened + 1
        names = {id(tensor): key for tensor, key in zip(graph.inputs, inputs, strict=True)}
        self.shapes |= {key: tuple(tensor.shape[1:]) for tensor, key in zip(graph.inputs, inputs, strict=True)}
        for node in _nodes(graph):
            given = [names[id(tensor)] for tensor in node.input_tensors]
            inner = _opened(node.operation)
            if inner is not None and len(inner.inputs) == len(inner.outputs) == 1:
                outputs = self.read(inner, given)
            else:
                outputs = [(number, id(tensor)) for tensor in node.outputs]
                taken = tuple(zip((id(tensor) for tensor in node.input_tensors), given, strict=True))
                self.calls.append(Call(layer=node.operation, arguments=node.arguments, inputs=taken, outputs=tuple(outputs)))
            names |= {id(tensor): key for tensor, key in zip(node.outputs, outputs, strict=True)}
            self.shapes |= {key: tuple(tensor.shape[1:]) for tensor, key in zip(node.outputs, outputs, strict=True)}
        return [names[id(tensor)] for tensor in graph.outputs]


def _nodes(graph: Any) -> Iterator[Any]:
    """What Keras keeps of each call, in an order in which they can be carried out."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        yield from (node for node in graph._nodes_by_depth[depth] if node.operation and not node.is_input)
