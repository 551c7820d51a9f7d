"""Training data: the images and labels of a study, resized and split into train, validation and test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors
from tuner.kernels import downloads, targets
from tuner.kernels.targets import ImageTarget
from tuner.spec import study
from tuner.tasks.images.data import dataset, folders, in_memory, resized, sources, splits, survey

_CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images and labels of one split."""

    #: uint8 (n, size, size, 3), mapped from the cache, or decoded on demand if the cache is full
    images: resized.ResizedImages
    #: as `ImageTarget.encode` gives them
    labels: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All images of a study, at the size of its model's input."""

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    #: SHA-256 over every image and label
    fingerprint: str
    #: SHA-256 over the three splits
    splits: str
    #: values of the images that became 0 and 255; None: those of 8 or 16 bits
    value_range: dataset.ValueRange | None = None
    #: what a user should know about images that only a trainer can read
    warnings: tuple[str, ...] = ()
    #: what is learned of each image
    target: ImageTarget = targets.ONE_LABEL
    #: fold of each image of `train`, which holds the validation images, too, and is `validation` as well; None: no folds
    folds: NDArray[np.int64] | None = None
    #: number of images that are in the validation split without folds
    num_split: int = 0

    def of_fold(self, number: int) -> "tuple[TrainingData, Mapping[str, NDArray[np.int64]]]":
        """Return the data with one fold as validation split and all others as train split, and the rows of these two."""
        assert self.folds is not None
        rows = {"train": np.flatnonzero(self.folds != number), "validation": np.flatnonzero(self.folds == number)}
        whole = self.train
        parts = {name: Split(images=resized.Excerpt(images=whole.images, rows=of), labels=whole.labels[of]) for name, of in rows.items()}
        return replace(self, **parts), rows  # type: ignore[arg-type]


def load(study: study.StudySpec, *, cache: Path, tick: Callable[[], None] = lambda: None) -> TrainingData:
    """Open, split and resize the images of a study with one model, or read them from the cache of this machine.

    `tick` is called from time to time.

    Raises:
        DataError: the data cannot be used.
        MissingDownload: the data cannot be downloaded.
        MissingPackage: the data source needs an extra that is not installed.
    """
    data = open_dataset(study.data, cache=cache)
    parts, metric = splits.split(data, study.data, study.seed), study.objective.metric
    splits.require_measurable(data, parts, metric)

    def take(indices: NDArray[np.int64], what: str) -> Split:
        model = study.model.of_trial()
        words = {"study": study.name, "data": describe_source(study.data), "size": str(model.image_size), "what": what}
        images = resized.load(data, indices, size=model.image_size, resize=model.resize, cache=cache, words=words, tick=tick)
        return Split(images=images, labels=target.encode(data.labels[indices]))

    folds = None if study.num_folds == 1 else splits.divide(data, parts, study.data, study.num_folds, study.seed)
    is_joined = study.training.images == "train+validation" or folds is not None
    joined = np.sort(np.concatenate([parts.train, parts.validation]))
    target = targets.of_training(data.kind, data.labels[parts.train if folds is None else joined])
    train = take(joined if is_joined else parts.train, "train+validation" if is_joined else "train")
    return TrainingData(
        classes=data.classes,
        train=train,
        validation=train if folds is not None else take(parts.validation, "validation"),
        test=take(parts.test, "test"),
        fingerprint=dataset.fingerprint(data),
        splits=parts.digest,
        value_range=data.value_range,
        target=target,
        warnings=tuple(survey.warnings(data, parts, study.data, cache=cache, metric=metric, num_folds=study.num_folds))
        if sources.needs_keras(study.data)
        else (),
        folds=folds,
        num_split=len(parts.validation),
    )


def describe_source(data: study.Data) -> str:
    """Return a short name of a data source: `animals`, `keras cifar10`, or the path of a folder."""
    known = data.model_dump()
    which = next((known[field] for field in ("path", "name", "function") if known.get(field)), "")
    return f"{which}" if known.get("path") else f"{data.source} {which}".rstrip()


def open_dataset(data: study.Data, *, cache: Path) -> dataset.Dataset:
    """Open any data source, including those of Keras and TensorFlow Datasets."""
    if isinstance(data, study.KerasData):
        return _open_keras(data)
    if isinstance(data, study.TfdsData):
        return _open_tfds(data)
    return sources.open(data, cache=cache)


def _open_keras(data: study.KerasData) -> dataset.Dataset:
    import keras

    module = getattr(keras.datasets, data.name)
    with downloads.downloading(f"keras.datasets.{data.name}", cure=_cure("~/.keras/datasets")):
        (x_train, y_train), (x_test, y_test) = module.load_data()
    labels = np.concatenate([y_train, y_test]).ravel().astype(np.int64)
    official = np.repeat(np.array([dataset.NONE, dataset.TEST], np.int8), [len(x_train), len(x_test)])
    classes = _CLASSES.get(data.name, tuple(str(label) for label in range(labels.max() + 1)))
    return in_memory.from_arrays(np.concatenate([x_train, x_test]), labels, classes, official=official)


def _open_tfds(data: study.TfdsData) -> dataset.Dataset:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise errors.MissingPackage("tensorflow-datasets", extra="tfds", needed_for="data.source tfds") from error
    try:
        with downloads.downloading(f"TensorFlow Datasets' {data.name}", cure=_cure("~/tensorflow_datasets")):
            builder = tfds.builder(data.name)
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        raise errors.DataError(f"data.name is {data.name}; expected a data set of TensorFlow Datasets") from error
    return _read_tfds(tfds, builder, data)


def _read_tfds(tfds: Any, builder: Any, data: study.TfdsData) -> dataset.Dataset:
    """Read all splits of a data set; its validation and test splits keep their role."""
    features = builder.info.features
    for key in (data.image_key, data.label_key):
        if key not in features:
            raise errors.DataError(
                f"data.name {data.name} has no feature {key}; it has {', '.join(features)}. Set data.image_key and data.label_key"
            )
    images, labels, official = [], [], []
    for name in sorted(builder.info.splits):
        for example in tfds.as_numpy(builder.as_dataset(split=name)):
            images.append(example[data.image_key])
            labels.append(int(example[data.label_key]))
            official.append(official_split(name))
    classes = tuple(getattr(features[data.label_key], "names", None) or (str(label) for label in range(max(labels) + 1)))
    return in_memory.from_images(images, np.array(labels, np.int64), classes, np.array(official, np.int8), origin=f"data.name {data.name}")


def official_split(name: str) -> int:
    """Return VALIDATION or TEST for the name of such a split, `valid` for example; NONE for any other."""
    role, rest = folders.role_of(name)
    return role if role in (dataset.VALIDATION, dataset.TEST) and not rest else dataset.NONE


def _cure(folder: str) -> str:
    others = "use a data source that needs no download: folder, manifest, npz, animals, digits"
    return f"Run this once on a machine with access and copy {folder} to this machine, or {others}"
