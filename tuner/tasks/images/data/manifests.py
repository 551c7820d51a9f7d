"""Manifests: tables of images and labels, read from CSV, Parquet or JSON Lines as people have them, as a listing.

A cell names an image by its path, by its file name or by its file name without ending; a Parquet table may also hold the images.
"""

import ast
import codecs
import contextlib
import csv
import filecmp
import io
import itertools
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from tuner import errors, wording
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind
from tuner.tasks.images.data import dataset, folder_files, folders, image_file, listings

_PARQUET, _JSON_LINES = folder_files.TABLES[2:4], folder_files.TABLES[4:]
#: what to do with a file of another kind, by the ending of its name
_OTHER_TABLES = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): "; save the sheet as CSV in UTF-8",
    (".json", ".xml"): "; write a table with a row for each image, its path and its class",
    (".txt", ".lst", ".list", ".dat"): "; write it as a .csv table: commas between the columns, and their names in the first line",
    (".feather", ".arrow", ".orc", ".pkl", ".pickle", ".h5", ".sqlite", ".db"): "; save the table as .parquet or .csv",
}
#: what a file is that is named like a table of text and is none, and what to do, by its first bytes
_NO_TEXT = {
    b"PK\x03\x04": ("an Excel sheet or a zip archive", "Save the sheet as CSV in UTF-8, or unpack the archive"),
    b"\xd0\xcf\x11\xe0": ("an Excel sheet", "Save the sheet as CSV in UTF-8"),
    b"\x1f\x8b": ("compressed by gzip", "Unpack it with gunzip"),
    b"PAR1": ("a Parquet table", "Rename it to end in .parquet"),
}
_SEPARATORS = (",", ";", "\t", "|")
#: byte order marks; that of UTF-32 starts like that of UTF-16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: encodings that programs for spreadsheets write when they do not write Unicode, the commonest first
_LEGACY = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "mac_roman")
#: maximum length of a class name, and of a path
_LONGEST_NAME, _LONGEST_PATH = 255, 1024
#: values of a column that says for one class whether an image belongs to it
_FLAGS = {"0", "1", "0.0", "1.0"}
#: quotes around a cell or a name that a program wrote beside, or in place of, those of CSV
_QUOTES = {"'": "'", '"': '"', "`": "`", "‘": "’", "‚": "‘", "“": "”", "„": "“", "«": "»", "»": "«"}
_FLAG_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
#: names of columns that a command in a message lists
_MOST_FLAGS = 10
_EXPECTED = f"expected a file that ends in {', '.join(folder_files.TABLES)}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of a table by name, each with one value a row."""

    #: all columns of the file
    names: tuple[str, ...]
    #: the columns that were read, by their names in NFC
    columns: Mapping[str, Sequence[Any]]
    #: line of each row in a text file; in other files the first row has number 2
    lines: Sequence[int]
    #: what a user should know about how the file was read
    remarks: tuple[str, ...] = ()


def list_manifest(data: study.ManifestData) -> listings.Listing:
    """List the images that a manifest names or holds; open only the manifest.

    Relative paths start at `root`, by default the folder of the manifest. A file that is not there is searched below `root` by its name.

    Raises:
        DataError: the manifest cannot be read, or lacks a column, an image or a label.
    """
    table = _read_table(data)
    _check_both(table, data)
    _values(table, data.image_column, field="image_column", origin=data.path)
    _check_one_hot(table, data)
    for field, name in _label_columns(data):
        _values(table, name, field=field, origin=data.path)
    table, left_out = _kept(table, data)
    cells = _values(table, data.image_column, field="image_column", origin=data.path)
    classes, labels = _LABELS[data.kind](table, data)
    if not cells:
        raise errors.DataError(f"{data.path} has no rows; expected one for each image")
    remarks = table.remarks
    images = _encoded(cells, table.lines, data)
    if images is None:
        names = _column(table, data.image_column, field="image_column", origin=data.path, longest=_LONGEST_PATH)
        images, found = _find(names, data)
        remarks += found
        _check_repeated(images, table, data)
    remarks += left_out
    groups = None if data.group_column is None else _column(table, data.group_column, field="group_column", origin=data.path)
    _check_present(groups or [], data.group_column or "", table, data)
    splits = None if data.split_column is None else _column(table, data.split_column, field="split_column", origin=data.path)
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
    given = _column(table, data.label_column, field="label_column", origin=data.path, longest=_LONGEST_NAME)
    _check_present(given, data.label_column, table, data)
    return dataset.name_classes(given, data.class_order, earlier=dataset.sort_earlier)


