"""Ranges of values: deep images that use a part of their bits, and `data.value_range`."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from tuner import errors
from tuner.spec import data as spec_data
from tuner.spec.study import StudySpec
from tuner.tasks.images.data import dataset, image_file, in_memory, listings, sources, survey

#: 12-bit values, and what they are as 8 bits of [0, 4095]: round(255 * v / 4095)
VALUES = np.array([[0, 16, 1000], [2048, 4000, 4095]], np.uint16)
MAPPED = [[0, 1, 62], [128, 249, 255]]


def folder_of(path: Path, images: dict[str, NDArray[Any]], ending: str = "png") -> Path:
    for name, pixels in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / f"{name}.{ending}")
    return path


@pytest.fixture
def x_rays(tmp_path: Path) -> Path:
    images = {f"{name}/{number}": VALUES + number for name in ("ill", "well") for number in range(2)}
    return folder_of(tmp_path / "x-rays", {name: np.minimum(pixels, 4095).astype(np.uint16) for name, pixels in images.items()})


def write_deep_colors(path: Path, values: NDArray[np.uint16]) -> None:
    """Write a PNG with 16 bits per color, which Pillow cannot."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def data_of(path: Path, **keys: Any) -> Any:
    return StudySpec.model_validate({"name": "a", "data": {"source": "folder", "path": str(path), **keys}}).data


def opened(path: Path, cache: Path, **keys: Any) -> dataset.Dataset:
    return sources.open(data_of(path, **keys), cache=cache)


def test_12_bits_in_16_are_warned_about_with_the_range_and_the_key(x_rays: Path, tmp_path: Path) -> None:
    found = opened(x_rays, tmp_path / "cache")
    said = "almost black: 4 images of 16 bits with values from 0 to 4,095 of 65,535. Set data.value_range: [0, 4095], or auto"
    assert dataset.note_values(found) == [said]
    assert said in dataset.notes(found)
    assert said in survey.summarize(survey.survey(x_rays))
    # from the index, too
    assert dataset.note_values(opened(x_rays, tmp_path / "cache")) == [said]


def test_init_writes_the_range_of_12_bits_and_check_of_its_file_warns_no_more(x_rays: Path, tmp_path: Path) -> None:
    seen = survey.survey(x_rays)
    assert "the study file maps these values: value_range: [0, 4095]" in survey.summarize(seen)
    text = survey.study_file("x-rays", seen)
    assert "  # values of the images that become black and white" in text
    written = YAML(typ="safe").load(text)
    assert written["data"]["value_range"] == [0, 4095]
    assert dataset.note_values(sources.open(StudySpec.model_validate(written).data, cache=tmp_path / "cache")) == []
    folder_of(x_rays, {"well/8 bits": np.full((4, 4), 200, np.uint8)})  # a range of 12 bits would make it black
    assert "value_range" not in survey.study_file("x-rays", survey.survey(x_rays))


def test_16_bits_become_8_as_ever_and_large_images_like_small_ones() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert (dataset.scale(every, (0, 65535)) == np.round(every / 257)).all()
    assert (dataset.scale(np.tile(every, (2, 1)), (100, 4095))[:256] == dataset.scale(every, (100, 4095))).all()


def test_a_range_maps_all_images_in_the_same_way(x_rays: Path, tmp_path: Path) -> None:
    found = opened(x_rays, tmp_path / "cache", value_range=[0, 4095])
    assert found.read(0)[..., 0].tolist() == MAPPED
    assert found.value_range == (0.0, 4095.0)
    assert next(found.images.map(lambda pixels: pixels, [0], least=1))[..., 0].tolist() == MAPPED
    assert dataset.note_values(found) == []
    assert image_file.read(x_rays / "ill" / "0.png", value_range=(0, 4095))[..., 1].tolist() == MAPPED
    # other pixels than without a range, so another fingerprint, also when both come from the index
    plain = opened(x_rays, tmp_path / "cache")
    assert plain.read(0)[..., 0].tolist() == [[0, 0, 4], [8, 16, 16]]
    assert dataset.fingerprint(found) == dataset.fingerprint(opened(x_rays, tmp_path / "cache", value_range=[0, 4095]))
    assert dataset.fingerprint(found) != dataset.fingerprint(plain)


def test_auto_is_the_lowest_and_the_highest_value_of_all_images(tmp_path: Path) -> None:
    images = {"a/1": np.full((2, 2), 1000, np.uint16), "a/2": np.full((2, 2), 1500, np.uint16), "b/1": np.full((2, 2), 2000, np.uint16)}
    found = opened(folder_of(tmp_path / "images", images), tmp_path / "cache", value_range="auto")
    assert found.value_range == (1000.0, 2000.0)
    assert [int(found.read(row).max()) for row in range(3)] == [0, 128, 255]


def test_values_outside_a_range_are_clipped_and_counted(x_rays: Path, tmp_path: Path) -> None:
    found = opened(x_rays, tmp_path / "cache", value_range=[100, 2048])
    assert found.read(0)[..., 0].tolist() == [[0, 0, 118], [255, 255, 255]]
    assert dataset.note_values(found) == ["clipped to data.value_range [100, 2048]: 4 images; all values: [0, 4095]"]


