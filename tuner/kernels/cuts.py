"""A network and its blocks into what is seen of several depths, and into two parts at the boundary of a block."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tuner.kernels import keras_private
from tuner.spec.hyperparameters import Features

#: depths that the features of several depths are taken from, the last layer's among them
NUM_DEPTHS = 6
#: what lies below a cut makes of images: the activation at the cut, and the pooled vectors (n, k) of the depths below it; k may be 0
Lower = tuple[tf.Tensor, tf.Tensor]
Block = Sequence[keras.Variable]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A backbone in two: what a trial leaves frozen, and what it trains above it."""

    #: blocks that are trained; the cut lies below them, lower than needed where no single tensor separates the network there
    num_open: int
    #: the variables of these blocks, each with how many blocks lie above its own
    variables: tuple[tuple[int, keras.Variable], ...]
    #: names the place of the cut: equal for two cuts that lie at one place
    boundary: int
    #: of the activation at the cut, without the number of images
    shape: tuple[int | None, ...]
    #: width k of the pooled vectors of the depths below
    num_pooled: int
    #: what `below` takes for an image
    multiply_adds: int
    #: images (n, size, size, 3), float32 colours from 0 to 255, to what `above` needs of them
    below: Callable[[tf.Tensor], Lower]
    #: to the features (n, d), float32
    above: Callable[[Lower, Features], tf.Tensor]

    @property
    def num_values(self) -> int:
        """Numbers an image that `below` gives."""
        return math.prod(length or 0 for length in self.shape) + self.num_pooled


class NetworkBlocks:
    """A network that is known by its calls: where its blocks end, and where it can be cut."""

    def __init__(
        self, network: keras.Model, blocks: Sequence[Block], *, pool: Callable[[Any], Any], preprocess: Callable[[Any], Any], size: int
    ) -> None:
        self._graph, self._blocks, self._pool, self._preprocess = keras_private.read(network), blocks, pool, preprocess
        self._graph = self._graph.sized(self._fed(np.zeros((1, size, size, 3), np.float32)))
        numbers = {id(variable): number for number, block in enumerate(blocks) for variable in block}
        #: for each call the blocks that its variables belong to
        self._blocks_of = [{numbers[id(v)] for v in getattr(call.layer, "variables", ()) if id(v) in numbers} for call in self._graph.calls]
        self._places, self._separators = self._graph.places(), self._graph.separators()
        #: of the features of several depths, from the bottom up; the last is the network's output
        self._depths = tuple(dict.fromkeys([*(self._end(block) for block in _chosen(len(blocks))[:-1]), self._graph.output]))

    def num_features(self, kind: Features) -> int:
        """Width of the features."""
        return sum(self._width(key) for key in self._keys(kind))

    def features(self, images: Any, kind: Features) -> tf.Tensor:
        """Images (n, size, size, 3), colours from 0 to 255, to features (n, d): the last layer's are the last among those of several."""
        return self._concatenated(self._graph.run({self._graph.input: self._fed(images)}, self._keys(kind)))

    def maps(self, preprocessed: Any, kind: Features) -> list[Any]:
        """What the features are pooled from, of preprocessed images, which may be symbolic."""
        return self._graph.run({self._graph.input: preprocessed}, self._keys(kind))

    def cut(self, num_open: int) -> Cut:
        """The network in two, below its topmost blocks."""
        count = len(self._blocks)
        opened = set(range(count - num_open, count))
        first = next((number for number, blocks in enumerate(self._blocks_of) if blocks & opened), len(self._blocks_of))
        place, boundary = [found for found in self._separators if found[0] < first][-1]
        lower = [key for key in self._depths if self._places[key] < place]
        return Cut(
            num_open=num_open,
            variables=tuple((depth, variable) for depth in range(num_open) for variable in self._blocks[count - 1 - depth]),
            boundary=place,
            shape=self._graph.shapes[boundary],
            num_pooled=sum(self._width(key) for key in lower),
            multiply_adds=self._graph.multiply_adds(place + 1),
            below=lambda images: self._below(images, boundary, lower),
            above=lambda found, kind: self._above(found, boundary, lower, kind),
        )

    def _below(self, images: Any, boundary: keras_private.Key, lower: Sequence[keras_private.Key]) -> Lower:
        activation, *maps = self._graph.run({self._graph.input: self._fed(images)}, [boundary, *lower])
        return tf.cast(activation, tf.float32), self._concatenated(maps) if maps else tf.zeros((tf.shape(activation)[0], 0))

    def _above(self, found: Lower, boundary: keras_private.Key, lower: Sequence[keras_private.Key], kind: Features) -> tf.Tensor:
        activation, vectors = found
        given: Mapping[keras_private.Key, Any] = {boundary: tf.cast(activation, keras.config.floatx())}
        upper = [key for key in self._keys(kind) if key not in lower]
        features = self._concatenated(self._graph.run(given, upper))
        return tf.concat([vectors, features], 1) if lower and kind is Features.SEVERAL else features

    def _fed(self, images: Any) -> Any:
        return keras.ops.cast(self._preprocess(images), self._graph.dtype)

    def _keys(self, kind: Features) -> list[keras_private.Key]:
        return list(self._depths if kind is Features.SEVERAL else self._depths[-1:])

    def _width(self, key: keras_private.Key) -> int:
        return int(self._graph.shapes[key][-1] or 0)

    def _concatenated(self, maps: Sequence[Any]) -> tf.Tensor:
        return tf.concat([self._pool(tf.cast(found, tf.float32)) for found in maps], 1)

    def _end(self, block: int) -> keras_private.Key:
        """What a block hands on; where it hands on several tensors, what its last layer makes."""
        last = max(number for number, blocks in enumerate(self._blocks_of) if block in blocks)
        above = [number for number, blocks in enumerate(self._blocks_of) if blocks and max(blocks) > block]
        found = [key for place, key in self._separators if last <= place < min(above)]
        return found[-1] if found else self._graph.calls[last].outputs[0]


def pooled(pooling: str) -> Callable[[Any], Any]:
    """Maps (n, …, d) to vectors (n, d): the mean over all places, or the largest."""

    def pool(found: Any) -> Any:
        axes = tuple(range(1, len(found.shape) - 1))
        if not axes:
            return found
        return keras.ops.mean(found, axes) if pooling == "avg" else keras.ops.max(found, axes)

    return pool


def _chosen(num_blocks: int) -> list[int]:
    """The blocks at whose ends the network is looked at: as evenly spread as they can be, the last among them."""
    ends = np.linspace(0, num_blocks, NUM_DEPTHS + 1).round().astype(int)[1:]
    return sorted({max(1, int(end)) - 1 for end in ends}) if num_blocks else [0]
