"""Manifests: tables of images and labels, as a listing: the labels of each row, and the rows that a study ignores."""

import ast
import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuner import errors, wording
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import dataset, folder_files, folders, image_file, listings, manifest_tables, named_images
from tuner.tasks.images.data.manifest_tables import (
    LONGEST_NAME,
    LONGEST_PATH,
    Table,
    column_of,
    header_of,
    listed,
    text_of,
    values_of,
    wanted_columns,
)

#: values of a column that says for one class whether an image belongs to it
_FLAGS = {"0", "1", "0.0", "1.0"}
_FLAG_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
#: names of columns that a command in a message lists
_MOST_FLAGS = 10


def list_manifest(data: study.ManifestData) -> listings.Listing:
    """List the images that a manifest names or holds; open only the manifest.

    Relative paths start at `root`, by default the folder of the manifest. A file that is not there is searched below `root` by its name.

    Raises:
        DataError: the manifest cannot be read, or lacks a column, an image or a label.
    """
    table = manifest_tables.read(data)
    _check_both(table, data)
    values_of(table, data.image_column, field="image_column", origin=data.path)
    _check_one_hot(table, data)
    for field, name in _label_columns(data):
        values_of(table, name, field=field, origin=data.path)
    table, left_out = _kept(table, data)
    cells = values_of(table, data.image_column, field="image_column", origin=data.path)
    classes, labels = _LABELS[data.kind](table, data)
    if not cells:
        raise errors.DataError(f"{data.path} has no rows; expected one for each image")
    remarks = table.remarks
    images = named_images.encoded(cells, table.lines, data)
    if images is None:
        names = column_of(table, data.image_column, field="image_column", origin=data.path, longest=LONGEST_PATH)
        images, found = named_images.find(names, data)
        remarks += found
        _check_repeated(images, table, data)
    remarks += left_out
    groups = None if data.group_column is None else column_of(table, data.group_column, field="group_column", origin=data.path)
    _check_present(groups or [], data.group_column or "", table, data)
    splits = None if data.split_column is None else column_of(table, data.split_column, field="split_column", origin=data.path)
    return listings.Listing(
        origin=data.path,
        classes=classes,
        paths=tuple(images),
        labels=tuple(labels),
        official=None if splits is None else listings.read_splits(splits, origin=data.path, column=data.split_column or ""),
        groups=None if groups is None else tuple(groups),
        remarks=(*remarks, *_suggest(table, data), *_other_splits(data)),
        kind=data.kind,
    )


def _label_columns(data: study.ManifestData) -> list[tuple[str, str]]:
    """Return the columns that label the images, each with the field of the study that names it."""
    return [("label_columns", name) for name in data.label_columns] or [("label_column", data.label_column)]


def _one_label(table: Table, data: study.ManifestData) -> tuple[tuple[str, ...], Sequence[Any]]:
    """Return the classes, and the index of the class of each row."""
    given = column_of(table, data.label_column, field="label_column", origin=data.path, longest=LONGEST_NAME)
    _check_present(given, data.label_column, table, data)
    return dataset.name_classes(given, data.class_order, earlier=dataset.sort_earlier)


def _several_labels(table: Table, data: study.ManifestData) -> tuple[tuple[str, ...], Sequence[Any]]:
    """Return the classes, and for each row a 0 or 1 for each class."""
    if data.label_columns:
        columns = [_flags(table, name, data) for name in data.label_columns]
        return tuple(map(dataset.nfc, data.label_columns)), list(zip(*columns, strict=True))
    cells = values_of(table, data.label_column, field="label_column", origin=data.path)
    texts = [text_of(cell) for cell in cells]
    _check_present([text or "" for text in texts], data.label_column, table, data)
    separator = r"[,;|]" if any(re.search(r"[,;|]", text) for text in texts if text and not text.startswith("[")) else r"\s"
    named = [_names_in(cell, text, separator) for cell, text in zip(cells, texts, strict=True)]
    wrong = next((row for row, names in enumerate(named) if names is None or any(len(name) > LONGEST_NAME for name in names)), None)
    if wrong is not None:
        raise errors.DataError(
            f"{data.path}: the column {data.label_column} has {wording.cut(str(cells[wrong]))} in line {table.lines[wrong]}; expected "
            f"names of classes of at most {LONGEST_NAME} letters, with commas between them, or a list of names"
        )
    classes, _ = dataset.name_classes([name for names in named for name in names or ()], "natural", earlier=dataset.sort_earlier)
    known = {name: number for number, name in enumerate(classes)}
    rows = []
    for names in named:
        row = [0] * len(classes)
        for name in names or ():
            row[known[dataset.nfc(name)]] = 1
        rows.append(tuple(row))
    return classes, rows


