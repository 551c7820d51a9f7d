"""Named images: finds the image that a cell of a manifest names, by its path, by its file name or by its file name without ending."""

import filecmp
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from tuner import errors, wording
from tuner.spec import study
from tuner.tasks.images.data import dataset, folder_files, image_file, listings, manifest_tables


def names_of(path: str) -> Iterator[str]:
    """Yield a path, the names of its parts, and the folders above it, also as the path is meant."""
    for given in dict.fromkeys([path, _unquoted(path)]):
        place = PurePosixPath(_slashed(given))
        yield from (str(place), *place.parts, *map(str, place.parents[:-1]))


def encoded(values: Sequence[Any], lines: Sequence[int], data: study.ManifestData) -> list[image_file.Source] | None:
    """Return the images that a column holds as the bytes of image files, or None if it has paths.

    Raises:
        DataError: only a part of the rows holds an image.
    """
    found: list[image_file.Source] = []
    for line, value in zip(lines, values, strict=True):
        inner = value if isinstance(value, dict) else {"bytes": value}
        content, path = inner.get("bytes"), inner.get("path")
        if isinstance(content, bytes) and (isinstance(value, dict) or manifest_tables.as_path(content) is None):
            name = f"{data.path}, row {line - 1}" + (f" ({wording.cut(path)})" if isinstance(path, str) and path else "")
            found.append(image_file.Encoded(name=name, content=content))
    if found and len(found) < len(values):
        raise errors.DataError(
            f"{data.path}: the column {data.image_column} holds images in only {len(found)} of {dataset.count(len(values), 'row')}; "
            "expected an image in each row. Remove the other rows"
        )
    return found or None


def find(cells: Sequence[str], data: study.ManifestData) -> tuple[list[image_file.Source], tuple[str, ...]]:
    """Return the path of each image, and a remark if some were found by their names.

    Raises:
        DataError: a name stands for several images, or more than 1 % of the images do not exist.
    """
    root = data.root or data.path.parent
    if not root.is_dir():
        raise errors.DataError(f"{root} is not a folder; check data.root, which the paths in {data.path} start from")
    paths: list[image_file.Source] = [str(root / cell) for cell in cells]
    missing = [row for row, path in enumerate(paths) if not os.path.lexists(str(path))]
    if not missing or data.class_order == "earlier":
        return paths, ()
    missing, decoded = _decode_paths(cells, missing, root, paths)
    if not missing:
        return paths, decoded
    places = _Places(root)
    found = {row: places.of(cells[row]) or places.of(_unquoted(cells[row])) for row in missing}
    for row, several in found.items():
        if len(several) > 1 and not _are_equal(root, several):
            raise _ambiguous(cells[row], several, data)
    left = [cells[row] for row in missing if not found[row]]
    if len(left) > listings.MAX_UNREADABLE * len(cells):
        raise _missing(left, len(cells), root, places, data)
    remarks = []
    for row in missing:
        if not found[row]:  # it is left out, and its cell is in a message
            paths[row] = str(root / wording.cut(cells[row]))
            continue
        paths[row] = str(root / found[row][0])
        if dataset.nfc(cells[row]) != dataset.nfc(found[row][0]):  # forms of Unicode look alike, and are no news
            remarks.append(f"first {wording.cut(cells[row])}, which is {image_file.printable(found[row][0])}")
    by_name = [f"found below {root} by name: {dataset.count(len(remarks), 'image')}, {first}" for first in remarks[:1]]
    return paths, (*decoded, *by_name)


def _decode_paths(
    cells: Sequence[str], missing: Sequence[int], root: Path, paths: list[image_file.Source]
) -> tuple[list[int], tuple[str, ...]]:
    """Put files that cells name in another notation into the paths; return the rows still missing, and a remark.

    Other notations: a `file://` address, `%20` for a space, quotes, and a list with one path in it.
    """
    left, changed = [], []
    for row in missing:
        path = root / _unquoted(cells[row])
        if os.path.lexists(path):
            paths[row] = str(path)
            changed.append(row)
        else:
            left.append(row)
    shown = [f"{wording.cut(cells[row])}, which is {image_file.printable(str(paths[row]))}" for row in changed[:1]]
    return left, tuple(f"read in another notation: {dataset.count(len(changed), 'path')}, first {first}" for first in shown)


def _unquoted(cell: str) -> str:
    """Return the path that a cell means, without quotes, brackets, escapes and the start of an address: `file:///a%20b` is `/a b`."""
    inner = re.fullmatch(r"""[\[(]\s*(["'])([^"']*)\1\s*,?\s*[\])]|(["'])([^"']+)\3""", cell)
    text = (inner[2] or inner[4] or "") if inner else cell
    address = re.fullmatch(r"file:(?://(?:localhost)?(?=/))?(.*)|(?:https?://[^/]*)?/data/local-files/\?d=(.*)", text, re.IGNORECASE)
    path = unquote((address[1] or address[2] or "") if address else text)
    return str(Path(path).expanduser()) if path.startswith("~/") else path


