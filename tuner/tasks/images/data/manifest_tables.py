"""Tables of manifests: reads columns from CSV, Parquet or JSON Lines as people have them, with any separator and encoding."""

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner import errors, wording
from tuner.spec import study
from tuner.tasks.images.data import dataset, folder_files, image_file, listings

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
LONGEST_NAME, LONGEST_PATH = 255, 1024
#: quotes around a cell or a name that a program wrote beside, or in place of, those of CSV
_QUOTES = {"'": "'", '"': '"', "`": "`", "‘": "’", "‚": "‘", "“": "”", "„": "“", "«": "»", "»": "«"}
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


def header_of(path: Path, data: study.ManifestData) -> set[str]:
    """Return the names of the columns of a table in NFC; none if it cannot be read."""
    other = data.model_copy(update={"path": path})
    try:
        if path.suffix.lower() in _PARQUET:
            from pyarrow import parquet  # takes a fifth of a second, which other sources do not need

            return set(map(dataset.nfc, parquet.read_schema(path).names))
        if path.suffix.lower() in _JSON_LINES:
            return set(_read_json_lines(other).columns)
        text, _ = _decode(other)
        separator, start = _separator(text, wanted_columns(data))
        return {dataset.nfc(_bare(name)) for name in _header(text[start:], separator)}
    except (OSError, ValueError, errors.DataError):
        return set()


def wanted_columns(data: study.ManifestData) -> list[str]:
    """Return the names of the columns that a study reads, in NFC."""
    named = [value for field, value in data if field.endswith("_column") and value and not (field == "label_column" and data.label_columns)]
    return [dataset.nfc(name) for name in (*named, *data.label_columns)]


def read(data: study.ManifestData) -> Table:
    """Return a manifest as a table.

    Raises:
        DataError: it is no table, or cannot be read.
    """
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
    """Return a table whose classes, groups and splits have no quotes around them, if all of a column have; paths keep theirs here."""
    columns, remarks = dict(table.columns), list(table.remarks)
    for name in dict.fromkeys(wanted_columns(data)):
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
    separator, start = _separator(text, wanted_columns(data))
    quote = "'" if all(re.fullmatch(r"\s*'.+'\s*", name) for name in _header(text[start:], separator)) else '"'
    rows = _rows(text[start:], separator, num_before=text.count("\n", 0, start), quote=quote)
    header = [_bare(name) for name in next(rows, (0, []))[1]]
    if not header:
        raise ValueError("No columns to parse: the file is empty")
    if not set(wanted_columns(data)) <= set(map(dataset.nfc, header)):
        _check_title(text, data)
    cells: list[list[str]] = []
    lines: list[int] = []
    for line, row in rows:
        if any(cell.strip() for cell in row[len(header) :]):
            raise errors.DataError(
                f"{data.path} has {len(row)} cells in line {line}, but names {len(header)} columns: {listed(header)}. "
                f"Put a cell that contains {separator!r} in double quotes, or name all columns"
            )
        cells.append([*row[: len(header)], *[""] * (len(header) - len(row))])
        lines.append(line)
    columns: dict[str, Sequence[str]] = {}
    for number, name in enumerate(header):
        column = [row[number] for row in cells]
        if columns.setdefault(dataset.nfc(name), column) != column and dataset.nfc(name) in wanted_columns(data):
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
            if set(wanted_columns(data)) <= {dataset.nfc(name.strip()) for name in row}:
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
    chosen = {dataset.nfc(name): name for name in reversed(schema.names) if dataset.nfc(name) in wanted_columns(data) or name in kept}
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


def values_of(table: Table, name: str, *, field: str, origin: Path) -> Sequence[Any]:
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
        raise errors.DataError(f"{origin} has no column {name}; its columns are {listed(table.names)}. {cure}")
    return values


def column_of(table: Table, name: str, *, field: str, origin: Path, longest: int = LONGEST_PATH) -> list[str]:
    """Return the values of a column as texts that are not empty.

    Raises:
        DataError: there is no such column, a value is missing, too long or not a text or number.
    """
    values = [text_of(value) for value in values_of(table, name, field=field, origin=origin)]
    wrong = next((row for row, value in enumerate(values) if value is None or len(value) > longest), None)
    if wrong is not None:
        value = values[wrong]
        what = "lists, images or other bytes" if value is None else f"{len(value):,} characters ({wording.cut(value)})"
        cure = f"Set data.{field} to another column; the columns are {listed(table.names)}"
        if field == "image_column" and value is not None and AS_TEXT.match(value):
            cure = DECODE
        raise errors.DataError(
            f"{origin}: the column {name} has {what} in line {table.lines[wrong]}; expected text of at most {longest:,} characters. {cure}"
        )
    empty = [row for row, value in enumerate(values) if not value]
    if empty:
        where = f"{dataset.count(len(empty), 'row')}, first in line {table.lines[empty[0]]}"
        raise errors.DataError(f"{origin}: the column {name} is empty in {where}; fill it in, or remove the rows")
    return [value or "" for value in values]


def text_of(value: Any) -> str | None:
    """Return a value as text, "" if it is missing, or None if it is not a text or number."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        value = value["path"] or ""
    if isinstance(value, bytes):
        value = as_path(value)
    return None if value is None or isinstance(value, dict | list) else str(value).strip()


def as_path(content: bytes) -> str | None:
    """Return bytes as text, or None if they are something else, such as an image."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None


#: how an image starts that is written as text: a JPEG, PNG, GIF, WebP or TIFF in base64, or bytes as Python shows them
AS_TEXT = re.compile(r"data:image/|/9j/|iVBORw0KG|R0lGOD|UklGR|SUkqA|TU0AK|b['\"]\\x")
DECODE = (
    "It seems to be an image written as text: decode the images, for example with base64.b64decode, and write them to files, or as bytes "
    "into a .parquet table"
)


def listed(names: Sequence[str]) -> str:
    """Return names of columns as text for a message, at most the first few."""
    return wording.cut(", ".join(wording.cut(name, 40) for name in names[:20] if name) + (", …" if len(names) > 20 else ""), 400)
