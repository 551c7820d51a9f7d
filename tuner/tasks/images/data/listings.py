"""Listings: labeled image files, found in a folder with one sub-folder for each class or named in a manifest, as a dataset.

`folders` finds the class folders and official splits, and `manifests` reads tables. A few unreadable images are left out.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tuner import errors, wording
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import dataset, file_formats, folder_files, image_file
from tuner.tasks.images.data import folders as folder_layouts

#: maximum share of unreadable images; more are an error
MAX_UNREADABLE = 0.01
_LAYOUT = "expected one sub-folder for each class, with its images"
#: name of a column that says which images belong together
GROUP_NAME = re.compile(
    r"^(patient|subject|person|participant|case|individual|animal|lesion|specimen|slide|scene|site|session|video|clip|sequence|burst|track"
    r"|group|family|serial)s?(?:[ _-]?(id|no|nr|number|name|key|code))?$",
    re.IGNORECASE,
)
#: name of a column that divides images into splits, whatever its values
_SPLIT_NAME = re.compile(r"^(data)?[ _-]?(split|subset|partition|fold|is[ _-]?(train|val|valid|validation|test))s?$", re.IGNORECASE)
#: file names that are compared with the names of sub-folders at most
_MOST_NAMES = 1_000
#: names that cameras, phones and programs give, and numbers
_OF_CAMERAS = re.compile(
    r"(img|dsc|dscn|dscf|pxl|photo|image|picture|pic|screenshot|screen|scan|frame|vid|video|mvi|gopr|dji|whatsapp|download|untitled|file|aug)"
    r"\w*$|.$|[0-9]+$",
    re.IGNORECASE,
)
#: different values of a column of splits
_MOST_SPLITS = 6
#: rows that show whether a column can name splits
_FIRST_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Image files and their labels, before any of them is opened."""

    #: folder or manifest that lists them
    origin: Path
    classes: tuple[str, ...]
    #: a path, or the content of a file that is inside the manifest
    paths: tuple[image_file.Source, ...]
    #: for each path an index into `classes`, 0 and 1 for each class, or a number
    labels: Sequence[Any]
    #: NONE, TRAIN, VALIDATION or TEST for each path; None if there are no official splits
    official: tuple[int, ...] | None = None
    #: for each path, the name of the group that it belongs to; None if each image is on its own
    groups: tuple[str, ...] | None = None
    #: number of files whose names are not those of images, by the ending of their names
    ignored: Mapping[str, int] = field(default_factory=dict)
    #: other facts for the user, one line each: what is left out, and how the folder or the table is understood
    remarks: tuple[str, ...] = ()
    #: files of images in formats that are not read: format, class and number
    foreign: tuple[tuple[str, str, int], ...] = ()
    #: what an image is labeled with
    kind: TargetKind = TargetKind.LABEL


#: types of the labels of a dataset
_TYPES = {TargetKind.LABEL: np.int64, TargetKind.LABELS: np.uint8, TargetKind.NUMBER: np.float64}


def read(listing: Listing, *, cache: Path | None, value_range: dataset.WantedRange = None) -> dataset.Dataset:
    """Return the dataset of a listing; `value_range` is `data.value_range` of a study.

    Raises:
        DataError: more than 1 % of the images cannot be read, or a class has no readable image.
    """
    known = _measure(listing, cache=cache) if value_range == "auto" else value_range
    found = inspect(listing, cache=cache, value_range=known)
    _check_readable(found, listing)
    dataset.check_classes(found.classes, found.labels, origin=str(listing.origin), kind=found.kind)
    return found


def _measure(listing: Listing, *, cache: Path | None) -> dataset.ValueRange:
    """Return the lowest and the highest value of all images."""
    seen = [one for one in image_file.inspect_files(listing.paths, origin=listing.origin, cache=cache, values="auto") if not one.reason]
    if not seen:
        raise errors.DataError(f"{listing.origin} has no readable images, so data.value_range: auto is unknown; set it to a range")
    return dataset.known_range(min(one.low for one in seen), max(one.high for one in seen), origin=str(listing.origin))


