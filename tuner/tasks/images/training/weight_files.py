"""Weight files: pretrained weights that ship inside packages, read into NumPy without running code from a pickle."""

import collections
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tuner import errors
from tuner.trust import pickles

_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {"FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"), "LongStorage": np.dtype("<i8")}
#: exceptions that damaged pickles raise
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, ImportError, MemoryError,
    struct.error,
)  # fmt: skip


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Read the state dict of a file in torch's old stream format (older than its zip files), without torch.

    The file has four pickles (magic number, protocol, system, tensors by name), a pickled list of storage keys, and then each storage as
    an 8-byte count and its raw little-endian numbers.

    Raises:
        DataError: the file has another format, or refers to anything except tensors.
    """
    with path.open("rb") as file:
        try:
            if _TorchUnpickler(file).load() != _MAGIC:
                raise pickle.UnpicklingError("the magic number is missing")
            _TorchUnpickler(file).load(), _TorchUnpickler(file).load()
            tensors: Mapping[str, _Tensor] = _TorchUnpickler(file).load()
            dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
            storages = {key: _read_storage(file, dtypes[key]) for key in _TorchUnpickler(file).load()}
            return {name: tensor.cut(storages[tensor.key]) for name, tensor in tensors.items()}
        except _DAMAGE as error:
            raise errors.DataError(f"{path} is not a weights file in torch's stream format: {error}. Install its package again") from error


def read_numpy_pickle(path: Path) -> Any:
    """Read a pickle of plain containers and NumPy arrays.

    Raises:
        DataError: the file is not a pickle, or refers to anything except arrays.
    """
    with path.open("rb") as file:
        try:
            return pickles.ArrayUnpickler(file).load()
        except _DAMAGE as error:
            raise errors.DataError(f"{path} is not a pickle of NumPy arrays: {error}. Install its package again") from error


class _Tensor:
    """A view of a storage that has not been read yet."""

    def __init__(self, storage: tuple[str, np.dtype[Any], str], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        _, self.dtype, self.key = storage
        self.offset, self.shape, self.strides = offset, shape, strides

    def cut(self, storage: np.ndarray) -> np.ndarray:
        reach = self.offset + sum((length - 1) * step for length, step in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or reach >= len(storage):
            raise ValueError(f"a tensor of shape {self.shape} exceeds its storage of {len(storage)} numbers")
        strides = tuple(step * storage.itemsize for step in self.strides)
        return np.array(np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides))


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> np.ndarray:
    (count,) = struct.unpack("<q", file.read(8))
    return np.frombuffer(file.read(count * dtype.itemsize), dtype=dtype, count=count)


class _TorchUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype[Any], str]:
        kind, dtype, key, _location, _count, _view = pid
        return kind, dtype, key


def _rebuild_tensor(storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)
