"""Images that ship inside packages."""

import gzip
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tuner import errors
from tuner.spec import study
from tuner.tasks.images.data import in_memory, sources


def test_the_animals_are_distinct_silhouettes_of_ten_kinds(tmp_path: Path) -> None:
    data = sources.open(study.AnimalsData(source="animals"), cache=tmp_path)
    assert (len(data), data.num_dropped) == (9716, 284)
    assert data.classes[0] == "Bear"
    assert data.classes[-1] == "Zebra"
    assert len(set(data.digests.tolist())) == len(data)
    assert data.counts.tolist() == [937, 812, 992, 996, 997, 1000, 1000, 997, 985, 1000]
    assert data.read(0).shape == (28, 28, 3)


def test_the_digits_are_scaled_to_eight_bits(tmp_path: Path) -> None:
    data = sources.open(study.DigitsData(source="digits"), cache=tmp_path)
    assert len(data) == 1797
    assert data.classes == tuple("0123456789")
    assert data.labels[:5].tolist() == [0, 1, 2, 3, 4]
    assert data.read(0).max() >= 239
    assert data.read(0)[0, :, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


def test_reading_them_imports_neither_their_packages_nor_tensorflow(tmp_path: Path) -> None:
    code = f"""
import pathlib, sys
from tuner.spec import data as spec
from tuner.tasks.images.data import sources
for data in (spec.AnimalsData(source="animals"), spec.DigitsData(source="digits")):
    sources.open(data, cache=pathlib.Path({str(tmp_path)!r}))
print(sorted({{"animal_mnist", "sklearn", "tensorflow", "keras", "optuna", "pandas"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("harm is done",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(pickle.dumps(Harmful())), "it asks for builtins.print"),
        (gzip.compress(pickle.dumps(np.array([Harmful()], dtype=object))), "it asks for builtins.print"),  # inside an array
        (gzip.compress(pickle.dumps([1, 2])), "is a pickled list; expected an array"),
        (gzip.compress(b""), "is not a pickled array"),
        (b"hello", "is not a pickled array"),
    ],
    # gzip writes the time into what would else be their names
    ids=["a call", "a call in an array", "a list", "nothing", "no gzip"],
)
def test_a_pickle_of_anything_but_an_array_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(errors.DataError, match=message):
        in_memory.read_pickled_array(tmp_path / "a.gz")
    assert capsys.readouterr().out == ""


def test_a_missing_package_is_reported_with_the_command_that_installs_it() -> None:
    with pytest.raises(errors.DataError, match="pip install 'no-such-thing==1'"):
        in_memory._package_folder("no_such_thing", "no-such-thing==1")


@pytest.mark.parametrize(
    ("data", "needs_keras"),
    [
        (study.AnimalsData(source="animals"), False),
        (study.KerasData(source="keras", name="cifar10"), True),
        (study.TfdsData(source="tfds", name="tf_flowers"), True),
    ],
)
def test_sources_of_keras_are_read_by_the_trainer(data: study.Data, needs_keras: bool, tmp_path: Path) -> None:
    assert sources.needs_keras(data) is needs_keras
    if needs_keras:
        with pytest.raises(ValueError, match="only the trainer reads data.source"):
            sources.open(data, cache=tmp_path)