def inspect(listing: Listing, *, cache: Path | None, value_range: dataset.ValueRange | None = None) -> dataset.Dataset:
    """Return the dataset of a listing, with any number of unreadable images."""
    seen = image_file.inspect_files(listing.paths, origin=listing.origin, cache=cache, values=value_range)
    readable = [row for row, one in enumerate(seen) if not one.reason]
    return dataset.Dataset(
        classes=listing.classes,
        labels=np.array([listing.labels[row] for row in readable], _TYPES[listing.kind]),
        digests=np.array([seen[row].digest for row in readable], "S32"),
        sizes=np.array([(seen[row].width, seen[row].height) for row in readable], np.int32).reshape(-1, 2),
        images=image_file.FileImages(tuple(listing.paths[row] for row in readable), value_range),
        official=None if listing.official is None else np.array([listing.official[row] for row in readable], np.int8),
        groups=None if listing.groups is None else np.unique(listing.groups, return_inverse=True)[1].astype(np.int64)[readable],
        unreadable=tuple(_unreadable(listing, row, one.reason) for row, one in enumerate(seen) if one.reason),
        ignored=listing.ignored,
        remarks=listing.remarks,
        levels=np.array([(seen[row].low, seen[row].high, seen[row].bits) for row in readable], np.float64).reshape(-1, 3),
        value_range=value_range,
        foreign=listing.foreign,
        kind=listing.kind,
    )


def _unreadable(listing: Listing, row: int, reason: str) -> dataset.Unreadable:
    path = image_file.name_of(listing.paths[row])
    return dataset.Unreadable(path=path, reason=reason, label=dataset.describe_label(listing.labels[row], listing.classes, listing.kind))


def _check_readable(found: dataset.Dataset, listing: Listing) -> None:
    broken, total = found.unreadable, len(listing.paths)
    listed = set(listing.labels) if listing.kind is TargetKind.LABEL else set(range(len(listing.classes)))
    empty = [found.classes[label] for label in np.flatnonzero(found.counts == 0).tolist() if label in listed]
    if not broken or (len(broken) <= MAX_UNREADABLE * total and not empty):
        return
    so = f"so {wording.cut(empty[0])} would have no images" if empty else f"more than {MAX_UNREADABLE:.0%}"
    raise errors.DataError(
        f"{listing.origin}: {len(broken)} of {total} images cannot be read, {so}. Repair or remove them:\n{list_unreadable(broken)}"
    )


def list_unreadable(broken: Sequence[dataset.Unreadable], *, most: int = 5) -> str:
    """List the first unreadable images and their reasons, one per line; of many, also the numbers by reason and class."""
    lines = [f"  {image.path}: {image.reason}" for image in broken[:most]]
    if len(broken) <= most:
        return "\n".join(lines)
    lines.append(f"  … and {len(broken) - most} more")
    by_reason: dict[str, list[str]] = {}
    for image in broken:
        by_reason.setdefault(image.reason, []).append(image.label)
    if len({(image.reason, image.label) for image in broken}) > 1:
        several = sorted((one for one in by_reason.items() if len(one[1]) > 1), key=lambda one: -len(one[1]))
        lines += [f"  {dataset.by_class([(label, 1) for label in labels], 'image')}: {reason}" for reason, labels in several[:most]]
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """An image file of a folder."""

    #: name of its class, as its folder or its own name spells it
    name: str
    path: str
    official: int


def list_folder(
    path: Path,
    *,
    class_order: study.ClassOrder = "natural",
    class_pattern: str | None = None,
    group_pattern: str | None = None,
    ignore: tuple[str, ...] = (),
) -> Listing:
    """List the image files below a folder, without opening them.

    `class_pattern` finds the class of each image in its path, `group_pattern` its group. What matches a pattern in `ignore` is read as if
    it were not there.

    Raises:
        DataError: the folder does not exist or is a file, has fewer than two classes, a class has no image files, a link would give images
            two classes, or a pattern does not match a path.
    """
    _check_folder(path)
    with folder_files.leaving_out(path, ignore) as left_out:
        try:
            found = _list_folder(path, class_order, class_pattern, group_pattern)
        except errors.DataError as error:
            raise errors.DataError("; ".join([str(error), *left_out.named()])) from error
    return replace(found, remarks=(*found.remarks, *left_out.note("folder and no file")))


