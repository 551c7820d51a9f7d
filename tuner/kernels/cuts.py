"""Cuts: a network as the calls of its layers, its features at several depths, and its two parts below and above a block."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner.kernels import gradients, keras_private
from tuner.spec.hyperparameters import Features

#: a tensor of a graph: the number of the (inner) model call that it belongs to, and its `id`
Key = tuple[int, int]
#: number of depths in the features of several depths, the last layer included
NUM_DEPTHS = 6
#: output of the part below a cut: the activation at the cut, and the pooled vectors (n, k) of the depths below it; k may be 0
LowerOutput = tuple[tf.Tensor, tf.Tensor]
Block = Sequence[keras.Variable]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A backbone in two parts: the frozen part below the cut, and the trained part above it."""

    #: number of trained blocks; the cut is below them, and further down if no single tensor separates the network there
    num_open: int
    #: the variables of these blocks, each with the number of blocks above its own
    variables: tuple[tuple[int, keras.Variable], ...]
    #: number of the call that computes the tensor at the cut; equal for two cuts at the same tensor
    boundary: int
    #: shape of the activation at the cut, without the number of images
    shape: tuple[int | None, ...]
    #: width k of the pooled vectors
    num_pooled: int
    #: multiply-adds of `below` for one image
    multiply_adds: int
    #: from images (n, size, size, 3), float32 colors from 0 to 255, to the input of `above`
    below: Callable[[tf.Tensor], LowerOutput]
    #: from the output of `below` to the features (n, d), float32
    above: Callable[[LowerOutput, Features], tf.Tensor]

    @property
    def num_values(self) -> int:
        """Numbers per image in the output of `below`."""
        return math.prod(length or 0 for length in self.shape) + self.num_pooled


