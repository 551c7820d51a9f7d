"""A folder of images into what a user should know of it before a study.

A survey of a folder into a commented study file.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner import errors
from tuner.tasks.images.data import dataset, folder

_MOST_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What lies in a folder of images."""

    path: Path
    #: name and number of readable images of each class
    classes: tuple[tuple[str, int], ...]
    #: width and height of the smallest, the middle and the largest image, by the shorter side
    sizes: tuple[tuple[int, int], ...]
    #: middle of the longer side divided by the shorter one
    elongation: float
    #: images that cannot be read
    unreadable: tuple[dataset.Unreadable, ...]
    #: whether the folder has train, validation or test sub-folders of its own
    has_splits: bool
    #: what else is to be said, one line each
    notes: tuple[str, ...]

    @property
    def num_images(self) -> int:
        """Readable images."""
        return sum(count for _, count in self.classes)

    @property
    def imbalance(self) -> float:
        """Images of the largest class for each one of the smallest."""
        counts = [count for _, count in self.classes]
        return max(counts) / max(1, min(counts))

    @property
    def is_usable(self) -> bool:
        """Whether a study may run on the folder as it is."""
        total = self.num_images + len(self.unreadable)
        return len(self.unreadable) <= folder.MAX_UNREADABLE * total and min(count for _, count in self.classes) > 0


def survey(path: Path, *, cache: Path | None = None) -> Survey:
    """Decode every image below a folder with one sub-folder a class; with a cache folder, a later study need not do it again.

    Images that cannot be read are counted, however many they are.

    Raises:
        DataError: the folder is not there, holds fewer than two classes, or a class has no image files.
    """
    path = path.expanduser().resolve()
    found = folder.look(folder.find(path), cache=cache)
    short, long = found.sizes.min(axis=1), found.sizes.max(axis=1)
    by_size = np.lexsort((long, short))
    places = [0, len(by_size) // 2, -1] if len(by_size) else []
    return Survey(
        path=path,
        classes=tuple(zip(found.classes, found.counts.tolist(), strict=True)),
        sizes=tuple((int(width), int(height)) for width, height in found.sizes[by_size[places]]) if places else (),
        elongation=float(np.median(long / short)) if places else 1.0,
        unreadable=found.unreadable,
        has_splits=found.official is not None,
        notes=tuple(_notes(found)),
    )


def lines(seen: Survey) -> list[str]:
    """A survey as the lines that a user reads."""
    text = [f"{seen.path}: {dataset.count(seen.num_images, 'image')} in {len(seen.classes)} classes"]
    ranked = sorted(seen.classes, key=lambda one: -one[1])
    width = max(len(name) for name, _ in ranked[:_MOST_CLASSES])
    text += [f"  {name:<{width}}  {count}" for name, count in ranked[:_MOST_CLASSES]]
    if len(ranked) > _MOST_CLASSES:
        text.append(f"  … and {len(ranked) - _MOST_CLASSES} more classes, the smallest {ranked[-1][0]} with {ranked[-1][1]}")
    if seen.sizes:
        smallest, middle, largest = (f"{width} x {height}" for width, height in seen.sizes)
        text.append(f"sizes: {smallest} to {largest} pixels, {middle} in the middle")
    if seen.unreadable:
        cure = "" if seen.is_usable else "; mend or remove them before the study"
        text.append(f"unreadable: {dataset.count(len(seen.unreadable), 'image')}{cure}:")
        text += folder.listed(seen.unreadable).splitlines()
    return text + list(seen.notes)


def _notes(found: dataset.Dataset) -> list[str]:
    ignored = [f"ignored, no images by their names: {dataset.count(found.num_ignored, 'file')}"] if found.num_ignored else []
    splits = ["the folder's own train, validation and test sub-folders will be used as they are"] if found.official is not None else []
    return splits + ignored + dataset.twins(found)


#: image sizes that are offered, each for images whose shorter side is up to the number beside it
_IMAGE_SIZES = ((96, 96), (128, 144), (160, 10**9))
#: trials and timeout for up to so many images
_BUDGETS = ((2_000, 60, "2h"), (10_000, 40, "6h"), (10**9, 30, "24h"))
#: from so many images of the largest class for one of the smallest on, weights of the classes are searched
_IMBALANCED = 3.0
#: from this relation of the sides on, squeezing an image into a square distorts it too much
_ELONGATED = 1.6

_TEXT = """\
# {name}: {num_images} images of {num_classes} classes.
# Check it with `tuner check {file}`, run it with `tuner run {file}`.
# What is left out has a default; studies/template.yaml shows every key.
name: {name}

data:
  source: folder
  path: {path}
  # parts of the images that choose the winner and that score it, once; from 2 on, numbers of images{splits}
  validation: {share}
  test: {share}

model:
  backbone: efficientnet_lite0
  # {size_reason}
  image_size: {image_size}
  # {resize_reason}
  resize: {resize}

# the study ends with whichever comes first; target: 0.97 would end it at that validation accuracy
budget:
  trials: {trials}
  timeout: {timeout}
{search}
# of the splits, the search and every trial
seed: 0
"""
_SEARCH = """
# the whole default space is searched; what is named here replaces its part of it
search:
  # the largest class has {imbalance:.0f} times the images of the smallest
  class_weights: [none, balanced]
"""


def study_file(name: str, seen: Survey, path: Path | None = None) -> str:
    """A study file, complete as it stands, whose image size and budget suit what was seen.

    `path` is the folder as the file names it; the surveyed one if it is left out.
    """
    trials, timeout = next((trials, timeout) for most, trials, timeout in _BUDGETS if seen.num_images <= most)
    middle = min(seen.sizes[1]) if seen.sizes else 0
    is_elongated = seen.elongation >= _ELONGATED
    return _TEXT.format(
        name=name,
        file=f"studies/{name}.yaml",
        num_images=seen.num_images,
        num_classes=len(seen.classes),
        # a JSON string is a YAML string, whatever the path is made of
        path=json.dumps(str((path or seen.path).absolute()), ensure_ascii=False),
        splits="\n  # the folder's own validation and test sub-folders take precedence" if seen.has_splits else "",
        share=0.15 if seen.num_images <= 20_000 else 0.1,
        image_size=next(size for size, most in _IMAGE_SIZES if middle <= most),
        size_reason=f"the shorter side of the middle image has {middle} pixels; a larger size sees more and takes longer, with its square",
        resize="pad" if is_elongated else "stretch",
        resize_reason="how an image becomes a square: stretch, crop or pad"
        + ("; these are long, and squeezing would distort them" if is_elongated else ""),
        trials=trials,
        timeout=timeout,
        search=_SEARCH.format(imbalance=seen.imbalance) if seen.imbalance >= _IMBALANCED else "",
    )


def write(text: str, path: Path) -> None:
    """Write a new study file; one that is there is left alone.

    Raises:
        RequestError: the file is there already, or its folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # exclusive: not even a file that appears this moment is overwritten
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise errors.RequestError(f"{path} is there already and is not overwritten; choose another name, or remove it") from error
    except OSError as error:
        raise errors.RequestError(f"{path} cannot be written ({error.strerror}); start tuner in a folder that you may write") from error
