"""`tuner export`: the best trial, another one or a version, as a study file or a bundle."""

import dataclasses
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from tuner import wording
from tuner.commands import options, show
from tuner.commands.origin import Here
from tuner.errors import MissingPackage, RequestError
from tuner.protocol.errands import Format
from tuner.results import best as bests
from tuner.results import export
from tuner.results.bundle import bundle, manifest, model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.versions import versions
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.workers.bucket.transfer import Folders

#: formats by the names of `--format`; int8 has an option of its own
NAMES = tuple(form.value for form in Format if form is not Format.INT8)
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
#: what ends so is meant to be a file
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,7}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the command line says of an export."""

    to: Path
    #: None: the best
    trial: int | None
    #: None: a trial
    version: int | None
    formats: str | None
    int8: bool
    force: bool
    threads: int
    #: where the images lie here, and which code may be imported
    here: Here


def export_to(name: str, url: str, asked: ExportOptions, places: Folders) -> int:
    """Write a trial or a version as a study file of fixed values, or as a bundle, by what the place is called."""
    target = asked.to.expanduser()
    if asked.trial is not None and asked.version is not None:
        raise RequestError("--trial and --version are both given; choose one.")
    if target.suffix.lower() in _FILE_SUFFIXES:
        return _to_file(name, url, target, asked)
    if _SUFFIX.fullmatch(target.suffix):
        raise RequestError(
            f"{target} ends in {target.suffix}; expected {', '.join(_FILE_SUFFIXES)} for a study file, or a folder for a bundle"
        )
    formats = read_formats(asked.formats, int8=asked.int8)
    bundle.check_place(target, force=asked.force)
    study = show.load(name, url)
    found, weights = _of_trial(study, asked.trial) if asked.version is None else _of_version(study, asked.version)
    asked.here.require_allowed(found.spec)
    placed = dataclasses.replace(found, spec=asked.here.place(found.spec))
    wanted = bundle.BundleOptions(formats=formats, cache=places.cache, threads=asked.threads)
    with options.fetched(weights.place, places.artifacts / name) as path:
        weights.require(path)
        with printing.busy(f"{found.title} becomes a bundle ({wording.listed(form.value for form in formats)}) …"):
            bundle.write(placed, path, target, wanted, plain.line)
    plain.result(f"Wrote {target}. Try it: tuner predict {target} IMAGE")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """Where the weights of a model are kept."""

    #: file or URL
    place: str
    #: of what they are
    of: str
    #: in hexadecimal; None: it was not kept
    sha256: str | None = None

    def require(self, path: Path) -> None:
        """Refuse a file that is not there, or is another one than was kept.

        Raises:
            RequestError: it is so.
        """
        if not path.is_file():
            raise RequestError(f"the weights of {self.of} were kept in {path}, which is not there; export where it was trained")
        if self.sha256 is not None and manifest.digest(path) != self.sha256:
            raise RequestError(f"the weights of {self.of} in {path} are not those that were kept: their SHA-256 is another one")


def _of_trial(study: Study, number: int | None) -> tuple[ModelFacts, _Weights]:
    best = bests.best(study) if number is None else bests.of(study, number)
    if best.weights is None:
        kept = wording.listed(bests.with_weights(study)) or "none"
        cure = f"tuner export {study.name} --trial {best.trial} --to again.yaml, then tuner run again.yaml"
        raise RequestError(
            f"no weights are kept of trial {best.trial} of the study {study.name}, only of trials that were the best so far: {kept}. "
            f"To have them: {cure}"
        )
    return model_facts.of_trial(study, best), _Weights(place=best.weights, of=f"trial {best.trial}")


def _of_version(study: Study, number: int) -> tuple[ModelFacts, _Weights]:
    version = versions.find(study.storage, study.name, number)
    kept = version.model
    made_in = study if kept.study == study.name else studies.load(kept.study, study.storage)
    assert kept.trial is not None, "a version is made of a trial"
    found = model_facts.of_version(made_in, bests.of(made_in, kept.trial), version)
    return found, _Weights(place=kept.artifact, of=f"{version.name} {version.number}", sha256=kept.sha256)


def _to_file(name: str, url: str, target: Path, asked: ExportOptions) -> int:
    for option, given in (("--format", asked.formats), ("--quantize", asked.int8 or None), ("--version", asked.version)):
        if given is not None:
            raise RequestError(f"{option} is of a bundle, but --to is {asked.to}, a study file; name a folder.")
    export.check_place(target)
    study = show.load(name, url)
    write = export.replace if asked.force else export.write
    write(bests.best(study) if asked.trial is None else bests.of(study, asked.trial), target)
    plain.result(f"Wrote {target}. It is a study file: tuner run {target}")
    return 0


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