def _list_folder(path: Path, class_order: study.ClassOrder, class_pattern: str | None, group_pattern: str | None) -> Listing:
    layout = folder_layouts.find(path) if class_pattern is None else folder_layouts.find_places(path)
    if not layout.folders:
        raise _no_folders(path)
    if layout.unclear and class_order != "earlier":
        raise errors.DataError(layout.unclear)
    walk = folder_files.Walk(path) if class_order == "natural" else None
    rows: list[_Row] = []
    others: Counter[tuple[str, str]] = Counter()
    for folder in layout.folders:
        found, endings = walk.image_files(folder) if walk else folder_files.image_files(folder.path)
        others.update({(ending, folder.name): number for ending, number in endings.items()})
        rows += [_Row(name=folder.name, path=name, official=folder.official) for name in found]
    if class_pattern is not None:
        rows = _name_rows(rows, path, class_pattern)
    given = [row.name for row in rows] if class_pattern is not None else [folder.name for folder in layout.folders]
    names, numbers = dataset.name_classes(given, class_order, earlier=sorted)
    labels = dict(zip(given, numbers, strict=True))
    rows.sort(key=lambda row: (labels[row.name], row.path, row.official))
    ignored = Counter(layout.others) + _by_ending(others)
    places = [folder.path for folder in layout.folders]
    unread = [line] if (line := folder_files.say_archives(path, ignored)) else []
    unread += folder_files.say_misnamed(places, ignored)
    try:
        _check_classes(path, names, {labels[row.name] for row in rows}, others, labels, rows)
    except errors.DataError as error:
        said = "; ".join([str(error), *layout.notes, *unread])
        raise errors.DataError(". ".join([said, *([] if rows else folder_files.say_programs(path))])) from None
    return Listing(
        origin=path,
        classes=tuple(image_file.printable(name) for name in names),
        paths=tuple(row.path for row in rows),
        labels=tuple(labels[row.name] for row in rows),
        official=tuple(row.official for row in rows) if any(folder.official for folder in layout.folders) else None,
        groups=None if group_pattern is None else _groups([row.path for row in rows], path, group_pattern),
        ignored=dict(ignored),
        remarks=(*layout.notes, *unread, *_note_classes(path, rows, names, class_pattern), *folder_files.say_tables(str(path))),
        foreign=_foreign(others, {name: names[label] for name, label in labels.items()}),
    )


def _note_classes(path: Path, rows: Sequence[_Row], names: Sequence[str], class_pattern: str | None) -> list[str]:
    """Return a note if the sub-folders seem not to be the classes, by the names of their files or by their own names, as lines."""
    if class_pattern is not None:
        return []
    return _note_file_names(rows, names) or folder_layouts.note_parts(str(path), names)