def _several_labels(table: Table, data: study.ManifestData) -> tuple[tuple[str, ...], Sequence[Any]]:
    """Return the classes, and for each row a 0 or 1 for each class."""
    if data.label_columns:
        columns = [_flags(table, name, data) for name in data.label_columns]
        return tuple(map(dataset.nfc, data.label_columns)), list(zip(*columns, strict=True))
    cells = _values(table, data.label_column, field="label_column", origin=data.path)
    texts = [_text(cell) for cell in cells]
    _check_present([text or "" for text in texts], data.label_column, table, data)
    separator = r"[,;|]" if any(re.search(r"[,;|]", text) for text in texts if text and not text.startswith("[")) else r"\s"
    named = [_names_in(cell, text, separator) for cell, text in zip(cells, texts, strict=True)]
    wrong = next((row for row, names in enumerate(named) if names is None or any(len(name) > _LONGEST_NAME for name in names)), None)
    if wrong is not None:
        raise errors.DataError(
            f"{data.path}: the column {data.label_column} has {wording.cut(str(cells[wrong]))} in line {table.lines[wrong]}; expected "
            f"names of classes of at most {_LONGEST_NAME} letters, with commas between them, or a list of names"
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
        named = [_text(name) for name in cell]
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
    found = [_FLAG_VALUES.get((_text(value) or "").casefold()) for value in _values(table, name, field="label_columns", origin=data.path)]
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
    for line, value in zip(table.lines, _values(table, data.label_column, field="label_column", origin=data.path), strict=True):
        text = _text(value)
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
    labels = [" ".join(_text(value) or "" for value in row) for row in zip(*columns, strict=True)] if columns else [""] * len(images)
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
            f"{data.path} has no column {data.image_column} and no column {own[1]}; its columns are {_list(table.names)}. "
            f"Set data.image_column and data.{_label_columns(data)[0][0]} to some of them"
        )


def _check_one_hot(table: Table, data: study.ManifestData) -> None:
    """Refuse a table that has a column for each class, with a 1 for the class of the image, by the way to change it."""
    if data.label_columns or dataset.nfc(data.label_column) in table.columns:
        return
    flags = [name for name in table.names if name and {_text(value) for value in table.columns.get(dataset.nfc(name), "")} <= _FLAGS]
    if len(flags) > 1:
        few = len(flags) <= _MOST_FLAGS
        columns = json.dumps(flags, ensure_ascii=False) if few else f"table.columns[{len(table.names) - len(flags)}:]"
        named = f"a column of 0 and 1 for each class: {_list(flags)}"
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
    labels = [_text(value) or "" for value in table.columns[dataset.nfc(data.label_column)]] if not data.label_columns else [""] * total
    paths = [_text(value) or "" for value in table.columns[dataset.nfc(data.image_column)]]
    rows = [row for row in range(total) if not any(map(ignored.matches, [labels[row], *_names(paths[row])]))]
    if not rows:
        raise errors.DataError(f"{data.path}: data.ignore leaves out all {total:,} rows; remove a pattern")
    columns = {name: [values[row] for row in rows] for name, values in table.columns.items()}
    kept = replace(table, columns=columns, lines=[table.lines[row] for row in rows])
    noted = ignored.note("class and no path")
    return kept, tuple(f"{note} ({dataset.count(total - len(rows), 'row')})" for note in noted)


def _names(path: str) -> Iterator[str]:
    """Yield a path, the names of its parts, and the folders above it, also as the path is meant."""
    for given in dict.fromkeys([path, _unquoted(path)]):
        place = PurePosixPath(_slashed(given))
        yield from (str(place), *place.parts, *map(str, place.parents[:-1]))


