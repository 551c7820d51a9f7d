"""Decoded and resized images, shared through a file."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import noise
from tuner import errors
from tuner.data import files, fingerprint, folder, resized


def load(photos: Path, cache: Path, *, size: int = 8, resize: resized.Resize = "stretch", rows: tuple[int, ...] = (0, 2, 5)) -> np.ndarray:
    data = files.read(folder.find(photos), cache=cache)
    mark = fingerprint.fingerprint(data)
    return resized.load(data, np.array(rows, np.int64), size=size, resize=resize, cache=cache, fingerprint=mark)


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "images").rglob("*.npy"))


def test_images_come_in_order_from_a_read_only_map(photos: Path, tmp_path: Path) -> None:
    found = load(photos, tmp_path / "cache")
    data = files.read(folder.find(photos), cache=None)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert (found == np.stack([resized.fit(data.read(row), 8, "stretch") for row in (0, 2, 5)])).all()


def test_the_file_is_made_once(photos: Path, tmp_path: Path) -> None:
    load(photos, tmp_path / "cache")
    [path] = kept(tmp_path / "cache")
    before = path.stat().st_mtime_ns
    load(photos, tmp_path / "cache")
    assert path.stat().st_mtime_ns == before


def test_other_images_or_another_size_are_another_file(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(photos, cache)
    load(photos, cache, size=9)
    load(photos, cache, resize="crop")
    load(photos, cache, rows=(2, 0, 5))
    assert len(kept(cache)) == 4


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: b"x" * 600])
def test_a_damaged_file_is_made_anew(photos: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    whole = np.array(load(photos, tmp_path / "cache"))
    [path] = kept(tmp_path / "cache")
    path.write_bytes(damage(path.read_bytes()))
    assert (load(photos, tmp_path / "cache") == whole).all()


def test_what_a_killed_process_left_behind_is_replaced(photos: Path, tmp_path: Path) -> None:
    load(photos, tmp_path / "cache")
    [path] = kept(tmp_path / "cache")
    path.rename(path.with_name(path.name + ".part"))
    load(photos, tmp_path / "cache")
    assert kept(tmp_path / "cache") == [path]
    assert not list(path.parent.glob("*.part"))


def test_several_processes_share_one_file(photos: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as processes:
        found = list(processes.map(load, [photos] * 3, [tmp_path / "cache"] * 3))
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    assert len(kept(tmp_path / "cache")) == 1


def test_no_images_need_no_file(photos: Path, tmp_path: Path) -> None:
    assert load(photos, tmp_path / "cache", rows=()).shape == (0, 8, 8, 3)
    assert not kept(tmp_path / "cache")


def test_an_image_that_is_gone_meanwhile_is_named(photos: Path, tmp_path: Path) -> None:
    data = files.read(folder.find(photos), cache=None)
    (photos / "cat" / "1.png").unlink()
    with pytest.raises(errors.DataError, match=r"cat/1\.png: there is no such file"):
        resized.load(data, np.arange(8), size=8, resize="stretch", cache=tmp_path / "cache", fingerprint="f")
    assert not kept(tmp_path / "cache")


def test_a_full_disk_is_an_error_with_its_cure(photos: Path, tmp_path: Path) -> None:
    load(photos, tmp_path / "cache")
    [path] = kept(tmp_path / "cache")
    path.unlink()
    # a device on which every write finds the disk full stands in for the file
    path.with_name(path.name + ".part").symlink_to("/dev/full")
    with pytest.raises(errors.DataError, match=r"cannot be written \(No space left on device\); make room there, or name another folder"):
        load(photos, tmp_path / "cache")


@pytest.mark.parametrize(
    ("resize", "corner", "edge", "middle"),
    [
        ("stretch", (255, 0, 0), (255, 0, 0), (0, 255, 0)),  # all of it, squeezed
        ("crop", (0, 255, 0), (0, 255, 0), (0, 255, 0)),  # the middle only
        ("pad", (127, 127, 127), (255, 0, 0), (0, 255, 0)),  # all of it, grey above and below
    ],
)
def test_a_long_image_becomes_a_square(
    resize: resized.Resize, corner: tuple[int, ...], edge: tuple[int, ...], middle: tuple[int, ...]
) -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, :10, 0], image[:, 10:20, 1], image[:, 20:, 0] = 255, 255, 255
    square = resized.fit(image, 60, resize)
    assert square.shape == (60, 60, 3)
    assert tuple(square[0, 0]) == corner
    assert tuple(square[30, 0]) == edge
    assert tuple(square[30, 30]) == middle


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 5)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_an_image_of_any_shape_becomes_a_square(resize: resized.Resize, shape: tuple[int, int]) -> None:
    assert resized.fit(noise(0, width=shape[0], height=shape[1]), 16, resize).shape == (16, 16, 3)


def test_a_large_image_is_averaged_and_not_sampled() -> None:
    board = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * np.uint8(255)
    small = resized.fit(board.astype(np.uint8), 8, "stretch")
    assert abs(small.astype(int) - 127).max() <= 16
    assert Image.fromarray(small).size == (8, 8)
