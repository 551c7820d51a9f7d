"""Dataset: labeled images, with what identifies each image and the whole."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tuner import errors, wording
from tuner.spec import study
from tuner.spec.hyperparameters import TargetKind

Pixels = NDArray[np.uint8]
#: lowest and highest value of a pixel
ValueRange = tuple[float, float]
#: `data.value_range` of a study
WantedRange = ValueRange | Literal["auto"] | None
T = TypeVar("T")
#: values of `Dataset.official`
NONE, TRAIN, VALIDATION, TEST = range(4)
#: what programs write for a missing value, in lower case, and nobody calls a class
PLACEHOLDERS = frozenset({"nan", "-nan", "<na>", "#n/a", "nat", "#value!", "#ref!", "#name?", "#div/0!", "#null!", "<null>"})
#: what programs write for a missing value, in lower case, and a class may be called, too
_MAYBE_PLACEHOLDERS = frozenset({"null", "none", "na", "n/a", "nil", "undefined", "?", "-", "--", "."})
#: endings of files that a note lists
_MOST_KINDS = 5


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that was left out."""

    path: str
    reason: str
    #: its class
    label: str = ""


class PixelSource(Protocol):
    """Gives the pixels of images, one image at a time."""

    def read(self, index: int) -> Pixels:
        """Return the image as uint8 (height, width, 3)."""

    def name(self, index: int) -> str:
        """Return the name of the image for messages."""

    def map(self, function: Callable[[Pixels], T], indices: Sequence[int], *, least: int | None = None) -> Iterator[T]:
        """Yield the function's value for each image, in order, with a few images in memory at a time.

        With `least`, an image may be passed at a smaller size, with a shorter side of at least twice `least`.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images; pixels are read on demand."""

    #: names of the classes; a label is an index into it. Or the one name of what the numbers are
    classes: tuple[str, ...]
    #: int64 (n,); of several labels, 0 and 1 for each class, uint8 (n, classes); numbers are float64 (n,)
    labels: NDArray[Any]
    #: S32 (n,): SHA-256 of the decoded pixels and their shape; equal for identical images
    digests: NDArray[np.bytes_]
    #: int32 (n, 2): width and height in pixels
    sizes: NDArray[np.int32]
    images: PixelSource
    #: int8 (n,): the official split of each image, NONE, TRAIN, VALIDATION or TEST; None if the source has no splits
    official: NDArray[np.int8] | None = None
    #: int64 (n,): images with the same number belong together and stay in one split; None if each is on its own
    groups: NDArray[np.int64] | None = None
    #: images that were left out
    unreadable: tuple[Unreadable, ...] = ()
    #: number of files whose names are not those of images, by the ending of their names
    ignored: Mapping[str, int] = field(default_factory=dict)
    #: other facts for the user, one line each: what is left out, and how the source is understood
    remarks: tuple[str, ...] = ()
    #: number of copies of other images that were left out
    num_dropped: int = 0
    #: float64 (n, 3): lowest and highest value of each image before it became 8 bits, and its bits per channel; None: unknown
    levels: NDArray[np.float64] | None = None
    #: values that became 0 and 255; None: those of 8 or 16 bits
    value_range: ValueRange | None = None
    #: files of images in formats that are not read: format, class and number
    foreign: tuple[tuple[str, str, int], ...] = ()
    #: what an image is labeled with
    kind: TargetKind = TargetKind.LABEL

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of images of each class, or of images with a number."""
        return self.counts_of(np.arange(len(self)))

    def counts_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of images of each class among some rows, or of images with a number."""
        if self.kind is TargetKind.NUMBER:
            return np.array([len(rows)], np.int64)
        found = self.labels[rows]
        return (np.bincount(found, minlength=len(self.classes)) if found.ndim == 1 else found.sum(0)).astype(np.int64)

    def read(self, index: int) -> Pixels:
        """Return one image as uint8 (height, width, 3)."""
        return self.images.read(int(index))

    def name(self, index: int) -> str:
        """Return the name of an image for messages: its path or its number."""
        return self.images.name(int(index))