def _suggest(table: Table, data: study.ManifestData) -> list[str]:
    """Return notes on columns that seem to name groups or splits, if the study names none, as lines."""
    others = {
        name: table.columns[dataset.nfc(name)]
        for name in table.names
        if dataset.nfc(name) in table.columns and dataset.nfc(name) not in _wanted(data)
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
        if other not in (None, role) and words == rest and set(_wanted(data)) <= _header_of(path, data):
            found.append(image_file.printable(path.name))
    if not found:
        return []
    more = f" and {len(found) - 2} more" if len(found) > 2 else ""
    have = "has" if len(found) == 1 else "have"
    return [
        f"only {data.path.name} is read. {' and '.join(found[:2])}{more} beside it {have} the same columns; to use them as splits, "
        "join the tables with a column that names the split of each row, and set data.split_column"
    ]


def _header_of(path: Path, data: study.ManifestData) -> set[str]:
    """Return the names of the columns of a table in NFC; none if it cannot be read."""
    other = data.model_copy(update={"path": path})
    try:
        if path.suffix.lower() in _PARQUET:
            from pyarrow import parquet  # takes a fifth of a second, which other sources do not need

            return set(map(dataset.nfc, parquet.read_schema(path).names))
        if path.suffix.lower() in _JSON_LINES:
            return set(_read_json_lines(other).columns)
        text, _ = _decode(other)
        separator, start = _separator(text, _wanted(data))
        return {dataset.nfc(_bare(name)) for name in _header(text[start:], separator)}
    except (OSError, ValueError, errors.DataError):
        return set()


def _wanted(data: study.ManifestData) -> list[str]:
    """Return the names of the columns that a study reads, in NFC."""
    named = [value for field, value in data if field.endswith("_column") and value and not (field == "label_column" and data.label_columns)]
    return [dataset.nfc(name) for name in (*named, *data.label_columns)]


def _read_table(data: study.ManifestData) -> Table:
    path = data.path
    if not path.is_file():
        what = (
            "is a folder; expected a table. For one sub-folder for each class, use data.source: folder"
            if path.is_dir()
            else "does not exist; expected a table. Check data.path"
        )
        raise errors.DataError(f"{path} {what}")
    suffix = path.suffix.lower()
    if folder_files.is_archive(path):
        raise errors.DataError(f"{path} is an archive; unpack it with: {folder_files.unpack(str(path))}, and set data.path to the table")
    if suffix not in folder_files.TABLES:
        cure = next((text for endings, text in _OTHER_TABLES.items() if suffix in endings), "")
        raise errors.DataError(f"{path} is not a manifest; {_EXPECTED}{cure}")
    try:
        table = _read_parquet(data) if suffix in _PARQUET else _read_json_lines(data) if suffix in _JSON_LINES else _read_text(data)
        return table if data.class_order == "earlier" else _without_quotes(table, data)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow raises ValueError for damaged tables
        raise errors.DataError(f"{path} cannot be read as a table: {wording.cut(str(error), 200)}") from error


def _without_quotes(table: Table, data: study.ManifestData) -> Table:
    """Return a table in which classes, groups and splits have no quotes around them, if all of a column have; paths are left to `_find`."""
    columns, remarks = dict(table.columns), list(table.remarks)
    for name in dict.fromkeys(_wanted(data)):
        values = [value for value in columns.get(name, ()) if value not in (None, "")]
        if name != dataset.nfc(data.image_column) and values and all(isinstance(one, str) and _bare(one) != one.strip() for one in values):
            columns[name] = [_bare(value) if isinstance(value, str) else value for value in columns[name]]
            remarks.append(f"read without its quotes: the column {wording.cut(name)}, first {wording.cut(values[0])}")
    return replace(table, columns=columns, remarks=tuple(remarks))


def _bare(cell: str) -> str:
    """Return a cell without the quotes around it."""
    text = cell.strip()
    return text[1:-1].strip() if len(text) > 2 and _QUOTES.get(text[0]) == text[-1] else text


def _read_json_lines(data: study.ManifestData) -> Table:
    """Read a table with a JSON object for each row, as Hugging Face has them: metadata.jsonl."""
    text, remarks = _decode(data)
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON ({error}); expected an object in each line") from error
        if not isinstance(row, dict):
            raise ValueError(f'line {number} is not an object of JSON, such as {{"file_name": "a.png", "label": "cat"}}')
        rows.append(row)
        lines.append(number)
    if not rows:
        raise ValueError("the file is empty")
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    columns = {dataset.nfc(name): [row.get(name) for row in rows] for name in names}
    return Table(names=names, columns=columns, lines=lines, remarks=remarks)


def _read_text(data: study.ManifestData) -> Table:
    text, remarks = _decode(data)
    separator, start = _separator(text, _wanted(data))
    quote = "'" if all(re.fullmatch(r"\s*'.+'\s*", name) for name in _header(text[start:], separator)) else '"'
    rows = _rows(text[start:], separator, num_before=text.count("\n", 0, start), quote=quote)
    header = [_bare(name) for name in next(rows, (0, []))[1]]
    if not header:
        raise ValueError("No columns to parse: the file is empty")
    if not set(_wanted(data)) <= set(map(dataset.nfc, header)):
        _check_title(text, data)
    cells: list[list[str]] = []
    lines: list[int] = []
    for line, row in rows:
        if any(cell.strip() for cell in row[len(header) :]):
            raise errors.DataError(
                f"{data.path} has {len(row)} cells in line {line}, but names {len(header)} columns: {_list(header)}. "
                f"Put a cell that contains {separator!r} in double quotes, or name all columns"
            )
        cells.append([*row[: len(header)], *[""] * (len(header) - len(row))])
        lines.append(line)
    columns: dict[str, Sequence[str]] = {}
    for number, name in enumerate(header):
        column = [row[number] for row in cells]
        if columns.setdefault(dataset.nfc(name), column) != column and dataset.nfc(name) in _wanted(data):
            raise errors.DataError(f"{data.path} has two different columns {wording.cut(name)}; rename one of them")
    return Table(names=tuple(header), columns=columns, lines=lines, remarks=remarks)


def _rows(text: str, separator: str, *, num_before: int = 0, quote: str = '"') -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quotechar=quote, skipinitialspace=True, strict=True)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield num_before + line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{error}, in the row that starts in line {num_before + line}; check its quotes") from error


