"""The files of a bundle, by their names and first bytes, into those that no export writes and that could run when someone opens them."""

import re
from collections.abc import Iterable
from pathlib import Path

from tuner.errors import Problem
from tuner.results import manifest

#: what an export writes
_KINDS = re.compile(r".*(\.(keras|onnx|tflite|txt|yaml|json|lock|md|png|jpg|pb|index)|\.data-\d{5}-of-\d{5})")
#: in which any bytes may come first
_MODELS = (".onnx", ".tflite", ".pb", ".index")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PROGRAMS = (b"\x7fELF", b"#!", b"MZ")


def problems(folder: Path, names: Iterable[str]) -> list[Problem]:
    """What must not be in a bundle, though its manifest lists it."""
    return [Problem(field=name, message=reason) for name in names if (reason := _refusal(folder / name))]


def _refusal(path: Path) -> str:
    if not _KINDS.fullmatch(path.name):
        return "is of a kind that no export writes; it may hold code"
    if path.suffix in _MODELS or ".data-" in path.name:
        return ""
    with manifest.open_file(path) as file:
        begin = file.read(4)
    if _PICKLE.match(begin):
        return "is a pickle, which may run code when it is read"
    if begin.startswith(_PROGRAMS):
        return "is a program"
    return ""
