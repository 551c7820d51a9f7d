"""The `data` section of a study into resized images and labels, split into train, validation and test."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner import errors, spec
from tuner.data import dataset as datasets
from tuner.data import fingerprint, resized, sources, splits


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images for one purpose."""

    #: uint8 (n, size, size, 3), mapped from a file
    images: NDArray[np.uint8]
    #: int64 (n,)
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All images of a study at the size that its model sees."""

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    #: SHA-256 over every image and label
    fingerprint: str
    #: SHA-256 over the three splits
    splits: str


def load(study: spec.StudySpec, *, cache: Path) -> TrainingData:
    """Open, split and resize the images of a study; what was done before on this host is read from the cache.

    Raises:
        DataError: the data cannot be used as they are.
        MissingDownload: they would have to be downloaded and cannot be.
        MissingPackage: they need an extra that is not installed.
    """
    data = open_dataset(study.data, cache=cache)
    mark = fingerprint.fingerprint(data)
    parts = splits.split(data, study.data, study.seed)

    def take(indices: NDArray[np.int64]) -> Split:
        model = study.model
        images = resized.load(data, indices, size=model.image_size, resize=model.resize, cache=cache, fingerprint=mark)
        return Split(images=images, labels=data.labels[indices])

    return TrainingData(
        classes=data.classes,
        train=take(parts.train),
        validation=take(parts.validation),
        test=take(parts.test),
        fingerprint=mark,
        splits=parts.digest,
    )


def open_dataset(data: spec.Data, *, cache: Path) -> datasets.Dataset:
    """The images of any source, those of Keras and of TensorFlow Datasets among them."""
    if isinstance(data, spec.KerasData):
        return _open_keras(data)
    if isinstance(data, spec.TfdsData):
        return _open_tfds(data)
    return sources.open(data, cache=cache)


def _open_keras(data: spec.KerasData) -> datasets.Dataset:
    import keras

    module = getattr(keras.datasets, data.name)
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as error:  # keras.utils.get_file raises a bare Exception when a download fails
        if "URL fetch failure" not in str(error):
            raise
        raise _unreachable(f"keras.datasets.{data.name}", "~/.keras/datasets", error) from error
    labels = np.concatenate([y_train, y_test]).ravel().astype(np.int64)
    official = np.repeat(np.array([datasets.NONE, datasets.TEST], np.int8), [len(x_train), len(x_test)])
    classes = _CLASSES.get(data.name, tuple(str(label) for label in range(labels.max() + 1)))
    return sources.from_arrays(np.concatenate([x_train, x_test]), labels, classes, official=official)


def _open_tfds(data: spec.TfdsData) -> datasets.Dataset:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise errors.MissingPackage("tensorflow-datasets", extra="tfds", needed_for="data.source tfds") from error
    try:
        builder = tfds.builder(data.name)
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        raise errors.DataError(f"data.name is {data.name}, which TensorFlow Datasets does not know") from error
    except (OSError, ConnectionError) as error:
        raise _unreachable(f"TensorFlow Datasets' {data.name}", "~/tensorflow_datasets", error) from error
    return _read_tfds(tfds, builder, data)


def _read_tfds(tfds: object, builder: object, data: spec.TfdsData) -> datasets.Dataset:
    raise NotImplementedError


def _unreachable(what: str, folder: str, error: Exception) -> errors.MissingDownload:
    reason = str(error).splitlines()[0]
    return errors.MissingDownload(
        f"{what} has to be downloaded, and cannot be from here ({reason}). Run this once where it is reachable and copy {folder} to this machine, "
        "or use a data source that needs no download: folder, manifest, npz, animals, digits."
    )


_CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
}
