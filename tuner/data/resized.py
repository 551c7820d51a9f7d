"""The images of a split, decoded and resized once for all workers of a host, as a memory map."""

import hashlib
import logging
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.data import cache as cache_files
from tuner.data import dataset

Resize = Literal["stretch", "crop", "pad"]
#: another number makes new files: raise it whenever `fit` gives other pixels
_VERSION = 1
#: middle grey, which most preprocessing maps to nearly zero
_PADDING = (127, 127, 127)
_LOG = logging.getLogger(__name__)


def load(
    data: dataset.Dataset, indices: NDArray[np.int64], *, size: int, resize: Resize, cache: Path, fingerprint: str
) -> NDArray[np.uint8]:
    """The images as uint8 (n, size, size, 3), mapped from a file of the cache folder, read-only.

    The first process of a host writes the file; the others wait and then share its pages.

    Raises:
        DataError: an image can no longer be read, the disk is full, or the cache folder cannot be written.
    """
    shape = (len(indices), size, size, 3)
    if not len(indices):
        return np.empty(shape, np.uint8)
    content = hashlib.sha256(f"{_VERSION} {size} {resize} ".encode() + data.digests[indices].tobytes()).hexdigest()
    path = cache / "images" / fingerprint[:16] / f"{content[:24]}-{size}.npy"
    found = _map(path, shape)
    if found is None:
        with cache_files.locked(path):
            found = _map(path, shape)
            if found is None:
                _write(path, data, indices, size, resize)
                found = _map(path, shape)
    assert found is not None
    return found


def fit(pixels: dataset.Pixels, size: int, resize: Resize) -> dataset.Pixels:
    """One image as uint8 (size, size, 3): squeezed, cut at the centre, or padded with grey."""
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
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _map(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The file as an array; None if it is not there, or not whole."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if isinstance(found, np.memmap) and found.shape == shape and found.dtype == np.uint8 else None


def _write(path: Path, data: dataset.Dataset, indices: NDArray[np.int64], size: int, resize: Resize) -> None:
    _LOG.info("resizing %d images to %d x %d pixels", len(indices), size, size)
    with cache_files.written_beside(path) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(indices), size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for pixels in data.images.map(lambda image: fit(image, size, resize), indices.tolist()):
            file.write(np.ascontiguousarray(pixels).data)
