"""An image file into pixels, or the reason why it has none.

What decoding each file of a folder told, kept so that an unchanged file is not decoded again.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tuner import errors
from tuner.cache import arrays as cache_files
from tuner.cache import entries
from tuner.tasks.images.data import dataset

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
class DecodedInfo:
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

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """The function's value for each image, in order, decoded in threads; of a large JPEG a smaller version where `least` allows it."""

        def of(index: int) -> T:
            with _decoded(self.paths[index], least) as pixels:
                return function(pixels)

        return each(of, indices)


def read(path: str | Path) -> dataset.Pixels:
    """A file as uint8 (height, width, 3): upright, 8 bits a channel, over white where it is transparent.

    Raises:
        DataError: it cannot be read; the message names it and the reason.
    """
    with _quietly(), _decoded(str(path)) as pixels:
        return pixels


def inspect(path: str) -> DecodedInfo:
    """What decoding the whole file tells; a file that cannot be read gives the reason. For threads, call it through `each`."""
    try:
        with _decode(path) as pixels:
            return DecodedInfo(digest=dataset.digest(pixels), width=pixels.shape[1], height=pixels.shape[0])
    except _DAMAGE as error:
        return DecodedInfo(reason=_reason(path, error))


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


@contextmanager
def _decoded(path: str, least: int | None = None) -> Iterator[dataset.Pixels]:
    with ExitStack() as stack:
        try:
            pixels = stack.enter_context(_decode(path, least))
        except _DAMAGE as error:
            raise errors.DataError(f"{show(path)}: {_reason(path, error)}; mend the file or remove it") from error
        yield pixels


@contextmanager
def _decode(path: str, least: int | None = None) -> Iterator[dataset.Pixels]:
    """The pixels of a file, as long as they count among those that all threads hold at once."""
    with Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height}")
        if least is not None:
            # libjpeg's own reduction to a half, a quarter or an eighth; twice the size leaves the last step to a better filter
            image.draft(None, (2 * least, 2 * least))
        with _HELD.held(image.width * image.height):
            ImageOps.exif_transpose(image, in_place=True)
            yield np.asarray(_to_rgb(image))


class _Held:
    """The pixels that all threads together have decoded; one that wants more than there may be waits for the others."""

    def __init__(self, most: int) -> None:
        self._most, self._held, self._changed = most, 0, threading.Condition()

    @contextmanager
    def held(self, num_pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._held + num_pixels <= self._most)
            self._held += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= num_pixels
                self._changed.notify_all()


_HELD = _Held(MAX_PIXELS)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


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


#: an index written by another version of this module or of the decoder is made anew
_VERSION = f"1, Pillow {PIL.__version__}"
_LOG = logging.getLogger(__name__)

#: size in bytes, mtime in nanoseconds, digest in hex, width, height; files that could not be read are not kept: they are tried again
_Entry = list[Any]


def look(paths: Sequence[str], *, origin: Path, cache: Path | None) -> list[DecodedInfo]:
    """What decoding each file tells, out of the index of `origin` where the file has not changed since.

    Without a cache folder every file is decoded.

    Raises:
        DataError: the cache folder cannot be written.
    """
    if cache is None:
        return list(each(inspect, paths))
    place = cache / "index" / f"{hashlib.sha256(os.fsencode(origin)).hexdigest()[:24]}.json"
    with cache_files.locked(place):
        known = _read(place)
        stamps = {path: _stamp(path) for path in paths}
        new = [path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp]
        found = _decode_anew(new, known, stamps, place)
        if not new:
            with contextlib.suppress(OSError):  # a cache that may only be read serves too
                os.utime(place)
    return [found[path] if path in found else _from_entry(known[path]) for path in paths]


def kept(cache: Path) -> list[entries.CacheEntry]:
    """The indices of a cache folder, as entries that can be shown and deleted."""
    found = []
    for path in sorted((cache / "index").glob(f"{entries.NAME_PATTERN}.json")):
        words = {"what": "what decoding the files of a folder told"}
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(entries.CacheEntry(path=path, words=words, num_bytes=status.st_size, last_used=status.st_mtime))
    return found


def _decode_anew(new: Sequence[str], known: dict[str, _Entry], stamps: dict[str, list[int]], place: Path) -> dict[str, DecodedInfo]:
    """Decode new files into `known` and write it down, also when interrupted on the way."""
    found: dict[str, DecodedInfo] = {}
    if not new:
        return found
    _LOG.info("decoding %d images that are new or have changed", len(new))
    try:
        for path, seen in zip(new, each(inspect, new), strict=True):
            found[path] = seen
            known.pop(path, None)
            if not seen.reason:
                known[path] = [*stamps[path], seen.digest.hex(), seen.width, seen.height]
    finally:
        _write(place, known, stamps)
    return found


def _stamp(path: str) -> list[int]:
    try:
        status = Path(path).stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _from_entry(entry: _Entry) -> DecodedInfo:
    _, _, digest, width, height = entry
    return DecodedInfo(digest=bytes.fromhex(digest), width=width, height=height)


def _read(place: Path) -> dict[str, _Entry]:
    """The entries of an index; none if it is not there, damaged or of another version."""
    try:
        content = json.loads(place.read_bytes())
        if content["version"] == _VERSION and all(_is_entry(entry) for entry in content["files"].values()):
            return dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(value) for value in entry] == [int, int, str, int, int] and len(entry[2]) == 64


def _write(place: Path, known: dict[str, _Entry], present: dict[str, list[int]]) -> None:
    files = {name: entry for name, entry in known.items() if name in present}
    with cache_files.written_beside(place) as file:
        file.write(json.dumps({"version": _VERSION, "files": files}, separators=(",", ":")).encode())
