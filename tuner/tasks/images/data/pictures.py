"""Pictures of a trial's best epoch: a sheet of its most confident mistakes, and its confusion matrix."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tuner import wording
from tuner.protocol.messages import SHEET_COLUMNS, Misclassified, PictureKind
from tuner.tasks.images.data import resized

#: side of one picture of the sheet, and height of the two lines below it, in pixels
_SIDE, _CAPTION = 96, 28
#: smallest and largest side of a cell of the confusion matrix, side of the matrix, and width of the class names, in pixels
_CELLS, _SQUARE, _MARGIN = (4, 40), 480, 90
#: a matrix of more classes has no class names
_NAMED_CLASSES = 24
_INK, _PAPER, _BLUE = (20, 20, 20), (255, 255, 255), (20, 80, 160)
_NAME_LENGTH = 14


def draw(
    images: resized.ResizedImages,
    classes: Sequence[str],
    mistakes: Sequence[Misclassified],
    confusion: Sequence[Sequence[int]],
    *,
    folder: Path,
) -> dict[PictureKind, str]:
    """Write the pictures of one trial to its folder and return their files; `images` are those of the validation split."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[PictureKind, str] = {}
    if mistakes:
        drawn[PictureKind.MISTAKES] = str(folder / "mistakes.jpg")
        draw_mistakes(images[np.array([mistake.index for mistake in mistakes])], classes, mistakes).save(
            drawn[PictureKind.MISTAKES], quality=85
        )
    if confusion:
        drawn[PictureKind.CONFUSION] = str(folder / "confusion.png")
        draw_confusion(classes, confusion).save(drawn[PictureKind.CONFUSION])
    return drawn


def draw_mistakes(images: NDArray[np.uint8], classes: Sequence[str], mistakes: Sequence[Misclassified]) -> Image.Image:
    """Draw images (n, height, width, 3) of mistakes, each above its true class and its predicted class."""
    num_rows = -(-len(mistakes) // SHEET_COLUMNS)
    whole = Image.new("RGB", (SHEET_COLUMNS * _SIDE, num_rows * (_SIDE + _CAPTION)), _PAPER)
    pen, names = ImageDraw.Draw(whole), _drawable(classes)
    for number, (image, mistake) in enumerate(zip(images, mistakes, strict=True)):
        left, top = number % SHEET_COLUMNS * _SIDE, number // SHEET_COLUMNS * (_SIDE + _CAPTION)
        whole.paste(Image.fromarray(image).resize((_SIDE - 4, _SIDE - 4)), (left + 2, top + 2))
        pen.text((left + 2, top + _SIDE), names[mistake.true], fill=_INK)
        pen.text((left + 2, top + _SIDE + 13), f"{names[mistake.predicted]} {mistake.confidence:.0%}", fill=(170, 30, 30))
    return whole


def draw_confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Image.Image:
    """Draw the confusion matrix, rows true and columns predicted; a darker cell is a larger share of its row."""
    counts = np.asarray(confusion, float)
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    low, high = _CELLS
    cell = max(low, min(high, _SQUARE // len(counts)))
    side = cell * len(counts)
    whole = Image.new("RGB", (_MARGIN + side + 8, side + 8), _PAPER)
    shade = np.array(_PAPER) + parts[..., None] * (np.array(_BLUE) - np.array(_PAPER))
    whole.paste(Image.fromarray(shade.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST), (_MARGIN, 4))
    if len(counts) <= _NAMED_CLASSES:
        pen = ImageDraw.Draw(whole)
        for number, name in enumerate(_drawable(classes)):
            pen.text((4, 4 + number * cell + cell / 2), name, fill=_INK, anchor="lm")
    return whole


def _drawable(classes: Sequence[str]) -> list[str]:
    """Return the names of classes as short texts in ASCII, which is all that the font of pictures has, and each different.

    Letters lose their accents. A name in another script keeps a question mark for each letter, and gets the number of its class.
    """
    shown = []
    for number, name in enumerate(classes):
        letters = "".join(letter for letter in unicodedata.normalize("NFKD", wording.visible(name)) if not unicodedata.combining(letter))
        is_known = letters.isascii()
        plain = letters.encode("ascii", "replace").decode()
        shown.append(plain if is_known else f"{number} {plain}")
    return [name.replace("…", "..") for name in wording.shortened(shown, longest=_NAME_LENGTH)]
