"""Survey of a folder of images: what a user should know before a study, and a study file that suits the images."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner import errors
from tuner.tasks.images.data import dataset, listings

_MOST_CLASSES = 20
#: image sizes, each for images whose shorter side is at most the second number
_IMAGE_SIZES = ((96, 96), (128, 144), (160, 10**9))
#: maximum number of images, with trials and timeout for it
_BUDGETS = ((2_000, 60, "2h"), (10_000, 40, "6h"), (10**9, 30, "24h"))
#: minimum imbalance of classes for which class weights are searched
_IMBALANCED = 3.0
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
  # shares of the images that choose the winner (validation) and score it once (test); values from 2 on are numbers of images{splits}
  validation: {share}
  test: {share}

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
_SEARCH = """
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
    #: whether the folder has train, validation or test sub-folders of its own
    has_splits: bool
    #: other facts, one line each
    notes: tuple[str, ...]

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


def survey(path: Path, *, cache: Path | None = None) -> Survey:
    """Decode every image in a folder with one sub-folder for each class; a cache folder saves a later study this work.

    Unreadable images are counted, and any number of them is allowed.

    Raises:
        DataError: the folder does not exist, has fewer than two classes, or a class has no image files.
    """
    path = path.expanduser().resolve()
    found = listings.inspect(listings.list_folder(path), cache=cache)
    short, long = found.sizes.min(axis=1), found.sizes.max(axis=1)
    by_size = np.lexsort((long, short))
    positions = [0, len(by_size) // 2, -1] if len(by_size) else []
    return Survey(
        path=path,
        classes=tuple(zip(found.classes, found.counts.tolist(), strict=True)),
        sizes=tuple((int(width), int(height)) for width, height in found.sizes[by_size[positions]]) if positions else (),
        elongation=float(np.median(long / short)) if positions else 1.0,
        unreadable=found.unreadable,
        has_splits=found.official is not None,
        notes=tuple(_notes(found)),
    )


def summarize(seen: Survey) -> list[str]:
    """Return a survey as lines for the user."""
    text = [f"{seen.path}: {dataset.count(seen.num_images, 'image')} in {len(seen.classes)} classes"]
    ranked = sorted(seen.classes, key=lambda one: -one[1])
    width = max(len(name) for name, _ in ranked[:_MOST_CLASSES])
    text += [f"  {name:<{width}}  {count}" for name, count in ranked[:_MOST_CLASSES]]
    if len(ranked) > _MOST_CLASSES:
        text.append(f"  … and {len(ranked) - _MOST_CLASSES} more classes, the smallest {ranked[-1][0]} with {ranked[-1][1]}")
    if seen.sizes:
        smallest, middle, largest = (f"{width} x {height}" for width, height in seen.sizes)
        text.append(f"sizes: {smallest} to {largest} pixels, median {middle}")
    if seen.unreadable:
        cure = "" if seen.is_usable else "; repair or remove them before the study"
        text.append(f"unreadable: {dataset.count(len(seen.unreadable), 'image')}{cure}:")
        text += listings.list_unreadable(seen.unreadable).splitlines()
    return text + list(seen.notes)


def _notes(found: dataset.Dataset) -> list[str]:
    ignored = [f"ignored because of their names: {dataset.count(found.num_ignored, 'file')}"] if found.num_ignored else []
    splits = ["the train, validation and test sub-folders will be used as official splits"] if found.official is not None else []
    return splits + ignored + dataset.note_copies(found)


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
        splits="\n  # the validation and test sub-folders of the folder take precedence" if seen.has_splits else "",
        share=0.15 if seen.num_images <= 20_000 else 0.1,
        image_size=next(size for size, most in _IMAGE_SIZES if middle <= most),
        size_reason=f"the median image has {middle} pixels on its shorter side; a larger size shows more detail and takes longer",
        resize="pad" if is_elongated else "stretch",
        resize_reason="how an image becomes a square: stretch, crop or pad"
        + ("; these images are elongated, and stretching would distort them" if is_elongated else ""),
        trials=trials,
        timeout=timeout,
        search=_SEARCH.format(imbalance=seen.imbalance) if seen.imbalance >= _IMBALANCED else "",
    )


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
