"""Image files of every format and kind of damage."""

import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.tasks.images.data import image_file

RED = (255, 0, 0)


def plain(path: Path) -> None:
    Image.new("RGB", (6, 4), RED).save(path)


def animated(path: Path) -> None:
    first, second = Image.new("RGB", (6, 4), RED), Image.new("RGB", (6, 4), "blue")
    first.save(path, save_all=True, append_images=[second])


def palette(path: Path) -> None:
    Image.new("RGB", (6, 4), RED).quantize(4).save(path)


def see_through(path: Path) -> None:
    Image.new("RGBA", (6, 4), (*RED, 0)).save(path)


def see_through_palette(path: Path) -> None:
    image = Image.new("P", (6, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(path, transparency=0)


def half_grey(path: Path) -> None:
    Image.new("LA", (6, 4), (0, 128)).save(path)


def deep_grey(path: Path) -> None:
    Image.fromarray(np.full((4, 6), 65535 // 2, np.uint16)).save(path)


def bilevel(path: Path) -> None:
    Image.new("1", (6, 4), 1).save(path)


def cmyk(path: Path) -> None:
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(path)


def deep_tiff(path: Path) -> None:
    Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "colour"),
    [
        ("a.png", plain, RED),
        ("a.jpg", plain, (254, 0, 0)),  # as exact as JPEG is
        ("a.webp", plain, RED),
        ("a.bmp", plain, RED),
        ("a.tif", plain, RED),
        ("a.gif", animated, RED),  # first frame
        ("b.webp", animated, RED),
        ("b.png", palette, RED),
        ("c.png", see_through, (255, 255, 255)),  # transparent is white
        ("d.png", see_through_palette, (255, 255, 255)),
        ("e.png", half_grey, (127, 127, 127)),
        ("f.png", deep_grey, (127, 127, 127)),  # 16 bits
        ("g.png", bilevel, (255, 255, 255)),
        ("b.jpg", cmyk, RED),
        ("b.tif", deep_tiff, (255, 255, 255)),
    ],
)
def test_an_image_of_any_kind_becomes_three_channels_of_eight_bits(
    tmp_path: Path, name: str, write: Callable[[Path], None], colour: tuple[int, int, int]
) -> None:
    write(tmp_path / name)
    pixels = image_file.read(tmp_path / name)
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - colour).max() <= 3


def test_a_rotated_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.repeat(np.array([[[255], [0]]], np.uint8), 3, axis=2).repeat(8, 0).repeat(8, 1)).save(tmp_path / "a.png", exif=exif)
    pixels = image_file.read(tmp_path / "a.png")
    assert pixels.shape == (16, 8, 3)
    assert pixels[0].min() == 255
    assert pixels[-1].max() == 0


def truncated(path: Path) -> None:
    Image.fromarray(noise(0, width=64, height=64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def huge(path: Path) -> None:
    Image.new("1", (10_001, 10_000)).save(path)


def bomb(path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("a.jpg", lambda path: path.write_bytes(b""), "the file is empty"),
        ("a.png", lambda path: path.write_text("hello"), "it is not a JPEG, PNG, WebP, BMP, GIF or TIFF image"),
        ("b.jpg", truncated, "truncated"),
        ("b.png", truncated, "truncated"),
        ("c.png", huge, "more than 100 million pixels (10001 x 10000); scale it down"),
        ("d.png", bomb, "more than 100 million pixels"),  # more than Pillow itself opens
        ("e.png", lambda path: None, "there is no such file"),
        ("f.png", lambda path: path.symlink_to("nowhere.png"), "the link is broken"),
        ("g.png", lambda path: path.mkdir(), "is a directory"),
        ("h.tif", lambda path: Image.fromarray(np.zeros((4, 4), np.float32)).save(path), "its pixels are floating-point numbers"),
        ("i.tif", lambda path: Image.fromarray(np.full((4, 4), 1 << 20, np.int32)).save(path), "more than 16 bits per channel"),
    ],
)
def test_a_file_that_cannot_be_read_gives_the_reason(tmp_path: Path, name: str, write: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / name
    write(path)
    [seen] = image_file.each(image_file.inspect, [str(path)])
    assert reason in seen.reason
    with pytest.raises(errors.DataError) as caught:
        image_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


def test_a_damaged_file_is_either_decoded_or_reported_wherever_the_damage_is(tmp_path: Path) -> None:
    paths = []
    random = np.random.default_rng(0)
    for suffix in ("jpg", "png", "webp", "bmp", "gif", "tif"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(whole)
        for number in range(60):
            content = bytearray(whole.read_bytes())
            content[int(random.integers(len(content)))] ^= int(random.integers(1, 256))
            paths.append(tmp_path / f"{number}.{suffix}")
            paths[-1].write_bytes(content[: int(random.integers(1, len(content) + 1))] if number % 2 else content)
    for seen in image_file.each(image_file.inspect, [str(path) for path in paths]):
        assert bool(seen.digest) != bool(seen.reason)


def test_values_come_in_the_order_of_the_items() -> None:
    assert list(image_file.each(lambda number: number * 2, range(1000))) == list(range(0, 2000, 2))


def test_an_image_may_be_read_while_others_are_being_mapped(tmp_path: Path) -> None:
    plain(tmp_path / "a.png")
    store = image_file.FileImages((str(tmp_path / "a.png"),) * 3)
    assert [store.read(0).sum() for _ in store.map(np.sum, [0, 1, 2])] == [6 * 4 * 255] * 3


def test_a_name_that_is_no_utf_8_can_be_shown() -> None:
    assert image_file.printable(os.fsdecode(b"caf\xe9.png")) == "caf\ufffd.png"


def test_decoded_pixels_of_all_threads_are_limited() -> None:
    held = image_file._PixelLimit(100)
    inside, most, counted = [0], [0], threading.Lock()
    together = threading.Barrier(2)

    def hold(_: int) -> None:
        with held.held(50):
            with counted:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            together.wait(10)
            with counted:
                inside[0] -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, range(8)))
    assert most == [2]


def tiff(num_channels: int) -> bytes:
    """Return a TIFF file of 4 x 4 pixels with any number of channels, its directory at the end."""
    pixels = bytes(16 * num_channels)
    place = 8 + len(pixels)
    bits = struct.pack(f"<{num_channels}H", *[8] * num_channels)
    tags = [(256, 4), (257, 4), (259, 1), (262, 1), (273, 8), (277, num_channels), (278, 4), (279, len(pixels))]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries.insert(2, struct.pack("<HHII", 258, 3, num_channels, place + 2 + 12 * 9 + 4))
    return struct.pack("<2sHI", b"II", 42, place) + pixels + struct.pack("<H", 9) + b"".join(entries) + bytes(4) + bits


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff(5), "it is a TIFF file with 5 channels of 8 bits, of a kind that tuner does not read; save 1 or 3 channels of 8 or 16 bits"),
        (
            tiff(13),
            "it is a TIFF file with 13 channels of 8 bits, of a kind that tuner does not read; save 1 or 3 channels of 8 or 16 bits",
        ),
        (tiff(5)[:40], "it is a damaged TIFF file"),
    ],
)
def test_a_tiff_file_that_is_not_read_is_described(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.tif").write_bytes(content)
    sources: list[image_file.Source] = [str(tmp_path / "a.tif"), image_file.Encoded(name="a", content=content)]
    assert [one.reason for one in image_file.inspect_files(sources, origin=tmp_path, cache=None)] == [reason, reason]
