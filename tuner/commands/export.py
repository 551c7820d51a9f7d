"""`tuner export`: the best trial, another trial or a version, as a study file or a bundle."""

import dataclasses
import importlib.util
import math
import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuner import wording
from tuner.commands import artifacts, ensemble, options, run, show
from tuner.commands.origin import LocalSettings
from tuner.errors import Dismissed, MissingPackage, RequestError, TunerError
from tuner.protocol import errands, messages
from tuner.protocol.errands import Format
from tuner.results import best as bests
from tuner.results import ensemble as ensembles
from tuner.results import export as exports
from tuner.results.best import Best
from tuner.results.bundle import bundle, custom_bundle, manifest, model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.ensemble import CodeEnsemble, Ensemble, Taught
from tuner.results.retrain import networks
from tuner.results.versions import versions
from tuner.results.versions.versions import Version
from tuner.spec import plan as plans
from tuner.spec.study import StudySpec
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation
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
    #: whether the model averages each image with its mirror image; auto: as the ensemble chose
    mirror: Literal["auto", "always", "never"] = "auto"
    #: largest time for one image on this machine; None: no limit
    max_latency_ms: float | None = None
    formats: str | None
    int8: bool
    force: bool
    threads: int
    #: where the images are on this machine, and which code may be imported
    local: LocalSettings


def export(name: str, url: str, asked: ExportOptions, folders: Folders) -> int:
    """Write a trial or a version: as a study file if the target has the suffix of one, otherwise as a bundle."""
    target = asked.to.expanduser()
    _require_compatible(asked)
    if target.suffix.lower() in _FILE_SUFFIXES:
        return _to_file(name, url, target, asked)
    if _SUFFIX.fullmatch(target.suffix):
        raise RequestError(
            f"--to is {target}; expected a name that ends in {', '.join(_FILE_SUFFIXES)} for a study file, or a folder for a bundle"
        )
    formats = read_formats(asked.formats, int8=asked.int8)
    bundle.check_place(target, force=asked.force)
    study = show.load_study(name, url)
    if not isinstance(study.spec, StudySpec):
        return _export_code(study, target, asked, formats, folders)
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
        if facts.ensemble_seeds:
            scratch = folders.artifacts / name
            scratch.mkdir(parents=True, exist_ok=True)
            path = networks.unpack(path[0], Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch, prefix=".ensemble-"))))
        with printing.busy(f"{facts.title}: exporting as a bundle ({wording.listed(form.value for form in formats)}) …"):
            compared = bundle.write(localized, path, target, wanted, plain.line)
    again = compared[Format.KERAS].milliseconds
    if asked.max_latency_ms is not None and again > asked.max_latency_ms:
        plain.line(f"{study.name}: measured again, the exported model takes {again:.1f} ms for one image: times on this machine vary")
    plain.result(f"Wrote {target}. Try it with: tuner predict {target} IMAGE")
    return 0


