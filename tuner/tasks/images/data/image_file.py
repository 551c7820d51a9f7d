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
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from tuner import errors, wording
from tuner.cache import arrays as cache_files
from tuner.cache import entries
from tuner.tasks.images.data import dataset, file_formats

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
#: tags of a TIFF file
_CHANNELS, _BITS = 277, 258
#: errors that say nothing about metadata
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, MemoryError, Image.DecompressionBombError)
#: larger files are not read again without their metadata
_MOST_BYTES = 1 << 30
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
#: raw modes of Pillow with 16 bits per color, of which it reads the upper 8, and the modes that read the lower 8 instead
_DEEP = {f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA", "RGBX") for order, other in ("BL", "LB", "NB")}
_AT_ONCE = 64
# the filters of `warnings` apply to the whole process
_QUIET = threading.Lock()

A = TypeVar("A")
T = TypeVar("T")
#: an index written by another version of this module or of Pillow is rebuilt
_VERSION = f"2, Pillow {PIL.__version__}"
_LOG = logging.getLogger(__name__)
#: size in bytes, mtime in nanoseconds, digest in hex, width, height, lowest and highest value, bits; unreadable files are not in the index
#: and are tried again
_IndexEntry = list[Any]
#: values of a file that become 0 and 255; "auto": its own lowest and highest value, to measure it
Values = dataset.ValueRange | Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class DecodedInfo:
    """Result of decoding a file."""

    #: SHA-256 of the pixels; b"" if the file cannot be read
    digest: bytes = b""
    width: int = 0
    height: int = 0
    #: lowest and highest value of a pixel, before it became 8 bits
    low: float = 0
    high: float = 0
    #: bits per channel: 8, 16 or 32
    bits: int = 8
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
    #: values that become 0 and 255; None: those of 8 or 16 bits
    value_range: dataset.ValueRange | None = None

    def read(self, index: int) -> dataset.Pixels:
        """Return the image as uint8 (height, width, 3)."""
        return read(self.paths[index], value_range=self.value_range)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return name_of(self.paths[index])

    def map(self, function: Callable[[dataset.Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """Yield the function's value for each image, in order, decoded in threads; `least` allows a smaller size of large JPEG files."""

        def of(index: int) -> T:
            with _decoded(self.paths[index], least, self.value_range) as pixels:
                return function(pixels)

        return each(of, indices)


def read(path: Source | Path, *, value_range: dataset.ValueRange | None = None) -> dataset.Pixels:
    """Read a file as uint8 (height, width, 3): upright, 8 bits per channel, transparency on white.

    The values of `value_range` become 0 and 255; without it, those of 8 or 16 bits.

    Raises:
        DataError: the file cannot be read.
    """
    with _quietly(), _decoded(str(path) if isinstance(path, Path) else path, None, value_range) as pixels:
        return pixels


def inspect(path: Source, values: Values | None = None) -> DecodedInfo:
    """Decode a file and return its facts, or the reason why it cannot be read; use `each` to call it in threads."""
    try:
        with _decode(path, None, values) as found:
            height, width, _ = found.pixels.shape
            low, high = _limits(found.raw)
            return DecodedInfo(digest=dataset.digest(found.pixels), width=width, height=height, low=low, high=high, bits=found.bits)
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
    return wording.visible(printable(source) if isinstance(source, str) else source.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """A decoded image."""

    #: uint8 (height, width, 3)
    pixels: dataset.Pixels
    #: the same before its values became 8 bits
    raw: NDArray[Any]
    bits: int


class _Refused(ValueError):
    """The pixels are whole, but cannot become 8 bits as asked."""


@contextmanager
def _decoded(path: Source, least: int | None, values: Values | None) -> Iterator[dataset.Pixels]:
    with ExitStack() as stack:
        try:
            found = stack.enter_context(_decode(path, least, values))
        except _DAMAGE as error:
            raise errors.DataError(f"{name_of(path)}: {_reason(path, error)}; repair or remove the file") from error
        yield found.pixels


@contextmanager
def _decode(path: Source, least: int | None, values: Values | None) -> Iterator[_Decoded]:
    """Yield the pixels of a file, which count towards the limit of all threads inside the `with` block."""
    with ExitStack() as stack:
        try:
            found = _load(path, stack, least, values)
        except _DAMAGE as error:
            again = None if isinstance(error, (_Refused, *_FINAL)) else _load_without_metadata(path, stack, values)
            if again is None:
                raise
            found = again
        yield found


def _load_without_metadata(path: Source, stack: ExitStack, values: Values | None) -> _Decoded | None:
    """Decode a file without its metadata, or return None if its pixels are not whole."""
    if isinstance(path, str) and Path(path).stat().st_size > _MOST_BYTES:
        return None
    content = Path(path).read_bytes() if isinstance(path, str) else path.content
    for versions in file_formats.without_metadata(content):
        try:
            digests = set()
            for version in versions[1:]:
                with ExitStack() as passing:
                    digests.add(dataset.digest(_load(Encoded(name="", content=version), passing, None, values).pixels))
            found = _load(Encoded(name="", content=versions[0]), stack, None, values)
            if digests <= {dataset.digest(found.pixels)}:
                return found
        except _Refused:
            raise
        except _DAMAGE:
            continue
    return None


def _load(source: Source, stack: ExitStack, least: int | None, values: Values | None) -> _Decoded:
    with _open(source) as image, ExitStack() as held:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height}")
        if least is not None and values is None:
            # libjpeg reduces to a half, a quarter or an eighth; twice the target size leaves the last step to a better filter
            image.draft(None, (2 * least, 2 * least))
        held.enter_context(_PIXELS.held(image.width * image.height))
        lower = _lower_bits(source, image)
        found = _to_8_bits(_upright(image), None if lower is None else _upright(lower), values)
        stack.push(held.pop_all())
        return found


def _open(source: Source) -> Image.Image:
    return Image.open(source if isinstance(source, str) else io.BytesIO(source.content), formats=_FORMATS)


def _lower_bits(source: Source, image: Image.Image) -> Image.Image | None:
    """Return the lower 8 bits of an image with 16 bits per color, of which Pillow reads the upper 8; None for other images."""
    tiles = getattr(image, "tile", [])
    modes = {tile.args if isinstance(tile.args, str) else (tile.args or [""])[0] for tile in tiles}
    if len(modes) != 1 or (mode := modes.pop()) not in _DEEP:
        return None
    with _open(source) as again:
        swapped = _DEEP[mode]
        again.tile = [  # type: ignore[attr-defined]
            tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *tile.args[1:])) for tile in tiles
        ]
        again.load()
        return again.copy()


def _upright(image: Image.Image) -> Image.Image:
    """Return an image in the orientation that its EXIF block names, or as it is if that block is damaged."""
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE:
        turn = None
    return image if turn is None else image.transpose(turn)


def has_pages(path: str) -> bool:
    """Return whether a file has a second page of the size of the first; smaller pages are previews. Of a damaged file, return False."""
    try:
        with _open(path) as image:
            size = image.size
            image.seek(1)
            return image.size == size
    except _DAMAGE:
        return False


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


def _to_8_bits(image: Image.Image, lower: Image.Image | None, values: Values | None) -> _Decoded:
    """Return the pixels of an image as 8 bits; `lower` has the lower bits of its colors if they have 16."""
    if image.mode.startswith("I") or image.mode == "F":
        raw = np.asarray(image)
        pixels = dataset.scale(raw, _range_of(raw, values))
        return _Decoded(pixels=_rgb(Image.fromarray(pixels)), raw=raw, bits=16 if image.mode.startswith("I;16") else 32)
    if lower is None:
        pixels = _rgb(image)
        return _Decoded(pixels=pixels if values is None else dataset.scale(pixels, _range_of_bytes(pixels, values)), raw=pixels, bits=8)
    raw = np.asarray(image)[..., :3].astype(np.uint16) * 256 + np.asarray(lower)[..., :3]
    if values is not None:
        colors = Image.fromarray(dataset.scale(raw, _range_of(raw, values)))
        if image.mode == "RGBA":
            colors.putalpha(image.getchannel("A"))
        image = colors
    return _Decoded(pixels=_rgb(image), raw=raw, bits=16)


def _rgb(image: Image.Image) -> dataset.Pixels:
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _range_of(raw: NDArray[Any], values: Values | None) -> dataset.ValueRange:
    """Return the values that become 0 and 255 in an image of more than 8 bits."""
    if isinstance(values, tuple):
        return values
    low, high = _limits(raw)
    if values == "auto":
        return low, max(high, low + 1)
    if raw.dtype.kind == "f" or low < 0 or high > 65535:
        kind = "are floating-point numbers" if raw.dtype.kind == "f" else "have more than 16 bits per channel, with values"
        raise _Refused(
            f"its pixels {kind} from {low:g} to {high:g}; expected 8 or 16 bits per channel. "
            f"Set data.value_range: [{low:g}, {high:g}], or auto, to read such files"
        )
    return 0.0, 65535.0


def _range_of_bytes(pixels: dataset.Pixels, values: Values) -> dataset.ValueRange:
    if values == "auto":
        return 0, 255
    low, high = values
    if low < 0 or high > 255:
        raise _Refused(
            f"it has 8 bits per channel, which cannot be mapped like data.value_range: {dataset.show_range(values)}; "
            "convert it to the depth of the other files, or remove data.value_range"
        )
    return low, high


def _limits(raw: NDArray[Any]) -> tuple[float, float]:
    """Return the lowest and the highest value, without those that are not finite."""
    known = raw[np.isfinite(raw)] if raw.dtype.kind == "f" else raw
    return (known.min().item(), known.max().item()) if known.size else (0, 0)


def _reason(path: Source, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "the link is broken" if isinstance(path, str) and Path(path).is_symlink() else "there is no such file"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels ({error}); scale it down"
    if isinstance(error, UnidentifiedImageError):
        return _say_format(path)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def _say_format(path: Source) -> str:
    if isinstance(path, str):
        with Path(path).open("rb") as file:
            start = file.read(4096)
    else:
        start = path.content
    if not start:
        return "the file is empty"
    if start[:4] in (b"II*\0", b"MM\0*"):
        return _say_tiff(Path(path).open("rb") if isinstance(path, str) else io.BytesIO(path.content))
    name = file_formats.name_of(start)
    return f"it is {name}, not a JPEG, PNG, WebP, BMP, GIF or TIFF image" if name else "it is not a JPEG, PNG, WebP, BMP, GIF or TIFF image"


def _say_tiff(file: BinaryIO) -> str:
    """Say which kind of TIFF file is not read."""
    with file:
        try:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            bits, channels = max(tags[_BITS]), int(tags.get(_CHANNELS, 1))
        except _DAMAGE:
            return "it is a damaged TIFF file"
    kind = f"{dataset.count(channels, 'channel')} of {bits} bits"
    return f"it is a TIFF file with {kind}, of a kind that tuner does not read; save 1 or 3 channels of 8 or 16 bits"


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the warnings of Pillow; whatever matters is raised as an error."""
    with _QUIET, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


@functools.cache
def _num_threads() -> int:
    return max(2, min(16, len(os.sched_getaffinity(0))))


def inspect_files(paths: Sequence[Source], *, origin: Path, cache: Path | None, values: Values | None = None) -> list[DecodedInfo]:
    """Return the facts of each file, from the index of `origin` and `values` if the file has not changed.

    Without a cache folder, every file is decoded. The content of a file that is inside another is always decoded.

    Raises:
        DataError: the cache folder cannot be written.
    """
    files = [path for path in paths if isinstance(path, str)]
    if cache is None or len(files) < len(paths):
        return list(each(_inspector(values), paths))
    key = os.fsencode(origin) + (b"" if values is None else f" {values}".encode())
    index_path = cache / "index" / f"{hashlib.sha256(key).hexdigest()[:24]}.json"
    with cache_files.locked(index_path):
        known = _read_index(index_path)
        stamps = {path: _stamp(path) for path in files}
        new = [path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp]
        found = _decode_anew(new, known, stamps, index_path, values)
        if not new:
            with contextlib.suppress(OSError):  # a read-only cache works, too
                os.utime(index_path)
    return [found[path] if path in found else _from_entry(known[path]) for path in files]


def _inspector(values: Values | None) -> Callable[[Source], DecodedInfo]:
    return inspect if values is None else functools.partial(inspect, values=values)


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
    new: Sequence[str], known: dict[str, _IndexEntry], stamps: dict[str, list[int]], index_path: Path, values: Values | None
) -> dict[str, DecodedInfo]:
    """Decode new files, add them to `known` and write the index, even if interrupted."""
    found: dict[str, DecodedInfo] = {}
    if not new:
        return found
    _LOG.info("decoding %d images that are new or have changed", len(new))
    try:
        for path, seen in zip(new, each(_inspector(values), new), strict=True):
            found[path] = seen
            known.pop(path, None)
            if not seen.reason:
                known[path] = [*stamps[path], seen.digest.hex(), seen.width, seen.height, seen.low, seen.high, seen.bits]
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
    _, _, digest, width, height, low, high, bits = entry
    return DecodedInfo(digest=bytes.fromhex(digest), width=width, height=height, low=low, high=high, bits=bits)


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
    if not isinstance(entry, list) or len(entry) != 8 or not isinstance(entry[2], str):
        return False
    return len(entry[2]) == 64 and all(type(value) in (int, float) for value in (*entry[:2], *entry[3:]))


def _write_index(index_path: Path, known: dict[str, _IndexEntry], present: dict[str, list[int]]) -> None:
    files = {name: entry for name, entry in known.items() if name in present}
    with cache_files.written_beside(index_path) as file:
        file.write(json.dumps({"version": _VERSION, "files": files}, separators=(",", ":")).encode())
