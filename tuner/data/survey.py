"""A folder of images into what a user should know of it before a study."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner.data import dataset, files, folder

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
        return len(self.unreadable) <= files.MAX_UNREADABLE * total and min(count for _, count in self.classes) > 0


def survey(path: Path, *, cache: Path | None = None) -> Survey:
    """Decode every image below a folder with one sub-folder a class; with a cache folder, a later study need not do it again.

    Images that cannot be read are counted, however many they are.

    Raises:
        DataError: the folder is not there, holds fewer than two classes, or a class has no image files.
    """
    path = path.expanduser().resolve()
    found = files.look(folder.find(path), cache=cache)
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
        text += files.listed(seen.unreadable).splitlines()
    return text + list(seen.notes)


def _notes(found: dataset.Dataset) -> list[str]:
    ignored = [f"ignored, no images by their names: {dataset.count(found.num_ignored, 'file')}"] if found.num_ignored else []
    splits = ["the folder's own train, validation and test sub-folders will be used as they are"] if found.official is not None else []
    return splits + ignored + dataset.twins(found)
