"""Folders: how images lie on a disk as people unpack them: classes, official splits and wrapping folders.

A folder contains a sub-folder for each class, or a sub-folder for each split with the classes inside, or each class contains the splits.
Where more than one reading is possible, the folder is refused.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner import errors
from tuner.tasks.images.data import dataset
from tuner.tasks.images.data.folder_files import (
    ClassFolder,
    LooseFiles,
    count_images,
    entries,
    image_files,
    listed,
    refuse_broken,
    say_labels,
    say_tables,
    shown,
    sub_folders,
)

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
#: wrapping folders around the classes; more are links to themselves
_DEEPEST = 8


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
    inner = sub_folders(here)
    for entry in entries(here):
        refuse_broken(entry)
    found = _find_splits(here, inner) or _find_classes(here, inner)
    unclear = "" if any(one.official for one in found.folders) else _say_shared(path, here, inner)
    loose = [LooseFiles.of(folder) for folder in [*passed, here, *found.seen]]
    wrapped = [f"the classes are in {shown(here)}"] if passed else []
    outside = [f"left out: {count_images(one.images)} outside the class folders, first {one.first}" for one in loose if one.images]
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
    inner = sub_folders(here)
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
    loose = LooseFiles.of(here)
    notes += [f"left out: {count_images(loose.images)} beside the splits {names}, first {loose.first}"] if loose.images else []
    places = [ClassFolder(path=entry.path, name="", official=sides[entry.name]) for entry in inner if entry.name in sides]
    return Layout(folders=tuple(one for one in places if one.official != _UNLABELED), notes=tuple(notes), others=loose.others)


def note_parts(folder: str, names: Iterable[str]) -> list[str]:
    """Return a note if all classes are named like parts of a data set, such as `images_1` and `labels_1`, as lines."""
    words = {name: set(re.findall("[a-z]+", name.lower())) for name in names}
    if not all(some and some <= _PARTS for some in words.values()) or not any(some & _FILLERS for some in words.values()):
        return []
    table = "" if say_tables(folder) else ". If a table names the classes, use data.source: manifest"
    return [
        f"the classes are {listed(sorted(words))}, but these are usual names of parts of a data set. If the names of the files contain the "
        f"classes, set data.class_pattern{table}"
    ]


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


def _unwrap(path: str) -> tuple[str, list[str]]:
    """Return the folder inside folders that contain nothing but one folder, and the folders passed; the folder itself if there is none."""
    here = path
    passed: list[str] = []
    while len(inner := sub_folders(here)) == 1 and len(passed) < _DEEPEST and not LooseFiles.of(here).images:
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
        folders = [] if role == _UNLABELED else sub_folders(place)
        if folders:
            _refuse_descriptions(place, {one.name: sub_folders(one.path) for one in folders})
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
            f"{_like_splits(here, names)}, but {shown(trained[0])} has no class folders, only {count_images(len(images))}; expected "
            f"{shown(trained[0])}/CLASS/image. {say_labels(place, images)}. If these are the classes, give them other names"
        )
    known = {dataset.nfc(one.name) for name in trained for one in classes.get(name, ())}
    for name, folders in classes.items():
        extra = [one for one in folders if dataset.nfc(one.name) not in known and image_files(one.path)[0]]
        if extra:
            raise errors.DataError(
                f"{shown(here)}: {shown(name)} has the class {listed(one.name for one in extra)}, which {shown(trained[0])} lacks; "
                f"its classes are {listed(one.name for one in classes[trained[0]])}. "
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
    inside = {dataset.nfc(one.name) for one in sub_folders(_unwrap(entry.path)[0])}
    if dataset.nfc(entry.name) in classes or inside & classes:
        raise errors.DataError(
            f"{shown(here)}: the sub-folders {names} look like splits, but {shown(entry.name)} beside them also contains images of their "
            f"classes; move {shown(entry.name)} away, or move its images into one of the splits"
        )


def _note_left_out(entry: os.DirEntry[str], why: str) -> list[str]:
    found, others = image_files(entry.path)
    parts = [count_images(len(found))] if found else []
    parts += [f"{dataset.count(others.total(), 'other file')} ({dataset.list_kinds(others)})"] if others else []
    return [f"left out: {' and '.join(parts)} in {shown(entry.path)}, {why}"] if parts else []


def _unwrap_split(entry: os.DirEntry[str]) -> tuple[str, list[str]]:
    """Return the folder with the classes of a split, which may be wrapped: `training_set/training_set/CLASS`."""
    place = entry.path
    passed: list[str] = []
    while len(inner := sub_folders(place)) == 1 and len(passed) < _DEEPEST:
        role, rest = role_of(inner[0].name)
        # test/test, or val/images
        is_named_alike = role == role_of(entry.name)[0] or (role is None and not rest)
        if not is_named_alike and (len(sub_folders(inner[0].path)) < 2 or LooseFiles.of(place).images):
            break
        passed.append(place)
        place = inner[0].path
    return place, passed


def _find_classes(here: str, inner: Sequence[os.DirEntry[str]]) -> _Found:
    """Return a folder for each class, or one for each split that the class folders contain: `cat/train`, `cat/test`."""
    inside = {entry.name: sub_folders(_unwrap(entry.path)[0]) for entry in inner}
    splits = {name: role for folders in inside.values() for name, role in _official_roles(folders).items()} if len(inner) > 1 else {}
    if not splits:
        _refuse_copy(here, inside)
        _refuse_descriptions(here, inside)
        folders = [ClassFolder(path=entry.path, name=entry.name, official=dataset.NONE) for entry in inner]
        return _Found(folders=folders, notes=_note_nested(inside), seen=[])
    for entry in inner:
        if not inside[entry.name] or any(one.name not in splits for one in inside[entry.name]) or LooseFiles.of(entry.path).images:
            first = next(name for name, folders in inside.items() if _official_roles(folders))
            raise errors.DataError(
                f"{shown(here)}: the sub-folders {listed(one.name for one in inside[first])} of {shown(first)} look like splits, but "
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
                f"{listed(shared)}, so it is not a class; move it away"
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
        f"{shown(here)}: the sub-folders {listed(list(inside))} look like images and their annotations, as for object detection, and not "
        f"like classes; tuner needs one class for each image. {cure}. If these are the classes, give them other names"
    )


def _say_shared(path: Path, here: str, inner: Sequence[os.DirEntry[str]]) -> str:
    """Say how to read sub-folders that all contain the same folders, as `color` and `grayscale` do; "" if they do not.

    Either may be the classes. Or the sub-folders are splits, or parts of the same images, under names that tuner does not know.
    """
    inside = {entry.name: {one.name for one in sub_folders(_unwrap(entry.path)[0])} for entry in inner}
    shared = sorted(set.intersection(*inside.values())) if len(inside) > 1 else []
    if len(shared) < 2:
        return ""
    above = "" if here == str(path) else f"{re.escape(shown(os.path.relpath(here, path)))}/"
    outer, within, first = listed(list(inside)), listed(shared), next(iter(inside))
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
        f"the images of the sub-folders of each class are put together, such as {listed(one.name for one in folders)} of {shown(name)}. If "
        "these are the classes, set data.class_pattern, or --class-pattern of tuner init, to '([^/]+)/[^/]+$'; if each contains the images "
        "of one patient or video, set data.group_pattern to '(.+)/'"
    ]