def _separator(text: str, wanted: Sequence[str]) -> tuple[str, int]:
    """Return the separator with which the first row has the columns of the study, and where that row starts."""
    named = re.match(r'"?sep=(.)"?[^\S\r\n]*\r?\n', text, re.IGNORECASE)  # for Excel
    if named:
        return named[1], named.end()
    headers = {separator: [dataset.nfc(_bare(name)) for name in _header(text, separator)] for separator in _SEPARATORS}
    fitting = [separator for separator, header in headers.items() if set(wanted) <= set(header)]
    return (fitting or sorted(_SEPARATORS, key=lambda separator: -len(headers[separator])))[0], 0


def _header(text: str, separator: str) -> list[str]:
    return next(_first_rows(text, separator), (0, []))[1]


def _first_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows at the start of a text, up to the first that cannot be read."""
    with contextlib.suppress(ValueError):
        yield from itertools.islice(_rows(text, separator), 20)


def _check_title(text: str, data: study.ManifestData) -> None:
    """Refuse a table with other lines, such as a title, above the names of its columns."""
    for separator in _SEPARATORS:
        for line, row in _first_rows(text, separator):
            if set(_wanted(data)) <= {dataset.nfc(name.strip()) for name in row}:
                raise errors.DataError(f"{data.path} names its columns in line {line}; remove the lines above it")


def _decode(data: study.ManifestData) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, and a remark if its encoding follows only from its words."""
    content = data.path.read_bytes()
    for start, (kind, cure) in _NO_TEXT.items():
        if content.startswith(start):
            raise errors.DataError(f"{data.path} is {kind}, whatever its name says; expected text. {cure}")
    if data.encoding is not None:
        try:
            return content.decode(data.encoding).removeprefix("\ufeff"), ()
        except UnicodeError as error:
            raise errors.DataError(f"{data.path} is not in {data.encoding} ({wording.cut(str(error))}); check data.encoding") from error
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None) or _unmarked(content)
    try:
        return content.decode(encoding).removeprefix("\ufeff"), ()
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise
        return _decode_legacy(content, data.path, at=error.start)


def _unmarked(content: bytes) -> str:
    """Return the encoding of a file without byte order mark: in UTF-16, every second byte of ASCII is zero."""
    even, odd = content[:200:2], content[1:200:2]
    if even.count(0) > len(even) / 2:
        return "utf-16-be"
    return "utf-16-le" if odd.count(0) > len(odd) / 2 else "utf-8"