def _export_code(study: Study, target: Path, asked: ExportOptions, formats: tuple[Format, ...], folders: Folders) -> int:
    """Write the model of a trial of user code as a bundle; return 1 if a format that was asked for is not in it, else 0."""
    of_images = {
        "--mirror": asked.mirror != "auto",
        "--max-latency-ms": asked.max_latency_ms is not None,
        "--quantize int8": asked.int8,
    }
    for option, is_given in of_images.items():
        if is_given:
            raise RequestError(
                f"{option} applies only to studies of images, but {study.name} has the task {study.spec.task}; drop {option}."
            )
    version = None if asked.version is None else versions.find(study.storage, study.name, asked.version)
    if version is None and study.spec.num_folds > 1:
        raise RequestError(bests.without_model(bests.best(study) if asked.trial is None else bests.of(study, asked.trial)))
    made_in = study if version is None or version.model.study == study.name else studies.load(version.model.study, study.storage)
    asked.local.require_allowed(made_in.spec)  # the storage decides which study a version names
    made_in = show.localized(made_in, asked.local)
    if version is None:
        best = bests.best(made_in) if asked.trial is None else bests.of(made_in, asked.trial)
    else:
        assert version.model.trial is not None, "a version is made of a trial"
        best = bests.of(made_in, version.model.trial)
    bests.require_code(best)
    weights = _weights_of(study, best) if version is None else _weights_of_version(version)
    wanted = bundle.BundleOptions(formats=formats, cache=folders.cache, threads=asked.threads)
    found = _ensemble_of_code(made_in, best, asked, folders)
    best = best if found is None else bests.best(made_in)
    which = f"trial {best.trial}" if found is None else f"the ensemble, {found.words},"
    with ExitStack() as stack:
        path = stack.enter_context(artifacts.local_copy(weights.location, folders.of_study(study.name)))
        weights.require(path)
        numbers = () if found is None else found.trials[1:]
        others = [stack.enter_context(ensemble.trained_code(made_in, number, folders)) for number in numbers]
        with printing.busy(f"{study.name}: exporting {which} as a bundle ({wording.listed(form.value for form in formats)}) …"):
            named = None if version is None else (version.name, version.number)
            written = custom_bundle.write(best, path, target, wanted, plain.line, version=named, others=others)
    for form, why in written.refused.items():
        plain.line(f"{study.name}: {errands.BUNDLE_PATHS[form]} is not in the bundle: {why}")
    if Format.KERAS in written.refused:
        plain.line(f"{study.name}: the bundle has the weights, {errands.WEIGHTS_FILE}, and the code that builds the model")
    can_predict = any(form in custom_bundle.LOADED for form in written.compared)
    step = f" Try it with: tuner predict {target} {target / custom_bundle.EXAMPLES}" if can_predict else ""
    plain.result(f"Wrote {target}.{step}")
    return 1 if any(form is not Format.KERAS for form in written.refused) else 0


def _ensemble_of_code(study: Study, best: Best, asked: ExportOptions, folders: Folders) -> CodeEnsemble | None:
    """Return the ensemble to export, whose first member is `best`; None: one trial or version was asked for, or no ensemble is better."""
    if asked.version is not None or asked.trial is not None or asked.single:
        return None
    formed = ensemble.form_code(study, folders, threads=asked.threads)
    if formed != ensembles.read_code(study):
        ensembles.store(study, formed)
    found = bests.best(study).ensemble_of_code
    if found is None or found.trials[0] != best.trial or not all(bests.of(study, number).weights for number in found.trials):
        return None
    value = study.spec.objective.metric, found.value, best.value
    plain.line(
        f"{study.name}: exporting the ensemble, {found.words}: {value[0]} {wording.figure(value[1])}, of trial {best.trial} alone "
        f"{wording.figure(value[2])}. "
        "For one trial, add --single"
    )
    return found


def _require_compatible(asked: ExportOptions) -> None:
    """Refuse options that exclude each other."""
    given = {
        "--trial": asked.trial is not None,
        "--version": asked.version is not None,
        "--single": asked.single,
        "--max-latency-ms": asked.max_latency_ms is not None,
    }
    several = [option for option, is_given in given.items() if is_given]
    if len(several) > 1:
        raise RequestError(f"{' and '.join(several)} are {'both' if len(several) == 2 else 'all'} given; choose one.")
    if asked.version is not None and asked.mirror != "auto":
        raise RequestError(f"--mirror is {asked.mirror}, but a version never changes; drop --mirror, or export a trial or the ensemble.")
    for option, is_given in (("--single", asked.single), ("--quantize int8", asked.int8)):
        if is_given and asked.mirror == "always":
            raise RequestError(f"{option} exports one network that sees each image once, but --mirror is always; drop one of the two.")


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
        facts, weights = _of_version(study, asked.version, int8=asked.int8)
        return facts, [weights]
    if asked.single:
        facts, weights = _single(study, asked, folders)
        return facts, [weights]
    if asked.max_latency_ms is not None:
        return _fast_enough(study, asked, asked.max_latency_ms, folders)
    best = bests.best(study) if asked.trial is None else bests.of(study, asked.trial)
    found = ensemble.current(study, folders) if asked.trial is None else None
    if found is not None and asked.int8:
        plain.line(f"{study.name}: --quantize int8 applies to one network, so the best trial is exported, and not the ensemble")
        found = None
    is_mirrored = found is not None and found.mirrored if asked.mirror == "auto" else asked.mirror == "always"
    if found is None and not is_mirrored:
        facts, weights = _of_trial(study, asked.trial)
        return facts, [weights]
    if found is None or found.mirrored != is_mirrored:
        changed = _variant(study, (best.trial,) if found is None else found.trials, folders, mirrored=is_mirrored)
        before = best.value if found is None else found.measured
        plain.line(
            f"{study.name}: exporting {changed.words}{'' if is_mirrored else ', without mirror images'}: "
            f"{ensembles.value_words(changed)}, {changed.measured - before:+.4f} compared with --mirror auto"
        )
        return _of_result(study, changed)
    plain.line(f"{study.name}: exporting the ensemble, {found.words}. For one network, add --single")
    return _of_result(study, found)


