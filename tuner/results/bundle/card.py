"""A finding into the model card of its bundle: README.md, as Hugging Face reads it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuner import wording
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results.bundle import model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.retrain.verdict import Verdict

#: what a reader copies; tests run it as it stands in a card
EXAMPLE = """\
import keras
import numpy as np
from PIL import Image

model = keras.saving.load_model("model.keras")
labels = open("labels.txt", encoding="utf-8").read().splitlines()
image = Image.open("{image}").convert("RGB").resize(({size}, {size}), Image.Resampling.BICUBIC)
[probabilities] = np.asarray(model(np.asarray(image, "float32")[None]))
for place in probabilities.argsort()[::-1][:3]:
    print(f"{{labels[place]}}: {{probabilities[place]:.3f}}")
"""
_RESIZED = {
    "stretch": "stretched to a square",
    "crop": "cut to a square at the centre (not by the example)",
    "pad": "padded with grey to a square (not by the example)",
}


def text(found: ModelFacts, exported: errands.Exported, rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, str]) -> str:
    """The whole card."""
    parts = [
        _front_matter(found),
        f"# {_name(found)}\n\n{found.headline}",
        _results(found),
        _use(found, exported),
        _formats(rows),
        _data(found),
        _training(found, exported),
        _limits(found),
        *_plots(drawn),
    ]
    return "\n\n".join(parts) + "\n"


def _name(found: ModelFacts) -> str:
    return found.config.name if found.version is None else found.title.removeprefix("Version ")


def _front_matter(found: ModelFacts) -> str:
    """Strings are written as JSON, which YAML reads as it is meant, whatever a name holds."""
    split, value = ("validation", found.best.value) if found.test is None else ("test", found.test[0])
    return "\n".join(
        [
            "---",
            "library_name: keras",
            "pipeline_tag: image-classification",
            "tags: [image-classification, transfer-learning, tuner]",
            "model-index:",
            f"- name: {json.dumps(_name(found))}",
            "  results:",
            "  - task: {type: image-classification}",
            f"    dataset: {{name: {json.dumps(found.spec.data.source)}, type: {json.dumps(found.spec.data.source)}, split: {split}}}",
            f"    metrics: [{{type: accuracy, value: {value:.4f}, name: {split} accuracy}}]",
            "---",
        ]
    )


def _results(found: ModelFacts) -> str:
    best, prepared = found.best, found.prepared
    rows = ["| | accuracy | images |", "|---|---|---|"]
    if found.test is not None and found.test_interval is not None:
        low, high = found.test_interval
        rows.append(f"| test | {found.test[0]:.4f}, 95 % interval {low:.4f} to {high:.4f} | {found.test[1]:,} |")
    if found.validation_accuracy is not None:
        rows.append(f"| validation | {found.validation_accuracy:.4f} | {prepared.num_validation:,} |")
    if found.verdict is None and best.rule_value is not None:
        rows.append(f"| validation, by the rule of trial 0 | {best.rule_value:.4f} | {prepared.num_validation:,} |")
    lines = ["## Results", "", *rows, "", model_facts.caution(found)]
    if found.verdict is not None:
        lines += ["", *_judged(found.verdict)]
    if found.classes:
        lines += ["", f"On the {found.split} images, class by class:", ""]
        lines += ["| class | images | precision | recall | F1 |", "|---|---|---|---|---|"]
        lines += [
            f"| {_cell(one.name)} | {one.num_images:,} | {_share(one.precision)} | {_share(one.recall)} | {_share(one.f1)} |"
            for one in found.classes
        ]
    return "\n".join(lines)


def _judged(verdict: Verdict) -> list[str]:
    """What a retraining says of its version, a point each."""
    low, high = verdict.macro_f1_interval
    said = [
        f"Mean F1 over the classes {verdict.macro_f1:.4f}, 95 % interval {low:.4f} to {high:.4f}.",
        f"{verdict.calibration.words} What the model gives has its temperature, if it has one, inside.",
        *verdict.choice,
        *(one.words for one in verdict.comparisons),
        verdict.soup,
        *verdict.notes,
    ]
    return [f"- {one}" for one in said if one]


def _use(found: ModelFacts, exported: errands.Exported) -> str:
    model = found.spec.model
    image = f"probes/{exported.probes[0].file}" if exported.probes else "image.jpg"
    side = model.image_size
    return (
        f"## Use\n\nRaw colours in, probabilities out: the model takes images (n, {side}, {side}, 3), RGB from 0 to 255, "
        f"{_RESIZED[model.resize]}, and gives a probability for each line of `labels.txt`. "
        "Whatever the network needs of preprocessing is inside.\n\n"
        f"```python\n{EXAMPLE.format(image=image, size=model.image_size)}```\n\n"
        "With tuner installed, `tuner predict . IMAGE` does the same to files of any size."
    )


def _formats(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Formats",
        "",
        f"Each was loaded in a process of its own and compared with the Keras model on {rows[0]['images_compared']} validation images.",
        "",
        "| file | labels that agree | largest difference | ms an image | size |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row['file']}` | {row['label_agreement']:.2%} | {row['max_difference']:.1e} | "
            f"{row['milliseconds_an_image']:.1f} | {row['bytes'] / 1e6:.1f} MB |"
        )
    notes = {
        Format.ONNX: "`model.onnx` takes float32.",
        Format.LITERT: "`model.tflite` takes float32.",
        Format.INT8: "`model.int8.tflite` takes the bytes of an image as they are (uint8).",
    }
    written = {row["format"] for row in rows}
    said = [note for form, note in notes.items() if form.value in written]
    return "\n".join([*lines, *(["", " ".join(said)] if said else [])])


def _data(found: ModelFacts) -> str:
    prepared = found.prepared
    names = ", ".join(_cell(name) for name in prepared.classes[:20]) + (", …" if len(prepared.classes) > 20 else "")
    return (
        f"## Data\n\nSource `{found.spec.data.source}`: {prepared.num_train:,} images to train on, "
        f"{prepared.num_validation:,} that chose the winner, {prepared.num_test:,} for the test. "
        f"{len(prepared.classes)} classes: {names}.\n\n"
        f"Fingerprint of images and labels: `{prepared.fingerprint}`. Of the splits: `{prepared.splits}`.\n\n"
        "`probes/` holds a few validation images with what the model makes of them."
    )


def _training(found: ModelFacts, exported: errands.Exported) -> str:
    model, best = found.spec.model, found.best
    hyperparameters = found.hyperparameters
    seconds = "" if best.seconds is None else f", {best.seconds:.0f} seconds on {found.prepared.device}"
    versions = ", ".join(f"{name} {version}" for name, version in found.prepared.versions.items())
    return (
        f"## Training\n\n`{model.backbone}` with weights `{model.weights}` at {model.image_size} pixels, "
        f"{exported.num_parameters:,} parameters, found with tuner by {_found_by(found)}. "
        "A new head was trained on the frozen network's features"
        + (", then head and network together" if hyperparameters.unfreeze > 0 and best.prepared.epochs > 0 else "")
        + f": optimizer {hyperparameters.optimizer.value}, dropout {hyperparameters.dropout:.3g}, "
        f"features `{hyperparameters.features.value}`"
        f"{seconds}. Every value is in `config.yaml`; {_again(found)}\n\nTrained with {versions}. "
        "The packages that wrote these files are in `environment.lock`."
    )


def _found_by(found: ModelFacts) -> str:
    if found.verdict is None:
        return f"a search of {wording.count(found.best.num_completed, 'completed trial')}"
    verdict, network = found.verdict, found.verdict.networks[0]
    seeds = wording.count(len(network.seeds), "seed")
    return f"the search {verdict.study}, its trial {network.trial} trained again with {seeds} on {verdict.trained_on}"


def _again(found: ModelFacts) -> str:
    seeds = () if found.verdict is None else found.verdict.networks[0].chosen_seeds
    if len(seeds) > 1:
        many = wording.listed(seeds)
        return f"the weights are the average of the trainings with seeds {many}, of which `tuner run config.yaml` does the first again."
    return "`tuner run config.yaml` trains the model again."


def _limits(found: ModelFacts) -> str:
    return (
        "## Limits\n\n"
        f"The model knows {len(found.prepared.classes)} classes and gives one of them to any image, also to one that shows none of them. "
        "Its accuracy was measured on images of the same source as those that it learned from; on images from elsewhere it is not known. "
        + (
            f"Its probabilities are calibrated by a temperature of {found.temperature:.3g}."
            if found.temperature != 1.0
            else "Its probabilities are not calibrated: take them as an order, not as frequencies."
        )
        + " The licences of the images and of the pretrained weights are their owners'."
    )


def _plots(drawn: Mapping[str, str]) -> list[str]:
    if not drawn:
        return []
    return ["## Plots\n\n" + "\n\n".join(f"![{what}](plots/{name})\n\n{what[0].upper()}{what[1:]}." for name, what in drawn.items())]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cell(name: str) -> str:
    """A name that cannot end a cell of a table."""
    return " ".join(name.split()).replace("|", "\\|")