def _decode_legacy(content: bytes, path: Path, *, at: int) -> tuple[str, tuple[str, ...]]:
    """Decode a file that is not Unicode, if only one reading of its words is plausible."""
    words = sorted(set(re.findall(rb"[A-Za-z]*[\x80-\xff][A-Za-z\x80-\xff]*", content)))
    readings: dict[tuple[str, ...], str] = {}
    for encoding in _LEGACY:
        try:
            texts = tuple(word.decode(encoding) for word in words)
        except UnicodeDecodeError:
            continue
        if all(map(_is_plausible, texts)):
            readings.setdefault(texts, encoding)
    if list(readings.values()) == ["cp1252"]:
        example = wording.cut(next(iter(readings))[0])
        return content.decode("cp1252"), (f"{path} is not in UTF-8; it is read as cp1252, for example {example}. See data.encoding",)
    line = content.count(b"\n", 0, at) + 1
    word = next((word for word in words if word in content[max(0, at - 100) : at + 100]), words[0])
    seen = dict.fromkeys(wording.cut(word.decode(encoding, errors="replace"), 20) for encoding in _LEGACY)
    raise errors.DataError(
        f"{path} cannot be read as a table: line {line} is not in utf-8, and its encoding is not clear; "
        f"a word of it may be {', '.join(itertools.islice(seen, 4))}. Save the table in UTF-8, or set data.encoding, for example to cp1252"
    )


def _is_plausible(word: str) -> bool:
    """Return whether a word looks like one of a language in Latin letters: single accented letters among plain ones."""
    others = [letter for letter in word if not letter.isascii()]
    are_letters = all(re.fullmatch("LATIN (SMALL|CAPITAL) LETTER ((?!HOOK).)*", unicodedata.name(letter, "")) for letter in others)
    is_mixed = any(one.islower() and other.isupper() for one, other in itertools.pairwise(word))
    return are_letters and not is_mixed and not re.search(r"[^\x00-\x7f]{2}", word)


def _read_parquet(data: study.ManifestData) -> Table:
    from pyarrow import parquet  # takes a fifth of a second, which other sources do not need

    paths = _parts(data)
    schema = parquet.read_schema(paths[0])
    kept = [field.name for field in schema if _is_short(field.type) or listings.GROUP_NAME.search(field.name)]
    chosen = {dataset.nfc(name): name for name in reversed(schema.names) if dataset.nfc(name) in _wanted(data) or name in kept}
    columns: dict[str, list[Any]] = {spelled: [] for spelled in chosen}
    for path in paths:
        found = parquet.read_table(path, columns=list(chosen.values()), partitioning=None)
        for spelled, name in chosen.items():
            columns[spelled] += found.column(found.schema.names.index(name)).to_pylist()
    for spelled, name in chosen.items():
        classes = [] if data.class_order == "earlier" else _class_names(schema.metadata or {}, name)
        if classes:  # a label without a name, such as -1, is missing
            known = dict(enumerate(classes))
            columns[spelled] = [known.get(value) for value in columns[spelled]]
    remarks = (f"{data.path} is read together with the other parts of the table, {len(paths)} in all",) if len(paths) > 1 else ()
    num_rows = max(map(len, columns.values()), default=0)
    return Table(names=tuple(schema.names), columns=columns, lines=range(2, num_rows + 2), remarks=remarks)


def _is_short(kind: Any) -> bool:
    """Return whether the values of a column of Parquet are words, which may name splits."""
    from pyarrow import types

    return bool(types.is_dictionary(kind) or types.is_string(kind) or types.is_large_string(kind))


