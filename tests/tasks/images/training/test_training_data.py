"""Images of every source, split and resized, and the errors of sources that cannot be opened."""

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.keras_studies import DIGITS, TINY, study
from tuner import errors
from tuner.spec import study as spec_study
from tuner.tasks.images.data import dataset
from tuner.tasks.images.training import training_data

#: images of different sizes, as TensorFlow Datasets gives them
RANDOM = np.random.default_rng(0)
EXAMPLES = {
    "train": [{"image": RANDOM.integers(0, 256, (8 + number, 9, 3)).astype(np.uint8), "label": number % 3} for number in range(9)],
    "test": [{"image": RANDOM.integers(0, 256, (7, 6, 3)).astype(np.uint8), "label": number % 3} for number in range(3)],
    "validation": [{"image": RANDOM.integers(0, 256, (5, 6, 1)).astype(np.uint8), "label": number % 3} for number in range(3)],
}


class Features(dict[str, Any]):
    """The features of a builder."""


def builder(names: list[str] | None) -> Any:
    """The parts of a TensorFlow Datasets builder that tuner reads."""
    features = Features(image=None, label=SimpleNamespace(names=names))
    return SimpleNamespace(info=SimpleNamespace(features=features, splits=EXAMPLES), as_dataset=lambda *, split: EXAMPLES[split])


TFDS = SimpleNamespace(as_numpy=iter)


def test_the_images_of_a_study_come_split_and_resized(cache: Path) -> None:
    data = training_data.load(study(), cache=cache)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [100, 60, 50]
    assert data.train.images.shape == (100, 16, 16, 3)
    assert data.train.images[:].dtype == np.uint8
    assert data.classes == tuple("0123456789")
    assert len(data.fingerprint) == len(data.splits) == 64


def test_a_study_without_test_images_has_an_empty_split(cache: Path) -> None:
    data = training_data.load(study(data=DIGITS | {"test": 0}), cache=cache)
    assert data.test.images.shape == (0, 16, 16, 3)
    assert len(data.test.labels) == 0


