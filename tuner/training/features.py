"""Images into what a frozen backbone makes of them: vectors and activations, computed once a host and read by every trial and worker."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import machine
from tuner.data import cache as cache_files
from tuner.data import resized
from tuner.hyperparameters import Features
from tuner.training import backbones, cuts, views

#: images of one forward pass
BATCH = 64
#: part of the machine's memory that the vectors of a split may take in a trainer; more stay in their files
SHARE_OF_MEMORY = 1 / 16
#: part of the machine's memory that the activations of a split may take in the cache: more would be read from the disk in each epoch
SHARE_OF_ACTIVATIONS = 1 / 4
#: for each number that is kept; below that they are as soon computed as read
WORTHWHILE_MULTIPLY_ADDS = 250
#: a vector's column that varies less than this is as good as constant
SMALLEST_VARIANCE = 1e-6
#: float16 is kept where its rounding is below this part of a column's spread, in so many of the columns
_ROUNDING = 0.02
_MOST_COLUMNS = 0.99
_LARGEST_HALF = 60000.0
_ROWS_AT_ONCE = 4096
#: sets of vectors that a trainer keeps in memory
_NUM_KEPT = 4

#: mean and variance (d,)
Moments = tuple[NDArray[np.float32], NDArray[np.float32]]
#: images (n, size, size, 3), float32, to numbers (n, d)
Forward = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of a split."""

    #: uint8 (n, size, size, 3)
    images: resized.Images
    #: whatever identifies the images and the way that they were resized
    key: str


class Vectors:
    """Standardized features of the images of a split, view by view: mean 0 and variance 1 by the moments they are given."""

    def __init__(self, stored: Sequence[NDArray[Any]], moments: Moments) -> None:
        self._stored, self._mean, self._deviation = stored, moments[0], np.sqrt(moments[1])
        #: views, images, numbers an image
        self.shape = (len(stored), *stored[0].shape)
        self._whole: tf.Tensor | None = None

    @property
    def is_small(self) -> bool:
        """Whether they may be in memory all at once."""
        return int(np.prod(self.shape, dtype=np.int64)) * 4 <= SHARE_OF_MEMORY * machine.memory_bytes()

    def whole(self) -> tf.Tensor:
        """All of them, float32 (views, n, d); only where they are small."""
        if self._whole is None:
            self._whole = tf.constant(np.stack([self._standardized(view) for view in self._stored]))
        return self._whole

    def take(self, numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Those of some images, each in the view of its own number: float32 (m, d), read from the files."""
        return self._standardized(_take(self._stored, numbers, rows))

    def _standardized(self, found: NDArray[Any]) -> NDArray[np.float32]:
        standardized: NDArray[np.float32] = ((np.asarray(found, np.float32) - self._mean) / self._deviation).astype(np.float32, copy=False)
        return standardized


class Activations:
    """What the network below a cut makes of the images of a split, view by view."""

    def __init__(self, stored: Sequence[NDArray[Any]], cut: cuts.Cut) -> None:
        self._stored, self._shape = stored, tuple(int(length or 0) for length in cut.shape)
        self.num_views = len(stored)

    def take(self, numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Those of some images, each in the view of its own number: what `Cut.above` wants, float32."""
        found = _take(self._stored, numbers, rows).astype(np.float32)
        width = int(np.prod(self._shape))
        return found[:, :width].reshape(-1, *self._shape), found[:, width:]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shelf:
    """What a backbone makes of the images of a study, in the cache of the host.

    The backbone must have its pretrained weights whenever something is computed.
    """

    backbone: backbones.Backbone
    #: `Backbone.digest`
    network: str
    #: train and validation
    pictures: Mapping[str, Pictures]
    cache: Path
    #: what `tuner cache` shows of an entry
    words: Mapping[str, str]
    _forward: dict[str, Forward] = field(default_factory=dict)
    _moments: list[Moments] = field(default_factory=list)
    _vectors: dict[tuple[str, tuple[views.View, ...]], Vectors] = field(default_factory=dict)

    def moments(self) -> Moments:
        """Mean and variance of the features of several depths over the training images as they are."""
        if not self._moments:
            self._moments.append(measure(self._read_vectors("train", views.ORIGINAL)))
        return self._moments[0]

    def vectors(self, split: str, wanted: tuple[views.View, ...]) -> Vectors:
        """Standardized features of several depths."""
        found = self._vectors.pop((split, wanted), None)
        if found is None:
            found = Vectors([self._read_vectors(split, view) for view in wanted], self.moments())
        self._vectors[split, wanted] = found
        if len(self._vectors) > _NUM_KEPT:
            del self._vectors[next(iter(self._vectors))]
        return found

    def activations(self, cut: cuts.Cut, split: str, wanted: tuple[views.View, ...]) -> Activations | None:
        """What the network below a cut makes of the images; None where the cache has no room for it."""
        forward = self._traced(f"below {cut.boundary}", lambda images: _flat(cut.below(images)))
        stored = []
        for view in wanted:
            found = self._read("activations", split, view, cut.num_values, place=f"boundary {cut.boundary}", forward=forward)
            if found is None:
                return None
            stored.append(found)
        return Activations(stored, cut)

    def _read_vectors(self, split: str, view: views.View) -> NDArray[Any]:
        backbone = self.backbone
        forward = self._traced("vectors", lambda images: backbone.features(images, Features.SEVERAL))
        width = backbone.num_features(Features.SEVERAL)
        found = self._read("features", split, view, width, place="several depths", forward=forward)
        return found if found is not None else np.concatenate(list(_rounded(run(forward, self.pictures[split].images, view))[1]))

    def _read(self, kind: str, split: str, view: views.View, width: int, *, place: str, forward: Forward) -> NDArray[Any] | None:
        """An entry as float16, or as float32 where its first rows need it."""
        pictures = self.pictures[split]
        half = cache_files.Wanted(
            kind=kind,
            key="\n".join([pictures.key, self.network, view.key, place]),
            shape=(len(pictures.images), width),
            dtype="float16",
            words={**self.words, "what": f"{split}, {view.key.split(' of ')[0]}, {place}"},
        )
        exact = replace(half, dtype="float32")
        for known in (half, exact):
            if (found := cache_files.find(self.cache, known)) is not None:
                return found
        dtype, parts = _rounded(run(forward, pictures.images, view))
        return cache_files.optional(self.cache, replace(half, dtype=dtype), lambda: parts)

    def _traced(self, name: str, function: Forward) -> Forward:
        if name not in self._forward:
            size = self.backbone.size
            self._forward[name] = tf.function(function, input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)])
        return self._forward[name]


