"""Data sources that are functions of the user."""

import os
import sys
from pathlib import Path

import pytest

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import dataset, sources
from tuner.trust import user_code

MODULE = """
import numpy as np
X = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3)
Y = [0, 1, 0, 1]
def good(): return X, Y
def named(): return X, ["b", "a", "b", "a"], ["b", "a"]
def words(): return X, ["class 10", "class 2"] * 2
def lists(): return [image.tolist() for image in X], Y
def nothing(): pass
def alone(): return X
def one(): return (X,)
def short(): return X, Y[:3]
def sizes(): return [X[0], X[1, :2], X[2], X[3]], Y
def ragged(): return [[[1, 2], [3]], X[0]], Y[:2]
def keras_splits(): return (X[:2], Y[:2]), (X[2:], Y[2:])
def named_arrays(): return {"images": X, "labels": Y, "patient": ["a", "b", "a", "b"]}
def named_splits(): return {"x_train": X[:2], "y_train": Y[:2], "X_test": X[2:], "y_test": Y[2:], "classes": ["no", "yes"]}
def no_images(): return {"a": X, "b": Y}
def with_path(path, *more, size=3): return X, Y
def with_defaults(path="a", *more, **others): return X, Y
def four(): return X[:2], Y[:2], X[2:], Y[2:]
def paths(): return ["a.jpg"] * 4, Y
def fractions(): return X / 36, Y
def wide(): return X.astype("float32"), Y
def objects(): return X, np.array(["a", "b", "a", "b"], object)
class tf_data:
    def as_numpy_iterator(self): pass
class data_frame:
    def to_parquet(self): pass
def raises(): raise KeyError("mine")
number = 3
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the current folder whose name no other test has imported."""
    monkeypatch.chdir(tmp_path)
    module = f"data_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(MODULE)
    (tmp_path / f"{module}_broken.py").write_text("def f(:")
    return module


def read(function: str, cache: Path) -> dataset.Dataset:
    return sources.open(study.PythonData(source="python", function=function), cache=cache)


def test_a_function_of_the_current_folder_is_called(name: str, tmp_path: Path) -> None:
    before = list(sys.path)
    data = read(f"{name}:good", tmp_path)
    assert data.classes == ("0", "1")
    assert data.read(1).shape == (3, 3, 3)
    assert sys.path == before


def test_a_function_may_have_arguments_with_defaults(name: str, tmp_path: Path) -> None:
    assert read(f"{name}:with_defaults", tmp_path).classes == ("0", "1")


def test_a_function_may_name_its_classes(name: str, tmp_path: Path) -> None:
    data = read(f"{name}:named", tmp_path)
    assert data.classes == ("b", "a")
    assert data.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("_none:good", "cannot be imported (No module named "),
        ("_none:good", "_none, start tuner in its folder, or add its folder to PYTHONPATH"),
        ("_broken:f", "cannot be imported (invalid syntax"),
        (":missing", "has no function missing"),
        (":number", "has no function number"),
        (":nothing", "returned a NoneType; expected (images, labels) or (images, labels, classes)"),
        (":alone", "returned a ndarray; expected"),
        (":one", "returned a tuple of 1; expected"),
        (":short", "has labels of shape (3,); expected (4,)"),
        (":with_path", "has the arguments path, but tuner calls it without any; give them defaults, or write a function that calls it"),
        (":four", "returned a tuple of 4. For several splits, return a dict: {'x_train': …, 'y_train': …, 'x_test': …, 'y_test': …}"),
        (":no_images", "has no x_train; the function returned a, b; expected x and y, or x_train and y_train"),
        (":tf_data", "returned a tf_data. Read it into arrays first: images, labels = map(numpy.stack, zip(*result.unbatch()"),
        (":data_frame", "returned a data_frame. Write a table of paths and labels to a file, for data.source: manifest"),
        (":paths", "if these are paths of files, write a table of paths and labels for data.source: manifest"),
        (":fractions", "has pixels of type float64; expected uint8 from 0 to 255, shape"),
        (":fractions", "if they are fractions from 0 to 1, save (x * 255)"),
        (":wide", "; its values are from 0 to 35: set data.value_range to their range, or to auto"),
        (":ragged", "returned images or labels that are not arrays"),
        (":lists", "has pixels of type int64; expected uint8"),
    ],
)
def test_a_function_that_returns_no_labelled_images_is_refused(name: str, tmp_path: Path, function: str, message: str) -> None:
    with pytest.raises(errors.DataError) as caught:
        read(name + function, tmp_path)
    assert str(caught.value).startswith(f"data.function {name}{function} ")
    assert message in str(caught.value)


