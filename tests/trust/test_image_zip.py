"""Zip files of images: hostile ones leave nothing behind, and of good ones only the images are kept."""

import io
import stat
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.errors import DataError
from tuner.trust import image_zip
from tuner.trust.image_zip import Unpacked, ZipLimits

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
JPEG = b"\xff\xd8\xff" + b"pixels"
SMALL = ZipLimits(
    packed_bytes=1 << 20, unpacked_bytes=8 << 20, files=50, file_bytes=4 << 20, ratio=100, directory_bytes=100_000, free_bytes=0
)


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return written.getvalue()


@pytest.fixture
def unpack(tmp_path: Path) -> Callable[..., Unpacked]:
    def run(content: bytes, name: str = "flowers", limits: ZipLimits = SMALL) -> Unpacked:
        with image_zip.receiving(tmp_path / "uploads") as archive:
            archive.write_bytes(content)
            return image_zip.unpack(archive, tmp_path / "uploads" / "ada" / name, limits)

    return run


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_images_are_kept_and_what_is_left_out_is_counted(unpack: Callable[..., Unpacked], tmp_path: Path) -> None:
    files = {"cat/1.png": PNG, "dog/1.JPG": JPEG, "dog/notes.txt": b"x", "__MACOSX/cat/._1.png": PNG, ".DS_Store": b"x", "README": b"x"}
    found = unpack(packed(files | {"dog/program.jpg": b"\x7fELF"}))
    assert left(tmp_path / "uploads") == [
        "ada",
        "ada/flowers",
        "ada/flowers/cat",
        "ada/flowers/cat/1.png",
        "ada/flowers/dog",
        "ada/flowers/dog/1.JPG",
    ]
    assert (found.num_images, found.num_bytes) == (2, len(PNG) + len(JPEG))
    assert found.left_out == {
        ".txt files": 1, "hidden files": 2, "files without an ending": 1, "files whose content is not that of an image": 1,
    }  # fmt: skip
    assert (tmp_path / "uploads" / "ada" / "flowers" / "cat" / "1.png").read_bytes() == PNG


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["flowers/cat/1.png", "flowers/dog/1.png"], ["cat/1.png", "dog/1.png"]),
        (["a/b/cat/1.png", "a/b/dog/1.png"], ["cat/1.png", "dog/1.png"]),
        (["flowers/cat/1.png"], ["cat/1.png"]),
        (["cat/1.png", "dog/1.png"], ["cat/1.png", "dog/1.png"]),
        (["1.png"], ["1.png"]),
    ],
)
def test_a_single_folder_around_the_classes_is_left_out(
    unpack: Callable[..., Unpacked], tmp_path: Path, names: list[str], kept: list[str]
) -> None:
    folder = unpack(packed(dict.fromkeys(names, PNG))).folder
    assert [name for name in left(folder) if name.endswith(".png")] == kept
    assert stat.S_IMODE(folder.stat().st_mode) & 0o500 == 0o500


