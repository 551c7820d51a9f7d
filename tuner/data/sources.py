"""The `data` section of a study file into a Dataset."""

from pathlib import Path

from tuner import spec
from tuner.data import arrays, dataset, files, folder, function, manifest, npz, packages

Dataset = dataset.Dataset
from_arrays = arrays.from_arrays
from_images = arrays.from_images


def open(data: spec.Data, *, cache: Path) -> dataset.Dataset:  # noqa: A001 -- read as sources.open
    """The labelled images that a study trains on.

    `cache` keeps what decoding the files of a folder or manifest told.

    Raises:
        DataError: the images or labels cannot be used as they are.
    """
    match data:
        case spec.FolderData():
            return files.read(folder.find(data.path), cache=cache)
        case spec.ManifestData():
            return files.read(manifest.find(data), cache=cache)
        case spec.NpzData():
            return npz.read(data.path)
        case spec.AnimalsData():
            return packages.open_animals()
        case spec.DigitsData():
            return packages.open_digits()
        case spec.PythonData():
            return function.read(data.function)
        case spec.KerasData() | spec.TfdsData():
            raise ValueError(f"data.source {data.source} is read by the trainer, see needs_keras")


def needs_keras(data: spec.Data) -> bool:
    """Whether only the trainer can read this source, so that a check of the file does not see its images."""
    return isinstance(data, spec.KerasData | spec.TfdsData)
