"""`tuner export` and `tuner predict`: the best trial as a study file or a bundle, and what a bundle's model makes of images."""

import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner import errands, wording
from tuner.commands import artifacts, here, options, showing
from tuner.data import images as image_files
from tuner.errands import Format
from tuner.errors import MissingPackage, RequestError
from tuner.results import best as bests
from tuner.results import bundle, export, finding
from tuner.results.best import Best
from tuner.search.study import Study
from tuner.terminal import plain, printing
from tuner.workers import errand

#: formats by the names of `--format`; int8 has an option of its own
NAMES = tuple(form.value for form in Format if form is not Format.INT8)
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
#: what ends so is meant to be a file
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,7}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says of an export."""

    to: Path
    #: None: the best
    trial: int | None
    formats: str | None
    int8: bool
    force: bool
    threads: int
    #: where the images lie here, and which code may be imported
    here: here.Here


def export_best(name: str, url: str, asked: Asked, places: options.Folders) -> int:
    """Write a trial as a study file of fixed values, or as a bundle, by what the place is called."""
    target = asked.to.expanduser()
    if target.suffix.lower() in _FILE_SUFFIXES:
        _refuse_for_a_file(asked)
        return _to_file(name, url, target, asked)
    if _SUFFIX.fullmatch(target.suffix):
        raise RequestError(
            f"{target} ends in {target.suffix}; expected {', '.join(_FILE_SUFFIXES)} for a study file, or a folder for a bundle"
        )
    formats = read_formats(asked.formats, int8=asked.int8)
    bundle.check_place(target, force=asked.force)
    study = showing.load(name, url)
    asked.here.require_allowed(study.spec)
    best = _chosen(study, asked.trial)
    if best.weights is None:
        kept = wording.listed(bests.with_weights(study)) or "none"
        cure = f"tuner export {name} --trial {best.trial} --to again.yaml, then tuner run again.yaml"
        raise RequestError(
            f"no weights are kept of trial {best.trial}, only of trials that were the best so far: {kept}. To have them: {cure}"
        )
    placed = Best(**{**vars(best), "spec": asked.here.place(best.spec)})
    wanted = bundle.Wanted(formats=formats, cache=places.cache, threads=asked.threads)
    with artifacts.fetched(best.weights, places.artifacts / name) as weights:
        if not weights.is_file():
            raise RequestError(f"the weights of trial {best.trial} were kept in {weights}, which is not there; export where it was trained")
        written = ", ".join(form.value for form in formats)
        with printing.busy(f"{name} trial {best.trial} becomes a bundle ({written}) …"):
            bundle.write(finding.of_trial(study, placed), weights, target, wanted, plain.line)
    plain.result(f"Wrote {target}. Try it: tuner predict {target} IMAGE")
    return 0


def _to_file(name: str, url: str, target: Path, asked: Asked) -> int:
    export.check_place(target)
    write = export.replace if asked.force else export.write
    write(_chosen(showing.load(name, url), asked.trial), target)
    plain.result(f"Wrote {target}. It is a study file: tuner run {target}")
    return 0


def _refuse_for_a_file(asked: Asked) -> None:
    for option, given in (("--format", asked.formats), ("--quantize", asked.int8 or None)):
        if given is not None:
            raise RequestError(f"{option} is of a bundle, but --to is {asked.to}, a study file; name a folder.")


def _chosen(study: Study, trial: int | None) -> Best:
    return bests.best(study) if trial is None else bests.of(study, trial)


def read_formats(given: str | None, *, int8: bool) -> tuple[Format, ...]:
    """The formats of a list with commas, the Keras model always among them.

    Raises:
        RequestError: one of them is none.
        MissingPackage: what writes it is not installed.
    """
    names = [part.strip().lower() for part in (given or "").split(",") if part.strip()]
    if names == ["all"]:
        names = list(NAMES)
    for name in names:
        if name not in NAMES:
            raise RequestError(
                f"--format is {name!r}; expected all, or some of {', '.join(NAMES)}, with commas.{wording.question(name, NAMES)}"
            )
    chosen = {Format.KERAS, *map(Format, names), *([Format.INT8] if int8 else [])}
    if Format.ONNX in chosen:
        for package in ("tf2onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingPackage(package, extra="onnx", needed_for="--format onnx")
    return tuple(form for form in Format if form in chosen)


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