def _variant(study: Study, numbers: tuple[int, ...], folders: Folders, *, mirrored: bool) -> Ensemble:
    """Return the ensemble of some trials, with or without mirror images, with its figures on the validation images."""
    known = ensemble.predictions(study, numbers, folders.of_study(study.name))
    if known is None:
        which = f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {wording.listed(numbers)}"
        raise RequestError(
            f"--mirror cannot change the export: what {which} predicted for the validation images and their mirror images is not within "
            "reach of this machine, or was not stored. Only fine-tuned trials have it; export on the machine that trained them, or drop "
            "--mirror."
        )
    return ensembles.of_members(*known, mirrored=mirrored, metric=study.images.objective.metric)


def _fast_enough(study: Study, asked: ExportOptions, limit: float, folders: Folders) -> tuple[ModelFacts, list[_Weights]]:
    """Return the best result of a study that takes at most `limit` milliseconds for one image on this machine.

    Raises:
        RequestError: no result is fast enough.
    """
    results = _results(study, asked, folders)
    numbers = list(dict.fromkeys(number for one in results if isinstance(one, Ensemble) for number in one.trials))
    parts = [_of_trial(study, number) for number in numbers]
    taught = next((one for one in results if isinstance(one, Taught)), None)
    if taught is not None:
        parts.append(_of_taught(study, taught))
    variants = [
        errands.Variant(members=tuple(numbers.index(number) for number in one.trials), mirrored=one.mirrored)
        if isinstance(one, Ensemble)
        else errands.Variant(members=(len(numbers),))
        for one in results
    ]
    measured = _measure(study, asked, parts, variants, limit, folders)
    times = measured.milliseconds
    first = next((number for number, time in enumerate(times) if time is not None and time <= limit), None)
    if first is None:
        time, which = min((time, number) for number, time in enumerate(times) if time is not None)
        raise RequestError(
            f"--max-latency-ms is {wording.number(limit)}, but no result of the study {study.name} is that fast on this machine: the "
            f"fastest, {_words(results[which])}, takes {time:.1f} ms for one image. Raise the limit, or search smaller image sizes or "
            "backbones."
        )
    chosen = results[first]
    told = f"{times[first]:.1f} ms for one image on this machine, {ensembles.value_words(chosen)}"
    if first:
        difference = chosen.measured - results[0].measured
        took = "more than twice the limit" if times[0] is None else f"{times[0]:.1f} ms"
        told += f", {difference:+.4f} compared with {_words(results[0])}, which takes {took}"
    plain.line(f"{study.name}: exporting {_words(chosen)}: {told}")
    return _of_result(study, chosen)


def _words(result: Ensemble | Taught) -> str:
    return result.words if isinstance(result, Ensemble) else "the network that the ensemble taught"


