"""Labelled image files into a Dataset, leaving out the few that cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner import errors
from tuner.data import dataset, images, index

#: the largest part of unreadable images that are left out; more are an error
MAX_UNREADABLE = 0.01


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Image files and their labels, before any of them is opened."""

    #: the folder or manifest that they come from
    origin: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    #: an index into `classes` for each path
    labels: tuple[int, ...]
    #: NONE, TRAIN, VALIDATION or TEST for each path; None where there are no official splits
    official: tuple[int, ...] | None = None
    #: files that are no images by their names
    num_ignored: int = 0


def read(listing: Listing, *, cache: Path | None) -> dataset.Dataset:
    """The Dataset of a listing.

    Raises:
        DataError: more than 1 % of the images cannot be read, or a class has no readable image.
    """
    found = look(listing, cache=cache)
    _check_readable(found, listing)
    dataset.check_classes(found.classes, found.labels, origin=str(listing.origin))
    return found


def look(listing: Listing, *, cache: Path | None) -> dataset.Dataset:
    """The Dataset of a listing, however many of its images cannot be read."""
    seen = index.look(listing.paths, origin=listing.origin, cache=cache)
    kept = [row for row, one in enumerate(seen) if not one.reason]
    return dataset.Dataset(
        classes=listing.classes,
        labels=np.array([listing.labels[row] for row in kept], np.int64),
        digests=np.array([seen[row].digest for row in kept], "S32"),
        sizes=np.array([(seen[row].width, seen[row].height) for row in kept], np.int32).reshape(-1, 2),
        images=images.FileImages(tuple(listing.paths[row] for row in kept)),
        official=None if listing.official is None else np.array([listing.official[row] for row in kept], np.int8),
        unreadable=tuple(_unreadable(path, one) for path, one in zip(listing.paths, seen, strict=True) if one.reason),
        num_ignored=listing.num_ignored,
    )


def _unreadable(path: str, seen: images.Seen) -> dataset.Unreadable:
    return dataset.Unreadable(path=images.show(path), reason=seen.reason)


def _check_readable(found: dataset.Dataset, listing: Listing) -> None:
    broken, total = found.unreadable, len(listing.paths)
    empty = [found.classes[label] for label in np.flatnonzero(found.counts == 0) if label in listing.labels]
    if not broken or (len(broken) <= MAX_UNREADABLE * total and not empty):
        return
    so = f"so {empty[0]} would have no images" if empty else f"more than {MAX_UNREADABLE:.0%}"
    raise errors.DataError(
        f"{listing.origin}: {len(broken)} of {total} images cannot be read, {so}. Mend or remove them:\n{listed(broken)}"
    )


def listed(broken: Sequence[dataset.Unreadable], *, most: int = 5) -> str:
    """The first unreadable images and their reasons, one a line."""
    lines = [f"  {image.path}: {image.reason}" for image in broken[:most]]
    return "\n".join(lines + ([f"  … and {len(broken) - most} more"] if len(broken) > most else []))
