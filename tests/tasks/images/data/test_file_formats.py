"""Damaged metadata, and files that are not images of a format that is read."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.tasks.images.data import dataset, file_formats, image_file, listings

PIXELS = noise(1, width=50, height=40)


def encoded(form: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, form, **options)
    return file.getvalue()


PNG, JPEG, PROGRESSIVE = encoded("PNG"), encoded("JPEG"), encoded("JPEG", progressive=True)
TURNED = Image.Exif()
TURNED[0x112] = 6
WEBP = encoded("WEBP", lossless=True, exif=TURNED, icc_profile=b"profile")
TIFF = encoded("TIFF", icc_profile=b"profile" * 9)


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if checksum is None else checksum)


def png(*parts: bytes) -> bytes:
    """A PNG with parts after its header."""
    return PNG[:33] + b"".join(parts) + PNG[33:]


def jpeg(marker: int, data: bytes, size: int | None = None) -> bytes:
    """A JPEG that starts with one more segment."""
    return JPEG[:2] + bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data) if size is None else size) + data + JPEG[2:]


@pytest.mark.parametrize(
    "content",
    [
        png(chunk(b"tEXt", b"k\0" + b"x" * 2_000_000)),
        png(chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 2_000_000))),
        png(chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000))),
        png(*[chunk(b"tEXt", b"k\0" + b"x" * 900_000)] * 80),
        png(chunk(b"iCCP", b"k\0\0" + zlib.compress(b"x" * 2_000_000))),
        png(chunk(b"iCCP", b"")),
        png(chunk(b"eXIf", b"no EXIF")),
        png(chunk(b"tEXt", b"k\0v", checksum=5)),
        png(chunk(b"tEXt", b"k\0" + b"x" * 500)[:300]),
        png(chunk(b"pHYs", b"a")),
        png(chunk(b"gAMA", b"a")),
        png(chunk(b"cHRM", b"a")),
        png(chunk(b"acTL", b"a")),
        png(chunk(b"fcTL", b"a")),
        PNG[:-12] + chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 2_000_000)) + PNG[-12:],
        PNG[:-12] + chunk(b"tEXt", b"k\0" + b"x" * 2_000)[:500],
        PNG[:-12],
    ],
)
def test_a_png_with_damaged_or_large_metadata_has_its_pixels(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert (image_file.read(tmp_path / "a.png") == PIXELS).all()
    assert (image_file.read(image_file.Encoded(name="a", content=content)) == PIXELS).all()


@pytest.mark.parametrize(
    "content",
    [
        jpeg(0xE1, b"Exif\0\0garbage"),
        jpeg(0xE1, b"Exif\0\0" + b"x" * 100, size=500),
        jpeg(0xE1, b"Exif\0\0" + b"x" * 100, size=0),
        jpeg(0xE2, b"ICC_PROFILE\0"),
        jpeg(0xE2, b"MPF\0garbage"),
        jpeg(0xED, b"Photoshop 3.0\x008BIM\x04"),
        jpeg(0xEE, b"Adobe"),
        jpeg(0xE0, b"JFIF"),
        jpeg(0xFE, b"\xff\xd9" * 100),
        JPEG[:-2],
        JPEG + b"more",
    ],
)
def test_a_jpeg_with_damaged_metadata_has_its_pixels(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert (image_file.read(tmp_path / "a.jpg") == np.asarray(Image.open(io.BytesIO(JPEG)))).all()


def test_a_progressive_jpeg_without_its_end_has_its_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PROGRESSIVE[:-2])
    assert (image_file.read(tmp_path / "a.jpg") == np.asarray(Image.open(io.BytesIO(PROGRESSIVE)))).all()


@pytest.mark.parametrize("content", [WEBP[:-10], WEBP.replace(b"II*\0", b"none"), WEBP.replace(b"MM\0*", b"none")])
def test_a_webp_with_damaged_exif_has_its_pixels(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(content)
    found = image_file.read(tmp_path / "a.webp")
    assert sorted(found.shape) == [3, 40, 50]


def test_a_tiff_whose_color_profile_is_beyond_its_end_has_its_pixels(tmp_path: Path) -> None:
    place = TIFF.find(struct.pack("<H", 34675)) + 8
    (tmp_path / "a.tif").write_bytes(TIFF[:place] + struct.pack("<I", 10**8) + TIFF[place + 4 :])
    assert (image_file.read(tmp_path / "a.tif") == PIXELS).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", PNG[: len(PNG) // 2]),
        ("a.png", png(chunk(b"gAMA", b"a"))[:-100]),
        ("a.jpg", JPEG[:-3]),
        ("a.jpg", JPEG[:-40]),
        ("a.jpg", JPEG[: len(JPEG) // 2]),
        ("a.jpg", PROGRESSIVE[: PROGRESSIVE.rfind(b"\xff\xda")]),
        ("a.jpg", PROGRESSIVE[:-200]),
        ("a.webp", WEBP[:500]),
        ("a.tif", TIFF[:-200]),
    ],
)
def test_an_image_without_all_its_pixels_is_not_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(errors.DataError, match="repair or remove the file"):
        image_file.read(tmp_path / name)


def test_the_orientation_survives_damage_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(chunk(b"eXIf", TURNED.tobytes()[6:]), chunk(b"gAMA", b"a")))
    assert (image_file.read(tmp_path / "a.png") == np.rot90(PIXELS, -1)).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\0\0\0\x18ftypheic" + b"0" * 99, "it is a HEIC image, not a JPEG"),
        (b"\0\0\0\x18ftypavif" + b"0" * 99, "it is an AVIF image"),
        (b"\0" * 128 + b"DICM", "it is a DICOM image"),
        (b"\xff\x0a" + b"0" * 99, "it is a JPEG XL image"),
        (b"P5\n1 1\n255\na", "it is a PNM image"),
        (b"\n<!DOCTYPE html><html>", "it is a web page (its download failed)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS (fetch the file itself with: git lfs pull)"),
        (b'<?xml version="1.0"?>\n<svg>', "it is an SVG drawing"),
        (b"nothing known", "it is not a JPEG, PNG, WebP, BMP, GIF or TIFF image"),
        (b"", "the file is empty"),
    ],
)
def test_a_file_of_another_format_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(errors.DataError) as caught:
        image_file.read(tmp_path / "a.jpg")
    assert said in str(caught.value)


def test_formats_that_are_not_read_are_counted_by_kind_and_class(photos: Path) -> None:
    for number in range(3):
        (photos / "cat" / f"{number}.HEIC").write_bytes(b"")
    (photos / "dog" / "a.heic").write_bytes(b"")
    (photos / "dog" / "a.dcm").write_bytes(b"")
    (photos / "dog" / "notes.txt").write_bytes(b"")
    found = listings.read(listings.list_folder(photos), cache=None)
    assert sorted(found.foreign) == [("DICOM", "dog", 1), ("HEIC", "cat", 3), ("HEIC", "dog", 1)]

    assert dataset.note_foreign(found) == [
        "not read, because tuner reads JPEG, PNG, WebP, BMP, GIF and TIFF: 1 DICOM file (dog 1); convert them to PNG",
        "not read, because tuner reads JPEG, PNG, WebP, BMP, GIF and TIFF: 4 HEIC files (cat 3, dog 1); convert them to PNG",
    ]


def test_a_class_that_has_only_another_format_says_so(photos: Path) -> None:
    for path in (photos / "cat").glob("*.png"):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(errors.DataError, match=r"no images in the sub-folder cat, but 4 files \(HEIC 4\) in a format that tuner does not"):
        listings.list_folder(photos)


def test_unreadable_images_are_counted_by_reason_and_class(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        path.write_bytes(b"\0\0\0\x18ftypheic" + b"0" * 99)
    with pytest.raises(errors.DataError) as caught:
        listings.read(listings.list_folder(photos), cache=None)
    assert "  8 images (cat 4, dog 4): it is a HEIC image, not a JPEG, PNG, WebP, BMP, GIF or TIFF image" in str(caught.value)


def test_every_foreign_ending_is_one_that_is_not_read() -> None:
    assert not image_file.SUFFIXES & set(file_formats.FOREIGN_SUFFIXES)