class NetworkBlocks:
    """A network and its blocks: where the blocks end, and where the network can be cut."""

    def __init__(
        self, network: keras.Model, blocks: Sequence[Block], *, pool: Callable[[Any], Any], preprocess: Callable[[Any], Any], size: int
    ) -> None:
        self._graph, self._blocks, self._pool, self._preprocess = read_graph(network), blocks, pool, preprocess
        self._graph = self._graph.sized(self._fed(np.zeros((1, size, size, 3), np.float32)))
        numbers = {id(variable): number for number, block in enumerate(blocks) for variable in block}
        #: for each call, the blocks that its variables belong to
        self._blocks_of = [{numbers[id(v)] for v in getattr(call.layer, "variables", ()) if id(v) in numbers} for call in self._graph.calls]
        self._call_numbers, self._separators = self._graph.call_numbers(), self._graph.separators()
        #: tensors of the features of several depths, from the bottom up; the last is the network's output
        self._depths = tuple(dict.fromkeys([*(self._end(block) for block in _spread_blocks(len(blocks))[:-1]), self._graph.output]))

    def widths(self, kind: Features) -> tuple[int, ...]:
        """Return the number of features of each depth."""
        return tuple(self._width(key) for key in self._keys(kind))

    def num_features(self, kind: Features) -> int:
        """Return the width of the features."""
        return sum(self.widths(kind))

    def features(self, images: Any, kind: Features) -> tf.Tensor:
        """Return the features (n, d) of images (n, size, size, 3), colors from 0 to 255.

        Among the features of several depths, those of the last layer come last.
        """
        return self._concatenated(self._graph.run({self._graph.input: self._fed(images)}, self._keys(kind)))

    def maps(self, preprocessed: Any, kind: Features) -> list[Any]:
        """Return the feature maps, before pooling, of preprocessed images, which may be Keras tensors."""
        return self._graph.run({self._graph.input: preprocessed}, self._keys(kind))

    def cut(self, num_open: int) -> Cut:
        """Cut the network below its topmost blocks."""
        count = len(self._blocks)
        opened = set(range(count - num_open, count))
        first = next((number for number, blocks in enumerate(self._blocks_of) if blocks & opened), len(self._blocks_of))
        call_number, boundary = [found for found in self._separators if found[0] < first][-1]
        lower = [key for key in self._depths if self._call_numbers[key] < call_number]
        return Cut(
            num_open=num_open,
            variables=tuple((depth, variable) for depth in range(num_open) for variable in self._blocks[count - 1 - depth]),
            boundary=call_number,
            shape=self._graph.shapes[boundary],
            num_pooled=sum(self._width(key) for key in lower),
            multiply_adds=self._graph.multiply_adds(call_number + 1),
            below=lambda images: self._below(images, boundary, lower),
            above=lambda found, kind: self._above(found, boundary, lower, kind),
        )

    def convolutions(self) -> list[gradients.Convolution]:
        """Return the two-dimensional convolutions of the network that Keras lays out as (n, height, width, channels)."""
        found = []
        for call in self._graph.calls:
            if type(call.layer) not in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D) or call.layer.data_format != "channels_last":
                continue
            [(_, image)] = call.inputs
            height, width, channels = (int(length or 0) for length in self._graph.shapes[image])
            found.append(
                gradients.Convolution(
                    is_depthwise=isinstance(call.layer, keras.layers.DepthwiseConv2D),
                    image=(height, width, channels),
                    kernel=tuple(call.layer.kernel.shape),
                    stride=call.layer.strides[0],
                    padding=call.layer.padding.upper(),
                )
            )
        return found

    def _below(self, images: Any, boundary: Key, lower: Sequence[Key]) -> LowerOutput:
        activation, *maps = self._graph.run({self._graph.input: self._fed(images)}, [boundary, *lower])
        return tf.cast(activation, tf.float32), self._concatenated(maps) if maps else tf.zeros((tf.shape(activation)[0], 0))

    def _above(self, found: LowerOutput, boundary: Key, lower: Sequence[Key], kind: Features) -> tf.Tensor:
        activation, vectors = found
        given: Mapping[Key, Any] = {boundary: tf.cast(activation, keras.config.floatx())}
        upper = [key for key in self._keys(kind) if key not in lower]
        features = self._concatenated(self._graph.run(given, upper))
        return tf.concat([vectors, features], 1) if lower and kind is Features.SEVERAL else features

    def _fed(self, images: Any) -> Any:
        return keras.ops.cast(self._preprocess(images), self._graph.dtype)

    def _keys(self, kind: Features) -> list[Key]:
        return list(self._depths if kind is Features.SEVERAL else self._depths[-1:])

    def _width(self, key: Key) -> int:
        return int(self._graph.shapes[key][-1] or 0)

    def _concatenated(self, maps: Sequence[Any]) -> tf.Tensor:
        return tf.concat([self._pool(tf.cast(found, tf.float32)) for found in maps], 1)

    def _end(self, block: int) -> Key:
        """Return the output of a block; if it has several, the output of its last layer."""
        last = max(number for number, blocks in enumerate(self._blocks_of) if block in blocks)
        above = [number for number, blocks in enumerate(self._blocks_of) if blocks and max(blocks) > block]
        found = [key for call_number, key in self._separators if last <= call_number < min(above)]
        return found[-1] if found else self._graph.calls[last].outputs[0]


def pooling(pooling: str) -> Callable[[Any], Any]:
    """Return a function from maps (n, …, d) to vectors (n, d): the mean over all places (`avg`) or the maximum."""

    def pool(found: Any) -> Any:
        axes = tuple(range(1, len(found.shape) - 1))
        if not axes:
            return found
        return keras.ops.mean(found, axes) if pooling == "avg" else keras.ops.max(found, axes)

    return pool


