"""The training images of a trial, batch by batch: as they are, in views by turns, or as what the frozen part made of the views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.data import resized
from tuner.hyperparameters import Augmentation
from tuner.training import bench as benches
from tuner.training import cuts, views
from tuner.training import features as feature_files

#: images uint8 (n, size, size, 3), or activations and pooled vectors of `Cut.above`
Batch = tuple[NDArray[np.uint8]] | tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Where the batches of a trial come from."""

    images: resized.Images
    #: what a trial trains on by turns; () where each step draws for itself
    shown: tuple[views.View, ...]
    #: of the views, where it is kept
    activations: feature_files.Activations | None
    seed: int

    def batches(self, epoch: int, chosen: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """The images of each array of rows; in each epoch an image is shown in the view after that of the epoch before."""
        numbers = self._numbers(epoch)
        if self.activations is not None:
            for rows in chosen:
                yield self.activations.take(numbers[rows], rows)
            return
        for rows, images in zip(chosen, resized.batches(self.images, chosen), strict=True):
            yield (self._turned(images, numbers[rows]) if self.shown else images,)

    def _numbers(self, epoch: int) -> NDArray[np.int64]:
        """The view of each image; the trial draws which is its first."""
        count = max(1, len(self.shown))
        first: NDArray[np.int64] = np.random.default_rng([self.seed, 2]).integers(count, size=len(self.images))
        return (first + epoch) % count

    def _turned(self, images: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.array(images)
        for number, view in enumerate(self.shown):
            found[numbers == number] = views.mirrored(view, found[numbers == number])
        return found


def of(bench: benches.Bench, cut: cuts.Cut, augmentation: Augmentation, *, seed: int) -> Inputs:
    """What a trial trains on.

    Views that are drawn are used only where what lies below the cut is kept of them; elsewhere a new version is drawn in each step,
    which costs no more than drawing the same ones again.
    """
    shown = views.views(augmentation) if views.is_finite(augmentation) else ()
    activations = bench.lower(cut, shown) if shown else None
    if activations is None and any(view.strengths is not None for view in shown):
        shown = ()
    return Inputs(images=bench.data.train.images, shown=shown, activations=activations, seed=seed)