def measure(stored: NDArray[Any]) -> Moments:
    """Mean and variance of the columns of vectors (n, d), the variance never too small to divide by."""
    mean = np.sum([part.sum(0, dtype=np.float64) for part in _parts(stored)], 0) / len(stored)
    variance = np.sum([np.square(part - mean).sum(0) for part in _parts(stored)], 0) / len(stored)
    return mean.astype(np.float32), np.maximum(variance, SMALLEST_VARIANCE).astype(np.float32)


def run(forward: Forward, images: resized.Images, view: views.View) -> Iterator[NDArray[np.float32]]:
    """A function of images over a view of all of them, batch by batch."""
    starts = range(0, len(images), BATCH)
    read = resized.batches(images, (np.arange(start, min(start + BATCH, len(images))) for start in starts))
    for start, batch in zip(starts, read, strict=True):
        yield forward(tf.constant(views.show(view, batch, start))).numpy()


def is_worth_keeping(cut: cuts.Cut, *, num_images: int, num_views: int, epochs: int) -> bool:
    """Whether reading what lies below a cut makes of images costs less than computing it in each epoch.

    It does where an epoch is saved, where there is much to compute for each number that is read, and where all of it stays in the
    machine's memory once it was read. On one core a number is read in 2 to 3 ns and 20 to 50 multiply-adds take 1 ns: at
    WORTHWHILE_MULTIPLY_ADDS for each, reading takes a fifth to a third of the time, at the cuts further up a hundredth.
    """
    num_bytes = 2 * cut.num_values * num_images * num_views
    is_much = cut.multiply_adds >= WORTHWHILE_MULTIPLY_ADDS * cut.num_values
    return num_views < epochs and is_much and num_bytes <= SHARE_OF_ACTIVATIONS * machine.memory_bytes()


def is_half_enough(values: NDArray[np.float32]) -> bool:
    """Whether float16 keeps these rows (n, d): it has three digits, and nothing above 65,504.

    What it does to a column that varies little beside its size is lost; a few such columns of many are no loss.
    """
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > _LARGEST_HALF:
        return False
    errors = (values.astype(np.float16).astype(np.float32) - values).std(0)
    spreads = np.sqrt(np.maximum(values.var(0), SMALLEST_VARIANCE))
    return float(np.mean(errors <= _ROUNDING * spreads)) >= _MOST_COLUMNS


def _rounded(rows: Iterator[NDArray[np.float32]]) -> tuple[str, Iterator[NDArray[Any]]]:
    """Rows in the type that keeps them, judged by the first of them."""
    first = next(rows)
    parts = itertools.chain([first], rows)
    if not is_half_enough(first):
        return "float32", parts
    return "float16", (np.clip(part, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16) for part in parts)


def _flat(lower: cuts.Lower) -> tf.Tensor:
    activation, pooled = lower
    return tf.concat([tf.reshape(tf.cast(activation, tf.float32), (tf.shape(activation)[0], -1)), pooled], 1)


def _take(stored: Sequence[NDArray[Any]], numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
    found = np.empty((len(rows), stored[0].shape[1]), np.result_type(*(view.dtype for view in stored)))
    for number, view in enumerate(stored):
        chosen = np.flatnonzero(numbers == number)
        found[chosen] = view[rows[chosen]]
    return found


def _parts(stored: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        yield np.asarray(stored[start : start + _ROWS_AT_ONCE], np.float32)