def _note_file_names(rows: Sequence[_Row], names: Sequence[str]) -> list[str]:
    """Return a note if the files of all sub-folders have the same few classes in their names, as lines."""
    some = rows[:: max(1, len(rows) // _MOST_NAMES)]
    for pattern, found in folder_files.class_patterns(row.path for row in some):
        inside: dict[str, set[str]] = {}
        for row in some:
            match = re.search(pattern, dataset.nfc(image_file.printable(Path(row.path).name)))
            inside.setdefault(row.name, set()).add(match[1] if match else "")
        classes = {name for name, _ in found}
        if len(classes) > _MOST_SPLITS or any(one != classes for one in inside.values()) or any(map(_OF_CAMERAS.match, classes)):
            return []
        if len(folder_layouts.official_splits(sorted(classes))) == len(classes):  # train_1.jpg and test_1.jpg of every class
            return []
        more = ", …" if len(names) > 3 else ""
        return [
            f"the classes are {', '.join(map(wording.shorten, names[:3]))}{more}, by the sub-folders; each contains files of "
            f"{', '.join(map(wording.shorten, sorted(classes)))}, by their names. If these are the classes, set data.class_pattern, "
            f"or --class-pattern of tuner init, to '{pattern}'"
        ]
    return []


def _no_folders(path: Path) -> errors.DataError:
    loose = folder_files.images_inside(path)
    if loose:
        cures = [folder_files.say_labels(str(path), loose)]
    else:
        cures = folder_files.say_programs(path) or folder_files.say_tables(str(path))
        cures += folder_files.say_misnamed([str(path)], folder_files.others_inside(path))
    return errors.DataError(". ".join([f"{path} has no sub-folders{folder_files.say_loose(path)}; {_LAYOUT}", *cures]))


def _name_rows(rows: Sequence[_Row], folder: Path, pattern: str) -> list[_Row]:
    """Return image files with the classes that a pattern finds in their paths."""
    texts = _search([row.path for row in rows], folder, pattern, field="class_pattern")
    return [replace(row, name="/".join(part for part in parts if part)) for row, parts in zip(rows, texts, strict=True)]


def _by_ending(others: Mapping[tuple[str, str], int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for (ending, _), number in others.items():
        found[ending] += number
    return found


def _foreign(others: Mapping[tuple[str, str], int], names: Mapping[str, str]) -> tuple[tuple[str, str, int], ...]:
    """Return the numbers of files of images in formats that are not read, by format and class, given the names of the classes."""
    kinds = file_formats.FOREIGN_SUFFIXES
    found = [(ending, names.get(folder, "any class"), number) for (ending, folder), number in others.items() if ending in kinds]
    return tuple((kinds[ending], image_file.printable(name), number) for ending, name, number in found)


#: what to do with a file that is not a folder, by the ending of its name
_FILES = {
    folder_files.TABLES: "It is a table of images: write a study file with data.source: manifest and data.path: {path}",
    (".npz",): "It holds arrays: write a study file with data.source: npz and data.path: {path}",
    (".crdownload", ".part", ".partial", ".download"): "Its download is not finished: download it again, and unpack it if it is an archive",
    (".001", ".z01"): "It is a part of an archive: unpack all parts together, for example with: 7z x {path}",
    (".yaml", ".yml", ".json"): "A settings file of another program is not read: set data.path to the folder of images that it names",
    tuple(image_file.SUFFIXES): "It is one image: set data.path to the folder above the folders of the classes",
    (".h5", ".hdf5", ".mat", ".npy", ".pkl", ".pickle", ".tfrecord", ".tfrecords", ".record", ".lmdb", ".arrow"):
        "This format is not read: convert it, for example to an .npz file with x and y for data.source: npz, or write a function that "
        "reads it for data.source: python",
}  # fmt: skip


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise errors.DataError(f"{path}: there is no such folder; check data.path")
    if path.is_dir():
        return
    if folder_files.is_archive(path):
        raise errors.DataError(
            f"{path} is an archive; unpack it with: {folder_files.unpack(str(path))}, and set data.path to the folder with the classes"
        )
    cure = next((text for endings, text in _FILES.items() if path.suffix.lower() in endings), None)
    other = "Use data.source: manifest for a table of paths and labels, or npz for arrays"
    raise errors.DataError(f"{path} is a file; {_LAYOUT}. {cure.format(path=path) if cure else other}")


def _check_classes(
    path: Path,
    names: Sequence[str],
    filled: set[int],
    others: Mapping[tuple[str, str], int],
    labels: Mapping[str, int],
    rows: Sequence[_Row],
) -> None:
    if not filled:
        endings = ", ".join(sorted(suffix[1:] for suffix in image_file.SUFFIXES))
        where = "has no images" if not labels else f"has no images in its {len(names)} sub-folders"
        raise errors.DataError(f"{path} {where}{_say_others(others)}; expected files that end in {endings}")
    if len(names) < 2:
        raise _one_class(path, names[0], rows)
    empty = [label for label in range(len(names)) if label not in filled]
    without = set(empty)
    if empty:
        named = ", ".join(wording.visible(image_file.printable(names[label])) for label in empty[:5])
        more = f" and {len(empty) - 5:,} more" if len(empty) > 5 else ""
        inside = _say_others({key: number for key, number in others.items() if labels.get(key[1]) in without})
        raise errors.DataError(
            f"{path} has no images in the sub-folder {named}{more}{inside}; add images, or move the sub-folder away"
            + (f". If {wording.visible(image_file.printable(names[next(iter(filled))]))} contains the classes, set data.path to it"
               if len(filled) == 1 else "")
        )  # fmt: skip


def _one_class(path: Path, name: str, rows: Sequence[_Row]) -> errors.DataError:
    shown = wording.visible(image_file.printable(name))
    inside = [row.path for row in rows]
    is_flat = len({Path(one).parent for one in inside}) == 1
    cures = [folder_files.say_labels(str(path), inside)] if is_flat else folder_files.say_tables(str(path))
    said = f"{path} has only one class, {shown}; {_LAYOUT}, and at least two. If {shown} contains the classes, set data.path to it"
    return errors.DataError(". ".join([said, *cures]))


def _say_others(others: Mapping[tuple[str, str], int]) -> str:
    """Return the numbers of files that are not read, as a part of a sentence."""
    kinds = file_formats.FOREIGN_SUFFIXES
    found = [(kinds[ending], number) for (ending, _), number in others.items() if ending in kinds]
    if found:
        return f", but {dataset.by_class(found, 'file')} in a format that tuner does not read; convert them to PNG"
    return f", but other files ({dataset.list_kinds(_by_ending(others))})" if others else ""


def _groups(paths: Sequence[str], folder: Path, pattern: str) -> tuple[str, ...]:
    """Return the text in the parentheses of a pattern, for each path below a folder."""
    return tuple("\0".join(parts) for parts in _search(paths, folder, pattern, field="group_pattern"))


def _search(paths: Sequence[str], folder: Path, pattern: str, *, field: str) -> list[tuple[str, ...]]:
    """Return the texts in the parentheses of a pattern, for each path below a folder; "" where a part is not used.

    Raises:
        DataError: the pattern does not match a path, or all its parts are empty.
    """
    below = [dataset.nfc(image_file.printable(os.path.relpath(path, folder))) for path in paths]
    found = [re.search(pattern, path) for path in below]
    texts = [tuple(part or "" for part in match.groups()) if match else () for match in found]
    missing = [path for path, parts in zip(below, texts, strict=True) if not any(parts)]
    if missing:
        cure = "; leave out images without a class with data.ignore, or correct the pattern" if field == "class_pattern" else ""
        raise errors.DataError(
            f"{folder}: data.{field} {pattern} does not match {dataset.count(len(missing), 'path')} of {len(paths):,}, "
            f"first {missing[0]}; expected a match in the path of every image{cure}"
        )
    return texts


def suggest_groups(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Return a note on a column of a table that seems to name what images belong together, as lines."""
    for name, values in columns.items():
        num_groups = len(set(map(str, values))) if GROUP_NAME.search(name) else 0
        if 1 < num_groups < len(values):
            return [
                f"the table has the column {wording.shorten(name)} with {num_groups:,} values for {len(values):,} images. If images with "
                f"the same value belong together, set data.group_column: {wording.shorten(name)}; otherwise they may be in two splits, "
                "and the accuracy is too high"
            ]
    return []


def read_splits(values: Sequence[str], *, origin: Path, column: str) -> tuple[int, ...]:
    """Return the official split of each row of a table, given their names.

    Raises:
        DataError: a value is not the name of a split, or no row is for training.
    """
    names = sorted(set(values))
    sides = folder_layouts.official_splits(names)
    unknown = [name for name in names if name not in sides]
    if unknown:
        raise errors.DataError(
            f"{origin}: the column {column} has the value {wording.shorten(unknown[0])} in "
            f"{dataset.count(list(values).count(unknown[0]), 'row')}; expected names of splits such as train, validation and test"
            f"{_cure_splits(names)}"
        )
    if dataset.TRAIN not in sides.values():
        raise errors.DataError(f"{origin}: the column {column} has only {', '.join(names[:5])}; expected images for training, too: train")
    return tuple(sides[value] for value in values)


def _cure_splits(names: Sequence[str]) -> str:
    """Say what values of a column mean that other programs write for splits, as the end of a message."""
    if set(names) <= {"0", "1", "2", "0.0", "1.0", "2.0"}:
        return ". Write these words instead of numbers; Ludwig writes 0 for train, 1 for validation and 2 for test"
    if {name.lower() for name in names} <= {"true", "false"}:
        return ". Write these words instead of true and false"
    return ""


def suggest_splits(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Return a note on a column of a table that names splits, as lines."""
    for name, values in columns.items():
        names = sorted({str(value) for value in values[:_FIRST_ROWS]})
        if len(names) > _MOST_SPLITS:
            continue
        names = sorted(set(map(str, values)))
        sides = folder_layouts.official_splits(names)
        if len(sides) == len(names) > 1 and dataset.TRAIN in sides.values():
            return [
                f"the table has the column {wording.shorten(name)} with {', '.join(names)}, but splits are drawn from all rows; to use its "
                f"splits, set data.split_column: {wording.shorten(name)}"
            ]
        if _SPLIT_NAME.search(name) and len(names) > 1:
            named = ", ".join(map(wording.shorten, names))
            return [
                f"the table has the column {wording.shorten(name)} with {named}, but splits are drawn from all rows; to use "
                f"it, write train, validation and test into it, and set data.split_column: {wording.shorten(name)}"
            ]
    return []
