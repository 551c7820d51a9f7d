"""Image files: decoded into pixels or a reason why not, with an index so that an unchanged file is decoded once."""

import contextlib
import functools
import hashlib
import io
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

#: file name endings of images
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
#: an image with more pixels is refused, because decoding could use up the memory
MAX_PIXELS = 100_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
#: exceptions that Pillow raises for damaged files, depending on format and damage
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError, NotImplementedError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_AT_ONCE = 64
# the filters of `warnings` apply to the whole process
_QUIET = threading.Lock()

A = TypeVar("A")
T = TypeVar("T")
#: an index written by another version of this module or of Pillow is rebuilt
_VERSION = f"1, Pillow {PIL.__version__}"
_LOG = logging.getLogger(__name__)
#: size in bytes, mtime in nanoseconds, digest in hex, width, height; unreadable files are not in the index and are tried again
_IndexEntry = list[Any]


@dataclass(frozen=True, kw_only=True)
class DecodedInfo:
    """Result of decoding a file."""

    #: SHA-256 of the pixels; b"" if the file cannot be read
    digest: bytes = b""
    width: int = 0
    height: int = 0
    #: why the file cannot be read; "" if it can
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """The content of an image file that is inside another file."""

    #: name for messages
    name: str
    content: bytes


#: a path, or the content of a file
Source = str | Encoded


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images that are files."""

    paths: tuple[Source, ...]

    def read(self, index: int) -> dataset.Pixels:
        """Return the image as uint8 (height, width, 3)."""
        return read(self.paths[index])

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return name_of(self.paths[index])

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """Yield the function's value for each image, in order, decoded in threads; `least` allows a smaller size of large JPEG files."""

        def of(index: int) -> T:
            with _decoded(self.paths[index], least) as pixels:
                return function(pixels)

        return each(of, indices)


def read(path: Source | Path) -> dataset.Pixels:
    """Read a file as uint8 (height, width, 3): upright, 8 bits per channel, transparency on white.

    Raises:
        DataError: the file cannot be read.
    """
    with _quietly(), _decoded(str(path) if isinstance(path, Path) else path) as pixels:
        return pixels


def inspect(path: Source) -> DecodedInfo:
    """Decode a file and return its facts, or the reason why it cannot be read; use `each` to call it in threads."""
    try:
        with _decode(path) as pixels:
            return DecodedInfo(digest=dataset.digest(pixels), width=pixels.shape[1], height=pixels.shape[0])
    except _DAMAGE as error:
        return DecodedInfo(reason=_reason(path, error))


def each(function: Callable[[A], T], items: Sequence[A]) -> Iterator[T]:
    """Yield the function's value for each item, in order, computed in one thread per core."""
    with ThreadPoolExecutor(_num_threads()) as threads:
        for start in range(0, len(items), _AT_ONCE):
            with _quietly():
                values = list(threads.map(function, items[start : start + _AT_ONCE]))
            yield from values


def printable(path: str) -> str:
    """Return a path as printable text, with any undecodable bytes replaced."""
    return os.fsencode(path).decode(errors="replace")


def name_of(source: Source) -> str:
    """Return the name of an image for messages, as printable text."""
    return printable(source) if isinstance(source, str) else source.name


@contextmanager
def _decoded(path: Source, least: int | None = None) -> Iterator[dataset.Pixels]:
    with ExitStack() as stack:
        try:
            pixels = stack.enter_context(_decode(path, least))
        except _DAMAGE as error:
            raise errors.DataError(f"{name_of(path)}: {_reason(path, error)}; repair or remove the file") from error
        yield pixels


@contextmanager
def _decode(path: Source, least: int | None = None) -> Iterator[dataset.Pixels]:
    """Yield the pixels of a file, which count towards the limit of all threads inside the `with` block."""
    with Image.open(path if isinstance(path, str) else io.BytesIO(path.content), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height}")
        if least is not None:
            # libjpeg reduces to a half, a quarter or an eighth; twice the target size leaves the last step to a better filter
            image.draft(None, (2 * least, 2 * least))
        with _PIXELS.held(image.width * image.height):
            ImageOps.exif_transpose(image, in_place=True)
            yield np.asarray(_to_rgb(image))


