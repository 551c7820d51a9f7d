"""Survey of a folder of images: what a user should know before a study, and a study file that suits the images."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import errors, wording
from tuner.spec import plan, study
from tuner.spec.data import existing
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import ImageMetric
from tuner.tasks.images.data import dataset, image_file, listings, resized, splits

_MOST_CLASSES = 20
#: side of the thumbnails by which images are compared
_THUMBNAIL = 16
#: images of the validation and test splits, and of the other splits, that are compared at most
_MOST_HELD, _MOST_OTHERS = 5_000, 15_000
#: two images are almost the same if the angle of their brightness gradients, as 1 - cosine, is at most this share of the usual one of the
#: data, which is small if all images show the same kind of part; small images have few details
_ALIKE, _ALIKE_SMALL = 0.1, 0.03
#: images of each side from which the usual angle is measured
_USUAL = 300
#: TIFF files that are opened at most to count their pages
_MOST_TIFFS = 200
_SMALL = 32
_AT_ONCE = 500
#: thumbnails with a shorter gradient show nothing
_PLAIN = 20.0
#: longer names move their number to the right
_WIDEST_NAME = 40
#: image sizes, each for images whose shorter side is at most the second number
_IMAGE_SIZES = ((96, 96), (128, 144), (160, 10**9))
#: maximum number of images, with trials and timeout for it
_BUDGETS = ((2_000, 60, "2h"), (10_000, 40, "6h"), (10**9, 30, "24h"))
#: minimum ratio of the sides at which stretching an image into a square distorts it too much
_ELONGATED = 1.6
_TEXT = """\
# {name}: {num_images} images of {num_classes} classes.
# Check it with `tuner check {file}`, run it with `tuner run {file}`.
# Keys that are left out have defaults; studies/template.yaml shows every key.
name: {name}

data:
  source: folder
  path: {path}
{reading}{shares}

# of a list of backbones or sizes, each trial chooses one: image_size: [96, 160]
model:
  backbone: efficientnet_lite0
  # {size_reason}
  image_size: {image_size}
  # {resize_reason}
  resize: {resize}

# the study ends when either is reached; target: 0.97 would also end it at that validation accuracy
budget:
  trials: {trials}
  timeout: {timeout}
{search}
# seed of the splits, the search and every trial
seed: 0
"""
_SHARE_COMMENT = (
    "  # shares of the images that choose the winner (validation) and score it once (test); values from 2 on are numbers of images"
)
_SEARCH = """
# accuracy says little about rare classes; without the #, every class counts alike: balanced_accuracy or macro_f1
# objective: balanced_accuracy

# the study searches the default space; keys given here replace their part of it
search:
  # the largest class has {imbalance:.0f} times as many images as the smallest
  class_weights: [none, balanced]
"""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Facts about a folder of images."""

    path: Path
    #: name and number of readable images of each class
    classes: tuple[tuple[str, int], ...]
    #: width and height of the smallest, the median and the largest image, by the shorter side
    sizes: tuple[tuple[int, int], ...]
    #: median of the longer side divided by the shorter side
    elongation: float
    #: images that cannot be read
    unreadable: tuple[dataset.Unreadable, ...]
    #: other facts, one line each
    notes: tuple[str, ...]
    #: names of the folder's own splits that a study uses, of validation and test
    own_splits: tuple[str, ...] = ()
    #: number of images of the folder's own validation split, if it is too small to choose by and a larger one can be drawn; 0 if not
    few_validation: int = 0
    #: regular expression that finds the class in the path of an image; None: the sub-folders are the classes
    class_pattern: str | None = None
    #: names or shell patterns of folders and files that are left out
    ignore: tuple[str, ...] = ()
    #: range of the values that the study file maps to black and white; None: that of the bit depth
    value_range: dataset.ValueRange | None = None
    #: what a user should decide before the study, one line each
    warnings: tuple[str, ...] = ()

    @property
    def num_images(self) -> int:
        """Number of readable images."""
        return sum(count for _, count in self.classes)

    @property
    def imbalance(self) -> float:
        """Images of the largest class for each image of the smallest."""
        counts = [count for _, count in self.classes]
        return max(counts) / max(1, min(counts))

    @property
    def is_usable(self) -> bool:
        """Whether a study can use the folder as it is."""
        total = self.num_images + len(self.unreadable)
        return len(self.unreadable) <= listings.MAX_UNREADABLE * total and min(count for _, count in self.classes) > 0