def test_a_function_may_return_images_of_different_sizes(name: str, tmp_path: Path) -> None:
    data = read(f"{name}:sizes", tmp_path)
    assert [data.read(index).shape for index in range(3)] == [(3, 3, 3), (2, 3, 3), (3, 3, 3)]
    assert data.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("function", "classes"), [("keras_splits", ("0", "1")), ("named_splits", ("no", "yes"))])
def test_a_function_may_return_splits_as_data_sets_of_keras_do(function: str, classes: tuple[str, ...], name: str, tmp_path: Path) -> None:
    data = read(f"{name}:{function}", tmp_path)
    assert data.official is not None
    assert data.official.tolist() == [dataset.TRAIN] * 2 + [dataset.TEST] * 2
    assert (data.classes, data.labels.tolist()) == (classes, [0, 1, 0, 1])


def test_a_function_may_return_groups_under_a_name(name: str, tmp_path: Path) -> None:
    data = study.PythonData(source="python", function=f"{name}:named_arrays", group_column="patient")
    groups = sources.open(data, cache=tmp_path).groups
    assert groups is not None
    assert groups.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("good", "returned no array animal, which data.group_column names; return a dict of arrays, for example {'x': images, 'y': labels"),
        ("named_arrays", "has no array animal; the function returned images, labels, patient. Save one value for each image of x"),
    ],
)
def test_groups_that_a_function_does_not_return_are_refused(function: str, said: str, name: str, tmp_path: Path) -> None:
    data = study.PythonData(source="python", function=f"{name}:{function}", group_column="animal")
    with pytest.raises(errors.DataError) as caught:
        sources.open(data, cache=tmp_path)
    assert said in str(caught.value)


def test_labels_of_a_column_of_pandas_are_read(name: str, tmp_path: Path) -> None:
    assert read(f"{name}:objects", tmp_path).classes == ("a", "b")


def test_exceptions_of_the_function_are_passed_on(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        read(f"{name}:raises", tmp_path)


def test_words_of_a_function_have_the_natural_order(name: str, tmp_path: Path) -> None:
    assert read(f"{name}:words", tmp_path).classes == ("class 2", "class 10")
    earlier = study.PythonData(source="python", function=f"{name}:words", class_order="earlier")
    assert sources.open(earlier, cache=tmp_path).classes == ("class 10", "class 2")


def test_code_is_imported_from_the_import_path_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "data_of_a_caller.py").write_text(MODULE + "import sys; sys.path.append('/added/by/the/module')\n")
    before = list(sys.path)
    with pytest.raises(errors.DataError, match="cannot be imported"):
        read("data_of_a_caller:good", tmp_path)
    user_code.use_import_path([str(tmp_path / "src")])
    try:
        assert read("data_of_a_caller:good", tmp_path).classes == ("0", "1")
        assert sys.path == [*before, "/added/by/the/module"]
    finally:
        user_code.use_import_path([])
        sys.path[:] = before


def test_the_import_path_of_this_process_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "../src", "/usr/lib", None])
    assert user_code.import_path() == (str(tmp_path), str(tmp_path / "../src"), "/usr/lib")


def test_a_module_that_runs_the_study_again_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_that_runs.py").write_text("from tuner.trust import user_code\nuser_code.require_outside()\n")
    user_code.require_outside()
    with pytest.raises(errors.RequestError, match='below `if __name__ == "__main__":`'):
        read("data_that_runs:load", tmp_path)
    user_code.require_outside()


@pytest.mark.parametrize(("given", "seen"), [("no_such_backend", "tensorflow"), ("json", "json"), ("", "")])
def test_code_of_the_user_sees_a_backend_that_is_installed(given: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", given)
    monkeypatch.chdir(tmp_path)
    module = f"data_of_backend_{given}"
    (tmp_path / f"{module}.py").write_text("import os; SEEN = os.environ['KERAS_BACKEND']\n" + MODULE)
    read(f"{module}:good", tmp_path)
    assert seen == sys.modules[module].SEEN
    assert os.environ["KERAS_BACKEND"] == given
