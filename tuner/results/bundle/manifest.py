"""Manifest: the list of a bundle's files with their SHA-256, every difference from the folder, and files that no bundle may hold."""

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
#: the signature of the manifest, which therefore does not list it
SIGNATURE = "model.sig"
#: files that the manifest does not list
UNLISTED = frozenset({NAME, SIGNATURE})

#: limits far above the bundles that an export writes
MAX_FILES = 10_000
MAX_BYTES = 64 * 1024**3
#: size limit of the manifest
_MAX_MANIFEST_BYTES = 8 * 1024**2
_MAX_PATH = 512


class ManifestEntry(BaseModel):
    """One file of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    #: hexadecimal
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    #: in bytes
    size: Annotated[int, Field(ge=0, le=MAX_BYTES)]


class Manifest(BaseModel):
    """Every file of a bundle except those in `UNLISTED`, by its path in the folder, with slashes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["tuner-bundle-1"] = "tuner-bundle-1"
    files: Annotated[dict[str, ManifestEntry], Field(max_length=MAX_FILES)]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file, link or device in a folder."""

    #: path in the bundle, with slashes
    name: str
    path: Path
    status: os.stat_result


def write(folder: Path) -> Manifest:
    """Write the manifest of a bundle whose files are complete; replace an earlier one.

    Raises:
        RequestError: the folder holds a link, a device or a name that is not allowed in a bundle.
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
    """Return every difference between a bundle and its manifest, without loading a file or following a link."""
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
        difference = _difference(found[name], entry) if name in found else "is listed in the manifest but missing"
        if difference:
            problems.append(Problem(field=name, message=difference))
    return sorted(problems, key=lambda problem: problem.field)


def read(folder: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        RequestError: it is missing, or no export writes such a manifest.
    """
    path = folder / NAME
    try:
        with open_file(path) as file:
            text = file.read(_MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"is missing: {folder} is not a complete bundle; create one with: tuner export STUDY --to FOLDER") from None
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror or error}") from error
    if len(text) > _MAX_MANIFEST_BYTES:
        raise RequestError(f"is larger than {_MAX_MANIFEST_BYTES:,} bytes, which no export writes")
    try:
        found = Manifest.model_validate(json.loads(text, object_pairs_hook=_once))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"is not a manifest of a bundle: {key}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"is not a manifest of a bundle: {error}") from error
    unsafe = [f"{name!r} {reason}" for name in found.files if (reason := refusal(name))]
    if unsafe:
        raise RequestError(f"lists files that are not allowed in a bundle: {'; '.join(unsafe[:5])}")
    if sum(entry.size for entry in found.files.values()) > MAX_BYTES:
        raise RequestError(f"lists more than {MAX_BYTES:,} bytes, which no export writes")
    return found


def refusal(name: str) -> str:
    """Return why a path is not allowed in a bundle, "" if it is: it must stay inside the folder on every system."""
    path = PurePosixPath(name)
    if not name or len(name) > _MAX_PATH:
        return f"has {len(name)} characters; expected 1 to {_MAX_PATH}"
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "is an absolute path; expected one inside the bundle"
    if any(part in ("..", ".", "") for part in name.split("/")):
        return "leaves its folder or repeats itself ('..', '.', '//'); expected a plain path inside the bundle"
    if "\\" in name or any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in name):
        return "has a backslash, or invisible characters"
    return ""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_file(path: Path) -> Any:
    """Open a regular file for reading, never a link or a device.

    Raises:
        OSError: it is not a regular file, or it cannot be read.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is not a regular file")
    return file


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose keys must be unique, because readers differ in which of two equal keys counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it contains a key twice")
    return found


def _files(folder: Path) -> Iterator[_Found]:
    """Yield everything in a folder except folders, at any depth; stop at too many files."""
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
    """Return why a file is not allowed in a bundle, or None if it is."""
    mode = found.status.st_mode
    if stat.S_ISLNK(mode):
        message = "is a link; a bundle holds regular files only"
    elif not stat.S_ISREG(mode):
        message = "is a device, a socket or a pipe; a bundle holds regular files only"
    else:
        message = refusal(found.name)
    return Problem(field=found.name, message=message) if message else None


def _difference(found: _Found, entry: ManifestEntry) -> str:
    """Return how a file differs from its entry; "" if it does not."""
    if found.status.st_size != entry.size:
        return f"has {found.status.st_size:,} bytes; the manifest says {entry.size:,}"
    try:
        actual = digest(found.path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return "" if actual == entry.sha256 else f"has the SHA-256 {actual[:16]}…; the manifest says {entry.sha256[:16]}…"


#: names of the files that an export writes
_KINDS = re.compile(r".*(\.(keras|onnx|tflite|txt|yaml|json|lock|md|png|jpg|pb|index|npz|weights\.h5)|\.data-\d{5}-of-\d{5})")
#: kinds of files that may start with any bytes
_MODELS = (".onnx", ".tflite", ".pb", ".index")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PROGRAMS = (b"\x7fELF", b"#!", b"MZ")


#: files of code in a bundle of a user model, which nothing of tuner runs
_CODE = re.compile(r"code/[^/]+\.py")


def problems(folder: Path, names: Iterable[str], *, has_code: bool = False) -> list[Problem]:
    """Return the listed files that could run code when someone opens them; `has_code`: except the user's code, which belongs there."""
    checked = [name for name in names if not (has_code and _CODE.fullmatch(name))]
    return [Problem(field=name, message=reason) for name in checked if (reason := _unsafe(folder / name))]


def _unsafe(path: Path) -> str:
    if not _KINDS.fullmatch(path.name):
        return "is of a kind that no export writes; it may contain code"
    if path.suffix in _MODELS or ".data-" in path.name:
        return ""
    with open_file(path) as file:
        start = file.read(4)
    if _PICKLE.match(start):
        return "is a pickle, which can run code when it is read"
    if start.startswith(_PROGRAMS):
        return "is a program"
    return ""
