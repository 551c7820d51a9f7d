"""Features and activations of a frozen backbone, computed once per machine and read by every trial and worker."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.cache import arrays as cache_files
from tuner.kernels import cuts, head
from tuner.machine import TrainerShare
from tuner.spec.hyperparameters import Features
from tuner.tasks.images.data import resized
from tuner.tasks.images.training import backbones, views

#: number of images in one forward pass
BATCH = 64
#: share of the memory for tensors that the vectors of a split may use; larger ones stay in their files
SHARE_OF_MEMORY = 1 / 16
#: share of a trainer's memory that the activations of a split may use: more would be read from the disk in each epoch
SHARE_OF_ACTIVATIONS = 1 / 4
#: minimum multiply-adds for each stored number; with fewer, computing is as fast as reading
WORTHWHILE_MULTIPLY_ADDS = 250
#: features are stored as float16 if rounding is below this share of a column's standard deviation, in this share of the columns
_ROUNDING = 0.02
_MOST_COLUMNS = 0.99
_LARGEST_HALF = 60000.0
#: how long, and with how many batches at most, the time of an image is measured
_MEASURED_SECONDS, _MEASURED_BATCHES = 3.0, 30
#: number of sets of vectors in memory
_NUM_IN_MEMORY = 4

#: from images (n, size, size, 3), float32, to numbers (n, d)
Forward = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class SplitImages:
    """The images of a split."""

    #: uint8 (n, size, size, 3)
    images: resized.ResizedImages
    #: cache key of the images and of the way that they were resized
    key: str


class Vectors:
    """Features of the images of a split, view by view, standardized by given moments."""

    def __init__(self, stored: Sequence[NDArray[Any]], moments: head.Moments, *, widths: Iterable[int], memory_bytes: int) -> None:
        """Standardize `stored` by `moments`; `widths` are those that trials use, each of which stays in memory after its first use."""
        self._stored, self._mean, self._deviation = stored, moments[0], np.sqrt(moments[1])
        #: views, images, numbers per image
        self.shape = (len(stored), *stored[0].shape)
        self._num_bytes: int = 4 * self.shape[0] * self.shape[1] * sum(set(widths))
        self._memory_bytes = memory_bytes
        self._whole: dict[int, tf.Tensor] = {}

    @property
    def is_small(self) -> bool:
        """Whether all widths together fit in memory."""
        return self._num_bytes <= SHARE_OF_MEMORY * self._memory_bytes

    def whole(self, width: int | None = None) -> tf.Tensor:
        """Return their last `width` numbers, by default all, as float32 (views, n, width); only if `is_small`."""
        width = width or self.shape[2]
        if width not in self._whole:
            self._whole[width] = tf.constant(np.stack([self._standardized(view[:, -width:]) for view in self._stored]))
        return self._whole[width]

    def take(self, numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Read the features of some images, each in the view with its number: float32 (m, d)."""
        return self._standardized(_take(self._stored, numbers, rows))

    def _standardized(self, found: NDArray[Any]) -> NDArray[np.float32]:
        mean, deviation = (moment[-found.shape[1] :] for moment in (self._mean, self._deviation))
        standardized: NDArray[np.float32] = ((np.asarray(found, np.float32) - mean) / deviation).astype(np.float32, copy=False)
        return standardized