def survey(path: Path, *, cache: Path | None = None, class_pattern: str | None = None, ignore: tuple[str, ...] = ()) -> Survey:
    """Decode every image in a folder with one sub-folder for each class; a cache folder saves a later study this work.

    With a class pattern, the names of the files contain the classes. Unreadable images are counted, and any number of them is allowed.

    Raises:
        DataError: the folder does not exist, has fewer than two classes, or a class has no image files.
    """
    path = existing(path.expanduser().resolve())
    listing = listings.list_folder(path, class_pattern=class_pattern, ignore=ignore)
    raw = listings.inspect(listing, cache=cache)
    limits = dataset.suggest_range(raw)
    # the warnings are those of `tuner check` for the study file that this survey suggests
    found = raw if limits is None else listings.inspect(listing, cache=cache, value_range=limits)
    short, long = found.sizes.min(axis=1), found.sizes.max(axis=1)
    by_size = np.lexsort((long, short))
    positions = [0, len(by_size) // 2, -1] if len(by_size) else []
    own, few = _own_splits(found)
    return Survey(
        path=path,
        classes=tuple(zip(found.classes, found.counts.tolist(), strict=True)),
        sizes=tuple((int(width), int(height)) for width, height in found.sizes[by_size[positions]]) if positions else (),
        elongation=float(np.median(long / short)) if positions else 1.0,
        unreadable=found.unreadable,
        notes=tuple(_notes(raw, own, limits)),
        value_range=limits,
        own_splits=own,
        few_validation=few,
        class_pattern=class_pattern,
        ignore=ignore,
        warnings=tuple(_warnings(found, path, own, few, cache)),
    )


def _own_splits(found: dataset.Dataset) -> tuple[tuple[str, ...], int]:
    """Return the folder's own splits that a study uses, and the size of a validation split that is better drawn anew, or 0."""
    sides = np.zeros(0) if found.official is None else found.official
    sizes = {"validation": int((sides == dataset.VALIDATION).sum()), "test": int((sides == dataset.TEST).sum())}
    small = sizes["validation"]
    few = small if small < splits.FEW and small < _share(len(found)) * len(found) else 0
    return tuple(name for name, size in sizes.items() if size and not (few and name == "validation")), few


def _warnings(found: dataset.Dataset, path: Path, own: Sequence[str], few: int, cache: Path | None) -> list[str]:
    """Return what `tuner check` would warn about in the study file that suits the folder."""
    warned = []
    if few:
        step = splits.describe_step(few)
        warned = [f"{step}. The study file draws validation images from the training images instead: validation_from: train"]
    if not (found.counts > 0).all():
        return warned
    drawn: dict[str, Any] = {name: _share(len(found)) for name in _drawn(own)}
    data = study.FolderData(source="folder", path=path, validation_from="train" if few else None, value_range=found.value_range, **drawn)
    try:
        parts = splits.split(found, data, seed=0)
    except errors.DataError as error:
        return [*warned, str(error)]
    return warned + splits.notes(found, parts, data) + note_alike(found, parts, data, cache=cache)


def _drawn(own: Sequence[str]) -> list[str]:
    return [name for name in ("validation", "test") if name not in own]


def warnings(
    data: dataset.Dataset, parts: splits.Splits, shares: study.Data, *, cache: Path, metric: ImageMetric = "accuracy", num_folds: int = 1
) -> list[str]:
    """Return what a user should know of images and splits before training, as lines."""
    judged = splits.notes(data, parts, shares, metric, num_folds=num_folds)
    return [*dataset.notes(data), *note_pages(data), *judged, *note_alike(data, parts, shares, cache=cache)]


def note_pages(data: dataset.Dataset) -> list[str]:
    """Return a note if TIFF files have several pages, of which only the first is read, as lines. Of many files, some are opened."""
    sources = data.images.paths if isinstance(data.images, image_file.FileImages) else ()
    files = [path for path in sources if isinstance(path, str) and path.lower().endswith((".tif", ".tiff"))]
    opened = [files[row] for row in _spread(np.arange(len(files)), _MOST_TIFFS)]
    found = [path for path in opened if image_file.has_pages(path)]
    if not found:
        return []
    return [
        f"only the first page is read: {len(found):,} of {dataset.count(len(opened), 'TIFF file')} have several pages, first "
        f"{image_file.printable(found[0])}. If the other pages matter, save each page as a file of its own, and keep those of one file in "
        "one split with data.group_pattern or data.group_column"
    ]


def note_alike(data: dataset.Dataset, parts: splits.Splits, shares: study.Data, *, cache: Path | None) -> list[str]:
    """Return a note if images of different splits are almost the same, as photos of one burst or frames of one video are.

    The thumbnails are stored in the cache folder.
    """
    if isinstance(shares, study.AnimalsData | study.DigitsData):  # known data, without copies
        return []
    held = _spread(np.concatenate([parts.validation, parts.test]), _MOST_HELD)
    others = _spread(np.concatenate([parts.train, parts.validation]), _MOST_OTHERS)
    if not len(held) or not len(others):
        return []
    rows, places = np.unique(np.concatenate([held, others]), return_inverse=True)
    gradients = _gradients(data, rows, shares, cache)
    own = np.isin(held, parts.validation), np.isin(others, parts.validation)
    likeness, nearest = _nearest(gradients[places[: len(held)]], gradients[places[len(held) :]], own)
    small = np.minimum(data.sizes[held].min(axis=1), data.sizes[others[nearest]].min(axis=1)) < _SMALL
    found = np.flatnonzero(1 - likeness <= np.where(small, _ALIKE_SMALL, _ALIKE) * _usual(gradients[places]))
    if not len(found):
        return []
    first = sorted(found.tolist(), key=lambda index: -likeness[index])[:3]
    judged = "The accuracy on them is too high." if data.kind is TargetKind.LABEL else "The figures on them are too good."
    examples = "; ".join(f"{data.name(held[index])} and {data.name(others[nearest[index]])}" for index in first)
    return [
        f"almost the same in two splits: {len(found):,} of {dataset.count(len(held), 'validation and test image')}, "
        f"for example {examples}. {judged} {_cure(shares)}"
    ]


def _cure(shares: study.Data) -> str:
    belong = "If images belong together, as photos of one burst or one patient do,"
    match shares:
        case study.FolderData():
            return f"{belong} set data.group_pattern to a regular expression that finds the group in the path"
        case study.ManifestData():
            return f"{belong} set data.group_column to the column that names the group"
        case study.NpzData():
            return f"{belong} save an array of their groups, and set data.group_column to its name"
    if isinstance(shares, study.PythonData):
        return f"{belong} return a dict with an array of their groups, and set data.group_column to its name"
    return f"{belong} use data.source: manifest with data.group_column"


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most a number of rows, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _gradients(data: dataset.Dataset, rows: NDArray[np.int64], shares: study.Data, cache: Path | None) -> NDArray[np.float32]:
    """Return the differences of brightness between neighbours in thumbnails, each image with the length 1, or 0 if it is plain."""
    if cache is None:
        thumbnails: resized.ResizedImages = resized.Streamed(data=data, indices=rows, size=_THUMBNAIL, resize="stretch")
    else:
        words = {"data": shares.source, "size": str(_THUMBNAIL), "what": "thumbnails"}
        thumbnails = resized.load(data, rows, size=_THUMBNAIL, resize="stretch", cache=cache, words=words)
    gray = thumbnails[:].astype(np.float32).mean(axis=-1)
    steps = np.concatenate([np.diff(gray, axis=axis).reshape(len(gray), -1) for axis in (1, 2)], axis=1)
    length = np.linalg.norm(steps, axis=1, keepdims=True)
    found: NDArray[np.float32] = np.where(length < _PLAIN, 0, steps / np.maximum(length, _PLAIN))
    return found


def _usual(gradients: NDArray[np.float32]) -> float:
    """Return the usual distance of two images, as 1 - cosine."""
    some = gradients[_spread(np.arange(len(gradients)), _USUAL)]
    return 1 - max(0.0, float(np.median(some @ some.T)))


def _nearest(
    held: NDArray[np.float32], others: NDArray[np.float32], validation: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return for each image the likeness of the most similar one of another split, and its position.

    `validation` says of both which are in the validation split.
    """
    likeness, nearest = np.empty(len(held), np.float32), np.empty(len(held), np.int64)
    for start in range(0, len(held), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        cosines = held[part] @ others.T
        cosines[np.ix_(validation[0][part], validation[1])] = -1  # the same split
        nearest[part] = cosines.argmax(axis=1)
        likeness[part] = cosines.max(axis=1)
    return likeness, nearest


def summarize(seen: Survey) -> list[str]:
    """Return a survey as lines for the user."""
    text = [f"{seen.path}: {dataset.count(seen.num_images, 'image')} in {len(seen.classes)} classes"]
    ranked = [(wording.visible(name), count) for name, count in sorted(seen.classes, key=lambda one: -one[1])]
    width = min(_WIDEST_NAME, max(len(name) for name, _ in ranked[:_MOST_CLASSES]))
    text += [f"  {name:<{width}}  {count}" for name, count in ranked[:_MOST_CLASSES]]
    if len(ranked) > _MOST_CLASSES:
        text.append(f"  … and {len(ranked) - _MOST_CLASSES} more classes, the smallest {ranked[-1][0]} with {ranked[-1][1]}")
    if seen.num_images:
        text.append(plan.commonest(ranked[0][0], ranked[0][1] / seen.num_images, None).replace(" on validation", " on all images"))
        labels = np.repeat(np.arange(len(seen.classes)), [count for _, count in seen.classes])
        text += [advice] if (advice := splits.recommend([name for name, _ in seen.classes], labels, labels)) else []
    if seen.sizes:
        smallest, middle, largest = (f"{width} x {height}" for width, height in seen.sizes)
        text.append(f"sizes: {smallest} to {largest} pixels, median {middle}")
    if seen.unreadable:
        cure = "" if seen.is_usable else "; repair or remove them before the study"
        text.append(f"unreadable: {dataset.count(len(seen.unreadable), 'image')}{cure}:")
        text += listings.list_unreadable(seen.unreadable).splitlines()
    return text + list(seen.notes)


def _notes(found: dataset.Dataset, own: Sequence[str], limits: dataset.ValueRange | None) -> list[str]:
    official = [f"official splits, by the names of the sub-folders: {', '.join(['train', *own])}"] if own else []
    known = dataset.note_ignored(found) + dataset.note_names(found) + dataset.note_foreign(found) + dataset.note_values(found)
    known += note_pages(found)
    known += [f"the study file maps these values: value_range: {dataset.show_range(limits)}"] if limits else []
    return official + known + dataset.note_copies(found)


def study_file(name: str, seen: Survey, path: Path | None = None) -> str:
    """Return a complete study file whose image size and budget suit the images.

    `path` is the folder as the file names it, by default the surveyed folder.
    """
    trials, timeout = next((trials, timeout) for most, trials, timeout in _BUDGETS if seen.num_images <= most)
    middle = min(seen.sizes[1]) if seen.sizes else 0
    is_elongated = seen.elongation >= _ELONGATED
    return _TEXT.format(
        name=name,
        file=f"studies/{name}.yaml",
        num_images=seen.num_images,
        num_classes=len(seen.classes),
        # every JSON string is a YAML string, whatever characters the path has
        path=json.dumps(str((path or seen.path).absolute()), ensure_ascii=False),
        reading="".join(_reading(seen)),
        shares="\n".join(_shares(seen)),
        image_size=next(size for size, most in _IMAGE_SIZES if middle <= most),
        size_reason=f"the median image has {middle} pixels on its shorter side; a larger size shows more detail and takes longer",
        resize="pad" if is_elongated else "stretch",
        resize_reason="how an image becomes a square: stretch, crop or pad"
        + ("; these images are elongated, and stretching would distort them" if is_elongated else ""),
        trials=trials,
        timeout=timeout,
        search=_SEARCH.format(imbalance=seen.imbalance) if seen.imbalance >= splits.IMBALANCED else "",
    )


def _reading(seen: Survey) -> Iterator[str]:
    """Yield the lines of a study file on how the folder is read, each with its line break."""
    if seen.class_pattern is not None:
        yield f"  class_pattern: {json.dumps(seen.class_pattern, ensure_ascii=False)}\n"
    if seen.ignore:
        yield f"  ignore: {json.dumps(seen.ignore, ensure_ascii=False)}\n"


def _share(num_images: int) -> float:
    return 0.15 if num_images <= 20_000 else 0.1


def _shares(seen: Survey) -> Iterator[str]:
    """Yield the lines of a study file on the splits, and on the values of the images."""
    if seen.value_range is not None:
        yield "  # values of the images that become black and white: they use a small part of their bits; auto takes the lowest and highest"
        yield f"  value_range: {dataset.show_range(seen.value_range)}"
    if seen.few_validation:
        images = dataset.count(seen.few_validation, "image")
        yield f"  # the validation sub-folder has only {images}, too few to choose the winner; null would use it"
        yield "  validation_from: train"
    if seen.own_splits:
        plural = (
            "sub-folders of the folder are official splits" if len(seen.own_splits) > 1 else "sub-folder of the folder is an official split"
        )
        yield f"  # the {' and '.join(seen.own_splits)} {plural}"
    drawn = _drawn(seen.own_splits)
    if drawn:
        yield _SHARE_COMMENT
    for name in drawn:
        yield f"  {name}: {_share(seen.num_images)}"


def write_new(text: str, path: Path) -> None:
    """Write a new study file, and never overwrite one.

    Raises:
        RequestError: the file exists, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # mode x never overwrites, not even a file that appears at this moment
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise errors.RequestError(f"{path} already exists; choose another name, or remove the file") from error
    except OSError as error:
        raise errors.RequestError(f"{path} cannot be written ({error.strerror}); start tuner in a folder with write permission") from error
