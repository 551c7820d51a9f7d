"""Zip files of images that others upload: checked as a whole, then unpacked into a new folder, images only.

Nothing of an archive is trusted: names, sizes, kinds and the number of files are checked before the first byte is unpacked, and sizes
again while unpacking.
"""

import io
import os
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tuner import wording
from tuner.errors import DataError

#: first bytes of images, by the ending of a name in lower case
_STARTS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), (b"\xff\xd8\xff",)),
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".gif": (b"GIF87a", b"GIF89a"),
    ".bmp": (b"BM",),
    ".webp": (b"RIFF",),
    **dict.fromkeys((".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
#: longest name of a file or folder in bytes, and most folders around a file
_LONGEST_NAME, _MOST_FOLDERS = 255, 16
#: names that Windows reserves, with any ending
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))})
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ZipLimits:
    """How much an uploaded archive may hold."""

    #: the archive, and what it unpacks to
    packed_bytes: int = 4096 * _MIB
    unpacked_bytes: int = 8192 * _MIB
    files: int = 200_000
    #: one image
    file_bytes: int = 256 * _MIB
    #: times that a file over a megabyte may grow when it is unpacked; photographs hardly grow at all
    ratio: int = 100
    #: the list of files at the end of the archive, which is read into memory
    directory_bytes: int = 64 * _MIB
    #: space that must stay free on the disk
    free_bytes: int = 1024 * _MIB


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """What an archive held."""

    folder: Path
    num_images: int
    num_bytes: int
    #: number of files that were left out, by their kind in words
    left_out: dict[str, int]


@contextmanager
def receiving(folder: Path) -> Iterator[Path]:
    """Give the path for an arriving archive in a new folder beside the unpacked ones; it is removed when the `with` block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
    try:
        yield incoming / "archive.zip"
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def unpack(archive: Path, to: Path, limits: ZipLimits) -> Unpacked:
    """Unpack the images of an archive into the new folder `to`, which appears when it is whole.

    A single folder around everything in the archive is left out.

    Raises:
        DataError: the archive is unsafe, damaged, too large or without images, or the folder exists; nothing is left behind.
    """
    if os.path.lexists(to):
        raise DataError(f"the folder {to.name} exists already; choose another name")
    new = archive.parent / "unpacked"
    try:
        with _Bounded(archive, limits.directory_bytes) as file, zipfile.ZipFile(file) as opened:
            _check(opened.infolist(), limits)
            found = _unpack(opened, new, limits)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError) as error:
        raise DataError(f"the upload is not a usable zip file: {error}; pack the folder of images again, as an ordinary zip") from error
    except OSError as error:
        raise DataError(f"the upload cannot be unpacked: {error.strerror or error}") from error
    if not found.num_images:
        kinds = wording.listed(f"{count} {kind}" for kind, count in found.left_out.items())
        raise DataError(f"the zip file has no images{f', only {kinds}' if kinds else ''}; expected files such as cat/1.jpg and dog/2.png")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        _only_folder(new).rename(to)
    except OSError as error:
        raise DataError(f"the folder {to.name} cannot be made: {error.strerror}; choose another name") from error
    return replace(found, folder=to)


class _Bounded(io.BufferedReader):
    """A file that is never read in one piece that is larger than the limit: so no list of files fills the memory."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(io.FileIO(path))
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(self._most + 1 if size is None or size < 0 else min(size, self._most + 1))
        if len(found) > self._most:
            raise zipfile.BadZipFile("its list of files is too long")
        return found


