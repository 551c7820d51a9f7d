"""Roots: the folders that a server may read for others, and paths in them, whose links must not lead elsewhere."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tuner import wording
from tuner.errors import DataError, RequestError

#: longest path that a request may name, in characters, and longest name of a file in it, in bytes, as of most file systems
_LONGEST_PATH, _LONGEST_NAME = 1024, 255
#: most entries of a folder that are looked at
MAX_ENTRIES = 200_000


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Folders that may be read, as absolute paths without links."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, given: Sequence[Path]) -> "Roots":
        """Return the roots of some folders that exist.

        Raises:
            RequestError: one does not exist, or is the whole disk.
        """
        found = []
        for folder in given:
            real = folder.expanduser().resolve()
            if not real.is_dir() or real == Path(real.anchor):
                what = "is the whole disk" if real == Path(real.anchor) else "is not a folder"
                raise RequestError(f"--data-roots names {folder}, which {what}; expected a folder of data, such as /srv/data")
            found.append(real)
        return cls(folders=tuple(dict.fromkeys(found)))

    def resolve(self, given: str) -> Path:
        """Return the path of a request without links; a relative path starts at the first root that has it.

        The path is not looked up on the disk before its text lies inside a root.

        Raises:
            DataError: the text is not a usable path, or the path is outside the roots, possibly by a link.
        """
        check_text(given)
        candidates = [Path(given)] if given.startswith("/") else [root / given for root in self.folders]
        inside = [path for path in candidates if self._root_of(path) is not None]
        path = next((path for path in inside if os.path.lexists(path)), inside[0] if inside else None)
        real = None if path is None else _without_links(path)
        if real is None or self._root_of(real) is None:
            raise DataError(f"is {wording.show(given)}, which is outside the folders of this server; expected a path below {self.words()}")
        return real

    def open(self, path: Path) -> BinaryIO:
        """Open a regular file of `resolve` for reading. A link that replaces a folder of the path in the meantime is not followed.

        Raises:
            DataError: it is outside the roots.
            OSError: it cannot be opened, or is no regular file.
        """
        root = self._root_of(path)
        if root is None or path == root:
            raise DataError(f"is {path}, which is outside the folders of this server; expected a path below {self.words()}")
        *folders, name = path.relative_to(root).parts
        number = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=number)
                os.close(number)
                number = inner
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=number)
        finally:
            os.close(number)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(f"{path} is not a regular file")
        return os.fdopen(file, "rb")

    def contains(self, path: Path) -> bool:
        """Return whether a path leads into a root, after links are followed."""
        real = _without_links(path)
        return real is not None and self._root_of(real) is not None

    def link_out(self, folder: Path) -> Path | None:
        """Return a link below a folder that leads out of the roots, or None if there is none among the entries that are looked at."""
        for entry in walk(folder):
            if entry.is_symlink() and not self.contains(Path(entry.path)):
                return Path(entry.path)
        return None

    def words(self) -> str:
        """Return the roots for a message."""
        return wording.listed(str(folder) for folder in self.folders)

    def _root_of(self, path: Path) -> Path | None:
        return next((root for root in self.folders if path.is_relative_to(root)), None)


def check_text(given: str) -> None:
    """Refuse a text that is not a plain path: `..`, NUL, other control characters, a home folder or a variable of the environment.

    Raises:
        DataError: it is none; the message is a clause that starts with a verb.
    """
    shown = wording.show(given)
    if not given.strip() or not given.isprintable():
        raise DataError(f"is {shown}, which has no text or characters that no path needs; expected a path such as flowers/train")
    if given.startswith(("~", "$")):
        raise DataError(f"is {shown}; the home folders and variables of the server are not open to a submitted study. Write the whole path")
    parts = given.split("/")
    if ".." in parts:
        raise DataError(f"is {shown}, which contains `..`; expected a path without it")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError as error:
        raise DataError(f"is {shown}, which is not valid Unicode") from error
    if len(given) > _LONGEST_PATH or longest > _LONGEST_NAME:
        raise DataError(f"is {shown}, which is too long for a path")


def walk(folder: Path, *, most: int = MAX_ENTRIES) -> Iterator[os.DirEntry[str]]:
    """Yield the entries below a folder, at most `most`, without entering links or folders that cannot be read."""
    waiting, num = [folder], 0
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if num >= most:
                        return
                    num += 1
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
        except OSError:
            continue


def _without_links(path: Path) -> Path | None:
    """Return where a path leads, None for links that lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None
