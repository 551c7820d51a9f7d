"""Image folders: labelled image files, found in sub-folders named after their class, as a dataset.

Sub-folders named train, validation and test that contain the class folders are official splits. A few unreadable images are left out.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner import errors
from tuner.tasks.images.data import dataset, image_file

#: maximum share of unreadable images; more are an error
MAX_UNREADABLE = 0.01
_SPLITS = {
    "train": dataset.TRAIN,
    "training": dataset.TRAIN,
    "val": dataset.VALIDATION,
    "valid": dataset.VALIDATION,
    "validation": dataset.VALIDATION,
    "test": dataset.TEST,
    "testing": dataset.TEST,
}
#: folders that archives and network drives create
_LITTER = frozenset({"__MACOSX", "@eaDir", "lost+found"})
_LAYOUT = "expected one sub-folder for each class, with its images"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Image files and their labels, before any of them is opened."""

    #: folder or manifest that lists them
    origin: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    #: an index into `classes` for each path
    labels: tuple[int, ...]
    #: NONE, TRAIN, VALIDATION or TEST for each path; None if there are no official splits
    official: tuple[int, ...] | None = None
    #: number of files whose names are not those of images
    num_ignored: int = 0


def read(listing: Listing, *, cache: Path | None) -> dataset.Dataset:
    """Return the dataset of a listing.

    Raises:
        DataError: more than 1 % of the images cannot be read, or a class has no readable image.
    """
    found = inspect(listing, cache=cache)
    _check_readable(found, listing)
    dataset.check_classes(found.classes, found.labels, origin=str(listing.origin))
    return found


def inspect(listing: Listing, *, cache: Path | None) -> dataset.Dataset:
    """Return the dataset of a listing, with any number of unreadable images."""
    seen = image_file.inspect_files(listing.paths, origin=listing.origin, cache=cache)
    readable = [row for row, one in enumerate(seen) if not one.reason]
    return dataset.Dataset(
        classes=listing.classes,
        labels=np.array([listing.labels[row] for row in readable], np.int64),
        digests=np.array([seen[row].digest for row in readable], "S32"),
        sizes=np.array([(seen[row].width, seen[row].height) for row in readable], np.int32).reshape(-1, 2),
        images=image_file.FileImages(tuple(listing.paths[row] for row in readable)),
        official=None if listing.official is None else np.array([listing.official[row] for row in readable], np.int8),
        unreadable=tuple(_unreadable(path, one) for path, one in zip(listing.paths, seen, strict=True) if one.reason),
        num_ignored=listing.num_ignored,
    )


def _unreadable(path: str, seen: image_file.DecodedInfo) -> dataset.Unreadable:
    return dataset.Unreadable(path=image_file.printable(path), reason=seen.reason)


def _check_readable(found: dataset.Dataset, listing: Listing) -> None:
    broken, total = found.unreadable, len(listing.paths)
    empty = [found.classes[label] for label in np.flatnonzero(found.counts == 0) if label in listing.labels]
    if not broken or (len(broken) <= MAX_UNREADABLE * total and not empty):
        return
    so = f"so {empty[0]} would have no images" if empty else f"more than {MAX_UNREADABLE:.0%}"
    raise errors.DataError(
        f"{listing.origin}: {len(broken)} of {total} images cannot be read, {so}. Repair or remove them:\n{list_unreadable(broken)}"
    )


def list_unreadable(broken: Sequence[dataset.Unreadable], *, most: int = 5) -> str:
    """List the first unreadable images and their reasons, one per line."""
    lines = [f"  {image.path}: {image.reason}" for image in broken[:most]]
    return "\n".join(lines + ([f"  … and {len(broken) - most} more"] if len(broken) > most else []))


@dataclass(frozen=True, kw_only=True)
class _ClassFolder:
    path: str
    name: str
    official: int


def find(path: Path) -> Listing:
    """List the image files below a folder, without opening them.

    Raises:
        DataError: the folder does not exist or is a file, has fewer than two classes, or a class has no image files.
    """
    _check_folder(path)
    folders = _classes(path)
    if not folders:
        raise errors.DataError(f"{path} has no sub-folders{_say_loose(path)}; {_LAYOUT}")
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
        classes=tuple(image_file.printable(name) for name in names),
        paths=tuple(name for _, name, _ in rows),
        labels=tuple(label for label, _, _ in rows),
        official=tuple(split for _, _, split in rows) if any(folder.official for folder in folders) else None,
        num_ignored=num_ignored,
    )


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise errors.DataError(f"{path}: there is no such folder; check data.path")
    if not path.is_dir():
        raise errors.DataError(f"{path} is a file; {_LAYOUT}. Use data.source: manifest for a table of paths and labels, or npz for arrays")


def _check_classes(path: Path, names: Sequence[str], labels: set[int]) -> None:
    if not labels:
        endings = ", ".join(sorted(suffix[1:] for suffix in image_file.SUFFIXES))
        raise errors.DataError(f"{path} has no images in its {len(names)} sub-folders; expected files that end in {endings}")
    if len(names) < 2:
        name = image_file.printable(names[0])
        raise errors.DataError(
            f"{path} has only one class, {name}; {_LAYOUT}, and at least two. If {name} contains the classes, set data.path to it"
        )
    empty = [image_file.printable(name) for label, name in enumerate(names) if label not in labels]
    if empty:
        raise errors.DataError(f"{path} has no images in the sub-folder {', '.join(empty[:5])}; add images, or move the sub-folder away")


def _classes(path: Path) -> list[_ClassFolder]:
    """Return the sub-folder of each class, or one for each class and official split."""
    folders = [_ClassFolder(path=entry.path, name=entry.name, official=dataset.NONE) for entry in _scan(path) if _is_folder(entry)]
    sides = [_SPLITS.get(folder.name.lower()) for folder in folders]
    if len(folders) < 2 or None in sides or dataset.TRAIN not in sides:
        return folders
    inner = [
        _ClassFolder(path=entry.path, name=entry.name, official=side or dataset.NONE)
        for folder, side in zip(folders, sides, strict=True)
        for entry in _scan(folder.path)
        if _is_folder(entry)
    ]
    return inner or folders


def _images(folder: str) -> tuple[list[str], int]:
    """Return the image files below a folder, and the number of other files; read a folder with several links once."""
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
    """Judge a file by its name; a broken link counts, so that it is reported as unreadable, but a pipe or device does not."""
    if Path(entry.name).suffix.lower() not in image_file.SUFFIXES:
        return False
    try:
        return entry.is_file() or not Path(entry.path).exists()
    except OSError:
        return True


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in _LITTER]
    except OSError as error:
        raise errors.DataError(
            f"the folder {image_file.printable(str(folder))} cannot be read ({error.strerror}); check its permissions"
        ) from error
    return sorted(found, key=lambda entry: entry.name)


def _num_loose(path: Path) -> int:
    return sum(not _is_folder(entry) for entry in _scan(path))


def _say_loose(path: Path) -> str:
    return f", but {count} images directly inside it" if (count := sum(_is_image(entry) for entry in _scan(path))) else ""
