"""Pictures of a trial, checked by their pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from tuner.kernels import losses
from tuner.protocol.messages import Misclassified, PictureKind
from tuner.tasks.images.data import pictures

CLASSES = ("cat", "dog", "a class whose name is much too long")


def test_a_sheet_shows_each_mistake_in_its_place(tmp_path: Path) -> None:
    images = np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in range(0, 240, 10)])
    mistakes = [Misclassified(index=place, true=0, predicted=2, confidence=0.9) for place in (5, 20, 3, 4, 6, 7, 12)]
    drawn = pictures.draw(images, CLASSES, mistakes, ((1, 0, 0), (0, 1, 0), (0, 0, 0)), folder=tmp_path / "trial")
    sheet = Image.open(drawn[PictureKind.MISTAKES])
    assert sheet.size == (6 * 96, 2 * 124)
    for place, shade in ((0, 50), (1, 200), (6, 120)):
        pixel = sheet.getpixel((place % 6 * 96 + 48, place // 6 * 124 + 48))
        assert isinstance(pixel, tuple)
        assert abs(pixel[0] - shade) <= 3
    matrix = Image.open(drawn[PictureKind.CONFUSION]).convert("RGB")
    assert matrix.getpixel((90 + 20, 24)) == (20, 80, 160)
    assert matrix.getpixel((90 + 60, 24)) == (255, 255, 255)


def test_names_in_pictures_are_short_ascii_and_different() -> None:
    names = ["Löwe", "Bird [adult] female", "Bird [adult] male", "日本", "中国", "a\x1b[0m", "cat"]
    shown = pictures._drawable(names)
    assert shown == ["Lowe", "Bird [a..female", "Bird [a..] male", "3 ??", "4 ??", "a\\u001b[0m", "cat"]
    picture = np.asarray(pictures.draw_confusion(["Bird [adult] female", "Bird [adult] male"], ((1, 0), (0, 1))))
    assert (picture[4:44, :90] != picture[44:84, :90]).any()


def test_the_most_confident_mistakes_come_first() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 1.0], [5.0, 0.0], [np.nan, 0.0]], np.float32)
    found = losses._mistakes(logits, np.array([1, 0, 1, 1]), logits.argmax(1))
    assert [(mistake.index, mistake.true, mistake.predicted) for mistake in found] == [(2, 1, 0), (0, 1, 0), (1, 0, 1)]
    assert [mistake.confidence for mistake in found] == [0.9933, 0.9526, 0.7311]