def _parts(data: study.ManifestData) -> list[Path]:
    """Return the files of a table that is stored in parts, such as train-00000-of-00002.parquet.

    Raises:
        DataError: some parts are missing.
    """
    path, named = data.path, re.fullmatch(r"(.*-)([0-9]+)(-of-([0-9]{1,6}))", data.path.stem)
    if named is None or data.class_order == "earlier":
        return [path]
    numbers = range(1, int(named[4]) + 1) if int(named[2]) == int(named[4]) else range(int(named[4]))
    parts = [path.with_name(f"{named[1]}{number:0{len(named[2])}}{named[3]}{path.suffix}") for number in numbers]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise errors.DataError(
            f"{path} is one of {len(parts)} parts of a table, but {missing[0]}{more} is not in its folder. "
            "Add the missing parts, or rename the file to use it alone"
        )
    return parts


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> list[str]:
    """Return the class names of a column of integers that Hugging Face stores beside a table; [] if there are none."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        return [str(names[key]) for key in sorted(names, key=int)] if isinstance(names, dict) else [str(name) for name in names]
    except (KeyError, ValueError, TypeError):
        return []


def _values(table: Table, name: str, *, field: str, origin: Path) -> Sequence[Any]:
    """Return the values of a column.

    Raises:
        DataError: there is no such column.
    """
    values = table.columns.get(dataset.nfc(name))
    if values is None:
        cure = f"Set data.{field} to one of them"
        if any(Path(column).suffix.lower() in image_file.SUFFIXES for column in table.names):
            cure = "If this is an image already, add a first line with the names of the columns"
        if len(table.names) == 1 and " " in table.names[0]:
            cure = "This seems to be one column: put commas, semicolons, tabs or bars between the columns"
        raise errors.DataError(f"{origin} has no column {name}; its columns are {_list(table.names)}. {cure}")
    return values


def _column(table: Table, name: str, *, field: str, origin: Path, longest: int = _LONGEST_PATH) -> list[str]:
    """Return the values of a column as texts that are not empty.

    Raises:
        DataError: there is no such column, a value is missing, too long or not a text or number.
    """
    values = [_text(value) for value in _values(table, name, field=field, origin=origin)]
    wrong = next((row for row, value in enumerate(values) if value is None or len(value) > longest), None)
    if wrong is not None:
        value = values[wrong]
        what = "lists, images or other bytes" if value is None else f"{len(value):,} characters ({wording.cut(value)})"
        cure = f"Set data.{field} to another column; the columns are {_list(table.names)}"
        if field == "image_column" and value is not None and _AS_TEXT.match(value):
            cure = _DECODE
        raise errors.DataError(
            f"{origin}: the column {name} has {what} in line {table.lines[wrong]}; expected text of at most {longest:,} characters. {cure}"
        )
    empty = [row for row, value in enumerate(values) if not value]
    if empty:
        where = f"{dataset.count(len(empty), 'row')}, first in line {table.lines[empty[0]]}"
        raise errors.DataError(f"{origin}: the column {name} is empty in {where}; fill it in, or remove the rows")
    return [value or "" for value in values]


def _text(value: Any) -> str | None:
    """Return a value as text, "" if it is missing, or None if it is not a text or number."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        value = value["path"] or ""
    if isinstance(value, bytes):
        value = _as_path(value)
    return None if value is None or isinstance(value, dict | list) else str(value).strip()


