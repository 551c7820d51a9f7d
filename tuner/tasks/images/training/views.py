"""An augmentation into the versions of a training image that can be kept: the image, its mirror images, and drawn ones."""

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

#: another number makes new entries: raise it whenever drawn views show something else
_VERSION = 1
#: images that are drawn at once; another number draws others
DRAWN_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class View:
    """One version of every image of a split."""

    #: mirrored left to right
    flip_x: bool = False
    #: mirrored top to bottom
    flip_y: bool = False
    #: what a drawn version is drawn with; None of one that is not drawn
    strengths: Augmentation | None = None
    #: of a drawn version: another number is another draw
    number: int = 0

    @property
    def key(self) -> str:
        """Equal for views that show the same; it never depends on a trial's seed."""
        if self.strengths is None:
            return f"flip {self.flip_x:d}{self.flip_y:d}"
        strengths = json.dumps(self.strengths.model_dump(mode="json"), sort_keys=True)
        # what RandAugment draws is Keras' own
        return f"drawn {self.number} of {strengths}, {_VERSION}, keras {keras.__version__}"


ORIGINAL = View()


def views(augmentation: Augmentation) -> tuple[View, ...]:
    """The versions that a probe trains on: the image, then its mirror images, then, where `views` says how many, drawn ones.

    Mixing images is not among what is drawn: it takes two images, and only the fine-tuning does it.
    """
    found = [View(flip_x=x, flip_y=y) for x, y in _FLIPS[augmentation.flip]]
    if not augmentation.views:
        return tuple(found)
    if _is_drawn(augmentation):
        strengths = _drawing(augmentation)
        found += [View(strengths=strengths, number=number) for number in range(augmentation.views - len(found))]
    return tuple(found[: augmentation.views])


def is_finite(augmentation: Augmentation) -> bool:
    """Whether `views` are all that the fine-tuning will see, so that it can train on what is kept of them.

    They are where nothing but mirror images is on, or where `views` bounds the draws; they never are where images are mixed.
    """
    if augmentation.mixup or augmentation.cutmix:
        return False
    return augmentation.views > 0 or not _is_drawn(augmentation)


def show(view: View, images: NDArray[np.uint8], start: int) -> NDArray[np.float32]:
    """The version of some images (n, size, size, 3), of which the first is image `start` of its split: a multiple of DRAWN_AT_ONCE."""
    if view.strengths is not None:
        parts = range(0, len(images), DRAWN_AT_ONCE)
        return np.concatenate([_draw(view, images[part : part + DRAWN_AT_ONCE], start + part) for part in parts])
    return np.ascontiguousarray(mirrored(view, images)).astype(np.float32)


def mirrored(view: View, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (n, size, size, 3), mirrored as a view has them; the same memory, read otherwise."""
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
    """What is drawn once, however many versions there are."""
    return augmentation.model_copy(update={"views": 0, "mixup": 0.0, "cutmix": 0.0})


_FLIPS = {
    Flip.NONE: ((False, False),),
    Flip.HORIZONTAL: ((False, False), (True, False)),
    Flip.VERTICAL: ((False, False), (False, True)),
    Flip.BOTH: ((False, False), (True, False), (False, True), (True, True)),
}
