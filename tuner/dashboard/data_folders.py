"""Folders of data below the roots of a server: what they contain, small pictures of it, and zip files of images that users upload."""

import io
import itertools
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from tuner import wording
from tuner.dashboard import submission
from tuner.dashboard.operations import RequestFailed
from tuner.dashboard.submission import SubmissionRules
from tuner.errors import DataError
from tuner.tasks.images.data import image_file
from tuner.trust import image_zip, roots
from tuner.trust.image_zip import Unpacked
from tuner.trust.roots import Roots

#: folders that are listed, and images that are shown as samples of one
_MOST_FOLDERS, _MOST_SAMPLES = 500, 8
#: entries below a folder that are counted
_MOST_COUNTED = 50_000
#: entries below a folder among which samples are searched
_MOST_SEARCHED = 2_000
#: side of a small picture in pixels; larger files, and images with more pixels, get none
_SIDE, _MOST_BYTES, _MOST_PIXELS = 96, 32 << 20, 60_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
#: what Pillow raises for damaged images
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    MemoryError,
)
#: pictures that are drawn, and uploads that are unpacked, at the same time
_DRAWING, _UPLOADING = threading.BoundedSemaphore(2), threading.BoundedSemaphore(2)


@dataclass(frozen=True, kw_only=True)
class DataFolder:
    """A folder in a list."""

    name: str
    path: str
    #: image files in it and below it
    num_images: int
    #: whether the count ended early
    has_more: bool


@dataclass(frozen=True, kw_only=True)
class DataListing:
    """What a folder of data contains."""

    #: "" for the list of the roots
    path: str
    #: the folder around it; None for a root
    parent: str | None
    folders: tuple[DataFolder, ...]
    #: image files directly in the folder
    num_images: int
    #: paths of a few images in the folder or below it
    samples: tuple[str, ...]


def show(allowed: Roots, given: str | None) -> DataListing:
    """Return what a folder contains; without one, the roots.

    Raises:
        RequestFailed: it is no folder below the roots, or cannot be read.
    """
    if not given:
        return DataListing(
            path="", parent=None, folders=tuple(_counted(root, str(root)) for root in allowed.folders), num_images=0, samples=()
        )
    folder = resolve(allowed, given)
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else None
    except OSError as error:
        raise RequestFailed(HTTPStatus.NOT_FOUND, f"The folder {given} cannot be read: {error.strerror}.") from error
    if entries is None:
        raise RequestFailed(HTTPStatus.NOT_FOUND, f"{given} is not a folder of this server.")
    inner = [entry for entry in entries if not entry.name.startswith(".") and not entry.is_symlink() and entry.is_dir()]
    return DataListing(
        path=str(folder),
        parent=None if folder in allowed.folders else str(folder.parent),
        folders=tuple(_counted(entry, entry.name) for entry in inner[:_MOST_FOLDERS]),
        num_images=sum(_is_image(entry.name) and not entry.is_symlink() and entry.is_file() for entry in entries),
        samples=_samples(folder, inner),
    )


def resolve(allowed: Roots, given: str) -> Path:
    """Return a path below the roots.

    Raises:
        RequestFailed: it is outside, or no path.
    """
    try:
        return allowed.resolve(given)
    except DataError as error:
        raise RequestFailed(HTTPStatus.NOT_FOUND, f"The path {error}.") from error


def picture(allowed: Roots, given: str) -> bytes:
    """Return a small picture of an image as JPEG, without its metadata.

    Raises:
        RequestFailed: it is no image below the roots, or too large.
    """
    path = resolve(allowed, given)
    with _DRAWING:
        try:
            with allowed.open(path) as file:
                return _small(file.read(_MOST_BYTES + 1))
        except (DataError, Image.DecompressionBombError, *_DAMAGE) as error:
            raise RequestFailed(HTTPStatus.NOT_FOUND, f"{wording.show(given)} is not an image that can be shown.") from error


async def upload(rules: SubmissionRules | None, owner: str, name: str, request: Request) -> Unpacked:
    """Receive a zip file of images, and unpack it into the new folder `name` of its owner.

    Raises:
        RequestFailed: the server takes no uploads now, the name is no name, or the archive is too large.
        DataError: the archive is not accepted.
    """
    if rules is None or rules.uploads is None:
        raise RequestFailed(HTTPStatus.CONFLICT, "This server takes no uploads; an admin allows them with --uploads FOLDER.")
    to = rules.uploads / submission.owner_folder(owner) / _folder_name(name)
    if not _UPLOADING.acquire(blocking=False):
        raise RequestFailed(
            HTTPStatus.SERVICE_UNAVAILABLE, "Two uploads are arriving already. Try again later.", headers={"retry-after": "30"}
        )
    try:
        with image_zip.receiving(rules.uploads) as archive:
            await _receive(request.stream(), archive, rules.zip_limits.packed_bytes)
            return await run_in_threadpool(image_zip.unpack, archive, to, rules.zip_limits)
    finally:
        _UPLOADING.release()


async def _receive(chunks: AsyncIterator[bytes], archive: Path, most: int) -> None:
    size = 0
    with archive.open("xb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise RequestFailed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The zip file is larger than {most >> 20:,} MiB.")
            await run_in_threadpool(file.write, chunk)


def _folder_name(given: str) -> str:
    is_plain = given.isascii() and given[:1].isalnum() and all(character.isalnum() or character in "._-" for character in given)
    if not is_plain or len(given) > 100 or given.endswith("."):
        expected = "at most 100 letters, digits, dots, dashes and underscores, starting with a letter or a digit"
        raise RequestFailed(HTTPStatus.UNPROCESSABLE_ENTITY, f"The name is {wording.show(given)}; expected {expected}.")
    return given


def _counted(folder: Path, name: str) -> DataFolder:
    num = images = 0
    for entry in roots.walk(folder, most=_MOST_COUNTED):
        num, images = num + 1, images + _is_image(entry.name)
    return DataFolder(name=name, path=str(folder), num_images=images, has_more=num >= _MOST_COUNTED)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in image_file.SUFFIXES and not name.startswith(".")


def _samples(folder: Path, inner: Sequence[Path]) -> tuple[str, ...]:
    """Return a few images of a folder: those of the folders in it by turns, or its own."""
    of_each = [list(itertools.islice(_images(one), _MOST_SAMPLES)) for one in inner[:_MOST_SAMPLES] or [folder]]
    by_turns = (path for several in itertools.zip_longest(*of_each) for path in several if path is not None)
    return tuple(itertools.islice(by_turns, _MOST_SAMPLES))


def _images(folder: Path) -> Iterator[str]:
    for entry in roots.walk(folder, most=_MOST_SEARCHED):
        if _is_image(entry.name) and entry.is_file(follow_symlinks=False):
            yield entry.path


def _small(content: bytes) -> bytes:
    if len(content) > _MOST_BYTES:
        raise ValueError("the file is too large")
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError("the image is too large")
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        small = ImageOps.fit(upright, (_SIDE, _SIDE))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80)
    return written.getvalue()
