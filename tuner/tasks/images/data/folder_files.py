"""Folder files: the files and sub-folders below a folder, what a study ignores of them, and advice on files that it cannot read."""

import fnmatch
import itertools
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from tuner import errors, wording
from tuner.tasks.images.data import dataset, file_formats, image_file

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
        return (f"left out by data.ignore: {listed(names)}",) if names else ()


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
                refuse_broken(entry)
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
        f"not read, because their names do not end like those of images: {least}{count_images(len(found))}, first {shown(found[0])}; let "
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
    return LooseFiles.of(str(path)).others


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
    return [entry.path for entry in sub_folders(str(path))]


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


@dataclass(frozen=True, kw_only=True)
class LooseFiles:
    """The files directly inside a folder that contains class folders."""

    images: int
    first: str
    others: Counter[str]

    @classmethod
    def of(cls, folder: str) -> "LooseFiles":
        """Return those of a folder."""
        files = [entry for entry in _scan(folder) if not _is_folder(entry)]
        images = [entry.path for entry in files if _is_image(entry)]
        others = Counter(ending(entry.name) for entry in files if not _is_image(entry))
        return cls(images=len(images), first=shown(images[0]) if images else "", others=others)


def listed(names: Iterator[str] | Sequence[str]) -> str:
    """Return names as a text for a message, at most the first few."""
    names = [shown(name) for name in names]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def count_images(number: int) -> str:
    """Return a number of images in words."""
    return dataset.count(number, "image")


def refuse_broken(entry: os.DirEntry[str]) -> None:
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


def sub_folders(folder: str) -> list[os.DirEntry[str]]:
    """Return the sub-folders of a folder, sorted by name."""
    return sorted((entry for entry in entries(folder) if _is_folder(entry)), key=lambda entry: entry.name)


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
    return sorted(entries(folder), key=lambda entry: entry.name)


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what is directly inside a folder, without hidden files and what a study ignores."""
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