def check_classes(classes: Sequence[str], labels: NDArray[Any], *, origin: str, kind: TargetKind = TargetKind.LABEL) -> None:
    """Refuse labels that no network can learn from.

    Raises:
        DataError: there are no images, fewer than two classes, two classes with the same name, or a class without images; or all images
            have the same number.
    """
    if not len(labels):
        raise errors.DataError(f"{origin} has no images; expected at least one for each class")
    if kind is TargetKind.NUMBER:
        if np.ptp(labels) == 0:
            raise errors.DataError(
                f"{origin} has the number {wording.number(float(labels[0]))} for every image, so there is nothing to learn; check it"
            )
        return
    if kind is TargetKind.LABELS and not classes:
        raise errors.DataError(f"{origin} has no image with a label; expected at least one class. Check data.label_column")
    if kind is TargetKind.LABEL and len(classes) < 2:
        raise errors.DataError(f"{origin} has {count(len(classes), 'class', 'classes')} ({_first(classes)}); expected at least two")
    if len(set(classes)) < len(classes):
        doubles = [name for name, number in Counter(classes).items() if number > 1]
        raise errors.DataError(f"{origin} has two classes with the same name, {_first(doubles)}. Rename one of them")
    counts = np.bincount(labels, minlength=len(classes)) if labels.ndim == 1 else labels.sum(0)
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise errors.DataError(f"{origin} has no images of {_first(empty)}; add some, or leave the class out")