def _names_in(cell: Any, text: str | None, separator: str) -> list[str] | None:
    """Return the names of classes in a cell, or None if there is something else in it; spaces separate them if nothing else does."""
    if text is not None and text.startswith("[") and text.endswith("]"):
        cell = _list_in(text)
        if cell is None:
            return None
    if isinstance(cell, list | tuple):
        named = [text_of(name) for name in cell]
        return None if None in named else [name for name in named if name]
    return None if text is None else [name for part in re.split(separator, text) if (name := part.strip())]


def _list_in(text: str) -> list[Any] | None:
    """Return the list that a cell in brackets holds, as JSON, Python or NumPy write it, or with names without quotes; None: another one."""
    quoted = text[1] in "'\"" if len(text) > 2 else False
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = read(text)
            joined = read is ast.literal_eval and quoted and "," not in text and re.search(r"['\"]\s+['\"]", text)  # of NumPy
            return _of_numpy(text) if joined else list(found)
    return None if quoted or "[" in text[1:] else [name for part in text[1:-1].split(",") if (name := part.strip())]


def _of_numpy(text: str) -> list[str]:
    """Return the names of an array of NumPy: `['scab' 'rust']`."""
    return [one or other for one, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)]


def _flags(table: Table, name: str, data: study.ManifestData) -> list[int]:
    """Return the values of a column that says for one class whether an image belongs to it."""
    found = [
        _FLAG_VALUES.get((text_of(value) or "").casefold()) for value in values_of(table, name, field="label_columns", origin=data.path)
    ]
    if None in found:
        row = found.index(None)
        value = table.columns[dataset.nfc(name)][row]
        raise errors.DataError(
            f"{data.path}: the column {name} has {wording.show(value)} in line {table.lines[row]}; expected 1 if the image belongs to the "
            "class, or 0. Correct it, or remove the column from data.label_columns"
        )
    return [flag or 0 for flag in found]


def _numbers(table: Table, data: study.ManifestData) -> tuple[tuple[str, ...], Sequence[Any]]:
    """Return the name of the numbers, and the number of each row."""
    name, found = data.label_column, []
    for line, value in zip(table.lines, values_of(table, data.label_column, field="label_column", origin=data.path), strict=True):
        text = text_of(value)
        try:
            number = float(text or "")
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            what = f"is {wording.cut(text)}" if text else "is empty"
            cure = "write a point, not a comma" if re.fullmatch(r"[-+]?[0-9]+,[0-9]+", text or "") else "correct it, or remove the row"
            raise errors.DataError(f"{data.path}: the column {name} {what} in line {line}; expected a number such as 3.5: {cure}")
        found.append(number)
    return (dataset.nfc(name),), found


#: how the labels of the rows are read
_LABELS: Mapping[TargetKind, Callable[[Table, study.ManifestData], tuple[tuple[str, ...], Sequence[Any]]]] = {
    TargetKind.LABEL: _one_label,
    TargetKind.LABELS: _several_labels,
    TargetKind.NUMBER: _numbers,
}


def _check_present(values: Sequence[str], name: str, table: Table, data: study.ManifestData) -> None:
    """Refuse what programs write for a missing value: it would be a class, or would put images of many groups together."""
    rows = [row for row, value in enumerate(values) if value.casefold() in dataset.PLACEHOLDERS]
    if rows and data.class_order != "earlier":
        raise errors.DataError(
            f"{data.path}: the column {name} has {values[rows[0]]}, which programs write for a missing value, in "
            f"{dataset.count(len(rows), 'row')}, first in line {table.lines[rows[0]]}; fill it in, remove the rows, or give the value "
            "another name"
        )


#: what to do with an image that has several rows
_ONE_ROW = {
    TargetKind.LABEL: "tuner learns one label for each image: keep the row with the right one, or write a table with one row "
    "for each image",
    TargetKind.LABELS: "write all labels of an image in one row",
    TargetKind.NUMBER: "tuner learns one number for each image: keep the row with the right one",
}


def _check_repeated(images: Sequence[image_file.Source], table: Table, data: study.ManifestData) -> None:
    """Refuse a table that lists an image in several rows with different labels."""
    columns = [table.columns[name] for _, given in _label_columns(data) if (name := dataset.nfc(given)) in table.columns]
    labels = [" ".join(text_of(value) or "" for value in row) for row in zip(*columns, strict=True)] if columns else [""] * len(images)
    first: dict[str, int] = {}
    pairs = {
        str(image): (first[str(image)], row) for row, image in enumerate(images) if labels[first.setdefault(str(image), row)] != labels[row]
    }
    if pairs and data.class_order != "earlier":
        name, rows = next(iter(pairs.items()))
        found = " and ".join(f"{wording.cut(labels[row], 40)} in line {table.lines[row]}" for row in rows)
        raise errors.DataError(
            f"{data.path} lists {dataset.count(len(pairs), 'image')} with several labels, first {image_file.printable(name)}: {found}. "
            f"{_ONE_ROW[data.kind]}"
        )


