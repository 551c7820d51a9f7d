"""A bundle's folder into the list of its files with their SHA-256, and that list into every difference from the folder.

The files of a bundle, by their names and first bytes, into those that no export writes and that could run when someone opens them.
"""

import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuner.errors import Problem, RequestError

NAME = "manifest.json"
#: holds the manifest's signature, so that the manifest cannot hold its
SIGNATURE = "model.sig"
#: what the manifest does not list
UNLISTED = frozenset({NAME, SIGNATURE})

#: far above what an export writes; what is above it was not written by one
MAX_FILES = 10_000
MAX_BYTES = 64 * 1024**3
#: of the manifest itself
_MAX_MANIFEST_BYTES = 8 * 1024**2
_MAX_PATH = 512


class ManifestEntry(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    #: in hexadecimal digits
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: bytes
    size: Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Manifest(BaseModel):
    """Every file of a bundle but those in `UNLISTED`, by its path in the folder, with slashes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["tuner-bundle-1"] = "tuner-bundle-1"
    files: Annotated[dict[str, ManifestEntry], Field(max_length=MAX_FILES)]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """One entry of a folder that is no folder."""

    #: in the bundle, with slashes
    name: str
    path: Path
    status: os.stat_result


def write(folder: Path) -> Manifest:
    """List the files of a bundle, once all of them are written; an earlier list is replaced.

    Raises:
        RequestError: the folder holds a link, a device or a name that no bundle may hold.
    """
    found = [one for one in _files(folder) if one.name not in UNLISTED]
    problems = [problem for one in found if (problem := _refusal(one))]
    if problems:
        raise RequestError("\n".join(f"{folder / problem.field} {problem.message}" for problem in problems))
    entries = {one.name: ManifestEntry(sha256=digest(one.path), size=one.status.st_size) for one in found}
    listed = Manifest(files=dict(sorted(entries.items())))
    beside = folder / f".{NAME}.{os.getpid()}"
    try:
        beside.write_text(json.dumps(listed.model_dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(folder / NAME)
    finally:
        beside.unlink(missing_ok=True)
    return listed


def check(folder: Path) -> list[Problem]:
    """Every way in which a bundle is not what its manifest says; nothing of it is loaded, and no link is followed."""
    try:
        found = {one.name: one for one in _files(folder)}
        listed = read(folder)
    except RequestError as error:
        return [Problem(field=NAME, message=str(error))]
    except OSError as error:
        return [Problem(field="", message=f"{folder} cannot be read: {error.strerror}")]
    problems = [problem for one in found.values() if (problem := _refusal(one))]
    refused = {problem.field for problem in problems}
    problems += [
        Problem(field=name, message="is not in the manifest; it was added after the export")
        for name in found
        if name not in listed.files and name not in UNLISTED | refused
    ]
    for name, entry in listed.files.items():
        if name in refused:
            continue
        difference = _difference(found[name], entry) if name in found else "is in the manifest and is missing here"
        if difference:
            problems.append(Problem(field=name, message=difference))
    return sorted(problems, key=lambda problem: problem.field)


def read(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        RequestError: there is none, or it is none that an export writes.
    """
    path = folder / NAME
    try:
        with open_file(path) as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"is missing: {folder} is no bundle, or only a part of one; `tuner export` makes one") from None
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror or error}") from error
    if len(text) > _MAX_MANIFEST_BYTES:
        raise RequestError(f"is larger than {_MAX_MANIFEST_BYTES:,} bytes, which no export writes")
    try:
        found = Manifest.model_validate(json.loads(text, object_pairs_hook=_once))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"is no manifest of a bundle: {place}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"is no manifest of a bundle: {error}") from error
    unsafe = [f"{name!r} {reason}" for name in found.files if (reason := refusal(name))]
    if unsafe:
        raise RequestError(f"lists what no bundle may hold: {'; '.join(unsafe[:5])}")
    if sum(entry.size for entry in found.files.values()) > MAX_BYTES:
        raise RequestError(f"lists more than {MAX_BYTES:,} bytes, which no export writes")
    return found


def refusal(name: str) -> str:
    """Why no file of a bundle may have this path, "" where it may: it has to stay inside the folder, on any system."""
    path = PurePosixPath(name)
    if not name or len(name) > _MAX_PATH:
        return f"has {len(name)} characters; expected 1 to {_MAX_PATH}"
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "is an absolute path; expected one inside the bundle"
    if any(part in ("..", ".", "") for part in name.split("/")):
        return "leaves its folder or repeats itself ('..', '.', '//'); expected a plain path inside the bundle"
    if "\\" in name or any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in name):
        return "has a backslash, or characters that cannot be seen"
    return ""


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_file(path: Path) -> Any:
    """A plain file to read, as bytes; neither a link nor a device is opened.

    Raises:
        OSError: it is none, or cannot be read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is no plain file")
    return file


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys are all different: readers do not agree on which of two equal ones counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _files(folder: Path) -> Iterator[_Found]:
    """All that is in a folder and is no folder, at any depth; of a folder too full only as much as shows that it is."""
    waiting, num = [folder], 0
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                num += 1
                if num > MAX_FILES + len(UNLISTED):
                    raise RequestError(f"{folder} holds more than {MAX_FILES:,} files, which no export writes")
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                else:
                    yield _Found(name=path.relative_to(folder).as_posix(), path=path, status=entry.stat(follow_symlinks=False))


def _refusal(found: _Found) -> Problem | None:
    """What makes a file one that no bundle holds."""
    mode = found.status.st_mode
    if stat.S_ISLNK(mode):
        message = "is a link; a bundle holds plain files only"
    elif not stat.S_ISREG(mode):
        message = "is a device, a socket or a pipe; a bundle holds plain files only"
    else:
        message = refusal(found.name)
    return Problem(field=found.name, message=message) if message else None


def _difference(found: _Found, entry: ManifestEntry) -> str:
    """How a file differs from its entry; "" where it does not."""
    if found.status.st_size != entry.size:
        return f"has {found.status.st_size:,} bytes; the manifest says {entry.size:,}"
    try:
        actual = digest(found.path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if actual == entry.sha256 else f"has the SHA-256 {actual[:16]}…; the manifest says {entry.sha256[:16]}…"


#: what an export writes
_KINDS = re.compile(r".*(\.(keras|onnx|tflite|txt|yaml|json|lock|md|png|jpg|pb|index)|\.data-\d{5}-of-\d{5})")
#: in which any bytes may come first
_MODELS = (".onnx", ".tflite", ".pb", ".index")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PROGRAMS = (b"\x7fELF", b"#!", b"MZ")


def problems(folder: Path, names: Iterable[str]) -> list[Problem]:
    """What must not be in a bundle, though its manifest lists it."""
    return [Problem(field=name, message=reason) for name in names if (reason := _unsafe(folder / name))]


def _unsafe(path: Path) -> str:
    if not _KINDS.fullmatch(path.name):
        return "is of a kind that no export writes; it may hold code"
    if path.suffix in _MODELS or ".data-" in path.name:
        return ""
    with open_file(path) as file:
        begin = file.read(4)
    if _PICKLE.match(begin):
        return "is a pickle, which may run code when it is read"
    if begin.startswith(_PROGRAMS):
        return "is a program"
    return ""