class _PixelLimit:
    """Limits the decoded pixels of all threads together; a thread waits until there is room for its image."""

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


_PIXELS = _PixelLimit(MAX_PIXELS)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; expected 8 or 16 bits per channel")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(pixels: NDArray[Any]) -> dataset.Pixels:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("its pixels have more than 16 bits per channel; expected 8 or 16")
    return np.round(pixels / 257).astype(np.uint8)


def _reason(path: Source, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the link is broken" if isinstance(path, str) and Path(path).is_symlink() else "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels ({error}); scale it down"
    if isinstance(error, UnidentifiedImageError):
        num_bytes = Path(path).stat().st_size if isinstance(path, str) else len(path.content)
        return "the file is empty" if num_bytes == 0 else "it is not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the warnings of Pillow; whatever matters is raised as an error."""
    with _QUIET, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@functools.cache
def _num_threads() -> int:
    return max(2, min(16, len(os.sched_getaffinity(0))))


def inspect_files(paths: Sequence[Source], *, origin: Path, cache: Path | None) -> list[DecodedInfo]:
    """Return the facts of each file, from the index of `origin` if the file has not changed.

    Without a cache folder, every file is decoded. The content of a file that is inside another is always decoded.

    Raises:
        DataError: the cache folder cannot be written.
    """
    files = [path for path in paths if isinstance(path, str)]
    if cache is None or len(files) < len(paths):
        return list(each(inspect, paths))
    index_path = cache / "index" / f"{hashlib.sha256(os.fsencode(origin)).hexdigest()[:24]}.json"
    with cache_files.locked(index_path):
        known = _read_index(index_path)
        stamps = {path: _stamp(path) for path in files}
        new = [path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp]
        found = _decode_anew(new, known, stamps, index_path)
        if not new:
            with contextlib.suppress(OSError):  # a read-only cache works, too
                os.utime(index_path)
    return [found[path] if path in found else _from_entry(known[path]) for path in files]


def index_entries(cache: Path) -> list[entries.CacheEntry]:
    """Return the indices in a cache folder, as entries that can be listed and deleted."""
    found = []
    for path in sorted((cache / "index").glob(f"{entries.NAME_PATTERN}.json")):
        words = {"what": "index of decoded files"}
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(entries.CacheEntry(path=path, words=words, num_bytes=status.st_size, last_used=status.st_mtime))
    return found


def _decode_anew(
    new: Sequence[str], known: dict[str, _IndexEntry], stamps: dict[str, list[int]], index_path: Path
) -> dict[str, DecodedInfo]:
    """Decode new files, add them to `known` and write the index, even if interrupted."""
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
        _write_index(index_path, known, stamps)
    return found


def _stamp(path: str) -> list[int]:
    try:
        status = Path(path).stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _from_entry(entry: _IndexEntry) -> DecodedInfo:
    _, _, digest, width, height = entry
    return DecodedInfo(digest=bytes.fromhex(digest), width=width, height=height)


def _read_index(index_path: Path) -> dict[str, _IndexEntry]:
    """Return the entries of an index; none if it is missing, damaged or from another version."""
    try:
        content = json.loads(index_path.read_bytes())
        if content["version"] == _VERSION and all(_is_index_entry(entry) for entry in content["files"].values()):
            return dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def _is_index_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(value) for value in entry] == [int, int, str, int, int] and len(entry[2]) == 64


def _write_index(index_path: Path, known: dict[str, _IndexEntry], present: dict[str, list[int]]) -> None:
    files = {name: entry for name, entry in known.items() if name in present}
    with cache_files.written_beside(index_path) as file:
        file.write(json.dumps({"version": _VERSION, "files": files}, separators=(",", ":")).encode())