def _check_both(table: Table, data: study.ManifestData) -> None:
    """Refuse a table with other names for the images and for the labels in one message."""
    is_header = not any(Path(name).suffix.lower() in image_file.SUFFIXES for name in table.names)
    own = [data.image_column, *(name for _, name in _label_columns(data))]
    if is_header and len(table.names) > 1 and not {dataset.nfc(name) for name in own} & set(table.columns):
        raise errors.DataError(
            f"{data.path} has no column {data.image_column} and no column {own[1]}; its columns are {listed(table.names)}. "
            f"Set data.image_column and data.{_label_columns(data)[0][0]} to some of them"
        )


def _check_one_hot(table: Table, data: study.ManifestData) -> None:
    """Refuse a table that has a column for each class, with a 1 for the class of the image, by the way to change it."""
    if data.label_columns or dataset.nfc(data.label_column) in table.columns:
        return
    flags = [name for name in table.names if name and {text_of(value) for value in table.columns.get(dataset.nfc(name), "")} <= _FLAGS]
    if len(flags) > 1:
        few = len(flags) <= _MOST_FLAGS
        columns = json.dumps(flags, ensure_ascii=False) if few else f"table.columns[{len(table.names) - len(flags)}:]"
        named = f"a column of 0 and 1 for each class: {listed(flags)}"
        own = f"data.label_columns: {json.dumps(flags, ensure_ascii=False)}" if few else "data.label_columns: a list of these columns"
        if data.kind is TargetKind.LABELS:
            raise errors.DataError(f"{data.path} has no column {data.label_column}, but {named}. Set {own}")
        raise errors.DataError(
            f"{data.path} has no column {data.label_column}, but {named}. tuner reads one "
            f"column with the name of the class; if an image may have several, set data.labels: several and {own}. "
            "If spaces follow the commas, read the table with skipinitialspace=True. Write the column "
            f"(pip install pandas) with pandas: table[{data.label_column!r}] = table[{columns}].idxmax(axis=1)"
        )


def _kept(table: Table, data: study.ManifestData) -> tuple[Table, tuple[str, ...]]:
    """Return a table without the rows that a study ignores, and a note on these rows.

    Raises:
        DataError: a pattern matches nothing, or all rows are ignored.
    """
    total = len(table.lines)
    if not data.ignore or not total:
        return table, ()
    ignored = folder_files.LeftOut(origin=str(data.path), patterns=data.ignore)
    labels = [text_of(value) or "" for value in table.columns[dataset.nfc(data.label_column)]] if not data.label_columns else [""] * total
    paths = [text_of(value) or "" for value in table.columns[dataset.nfc(data.image_column)]]
    rows = [row for row in range(total) if not any(map(ignored.matches, [labels[row], *named_images.names_of(paths[row])]))]
    if not rows:
        raise errors.DataError(f"{data.path}: data.ignore leaves out all {total:,} rows; remove a pattern")
    columns = {name: [values[row] for row in rows] for name, values in table.columns.items()}
    kept = replace(table, columns=columns, lines=[table.lines[row] for row in rows])
    noted = ignored.note("class and no path")
    return kept, tuple(f"{note} ({dataset.count(total - len(rows), 'row')})" for note in noted)


def _suggest(table: Table, data: study.ManifestData) -> list[str]:
    """Return notes on columns that seem to name groups or splits, if the study names none, as lines."""
    others = {
        name: table.columns[dataset.nfc(name)]
        for name in table.names
        if dataset.nfc(name) in table.columns and dataset.nfc(name) not in wanted_columns(data)
    }
    groups = [] if data.group_column else listings.suggest_groups(others)
    return groups if data.split_column else groups + listings.suggest_splits(others)


def _other_splits(data: study.ManifestData) -> list[str]:
    """Return a note on tables beside this one that seem to be other splits of the same data, such as val.csv beside train.csv, as lines."""
    role, rest = folders.role_of(data.path.stem)
    if role is None or data.split_column is not None:
        return []
    found = []
    for path in sorted(data.path.parent.glob(f"*{data.path.suffix}")):
        other, words = folders.role_of(path.stem)
        if other not in (None, role) and words == rest and set(wanted_columns(data)) <= header_of(path, data):
            found.append(image_file.printable(path.name))
    if not found:
        return []
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    have = "has" if len(found) == 1 else "have"
    return [
        f"only {data.path.name} is read. {' and '.join(found[:2])}{more} beside it {have} the same columns; to use them as splits, "
        "join the tables with a column that names the split of each row, and set data.split_column"
    ]
