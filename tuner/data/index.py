"""What decoding each file of a folder told, kept so that an unchanged file is not decoded again."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL

from tuner.data import cache as cache_files
from tuner.data import entries, images

#: an index written by another version of this module or of the decoder is made anew
_VERSION = f"1, Pillow {PIL.__version__}"
_LOG = logging.getLogger(__name__)

#: size in bytes, mtime in nanoseconds, digest in hex, width, height; files that could not be read are not kept: they are tried again
_Entry = list[Any]


def look(paths: Sequence[str], *, origin: Path, cache: Path | None) -> list[images.Seen]:
    """What decoding each file tells, out of the index of `origin` where the file has not changed since.

    Without a cache folder every file is decoded.

    Raises:
        DataError: the cache folder cannot be written.
    """
    if cache is None:
        return list(images.each(images.inspect, paths))
    place = cache / "index" / f"{hashlib.sha256(os.fsencode(origin)).hexdigest()[:24]}.json"
    with cache_files.locked(place):
        known = _read(place)
        stamps = {path: _stamp(path) for path in paths}
        new = [path for path, stamp in stamps.items() if known.get(path, [])[:2] != stamp]
        found = _decode(new, known, stamps, place)
        if not new:
            with contextlib.suppress(OSError):  # a cache that may only be read serves too
                os.utime(place)
    return [found[path] if path in found else _from_entry(known[path]) for path in paths]


def kept(cache: Path) -> list[entries.Entry]:
    """The indices of a cache folder, as entries that can be shown and deleted."""
    found = []
    for path in sorted((cache / "index").glob(f"{entries.NAME_PATTERN}.json")):
        words = {"what": "what decoding the files of a folder told"}
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(entries.Entry(path=path, words=words, num_bytes=status.st_size, last_used=status.st_mtime))
    return found


def _decode(new: Sequence[str], known: dict[str, _Entry], stamps: dict[str, list[int]], place: Path) -> dict[str, images.Seen]:
    """Decode new files into `known` and write it down, also when interrupted on the way."""
    found: dict[str, images.Seen] = {}
    if not new:
        return found
    _LOG.info("decoding %d images that are new or have changed", len(new))
    try:
        for path, seen in zip(new, images.each(images.inspect, new), strict=True):
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


def _from_entry(entry: _Entry) -> images.Seen:
    _, _, digest, width, height = entry
    return images.Seen(digest=bytes.fromhex(digest), width=width, height=height)


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
