"""Images into what a frozen backbone makes of them: vectors and activations, computed once a host and read by every trial and worker."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.cache import arrays as cache_files
from tuner.kernels import cuts, devices, head
from tuner.spec.hyperparameters import Features
from tuner.tasks.images.data import resized
from tuner.tasks.images.training import backbones, views

#: images of one forward pass
BATCH = 64
#: part of a trainer's memory for tensors that the vectors of a split may take; more stay in their files
SHARE_OF_MEMORY = 1 / 16
#: part of a trainer's memory that the activations of a split may take: more would be read from the disk in each epoch
SHARE_OF_ACTIVATIONS = 1 / 4
#: for each number that is kept; below that they are as soon computed as read
WORTHWHILE_MULTIPLY_ADDS = 250
#: sets of vectors that a trainer keeps in memory
_NUM_KEPT = 4

#: images (n, size, size, 3), float32, to numbers (n, d)
Forward = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of a split."""

    #: uint8 (n, size, size, 3)
    images: resized.ResizedImages
    #: whatever identifies the images and the way that they were resized
    key: str


class Vectors:
    """Standardized features of the images of a split, view by view: mean 0 and variance 1 by the moments they are given."""

    def __init__(self, stored: Sequence[NDArray[Any]], moments: head.Moments, *, widths: Iterable[int], memory_bytes: int) -> None:
        """`widths`: those that trials ask for, each of which is kept in memory once it was."""
        self._stored, self._mean, self._deviation = stored, moments[0], np.sqrt(moments[1])
        #: views, images, numbers an image
        self.shape = (len(stored), *stored[0].shape)
        self._num_bytes: int = 4 * self.shape[0] * self.shape[1] * sum(set(widths))
        self._memory_bytes = memory_bytes
        self._whole: dict[int, tf.Tensor] = {}

    @property
    def is_small(self) -> bool:
        """Whether they may be in memory all at once, in every width."""
        return self._num_bytes <= SHARE_OF_MEMORY * self._memory_bytes

    def whole(self, width: int | None = None) -> tf.Tensor:
        """Their last `width` numbers, all of them without it, float32 (views, n, width); only where they are small."""
        width = width or self.shape[2]
        if width not in self._whole:
            self._whole[width] = tf.constant(np.stack([self._standardized(view[:, -width:]) for view in self._stored]))
        return self._whole[width]

    def take(self, numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Those of some images, each in the view of its own number: float32 (m, d), read from the files."""
        return self._standardized(_take(self._stored, numbers, rows))

    def _standardized(self, found: NDArray[Any]) -> NDArray[np.float32]:
        mean, deviation = (moment[-found.shape[1] :] for moment in (self._mean, self._deviation))
        standardized: NDArray[np.float32] = ((np.asarray(found, np.float32) - mean) / deviation).astype(np.float32, copy=False)
        return standardized


class Activations:
    """What the network below a cut makes of the images of a split, view by view."""

    def __init__(self, stored: Sequence[NDArray[Any]], cut: cuts.Cut) -> None:
        self._stored, self._shape = stored, tuple(int(length or 0) for length in cut.shape)

    @property
    def is_mapped(self) -> bool:
        """Whether they are in files of the cache, all of them."""
        return all(isinstance(view, np.memmap) for view in self._stored)

    def take(self, numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Those of some images, each in the view of its own number: what `Cut.above` wants, float32."""
        found = _take(self._stored, numbers, rows).astype(np.float32)
        width = int(np.prod(self._shape))
        return found[:, :width].reshape(-1, *self._shape), found[:, width:]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStore:
    """What a backbone makes of the images of a study, in the cache of the host, or in memory where the cache has no room for it.

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
    #: of the machine that the trainer may take
    share: devices.TrainerShare
    #: called between two batches of what is computed, and every few seconds while another process computes it; may raise, to leave off
    watch: list[Callable[[], None]] = field(default_factory=list)
    _vectors: dict[tuple[str, tuple[views.View, ...]], Vectors] = field(default_factory=dict)
    #: the latest, where they are in memory
    _activations: dict[tuple[int, str, tuple[views.View, ...]], Activations] = field(default_factory=dict)

    @cached_property
    def moments(self) -> head.Moments:
        """Mean and variance of the features of several depths over the training images as they are."""
        return head.measure(self._read_vectors("train", views.ORIGINAL))

    def vectors(self, split: str, wanted: tuple[views.View, ...]) -> Vectors:
        """Standardized features of several depths."""
        found = self._vectors.pop((split, wanted), None)
        if found is None:
            stored, widths = [self._read_vectors(split, view) for view in wanted], map(self.backbone.num_features, Features)
            found = Vectors(stored, self.moments, widths=widths, memory_bytes=self.share.tensor_bytes)
        self._vectors[split, wanted] = found
        if len(self._vectors) > _NUM_KEPT:
            del self._vectors[next(iter(self._vectors))]
        return found

    def activations(
        self, cut: cuts.Cut, split: str, wanted: tuple[views.View, ...], *, below: Callable[[tf.Tensor], cuts.Lower]
    ) -> Activations:
        """What the network below a cut makes of the images; `below` is `Cut.below`, traced."""
        key, place = (cut.boundary, split, wanted), f"boundary {cut.boundary}"
        found = self._activations.pop(key, None)
        self._activations.clear()  # before others are computed: the memory may have no room for both
        if found is None:
            stored = [
                self._read("activations", split, view, cut.num_values, place=place, forward=lambda images: _flat(below(images)))
                for view in wanted
            ]
            found = Activations(stored, cut)
        if not found.is_mapped:  # a file is found again at once, and may be deleted between two trials
            self._activations[key] = found
        return found

    def _read_vectors(self, split: str, view: views.View) -> NDArray[Any]:
        width = self.backbone.num_features(Features.SEVERAL)
        return self._read("features", split, view, width, place="several depths", forward=self._forward)

    def _read(self, kind: str, split: str, view: views.View, width: int, *, place: str, forward: Forward) -> NDArray[Any]:
        """An entry as float16, or as float32 where its first rows need it; the same in memory where the cache has no room for it."""
        pictures = self.pictures[split]
        half = cache_files.ArraySpec(
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
        dtype, parts = head.rounded(self._watched(run(forward, pictures.images, view)))
        wanted = replace(half, dtype=dtype)
        found = cache_files.optional(self.cache, wanted, lambda: parts, tick=self._tick)
        return found if found is not None else _gathered(parts, wanted)

    @cached_property
    def _forward(self) -> Forward:
        """Images to vectors."""
        given = tf.TensorSpec([None, self.backbone.size, self.backbone.size, 3], tf.float32)
        found: Forward = tf.function(lambda images: self.backbone.features(images, Features.SEVERAL), input_signature=[given])
        return found

    def _watched(self, parts: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for part in parts:
            self._tick()
            yield part

    def _tick(self) -> None:
        for call in self.watch:
            call()


def run(forward: Forward, images: resized.ResizedImages, view: views.View) -> Iterator[NDArray[np.float32]]:
    """A function of images over a view of all of them, batch by batch."""
    for number, batch in enumerate(in_order(images)):
        yield forward(tf.constant(views.show(view, batch, number * BATCH))).numpy()


def in_order(images: resized.ResizedImages) -> Iterator[NDArray[np.uint8]]:
    """The images from the first to the last, batch by batch."""
    starts = range(0, len(images), BATCH)
    return resized.batches(images, (np.arange(start, min(start + BATCH, len(images))) for start in starts))


def is_worth_keeping(cut: cuts.Cut, *, num_images: int, num_views: int, epochs: int, memory_bytes: int) -> bool:
    """Whether reading what lies below a cut makes of images costs less than computing it in each epoch.

    It does where an epoch is saved, where there is much to compute for each number that is read, and where all of it stays in
    memory once it was read. On one core a number is read in 2 to 3 ns and 20 to 50 multiply-adds take 1 ns: at
    WORTHWHILE_MULTIPLY_ADDS for each, reading takes a fifth to a third of the time, at the cuts further up a hundredth.
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


def _flat(lower: cuts.Lower) -> tf.Tensor:
    activation, pooled = lower
    return tf.concat([tf.reshape(activation, (tf.shape(activation)[0], -1)), pooled], 1)


def _take(stored: Sequence[NDArray[Any]], numbers: NDArray[np.integer[Any]], rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
    found = np.empty((len(rows), stored[0].shape[1]), np.result_type(*(view.dtype for view in stored)))
    for number, view in enumerate(stored):
        chosen = np.flatnonzero(numbers == number)
        found[chosen] = view[rows[chosen]]
    return found