def _check(entries: Sequence[zipfile.ZipInfo], limits: ZipLimits) -> None:
    """Refuse an archive with an unsafe entry."""
    if len(entries) > limits.files:
        raise DataError(f"the zip file has {len(entries):,} files; expected at most {limits.files:,}")
    for entry in entries:
        if unsafe := _unsafe(entry, limits):
            raise DataError(f"the zip file has the entry {wording.show(entry.orig_filename)}, which {unsafe}; nothing was unpacked")
    total = sum(entry.file_size for entry in entries)
    if total > limits.unpacked_bytes:
        raise DataError(f"the zip file unpacks to {total // _MIB:,} MiB; expected at most {limits.unpacked_bytes // _MIB:,} MiB")
    names = Counter(_comparable(entry.filename.rstrip("/")) for entry in entries)
    double = next((name for name, count in names.items() if count > 1), None)
    if double is not None:
        raise DataError(f"the zip file has {wording.show(double)} more than once, possibly in another spelling; nothing was unpacked")
    files = {_comparable(entry.filename) for entry in entries if not entry.is_dir()}
    below = next((name for name in names if any(str(parent) in files for parent in PurePosixPath(name).parents)), None)
    if below is not None:
        raise DataError(f"the zip file has {wording.show(below)} below a file of that name; nothing was unpacked")


def _unsafe(entry: zipfile.ZipInfo, limits: ZipLimits) -> str:
    """Return why an entry is not unpacked, as a clause; "" if it is safe."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is a device or another special file"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return f"is compressed by method {entry.compress_type}, which is not read"
    if entry.file_size > limits.file_bytes:
        return f"is larger than {limits.file_bytes // _MIB:,} MiB"
    if entry.file_size > _MIB and entry.file_size > limits.ratio * entry.compress_size:
        return f"grows to more than {limits.ratio} times its size, as no photograph does"
    return _unsafe_name(entry.orig_filename)


def _unsafe_name(name: str) -> str:
    """Return why a name is not used, as a clause; "" if it is safe."""
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or "\\" in name or (len(name) > 1 and name[1] == ":"):
        return "is an absolute path, or one of Windows"
    if any(part in ("", ".", "..") for part in parts):
        return "leads out of its folder"
    if not all(character.isprintable() for character in name):
        return "has characters that no name needs"
    if len(parts) > _MOST_FOLDERS or any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in parts):
        return "is too long, or in too many folders"
    if any(part.partition(".")[0].rstrip(" ").lower() in _DEVICES or part.endswith((" ", ".")) for part in parts):
        return "has a name that some systems read as a device, or as another name"
    return ""


def _comparable(name: str) -> str:
    """Return a name as a disk that ignores case and forms of Unicode compares it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unpack(opened: zipfile.ZipFile, new: Path, limits: ZipLimits) -> Unpacked:
    left_out: Counter[str] = Counter()
    num_images = num_bytes = 0
    new.mkdir()
    for entry in opened.infolist():
        if entry.is_dir():
            continue
        kind = _kind(entry.filename)
        size = 0 if kind else _write(opened, entry, new.joinpath(*PurePosixPath(entry.filename).parts))
        if kind or not size:
            left_out[kind or "files whose content is not that of an image"] += 1
            continue
        num_images, num_bytes = num_images + 1, num_bytes + size
        if num_bytes > limits.unpacked_bytes or shutil.disk_usage(new).free < limits.free_bytes:
            raise DataError("the zip file does not fit on the disk of this server; nothing was unpacked")
    return Unpacked(folder=new, num_images=num_images, num_bytes=num_bytes, left_out=dict(left_out))


def _kind(name: str) -> str:
    """Return what a file is that is left out, in words; "" for an image."""
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return "hidden files"
    suffix = path.suffix.lower()
    return "" if suffix in _STARTS else f"{suffix} files" if suffix else "files without an ending"


def _write(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> int:
    """Write an image and return its bytes; 0 if the content is not that of an image."""
    with opened.open(entry) as source:
        start = source.read(min(16, entry.file_size or 1))
        if not start.startswith(_STARTS[path.suffix.lower()]):
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(start)
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
            return file.tell()


def _only_folder(new: Path) -> Path:
    """Return the innermost folder that holds everything, above the folders of the classes."""
    entries = list(new.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and all(inner.is_dir() for inner in entries[0].iterdir()):
        return _only_folder(entries[0]) if len(list(entries[0].iterdir())) == 1 else entries[0]
    return new
