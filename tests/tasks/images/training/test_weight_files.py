"""Weight files: only tensors are read, and no code runs."""

import collections
import contextlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner import errors
from tuner.tasks.images.training import inverted_residuals, weight_files

VALUES = np.arange(12, dtype=np.float32)


class Harmful:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {self.victim}",))


class Tensor:
    """The form in which torch writes a tensor."""

    def __init__(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.arguments: tuple[Any, ...] = (offset, shape, strides, False, collections.OrderedDict())


class Storage:
    pass


#: the pickler in Python, which may be taught other types
_Pickler: Any = pickle._Pickler


class TorchPickler(_Pickler):  # type: ignore[misc]
    """Writes the old stream format with names of torch, without torch."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", Storage, "0", "cpu", len(VALUES), None) if value is VALUES else None

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj is Storage:
            self.write(b"ctorch\nFloatStorage\n")
        elif obj is Tensor:
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
        else:
            super().save_global(obj, name)

    def save_tensor(self, tensor: Tensor) -> None:
        self.save_reduce(Tensor, (VALUES, *tensor.arguments), obj=tensor)

    dispatch = _Pickler.dispatch | {Tensor: save_tensor, type: save_global}


def torch_file(path: Path, tensors: dict[str, Any]) -> Path:
    with path.open("wb") as file:
        for part in (weight_files._MAGIC, 1001, {"little_endian": True}, collections.OrderedDict(tensors), ["0"]):
            TorchPickler(file, protocol=2).dump(part)
        file.write(struct.pack("<q", len(VALUES)) + VALUES.astype("<f4").tobytes())
    return path


def test_views_of_a_storage_become_arrays(tmp_path: Path) -> None:
    tensors = {
        "whole": Tensor(0, (3, 4), (4, 1)),
        "turned": Tensor(0, (4, 3), (1, 4)),
        "end": Tensor(10, (2,), (1,)),
        "one": Tensor(5, (), ()),
    }
    found = weight_files.read_torch(torch_file(tmp_path / "a.pth", tensors))
    assert found["whole"].tolist() == VALUES.reshape(3, 4).tolist()
    assert found["turned"].tolist() == VALUES.reshape(3, 4).T.tolist()
    assert found["end"].tolist() == [10, 11]
    assert found["one"] == 5


def test_a_state_dict_that_would_run_a_command_is_refused_before_it_runs(tmp_path: Path) -> None:
    victim = tmp_path / "harm"
    path = torch_file(tmp_path / "a.pth", {"a": Tensor(0, (2,), (1,)), "b": Harmful(victim)})
    with pytest.raises(errors.DataError, match=r"it asks for posix.system"):
        weight_files.read_torch(path)
    assert not victim.exists()


@pytest.mark.parametrize("read", [weight_files.read_torch, weight_files.read_numpy_pickle])
def test_a_bare_pickle_that_would_run_a_command_is_refused_before_it_runs(tmp_path: Path, read: Any) -> None:
    victim, path = tmp_path / "harm", tmp_path / "a"
    path.write_bytes(pickle.dumps([Harmful(victim)]))
    with pytest.raises(errors.DataError, match=r"it asks for posix.system"):
        read(path)
    assert not victim.exists()


def test_an_array_of_objects_that_would_run_a_command_is_refused_before_it_runs(tmp_path: Path) -> None:
    victim, path = tmp_path / "harm", tmp_path / "a"
    path.write_bytes(pickle.dumps({"a": np.array([Harmful(victim)], dtype=object)}))
    with pytest.raises(errors.DataError, match=r"it asks for posix.system"):
        weight_files.read_numpy_pickle(path)
    assert not victim.exists()


def test_arrays_in_plain_containers_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pickle.dumps({"conv": [VALUES, VALUES[:2]]}))
    found = weight_files.read_numpy_pickle(tmp_path / "a")
    assert (found["conv"][0] == VALUES).all()
    assert found["conv"][1].tolist() == [0, 1]


#: where a weights file may be cut: nothing left, within the magic, within the names, within the numbers, the last number
@pytest.mark.parametrize("part", [0.0, 0.0000005, 0.003, 0.5, 0.9999999])
def test_a_truncated_weights_file_is_refused_by_name(tmp_path: Path, part: float) -> None:
    content, path = inverted_residuals.NETWORKS["efficientnet_lite0"].weights_file().read_bytes(), tmp_path / "cut.pth"
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(errors.DataError, match=r"cut\.pth is not a weights file in torch's stream format"):
        weight_files.read_torch(path)


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps(VALUES)[:-30], pickle.dumps(1)[:-1]])
def test_a_truncated_or_foreign_pickle_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cut.pkl").write_bytes(content)
    with pytest.raises(errors.DataError, match=r"cut\.pkl is not a pickle of NumPy arrays"):
        weight_files.read_numpy_pickle(tmp_path / "cut.pkl")


@pytest.mark.parametrize("content", [b"hello" * 100, pickle.dumps(weight_files._MAGIC), pickle.dumps("magic")])
def test_a_file_that_torch_did_not_write_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(errors.DataError, match="is not a weights file"):
        weight_files.read_torch(tmp_path / "a.pth")


#: a view that reaches past its storage would read memory that is not its own
@pytest.mark.parametrize("tensor", [Tensor(0, (4, 4), (4, 1)), Tensor(20, (2,), (1,)), Tensor(0, (2,), (100,)), Tensor(-1, (2,), (1,))])
def test_a_tensor_that_exceeds_its_storage_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    path = torch_file(tmp_path / "a.pth", {"a": tensor})
    with pytest.raises(errors.DataError, match="is not a weights file"):
        weight_files.read_torch(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_file_with_random_bytes_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    path, random = torch_file(tmp_path / "a.pth", {"a": Tensor(0, (3, 4), (4, 1)), "b": Tensor(4, (2,), (2,))}), np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in random.integers(0, len(content), 3):
        content[place] = random.integers(0, 256)
    path.write_bytes(content)
    with contextlib.suppress(errors.DataError):
        weight_files.read_torch(path)
