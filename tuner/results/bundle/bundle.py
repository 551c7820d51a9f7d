"""The packages of the process that wrote a model, into the bundle's environment.lock.

What a search found into a bundle: a folder with the model in several formats, each compared, and all that tells what it is.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import RequestError, SpecError, TrainingError
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results import export
from tuner.results.bundle import card, manifest, model_facts, plots
from tuner.results.bundle.model_facts import ModelFacts
from tuner.spec import file as study_file
from tuner.workers.worker import evaluation

#: not of a package registry under this name
_OWN = "tuner"


def environment_lock(exported: errands.Exported, trained_with: Mapping[str, str]) -> str:
    """Lines of `name==version`, which pip reads; what the weights were trained with stands above them."""
    trained = ", ".join(f"{name} {version}" for name, version in trained_with.items())
    lines = [
        f"# Trained with {trained}.",
        f"# Written by Python {exported.versions['python']}, tuner {exported.versions['tuner']}, with:",
    ]
    differing = [name for name, version in trained_with.items() if exported.versions.get(name, version) != version]
    if differing:
        lines.insert(1, f"# What wrote this bundle has another version of: {', '.join(differing)}.")
    lines += [f"{name}=={version}" for name, version in exported.packages.items() if name.lower() != _OWN]
    return "\n".join(lines) + "\n"


CONFIG, LABELS, METRICS, LOCK = "config.yaml", "labels.txt", "metrics.json", "environment.lock"
CARD, FORMATS, PLOTS = "README.md", "formats.json", "plots"
PROBES = "probes"
PREDICTIONS = f"{PROBES}/{errands.PREDICTIONS}"
#: images of `probes/`, and the most on which formats are compared
NUM_PROBES, NUM_COMPARED = 16, 500
#: the least part of the images whose label a format must have as the Keras model has it
LEAST_AGREEMENT = {form: 0.98 if form is Format.INT8 else 0.999 for form in Format}
#: largest difference of a probability, where numbers are not quantized
_LARGEST_DIFFERENCE = 0.01

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """How a bundle is made."""

    formats: tuple[Format, ...]
    #: folder of decoded images and features
    cache: Path
    #: of each process; 0: all cores
    threads: int


def write(found: ModelFacts, weights: Path, folder: Path, wanted: BundleOptions, tell: Tell) -> dict[Format, errands.Compared]:
    """Make a bundle of a model whose weights are in a file; it is written beside its place and renamed. How each format compared.

    Raises:
        RequestError: the data, the weights or a format cannot be used, or the folder cannot be written.
        TrainingError: a format does not say what the Keras model says.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            beside, answers = Path(scratch) / "bundle", Path(scratch) / "answers.npz"
            beside.mkdir()
            exported = _export(found, weights, beside, answers, wanted)
            compared = {form: _compare(form, beside, answers, wanted, tell) for form in wanted.formats}
            _describe(found, exported, compared, beside)
            manifest.write(beside)
            _put(beside, folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return compared


def check_place(folder: Path, *, force: bool) -> None:
    """Find out before the work whether a bundle could be written.

    Raises:
        RequestError: something is in the way, or there is no folder to put it in.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not is_bundle(folder):
            raise RequestError(f"{folder} is in the way and is no bundle, so it is left as it is; name a folder that is not there yet")
        if not force:
            raise RequestError(f"{folder} is a bundle already; name another folder, or replace it with --force")
    if not folder.absolute().parent.is_dir():
        parent = folder.parent
        raise RequestError(f"{folder} cannot be written: there is no folder {parent}; make it first: mkdir -p {parent}")


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle of ours, which a newer one may replace."""
    return folder.is_dir() and all((folder / name).is_file() for name in (manifest.NAME, CONFIG, LABELS, errands.PLACES[Format.KERAS]))


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What using a bundle needs to know of it."""

    #: file of the Keras model
    model: Path
    labels: tuple[str, ...]
    size: int
    resize: Any


def read(folder: Path) -> Contents:
    """A bundle, as far as predicting needs it.

    Raises:
        RequestError: it is none.
    """
    if not is_bundle(folder):
        raise RequestError(f"{folder} is no bundle; make one with: tuner export STUDY --to {folder}")
    try:
        spec = study_file.read(folder / CONFIG)
        labels = (folder / LABELS).read_text(encoding="utf-8").split("\n")[:-1]
    except (SpecError, OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{folder} is a damaged bundle: {error}") from error
    model = folder / errands.PLACES[Format.KERAS]
    return Contents(model=model, labels=tuple(labels), size=spec.model.image_size, resize=spec.model.resize)


def _export(found: ModelFacts, weights: Path, folder: Path, answers: Path, wanted: BundleOptions) -> errands.Exported:
    order = errands.Export(
        spec=found.spec.model_dump_json(),
        cache=str(wanted.cache),
        hyperparameters=found.hyperparameters,
        weights=str(weights),
        temperature=found.temperature,
        formats=wanted.formats,
        folder=str(folder),
        num_probes=NUM_PROBES,
        answers=str(answers),
        num_compared=NUM_COMPARED,
    )
    answer = evaluation.run(order, threads=wanted.threads)
    assert isinstance(answer, errands.Exported)
    return answer


def _compare(form: Format, folder: Path, answers: Path, wanted: BundleOptions, tell: Tell) -> errands.Compared:
    place = errands.PLACES[form]
    answer = evaluation.run(errands.Compare(format=form, path=str(folder / place), answers=str(answers)), threads=wanted.threads)
    assert isinstance(answer, errands.Compared)
    tell(f"{place}: {words(answer)}")
    disagrees = answer.agreement < LEAST_AGREEMENT[form]
    if disagrees or (form is not Format.INT8 and not answer.max_difference <= _LARGEST_DIFFERENCE):
        cure = "--quantize int8" if form is Format.INT8 else f"{form.value} in --format"
        raise TrainingError(
            f"{form.value} does not say what the Keras model says: {words(answer)}; expected at least {LEAST_AGREEMENT[form]:.1%} of the "
            f"labels. Nothing was written; leave out {cure}",
            kind="export",
        )
    return answer


def words(compared: errands.Compared) -> str:
    """How a format agrees, in a line."""
    agreed = f"{compared.agreement:.2%} of {compared.num_images} labels agree"
    return f"{agreed}, largest difference {compared.max_difference:.1e}, {compared.milliseconds:.1f} ms an image"


def _describe(found: ModelFacts, exported: errands.Exported, compared: dict[Format, errands.Compared], folder: Path) -> None:
    """Write everything that is no model."""
    rows = [_row(form, compared[form], folder) for form in compared]
    labels = [" ".join(name.split("\n")) for name in exported.classes]
    metrics = model_facts.metrics(found)
    (folder / PLOTS).mkdir()
    drawn = plots.write(found, folder / PLOTS)
    texts = {
        CONFIG: export.commented(found.config, found.headline),
        LABELS: "".join(f"{label}\n" for label in labels),
        METRICS: _json(metrics),
        LOCK: environment_lock(exported, found.prepared.versions),
        FORMATS: _json(rows),
        PREDICTIONS: _json({"classes": labels, "images": [probe.model_dump(mode="json", exclude={"kind"}) for probe in exported.probes]}),
        CARD: card.text(found, exported, rows, drawn),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _row(form: Format, compared: errands.Compared, folder: Path) -> dict[str, Any]:
    place = folder / errands.PLACES[form]
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return {
        "format": form.value,
        "file": errands.PLACES[form],
        "bytes": sum(path.stat().st_size for path in files),
        "images_compared": compared.num_images,
        "label_agreement": compared.agreement,
        "max_difference": compared.max_difference,
        "milliseconds_an_image": round(compared.milliseconds, 3),
        "load_seconds": round(compared.load_seconds, 3),
    }


def _json(value: dict[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _put(beside: Path, folder: Path) -> None:
    """Rename a whole bundle into its place; the one that was there goes when the new one is in order."""
    if folder.exists():
        old = beside.with_name("old")
        folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old)
    else:
        os.rename(beside, folder)  # noqa: PTH104 - never into a folder that came up meanwhile
