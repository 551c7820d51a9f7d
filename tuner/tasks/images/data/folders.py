"""Folders: how images lie on a disk as people unpack them: classes, official splits, wrapping folders, and what is left out.

A folder contains a sub-folder for each class, or a sub-folder for each split with the classes inside, or each class contains the splits.
Where more than one reading is possible, the folder is refused.
"""

import fnmatch
import itertools
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from tuner import errors, wording
from tuner.tasks.images.data import dataset, file_formats, image_file

#: roles of split folders that are no official splits: either validation or test, and images without classes
_EITHER, _UNLABELED = -1, -2
_ROLES = {
    "train": dataset.TRAIN, "training": dataset.TRAIN, "trn": dataset.TRAIN, "trainval": dataset.TRAIN,
    "val": dataset.VALIDATION, "valid": dataset.VALIDATION, "validation": dataset.VALIDATION, "validate": dataset.VALIDATION,
    "validating": dataset.VALIDATION, "dev": dataset.VALIDATION, "development": dataset.VALIDATION,
    "test": dataset.TEST, "testing": dataset.TEST, "tst": dataset.TEST,
    "eval": _EITHER, "evaluation": _EITHER, "holdout": _EITHER,
    "pred": _UNLABELED, "predict": _UNLABELED, "prediction": _UNLABELED, "predictions": _UNLABELED,
    "unlabeled": _UNLABELED, "unlabelled": _UNLABELED, "unsupervised": _UNLABELED, "inference": _UNLABELED,
}  # fmt: skip
#: words in the name of a split folder that say nothing about it
_FILLERS = frozenset({"set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "photos", "pictures", "folder", "dir"})
_FILLER_ENDING = re.compile(r"(?<=[a-z])(?:dataset|data|sets?|images?|imgs?)$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+")
#: folders that archives, network drives and operating systems create, in lower case
_LITTER = frozenset(
    {"__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "#recycle", "@recycle", "__pycache__", "#snapshot",
     "@recently-snapshot", "network trash folder", "temporary items", "recycler", "found.000"}
)  # fmt: skip
#: commands that unpack an archive into a folder, by the ending of its name; the first that fits
_UNPACK = {
    (".zip",): "unzip {archive} -d {folder}",
    (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst"):
        "mkdir {folder} && tar -xf {archive} -C {folder}",
    (".7z",): "7z x {archive} -o{folder}",
    (".rar",): "unrar x {archive} {folder}/",
    (".gz",): "gunzip -k {archive}",
    (".bz2",): "bunzip2 -k {archive}",
    (".xz",): "unxz -k {archive}",
    (".zst",): "unzstd {archive}",
}  # fmt: skip
_ARCHIVES = tuple(ending for endings in _UNPACK for ending in endings)
#: file name endings of tables
TABLES = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
#: names of folders that hold images of all classes, and of folders beside them that describe these images
_ALL_IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages", "jpegs", "photos", "pictures", "pics", "data"})
_DESCRIPTIONS = frozenset(
    {"annotations", "annotation", "labels", "label", "masks", "mask", "trimaps", "bboxes", "boxes", "imagesets", "lists", "segmentation",
     "segmentations", "segmentationclass", "segmentationobject", "groundtruth", "ground_truth", "gt", "metadata", "xmls"}
)  # fmt: skip
#: words in the names of folders that are parts of a data set
_PARTS = (
    _FILLERS | _ALL_IMAGES | _DESCRIPTIONS
    | {"attributes", "bbox", "csv", "docs", "edges", "ground", "json", "landmarks", "meta", "segmentation", "trimap", "truth", "txt", "xml"}
)  # fmt: skip
#: endings of files that are not opened to find images with wrong names, because data sets have one for each image
_DESCRIBING = frozenset({".txt", ".xml", ".json", ".csv"})
#: files that are opened at most to find images with wrong names
_MOST_OPENED = 1_000
#: files that other programs write for a data set, by their names, and how a study reads them
_OF_PROGRAMS = (
    (r"^dataset_dict\.json$", "It has splits of Hugging Face datasets: save each one as a table, for example with "
                             "datasets.load_from_disk(FOLDER)['train'].to_parquet('train.parquet'), and use data.source: manifest"),
    (r"\.arrow$", "It has .arrow files of Hugging Face datasets: save them as a table with "
                  "datasets.load_from_disk(FOLDER).to_parquet('images.parquet'), and use data.source: manifest"),
    (r"\.tfrecords?\b", "It has TFRecord files: for a data set of TensorFlow Datasets, use data.source: tfds with its name; otherwise "
                        "write a function that reads them, for data.source: python"),
    (r"\bt10k-|-idx[13]-ubyte", "It has files of MNIST: use data: {source: keras, name: mnist} or {source: keras, name: fashion_mnist}, "
                                "or write a function that reads them, for data.source: python"),
    (r"^data_batch_[1-5]", "It has files of CIFAR-10: use data: {source: keras, name: cifar10}"),
    (r"-[0-9]{4,}\.tar$", "Its archives are numbered as those of WebDataset: write a function that reads them, for data.source: python"),
    (r"\.npz$", "It has .npz files: for one with all images and labels, set data.source: npz and data.path to the file"),
    (r"\.(lmdb|mdb|rec|beton|h5|hdf5|mat)$", "To read its files, write a function for data.source: python"),
)  # fmt: skip
#: where a file name contains its class: `cats.0.jpg`, `dog_12.png`, `0001_cat.jpg`, `cat_front.jpg`
_CLASS_PATTERNS = (
    r"(?:^|/)([A-Za-z]+)[._-]\d+[.]\w+$",
    r"([^/]*[^/ ._-])[ ._-]*[ ._(-]\d+\)?\.\w+$",
    r"(?:^|/)([^/\d]*[^/\d ._-])[ ._-]*\d[^/]*$",
    r"\d[ ._-]+([^/\d]+)\.\w+$",
    r"([^/ ._-]+)[ ._-][^/]*[.]\w+$",
)
#: share of the names that contain a class; the other images are refused by name until they are moved away
_LEAST_SHARE = 0.95
#: images of a class, on average, that make a name likely
_LEAST_OF_CLASS = 2
#: wrapping folders around the classes; more are links to themselves
_DEEPEST = 8
#: names in a message
_NAMED = 5


@dataclass(kw_only=True)
class LeftOut:
    """The folders and files below a folder that a study ignores, found while the folder is read."""

    #: the folder, or the table
    origin: str
    patterns: tuple[str, ...]
    #: what was left out, by the pattern that matched first
    found: dict[str, set[str]] = field(default_factory=dict)

    def matches(self, *names: str) -> bool:
        """Return whether a pattern matches one of the names; note the first one."""
        plain = [dataset.nfc(name) for name in names]
        for pattern in self.patterns:
            wanted = dataset.nfc(pattern).strip("/")
            if any(fnmatch.fnmatchcase(name, wanted) for name in plain):
                self.found.setdefault(pattern, set()).add(names[0])
                return True
        return False

    def note(self, what: str) -> tuple[str, ...]:
        """Return a note on what was left out.

        Raises:
            DataError: a pattern matches nothing.
        """
        unused = [pattern for pattern in self.patterns if pattern not in self.found]
        if unused:
            raise errors.DataError(
                f"data.ignore has {shown(unused[0])}, which matches no {what} of {shown(self.origin)}; correct it, or remove it"
            )
        return self.named()

    def named(self) -> tuple[str, ...]:
        """Return the names of what was left out so far, as a note; none if nothing was."""
        names = sorted(set().union(*self.found.values()))
        return (f"left out by data.ignore: {_list(names)}",) if names else ()


#: what the reading of folders leaves out
_LEFT_OUT: ContextVar[LeftOut | None] = ContextVar("_LEFT_OUT", default=None)


@contextmanager
def leaving_out(path: Path, patterns: tuple[str, ...]) -> Iterator[LeftOut]:
    """Read folders as if what matches a pattern were not there, inside a `with` block."""
    left_out = LeftOut(origin=str(path), patterns=patterns)
    token = _LEFT_OUT.set(left_out if patterns else None)
    try:
        yield left_out
    finally:
        _LEFT_OUT.reset(token)


@dataclass(frozen=True, kw_only=True)
class ClassFolder:
    """A folder with images of one class, and of one split if the data has official splits."""

    path: str
    name: str
    official: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The class folders below a folder, and what is left out."""

    folders: tuple[ClassFolder, ...]
    #: facts for the user, one line each
    notes: tuple[str, ...] = ()
    #: number of files outside the class folders that are not images, by the ending of their names
    others: Mapping[str, int]
    #: why the folder has several readings, and how to choose one; "" if it has one
    unclear: str = ""


def find(path: Path) -> Layout:
    """Find the class folders below a folder.

    Raises:
        DataError: the folder cannot be read, or its sub-folders can be understood in several ways.
    """
    here, passed = _unwrap(str(path))
    inner = _sub_folders(here)
    for entry in _entries(here):
        _refuse_broken(entry)
    found = _find_splits(here, inner) or _find_classes(here, inner)
    unclear = "" if any(one.official for one in found.folders) else _say_shared(path, here, inner)
    loose = [_Loose.of(folder) for folder in [*passed, here, *found.seen]]
    wrapped = [f"the classes are in {shown(here)}"] if passed else []
    outside = [f"left out: {_count_images(one.images)} outside the class folders, first {one.first}" for one in loose if one.images]
    return Layout(
        folders=tuple(found.folders),
        notes=tuple(wrapped + found.notes + outside),
        others=sum((one.others for one in loose), Counter()),
        unclear=unclear,
    )


def find_places(path: Path) -> Layout:
    """Find the folders that contain images of any class, without a folder for each class: those of official splits, or the folder itself.

    Raises:
        DataError: the folder cannot be read, or its sub-folders can be understood in several ways.
    """
    here, _ = _unwrap(str(path))
    inner = _sub_folders(here)
    sides = _split_roles(inner)
    if not sides:
        return Layout(folders=(ClassFolder(path=str(path), name="", official=dataset.NONE),), others={})
    names = ", ".join(shown(name) for name in sides)
    sides = _decide_either(here, sides, names)
    _check_trained(here, sides, names)
    notes = []
    for entry in inner:
        if sides.get(entry.name, _UNLABELED) == _UNLABELED:
            notes += _note_left_out(entry, f"which is not one of the labeled splits {names}")
    loose = _Loose.of(here)
    notes += [f"left out: {_count_images(loose.images)} beside the splits {names}, first {loose.first}"] if loose.images else []
    places = [ClassFolder(path=entry.path, name="", official=sides[entry.name]) for entry in inner if entry.name in sides]
    return Layout(folders=tuple(one for one in places if one.official != _UNLABELED), notes=tuple(notes), others=loose.others)


Identity = tuple[int, int]


class Walk:
    """Reads the image files below several folders, and refuses links through which images would get two classes or splits."""

    def __init__(self, root: Path) -> None:
        """`root` contains the folders."""
        above = [root.resolve(), *root.resolve().parents]
        self._above = {_identity(str(folder)): str(folder) for folder in above}
        self._owners: dict[Identity, tuple[ClassFolder, str]] = {}

    def image_files(self, folder: ClassFolder) -> tuple[list[str], Counter[str]]:
        """Return the image files below a folder, and the numbers of other files by ending.

        Raises:
            DataError: a link leads to a folder of another class or split, or to a folder that contains all of them.
        """

        def enter(here: str, identity: Identity) -> None:
            if identity in self._above and (here != folder.path or folder.name):
                raise errors.DataError(
                    f"{shown(here)} is a link to {shown(self._above[identity])}, which contains the whole data set, so "
                    f"{shown(folder.path)} would get images of all classes; remove the link"
                )
            owner, place = self._owners.setdefault(identity, (folder, here))
            if (owner.name, owner.official) != (folder.name, folder.official):
                raise errors.DataError(
                    f"{shown(place)} and {shown(here)} are the same folder, because one is a link or contains one, so its images would be "
                    f"in {shown(owner.path)} and in {shown(folder.path)}; remove the link"
                )

        return image_files(folder.path, enter=enter)


def image_files(folder: str, *, enter: Callable[[str, Identity], None] | None = None) -> tuple[list[str], Counter[str]]:
    """Return the image files below a folder, and the numbers of other files by ending; read a folder with several links once.

    `enter` is called with each folder before it is read, and may refuse it.
    """
    found: list[str] = []
    others: Counter[str] = Counter()
    seen, waiting = set(), [folder]
    while waiting:
        here = waiting.pop()
        identity = _identity(here)
        if identity in seen:
            continue
        if enter is not None:
            enter(here, identity)
        seen.add(identity)
        for entry in _scan(here):
            if enter is not None:
                _refuse_broken(entry)
            if _is_folder(entry):
                waiting.append(entry.path)
            elif _is_image(entry):
                found.append(entry.path)
            else:
                others[ending(entry.name)] += 1
    return found, others


def say_misnamed(places: Iterable[str], endings: Iterable[str]) -> list[str]:
    """Say which files below folders are images by their content and not by their names, given the endings of other files, as lines."""
    odd = set(endings) - _DESCRIBING - file_formats.FOREIGN_SUFFIXES.keys() - set(_ARCHIVES)
    if not odd:
        return []
    opened = list(itertools.islice((path for place in places for path in _others(place) if ending(Path(path).name) in odd), _MOST_OPENED))
    found = [path for path in opened if _is_known(path)]
    if not found:
        return []
    kind = ending(Path(found[0]).name)
    alike = [path for path in opened if ending(Path(path).name) == kind]
    folder = shlex.quote(shown(os.path.commonpath([Path(path).parent for path in alike])))
    wanted = "! -name '*.*'" if kind == "without ending" else f"-name {shlex.quote(f'*{kind}')}"
    command = f", for example with: find {folder} -type f {wanted} -exec mv {{}} {{}}.jpg ';'" if set(alike) <= set(found) else ""
    least = "at least " if len(opened) == _MOST_OPENED else ""
    return [
        f"not read, because their names do not end like those of images: {least}{_count_images(len(found))}, first {shown(found[0])}; let "
        f"their names end in .jpg (tuner finds the format in the file){command}"
    ]


def _others(folder: str) -> Iterator[str]:
    """Yield the files below a folder that are not images by their names."""
    for entry in _scan(folder):
        if _is_folder(entry) and not entry.is_symlink():
            yield from _others(entry.path)
        elif not _is_folder(entry) and not _is_image(entry):
            yield entry.path


def _is_known(path: str) -> bool:
    try:
        if not Path(path).is_file():  # a pipe would wait for its other end
            return False
        with Path(path).open("rb") as file:
            return file_formats.is_known(file.read(16))
    except OSError:
        return False


def say_programs(path: Path) -> list[str]:
    """Say how a study reads a data set that another program wrote, by the names of the files in a folder and its sub-folders, as lines."""
    names = [entry.name for folder in [str(path), *_paths(path)] for entry in _scan(folder)]
    return [cure for pattern, cure in _OF_PROGRAMS if any(re.search(pattern, name, re.IGNORECASE) for name in names)][:1]


def ending(name: str) -> str:
    """Return the kind of a file by its name: `.txt`, or `without ending`."""
    return image_file.printable(Path(name).suffix.lower()) or "without ending"


def say_loose(path: Path) -> str:
    """Name the images and archives directly inside a folder that has no sub-folders, as the end of a clause."""
    entries = _scan(path)
    if count := sum(_is_image(entry) for entry in entries):
        return f", but {count} images directly inside it"
    archives = [entry.path for entry in entries if is_archive(Path(entry.name))]
    if not archives:
        others = others_inside(path)
        return f", but other files ({dataset.list_kinds(others)})" if others else ""
    what = "the archive" if len(archives) == 1 else f"{len(archives)} archives, first"
    return f", but {what} {shown(Path(archives[0]).name)}; unpack {'it' if len(archives) == 1 else 'each'} with: {unpack(archives[0])}"


def others_inside(path: Path) -> Counter[str]:
    """Return the numbers of files directly inside a folder that are not images, by ending."""
    return _Loose.of(str(path)).others


def images_inside(path: Path) -> list[str]:
    """Return the image files directly inside a folder."""
    return [entry.path for entry in _scan(path) if _is_image(entry)]


def say_archives(path: Path, endings: Iterable[str]) -> str:
    """Say which archives are in a folder or directly inside its sub-folders, given the endings of its files; "" if there are none."""
    if not set(endings) & set(_ARCHIVES):
        return ""
    found = [entry.path for folder in [str(path), *_paths(path)] for entry in _scan(folder) if is_archive(Path(entry.name))]
    if not found:
        return ""
    return f"not read: {dataset.count(len(found), 'archive')}, first {shown(found[0])}; unpack it with: {unpack(found[0])}"


def _paths(path: Path) -> list[str]:
    return [entry.path for entry in _sub_folders(str(path))]


def is_archive(path: Path) -> bool:
    """Return whether a file is named like an archive."""
    return path.name.lower().endswith(_ARCHIVES)


def unpack(archive: str) -> str:
    """Return the command that unpacks an archive into a folder beside it."""
    ending, command = next((ending, text) for endings, text in _UNPACK.items() for ending in endings if archive.lower().endswith(ending))
    return command.format(archive=shlex.quote(shown(archive)), folder=shlex.quote(shown(archive[: -len(ending)])))


def class_patterns(paths: Iterable[str]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield the usual regular expressions that find a class in nearly all file names, with the classes and their numbers of files."""
    names = [dataset.nfc(shown(Path(path).name)) for path in paths]
    for pattern in _CLASS_PATTERNS:
        matches = [re.search(pattern, name) for name in names]
        counts = Counter(match[1] for match in matches if match)
        if counts.total() >= _LEAST_SHARE * len(names) and 2 <= len(counts) <= len(names) / _LEAST_OF_CLASS:
            yield pattern, sorted(counts.items())


def say_labels(folder: str, paths: Sequence[str]) -> str:
    """Say how a study can read images whose classes are in the names of their files, or in a table in a folder, as sentences."""
    tables = say_tables(folder)
    return f"{_say_pattern(paths)}. {tables[0] if tables else 'If a table names the classes, use data.source: manifest'}"


def say_tables(folder: str) -> list[str]:
    """Return a sentence on the tables directly inside a folder, which may have the labels; none if there are no tables."""
    found = [entry.name for entry in _scan(folder) if Path(entry.name).suffix.lower() in TABLES]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [f"{shown(folder)} has the table {shown(found[0])}{more}: if it has the labels, use data.source: manifest"] if found else []


def note_parts(folder: str, names: Iterable[str]) -> list[str]:
    """Return a note if all classes are named like parts of a data set, such as `images_1` and `labels_1`, as lines."""
    words = {name: set(re.findall("[a-z]+", name.lower())) for name in names}
    if not all(some and some <= _PARTS for some in words.values()) or not any(some & _FILLERS for some in words.values()):
        return []
    table = "" if say_tables(folder) else ". If a table names the classes, use data.source: manifest"
    return [
        f"the classes are {_list(sorted(words))}, but these are usual names of parts of a data set. If the names of the files contain the "
        f"classes, set data.class_pattern{table}"
    ]


def _say_pattern(paths: Sequence[str]) -> str:
    found = next(class_patterns(paths), None)
    if found is None:
        return f"If the name of each file contains its class, set data.class_pattern, such as {_CLASS_PATTERNS[0]}"
    pattern, classes = found
    named = ", ".join(f"{wording.visible(wording.shorten(name))} {count:,}" for name, count in classes[:_NAMED])
    more = f" and {len(classes) - _NAMED:,} more" if len(classes) > _NAMED else ""
    return (
        f"If the names of the files contain the classes ({named}{more}), set data.class_pattern, or --class-pattern of tuner init, to "
        f"'{pattern}'"
    )


def shown(path: str) -> str:
    """Return a path or a name as text for messages."""
    return image_file.printable(path)


def role_of(name: str) -> tuple[int | None, tuple[str, ...]]:
    """Return the split that a name stands for, and its other words: `seg_train` is TRAIN with the word `seg`.

    None: the name is not one of a split, or of several.
    """
    words = [_FILLER_ENDING.sub("", word.lower()) or word.lower() for word in _WORD.findall(name)]
    roles = {_ROLES[word] for word in words if word in _ROLES}
    rest = tuple(word for word in words if word not in _ROLES and word not in _FILLERS)
    return (roles.pop() if len(roles) == 1 else None), rest


def official_splits(names: Sequence[str]) -> dict[str, int]:
    """Return the names that are those of official splits, with the split; `eval` is the one of validation and test that is left."""
    found = {name: role for name in names for role, rest in [role_of(name)] if role is not None and role != _UNLABELED and not rest}
    missing = {dataset.VALIDATION, dataset.TEST} - set(found.values())
    last = missing.pop() if len(missing) == 1 else None
    sides = {name: last if role == _EITHER else role for name, role in found.items()}
    return {name: side for name, side in sides.items() if side is not None}


@dataclass(frozen=True, kw_only=True)
class _Found:
    folders: list[ClassFolder]
    notes: list[str]
    #: folders above the class folders, whose own files are left out
    seen: list[str]


@dataclass(frozen=True, kw_only=True)
class _Loose:
    """The files directly inside a folder that contains class folders."""

    images: int
    first: str
    others: Counter[str]

    @classmethod
    def of(cls, folder: str) -> "_Loose":
        files = [entry for entry in _scan(folder) if not _is_folder(entry)]
        images = [entry.path for entry in files if _is_image(entry)]
        others = Counter(ending(entry.name) for entry in files if not _is_image(entry))
        return cls(images=len(images), first=shown(images[0]) if images else "", others=others)


def _unwrap(path: str) -> tuple[str, list[str]]:
    """Return the folder inside folders that contain nothing but one folder, and the folders passed; the folder itself if there is none."""
    here = path
    passed: list[str] = []
    while len(inner := _sub_folders(here)) == 1 and len(passed) < _DEEPEST and not _Loose.of(here).images:
        passed.append(here)
        here = inner[0].path
    return (here, passed) if len(inner) > 1 else (path, [])


def _find_splits(here: str, inner: Sequence[os.DirEntry[str]]) -> _Found | None:
    """Return the class folders inside split folders; None if the sub-folders are not named like splits."""
    sides = _split_roles(inner)
    if not sides:
        return None
    names = ", ".join(shown(name) for name in sides)
    sides = _decide_either(here, sides, names)
    classes: dict[str, list[ClassFolder]] = {}
    notes, seen = [], []
    for entry in (one for one in inner if one.name in sides):
        role = sides[entry.name]
        place, passed = _unwrap_split(entry)
        folders = [] if role == _UNLABELED else _sub_folders(place)
        if folders:
            _refuse_descriptions(place, {one.name: _sub_folders(one.path) for one in folders})
            seen += [*passed, place]
            classes[entry.name] = [ClassFolder(path=one.path, name=one.name, official=role) for one in folders]
        else:
            notes += _note_left_out(entry, "which has no class folders")
    _check_splits(here, sides, classes, names)
    known = {dataset.nfc(one.name) for folders in classes.values() for one in folders}
    for entry in inner:
        if entry.name not in sides:
            _refuse_ambiguous(here, entry, known, names)
            notes += _note_left_out(entry, f"which is not one of the splits {names}")
    return _Found(folders=[one for folders in classes.values() for one in folders], notes=notes, seen=seen)


def _split_roles(inner: Sequence[os.DirEntry[str]]) -> dict[str, int]:
    """Return the sub-folders that are named like splits and otherwise alike, with their roles; none if there are fewer than two splits."""
    by_rest: dict[tuple[str, ...], dict[str, int]] = {}
    for entry in inner:
        role, rest = role_of(entry.name)
        if role is not None:
            by_rest.setdefault(rest, {})[entry.name] = role
    several = [sides for sides in by_rest.values() if len(set(sides.values())) > 1]
    return max(several, key=len) if several else {}


def _decide_either(here: str, sides: dict[str, int], names: str) -> dict[str, int]:
    """Return the splits, with `evaluation` as the one of validation and test that is not there."""
    missing = {dataset.VALIDATION, dataset.TEST} - set(sides.values())
    if _EITHER not in sides.values():
        return sides
    if len(missing) != 1:
        unclear = next(name for name, role in sides.items() if role == _EITHER)
        raise errors.DataError(
            f"{shown(here)}: the sub-folders {names} look like splits, but {shown(unclear)} can be validation or test; "
            "rename it to validation or test"
        )
    return {name: missing.copy().pop() if role == _EITHER else role for name, role in sides.items()}


def _check_splits(here: str, sides: Mapping[str, int], classes: Mapping[str, Sequence[ClassFolder]], names: str) -> None:
    """Refuse splits that no study can train on."""
    trained = _check_trained(here, sides, names)
    if not any(name in classes for name in trained):
        images = image_files(f"{here}/{trained[0]}")[0]
        place = next((folder for folder in (here, f"{here}/{trained[0]}") if say_tables(folder)), here)
        raise errors.DataError(
            f"{_like_splits(here, names)}, but {shown(trained[0])} has no class folders, only {_count_images(len(images))}; expected "
            f"{shown(trained[0])}/CLASS/image. {say_labels(place, images)}. If these are the classes, give them other names"
        )
    known = {dataset.nfc(one.name) for name in trained for one in classes.get(name, ())}
    for name, folders in classes.items():
        extra = [one for one in folders if dataset.nfc(one.name) not in known and image_files(one.path)[0]]
        if extra:
            raise errors.DataError(
                f"{shown(here)}: {shown(name)} has the class {_list(one.name for one in extra)}, which {shown(trained[0])} lacks; "
                f"its classes are {_list(one.name for one in classes[trained[0]])}. "
                "Rename the folders so that a class has one name in all splits, or move the folder away"
            )


def _check_trained(here: str, sides: Mapping[str, int], names: str) -> list[str]:
    """Return the splits for training; refuse splits without one."""
    trained = [name for name, role in sides.items() if role == dataset.TRAIN]
    if not trained:
        raise errors.DataError(f"{_like_splits(here, names)}, but none is for training; name one train, or give the classes other names")
    return trained


def _like_splits(here: str, names: str) -> str:
    return f"{shown(here)}: the sub-folders {names} look like splits and not like classes"


def _refuse_ambiguous(here: str, entry: os.DirEntry[str], classes: set[str], names: str) -> None:
    """Refuse a folder beside the splits that may contain more images of their classes."""
    inside = {dataset.nfc(one.name) for one in _sub_folders(_unwrap(entry.path)[0])}
    if dataset.nfc(entry.name) in classes or inside & classes:
        raise errors.DataError(
            f"{shown(here)}: the sub-folders {names} look like splits, but {shown(entry.name)} beside them also contains images of their "
            f"classes; move {shown(entry.name)} away, or move its images into one of the splits"
        )


def _note_left_out(entry: os.DirEntry[str], why: str) -> list[str]:
    found, others = image_files(entry.path)
    parts = [_count_images(len(found))] if found else []
    parts += [f"{dataset.count(others.total(), 'other file')} ({dataset.list_kinds(others)})"] if others else []
    return [f"left out: {' and '.join(parts)} in {shown(entry.path)}, {why}"] if parts else []


def _unwrap_split(entry: os.DirEntry[str]) -> tuple[str, list[str]]:
    """Return the folder with the classes of a split, which may be wrapped: `training_set/training_set/CLASS`."""
    place = entry.path
    passed: list[str] = []
    while len(inner := _sub_folders(place)) == 1 and len(passed) < _DEEPEST:
        role, rest = role_of(inner[0].name)
        # test/test, or val/images
        is_named_alike = role == role_of(entry.name)[0] or (role is None and not rest)
        if not is_named_alike and (len(_sub_folders(inner[0].path)) < 2 or _Loose.of(place).images):
            break
        passed.append(place)
        place = inner[0].path
    return place, passed


def _find_classes(here: str, inner: Sequence[os.DirEntry[str]]) -> _Found:
    """Return a folder for each class, or one for each split that the class folders contain: `cat/train`, `cat/test`."""
    inside = {entry.name: _sub_folders(_unwrap(entry.path)[0]) for entry in inner}
    splits = {name: role for folders in inside.values() for name, role in _official_roles(folders).items()} if len(inner) > 1 else {}
    if not splits:
        _refuse_copy(here, inside)
        _refuse_descriptions(here, inside)
        folders = [ClassFolder(path=entry.path, name=entry.name, official=dataset.NONE) for entry in inner]
        return _Found(folders=folders, notes=_note_nested(inside), seen=[])
    for entry in inner:
        if not inside[entry.name] or any(one.name not in splits for one in inside[entry.name]) or _Loose.of(entry.path).images:
            first = next(name for name, folders in inside.items() if _official_roles(folders))
            raise errors.DataError(
                f"{shown(here)}: the sub-folders {_list(one.name for one in inside[first])} of {shown(first)} look like splits, but "
                f"{shown(entry.name)} is arranged in another way; expected only splits such as train and test in every class, or in none. "
                f"If {shown(first)} contains the whole data set, set data.path to it"
            )
    found = [ClassFolder(path=one.path, name=entry.name, official=splits[one.name]) for entry in inner for one in inside[entry.name]]
    return _Found(folders=found, notes=[], seen=[entry.path for entry in inner])


def _official_roles(folders: Sequence[os.DirEntry[str]]) -> dict[str, int]:
    """Return the roles of official splits, if one of them is for training."""
    roles = _split_roles(folders)
    is_usable = dataset.TRAIN in roles.values() and min(roles.values()) > dataset.NONE
    return roles if is_usable else {}


def _refuse_copy(here: str, inside: Mapping[str, Sequence[os.DirEntry[str]]]) -> None:
    """Refuse a sub-folder that contains the folders beside it once more, as some archives do."""
    names = {dataset.nfc(name) for name in inside}
    for name, folders in inside.items():
        shared = [one.name for one in folders if dataset.nfc(one.name) in names and dataset.nfc(one.name) != dataset.nfc(name)]
        if len(shared) > 1:
            raise errors.DataError(
                f"{shown(here)}: the sub-folder {shown(name)} contains folders with the names of classes beside it, "
                f"{_list(shared)}, so it is not a class; move it away"
            )


def _refuse_descriptions(here: str, inside: Mapping[str, Sequence[os.DirEntry[str]]]) -> None:
    """Refuse `images` beside `labels`, as data sets for object detection and segmentation have them."""
    places = [name for name in inside if name.lower() in _ALL_IMAGES]
    if len(places) != 1 or len(inside) < 2 or any(name.lower() not in _ALL_IMAGES | _DESCRIPTIONS for name in inside):
        return
    place = f"{here}/{places[0]}"
    cure = (
        f"If {shown(places[0])} contains the classes, set data.path to {shown(place)}"
        if len(inside[places[0]]) > 1
        else f"To read the images of {shown(place)}, set data.path to it. {say_labels(here, image_files(place)[0])}"
    )
    raise errors.DataError(
        f"{shown(here)}: the sub-folders {_list(list(inside))} look like images and their annotations, as for object detection, and not "
        f"like classes; tuner needs one class for each image. {cure}. If these are the classes, give them other names"
    )


def _say_shared(path: Path, here: str, inner: Sequence[os.DirEntry[str]]) -> str:
    """Say how to read sub-folders that all contain the same folders, as `color` and `grayscale` do; "" if they do not.

    Either may be the classes. Or the sub-folders are splits, or parts of the same images, under names that tuner does not know.
    """
    inside = {entry.name: {one.name for one in _sub_folders(_unwrap(entry.path)[0])} for entry in inner}
    shared = sorted(set.intersection(*inside.values())) if len(inside) > 1 else []
    if len(shared) < 2:
        return ""
    above = "" if here == str(path) else f"{re.escape(shown(os.path.relpath(here, path)))}/"
    outer, within, first = _list(list(inside)), _list(shared), next(iter(inside))
    return (
        f"{shown(here)}: the sub-folders {outer} all contain {within}, so either may be the classes. If {within} are, set "
        f"data.class_pattern, or --class-pattern of tuner init, to '([^/]+)/[^/]+$'; if {outer} are, to '^{above}([^/]+)/'. To read one of "
        f"the folders alone, set data.path to it, such as {shown(f'{here}/{first}')}. If they are splits, name them train, validation and "
        "test"
    )


def _note_nested(inside: Mapping[str, Sequence[os.DirEntry[str]]]) -> list[str]:
    """Return a note if the images of all classes are in several sub-folders, which may be the classes, as lines."""
    if len(inside) < 2 or any(len(folders) < 2 for folders in inside.values()):
        return []
    name, folders = next(iter(inside.items()))
    return [
        f"the images of the sub-folders of each class are put together, such as {_list(one.name for one in folders)} of {shown(name)}. If "
        "these are the classes, set data.class_pattern, or --class-pattern of tuner init, to '([^/]+)/[^/]+$'; if each contains the images "
        "of one patient or video, set data.group_pattern to '(.+)/'"
    ]


def _list(names: Iterator[str] | Sequence[str]) -> str:
    names = [shown(name) for name in names]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _count_images(number: int) -> str:
    return dataset.count(number, "image")


def _refuse_broken(entry: os.DirEntry[str]) -> None:
    """Refuse a broken link that seems to lead to a folder, because its images would be missing without a word."""
    if not entry.is_symlink() or Path(entry.name).suffix:
        return
    try:
        Path(entry.path).stat()
    except FileNotFoundError as error:
        target = shown(str(Path(entry.path).readlink()))
        raise errors.DataError(
            f"{shown(entry.path)} is a link to {target}, which does not exist; connect its disk, or remove the link"
        ) from error
    except OSError:  # a link to itself
        return


def _identity(folder: str) -> Identity:
    """Return what a folder and all links to it have in common."""
    try:
        status = Path(folder).stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return status.st_dev, status.st_ino


def _sub_folders(folder: str) -> list[os.DirEntry[str]]:
    return sorted((entry for entry in _entries(folder) if _is_folder(entry)), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Judge a file by its name; a broken link counts, so that it is reported as unreadable, but a pipe or device does not."""
    if Path(entry.name).suffix.lower() not in image_file.SUFFIXES:
        return False
    try:
        return entry.is_file() or not Path(entry.path).exists()
    except OSError:
        return True


def _scan(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name, without hidden ones."""
    return sorted(_entries(folder), key=lambda entry: entry.name)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LITTER]
    except OSError as error:
        raise _unreadable(folder, error) from error
    left_out = _LEFT_OUT.get()
    return found if left_out is None else [entry for entry in found if not left_out.matches(_below(entry, left_out), entry.name)]


def _below(entry: os.DirEntry[str], left_out: LeftOut) -> str:
    """Return the path of an entry below the folder that is read."""
    return entry.path.removeprefix(left_out.origin).lstrip("/")


def _unreadable(folder: str | Path, error: OSError) -> errors.DataError:
    return errors.DataError(f"the folder {shown(str(folder))} cannot be read ({error.strerror}); check its permissions")
