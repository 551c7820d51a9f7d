"""Resized images that processes share through a file."""

import logging
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.cache import entries
from tuner.tasks.images.data import listings, resized


def load(photos: Path, cache: Path, *, size: int = 8, resize: resized.Resize = "stretch", rows: tuple[int, ...] = (0, 2, 5)) -> np.ndarray:
    data = listings.read(listings.list_folder(photos), cache=cache)
    found = resized.load(data, np.array(rows, np.int64), size=size, resize=resize, cache=cache, words={"what": "train"})
    assert isinstance(found, np.ndarray)
    return found


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "images").rglob("*.npy"))


def test_images_come_in_order_from_a_read_only_map(photos: Path, tmp_path: Path) -> None:
    found = load(photos, tmp_path / "cache")
    data = listings.read(listings.list_folder(photos), cache=None)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert (found == np.stack([resized.fit(data.read(row), 8, "stretch") for row in (0, 2, 5)])).all()


def test_the_file_is_made_once(photos: Path, tmp_path: Path) -> None:
    load(photos, tmp_path / "cache")
    [path] = kept(tmp_path / "cache")
    before = path.stat().st_mtime_ns
    load(photos, tmp_path / "cache")
    assert path.stat().st_mtime_ns == before


def test_other_images_or_sizes_have_their_own_file(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load(photos, cache)
    load(photos, cache, size=9)
    load(photos, cache, resize="crop")
    load(photos, cache, rows=(2, 0, 5))
    assert len(kept(cache)) == 4


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: b"x" * 600])
def test_a_damaged_file_is_recreated(photos: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    whole = np.array(load(photos, tmp_path / "cache"))
    [path] = kept(tmp_path / "cache")
    path.write_bytes(damage(path.read_bytes()))
    assert (load(photos, tmp_path / "cache") == whole).all()


def test_the_unfinished_file_of_a_killed_process_is_replaced(photos: Path, tmp_path: Path) -> None:
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


def test_an_image_deleted_meanwhile_is_reported_by_name(photos: Path, tmp_path: Path) -> None:
    data = listings.read(listings.list_folder(photos), cache=None)
    (photos / "cat" / "1.png").unlink()
    with pytest.raises(errors.DataError, match=r"cat/1\.png: there is no such file"):
        resized.load(data, np.arange(8), size=8, resize="stretch", cache=tmp_path / "cache", words={})
    assert not kept(tmp_path / "cache")


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "200")


def stream(photos: Path, cache: Path, **changed: Any) -> resized.ResizedImages:
    data = listings.read(listings.list_folder(photos), cache=None)
    given: dict[str, Any] = {"size": 8, "resize": "stretch", "cache": cache, "words": {"what": "train"}}
    return resized.load(data, np.array([0, 2, 5, 7], np.int64), **given | changed)


@pytest.mark.usefixtures("no_room")
def test_with_a_full_cache_images_are_decoded_on_demand_to_the_same_pixels(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    streamed = stream(photos, tmp_path / "cache")
    assert isinstance(streamed, resized.Streamed)
    assert "4 images are decoded each time they are used" in caplog.text
    assert not entries.find(tmp_path / "cache")
    monkeypatch.delenv("TUNER_CACHE_LIMIT")
    mapped = np.asarray(stream(photos, tmp_path / "cache"))
    assert streamed.shape == mapped.shape and len(streamed) == 4
    assert (streamed[np.array([3, 0, 0])] == mapped[[3, 0, 0]]).all()
    assert (streamed[1:3] == mapped[1:3]).all()
    assert streamed[np.array([], np.int64)].shape == (0, 8, 8, 3)


@pytest.mark.parametrize("limit", ["200", "1GB"])
def test_batches_come_in_order_whether_mapped_or_streamed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("TUNER_CACHE_LIMIT", limit)
    images = stream(photos, tmp_path / "cache")
    rows = [np.array([2, 1]), np.array([0]), np.array([3, 3, 0])]
    for chosen, found in zip(rows, resized.batches(images, rows), strict=True):
        assert (found == images[chosen]).all()
    assert not list(resized.batches(images, []))


def test_the_next_batch_is_prepared_while_one_is_used() -> None:
    prepared = [threading.Event(), threading.Event(), threading.Event()]

    class Watched:
        shape = (3, 1, 1, 3)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, rows: resized.Rows, /) -> NDArray[np.uint8]:
            assert isinstance(rows, np.ndarray)
            prepared[rows[0]].set()
            return np.zeros((1, 1, 1, 3), np.uint8)

    taken = resized.batches(Watched(), [np.array([row]) for row in range(3)])
    next(taken)
    assert prepared[1].wait(10)
    next(taken)
    assert prepared[2].wait(10)
    assert len(list(taken)) == 1


@pytest.mark.usefixtures("no_room")
def test_a_deleted_streamed_image_is_reported_when_its_batch_is_used(photos: Path, tmp_path: Path) -> None:
    streamed = stream(photos, tmp_path / "cache")
    for path in photos.rglob("*.png"):
        path.unlink()
    with pytest.raises(errors.DataError, match=r"\.png: there is no such file"):
        next(resized.batches(streamed, [np.array([0])]))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_photograph_that_is_decoded_smaller_looks_the_same(tmp_path: Path, resize: resized.Resize) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(smooth).resize((800, 608), Image.Resampling.BICUBIC).save(tmp_path / "photos" / name / "1.jpg", quality=95)
    data = listings.read(listings.list_folder(tmp_path / "photos"), cache=None)
    [small] = data.images.map(lambda pixels: pixels, [0], least=32)
    assert small.shape == (76, 100, 3)
    whole = resized.fit(data.read(0), 32, resize)
    assert np.abs(resized.fit(small, 32, resize).astype(int) - whole).mean() < 1


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