def _spread_blocks(num_blocks: int) -> list[int]:
    """Return the blocks whose outputs are features of several depths: evenly spread, the last one included."""
    ends = np.linspace(0, num_blocks, NUM_DEPTHS + 1).round().astype(int)[1:]
    return sorted({max(1, int(end)) - 1 for end in ends}) if num_blocks else [0]


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One use of a layer."""

    layer: Any
    #: Keras' record of the arguments of the call
    arguments: Any
    #: its input tensors, each with the `id` under which `arguments` refers to it
    inputs: tuple[tuple[int, Key], ...]
    outputs: tuple[Key, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerGraph:
    """A model with one input and one output."""

    calls: tuple[LayerCall, ...]
    input: Key
    output: Key
    dtype: str
    #: shapes of all tensors, without the number of images
    shapes: Mapping[Key, tuple[int | None, ...]]

    def call_numbers(self) -> dict[Key, int]:
        """Return, for each tensor, the number of the call that computes it; -1 for the input."""
        return {self.input: -1} | {key: number for number, call in enumerate(self.calls) for key in call.outputs}

    def separators(self) -> list[tuple[int, Key]]:
        """Return the tensors that alone determine everything above them, from the bottom up, each with the number of its call."""
        call_numbers, last_use = self.call_numbers(), {self.output: len(self.calls)}
        for number, call in enumerate(self.calls):
            last_use |= {key: max(number, last_use.get(key, 0)) for _, key in call.inputs}
        alive, found = {self.input}, [(-1, self.input)]
        for number, call in enumerate(self.calls):
            alive = {key for key in alive | set(call.outputs) if last_use.get(key, -1) > number}
            if len(alive) == 1:
                [key] = alive
                found.append((call_numbers[key], key))
        return list(dict.fromkeys(found))

    def multiply_adds(self, num_calls: int) -> int:
        """Return the multiply-adds of the lowest calls for one image: each entry of a kernel, once for each place of the output."""
        found = 0
        for call in self.calls[:num_calls]:
            entries = sum(math.prod(variable.shape) for variable in getattr(call.layer, "variables", ()) if len(variable.shape) > 1)
            found += entries * math.prod(length or 1 for length in self.shapes[call.outputs[0]][:-1])
        return found

    def run(self, given: Mapping[Key, Any], wanted: Sequence[Key]) -> list[Any]:
        """Compute tensors from given ones, in inference mode; compute nothing that they do not need."""
        values = dict(given)
        for call in self._needed(given, wanted):
            found = keras_private.fill_in(call.arguments, {number: values[key] for number, key in call.inputs})
            outputs = keras_private.infer(call.layer, *found)
            values |= zip(call.outputs, keras.tree.flatten(outputs), strict=True)
        return [values[key] for key in wanted]

    def sized(self, image: Any) -> "LayerGraph":
        """Return the graph with every length known, as it is for an image (1, size, size, 3)."""
        if all(None not in shape for shape in self.shapes.values()):
            return self
        known = [self.input, *(key for call in self.calls for key in call.outputs)]
        return replace(
            self, shapes={key: tuple(found.shape[1:]) for key, found in zip(known, self.run({self.input: image}, known), strict=True)}
        )

    def _needed(self, given: Iterable[Key], wanted: Iterable[Key]) -> list[LayerCall]:
        missing, found = set(wanted) - set(given), []
        for call in reversed(self.calls):
            if missing & set(call.outputs):
                found.append(call)
                missing = (missing - set(call.outputs)) | ({key for _, key in call.inputs} - set(given))
        return found[::-1]


def read_graph(model: keras.Model) -> LayerGraph:
    """Return the calls of a functional or Sequential model; the calls of inner models replace the inner models."""
    reader = _GraphReader()
    graph = keras_private.graph_of(model)
    if graph is None:
        image = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype)
        graph = keras.Model(image, model(image))
    [output] = reader.read(graph, [(0, id(graph.inputs[0]))])
    return LayerGraph(
        calls=tuple(reader.calls), input=(0, id(graph.inputs[0])), output=output, dtype=graph.inputs[0].dtype, shapes=reader.shapes
    )


class _GraphReader:
    def __init__(self) -> None:
        self.calls: list[LayerCall] = []
        self.shapes: dict[Key, tuple[int | None, ...]] = {}
        self._num_opened = 0

    def read(self, graph: Any, inputs: Sequence[Key]) -> list[Key]:
        """Add the calls of a graph with these inputs, and return its outputs."""
        number, self._num_opened = self._num_opened, self._num_opened + 1
        names = {id(tensor): key for tensor, key in zip(graph.inputs, inputs, strict=True)}
        self.shapes |= {key: tuple(tensor.shape[1:]) for tensor, key in zip(graph.inputs, inputs, strict=True)}
        for node in keras_private.calls(graph):
            given = [names[id(tensor)] for tensor in node.input_tensors]
            inner = keras_private.graph_of(node.operation)
            if inner is not None and len(inner.inputs) == len(inner.outputs) == 1:
                outputs = self.read(inner, given)
            else:
                outputs = [(number, id(tensor)) for tensor in node.outputs]
                taken = tuple(zip((id(tensor) for tensor in node.input_tensors), given, strict=True))
                self.calls.append(LayerCall(layer=node.operation, arguments=node.arguments, inputs=taken, outputs=tuple(outputs)))
            names |= {id(tensor): key for tensor, key in zip(node.outputs, outputs, strict=True)}
            self.shapes |= {key: tuple(tensor.shape[1:]) for tensor, key in zip(node.outputs, outputs, strict=True)}
        return [names[id(tensor)] for tensor in graph.outputs]
