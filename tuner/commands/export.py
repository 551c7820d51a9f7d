"""`tuner export`: the best trial, another trial or a version, as a study file or a bundle."""

import dataclasses
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from tuner import wording
from tuner.commands import artifacts, show
from tuner.commands.origin import LocalSettings
from tuner.errors import MissingPackage, RequestError
from tuner.protocol.errands import Format
from tuner.results import best as bests
from tuner.results import export as exports
from tuner.results.bundle import bundle, manifest, model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.versions import versions
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.workers.bucket.transfer import Folders

#: the names of `--format`; INT8 has the option `--quantize`
NAMES = tuple(form.value for form in Format if form is not Format.INT8)
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
#: a target with such a suffix is probably meant as a file
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,7}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of an export."""

    to: Path
    #: number of the trial; None: the best
    trial: int | None
    #: number of the version; None: a trial is exported
    version: int | None
    formats: str | None
    int8: bool
    force: bool
    threads: int
    #: where the images are on this machine, and which code may be imported
    local: LocalSettings


def export(name: str, url: str, asked: ExportOptions, folders: Folders) -> int:
    """Write a trial or a version: as a study file if the target has the suffix of one, otherwise as a bundle."""
    target = asked.to.expanduser()
    if asked.trial is not None and asked.version is not None:
        raise RequestError("--trial and --version are both given; choose one.")
    if target.suffix.lower() in _FILE_SUFFIXES:
        return _to_file(name, url, target, asked)
    if _SUFFIX.fullmatch(target.suffix):
        raise RequestError(
            f"--to is {target}; expected a name that ends in {', '.join(_FILE_SUFFIXES)} for a study file, or a folder for a bundle"
        )
    formats = read_formats(asked.formats, int8=asked.int8)
    bundle.check_place(target, force=asked.force)
    study = show.load_study(name, url)
    facts, weights = _of_trial(study, asked.trial) if asked.version is None else _of_version(study, asked.version)
    asked.local.require_allowed(facts.spec)
    localized = dataclasses.replace(facts, spec=asked.local.localize(facts.spec))
    wanted = bundle.BundleOptions(formats=formats, cache=folders.cache, threads=asked.threads)
    with artifacts.local_copy(weights.location, folders.artifacts / name) as path:
        weights.require(path)
        with printing.busy(f"{facts.title}: exporting as a bundle ({wording.listed(form.value for form in formats)}) …"):
            bundle.write(localized, path, target, wanted, plain.line)
    plain.result(f"Wrote {target}. Try it with: tuner predict {target} IMAGE")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """The stored weights of a model."""

    #: file or URL
    location: str
    #: the trial or version that they belong to, in words
    owner: str
    #: in hexadecimal; None: not stored
    sha256: str | None = None

    def require(self, path: Path) -> None:
        """Refuse a file that does not exist, or was changed since it was stored.

        Raises:
            RequestError: the file cannot be exported.
        """
        if not path.is_file():
            raise RequestError(
                f"the weights of {self.owner} were stored in {path}, which does not exist here; export on the machine that trained them"
            )
        if self.sha256 is not None and manifest.digest(path) != self.sha256:
            raise RequestError(f"the weights of {self.owner} in {path} were changed: their SHA-256 differs from the stored one")


def _of_trial(study: Study, number: int | None) -> tuple[ModelFacts, _Weights]:
    best = bests.best(study) if number is None else bests.of(study, number)
    if best.weights is None:
        stored = wording.listed(bests.with_weights(study)) or "none"
        cure = f"tuner export {study.name} --trial {best.trial} --to again.yaml, then tuner run again.yaml"
        raise RequestError(
            f"the weights of trial {best.trial} of the study {study.name} were not stored. Trials with stored weights: {stored}. "
            f"To train trial {best.trial} again: {cure}"
        )
    return model_facts.of_trial(study, best), _Weights(location=best.weights, owner=f"trial {best.trial}")


def _of_version(study: Study, number: int) -> tuple[ModelFacts, _Weights]:
    version = versions.find(study.storage, study.name, number)
    stored = version.model
    made_in = study if stored.study == study.name else studies.load(stored.study, study.storage)
    assert stored.trial is not None, "a version is made of a trial"
    facts = model_facts.of_version(made_in, bests.of(made_in, stored.trial), version)
    return facts, _Weights(location=stored.artifact, owner=f"{version.name} {version.number}", sha256=stored.sha256)


def _to_file(name: str, url: str, target: Path, asked: ExportOptions) -> int:
    for option, given in (("--format", asked.formats), ("--quantize", asked.int8 or None), ("--version", asked.version)):
        if given is not None:
            raise RequestError(
                f"{option} applies only to a bundle, but --to is {asked.to}, a study file; name a folder with --to, or drop {option}."
            )
    exports.check_place(target)
    study = show.load_study(name, url)
    write = exports.replace if asked.force else exports.write
    write(bests.best(study) if asked.trial is None else bests.of(study, asked.trial), target)
    plain.result(f"Wrote {target}, a study file. Train it with: tuner run {target}")
    return 0


def read_formats(given: str | None, *, int8: bool) -> tuple[Format, ...]:
    """Return the formats of a list with commas; the Keras format is always one of them.

    Raises:
        RequestError: a name is not a format.
        MissingPackage: a package that writes a format is not installed.
    """
    names = [part.strip().lower() for part in (given or "").split(",") if part.strip()]
    if names == ["all"]:
        names = list(NAMES)
    for name in names:
        if name not in NAMES:
            raise RequestError(
                f"--format has {name!r}; expected all, or a list with commas of {', '.join(NAMES)}.{wording.question(name, NAMES)}"
            )
    chosen = {Format.KERAS, *map(Format, names), *([Format.INT8] if int8 else [])}
    if Format.ONNX in chosen:
        for package in ("tf2onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingPackage(package, extra="onnx", needed_for="--format onnx")
    return tuple(form for form in Format if form in chosen)