def test_another_size_or_seed_changes_the_images_but_not_the_fingerprint(cache: Path) -> None:
    one, other = training_data.load(study(), cache=cache), training_data.load(study(seed=1), cache=cache)
    small = training_data.load(study(model=TINY | {"image_size": 40}), cache=cache)
    assert one.fingerprint == other.fingerprint == small.fingerprint
    assert one.splits == small.splits != other.splits
    assert small.train.images.shape[1] == 40


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_a_failed_download_of_a_keras_data_set_is_reported_quickly_with_alternatives(
    monkeypatch: pytest.MonkeyPatch, cache: Path, name: str
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(errors.MissingDownload) as caught:
        training_data.open_dataset(spec_study.KerasData.model_validate({"source": "keras", "name": name}), cache=cache)
    assert time.perf_counter() - start < 20
    message = str(caught.value)
    assert message.startswith(f"keras.datasets.{name} cannot be downloaded (URL fetch failure on https://")
    assert "copy ~/.keras/datasets to this machine" in message
    assert "folder, manifest, npz, animals, digits" in message


@pytest.mark.parametrize(("name", "classes", "first"), [("cifar10", 10, "airplane"), ("fashion_mnist", 10, "top"), ("mnist", 10, "0")])
def test_the_test_images_of_a_keras_data_set_are_the_test_split(
    monkeypatch: pytest.MonkeyPatch, cache: Path, name: str, classes: int, first: str
) -> None:
    shape = (32, 32, 3) if name.startswith("cifar") else (28, 28)

    def load_data() -> tuple[tuple[NDArray[np.uint8], NDArray[Any]], tuple[NDArray[np.uint8], NDArray[Any]]]:
        labels = np.arange(40)[:, None] % classes if name.startswith("cifar") else np.arange(40) % classes
        images = RANDOM.integers(0, 256, (40, *shape)).astype(np.uint8)
        return (images[:30], labels[:30]), (images[30:], labels[30:])

    import keras

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", load_data)
    data = training_data.open_dataset(spec_study.KerasData.model_validate({"source": "keras", "name": name}), cache=cache)
    assert len(data) == 40
    assert data.read(0).shape == (*shape[:2], 3)
    assert len(data.classes) == classes
    assert data.classes[0] == first
    assert data.official is not None
    assert data.official.tolist() == [dataset.NONE] * 30 + [dataset.TEST] * 10


def test_images_that_only_a_trainer_can_read_are_warned_of_like_all_others(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import keras

    noise = np.random.default_rng(5)
    images = noise.integers(0, 256, (40, 28, 28)).astype(np.uint8)
    bursts = np.clip(images.astype(np.int16) + 2, 0, 255).astype(np.uint8)
    labels = np.arange(40) % 10
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: ((images, labels), (bursts, labels)))
    found = training_data.load(study(data={"source": "keras", "name": "mnist", "validation": 10}), cache=cache)
    assert found.warnings[0].startswith("validation has only 10 images: accuracy moves in steps of 10 points")
    assert found.warnings[1].startswith("almost the same in two splits: ")
    assert "use data.source: manifest with data.group_column" in found.warnings[1]
    assert training_data.load(study(), cache=cache).warnings == ()  # `commands.check.admit` tells of them


def test_tensorflow_datasets_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(errors.MissingPackage, match=r"pip install 'tuner\[tfds\]'"):
        training_data.open_dataset(spec_study.TfdsData(source="tfds", name="tf_flowers"), cache=cache)


@pytest.mark.parametrize(("names", "classes"), [(["a", "b", "c"], ("a", "b", "c")), (None, ("0", "1", "2"))])
def test_splits_of_tensorflow_datasets_are_official_and_sizes_may_differ(names: list[str] | None, classes: tuple[str, ...]) -> None:
    data = training_data._read_tfds(TFDS, builder(names), spec_study.TfdsData(source="tfds", name="small"))
    assert data.classes == classes
    assert data.official is not None
    assert data.official.tolist() == [dataset.TEST] * 3 + [dataset.NONE] * 9 + [dataset.VALIDATION] * 3
    assert (data.read(4) == EXAMPLES["train"][1]["image"]).all()
    assert data.read(14).shape == (5, 6, 3)
    assert data.labels.tolist() == [0, 1, 2] * 5


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", dataset.NONE),
        ("valid", dataset.VALIDATION),
        ("val", dataset.VALIDATION),
        ("dev", dataset.VALIDATION),
        ("test", dataset.TEST),
        ("extra", dataset.NONE),
        ("test_corrupted", dataset.NONE),
    ],
)
def test_usual_names_of_splits_of_tensorflow_datasets_are_understood(name: str, split: int) -> None:
    assert training_data.official_split(name) == split


@pytest.mark.parametrize("field", ["image_key", "label_key"])
def test_a_missing_feature_is_reported_with_the_available_ones(field: str) -> None:
    data = spec_study.TfdsData.model_validate({"source": "tfds", "name": "small", field: "picture"})
    with pytest.raises(
        errors.DataError, match=r"small has no feature picture; it has image, label\. Set data\.image_key and data\.label_key"
    ):
        training_data._read_tfds(TFDS, builder(None), data)


def failing(error: Exception) -> ModuleType:
    """A package whose builders fail."""

    def build(_: str) -> Any:
        raise error

    package: Any = ModuleType("tensorflow_datasets")
    package.core = SimpleNamespace(DatasetNotFoundError=KeyError)
    package.builder = build
    return package  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("flowrs"), errors.DataError, "data.name is flowrs; expected a data set of TensorFlow Datasets"),
        (ConnectionError("no route"), errors.MissingDownload, r"TensorFlow Datasets' flowrs .* \(no route\)"),
    ],
)
def test_a_data_set_unknown_to_tensorflow_datasets_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception, kind: type[Exception], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", failing(error))
    with pytest.raises(kind, match=message):
        training_data.open_dataset(spec_study.TfdsData(source="tfds", name="flowrs"), cache=cache)