def special(kind: int) -> bytes:
    """Return an archive with an entry of a kind of Unix."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as opened:
        entry = zipfile.ZipInfo("cat/1.png")
        entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
        opened.writestr(entry, "/etc/passwd")
    return written.getvalue()


def claimed(name: str, *, flags: int = 0, method: int = 0, central: str | None = None) -> bytes:
    """Return an archive with one entry written by hand."""
    encoded, listed = name.encode(), (central or name).encode()
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 33, 0, len(PNG), len(PNG), len(encoded), 0) + encoded + PNG
    directory = (
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, flags, method, 0, 33, 0, len(PNG), len(PNG), len(listed), 0, 0, 0, 0, 0, 0) + listed
    )
    return local + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(local), 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (packed({"../1.png": PNG}), "leads out"),
        (packed({"cat/../../1.png": PNG}), "leads out"),
        (packed({"cat/./1.png": PNG}), "leads out"),
        (packed({"cat//1.png": PNG}), "leads out"),
        (packed({"/etc/1.png": PNG}), "absolute"),
        (packed({"C:/1.png": PNG}), "absolute"),
        (packed({"cat\\..\\1.png": PNG}), "absolute"),
        (claimed("cat/1.png\0.exe"), "characters that no name needs"),
        (packed({"cat/\u202egnp.1": PNG}), "characters that no name needs"),
        (packed({"cat/1\n.png": PNG}), "characters that no name needs"),
        (packed({"/".join("abcdefghijklmnopq") + ".png": PNG}), "too many folders"),
        (packed({"x" * 300 + ".png": PNG}), "too long"),
        (packed({"con.png": PNG}), "device"),
        (packed({"cat/1.png ": PNG}), "another name"),
        (special(stat.S_IFLNK), "is a link"),
        (special(stat.S_IFBLK), "is a device"),
        (special(stat.S_IFIFO), "is a device"),
        (claimed("1.png", flags=1), "encrypted"),
        (claimed("1.png", method=14), "compressed by method 14"),
        (packed({"a/1.png": PNG, "A/1.PNG": PNG}), "more than once"),
        (packed({"caf\u00e9.png": PNG, "cafe\u0301.png": PNG}), "more than once"),
        (packed({"cat.png": PNG, "cat.png/1.png": PNG}), "below a file"),
        (packed({f"{number}.png": PNG for number in range(51)}), "51 files"),
        (packed({"1.png": PNG + bytes(5 << 20)}), "larger than 4 MiB"),
        (packed({"1.png": PNG + bytes(3 << 20)}), "100 times"),
        (packed({f"{number}.png": PNG + bytes(3 << 20) for number in range(3)}, zipfile.ZIP_STORED), "unpacks to 9 MiB"),
        (packed({f"{'x' * 200}{number}/{'y' * 200}/{'z' * 200}.txt": b"" for number in range(49)}) * 1, "no images"),
        (packed({"notes.txt": b"x"}), "only 1 .txt files"),
        (packed({}), "no images"),
        (b"", "not a usable zip"),
        (b"PK\3\4" + bytes(100), "not a usable zip"),
        (JPEG * 100, "not a usable zip"),
        (claimed("1.png")[:-30], "not a usable zip"),
        (claimed("1.png", central="2.png"), "not a usable zip"),
        (claimed("1.png"), "not a usable zip"),  # its checksum is wrong
    ],
)
def test_an_unsafe_archive_is_refused_and_leaves_nothing(
    unpack: Callable[..., Unpacked], tmp_path: Path, content: bytes, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        unpack(content)
    assert left(tmp_path / "uploads") == []
    assert left(tmp_path) == ["uploads"]


def test_a_list_of_files_that_would_fill_the_memory_is_not_read(unpack: Callable[..., Unpacked]) -> None:
    """The end of the archive claims a directory of 1 GiB."""
    directory = 1 << 30
    content = packed({"1.png": PNG})[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, directory, 0, 0)
    with pytest.raises(DataError, match="not a usable zip"):
        unpack(bytes(0) + content)


def test_overlapping_entries_are_refused(unpack: Callable[..., Unpacked]) -> None:
    """Many entries that share one compressed block make a bomb of a small file."""
    name, block = b"0.png", PNG + bytes(1 << 19)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, len(block), len(block), len(name), 0) + name + block
    listed = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, len(block), len(block), len(name), 0, 0, 0, 0, 0, 0)
        + f"{number}.png".encode()
        for number in range(10)
    )
    with pytest.raises(DataError, match="not a usable zip"):
        unpack(local + listed + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 10, 10, len(listed), len(local), 0))


def test_an_existing_folder_is_not_replaced(unpack: Callable[..., Unpacked], tmp_path: Path) -> None:
    unpack(packed({"cat/1.png": PNG}))
    (tmp_path / "uploads" / "ada" / "link").symlink_to("/etc")
    for name in ("flowers", "link"):
        with pytest.raises(DataError, match="exists already"):
            unpack(packed({"cat/2.png": PNG}), name)
    assert left(tmp_path / "uploads" / "ada" / "flowers") == ["cat", "cat/1.png"]


def test_a_full_disk_stops_the_unpacking(unpack: Callable[..., Unpacked], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not fit on the disk"):
        unpack(packed({"cat/1.png": PNG}), limits=ZipLimits(free_bytes=1 << 62))
    assert left(tmp_path / "uploads") == []


def test_a_thousand_images_are_unpacked_quickly(unpack: Callable[..., Unpacked]) -> None:
    began = time.monotonic()
    assert unpack(packed({f"{number % 10}/{number}.png": PNG for number in range(1000)}), limits=ZipLimits(free_bytes=0)).num_images == 1000
    assert time.monotonic() - began < 20