class _Places:
    """The image files below a folder, by their names, alone and with the folder above: frames of many videos have the same names."""

    def __init__(self, root: Path) -> None:
        self._by_name: dict[str, list[str]] = {}
        for path in sorted(folder_files.image_files(str(root))[0]):
            place = os.path.relpath(path, root)
            name, stem = _last(place), _last(_without_ending(place))
            for key in {dataset.nfc(name).casefold(), dataset.nfc(stem).casefold(), _as_number(stem)}:
                for start in {"", _above(place)}:
                    self._by_name.setdefault(start + key, []).append(place)

    def of(self, cell: str) -> list[str]:
        """Return the files that a cell may mean, relative to the folder: the whole path, or else its end; with or without ending."""
        given = _slashed(cell)
        above, name = _above(given), _last(given)
        candidates = self._by_name.get(above + name.casefold()) or self._by_name.get(above + _as_number(name), [])
        for start, spell, end in itertools.product(("", "/"), _SPELLINGS, _ENDINGS):
            wanted = start + spell(given)
            names = {place: start + spell(dataset.nfc(end(place))) for place in candidates}
            found = [place for place, name in names.items() if (name.endswith(wanted) if start else name == wanted)]
            if found:
                return found
        return []

    def similar(self, cell: str) -> str | None:
        """Return a file that has the name at the end of a path, perhaps with another ending, or None."""
        name = _last(_slashed(cell))
        return next(iter(self.of(name) or self.of(name.rpartition(".")[0])), None)


def _slashed(cell: str) -> str:
    """Return a path in NFC with the separators of this system."""
    return str(PurePosixPath(dataset.nfc(cell).replace("\\", "/")))


def _above(path: str) -> str:
    """Return the folder above a file with a slash, whatever its case; "" for a file without one."""
    folder = _last(path.rpartition("/")[0])
    return f"{dataset.nfc(folder).casefold()}/" if folder else ""


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _without_ending(name: str) -> str:
    ending = Path(name).suffix
    return name.removesuffix(ending) if ending.lower() in image_file.SUFFIXES else name


def _as_number(path: str) -> str:
    """Return a path whose name is a number as spreadsheets rewrite it: `part_1/0027` and `part_1/27.0` become `part_1/27`."""
    return re.sub("(^|/)0*([0-9]+)([.]0+)?$", r"\1\2", path)


#: how a cell may name a file, the closest way first
_SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.casefold, _as_number)
_ENDINGS: tuple[Callable[[str], str], ...] = (str, _without_ending)


def _are_equal(root: Path, places: Sequence[str]) -> bool:
    """Return whether files have the same content; a file that cannot be read, such as a broken link, differs from every other."""
    try:
        return all(filecmp.cmp(root / places[0], root / place, shallow=False) for place in places[1:])
    except OSError:
        return False


def _ambiguous(cell: str, found: Sequence[str], data: study.ManifestData) -> errors.DataError:
    root = data.root or data.path.parent
    shown = ", ".join(image_file.printable(place) for place in found[:3]) + (", …" if len(found) > 3 else "")
    return errors.DataError(
        f"{data.path}: {wording.cut(cell)} is the name of {len(found)} different images below {root}: {shown}. "
        "Set data.root to the folder of the right ones, or write their paths into the table"
    )


def _missing(cells: Sequence[str], total: int, root: Path, places: _Places, data: study.ManifestData) -> errors.DataError:
    cure = f"Set data.root to the folder that the paths start from (now {root}), or data.image_column to the column of the paths"
    similar = places.similar(_unquoted(cells[0]))
    there = f"There is {image_file.printable(similar)} below {root}" if similar is not None else ""
    if (number := _num_images(cells[0], root, places)) > 1:
        cure = f"It names {number} images, but tuner learns one image for each row: write a row for each, with the label, and set {_GROUP}"
    elif manifest_tables.AS_TEXT.match(cells[0]):
        cure = manifest_tables.DECODE
    elif re.match(r"(?!file:)[a-z0-9]+://", cells[0], re.IGNORECASE):
        cure = f"It is a web address: download the images, and name their files{'. ' if there else ''}{there}"
    elif similar is not None and _has_other_ending(_unquoted(cells[0]), similar):
        cure = f"{there}: correct the endings in the table"
    elif there and _is_whole(cells[0]):
        cure = f"It is a path of another machine. {there}: write the paths relative to data.root into the table"
    elif there:
        cure = f"{there}: set data.root so that the paths start from it, or correct the paths"
    what = f"{len(cells):,} of {dataset.count(total, 'image')} cannot be found, first {wording.cut(cells[0])}"
    return errors.DataError(f"{data.path}: {what}: there is no such file. {cure}")


_GROUP = "data.group_column to a column that says which rows belong together"


def _num_images(cell: str, root: Path, places: _Places) -> int:
    """Return the number of images that a cell lists, such as `a.png;b.png` or `['a.png', 'b.png']`; 0 if one of them is not there."""
    for separator in ";|,\n":
        parts = [_unquoted(part.strip("[]()\"' ")) for part in cell.split(separator)]
        if len(parts) > 1 and all(part and ((root / part).is_file() or places.of(part)) for part in parts):
            return len(parts)
    return 0


def _has_other_ending(cell: str, place: str) -> bool:
    """Return whether a cell and a file have the same name with different endings: `a.jpg` and `a.png`."""
    name, found = Path(_last(_slashed(cell))), Path(_last(place))
    return name.stem == found.stem and name.suffix != "" and name.suffix != found.suffix


def _is_whole(cell: str) -> bool:
    """Return whether a path starts at the root of a disk, of this system or of Windows."""
    return cell.startswith(("/", "\\\\")) or re.match(r"[A-Za-z]:[\\/]", cell) is not None
