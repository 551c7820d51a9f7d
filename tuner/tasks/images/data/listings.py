"""Listings: labeled image files, found in a folder with one sub-folder for each class or named in a manifest, as a dataset.

Sub-folders named train, validation and test that contain the class folders are official splits. A manifest is a CSV or Parquet table of
image paths and labels. A few unreadable images are left out.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, image_file

if TYPE_CHECKING:
    import pandas as pd

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
_READERS = (".csv", ".tsv", ".parquet", ".pq")


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


def list_folder(path: Path) -> Listing:
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
        found, others = _image_files(folder.path)
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


def _image_files(folder: str) -> tuple[list[str], int]:
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


def list_manifest(data: study.ManifestData) -> Listing:
    """List the image files that a manifest names; open only the manifest.

    Relative paths start at `root`, by default the folder of the manifest. Labels are strings, sorted as numbers if all are numbers.

    Raises:
        DataError: the manifest cannot be read, or lacks a column, a path or a label.
    """
    table = _read_table(data.path)
    paths = _column(table, data.image_column, field="image_column", origin=data.path)
    labels = _column(table, data.label_column, field="label_column", origin=data.path)
    if not paths:
        raise errors.DataError(f"{data.path} has no rows; expected one for each image")
    root = data.root or data.path.parent
    _check_root(data, root)
    classes = sort_names(set(labels))
    numbers = {name: label for label, name in enumerate(classes)}
    return Listing(
        origin=data.path,
        classes=tuple(classes),
        paths=tuple(str(root / path) for path in paths),
        labels=tuple(numbers[label] for label in labels),
    )


def sort_names(names: set[str]) -> list[str]:
    """Sort class names as numbers if all are integers, otherwise alphabetically."""
    return sorted(names, key=lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else sorted(names)


def _read_table(path: Path) -> "pd.DataFrame":
    if not path.is_file():
        what = (
            "is a folder; expected a table. For one sub-folder for each class, use data.source: folder"
            if path.is_dir()
            else "does not exist; expected a table. Check data.path"
        )
        raise errors.DataError(f"{path} {what}")
    if path.suffix.lower() not in _READERS:
        raise errors.DataError(f"{path} is not a manifest; expected a file that ends in {', '.join(_READERS)}")
    import pandas as pd  # takes half a second, which other sources do not need

    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, skipinitialspace=True)
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pandas and pyarrow raise ValueError for damaged tables
        raise errors.DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error


def _column(table: "pd.DataFrame", name: str, *, field: str, origin: Path) -> list[str]:
    if name not in table.columns:
        names = ", ".join(str(column) for column in table.columns)
        raise errors.DataError(f"{origin} has no column {name}; its columns are {names}. Set data.{field} to one of them")
    values = ["" if is_missing else str(value).strip() for value, is_missing in zip(table[name].tolist(), table[name].isna(), strict=True)]
    empty = [row for row, value in enumerate(values) if not value]
    if empty:
        # line 1 of a CSV file has the column names
        where = f"{dataset.count(len(empty), 'row')}, first in line {empty[0] + 2}"
        raise errors.DataError(f"{origin}: the column {name} is empty in {where}; fill it in, or remove the rows")
    return values


def _check_root(data: study.ManifestData, root: Path) -> None:
    if not root.is_dir():
        raise errors.DataError(f"{root} is not a folder; check data.root, which the paths in {data.path} start from")
