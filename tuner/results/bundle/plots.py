"""A finding into the pictures of its bundle: how it learned, which classes it takes for which, and what its probabilities are worth."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tuner.protocol.messages import Epoch, Stage
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.statistics import Bin
from tuner.tasks.images.data import contact_sheet

CURVE, CONFUSION, RELIABILITY = "curve.png", "confusion.png", "reliability.png"
_WIDTH, _HEIGHT, _LEFT, _BELOW, _ABOVE = 960, 480, 70, 50, 20
_INK, _FAINT, _PAPER = (20, 20, 20), (200, 200, 200), (255, 255, 255)
#: training and validation
_COLOURS = ((150, 150, 150), (20, 80, 160))
_FONT_SIZE = 18
#: radius of a disc
_SMALLEST, _LARGEST = 3, 16


def write(found: ModelFacts, folder: Path) -> dict[str, str]:
    """Draw what is known into a folder; for each file what it shows."""
    drawn = {}
    if len(found.curve) > 1:
        curve(found.curve).save(folder / CURVE)
        drawn[CURVE] = "accuracy on training (grey) and validation images (blue) by epoch, the probe's first"
    if found.confusion:
        contact_sheet.matrix(found.prepared.classes, found.confusion).save(folder / CONFUSION)
        drawn[CONFUSION] = "classes of the validation images (rows) and what they were taken for (columns)"
    if found.verdict is not None and found.verdict.calibration.bins:
        reliability(found.verdict.calibration.bins).save(folder / RELIABILITY)
        drawn[RELIABILITY] = (
            "how often it is right (upwards) where it is so sure (to the right), test images by confidence, larger discs for more of them; "
            "above the line it is too modest, below it too sure"
        )
    return drawn


def curve(epochs: Sequence[Epoch]) -> Image.Image:
    """Accuracy by epoch, training below validation; a line where the probe ends."""
    whole = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(_FONT_SIZE)
    lines = [[epoch.accuracy for epoch in epochs], [epoch.validation_accuracy for epoch in epochs]]
    low = max(0.0, min(min(line) for line in lines) - 0.02)

    def place(number: float, value: float) -> tuple[float, float]:
        across = _LEFT + (_WIDTH - _LEFT - 20) * number / (len(epochs) - 1)
        return across, _ABOVE + (_HEIGHT - _ABOVE - _BELOW) * (1 - (value - low) / (1 - low or 1))

    for part in range(5):
        value = low + (1 - low) * part / 4
        _, down = place(0, value)
        pen.line((_LEFT, down, _WIDTH - 20, down), fill=_FAINT)
        pen.text((_LEFT - 8, down), f"{value:.2f}", fill=_INK, anchor="rm", font=font)
    num_probed = sum(epoch.stage is Stage.PROBE for epoch in epochs)
    if 0 < num_probed < len(epochs):
        across, _ = place(num_probed - 0.5, 1)
        pen.line((across, _ABOVE, across, _HEIGHT - _BELOW), fill=_FAINT, width=2)
        pen.text((across + 6, _HEIGHT - _BELOW - 6), "fine-tuning", fill=_INK, anchor="lb", font=font)
    for line, colour in zip(lines, _COLOURS, strict=True):
        pen.line([place(number, value) for number, value in enumerate(line)], fill=colour, width=3)
    for number in (0, len(epochs) - 1):
        pen.text((place(number, 0)[0], _HEIGHT - _BELOW + 8), str(epochs[number].step), fill=_INK, anchor="ma", font=font)
    return whole


def reliability(bins: Sequence[Bin]) -> Image.Image:
    """Accuracy by confidence, a disc for each bin, whose area goes with its images; the line is where both are equal."""
    side = _HEIGHT - _ABOVE - _BELOW
    whole = Image.new("RGB", (_LEFT + side + _ABOVE + _LARGEST, _HEIGHT), _PAPER)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(_FONT_SIZE)

    def place(confidence: float, accuracy: float) -> tuple[float, float]:
        return _LEFT + side * confidence, _ABOVE + side * (1 - accuracy)

    for part in range(5):
        value = part / 4
        pen.line((*place(0, value), *place(1, value)), fill=_FAINT)
        pen.text((_LEFT - 8, place(0, value)[1]), f"{value:.2f}", fill=_INK, anchor="rm", font=font)
        pen.text((place(value, 0)[0], _HEIGHT - _BELOW + 8), f"{value:.2f}", fill=_INK, anchor="ma", font=font)
    pen.line((*place(0, 0), *place(1, 1)), fill=_INK, width=2)
    most = max(each.num_images for each in bins)
    for each in bins:
        (across, down), radius = place(each.confidence, each.accuracy), max(_SMALLEST, _LARGEST * (each.num_images / most) ** 0.5)
        pen.ellipse((across - radius, down - radius, across + radius, down + radius), fill=_COLOURS[1], outline=_PAPER)
    return whole
