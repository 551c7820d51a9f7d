"""Views: versions of a training image whose features can be cached: the image, its mirror images, and randomly drawn versions."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner.spec.hyperparameters import Augmentation, Flip
from tuner.tasks.images.training import augmentation as augmentations

#: part of the cache key: raise it whenever drawn views change
_VERSION = 1
#: images that are drawn at once; another number gives other draws
DRAWN_AT_ONCE = 64
_FLIPS = {
    Flip.NONE: ((False, False),),
    Flip.HORIZONTAL: ((False, False), (True, False)),
    Flip.VERTICAL: ((False, False), (False, True)),
    Flip.BOTH: ((False, False), (True, False), (False, True), (True, True)),
}


@dataclass(frozen=True, kw_only=True)
class View:
    """One version of every image of a split."""

    #: mirrored left to right
    flip_x: bool = False
    #: mirrored top to bottom
    flip_y: bool = False
    #: augmentation of a drawn version; None if the version is not drawn
    strengths: Augmentation | None = None
    #: number of the draw
    number: int = 0

    @property
    def key(self) -> str:
        """Cache key, equal for equal views; it never depends on a trial's seed."""
        if self.strengths is None:
            return f"flip {self.flip_x:d}{self.flip_y:d}"
        strengths = json.dumps(self.strengths.model_dump(mode="json"), sort_keys=True)
        # the draws of RandAugment depend on the Keras version
        return f"drawn {self.number} of {strengths}, {_VERSION}, keras {keras.__version__}"


ORIGINAL = View()


def views(augmentation: Augmentation) -> tuple[View, ...]:
    """Return the views that a probe trains on: the image, its mirror images, and as many drawn ones as `views` says.

    Drawn views do not mix images, because mixing takes two images. Only the fine-tuning mixes.
    """
    found = [View(flip_x=x, flip_y=y) for x, y in _FLIPS[augmentation.flip]]
    if not augmentation.views:
        return tuple(found)
    if _is_drawn(augmentation):
        strengths = _drawing(augmentation)
        found += [View(strengths=strengths, number=number) for number in range(augmentation.views - len(found))]
    return tuple(found[: augmentation.views])


def is_finite(augmentation: Augmentation) -> bool:
    """Return whether the fine-tuning sees only the views of `views`, so that it can train on cached activations.

    This holds if only mirroring is on, or if `views` limits the number of draws, and never if images are mixed.
    """
    if augmentation.mixup or augmentation.cutmix:
        return False
    return augmentation.views > 0 or not _is_drawn(augmentation)


def render(view: View, images: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """Return a view of images (n, size, size, 3); the first is image `start` of its split, a multiple of DRAWN_AT_ONCE."""
    if view.strengths is not None:
        parts = range(0, len(images), DRAWN_AT_ONCE)
        return np.concatenate([_draw(view, images[part : part + DRAWN_AT_ONCE], start + part) for part in parts])
    return np.ascontiguousarray(mirrored(view, images)).astype(np.float32)


def mirrored(view: View, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirror images (n, size, size, 3) as a view does, without copying them."""
    return images[:, :: -1 if view.flip_y else 1, :: -1 if view.flip_x else 1]


def _draw(view: View, images: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    assert view.strengths is not None
    seed = tf.constant([view.number, start // DRAWN_AT_ONCE], tf.int32)
    drawn: NDArray[np.float32] = _drawer(view.strengths)(tf.constant(images.astype(np.float32)), seed).numpy()
    return drawn


@functools.lru_cache(maxsize=4)
def _drawer(strengths: Augmentation) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    augment = augmentations.build(strengths)
    return lambda images, seed: augment(images, tf.zeros((len(images), 1)), seed)[0]


def _is_drawn(augmentation: Augmentation) -> bool:
    return _drawing(augmentation).model_copy(update={"flip": Flip.NONE}) != Augmentation()


def _drawing(augmentation: Augmentation) -> Augmentation:
    """Return the augmentation of one drawn view."""
    return augmentation.model_copy(update={"views": 0, "mixup": 0.0, "cutmix": 0.0})
