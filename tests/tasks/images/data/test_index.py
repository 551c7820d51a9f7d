"""The index of decoded files, and when it is rebuilt."""

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.tasks.images.data.conftest import noise
from tuner import errors
from tuner.tasks.images.data import image_file, listings


def spoil(path: Path) -> None:
    """Change the content of a file, but not its size and time."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_unchanged_file_is_not_decoded_again(photos: Path, tmp_path: Path) -> None:
    before = listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    for path in photos.rglob("*.png"):
        spoil(path)
    after = listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    assert after.digests.tolist() == before.digests.tolist()
    assert after.sizes.tolist() == before.sizes.tolist()
    assert not after.unreadable


def test_reading_an_index_counts_as_its_use(photos: Path, tmp_path: Path) -> None:
    listings.read(listings.list_folder(photos), cache=tmp_path)
    (old,) = image_file.index_entries(tmp_path)
    os.utime(old.path, (old.last_used - 86_400, old.last_used - 86_400))
    listings.read(listings.list_folder(photos), cache=tmp_path)
    assert image_file.index_entries(tmp_path)[0].last_used >= old.last_used


def test_a_changed_file_is_decoded_again(photos: Path, tmp_path: Path) -> None:
    before = listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    Image.fromarray(noise(77)).save(photos / "cat" / "1.png")
    after = listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    assert after.digests[0] != before.digests[0]
    assert after.digests[1:].tolist() == before.digests[1:].tolist()


def test_a_file_that_could_not_be_read_is_tried_again(photos: Path, tmp_path: Path) -> None:
    paths = [str(photos / "cat" / "1.png")]
    content = Path(paths[0]).read_bytes()
    spoil(Path(paths[0]))
    assert image_file.inspect_files(paths, origin=photos, cache=tmp_path)[0].reason
    Path(paths[0]).write_bytes(content)
    assert not image_file.inspect_files(paths, origin=photos, cache=tmp_path)[0].reason


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b'{"version": "0", "files": {}}',  # of another version
        b'{"version": "VERSION", "files": []}',
        b'{"version": "VERSION", "files": {"PATH": [1, 2]}}',
        b'{"version": "VERSION", "files": {"PATH": [SIZE, MTIME, "zz", 1, 1]}}',
    ],
)
def test_a_damaged_index_is_rebuilt(photos: Path, tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "cache"
    before = listings.read(listings.list_folder(photos), cache=cache)
    [path] = (cache / "index").glob("*.json")
    whole = path.read_bytes()
    image = photos / "cat" / "1.png"
    status = image.stat()
    words = {"VERSION": image_file._VERSION, "PATH": str(image), "SIZE": str(status.st_size), "MTIME": str(status.st_mtime_ns)}
    for word, value in words.items():
        content = content.replace(word.encode(), value.encode())
    path.write_bytes(content)
    after = listings.read(listings.list_folder(photos), cache=cache)
    assert after.digests.tolist() == before.digests.tolist()
    assert path.read_bytes() == whole


def test_deleted_files_leave_the_index(photos: Path, tmp_path: Path) -> None:
    listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    (photos / "cat" / "1.png").unlink()
    Image.fromarray(noise(50)).save(photos / "cat" / "new.png")
    listings.read(listings.list_folder(photos), cache=tmp_path / "cache")
    [path] = (tmp_path / "cache" / "index").glob("*.json")
    assert "new.png" in path.read_text()
    assert "1.png" not in path.read_text()
    assert [entry.suffix for entry in path.parent.iterdir() if entry != path] in ([".lock"], [])


def test_a_cache_folder_without_write_permission_is_reported_with_a_remedy(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, no folder")
    with pytest.raises(errors.DataError, match=r"the cache folder .*cache/index cannot be written .*TUNER_CACHE or --cache"):
        listings.read(listings.list_folder(photos), cache=tmp_path / "cache")


def test_images_decoded_before_an_interruption_stay_in_the_index(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: str) -> image_file.DecodedInfo:
        if str(path).endswith("199.bmp"):
            raise KeyboardInterrupt
        return inspect(path)

    inspect = image_file.inspect
    monkeypatch.setattr(image_file, "inspect", interrupt)
    listing = listings.list_folder(many)
    paths = [path for path in listing.paths if not str(path).endswith("199.bmp")] + [str(many / "cat" / "199.bmp")]
    with pytest.raises(KeyboardInterrupt):
        image_file.inspect_files(paths, origin=many, cache=tmp_path / "cache")
    [path] = (tmp_path / "cache" / "index").glob("*.json")
    assert path.read_text().count(".bmp") >= 100
