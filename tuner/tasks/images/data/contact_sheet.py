"""The best epoch of a trial into pictures: its most confident mistakes on one sheet, and which classes it took for which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tuner.protocol.messages import SHEET_COLUMNS, Misclassified, PictureKind
from tuner.tasks.images.data import resized

#: sides of one picture of the sheet, and the room for two lines below it
_SIDE, _CAPTION = 96, 28
#: largest and smallest side of a cell of the confusion, of the whole of it, and the room for names of classes
_CELLS, _SQUARE, _MARGIN = (4, 40), 480, 90
#: more classes than this are not named
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
    """Write the pictures of one trial into its folder; the file of each. `images` are the validation split's."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[PictureKind, str] = {}
    if mistakes:
        drawn[PictureKind.MISTAKES] = str(folder / "mistakes.jpg")
        sheet(images[np.array([mistake.index for mistake in mistakes])], classes, mistakes).save(drawn[PictureKind.MISTAKES], quality=85)
    if confusion:
        drawn[PictureKind.CONFUSION] = str(folder / "confusion.png")
        matrix(classes, confusion).save(drawn[PictureKind.CONFUSION])
    return drawn


def sheet(images: NDArray[np.uint8], classes: Sequence[str], mistakes: Sequence[Misclassified]) -> Image.Image:
    """Images (n, height, width, 3) of mistakes, row by row, each over its class, and the class that it was taken for."""
    num_rows = -(-len(mistakes) // SHEET_COLUMNS)
    whole = Image.new("RGB", (SHEET_COLUMNS * _SIDE, num_rows * (_SIDE + _CAPTION)), _PAPER)
    pen = ImageDraw.Draw(whole)
    for place, (image, mistake) in enumerate(zip(images, mistakes, strict=True)):
        left, top = place % SHEET_COLUMNS * _SIDE, place // SHEET_COLUMNS * (_SIDE + _CAPTION)
        whole.paste(Image.fromarray(image).resize((_SIDE - 4, _SIDE - 4)), (left + 2, top + 2))
        pen.text((left + 2, top + _SIDE), _short(classes[mistake.true]), fill=_INK)
        pen.text((left + 2, top + _SIDE + 13), f"{_short(classes[mistake.predicted])} {mistake.confidence:.0%}", fill=(170, 30, 30))
    return whole


def matrix(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> Image.Image:
    """The confusion, rows true and columns predicted, the darker the more of a row."""
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
        for place, name in enumerate(classes):
            pen.text((4, 4 + place * cell + cell / 2), _short(name), fill=_INK, anchor="lm")
    return whole


def _short(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _NAME_LENGTH else f"{line[: _NAME_LENGTH - 1]}."
