"""The `data` section of a study file: where images and labels come from, and how they are split."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, model_validator

from tuner import wording
from tuner.spec.clashes import Clash, Clashes


class Section(BaseModel):
    """A part of a study file. It is frozen, and strict: neither `true` nor `"8"` is a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True, use_attribute_docstrings=True)


def locate(given: str, info: ValidationInfo) -> Path:
    """Return a path with `~` expanded; a relative path starts at the folder of the study file."""
    folder = (info.context or {}).get("folder")
    path = Path(given).expanduser()
    return path if path.is_absolute() or folder is None else Path(folder).joinpath(path).resolve()


def _read_path(given: Any, info: ValidationInfo) -> Path:
    if not isinstance(given, str | Path) or not str(given).strip():
        raise ValueError(f"is {wording.show(given)}; expected a path such as ~/photos")
    return locate(str(given), info)


FilePath = Annotated[Path, PlainValidator(_read_path, json_schema_input_type=str)]
#: below 1: a fraction of all images; from 2: a number of images
Share = Annotated[float, Field(ge=0)]
PythonName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", examples=["my_package.my_module:function"])]


class _Data(Section):
    train: Share | None = None
    """images to train on; null: all images that are in no other split"""
    validation: Share = 0.15
    """images that choose the best trial"""
    test: Share = 0.15
    """images that measure the best trial, once"""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        shares = {"train": self.train, "validation": self.validation, "test": self.test}
        clashes = [Clash(field=name, message=message) for name, share in shares.items() if (message := _refuse(name, share))]
        fractions = [share for share in shares.values() if share is not None and share < 1]
        if not clashes and (sum(fractions) > 1 or (self.train is None and sum(fractions) >= 1)):
            message = (
                f"the splits together take {wording.number(sum(fractions))} of all images; lower one of them to leave images for training"
            )
            clashes = [Clash(field="validation", message=f"is {wording.number(self.validation)}; {message}", others=("train", "test"))]
        if clashes:
            raise Clashes(clashes)
        return self


def _refuse(name: str, share: float | None) -> str | None:
    if share == 0 and name == "validation":
        return "is 0, but tuner needs validation images to choose the best trial; expected for example 0.15"
    if share == 0 and name == "train":
        return "is 0; remove it to train on all images that are in no other split"
    if share is not None and share >= 1 and (share == 1 or not share.is_integer()):
        return f"is {wording.number(share)}; expected a fraction below 1, or a whole number of images, at least 2"
    return None


class FolderData(_Data):
    """A folder with one sub-folder of images a class."""

    source: Literal["folder"]
    path: Annotated[FilePath, Field(examples=["~/photos"])]
    """the folder of images; a relative path starts at the folder of the study file"""


class ManifestData(_Data):
    """A CSV or Parquet table with a column of image paths and one of labels."""

    source: Literal["manifest"]
    path: Annotated[FilePath, Field(examples=["~/photos/labels.csv"])]
    """the table, .csv or .parquet"""
    root: FilePath | None = None
    """folder that relative image paths start from; null: the folder of the table"""
    image_column: str = "path"
    """name of the column with the image paths"""
    label_column: str = "label"
    """name of the column with the class names"""


class NpzData(_Data):
    """Arrays of NumPy: `x` and `y`, or `x_train` and `y_train` with `x_val`, `y_val`, `x_test`, `y_test`; `classes` names the classes."""

    source: Literal["npz"]
    path: Annotated[FilePath, Field(examples=["~/photos.npz"])]
    """the .npz file"""


class KerasData(_Data):
    """A data set of `keras.datasets`; Keras downloads it. Its own test images are the test split."""

    source: Literal["keras"]
    name: Annotated[Literal["cifar10", "cifar100", "mnist", "fashion_mnist"], Field(examples=["cifar10"])]
    """name of the data set"""


class TfdsData(_Data):
    """A data set of TensorFlow Datasets, which downloads it; needs the extra `tfds`."""

    source: Literal["tfds"]
    name: Annotated[str, Field(min_length=1, examples=["tf_flowers"])]
    """name of the data set"""
    image_key: str = "image"
    """name of the feature with the image"""
    label_key: str = "label"
    """name of the feature with the class"""


class AnimalsData(_Data):
    """10,000 silhouettes of ten animals, 28 x 28, out of the package animal-mnist."""

    source: Literal["animals"]


class DigitsData(_Data):
    """1,797 handwritten digits, 8 x 8, out of scikit-learn."""

    source: Literal["digits"]


class PythonData(_Data):
    """A function of yours that returns images (n, height, width, 3) uint8, labels (n,) and, if it likes, class names."""

    source: Literal["python"]
    function: PythonName
    """module and function; tuner imports the module from its Python environment or the current folder"""


Data = Annotated[
    FolderData | ManifestData | NpzData | KerasData | TfdsData | AnimalsData | DigitsData | PythonData,
    Field(discriminator="source"),
]
