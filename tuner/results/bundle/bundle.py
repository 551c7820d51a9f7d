"""Bundle: a folder with a model in several formats, each compared with the Keras model, and everything that describes it."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import wording
from tuner.errors import RequestError, SpecError, TrainingError
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results import export
from tuner.results.bundle import card, manifest, model_facts, plots
from tuner.results.bundle.model_facts import ModelFacts
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import TargetKind
from tuner.workers.worker import evaluation

#: tuner itself, which environment.lock leaves out
_OWN = "tuner"
CONFIG, LABELS, METRICS, LOCK = "config.yaml", "labels.txt", "metrics.json", "environment.lock"
CARD, FORMATS, PLOTS = "README.md", "formats.json", "plots"
#: inputs and outputs of a user model; a bundle of an image classifier has none
INTERFACE = "interface.json"
PROBES = "probes"
PREDICTIONS = f"{PROBES}/{errands.PREDICTIONS}"
#: number of images in `probes/`, and the largest number on which formats are compared
NUM_PROBES, NUM_COMPARED = 16, 500
#: smallest share of images for which a format must predict the same label as the Keras model
MIN_AGREEMENT = {form: 0.98 if form is Format.INT8 else 0.999 for form in Format}
#: largest allowed difference of a probability in a format that is not quantized
_MAX_DIFFERENCE = 0.01

#: receives lines on the progress
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Options of a bundle."""

    formats: tuple[Format, ...]
    #: folder of decoded images and features
    cache: Path
    #: threads of each process; 0 for all cores
    threads: int


def write(facts: ModelFacts, weights: Sequence[Path], folder: Path, wanted: BundleOptions, tell: Tell) -> dict[Format, errands.Compared]:
    """Write a bundle of a model, beside its folder and then renamed; return how each format compares with the Keras model.

    `weights` are the files of `facts.networks`.

    Raises:
        RequestError: the data, the weights or a format cannot be used, or the folder cannot be written.
        TrainingError: a format does not agree with the Keras model.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            beside, answers = Path(scratch) / "bundle", Path(scratch) / "answers.npz"
            beside.mkdir()
            exported = _export(facts, weights, beside, answers, wanted)
            mean = answers_mean(facts)
            compared = {form: _compare(form, beside, answers, mean, wanted, tell) for form in wanted.formats}
            _describe(facts, exported, compared, beside)
            manifest.write(beside)
            put(beside, folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return compared


def check_place(folder: Path, *, force: bool) -> None:
    """Check that a bundle can be written to a folder.

    Raises:
        RequestError: the folder holds other files or a bundle, or its parent does not exist.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not is_bundle(folder):
            raise RequestError(f"{folder} exists and is not a bundle, so it is not overwritten; name a folder that does not exist yet")
        if not force:
            raise RequestError(f"{folder} is already a bundle; name another folder, or replace it with --force")
    if not folder.absolute().parent.is_dir():
        parent = folder.parent
        raise RequestError(f"{folder} cannot be written: the folder {parent} does not exist; create it first: mkdir -p {parent}")


def is_bundle(folder: Path) -> bool:
    """Return whether a folder is a bundle that tuner wrote, which a newer one may replace."""
    of_images = (manifest.NAME, CONFIG, LABELS, errands.BUNDLE_PATHS[Format.KERAS])
    return folder.is_dir() and (is_of_code(folder) or all((folder / name).is_file() for name in of_images))


