"""Corruptions: images as a bad camera, bad light or a careless photographer would make them, at three strengths.

Noise, blur, contrast, brightness and JPEG are those of ImageNet-C (Hendrycks and Dietterich, arXiv 1903.12261), severities 1, 3 and 5. Its
blur widths are for images of 224 pixels, and shrink with the image. Rotation and translation are those of Engstrom et al. (arXiv
1712.02779), up to about half of their strengths; pixels that enter at the edges are mirrored. Missing color has one strength.
"""

import io
from collections.abc import Callable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
#: side of the images of ImageNet-C, in pixels
_SIDE = 224


class Corruption(StrEnum):
    """Kind of a corruption of images."""

    NOISE = "noise"
    BLUR = "blur"
    CONTRAST = "contrast"
    BRIGHTNESS = "brightness"
    JPEG = "jpeg"
    ROTATION = "rotation"
    TRANSLATION = "translation"
    GREY = "grey"


#: strengths of each corruption, from weak to strong, in the units of `UNITS`
STRENGTHS: dict[Corruption, tuple[float, ...]] = {
    Corruption.NOISE: (0.08, 0.18, 0.38),
    Corruption.BLUR: (1.0, 3.0, 6.0),
    Corruption.CONTRAST: (0.4, 0.2, 0.05),
    Corruption.BRIGHTNESS: (0.1, 0.3, 0.5),
    Corruption.JPEG: (25, 15, 7),
    Corruption.ROTATION: (5, 10, 15),
    Corruption.TRANSLATION: (0.02, 0.04, 0.06),
    Corruption.GREY: (1.0,),
}
UNITS: dict[Corruption, str] = {
    Corruption.NOISE: "standard deviation, as a share of the color range",
    Corruption.BLUR: "standard deviation in pixels, for an image of 224 pixels",
    Corruption.CONTRAST: "share of the contrast that is left",
    Corruption.BRIGHTNESS: "added to the value of HSV, as a share of its range",
    Corruption.JPEG: "quality",
    Corruption.ROTATION: "degrees, in either direction",
    Corruption.TRANSLATION: "share of the side, in both directions",
    Corruption.GREY: "luma (ITU-R BT.601) instead of all colors",
}


def corrupt(images: Pixels, corruption: Corruption, strength: float, *, seed: int) -> Pixels:
    """Corrupt images (n, side, side, 3); equal seeds give equal images."""
    draw = np.random.default_rng(seed)
    made: Pixels = np.stack([_CORRUPTIONS[corruption](image, strength, draw) for image in images])
    return made


def _noise(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    return _rounded(image + draw.normal(0.0, 255 * strength, image.shape))


def _blur(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    radius = strength * image.shape[0] / _SIDE
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def _contrast(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    mean = image.mean(axis=(0, 1), keepdims=True)
    return _rounded((image - mean) * strength + mean)


def _brightness(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    hue = np.asarray(Image.fromarray(image).convert("HSV"))
    brighter = np.concatenate([hue[..., :2], _rounded(hue[..., 2:] + 255 * strength)], axis=-1)
    return np.asarray(Image.fromarray(brighter, "HSV").convert("RGB"))


def _jpeg(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    written = io.BytesIO()
    Image.fromarray(image).save(written, "JPEG", quality=int(strength))
    return np.asarray(Image.open(written))


def _rotation(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    padded, border = _mirrored(image)
    turned = Image.fromarray(padded).rotate(_side(draw) * strength, Image.Resampling.BILINEAR)
    return _cut(np.asarray(turned), image.shape[0], border, border)


def _translation(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    padded, border = _mirrored(image)
    moved = max(1, round(strength * image.shape[0]))
    return _cut(padded, image.shape[0], border + _side(draw) * moved, border + _side(draw) * moved)


def _grey(image: Pixels, strength: float, draw: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


_CORRUPTIONS: dict[Corruption, Callable[[Pixels, float, np.random.Generator], Pixels]] = {
    Corruption.NOISE: _noise,
    Corruption.BLUR: _blur,
    Corruption.CONTRAST: _contrast,
    Corruption.BRIGHTNESS: _brightness,
    Corruption.JPEG: _jpeg,
    Corruption.ROTATION: _rotation,
    Corruption.TRANSLATION: _translation,
    Corruption.GREY: _grey,
}


def _side(draw: np.random.Generator) -> int:
    return int(draw.choice((-1, 1)))


def _mirrored(image: Pixels) -> tuple[Pixels, int]:
    """Pad an image with its reflection, wide enough for a rotation by 15 degrees; return it with the width of the border."""
    border = max(2, image.shape[0] // 4)
    return np.pad(image, ((border, border), (border, border), (0, 0)), mode="symmetric"), border


def _cut(image: Pixels, side: int, top: int, left: int) -> Pixels:
    return image[top : top + side, left : left + side]


def _rounded(values: NDArray[np.floating]) -> Pixels:
    rounded: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return rounded