def name_classes(
    given: Sequence[str], order: study.ClassOrder, *, earlier: Callable[[set[str]], list[str]]
) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names among labels, in order, and for each label its index; `earlier` is the order of earlier versions.

    In the natural order, names that differ only in how Unicode composes a letter are one class, named in NFC.
    """
    spelled = list(given) if order == "earlier" else [nfc(name) for name in given]
    classes = earlier(set(spelled)) if order == "earlier" else sort_natural(set(spelled))
    numbers = {name: number for number, name in enumerate(classes)}
    return tuple(classes), [numbers[name] for name in spelled]


def nfc(name: str) -> str:
    """Return a name in the Unicode form NFC, in which names of classes, columns and files are compared."""
    return unicodedata.normalize("NFC", name)


def sort_natural(names: set[str]) -> list[str]:
    """Sort class names by value if all are numbers, otherwise as text in which digits count as numbers: `class 2`, `class 10`."""
    if all(re.fullmatch(r"[-+]?[0-9]+([.][0-9]+)?", name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names, key=lambda name: (_natural(name), name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a name as texts and numbers in turn; a number with more digits is larger."""
    parts = re.split("([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if number % 2 else (0, part) for number, part in enumerate(parts)]


def sort_earlier(names: set[str]) -> list[str]:
    """Sort the labels of a table or of arrays as earlier versions did: as numbers if all are digits, otherwise by character codes."""
    return sorted(names, key=lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else sorted(names)


def show_range(given: ValueRange) -> str:
    """Return a range of values as a study file gives it: `[0, 4095]`."""
    return f"[{wording.number(given[0])}, {wording.number(given[1])}]"


def known_range(low: float, high: float, *, origin: str) -> ValueRange:
    """Return the range that `data.value_range: auto` stands for.

    Raises:
        DataError: all values are the same.
    """
    if low >= high:
        raise errors.DataError(
            f"data.value_range is auto, but all pixels of {origin} are {wording.number(low)}; set it to the range of the values"
        )
    return float(low), float(high)


def scale(raw: NDArray[Any], limits: ValueRange) -> Pixels:
    """Map the values between two limits to 0 to 255, linearly and clipped; a value that is not a number becomes 0."""
    if raw.dtype == np.uint16 and raw.size > 65536:
        table = scale(np.arange(65536, dtype=np.int32), limits)
        return np.take(table, raw)
    low, high = limits
    parts = (np.nan_to_num(raw.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
    return np.round(255 * np.clip(parts, 0, 1)).astype(np.uint8)


def digest(pixels: Pixels) -> bytes:
    """Return the SHA-256 of an image (height, width, 3) and its shape."""
    height, width, _ = pixels.shape
    return hashlib.sha256(b"%d %d " % (height, width) + np.ascontiguousarray(pixels).data).digest()


def content_hash(digests: NDArray[np.bytes_], labels: NDArray[Any]) -> bytes:
    """Return a SHA-256 over labeled images, independent of their order."""
    if labels.ndim == 2 or labels.dtype.kind == "f":
        values = labels.astype("<f8") if labels.ndim == 2 else labels.astype("<f8")[:, None]
        rows = sorted(bytes(one) + value.tobytes() for one, value in zip(digests, values, strict=True))
        return hashlib.sha256(b"".join(rows)).digest()
    order = np.lexsort((labels, digests))
    return hashlib.sha256(digests[order].tobytes() + labels[order].astype("<i8").tobytes()).digest()


def notes(dataset: Dataset) -> list[str]:
    """Return notes on the images that a user should read before training, as lines."""
    lines = [f"left out because it cannot be read: {image.path}: {image.reason}" for image in dataset.unreadable[:5]]
    if len(dataset.unreadable) > 5:
        lines.append(f"… and {len(dataset.unreadable) - 5} more unreadable images")
    lines += note_ignored(dataset)
    lines += note_names(dataset)
    lines += note_foreign(dataset)
    if dataset.num_dropped:
        lines.append(f"left out because they are copies: {count(dataset.num_dropped, 'image')}")
    return lines + note_values(dataset) + note_copies(dataset)


def note_names(dataset: Dataset) -> list[str]:
    """Return notes on class names that may stand for one class, for several classes or for a missing label, as lines."""
    if dataset.kind is TargetKind.NUMBER:
        return []
    alike: dict[str, list[str]] = {}
    for name in dataset.classes:
        alike.setdefault(_plain(name), []).append(name)
    lines = [
        f"the class names {' and '.join(map(wording.show, group[:3]))} differ only in case, spaces, hyphens, quotes or zeros; if they are "
        "one class, give it one name"
        for group in alike.values()
        if len(group) > 1
    ][:_MOST_KINDS]
    counts = dict(zip(dataset.classes, dataset.counts.tolist(), strict=True))
    lines += [
        f"the class {wording.show(name)} has {count(counts[name], 'image')}, but programs write it for a missing value; if these images "
        "have no label, remove them"
        for name in dataset.classes
        if is_placeholder(name)
    ]
    joined = [name for name in dataset.classes if _joins(name, counts)]
    if joined:
        how_many = count(len(joined), "class joins", "classes join")
        lines.append(
            f"{how_many} other classes, first {wording.shorten(joined[0])}. tuner learns one class "
            "for each image, so images with several labels are a class of their own; if that is wrong, choose one label for each image, or "
            "set data.labels: several"
        )
    return lines


def is_placeholder(name: str) -> bool:
    """Return whether programs write a class name for a missing value."""
    return name.strip().casefold() in PLACEHOLDERS | _MAYBE_PLACEHOLDERS


def _plain(name: str) -> str:
    """Return a name without differences of case, spaces, signs between words, and zeros of numbers.

    Single letters are classes of handwriting, so their case counts.
    """
    given = unicodedata.normalize("NFKC", name).strip()
    given = given.strip("'\"`‘’“”„«»").strip() or given
    text = given if len(given) == 1 else given.casefold()
    if re.fullmatch(r"[-+]?[0-9]{1,15}([.][0-9]{1,15})?", text):
        return wording.number(float(text))
    words = re.sub(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])", "", text)  # `bigdog` and `big dog`, but not `1 0` and `10`
    words = re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", words).strip("_")
    return re.sub(r"(?<![0-9.])0+(?=[0-9])", "", words)


def _joins(name: str, known: Mapping[str, int]) -> bool:
    parts = [part.strip() for part in re.split(r"[|;,&+/]", name)]
    return len(parts) > 1 and all(part and part in known for part in parts)


def note_foreign(dataset: Dataset) -> list[str]:
    """Return notes on images in formats that are not read, by format and class, as lines."""
    lines = []
    for kind in sorted({kind for kind, _, _ in dataset.foreign}):
        found = by_class([(name, number) for other, name, number in dataset.foreign if other == kind], f"{kind} file")
        lines.append(f"not read, because tuner reads JPEG, PNG, WebP, BMP, GIF and TIFF: {found}; convert them to PNG")
    return lines


def note_values(dataset: Dataset) -> list[str]:
    """Return notes on values that use only a small part of their range, or that a given range cuts off, as lines."""
    levels = dataset.levels
    if levels is None or not len(levels):
        return []
    if dataset.value_range is not None:
        low, high = dataset.value_range
        num_cut = int(((levels[:, 0] < low) | (levels[:, 1] > high)).sum())
        seen = show_range((levels[:, 0].min(), levels[:, 1].max()))
        return [f"clipped to data.value_range {show_range((low, high))}: {count(num_cut, 'image')}; all values: {seen}"] if num_cut else []
    return [
        f"almost black: {count(number, 'image')} of {bits} bits with values from {low:,.0f} to {high:,.0f} of {2**bits - 1:,}. "
        f"Set data.value_range: {show_range(_range_of(high, bits))}, or auto"
        for bits, number, low, high in _almost_black(levels)
    ]


def suggest_range(dataset: Dataset) -> ValueRange | None:
    """Return the range that `note_values` names, if all images have one number of bits; None if they need no range."""
    found = [] if dataset.levels is None else _almost_black(dataset.levels)
    return _range_of(found[0][3], found[0][0]) if found and found[0][1] == len(dataset) else None


def _almost_black(levels: NDArray[np.float64]) -> list[tuple[int, int, float, float]]:
    """Return bits, number of images, lowest and highest value where images of these bits use only a small part of their range."""
    found = []
    for bits, enough in ((8, 64), (16, 32768)):
        chosen = levels[levels[:, 2] == bits]
        if len(chosen) and chosen[:, 1].max() < enough:
            found.append((bits, len(chosen), float(chosen[:, 0].min()), float(chosen[:, 1].max())))
    return found


def _range_of(high: float, bits: int) -> ValueRange:
    return 0.0, float(next((2**power - 1 for power in (1, 2, 4, 8, 10, 12, 14) if high < 2**power), 2**bits - 1))


def note_ignored(dataset: Dataset) -> list[str]:
    """Return notes on files and folders that were left out or need an explanation, as lines."""
    if not dataset.ignored:
        return list(dataset.remarks)
    files = count(sum(dataset.ignored.values()), "file")
    return [*dataset.remarks, f"ignored because of their names: {files} ({list_kinds(dataset.ignored)})"]


def list_kinds(files: Mapping[str, int]) -> str:
    """List numbers of files by the ending of their names, the most frequent first: `3 .txt, 1 .zip`."""
    ranked = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(number for _, number in ranked[_MOST_KINDS:])
    return ", ".join(f"{number:,} {kind}" for kind, number in ranked[:_MOST_KINDS]) + (f", {rest:,} others" if rest else "")


def note_copies(dataset: Dataset) -> list[str]:
    """Return notes on identical images, as lines."""
    _, group, sizes = np.unique(dataset.digests, return_inverse=True, return_counts=True)
    num_copies = int((sizes - 1).sum())
    lines = [f"in the same split as their originals: {count(num_copies, 'copy', 'copies')} of other images"] if num_copies else []
    labels = dataset.labels[:, None] if dataset.labels.ndim == 1 else dataset.labels
    first = np.zeros((len(sizes), labels.shape[1]), labels.dtype)
    first[group] = labels
    disputed = np.flatnonzero(np.bincount(group, weights=(labels != first[group]).any(1)))
    if len(disputed):
        names = [dataset.name(row) for row in np.flatnonzero(group == disputed[0]).tolist()]
        what = {TargetKind.LABEL: "label", TargetKind.LABELS: "set of labels", TargetKind.NUMBER: "number"}[dataset.kind]
        many = what.replace("set", "sets") if what.startswith("set") else f"{what}s"
        lines.append(f"with two {many}: {count(len(disputed), 'image')}, first {' = '.join(names[:3])}; decide which {what} is right")
    return lines


def describe_label(label: Any, classes: Sequence[str], kind: TargetKind) -> str:
    """Return the label of an image in words: a class, `scab + rust`, or a number."""
    if kind is TargetKind.NUMBER:
        return wording.number(float(f"{float(np.ravel(label)[0]):.6g}"))
    if kind is TargetKind.LABEL:
        return classes[int(label)]
    return " + ".join(name for name, is_own in zip(classes, label, strict=True) if is_own) or "no label"


def count(number: int, one: str, many: str | None = None) -> str:
    """Format a number of things: `1 image`, `2,000 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def by_class(found: Sequence[tuple[str, int]], noun: str, *, most: int = 5) -> str:
    """Return a number of things and of what names they have, the largest first: `12 HEIC files (Cat 10, Dog 2)`."""
    numbers: Counter[str] = Counter()
    for name, number in found:
        numbers[name] += number
    parts = [f"{wording.visible(name)} {number:,}" for name, number in numbers.most_common(most)]
    parts += [f"and {len(numbers) - most:,} more"] if len(numbers) > most else []
    inside = f" ({', '.join(parts)})" if parts else ""
    return count(numbers.total(), noun) + inside


def _first(names: Sequence[str], *, most: int = 5) -> str:
    return ", ".join(wording.cut(name) for name in names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def fingerprint(data: Dataset) -> str:
    """Return a SHA-256 in hex over images, labels and class names, independent of file names, folders and order."""
    names = json.dumps(data.classes).encode()
    return hashlib.sha256(names + content_hash(data.digests, data.labels)).hexdigest()
