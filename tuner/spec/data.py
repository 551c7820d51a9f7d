"""The `data` section of a study file: where images and labels come from, and how they are split."""

import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from tuner import machine, wording
from tuner.spec.clashes import Clash, Clashes
from tuner.spec.hyperparameters import TargetKind


class Section(BaseModel):
    """A part of a study file. It is frozen, and strict: neither `true` nor `"8"` is a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


def locate(given: str, info: ValidationInfo) -> Path:
    """Return a path with `~` and variables replaced, as the disk spells it; a relative path starts at the folder of the study file."""
    folder = (info.context or {}).get("folder")
    try:
        path = Path(_with_variables(given, Path(folder or "."))).expanduser()
    except RuntimeError as error:
        raise ValueError(f"is {wording.show(given)}, but this machine does not know that home folder; write the whole path") from error
    return existing(path if path.is_absolute() or folder is None else Path(folder).joinpath(path).resolve())


def _with_variables(given: str, folder: Path) -> str:
    """Return a path with `$NAME` and `${NAME}` replaced if it starts with a variable, unless there is a file of that name."""
    if not given.startswith("$") or os.path.lexists(folder / given):
        return given
    found = os.path.expandvars(given)
    unknown = re.search(r"\$(\w+)|\$\{(\w+)\}", found)
    if unknown:
        name = unknown[1] or unknown[2]
        raise ValueError(f"is {wording.show(given)}, but the environment has no variable {name}; set it, or write the whole path")
    return found


def existing(path: Path) -> Path:
    """Return the path of the file or folder that is there, if its name differs only in how Unicode composes a letter (NFC, NFD)."""
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if os.path.lexists(found / part):
            found /= part
            continue
        alike = [entry for entry in _entries(found) if unicodedata.normalize("NFC", entry.name) == unicodedata.normalize("NFC", part)]
        if len(alike) != 1:
            return path
        found = alike[0]
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def check_path(given: str) -> None:
    """Refuse a path of Windows and a URL.

    Raises:
        ValueError: it is one of these; the message is a clause that starts with a verb.
    """
    linux = machine.without_windows(given)
    if linux is not None:
        raise ValueError(f"is {wording.show(given)}, a path of Windows, but tuner runs on Linux; in WSL, write {linux}")
    scheme, separator, rest = given.partition("://")
    if separator and scheme.isalnum():
        cure = f"write {unquote(rest)}" if scheme.lower() == "file" else "download it first, and write the path of the download"
        raise ValueError(f"is {wording.show(given)}, a URL; expected a path of this machine: {cure}")


def _read_path(given: Any, info: ValidationInfo) -> Path:
    if isinstance(given, list | tuple):
        raise ValueError(f"is {wording.show(given)}; expected one path. Put the folders, or links to them, into one folder")
    if not isinstance(given, str | Path) or not str(given).strip():
        raise ValueError(f"is {wording.show(given)}; expected a path such as ~/photos")
    check_path(str(given))
    try:
        return locate(str(given), info)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"is {wording.show(given)}, which cannot be a path in the encoding {error.encoding} of this shell's locale; set PYTHONUTF8=1"
        ) from error


def name_function(given: Any) -> Any:
    """Return `module:function` for a function, which a program may give instead of its name; return everything else as it is."""
    if not callable(given):
        return given
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", "")
    if not module or not name.isidentifier():
        described = f"the function {name}" if name else f"a {type(given).__name__}"
        raise ValueError(f"is {described}, which has no name in a module; expected a function of a file: my_module:function")
    return f"{module}:{name}"


FilePath = Annotated[Path, PlainValidator(_read_path, json_schema_input_type=str)]
#: below 1: a fraction of all images; from 2: a number of images
Share = Annotated[float, Field(ge=0)]
#: natural: as class names are read and sorted now; earlier: as in studies of versions before this key
ClassOrder = Literal["natural", "earlier"]
PythonName = Annotated[
    str, BeforeValidator(name_function), Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", examples=["my_package.my_module:function"])
]


class _Data(Section):
    train: Share | None = None
    """images to train on; null: all images that are in no other split"""
    validation: Share = 0.15
    """images that choose the best trial"""
    test: Share = 0.15
    """images that measure the best trial, once"""
    validation_from: Literal["train"] | None = None
    """train: draw validation from the training images, even if the data has its own validation split; null: use its own"""

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

    @property
    def kind(self) -> TargetKind:
        """What a network learns of each image."""
        return TargetKind.LABEL


def _refuse(name: str, share: float | None) -> str | None:
    if share == 0 and name == "validation":
        return "is 0, but tuner needs validation images to choose the best trial; expected for example 0.15"
    if share == 0 and name == "train":
        return "is 0; remove it to train on all images that are in no other split"
    if share is not None and share >= 1 and (share == 1 or not share.is_integer()):
        return f"is {wording.number(share)}; expected a fraction below 1, or a whole number of images, at least 2"
    return None


def _check_pattern(given: str, info: ValidationInfo) -> str:
    is_class = info.field_name == "class_pattern"
    example = r"(\w+)[._]\d+" if is_class else r"(patient_\d+)"
    meaning = "The text in that part is the class" if is_class else "Images with the same text in that part belong together"
    expected = f"expected a regular expression with a part in parentheses, such as {example}"
    try:
        num_parts = re.compile(given).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is {given}, which is not a regular expression: {error}; {expected}") from error
    if not num_parts:
        raise ValueError(f"is {given}; {expected}. {meaning}")
    return given


#: a regular expression with a part in parentheses
Pattern = Annotated[str, AfterValidator(_check_pattern)]


def _read_range(given: Any) -> tuple[float, float] | str | None:
    if given is None or given == "auto":
        return given  # type: ignore[no-any-return]
    if isinstance(given, list | tuple) and len(given) == 2 and all(type(value) in (int, float) for value in given):
        low, high = (float(value) for value in given)
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise ValueError(f"is {wording.show(given)}; expected the lowest and the highest value, such as [0, 4095], or auto")


def _write_range(given: tuple[float, float] | str | None) -> list[float] | str | None:
    return list(given) if isinstance(given, tuple) else given


class _FileData(_Data):
    class_order: ClassOrder = "natural"
    """order of the class names; natural: numbers by value, Unicode in NFC; earlier: all names as tuner read them before it had this key"""
    value_range: Annotated[
        tuple[float, float] | Literal["auto"] | None,
        PlainValidator(_read_range, json_schema_input_type=list[float] | Literal["auto"] | None),
        PlainSerializer(_write_range, return_type=list[float] | str | None),
        Field(examples=[[0, 4095]]),
    ] = None
    """values that become black and white, the same for all images; auto: the lowest and the highest of all; null: those of the bit depth"""


class _TargetData(_FileData):
    labels: Annotated[Literal["one", "several"], Field(exclude_if=lambda value: value == "one")] = "one"
    """labels of an image: one, or several, which may be none; several labels of a cell have spaces, commas, semicolons or bars between"""
    target: Annotated[Literal["class", "number"], Field(exclude_if=lambda value: value == "class")] = "class"
    """what the labels are: names of classes, or a number to predict"""

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.target == "number" and self.labels == "several":
            message = "is several, but data.target is number, and an image has one number; remove one of the two"
            raise Clashes([Clash(field="labels", message=message, others=("target",))])
        return self

    @property
    def kind(self) -> TargetKind:
        """What a network learns of each image."""
        if self.target == "number":
            return TargetKind.NUMBER
        return TargetKind.LABELS if self.labels == "several" else TargetKind.LABEL


def keep_earlier_order(data: Any) -> Any:
    """Return a stored `data` section that has no `class_order`, because an earlier version wrote it, with the order of that version."""
    if not isinstance(data, Mapping) or "class_order" in data or data.get("source") not in ("folder", "manifest", "npz", "python"):
        return data
    return {**data, "class_order": "earlier"}


def _check_encoding(name: str) -> str:
    try:
        "a".encode(name)  # raises LookupError also for a codec that is not of text, such as base64
    except (LookupError, ValueError) as error:
        raise ValueError(f"is {wording.show(name)}; expected an encoding such as utf-8, utf-16, cp1252 or shift_jis") from error
    return name


def _read_patterns(given: Any) -> tuple[str, ...]:
    if isinstance(given, list | tuple) and all(isinstance(pattern, str) and pattern.strip("/ ") for pattern in given):
        return tuple(given)
    raise ValueError(f"is {wording.show(given)}; expected a list of names or shell patterns, such as [unsorted, '*_old']")


Ignored = Annotated[
    tuple[str, ...],
    PlainValidator(_read_patterns, json_schema_input_type=list[str]),
    PlainSerializer(list, return_type=list[str]),
]


class FolderData(_FileData):
    """A folder with one sub-folder of images a class."""

    source: Literal["folder"]
    path: Annotated[FilePath, Field(examples=["~/photos"])]
    """the folder of images; a relative path starts at the folder of the study file"""
    class_pattern: Annotated[Pattern, Field(examples=[r"(\w+)[._]\d+"])] | None = None
    """regular expression on the path below the folder; the text in its parentheses is the class; null: the sub-folders are the classes"""
    group_pattern: Annotated[Pattern, Field(examples=[r"(patient_\d+)"])] | None = None
    """regular expression on the path below the folder; images with the same text in its parentheses stay in one split"""
    ignore: Ignored = ()
    """names or shell patterns of folders and files to leave out, such as [unsorted, '*_old']; also of paths below the folder"""


class ManifestData(_TargetData):
    """A CSV or Parquet table with a column of images, or of their paths, and one of labels."""

    source: Literal["manifest"]
    path: Annotated[FilePath, Field(examples=["~/photos/labels.csv"])]
    """the table, such as .csv, .parquet or .jsonl"""
    root: FilePath | None = None
    """folder that relative image paths start from; null: the folder of the table"""
    image_column: str = "path"
    """name of the column with the paths or the names of the images, or the images themselves"""
    label_column: str = "label"
    """name of the column with the class names, or with the numbers"""
    label_columns: Annotated[Ignored, Field(exclude_if=lambda value: not value, examples=[["scab", "rust"]])] = ()
    """for several labels: names of columns of 0 and 1, one for each class; []: the label column names the classes of an image"""
    group_column: str | None = None
    """name of a column, such as patient_id; images with the same value stay in one split"""
    split_column: str | None = None
    """name of a column with the official split of each image, such as train, val or test; null: the splits are drawn"""
    ignore: Ignored = ()
    """names or shell patterns of classes and image paths to leave out, such as [unsure, '*_old.png']"""
    encoding: Annotated[str, AfterValidator(_check_encoding), Field(examples=["cp1252", "utf-16"])] | None = None
    """encoding of a .csv table; null: found from the table"""

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if not self.label_columns:
            return self
        columns = wording.show(list(self.label_columns))
        if self.labels != "several":
            message = f"is {columns}, a column for each class, but data.labels is one; set data.labels to several, or remove the columns"
            raise Clashes([Clash(field="label_columns", message=message, others=("labels",))])
        if "label_column" in self.model_fields_set:
            message = f"is {columns}, but data.label_column is {wording.show(self.label_column)}; remove one of the two"
            raise Clashes([Clash(field="label_columns", message=message, others=("label_column",))])
        if len(set(self.label_columns)) < len(self.label_columns):
            raise Clashes([Clash(field="label_columns", message=f"is {columns}, which names a column twice; name each column once")])
        return self


class NpzData(_TargetData):
    """Arrays of NumPy: `x` and `y`, or `x_train` and `y_train` with `x_val`, `y_val`, `x_test`, `y_test`; `classes` names the classes."""

    source: Literal["npz"]
    path: Annotated[FilePath, Field(examples=["~/photos.npz"])]
    """the .npz file"""
    group_column: str | None = None
    """name of an array, such as patients, or of patients_train and so on; images with the same value stay in one split"""


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


class PythonData(_TargetData):
    """A function of yours: images (n, height, width, 3) uint8, labels (n,) and, optionally, class names, or a dict of arrays."""

    source: Literal["python"]
    function: PythonName
    """module and function; tuner imports the module from its Python environment or the current folder"""
    group_column: str | None = None
    """name of an array in the dict that the function returns, such as patients; images with the same value stay in one split"""


Data = Annotated[
    FolderData | ManifestData | NpzData | KerasData | TfdsData | AnimalsData | DigitsData | PythonData,
    Field(discriminator="source"),
]


def moved(data: Data, to: Path) -> Data | None:
    """Return the section with its images at another path of this machine; None if it reads no files."""
    match data:
        case FolderData():
            return data.model_copy(update={"path": to})
        case NpzData():
            return data.model_copy(update={"path": _file_at(data.path, to)})
        case ManifestData():
            path = _file_at(data.path, to)
            return data.model_copy(update={"path": path, "root": _root_at(data, path)})
    return None


def _file_at(before: Path, to: Path) -> Path:
    """Return where a file is now: the given path, or the file of the same name if the path is a folder."""
    return to / before.name if to.is_dir() else to


def _root_at(data: ManifestData, path: Path) -> Path | None:
    """Return the root of a manifest's images: it moves together with the table if it is in the table's folder."""
    if data.root is None or not data.root.is_relative_to(data.path.parent):
        return data.root
    return Path(os.path.normpath(path.parent / data.root.relative_to(data.path.parent)))
