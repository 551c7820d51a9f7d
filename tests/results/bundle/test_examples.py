"""Examples to predict, read from files of arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuner.errors import RequestError
from tuner.protocol.errands import ModelInput
from tuner.results.bundle import examples

ROW = ModelInput(name="row", shape=(3,), dtype="float32")
AGE = ModelInput(name="age", shape=(1,), dtype="float32")
KIND = ModelInput(name="kind", shape=(), dtype="int32")
SERIES = ModelInput(name="series", shape=(None, 2), dtype="float32")


def write(path: Path, content: Any) -> Path:
    match path.suffix:
        case ".npz":
            np.savez(path, **content)
        case ".npy":
            np.save(path, content)
        case _:
            path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", {"row": np.ones((2, 3))}),
        ("a.npz", {"x": np.ones((2, 3)), "y": np.zeros(2)}),
        ("a.npz", {"anything": np.ones((2, 3), np.int64)}),
        ("a.npy", np.ones((2, 3))),
        ("a.csv", "1,1,1\n1,1,1\n"),
        ("a.csv", "a,b,c\n1,1.0,1e0\n\n1,1,1\n"),
    ],
)
def test_one_input_takes_arrays_and_columns(tmp_path: Path, name: str, content: Any) -> None:
    found = examples.read(write(tmp_path / name, content), [ROW])
    assert found["row"].dtype == np.float32
    assert found["row"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_several_inputs_take_an_array_or_a_column_each(tmp_path: Path) -> None:
    of_csv = examples.read(write(tmp_path / "a.csv", "kind,other,age\n2,0,30\n1,0,40\n"), [AGE, KIND])
    of_npz = examples.read(write(tmp_path / "a.npz", {"kind": np.array([2, 1]), "age": np.array([30, 40])}), [AGE, KIND])
    for found in (of_csv, of_npz):
        assert found["age"].tolist() == [[30], [40]]
        assert found["kind"].tolist() == [2, 1] and found["kind"].dtype == np.int32


def test_an_axis_of_any_length_takes_what_is_given(tmp_path: Path) -> None:
    assert examples.read(write(tmp_path / "a.npy", np.zeros((4, 7, 2))), [SERIES])["series"].shape == (4, 7, 2)


@pytest.mark.parametrize(
    ("name", "content", "inputs", "said"),
    [
        ("a.txt", "1", [ROW], r"ends in .txt; expected a file that ends in .npz, .npy, .csv"),
        ("a.npz", {"p": np.zeros(1), "q": np.zeros(1)}, [ROW], r"has the arrays p, q; expected row of 3 for each example, or x"),
        ("a.npz", {"age": np.zeros(1)}, [AGE, KIND], "has no array kind; it has age"),
        ("a.npy", np.zeros((2, 1)), [AGE, KIND], "has one array, but the model has the inputs age, kind"),
        ("a.npy", np.zeros((2, 4)), [ROW], r"has an array \(2, 4\) for the input row; expected .* row of 3"),
        ("a.npy", np.array(["a", "b", "c"]).reshape(1, 3), [ROW], "expected numbers"),
        ("a.npz", {"age": np.zeros(2), "kind": np.zeros(3)}, [AGE, KIND], "different numbers of examples: age 2, kind 3"),
        ("a.npz", {"x": np.array([None, {}])}, [ROW], "cannot be read"),
        ("a.csv", "1,2\n3,4\n", [ROW], "has 2 columns; expected 3"),
        ("a.csv", "1,2,3\n1,2\n", [ROW], "line 2, has 2 columns; expected 3"),
        ("a.csv", "a,b,c\n1,2,x\n", [ROW], "line 2, has 'x'; expected a number"),
        ("a.csv", "a,b,c\n", [ROW], "has no examples"),
        ("a.csv", "1,2\n", [AGE, KIND], "no header"),
        ("a.csv", "age,b\n1,2\n", [AGE, KIND], "has no column kind; it has age, b"),
        ("a.csv", "age,row\n1,2\n", [AGE, ROW], "row is not one number; give an .npz file"),
        ("a.csv", "1,2\n", [SERIES], "give it as an .npz file"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(
    tmp_path: Path, name: str, content: Any, inputs: list[ModelInput], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        examples.read(write(tmp_path / name, content), inputs)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(RequestError, match="cannot be read"):
        examples.read(path, [ROW])
