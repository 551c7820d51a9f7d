"""`tuner predict`: what a bundle's model makes of images."""

import json
from collections.abc import Sequence
from pathlib import Path

from tuner import errands
from tuner.data import images as image_files
from tuner.errors import RequestError
from tuner.results import bundle
from tuner.terminal import plain
from tuner.workers import errand


def predict(folder: Path, given: Sequence[Path], *, top: int, as_json: bool, threads: int) -> int:
    """Print what a bundle's model makes of images; 1 if some of them cannot be read."""
    contents = bundle.read(folder.expanduser())
    paths = _files(given)
    order = errands.Predict(path=str(contents.model), images=tuple(map(str, paths)), size=contents.size, resize=contents.resize)
    answer = errand.run(order, threads=threads)
    assert isinstance(answer, errands.Predicted)
    read = [(path, _best_of(row, contents.labels, top)) for path, row in zip(paths, answer.probabilities, strict=True) if row is not None]
    if as_json:
        told = [
            {"image": str(path), "predictions": [{"label": label, "probability": value} for label, value in best]} for path, best in read
        ]
        plain.result(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        for path, best in read:
            plain.result(f"{image_files.show(str(path))}: " + ", ".join(f"{label} {value:.3f}" for label, value in best))
    troubles = [trouble for trouble in answer.troubles if trouble]
    for trouble in troubles:
        plain.line(trouble)
    return 1 if troubles else 0


def _best_of(row: Sequence[float], labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    order = sorted(range(len(row)), key=lambda place: -row[place])[:top]
    return [(labels[place], row[place]) for place in order]


def _files(given: Sequence[Path]) -> list[Path]:
    """The files named, and of each folder the images below it.

    Raises:
        RequestError: a folder has none.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inner = sorted(one for one in path.rglob("*") if one.suffix.lower() in image_files.SUFFIXES and one.is_file())
        if not inner:
            raise RequestError(f"{path} is a folder without images; expected files that end in {', '.join(sorted(image_files.SUFFIXES))}")
        found += inner
    return found
