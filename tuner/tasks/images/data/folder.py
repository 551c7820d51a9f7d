"""Labelled image files into a Dataset, leaving out the few that cannot be read.

A folder with one sub-folder of images a class into a listing of its files.

Sub-folders named train, validation and test that hold the classes are the data's own splits.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner import errors
from tuner.tasks.images.data import dataset, image_file

#: the largest part of unreadable images that are left out; more are an error
MAX_UNREADABLE = 0.01


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Image files and their labels, before any of them is opened."""

    #: the folder or manifest that they come from
    origin: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    #: an index into `classes` for each path
    labels: tuple[int, ...]
    #: NONE, TRAIN, VALIDATION or TEST for each path; None where there are no official splits
    official: tuple[int, ...] | None = None
    #: files that are no images by their names
    num_ignored: int = 0


def read(listing: Listing, *, cache: Path | None) -> dataset.Dataset:
    """The Dataset of a listing.

    Raises:
        DataError: more than 1 % of the images cannot be read, or a class has no readable image.
    """
    found = look(listing, cache=cache)
    _check_readable(found, listing)
    dataset.check_classes(found.classes, found.labels, origin=str(listing.origin))
    return found


def look(listing: Listing, *, cache: Path | None) -> dataset.Dataset:
    """The Dataset of a listing, however many of its images cannot be read."""
    seen = image_file.look(listing.paths, origin=listing.origin, cache=cache)
    kept = [row for row, one in enumerate(seen) if not one.reason]
    return dataset.Dataset(
        classes=listing.classes,
        labels=np.array([listing.labels[row] for row in kept], np.int64),
        digests=np.array([seen[row].digest for row in kept], "S32"),
        sizes=np.array([(seen[row].width, seen[row].height) for row in kept], np.int32).reshape(-1, 2),
        images=image_file.FileImages(tuple(listing.paths[row] for row in kept)),
        official=None if listing.official is None else np.array([listing.official[row] for row in kept], np.int8),
        unreadable=tuple(_unreadable(path, one) for path, one in zip(listing.paths, seen, strict=True) if one.reason),
        num_ignored=listing.num_ignored,
    )


def _unreadable(path: str, seen: image_file.DecodedInfo) -> dataset.Unreadable:
    return dataset.Unreadable(path=image_file.show(path), reason=seen.reason)


def _check_readable(found: dataset.Dataset, listing: Listing) -> None:
    broken, total = found.unreadable, len(listing.paths)
    empty = [found.classes[label] for label in np.flatnonzero(found.counts == 0) if label in listing.labels]
    if not broken or (len(broken) <= MAX_UNREADABLE * total and not empty):
        return
    so = f"so {empty[0]} would have no images" if empty else f"more than {MAX_UNREADABLE:.0%}"
    raise errors.DataError(
        f"{listing.origin}: {len(broken)} of {total} images cannot be read, {so}. Mend or remove them:\n{listed(broken)}"
    )


def listed(broken: Sequence[dataset.Unreadable], *, most: int = 5) -> str:
    """The first unreadable images and their reasons, one a line."""
    lines = [f"  {image.path}: {image.reason}" for image in broken[:most]]
    return "\n".join(lines + ([f"  … and {len(broken) - most} more"] if len(broken) > most else []))


_SPLITS = {
    "train": dataset.TRAIN,
    "training": dataset.TRAIN,
    "val": dataset.VALIDATION,
    "valid": dataset.VALIDATION,
    "validation": dataset.VALIDATION,
    "test": dataset.TEST,
    "testing": dataset.TEST,
}
#: written beside images by archives and network drives
_LITTER = frozenset({"__MACOSX", "@eaDir", "lost+found"})
_LAYOUT = "expected one sub-folder a class, with the images of the class in it"


@dataclass(frozen=True, kw_only=True)
class _Found:
    path: str
    name: str
    official: int


