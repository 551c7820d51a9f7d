"""`tuner export`: the best trial, another trial or a version, as a study file or a bundle."""

import dataclasses
import importlib.util
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tuner import wording
from tuner.commands import artifacts, ensemble, options, run, show
from tuner.commands.origin import LocalSettings
from tuner.errors import MissingPackage, RequestError
from tuner.protocol import messages
from tuner.protocol.errands import Format
from tuner.results import best as bests
from tuner.results import ensemble as ensembles
from tuner.results import export as exports
from tuner.results.bundle import bundle, manifest, model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.ensemble import Ensemble
from tuner.results.versions import versions
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker.stopping import Stopping, on_signals

#: the names of `--format`; INT8 has the option `--quantize`
NAMES = tuple(form.value for form in Format if form is not Format.INT8)
_FILE_SUFFIXES = (".yaml", ".yml", ".json")
#: a target with such a suffix is probably meant as a file
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,7}")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The options of an export."""

    to: Path
    #: number of the trial; None: the best result of the study
    trial: int | None
    #: number of the version; None: a trial or the ensemble is exported
    version: int | None
    #: whether to export one network, even if an ensemble is better
    single: bool
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
    if asked.single and (asked.trial is not None or asked.version is not None):
        raise RequestError(f"--single and {'--trial' if asked.version is None else '--version'} are both given; choose one.")
    if target.suffix.lower() in _FILE_SUFFIXES:
        return _to_file(name, url, target, asked)
    if _SUFFIX.fullmatch(target.suffix):
        raise RequestError(
            f"--to is {target}; expected a name that ends in {', '.join(_FILE_SUFFIXES)} for a study file, or a folder for a bundle"
        )
    formats = read_formats(asked.formats, int8=asked.int8)
    bundle.check_place(target, force=asked.force)
    study = show.load_study(name, url)
    facts, weights = _chosen(study, asked, folders)
    asked.local.require_allowed(facts.spec)
    localized = dataclasses.replace(facts, spec=asked.local.localize(facts.spec))
    wanted = bundle.BundleOptions(formats=formats, cache=folders.cache, threads=asked.threads)
    with ExitStack() as stack:
        # a folder each: files from a bucket may have the same name
        path = [
            stack.enter_context(artifacts.local_copy(one.location, folders.artifacts / name / str(number)))
            for number, one in enumerate(weights)
        ]
        for one, file in zip(weights, path, strict=True):
            one.require(file)
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


def _chosen(study: Study, asked: ExportOptions, folders: Folders) -> tuple[ModelFacts, list[_Weights]]:
    """Return what is exported: the version or the trial that was asked for, else the ensemble, unless a trial is better."""
    if asked.version is not None:
        facts, weights = _of_version(study, asked.version)
        return facts, [weights]
    if asked.single:
        facts, weights = _single(study, asked, folders)
        return facts, [weights]
    if asked.trial is None:
        found = ensemble.current(study, folders)
        if found is not None:
            if not asked.int8:
                plain.line(f"{study.name}: exporting the ensemble, {found.words}. For one network, add --single")
                return _of_ensemble(study, found)
            plain.line(f"{study.name}: --quantize int8 applies to one network, so the best trial is exported, and not the ensemble")
    facts, weights = _of_trial(study, asked.trial)
    return facts, [weights]


def _single(study: Study, asked: ExportOptions, folders: Folders) -> tuple[ModelFacts, _Weights]:
    """Return one network: the one that the ensemble taught, which is trained now if need be, or the best trial if that is better."""
    best = bests.best(study)
    found = ensemble.current(study, folders)
    if found is None or len(found.trials) == 1:
        return _of_trial(study, None)
    taught = ensembles.read_taught(study) or _teach(study, found, asked, folders)
    gain = taught.validation_accuracy - best.value
    if gain <= 0:
        plain.line(f"{study.name}: the network that the ensemble taught is not better on validation ({gain:+.4f}), so the best trial stays")
        return _of_trial(study, None)
    loss = found.validation_accuracy - taught.validation_accuracy
    plain.line(
        f"{study.name}: one network, taught by the ensemble: validation accuracy {taught.validation_accuracy:.4f}, {gain:+.4f} compared "
        f"with the best trial and {-loss:+.4f} with the ensemble; its training took {wording.duration(taught.seconds)}"
    )
    return model_facts.of_taught(study, taught, best), _Weights(location=taught.weights, owner="the network that the ensemble taught")


def _teach(study: Study, found: Ensemble, asked: ExportOptions, folders: Folders) -> ensembles.Taught:
    asked.local.require_allowed(study.spec)
    here = studies.at(study, asked.local.localize(study.spec).data)
    plan = options.plan_workers(1, asked.threads or None, None, None)
    (assignment,) = run.make_assignments(here, study.storage.url, folders, plan)
    epochs = ensemble.PATIENCE * bests.best(study).prepared.epochs
    plain.line(f"{study.name}: the ensemble teaches one network in {epochs} epochs; Ctrl-C interrupts it, and the same command resumes")

    def tell(epoch: messages.Epoch) -> None:
        if epoch.stage is messages.Stage.FINE_TUNE:
            plain.line(f"{study.name}: epoch {epoch.step}: validation accuracy {epoch.validation_accuracy:.4f}, {epoch.seconds:.1f} s")

    stopping = Stopping()
    with on_signals(stopping):
        return ensemble.teach(here, found, assignment, stopping, tell)


def _of_ensemble(study: Study, found: Ensemble) -> tuple[ModelFacts, list[_Weights]]:
    members = ensemble.members(study, found)
    weights = [_Weights(location=member.weights or "", owner=f"trial {member.trial}") for member in members]
    return model_facts.of_ensemble(study, found, members), weights


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
