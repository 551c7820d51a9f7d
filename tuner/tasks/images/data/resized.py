"""Resized images of a split: decoded once for all workers of a machine, or on demand if the cache is full."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.cache import arrays as cache_files
from tuner.cache import entries
from tuner.tasks.images.data import dataset

Resize = Literal["stretch", "crop", "pad"]
Rows = slice | NDArray[np.int64]
#: part of the cache key: raise it whenever `fit` gives other pixels
_VERSION = 2
#: mid-gray, which most preprocessing maps to nearly zero
_PADDING = (127, 127, 127)
#: a large image is first reduced by averaging to at least this multiple of the size, which is several times faster and looks the same
_REDUCING_GAP = 3.0
_AT_ONCE = 256
_LOG = logging.getLogger(__name__)


class ResizedImages(Protocol):
    """Images of one size, indexed like an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, size, size, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]:
        """Return some images, uint8 (m, size, size, 3)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Streamed:
    """Images that are decoded and resized on demand."""

    data: dataset.Dataset
    #: rows of the dataset
    indices: NDArray[np.int64]
    size: int
    resize: Resize

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, size, size, 3)."""
        return (len(self.indices), self.size, self.size, 3)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]:
        """Return some images, uint8 (m, size, size, 3), decoded in threads."""
        chosen = self.indices[rows]
        found = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        fitted = self.data.images.map(lambda pixels: fit(pixels, self.size, self.resize), chosen.tolist(), least=self.size)
        for row, pixels in enumerate(fitted):
            found[row] = pixels
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Excerpt:
    """Some of other images."""

    images: ResizedImages
    #: which of them
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, size, size, 3)."""
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows, /) -> NDArray[np.uint8]:
        """Return some images, uint8 (m, size, size, 3)."""
        return self.images[self.rows[rows]]


def load(
    data: dataset.Dataset,
    indices: NDArray[np.int64],
    *,
    size: int,
    resize: Resize,
    cache: Path,
    words: Mapping[str, str],
    tick: Callable[[], None] = lambda: None,
) -> ResizedImages:
    """Return images as uint8 (n, size, size, 3), mapped read-only from the cache, or decoded on demand if the cache is full.

    The first process of a machine creates the cache entry. The others wait, and then share its memory pages. `words` describe the entry.
    `tick` is called from time to time.

    Raises:
        DataError: an image can no longer be read, the disk is full, or the cache folder cannot be written.
    """
    streamed = Streamed(data=data, indices=indices, size=size, resize=resize)
    wanted = cache_files.ArraySpec(
        kind="images",
        key=f"{_VERSION} {size} {resize} {hashlib.sha256(data.digests[indices].tobytes()).hexdigest()}",
        shape=streamed.shape,
        dtype="uint8",
        words=words,
    )
    try:
        return cache_files.entry(cache, wanted, lambda: _parts(streamed, tick), tick=tick)
    except entries.CacheFull as error:
        _LOG.warning("%d images are decoded each time they are used: %s", len(indices), error)
        return streamed


def batches(images: ResizedImages, chosen: Iterable[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of each array of rows; a thread prepares the next batch meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[NDArray[np.uint8]] | None = None
        for rows in chosen:
            following = thread.submit(images.__getitem__, rows)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _parts(streamed: Streamed, tick: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
    _LOG.info("resizing %d images to %d x %d pixels", len(streamed), streamed.size, streamed.size)
    for start in range(0, len(streamed), _AT_ONCE):
        yield streamed[start : start + _AT_ONCE]
        tick()


def fit(pixels: dataset.Pixels, size: int, resize: Resize) -> dataset.Pixels:
    """Resize an image to uint8 (size, size, 3): stretched, cropped at the center, or padded with gray."""
    image = Image.fromarray(pixels)
    if resize == "stretch" or image.width == image.height:
        return _resized(image, (size, size))
    if resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return _resized(image.crop((left, top, left + side, top + side)), (size, size))
    scale = size / max(image.size)
    inner = _resized(image, (max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = np.full((size, size, 3), _PADDING, np.uint8)
    top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


def _resized(image: Image.Image, size: tuple[int, int]) -> dataset.Pixels:
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP))