def find(path: Path) -> Listing:
    """The image files below a folder; nothing is opened.

    Raises:
        DataError: the folder is not there or no folder, holds fewer than two classes, or a class has no image files.
    """
    _check_folder(path)
    folders = _classes(path)
    if not folders:
        raise errors.DataError(f"{path}: there are no sub-folders{_loose(path)}; {_LAYOUT}")
    names = sorted({folder.name for folder in folders})
    rows, num_ignored = [], _num_loose(path)
    for folder in folders:
        found, others = _images(folder.path)
        num_ignored += others
        rows += [(names.index(folder.name), name, folder.official) for name in found]
    rows.sort()
    _check_classes(path, names, {label for label, _, _ in rows})
    return Listing(
        origin=path,
        classes=tuple(image_file.show(name) for name in names),
        paths=tuple(name for _, name, _ in rows),
        labels=tuple(label for label, _, _ in rows),
        official=tuple(split for _, _, split in rows) if any(folder.official for folder in folders) else None,
        num_ignored=num_ignored,
    )


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise errors.DataError(f"{path}: there is no such folder; check data.path")
    if not path.is_dir():
        raise errors.DataError(
            f"{path}: this is a file; {_LAYOUT}. For a table of paths and labels use data.source: manifest, for arrays npz"
        )


def _check_classes(path: Path, names: Sequence[str], labels: set[int]) -> None:
    if not labels:
        endings = ", ".join(sorted(suffix[1:] for suffix in image_file.SUFFIXES))
        raise errors.DataError(f"{path}: there are no images in its {len(names)} sub-folders; images are files that end in {endings}")
    if len(names) < 2:
        name = image_file.show(names[0])
        raise errors.DataError(
            f"{path}: there is one class only, {name}; {_LAYOUT}, and at least two of them. If the classes lie in {name}, name that folder"
        )
    empty = [image_file.show(name) for label, name in enumerate(names) if label not in labels]
    if empty:
        raise errors.DataError(f"{path}: no images in the sub-folder {', '.join(empty[:5])}; add images, or move it out of the folder")


def _classes(path: Path) -> list[_Found]:
    """The sub-folder of each class, or several where the folder has splits of its own."""
    folders = [_Found(path=entry.path, name=entry.name, official=dataset.NONE) for entry in _scan(path) if _is_folder(entry)]
    sides = [_SPLITS.get(folder.name.lower()) for folder in folders]
    if len(folders) < 2 or None in sides or dataset.TRAIN not in sides:
        return folders
    inner = [
        _Found(path=entry.path, name=entry.name, official=side or dataset.NONE)
        for folder, side in zip(folders, sides, strict=True)
        for entry in _scan(folder.path)
        if _is_folder(entry)
    ]
    return inner or folders


def _images(folder: str) -> tuple[list[str], int]:
    """The image files below a folder, and the number of other files; a folder reached twice through links is read once."""
    found, num_ignored, seen, waiting = [], 0, set(), [folder]
    while waiting:
        here = waiting.pop()
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _scan(here):
            if _is_folder(entry):
                waiting.append(entry.path)
            elif _is_image(entry):
                found.append(entry.path)
            else:
                num_ignored += 1
    return found, num_ignored


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By its name; a broken link counts, so that it is named as unreadable, a pipe or device does not."""
    if Path(entry.name).suffix.lower() not in image_file.SUFFIXES:
        return False
    try:
        return entry.is_file() or not Path(entry.path).exists()
    except OSError:
        return True


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries of a folder by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _LITTER]
    except OSError as error:
        raise errors.DataError(f"{image_file.show(str(folder))}: the folder cannot be read ({error.strerror})") from error
    return sorted(shown, key=lambda entry: entry.name)


def _num_loose(path: Path) -> int:
    return sum(not _is_folder(entry) for entry in _scan(path))


def _loose(path: Path) -> str:
    return f", but {count} images lie in the folder itself" if (count := sum(_is_image(entry) for entry in _scan(path))) else ""