class Activations:
    """Output of the network below a cut for the images of a split, view by view."""

    def __init__(self, stored: Sequence[NDArray[Any]], cut: cuts.Cut) -> None:
        self._stored, self._shape = stored, tuple(int(length or 0) for length in cut.shape)

    @property
    def is_mapped(self) -> bool:
        """Whether all of them are in files of the cache."""
        return all(isinstance(view, np.memmap) for view in self._stored)

    def take(self, numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Read the activations of some images, each in the view with its number: float32, as `Cut.above` takes them."""
        found = _take(self._stored, numbers, rows).astype(np.float32)
        width = int(np.prod(self._shape))
        return found[:, :width].reshape(-1, *self._shape), found[:, width:]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStore:
    """Features and activations of the images of a study, in the cache of the machine, or in memory if the cache is full.

    The backbone must have its pretrained weights whenever something is computed.
    """

    backbone: backbones.Backbone
    #: `Backbone.digest`
    network: str
    #: the splits train and validation
    splits: Mapping[str, SplitImages]
    cache: Path
    #: description of an entry in `tuner cache`
    words: Mapping[str, str]
    #: share of the machine that the trainer may use
    share: TrainerShare
    #: called between two computed batches, and every few seconds while another process computes; may raise to interrupt
    watch: list[Callable[[], None]] = field(default_factory=list)
    #: time between two calls of `watch` while another process computes
    tick_seconds: float = cache_files.TICK_SECONDS
    #: the store of more images, from whose split `train` all is read, and the rows of each split in it; None: this one has its own
    source: "FeatureStore | None" = None
    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    _vectors: dict[tuple[str, tuple[views.View, ...], float], Vectors] = field(default_factory=dict)
    #: the latest activations, if they are in memory
    _activations: dict[tuple[int, str, tuple[views.View, ...]], Activations] = field(default_factory=dict)

    def of_rows(self, rows: Mapping[str, NDArray[np.int64]]) -> "FeatureStore":
        """Return a store of splits of the images of `train`, which shares what is computed; its moments are those of its own `train`."""
        whole = self.splits["train"]
        parts = {split: SplitImages(images=resized.Excerpt(images=whole.images, rows=some), key=whole.key) for split, some in rows.items()}
        return replace(self, splits=parts, source=self, rows=rows, _vectors={}, _activations={})

    @cached_property
    def moments(self) -> head.Moments:
        """Mean and variance of the features of several depths over the original training images."""
        return head.measure_moments(self._read_vectors("train", views.ORIGINAL))

    def image_seconds(self) -> float:
        """Return the time of one training image in the network, measured for a while on batches, after one that traces it."""
        batch = next(iter(batches_in_order(self.splits["train"].images)))
        images, num_batches = tf.constant(views.render(views.ORIGINAL, batch, 0)), 0
        self.forward(images)
        start = now = time.perf_counter()
        # a short burst is faster than training on a machine with other work
        while now - start < _MEASURED_SECONDS and num_batches < _MEASURED_BATCHES:
            self.forward(images).numpy()
            num_batches, now = num_batches + 1, time.perf_counter()
        return (now - start) / (num_batches * len(batch))

    def floored(self, floor: float) -> head.Moments:
        """Return the moments with a `feature_floor`."""
        return head.floored(self.moments, floor, widths=self.backbone.widths(Features.SEVERAL))

    def vectors(self, split: str, wanted: tuple[views.View, ...], *, floor: float = 0.0) -> Vectors:
        """Return the features of several depths, standardized with a `feature_floor`."""
        found = self._vectors.pop((split, wanted, floor), None)
        if found is None:
            stored, widths = [self._read_vectors(split, view) for view in wanted], map(self.backbone.num_features, Features)
            found = Vectors(stored, self.floored(floor), widths=widths, memory_bytes=self.share.tensor_bytes)
        self._vectors[split, wanted, floor] = found
        if len(self._vectors) > _NUM_IN_MEMORY:
            del self._vectors[next(iter(self._vectors))]
        return found

    def activations(
        self, cut: cuts.Cut, split: str, wanted: tuple[views.View, ...], *, below: Callable[[tf.Tensor], cuts.LowerOutput]
    ) -> Activations:
        """Return the output of the network below a cut; `below` is the traced `Cut.below`."""
        key, depth = (cut.boundary, split, wanted), f"boundary {cut.boundary}"
        found = self._activations.pop(key, None)
        self._activations.clear()  # freed first, because both may not fit in memory
        if found is None:
            stored = [
                self.read("activations", split, view, cut.num_values, depth=depth, forward=lambda images: _joined(below(images)))
                for view in wanted
            ]
            found = Activations(stored, cut)
        if not found.is_mapped:  # a file is found again at once, and `tuner cache` may delete it between two trials
            self._activations[key] = found
        return found

    def _read_vectors(self, split: str, view: views.View) -> NDArray[Any]:
        width = self.backbone.num_features(Features.SEVERAL)
        return self.read("features", split, view, width, depth="several depths", forward=(self.source or self).forward)

    def read(self, kind: str, split: str, view: views.View, width: int, *, depth: str, forward: Forward) -> NDArray[Any]:
        """Return an entry as float16, or as float32 if its first rows need it; in memory if the cache is full."""
        if self.source is not None:
            whole = self.source.read(kind, "train", view, width, depth=depth, forward=forward)
            return whole[self.rows[split]]
        images = self.splits[split]
        half = cache_files.ArraySpec(
            kind=kind,
            key="\n".join([images.key, self.network, view.key, depth]),
            shape=(len(images.images), width),
            dtype="float16",
            words={**self.words, "what": f"{split}, {view.key.split(' of ')[0]}, {depth}"},
        )
        exact = replace(half, dtype="float32")
        for known in (half, exact):
            if (found := cache_files.find(self.cache, known)) is not None:
                return found
        dtype, parts = rounded(self._watched(compute(forward, images.images, view)))
        wanted = replace(half, dtype=dtype)
        found = cache_files.optional(self.cache, wanted, lambda: parts, tick=self.tick, tick_seconds=self.tick_seconds)
        return found if found is not None else _gathered(parts, wanted)

    @cached_property
    def forward(self) -> Forward:
        """Traced function from images to vectors."""
        given = tf.TensorSpec([None, self.backbone.size, self.backbone.size, 3], tf.float32)
        found: Forward = tf.function(lambda images: self.backbone.features(images, Features.SEVERAL), input_signature=[given])
        return found

    def _watched(self, parts: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for part in parts:
            self.tick()
            yield part

    def tick(self) -> None:
        """Call `watch`, which may raise to interrupt."""
        for call in self.watch:
            call()


def compute(forward: Forward, images: resized.ResizedImages, view: views.View) -> Iterator[NDArray[np.float32]]:
    """Apply a function to a view of all images, batch by batch."""
    for number, batch in enumerate(batches_in_order(images)):
        yield forward(tf.constant(views.render(view, batch, number * BATCH))).numpy()


def batches_in_order(images: resized.ResizedImages) -> Iterator[NDArray[np.uint8]]:
    """Yield the images in order, batch by batch."""
    starts = range(0, len(images), BATCH)
    return resized.batches(images, (np.arange(start, min(start + BATCH, len(images))) for start in starts))


def is_worth_keeping(cut: cuts.Cut, *, num_images: int, num_views: int, epochs: int, memory_bytes: int) -> bool:
    """Return whether storing activations is faster than computing them in each epoch.

    It is if there are fewer views than epochs, if each stored number replaces many multiply-adds, and if all activations stay in memory
    after the first epoch. On one core, reading a number takes 2 to 3 ns, and 20 to 50 multiply-adds take 1 ns. With
    WORTHWHILE_MULTIPLY_ADDS for each number, reading takes a fifth to a third of the time. At higher cuts it takes a hundredth.
    """
    num_bytes = 2 * cut.num_values * num_images * num_views
    is_much = cut.multiply_adds >= WORTHWHILE_MULTIPLY_ADDS * cut.num_values
    return num_views < epochs and is_much and num_bytes <= SHARE_OF_ACTIVATIONS * memory_bytes


def _gathered(parts: Iterator[NDArray[Any]], wanted: cache_files.ArraySpec) -> NDArray[Any]:
    found, end = np.empty(wanted.shape, wanted.dtype), 0
    for part in parts:
        found[end : end + len(part)] = part
        end += len(part)
    assert end == len(found), f"{end} rows instead of {len(found)}"
    return found


def _joined(lower: cuts.LowerOutput) -> tf.Tensor:
    activation, pooled = lower
    return tf.concat([tf.reshape(activation, (tf.shape(activation)[0], -1)), pooled], 1)


def _take(stored: Sequence[NDArray[Any]], numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
    found = np.empty((len(rows), stored[0].shape[1]), np.result_type(*(view.dtype for view in stored)))
    for number, view in enumerate(stored):
        chosen = np.flatnonzero(numbers == number)
        found[chosen] = view[rows[chosen]]
    return found


def is_half_enough(values: NDArray[np.float32]) -> bool:
    """Return whether float16 is precise enough for rows (n, d); it has three digits, and its maximum is 65,504.

    A column that varies little compared with its size loses its variation. A few such columns among many do not matter.
    """
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > _LARGEST_HALF:
        return False
    errors = (values.astype(np.float16).astype(np.float32) - values).std(0)
    spreads = np.sqrt(np.maximum(values.var(0), head.SMALLEST_VARIANCE))
    return float(np.mean(errors <= _ROUNDING * spreads)) >= _MOST_COLUMNS


def rounded(rows: Iterator[NDArray[np.float32]]) -> tuple[str, Iterator[NDArray[Any]]]:
    """Return the type in which rows are stored, judged by the first part, and the rows in that type."""
    first = next(rows)
    parts = itertools.chain([first], rows)
    if not is_half_enough(first):
        return "float32", parts
    return "float16", (np.clip(part, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16) for part in parts)