def _results(study: Study, asked: ExportOptions, folders: Folders) -> list[Ensemble | Taught]:
    """Return what can be exported: first what is exported without a limit, then the others, the best on validation first.

    The others are the best 1, 2, 3, … members of the ensemble, with mirror images if the ensemble uses them and without, each member
    alone, and the network that the ensemble taught. Without an ensemble, there is only the best trial.
    """
    best = bests.best(study)
    found = ensemble.current(study, folders)
    numbers = (best.trial,) if found is None else found.trials
    known = ensemble.predictions(study, numbers, folders.of_study(study.name))
    with_mirror = {"always": (True,), "never": (False,)}.get(
        asked.mirror, (False,) if found is None or not found.mirrored else (True, False)
    )
    results: list[Ensemble | Taught] = [] if found is None or found.mirrored not in with_mirror else [found]
    if known is not None:
        candidates, labels = known
        groups = [candidates[:num] for num in range(len(candidates), 0, -1)] + [[one] for one in candidates[1:]]
        metric = study.images.objective.metric
        results += [ensembles.of_members(group, labels, mirrored=each, metric=metric) for group in groups for each in with_mirror]
    elif asked.mirror == "always" and not results:
        _variant(study, numbers, folders, mirrored=True)
    if False in with_mirror:
        results.append(_alone(best))
        taught = ensembles.read_taught(study)
        results += [] if taught is None else [taught]
    distinct = {_key(one): one for one in reversed(results) if not asked.int8 or (len(_key(one)[0]) == 1 and not _key(one)[1])}
    rest = sorted(distinct.values(), key=lambda one: (-study.spec.objective.merit(one.measured), one.validation_loss))
    is_mirrored = found is not None and found.mirrored
    default = distinct.get((numbers, is_mirrored)) or distinct.get((numbers, not is_mirrored)) or rest[0]
    return [default, *(one for one in rest if one is not default)]


def _key(result: Ensemble | Taught) -> tuple[tuple[int, ...], bool]:
    """Return the trials of a result, and whether it uses mirror images; the taught network counts as trial -1."""
    return ((-1,), False) if isinstance(result, Taught) else (result.trials, result.mirrored)


def _alone(best: Best) -> Ensemble:
    """Return a trial as an ensemble of one."""
    accuracy = best.validation_accuracy
    found = Ensemble(
        trials=(best.trial,), mirrored=False, validation_accuracy=accuracy, validation_loss=math.inf, best_member_accuracy=accuracy
    )
    if best.is_accuracy:
        return found
    return found.model_copy(update={"metric": best.images.objective.metric, "value": best.value, "best_member_value": best.value})


def _measure(
    study: Study,
    asked: ExportOptions,
    parts: Sequence[tuple[ModelFacts, _Weights]],
    variants: Sequence[errands.Variant],
    limit: float,
    folders: Folders,
) -> errands.Measured:
    """Measure the time of the variants of some networks."""
    asked.local.require_allowed(study.spec)
    trained: list[errands.TrainedNetwork] = []
    with ExitStack() as stack:
        for number, (facts, weights) in enumerate(parts):
            localized = dataclasses.replace(facts, spec=asked.local.localize(facts.spec))
            path = stack.enter_context(artifacts.local_copy(weights.location, folders.of_study(study.name) / f"measured-{number}"))
            weights.require(path)
            trained += bundle.trained_networks(localized, [path])
        order = errands.Measure(cache=str(folders.cache), networks=tuple(trained), variants=tuple(variants), most_milliseconds=limit)
        with printing.busy(f"{study.name}: measuring the time of {wording.count(len(variants), 'model')} for one image …"):
            answer = evaluation.run(order, threads=asked.threads)
    assert isinstance(answer, errands.Measured)
    return answer


def _single(study: Study, asked: ExportOptions, folders: Folders) -> tuple[ModelFacts, _Weights]:
    """Return one network: the one that the ensemble taught, which is trained now if need be, or the best trial if that is better."""
    best = bests.best(study)
    found = ensemble.current(study, folders)
    if found is None or len(found.trials) == 1:
        return _of_trial(study, None)
    taught = ensembles.read_taught(study) or _teach(study, found, asked, folders)
    gain = taught.measured - best.value
    if not study.spec.objective.is_better(taught.measured, best.value):
        plain.line(f"{study.name}: the network that the ensemble taught is not better on validation ({gain:+.4f}), so the best trial stays")
        return _of_trial(study, None)
    plain.line(
        f"{study.name}: one network, taught by the ensemble: {ensembles.value_words(taught)}, {gain:+.4f} compared with the best "
        f"trial and {taught.measured - found.measured:+.4f} with the ensemble; its training took {wording.duration(taught.seconds)}"
    )
    return _of_taught(study, taught)