def is_of_code(folder: Path) -> bool:
    """Return whether a folder is a bundle with a user model."""
    return all((folder / name).is_file() for name in (manifest.NAME, CONFIG, INTERFACE))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Data for predictions with a bundle."""

    #: file of the Keras model
    model: Path
    labels: tuple[str, ...]
    size: int
    resize: Any
    #: values of a file that become 0 and 255; None: those of 8 or 16 bits
    value_range: tuple[float, float] | None
    kind: TargetKind = TargetKind.LABEL
    #: of each class, if an image may have several labels: the probability from which it gets the label
    thresholds: tuple[float, ...] = ()


def read(folder: Path) -> Contents:
    """Read what is needed to predict with a bundle.

    Raises:
        RequestError: the folder is not a bundle, or the bundle is damaged.
    """
    if not is_bundle(folder):
        raise RequestError(f"{folder} is not a bundle; create one with: tuner export STUDY --to {folder}")
    try:
        spec = study_file.read_images(folder / CONFIG)
        labels = (folder / LABELS).read_text(encoding="utf-8").split("\n")[:-1]
    except (SpecError, OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{folder} is a damaged bundle: {error}") from error
    model = folder / errands.BUNDLE_PATHS[Format.KERAS]
    values = getattr(spec.data, "value_range", None)
    if values == "auto":
        raise RequestError(f"{folder / CONFIG} has data.value_range: auto; set it to the range of the training images, such as [0, 4095]")
    if spec.model.is_searched:
        raise RequestError(f"{folder / CONFIG} has a list in its section model; expected the one backbone and image_size of the model")
    network = spec.model.of_trial()
    return Contents(
        model=model,
        labels=tuple(labels),
        size=network.image_size,
        resize=network.resize,
        value_range=values,
        kind=spec.data.kind,
        thresholds=_thresholds(folder, len(labels)) if spec.data.kind is TargetKind.LABELS else (),
    )


def _thresholds(folder: Path, num_classes: int) -> tuple[float, ...]:
    """Return the threshold of each class that a bundle records."""
    try:
        found = tuple(float(each) for each in json.loads((folder / METRICS).read_text(encoding="utf-8"))["thresholds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder} is a damaged bundle: {METRICS} has no thresholds of the labels: {error}") from error
    if len(found) != num_classes:
        raise RequestError(f"{folder} is a damaged bundle: {METRICS} has {len(found)} thresholds for {num_classes} labels")
    return found


def _export(facts: ModelFacts, weights: Sequence[Path], folder: Path, answers: Path, wanted: BundleOptions) -> errands.Exported:
    order = errands.Export(
        cache=str(wanted.cache),
        networks=trained_networks(facts, weights),
        mirrored=facts.mirrored,
        temperature=facts.temperature,
        formats=wanted.formats,
        folder=str(folder),
        num_probes=NUM_PROBES,
        answers=str(answers),
        num_compared=NUM_COMPARED,
        scores_test=(facts.test is not None or facts.has_value_only) and facts.has_several_sizes,
        answers_mean=answers_mean(facts),
    )
    answer = evaluation.run(order, threads=wanted.threads)
    assert isinstance(answer, errands.Exported)
    return answer


def answers_mean(facts: ModelFacts) -> errands.Answers:
    """Return what the outputs of a model mean."""
    thresholds = tuple(each.threshold for each in facts.by_class)
    return errands.Answers(kind=facts.kind, metric=facts.spec.objective.metric, thresholds=thresholds)


def trained_networks(facts: ModelFacts, weights: Sequence[Path]) -> tuple[errands.TrainedNetwork, ...]:
    """Return the networks of a model; `weights` are their files."""
    return tuple(
        errands.TrainedNetwork(spec=spec.model_dump_json(), hyperparameters=hyperparameters, weights=str(path))
        for (spec, hyperparameters), path in zip(facts.networks, weights, strict=True)
    )


def _compare(form: Format, folder: Path, answers: Path, mean: errands.Answers, wanted: BundleOptions, tell: Tell) -> errands.Compared:
    path = errands.BUNDLE_PATHS[form]
    order = errands.Compare(format=form, path=str(folder / path), answers=str(answers), answers_mean=mean)
    answer = evaluation.run(order, threads=wanted.threads)
    assert isinstance(answer, errands.Compared)
    tell(f"{path}: {words(answer)}")
    disagrees = answer.agreement < MIN_AGREEMENT[form]
    if disagrees or (form is not Format.INT8 and not answer.max_difference <= _MAX_DIFFERENCE):
        cure = "--quantize int8" if form is Format.INT8 else f"{form.value} in --format"
        raise TrainingError(
            f"{form.value} does not agree with the Keras model: {words(answer)}; expected at least {MIN_AGREEMENT[form]:.1%} equal "
            f"labels. Nothing was written; drop {cure}",
            kind="export",
        )
    return answer


def words(compared: errands.Compared) -> str:
    """Return how a format compares with the Keras model, in a line."""
    agreed = f"{compared.agreement:.2%} of {compared.num_images} labels are equal"
    return f"{agreed}, largest difference {compared.max_difference:.1e}, {compared.milliseconds:.1f} ms per image"


def _describe(facts: ModelFacts, exported: errands.Exported, compared: dict[Format, errands.Compared], folder: Path) -> None:
    """Write all files of the bundle except the models."""
    rows = [row(form, compared[form], folder) for form in compared]
    labels = [wording.one_line(name) for name in exported.classes]
    metrics = model_facts.metrics(facts, exported_accuracy=exported.test_accuracy, exported_value=exported.test_value)
    (folder / PLOTS).mkdir()
    drawn = plots.write(facts, folder / PLOTS)
    texts = {
        CONFIG: export.commented(facts.config, facts.headline),
        LABELS: "".join(f"{label}\n" for label in labels),
        METRICS: as_json(metrics),
        LOCK: environment_lock(exported, facts.prepared.versions),
        FORMATS: as_json(rows),
        PREDICTIONS: as_json(
            {"classes": list(exported.classes), "images": [probe.model_dump(mode="json", exclude={"kind"}) for probe in exported.probes]}
        ),
        CARD: card.text(facts, exported, rows, drawn),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def environment_lock(exported: errands.Exported | errands.ExportedCode, trained_with: Mapping[str, str]) -> str:
    """Return the text of environment.lock: lines `name==version` for pip, below comments on what trained the weights."""
    trained = ", ".join(f"{name} {version}" for name, version in trained_with.items())
    lines = [
        f"# Trained with {trained}.",
        f"# Written by Python {exported.versions['python']}, tuner {exported.versions['tuner']}, with:",
    ]
    differing = [name for name, version in trained_with.items() if exported.versions.get(name, version) != version]
    if differing:
        lines.insert(1, f"# Other versions wrote this bundle: {', '.join(differing)}.")
    lines += [f"{name}=={version}" for name, version in exported.packages.items() if name.lower() != _OWN]
    return "\n".join(lines) + "\n"


def row(form: Format, compared: errands.Compared, folder: Path) -> dict[str, Any]:
    """Return how a format compares with the Keras model, for formats.json."""
    model = folder / errands.BUNDLE_PATHS[form]
    files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
    return {
        "format": form.value,
        "file": errands.BUNDLE_PATHS[form],
        "bytes": sum(path.stat().st_size for path in files),
        "images_compared": compared.num_images,
        "label_agreement": compared.agreement,
        "max_difference": compared.max_difference,
        "milliseconds_an_image": round(compared.milliseconds, 3),
        "load_seconds": round(compared.load_seconds, 3),
    }


def as_json(value: dict[str, Any] | Sequence[Any]) -> str:
    """Return a file of a bundle in JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def put(beside: Path, folder: Path) -> None:
    """Rename a complete bundle to its folder, then delete the bundle that it replaces."""
    if folder.exists():
        old = beside.with_name("old")
        folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old)
    else:
        os.rename(beside, folder)  # noqa: PTH104 - fails if the folder was created meanwhile
