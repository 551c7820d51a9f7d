"""A report into a file."""

import os
from pathlib import Path

from tuner.errors import RequestError
from tuner.report import material, page
from tuner.search.study import Study

_FORMATS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}
_WRITERS = {"html": page.html, "md": page.markdown}
#: what a report of ours holds, so that it is known when it is to be replaced
MARKS = ('<meta name="generator" content="tuner', "<!-- tuner report -->")


def form(path: Path, given: str | None) -> str:
    """The format of a file: the one that is given, else that of its name.

    Raises:
        RequestError: the name says nothing of it.
    """
    if given is not None:
        return given
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise RequestError(f"{path} ends in {path.suffix or 'no suffix'}; expected .html or .md, or name the format: --format html")
    return found


def check_place(path: Path, *, force: bool = False) -> None:
    """Refuse a file that cannot be written, or, unless forced, that is no report.

    Raises:
        RequestError: it is a folder, lacks one, or holds something else.
    """
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file in it, for example {path / 'report.html'}")
    if not path.parent.is_dir():
        raise RequestError(f"{path} cannot be written: there is no folder {path.parent}; make it first: mkdir -p {path.parent}")
    if not force and path.exists() and path.stat().st_size and not _is_report(path):
        raise RequestError(f"{path} exists and is no report of tuner, so it is left as it is; name another file, or give --force")


def write(study: Study, path: Path, form: str) -> int:
    """Write the report of a study; its size in bytes.

    Raises:
        RequestError: the file cannot be written.
    """
    text = _WRITERS[form](material.read(study)).encode("utf-8", "replace")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(text)
        beside.replace(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return len(text)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096).decode("utf-8", "replace")
    return any(mark in start for mark in MARKS)
