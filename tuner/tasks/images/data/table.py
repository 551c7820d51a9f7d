"""Manifests: CSV or Parquet tables of image paths and labels, read as listings of files."""

from pathlib import Path
from typing import TYPE_CHECKING

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, folder

if TYPE_CHECKING:
    import pandas as pd

_READERS = (".csv", ".tsv", ".parquet", ".pq")


def find(data: study.ManifestData) -> folder.Listing:
    """List the image files that a manifest names; open only the manifest.

    Relative paths start at `root`, by default the folder of the manifest. Labels are strings, sorted as numbers if all are numbers.

    Raises:
        DataError: the manifest cannot be read, or lacks a column, a path or a label.
    """
    table = _read(data.path)
    paths = _column(table, data.image_column, field="image_column", origin=data.path)
    labels = _column(table, data.label_column, field="label_column", origin=data.path)
    if not paths:
        raise errors.DataError(f"{data.path} has no rows; expected one for each image")
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
    """Sort class names as numbers if all are integers, otherwise alphabetically."""
    return sorted(names, key=lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else sorted(names)


def _read(path: Path) -> "pd.DataFrame":
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