def _as_path(content: bytes) -> str | None:
    """Return bytes as text, or None if they are something else, such as an image."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


def _encoded(values: Sequence[Any], lines: Sequence[int], data: study.ManifestData) -> list[image_file.Source] | None:
    """Return the images that a column holds as the bytes of image files, or None if it has paths.

    Raises:
        DataError: only a part of the rows holds an image.
    """
    found: list[image_file.Source] = []
    for line, value in zip(lines, values, strict=True):
        inner = value if isinstance(value, dict) else {"bytes": value}
        content, path = inner.get("bytes"), inner.get("path")
        if isinstance(content, bytes) and (isinstance(value, dict) or _as_path(content) is None):
            name = f"{data.path}, row {line - 1}" + (f" ({wording.cut(path)})" if isinstance(path, str) and path else "")
            found.append(image_file.Encoded(name=name, content=content))
    if found and len(found) < len(values):
        raise errors.DataError(
            f"{data.path}: the column {data.image_column} holds images in only {len(found)} of {dataset.count(len(values), 'row')}; "
            "expected an image in each row. Remove the other rows"
        )
    return found or None


def _find(cells: Sequence[str], data: study.ManifestData) -> tuple[list[image_file.Source], tuple[str, ...]]:
    """Return the path of each image, and a remark if some were found by their names.

    Raises:
        DataError: a name stands for several images, or more than 1 % of the images do not exist.
    """
    root = data.root or data.path.parent
    if not root.is_dir():
        raise errors.DataError(f"{root} is not a folder; check data.root, which the paths in {data.path} start from")
    paths: list[image_file.Source] = [str(root / cell) for cell in cells]
    missing = [row for row, path in enumerate(paths) if not os.path.lexists(str(path))]
    if not missing or data.class_order == "earlier":
        return paths, ()
    missing, decoded = _decode_paths(cells, missing, root, paths)
    if not missing:
        return paths, decoded
    places = _Places(root)
    found = {row: places.of(cells[row]) or places.of(_unquoted(cells[row])) for row in missing}
    for row, several in found.items():
        if len(several) > 1 and not _are_equal(root, several):
            raise _ambiguous(cells[row], several, data)
    left = [cells[row] for row in missing if not found[row]]
    if len(left) > listings.MAX_UNREADABLE * len(cells):
        raise _missing(left, len(cells), root, places, data)
    remarks = []
    for row in missing:
        if not found[row]:  # it is left out, and its cell is in a message
            paths[row] = str(root / wording.cut(cells[row]))
            continue
        paths[row] = str(root / found[row][0])
        if dataset.nfc(cells[row]) != dataset.nfc(found[row][0]):  # forms of Unicode look alike, and are no news
            remarks.append(f"first {wording.cut(cells[row])}, which is {image_file.printable(found[row][0])}")
    by_name = [f"found below {root} by name: {dataset.count(len(remarks), 'image')}, {first}" for first in remarks[:1]]
    return paths, (*decoded, *by_name)


def _decode_paths(
    cells: Sequence[str], missing: Sequence[int], root: Path, paths: list[image_file.Source]
) -> tuple[list[int], tuple[str, ...]]:
    """Put files that cells name in another notation into the paths; return the rows still missing, and a remark.

    Other notations: a `file://` address, `%20` for a space, quotes, and a list with one path in it.
    """
    left, changed = [], []
    for row in missing:
        path = root / _unquoted(cells[row])
        if os.path.lexists(path):
            paths[row] = str(path)
            changed.append(row)
        else:
            left.append(row)
    shown = [f"{wording.cut(cells[row])}, which is {image_file.printable(str(paths[row]))}" for row in changed[:1]]
    return left, tuple(f"read in another notation: {dataset.count(len(changed), 'path')}, first {first}" for first in shown)


def _unquoted(cell: str) -> str:
    """Return the path that a cell means, without quotes, brackets, escapes and the start of an address: `file:///a%20b` is `/a b`."""
    inner = re.fullmatch(r"""[\[(]\s*(["'])([^"']*)\1\s*,?\s*[\])]|(["'])([^"']+)\3""", cell)
    text = (inner[2] or inner[4] or "") if inner else cell
    address = re.fullmatch(r"file:(?://(?:localhost)?(?=/))?(.*)|(?:https?://[^/]*)?/data/local-files/\?d=(.*)", text, re.IGNORECASE)
    path = unquote((address[1] or address[2] or "") if address else text)
    return str(Path(path).expanduser()) if path.startswith("~/") else path


class _Places:
    """The image files below a folder, by their names, alone and with the folder above: frames of many videos have the same names."""

    def __init__(self, root: Path) -> None:
        self._by_name: dict[str, list[str]] = {}
        for path in sorted(folder_files.image_files(str(root))[0]):
            place = os.path.relpath(path, root)
            name, stem = _last(place), _last(_without_ending(place))
            for key in {dataset.nfc(name).casefold(), dataset.nfc(stem).casefold(), _as_number(stem)}:
                for start in {"", _above(place)}:
                    self._by_name.setdefault(start + key, []).append(place)

    def of(self, cell: str) -> list[str]:
        """Return the files that a cell may mean, relative to the folder: the whole path, or else its end; with or without ending."""
        given = _slashed(cell)
        above, name = _above(given), _last(given)
        candidates = self._by_name.get(above + name.casefold()) or self._by_name.get(above + _as_number(name), [])
        for start, spell, end in itertools.product(("", "/"), _SPELLINGS, _ENDINGS):
            wanted = start + spell(given)
            names = {place: start + spell(dataset.nfc(end(place))) for place in candidates}
            found = [place for place, name in names.items() if (name.endswith(wanted) if start else name == wanted)]
            if found:
                return found
        return []

    def similar(self, cell: str) -> str | None:
        """Return a file that has the name at the end of a path, perhaps with another ending, or None."""
        name = _last(_slashed(cell))
        return next(iter(self.of(name) or self.of(name.rpartition(".")[0])), None)


def _slashed(cell: str) -> str:
    """Return a path in NFC with the separators of this system."""
    return str(PurePosixPath(dataset.nfc(cell).replace("\\", "/")))


def _above(path: str) -> str:
    """Return the folder above a file with a slash, whatever its case; "" for a file without one."""
    folder = _last(path.rpartition("/")[0])
    return f"{dataset.nfc(folder).casefold()}/" if folder else ""


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _without_ending(name: str) -> str:
    ending = Path(name).suffix
    return name.removesuffix(ending) if ending.lower() in image_file.SUFFIXES else name


def _as_number(path: str) -> str:
    """Return a path whose name is a number as spreadsheets rewrite it: `part_1/0027` and `part_1/27.0` become `part_1/27`."""
    return re.sub("(^|/)0*([0-9]+)([.]0+)?$", r"\1\2", path)


#: how a cell may name a file, the closest way first
_SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.casefold, _as_number)
_ENDINGS: tuple[Callable[[str], str], ...] = (str, _without_ending)


def _are_equal(root: Path, places: Sequence[str]) -> bool:
    """Return whether files have the same content; a file that cannot be read, such as a broken link, differs from every other."""
    try:
        return all(filecmp.cmp(root / places[0], root / place, shallow=False) for place in places[1:])
    except OSError:
        return False


def _ambiguous(cell: str, found: Sequence[str], data: study.ManifestData) -> errors.DataError:
    root = data.root or data.path.parent
    shown = ", ".join(image_file.printable(place) for place in found[:3]) + (", …" if len(found) > 3 else "")
    return errors.DataError(
        f"{data.path}: {wording.cut(cell)} is the name of {len(found)} different images below {root}: {shown}. "
        "Set data.root to the folder of the right ones, or write their paths into the table"
    )


def _missing(cells: Sequence[str], total: int, root: Path, places: _Places, data: study.ManifestData) -> errors.DataError:
    cure = f"Set data.root to the folder that the paths start from (now {root}), or data.image_column to the column of the paths"
    similar = places.similar(_unquoted(cells[0]))
    there = f"There is {image_file.printable(similar)} below {root}" if similar is not None else ""
    if (number := _num_images(cells[0], root, places)) > 1:
        cure = f"It names {number} images, but tuner learns one image for each row: write a row for each, with the label, and set {_GROUP}"
    elif _AS_TEXT.match(cells[0]):
        cure = _DECODE
    elif re.match(r"(?!file:)[a-z0-9]+://", cells[0], re.IGNORECASE):
        cure = f"It is a web address: download the images, and name their files{'. ' if there else ''}{there}"
    elif similar is not None and _has_other_ending(_unquoted(cells[0]), similar):
        cure = f"{there}: correct the endings in the table"
    elif there and _is_whole(cells[0]):
        cure = f"It is a path of another machine. {there}: write the paths relative to data.root into the table"
    elif there:
        cure = f"{there}: set data.root so that the paths start from it, or correct the paths"
    what = f"{len(cells):,} of {dataset.count(total, 'image')} cannot be found, first {wording.cut(cells[0])}"
    return errors.DataError(f"{data.path}: {what}: there is no such file. {cure}")


#: how an image starts that is written as text: a JPEG, PNG, GIF, WebP or TIFF in base64, or bytes as Python shows them
_AS_TEXT = re.compile(r"data:image/|/9j/|iVBORw0KG|R0lGOD|UklGR|SUkqA|TU0AK|b['\"]\\x")
_DECODE = (
    "It seems to be an image written as text: decode the images, for example with base64.b64decode, and write them to files, or as bytes "
    "into a .parquet table"
)
_GROUP = "data.group_column to a column that says which rows belong together"


def _num_images(cell: str, root: Path, places: _Places) -> int:
    """Return the number of images that a cell lists, such as `a.png;b.png` or `['a.png', 'b.png']`; 0 if one of them is not there."""
    for separator in ";|,\n":
        parts = [_unquoted(part.strip("[]()\"' ")) for part in cell.split(separator)]
        if len(parts) > 1 and all(part and ((root / part).is_file() or places.of(part)) for part in parts):
            return len(parts)
    return 0


def _has_other_ending(cell: str, place: str) -> bool:
    """Return whether a cell and a file have the same name with different endings: `a.jpg` and `a.png`."""
    name, found = Path(_last(_slashed(cell))), Path(_last(place))
    return name.stem == found.stem and name.suffix != "" and name.suffix != found.suffix


def _is_whole(cell: str) -> bool:
    """Return whether a path starts at the root of a disk, of this system or of Windows."""
    return cell.startswith(("/", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", cell) is not None


def _list(names: Sequence[str]) -> str:
    return wording.cut(", ".join(wording.cut(name, 40) for name in names[:20] if name) + (", …" if len(names) > 20 else ""), 400)
