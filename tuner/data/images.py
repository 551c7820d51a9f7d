"""An image file into pixels, or the reason why it has none."""

import functools
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tuner import errors
from tuner.data import dataset

#: endings of the files that are taken for images
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
#: an image of more pixels is refused: decoding it could take all memory
MAX_PIXELS = 100_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
#: what Pillow raises on damaged files, by format and kind of damage
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, NotImplementedError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_AT_ONCE = 64
# the filters of `warnings` belong to the whole process
_QUIET = threading.Lock()

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What decoding a file once has told."""

    #: SHA-256 of the pixels; b"" if there are none
    digest: bytes = b""
    width: int = 0
    height: int = 0
    #: why it cannot be read; "" if it can
    reason: str = ""


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images that are files."""

    paths: tuple[str, ...]

    def read(self, index: int) -> dataset.Pixels:
        """The image as uint8 (height, width, 3)."""
        return read(self.paths[index])

    def name(self, index: int) -> str:
        """The file's path."""
        return show(self.paths[index])

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int]) -> Iterator[T]:
        """The function's value for each image, in order, decoded in threads."""
        return each(lambda index: function(_read(self.paths[index])), indices)


def read(path: str | Path) -> dataset.Pixels:
    """A file as uint8 (height, width, 3): upright, 8 bits a channel, over white where it is transparent.

    Raises:
        DataError: it cannot be read; the message names it and the reason.
    """
    with _quietly():
        return _read(str(path))


def inspect(path: str) -> Seen:
    """What decoding the whole file tells; a file that cannot be read gives the reason. For threads, call it through `each`."""
    try:
        pixels = _decode(path)
    except _DAMAGE as error:
        return Seen(reason=_reason(path, error))
    return Seen(digest=dataset.digest(pixels), width=pixels.shape[1], height=pixels.shape[0])


def each(function: Callable[[A], T], items: Sequence[A]) -> Iterator[T]:
    """The function's value for each item, in order, computed by as many threads as there are cores."""
    with ThreadPoolExecutor(_num_threads()) as threads:
        for start in range(0, len(items), _AT_ONCE):
            with _quietly():
                values = list(threads.map(function, items[start : start + _AT_ONCE]))
            yield from values


def show(path: str) -> str:
    """A path that can be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode(errors="replace")


def _read(path: str) -> dataset.Pixels:
    try:
        return _decode(path)
    except _DAMAGE as error:
        raise errors.DataError(f"{show(path)}: {_reason(path, error)}; mend the file or remove it") from error


def _decode(path: str) -> dataset.Pixels:
    with Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height}")
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: NDArray[Any]) -> dataset.Pixels:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its pixels have more than 16 bits a channel; expected 8 or 16")
    return np.round(pixels / 257).astype(np.uint8)


def _reason(path: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "a link that points nowhere" if Path(path).is_symlink() else "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels ({error}); shrink it"
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty" if Path(path).stat().st_size == 0 else "it is no jpeg, png, webp, bmp, gif or tiff"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of Pillow: what matters in them is an error here."""
    with _QUIET, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@functools.cache
def _num_threads() -> int:
    return max(2, min(16, len(os.sched_getaffinity(0))))
