"""The `data` section of a study file into a Dataset."""

from pathlib import Path

from tuner import spec
from tuner.data import arrays, dataset

Dataset = dataset.Dataset
from_arrays = arrays.from_arrays
from_images = arrays.from_images


def open(data: spec.Data, *, cache: Path) -> dataset.Dataset:  # noqa: A001 -- read as sources.open
    """The labelled images that a study trains on.

    `cache` keeps what decoding the files of a folder or manifest told. Each way of reading is imported when it is used, so that
    `tuner check` waits for no more than its study needs.

    Raises:
        DataError: the images or labels cannot be used as they are.
    """
    match data:
        case spec.FolderData():
            from tuner.data import files, folder

            return files.read(folder.find(data.path), cache=cache)
        case spec.ManifestData():
            from tuner.data import files, manifest

            return files.read(manifest.find(data), cache=cache)
        case spec.NpzData():
            from tuner.data import npz

            return npz.read(data.path)
        case spec.AnimalsData() | spec.DigitsData():
            from tuner.data import packages

            return packages.open_animals() if isinstance(data, spec.AnimalsData) else packages.open_digits()
        case spec.PythonData():
            from tuner.data import function

            return function.read(data.function)
        case spec.KerasData() | spec.TfdsData():
            raise ValueError(f"data.source {data.source} is read by the trainer, see needs_keras")


def needs_keras(data: spec.Data) -> bool:
    """Whether only the trainer can read this source, so that a check of the file does not see its images."""
    return isinstance(data, spec.KerasData | spec.TfdsData)