def test_floating_point_and_signed_values_need_a_range(tmp_path: Path) -> None:
    images = {"a/1": np.array([[-1000.0, 0.0, 1000.0]], np.float32), "b/1": np.array([[0.0, np.nan, 500.0]], np.float32)}
    path = folder_of(tmp_path / "images", images, "tif")
    with pytest.raises(errors.DataError, match=r"floating-point numbers from -1000 to 1000.*Set data.value_range: \[-1000, 1000\]"):
        opened(path, tmp_path / "cache")
    for given in ([-1000, 1000], "auto"):
        found = opened(path, tmp_path / "cache", value_range=given)
        assert found.read(0)[0, :, 0].tolist() == [0, 128, 255]
        assert found.read(1)[0, :, 0].tolist() == [128, 0, 191]


def test_images_of_8_bits_cannot_be_mapped_like_deeper_ones(x_rays: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, np.uint8)).save(x_rays / "ill" / "screen.png")
    with pytest.raises(
        errors.DataError, match=r"screen.png: it has 8 bits per channel, which cannot be mapped like data.value_range: \[0, 4095\]"
    ):
        opened(x_rays, tmp_path / "cache", value_range=[0, 4095])


def test_masks_of_8_bits_are_warned_about_and_mapped(tmp_path: Path) -> None:
    images = {f"{name}/1": np.array([[0, 1, number]], np.uint8) for number, name in enumerate("ab")}
    path = folder_of(tmp_path / "images", images)
    said = "almost black: 2 images of 8 bits with values from 0 to 1 of 255. Set data.value_range: [0, 1], or auto"
    assert dataset.note_values(opened(path, tmp_path / "cache")) == [said]
    assert opened(path, tmp_path / "cache", value_range=[0, 1]).read(0)[0, :, 0].tolist() == [0, 255, 0]


def test_colors_of_16_bits_keep_all_their_bits(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 3), np.uint16)
    values[..., 0], values[..., 2] = VALUES, 4095
    (tmp_path / "a").mkdir()
    write_deep_colors(tmp_path / "a" / "1.png", values)
    found = image_file.read(tmp_path / "a" / "1.png", value_range=(0, 4095))
    assert found[..., 0].tolist() == MAPPED
    assert found[..., 2].min() == 255
    seen = image_file.inspect(str(tmp_path / "a" / "1.png"))
    assert (seen.low, seen.high, seen.bits) == (0, 4095, 16)
    # without a range, as ever: the upper 8 bits
    assert image_file.read(tmp_path / "a" / "1.png")[..., 0].tolist() == [[0, 0, 3], [8, 15, 15]]


def test_a_black_image_among_deep_ones_is_not_warned_about(tmp_path: Path) -> None:
    images = {"a/1": np.zeros((2, 2), np.uint16), "b/1": np.full((2, 2), 60000, np.uint16)}
    assert dataset.note_values(opened(folder_of(tmp_path / "images", images), tmp_path / "cache")) == []


def test_auto_needs_two_different_values(tmp_path: Path) -> None:
    path = folder_of(tmp_path / "images", {"a/1": np.full((2, 2), 7, np.uint16), "b/1": np.full((2, 2), 7, np.uint16)})
    with pytest.raises(errors.DataError, match=r"data.value_range is auto, but all pixels of .* are 7; set it to the range of the values"):
        opened(path, tmp_path / "cache", value_range="auto")


@pytest.mark.parametrize("given", [[0], [1, 1], [5, 1], "all", [0, True], ["0", "1"], [0, float("inf")], 255, {"low": 0}])
def test_what_is_no_range_is_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the lowest and the highest value, such as \[0, 4095\], or auto"):
        data_of(tmp_path, value_range=given)


@pytest.mark.parametrize("given", [None, "auto", [0, 4095], [-1.5, 2]])
def test_a_range_survives_the_storage(given: Any, tmp_path: Path) -> None:
    spec = StudySpec.model_validate({"name": "a", "data": {"source": "folder", "path": str(tmp_path), "value_range": given}})
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


def test_arrays_of_16_bits_are_mapped_or_refused_with_the_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.stack([VALUES, VALUES]), y=np.array([0, 1]))
    spec = {"source": "npz", "path": str(tmp_path / "a.npz")}
    with pytest.raises(errors.DataError, match="its values are from 0 to 4095: set data.value_range to their range, or to auto"):
        sources.open(StudySpec.model_validate({"name": "a", "data": spec}).data, cache=tmp_path)
    for given in ([0, 4095], "auto"):
        found = sources.open(StudySpec.model_validate({"name": "a", "data": spec | {"value_range": given}}).data, cache=tmp_path)
        assert found.read(0)[..., 0].tolist() == MAPPED
        assert found.value_range == (0.0, 4095.0)


def test_a_table_takes_a_range_too(x_rays: Path, tmp_path: Path) -> None:
    (x_rays / "labels.csv").write_text("path,label\nill/0.png,ill\nwell/0.png,well\n")
    spec = {"source": "manifest", "path": str(x_rays / "labels.csv"), "value_range": [0, 4095]}
    found = sources.open(StudySpec.model_validate({"name": "a", "data": spec}).data, cache=tmp_path)
    assert found.read(1)[..., 0].tolist() == MAPPED


def test_a_listing_without_a_cache_measures_too(x_rays: Path) -> None:
    assert listings.read(listings.list_folder(x_rays), cache=None, value_range="auto").value_range == (0.0, 4095.0)


@pytest.mark.parametrize("pixels", [np.full((4, 8, 8), np.nan), np.zeros((0, 8, 8))])
def test_auto_is_refused_for_arrays_without_a_number(pixels: NDArray[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=pixels, y=np.arange(len(pixels)) % 2)
    with pytest.raises(errors.DataError, match="has no pixels with a number, so data.value_range: auto is unknown"):
        in_memory.read_npz(spec_data.NpzData(source="npz", path=tmp_path / "images.npz", value_range="auto"))
