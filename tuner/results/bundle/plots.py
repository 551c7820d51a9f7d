"""Plots: the pictures of a bundle: learning curve, confusion matrix and reliability of the probabilities."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tuner.protocol.messages import Stage
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.statistics import Bin
from tuner.spec.hyperparameters import TargetKind
from tuner.storage.epochs import EpochRow
from tuner.tasks.images.data import pictures

CURVE, CONFUSION, RELIABILITY = "curve.png", "confusion.png", "reliability.png"
_WIDTH, _HEIGHT, _LEFT, _BELOW, _ABOVE = 960, 480, 70, 50, 20
_INK, _FAINT, _PAPER = (20, 20, 20), (200, 200, 200), (255, 255, 255)
#: colours of training and validation
_COLOURS = ((150, 150, 150), (20, 80, 160))
_FONT_SIZE = 18
#: smallest and largest radius of a disc
_SMALLEST, _LARGEST = 3, 16


def write(facts: ModelFacts, folder: Path) -> dict[str, str]:
    """Draw the pictures of a model into a folder; return what each file shows."""
    drawn = {}
    if len(facts.curve) > 1 and facts.kind is not TargetKind.NUMBER:
        curve(facts.curve).save(folder / CURVE)
        drawn[CURVE] = "accuracy on training images (grey) and validation images (blue) by epoch, starting with the probe"
    if facts.confusion:
        pictures.draw_confusion(facts.prepared.classes, facts.confusion).save(folder / CONFUSION)
        drawn[CONFUSION] = "true classes of the validation images (rows) and predicted classes (columns)"
    if facts.verdict is not None and facts.verdict.calibration.bins:
        reliability(facts.verdict.calibration.bins).save(folder / RELIABILITY)
        drawn[RELIABILITY] = (
            "accuracy (vertical) by confidence (horizontal) on test images, larger discs for more images; "
            "above the line the confidence is too low, below it too high"
        )
    return drawn


def curve(epochs: Sequence[EpochRow]) -> Image.Image:
    """Draw the accuracies by epoch, with a vertical line at the end of the probe."""
    whole = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(_FONT_SIZE)
    lines = [[epoch.accuracy or 0.0 for epoch in epochs], [epoch.validation_accuracy or 0.0 for epoch in epochs]]
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
    """Draw accuracy by confidence: a disc for each bin, with an area proportional to its images; both are equal on the line."""
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
