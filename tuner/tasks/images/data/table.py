"""A CSV or Parquet table of image paths and labels into a listing of files."""

from pathlib import Path
from typing import TYPE_CHECKING

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, folder

if TYPE_CHECKING:
    import pandas as pd

_READERS = (".csv", ".tsv", ".parquet", ".pq")


def find(data: study.ManifestData) -> folder.Listing:
    """The image files that a manifest names; only the manifest is opened.

    Relative paths start at `root`, or at the manifest's own folder. Labels are taken as words, in the order of numbers if all are numbers.

    Raises:
        DataError: the manifest cannot be read, or lacks a column, a path or a label.
    """
    table = _read(data.path)
    paths = _column(table, data.image_column, field="image_column", origin=data.path)
    labels = _column(table, data.label_column, field="label_column", origin=data.path)
    if not paths:
        raise errors.DataError(f"{data.path}: the table has no rows; expected one for each image")
    root = data.root or data.path.parent
    _check_root(data, root)
    classes = sort_names(set(labels))
    numbers = {name: label for label, name in enumerate(classes)}
    return folder.Listing(
        origin=data.path,
        classes=tuple(classes),
        paths=tuple(str(root / path) for path in paths),
        labels=tuple(numbers[label] for label in labels),
    )


def sort_names(names: set[str]) -> list[str]:
    """Class names in the order of numbers if all are whole numbers, else of the alphabet."""
    return sorted(names, key=lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else sorted(names)


def _read(path: Path) -> "pd.DataFrame":
    if not path.is_file():
        what = (
            "this is a folder; for one sub-folder a class use data.source: folder"
            if path.is_dir()
            else "there is no such file; check data.path"
        )
        raise errors.DataError(f"{path}: {what}")
    if path.suffix.lower() not in _READERS:
        raise errors.DataError(f"{path}: a manifest ends in {', '.join(_READERS)}")
    import pandas as pd  # takes half a second, which other sources need not wait for

    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            separator = "\t" if path.suffix.lower() == ".tsv" else ","
            return pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, skipinitialspace=True)
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # what pandas and pyarrow raise for damaged tables are ValueErrors
        raise errors.DataError(f"{path}: the table cannot be read: {' '.join(str(error).split())}") from error


def _column(table: "pd.DataFrame", name: str, *, field: str, origin: Path) -> list[str]:
    if name not in table.columns:
        there = ", ".join(str(column) for column in table.columns)
        raise errors.DataError(f"{origin}: there is no column {name}; the columns are {there}. Name the right one in data.{field}")
    values = ["" if is_missing else str(value).strip() for value, is_missing in zip(table[name].tolist(), table[name].isna(), strict=True)]
    empty = [row for row, value in enumerate(values) if not value]
    if empty:
        # the first line of a CSV file holds the names of the columns
        raise errors.DataError(
            f"{origin}: {name} is empty in {dataset.count(len(empty), 'row')}, first in line {empty[0] + 2}; fill it in or remove the rows"
        )
    return values


def _check_root(data: study.ManifestData, root: Path) -> None:
    if not root.is_dir():
        raise errors.DataError(f"{root}: there is no such folder; check data.root, where the paths of {data.path} start")