def _teach(study: Study, found: Ensemble, asked: ExportOptions, folders: Folders) -> ensembles.Taught:
    asked.local.require_allowed(study.spec)
    here = studies.at(study, asked.local.localize(study.spec))
    plan = options.plan_workers(1, asked.threads or None, None, None)
    (assignment,) = run.make_assignments(here, study.storage.url, folders, plan)
    epochs = ensemble.PATIENCE * bests.best(study).prepared.epochs
    plain.line(f"{study.name}: the ensemble teaches one network in {epochs} epochs; Ctrl-C interrupts it, and the same command resumes")

    def tell(epoch: messages.Epoch) -> None:
        if epoch.stage is messages.Stage.FINE_TUNE:
            plain.line(f"{study.name}: epoch {epoch.step}: {plans.metric(study.spec)} {epoch.measured:.4f}, {epoch.seconds:.1f} s")

    stopping = Stopping()
    try:
        with on_signals(stopping):
            return ensemble.teach(here, found, assignment, stopping, tell)
    except Dismissed as error:
        raise TunerError(f"{study.name}: stopped before the network was taught. Run the same command to resume") from error


def _of_result(study: Study, result: Ensemble | Taught) -> tuple[ModelFacts, list[_Weights]]:
    if isinstance(result, Taught) or (len(result.trials) == 1 and not result.mirrored):
        facts, weights = _of_taught(study, result) if isinstance(result, Taught) else _of_trial(study, result.trials[0])
        return facts, [weights]
    members = ensemble.members(study, result)
    several = [_Weights(location=member.weights or "", owner=f"trial {member.trial}") for member in members]
    return model_facts.of_ensemble(study, result, members), several


def _of_taught(study: Study, taught: Taught) -> tuple[ModelFacts, _Weights]:
    facts = model_facts.of_taught(study, taught, bests.of(study, taught.trial))
    return facts, _Weights(location=taught.weights, owner="the network that the ensemble taught")


def _of_trial(study: Study, number: int | None) -> tuple[ModelFacts, _Weights]:
    best = bests.best(study) if number is None else bests.of(study, number)
    return model_facts.of_trial(study, best), _weights_of(study, best)


def _weights_of(study: Study, best: Best) -> _Weights:
    if study.spec.num_folds > 1:
        raise RequestError(bests.without_model(best))
    if best.weights is None:
        stored = wording.listed(bests.with_weights(study)) or "none"
        cure = f"tuner export {study.name} --trial {best.trial} --to again.yaml, then tuner run again.yaml"
        raise RequestError(
            f"the weights of trial {best.trial} of the study {study.name} were not stored. Trials with stored weights: {stored}. "
            f"To train trial {best.trial} again: {cure}"
        )
    return _Weights(location=best.weights, owner=f"trial {best.trial}")


def _of_version(study: Study, number: int, *, int8: bool) -> tuple[ModelFacts, _Weights]:
    version = versions.find(study.storage, study.name, number)
    stored = version.model
    made_in = study if stored.study == study.name else studies.load(stored.study, study.storage)
    assert stored.trial is not None, "a version is made of a trial"
    facts = model_facts.of_version(made_in, bests.of(made_in, stored.trial), version)
    if facts.ensemble_seeds and int8:
        raise RequestError(
            f"{version.name} {version.number} is an ensemble, and --quantize int8 applies to one network; make a version of one network: "
            f"tuner retrain {study.name} --single"
        )
    return facts, _weights_of_version(version)


def _weights_of_version(version: Version) -> _Weights:
    stored = version.model
    return _Weights(location=stored.artifact, owner=f"{version.name} {version.number}", sha256=stored.sha256)


def _to_file(name: str, url: str, target: Path, asked: ExportOptions) -> int:
    mirror = None if asked.mirror == "auto" else asked.mirror
    of_bundle = {"--format": asked.formats, "--quantize": asked.int8 or None, "--version": asked.version, "--mirror": mirror}
    for option, given in (of_bundle | {"--max-latency-ms": asked.max_latency_ms}).items():
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
