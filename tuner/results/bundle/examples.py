"""Examples: arrays to predict with a bundle of a user model, read from .npz, .npy and .csv files."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner import wording
from tuner.errors import RequestError
from tuner.protocol.errands import ModelInput

SUFFIXES = (".npz", ".npy", ".csv")
Array = NDArray[np.generic]


def read(path: Path, inputs: Sequence[ModelInput]) -> dict[str, Array]:
    """Return an array for each input of a model, with the examples along the first axis.

    Raises:
        RequestError: the file cannot be read, or has no array, or one of another shape, for an input.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{path} ends in {path.suffix or 'no suffix'}; expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        found = _read_csv(path, inputs) if path.suffix.lower() == ".csv" else _read_numpy(path, inputs)
    except (OSError, ValueError, EOFError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise RequestError(f"{path} cannot be read: {reason}") from error
    fitted = {given.name: _fitted(found[given.name], given, path) for given in inputs}
    lengths = {name: len(array) for name, array in fitted.items()}
    if len(set(lengths.values())) > 1:
        words = wording.listed(f"{name} {length:,}" for name, length in lengths.items())
        raise RequestError(f"{path} has arrays with different numbers of examples: {words}; expected as many for each input")
    if not next(iter(lengths.values())):
        raise RequestError(f"{path} has no examples")
    return fitted


def _read_numpy(path: Path, inputs: Sequence[ModelInput]) -> dict[str, Array]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        if len(inputs) > 1:
            several = wording.listed(given.name for given in inputs)
            raise RequestError(f"{path} has one array, but the model has the inputs {several}; expected an .npz file with one for each")
        return {inputs[0].name: loaded}
    with loaded as arrays:
        names = list(arrays)
        if len(inputs) == 1:
            (given,) = inputs
            known = [name for name in (given.name, "x") if name in names] or (names if len(names) == 1 else [])
            if not known:
                raise RequestError(f"{path} has the arrays {wording.listed(names) or '(none)'}; expected {_expected(given)}, or x")
            return {given.name: arrays[known[0]]}
        missing = [given for given in inputs if given.name not in names]
        if missing:
            raise RequestError(f"{path} has no array {missing[0].name}; it has {wording.listed(names)}. Expected {_expected(*inputs)}")
        return {given.name: arrays[given.name] for given in inputs}


def _read_csv(path: Path, inputs: Sequence[ModelInput]) -> dict[str, Array]:
    """Read columns of numbers: those of the one input in their order, or one column for each of several inputs, by its name."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [(line, row) for line, row in enumerate(csv.reader(file), start=1) if any(cell.strip() for cell in row)]
    header = [cell.strip() for cell in rows[0][1]] if rows and not all(map(_is_number, rows[0][1])) else None
    if header is not None:
        rows = rows[1:]
    if not rows:
        raise RequestError(f"{path} has no examples")
    table = np.array([_numbers(row, line, rows[0][1], path) for line, row in rows], np.float64)
    if len(inputs) == 1:
        (given,) = inputs
        if any(size is None for size in given.shape) and len(given.shape) > 1:
            raise RequestError(f"{path} has rows of numbers, but the model expects {_expected(given)}; give it as an .npz file")
        return {given.name: _unflattened(table, given, path)}
    flat = [given for given in inputs if given.shape not in ((), (1,))]
    if flat or header is None:
        why = f"{flat[0].name} is not one number" if flat else "it has no header with their names"
        raise RequestError(
            f"{path}: the model has {wording.count(len(inputs), 'input')}, and {why}; give an .npz file with {_expected(*inputs)}"
        )
    missing = [given.name for given in inputs if given.name not in header]
    if missing:
        raise RequestError(f"{path} has no column {missing[0]}; it has {wording.listed(header)}")
    return {given.name: table[:, header.index(given.name)] for given in inputs}


def _unflattened(table: Array, given: ModelInput, path: Path) -> Array:
    """Return rows of numbers as examples of an input."""
    width = 1
    for size in given.shape:
        width *= size or table.shape[1]
    if len(table) and table.shape[1] != width:
        raise RequestError(
            f"{path} has {wording.count(table.shape[1], 'column')}; expected {width}: {_expected(given)}, and no other columns"
        )
    return table.reshape(len(table), *(table.shape[1] if size is None else size for size in given.shape))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(row: Sequence[str], line: int, first: Sequence[str], path: Path) -> list[float]:
    if len(row) != len(first):
        raise RequestError(f"{path}, line {line}, has {wording.count(len(row), 'column')}; expected {len(first)}, as the first line has")
    odd = [cell for cell in row if not _is_number(cell)]
    if odd:
        raise RequestError(f"{path}, line {line}, has {wording.show(odd[0])}; expected a number")
    return [float(cell) for cell in row]


def _fitted(array: Array, given: ModelInput, path: Path) -> Array:
    """Return an array in the shape and the type of an input."""
    if array.ndim == 1 and given.shape == (1,):
        array = array[:, None]
    fits = array.ndim == len(given.shape) + 1 and all(
        size is None or size == other for size, other in zip(given.shape, array.shape[1:], strict=True)
    )
    if not fits:
        raise RequestError(f"{path} has {_shape(array)} for the input {given.name}; expected (examples, …) with {_expected(given)}")
    if given.dtype == "string":
        return array.astype(str)
    if array.dtype.kind not in "fiub":
        raise RequestError(f"{path} has {array.dtype} for the input {given.name}; expected numbers")
    return array.astype(given.dtype)


def _shape(array: Array) -> str:
    return f"an array {tuple(array.shape)}"


def _expected(*inputs: ModelInput) -> str:
    return wording.listed(f"{given.name} {_dimensions(given)}" for given in inputs)


def _dimensions(given: ModelInput) -> str:
    if not given.shape:
        return "of one number for each example"
    return f"of {' x '.join('any' if size is None else f'{size:,}' for size in given.shape)} for each example"
