"""Model card: README.md of a bundle, in the form that Hugging Face reads."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuner import wording
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results.bundle import model_facts
from tuner.results.bundle.model_facts import ModelFacts
from tuner.results.retrain.verdict import Verdict
from tuner.spec.hyperparameters import TargetKind

#: the example of the card; tests run it
EXAMPLE = """\
import keras
import numpy as np
from PIL import Image

model = keras.saving.load_model("model.keras")
labels = open("labels.txt", encoding="utf-8").read().split("\\n")
image = Image.open("{image}").convert("RGB").resize(({size}, {size}), Image.Resampling.BICUBIC)
[probabilities] = np.asarray(model(np.asarray(image, "float32")[None]))
for place in probabilities.argsort()[::-1][:3]:
    print(f"{{labels[place]}}: {{probabilities[place]:.3f}}")
"""
#: what the example does with the outputs, by what an image is labeled with
_ENDINGS = {
    TargetKind.LABEL: EXAMPLE[EXAMPLE.index("[probabilities]") :],
    TargetKind.LABELS: """\
thresholds = json.load(open("metrics.json", encoding="utf-8"))["thresholds"]
[probabilities] = np.asarray(model(np.asarray(image, "float32")[None]))
for label, probability, threshold in zip(labels, probabilities, thresholds):
    if probability >= threshold:
        print(f"{{label}}: {{probability:.3f}}")
""",
    TargetKind.NUMBER: """\
[[number]] = np.asarray(model(np.asarray(image, "float32")[None]))
print(f"{{labels[0]}}: {{number:.5g}}")
""",
}
#: number of classes with a row of their own
_LISTED_CLASSES = 100
_RESIZED = {
    "stretch": "stretched to a square",
    "crop": "cropped to a square at the centre (the example does not do this)",
    "pad": "padded to a square with grey (the example does not do this)",
}


def example(kind: TargetKind) -> str:
    """Return the example of the card, with places for the name of an image and its size."""
    start = EXAMPLE[: EXAMPLE.index("[probabilities]")]
    return ("import json\n\n" if kind is TargetKind.LABELS else "") + start + _ENDINGS[kind]


def text(facts: ModelFacts, exported: errands.Exported, rows: Sequence[Mapping[str, Any]], drawn: Mapping[str, str]) -> str:
    """Return the text of the card."""
    parts = [
        _front_matter(facts),
        f"# {_name(facts)}\n\n{facts.headline}",
        _results(facts, exported_accuracy=exported.test_accuracy, exported_value=exported.test_value),
        _use(facts, exported),
        _formats(rows),
        _data(facts),
        _training(facts, exported),
        _limits(facts),
        *_plots(drawn),
    ]
    return "\n\n".join(parts) + "\n"


def _name(facts: ModelFacts) -> str:
    if facts.ensemble is not None:
        return f"{facts.spec.name}-ensemble"
    if facts.taught is not None:
        return f"{facts.spec.name}-taught"
    return facts.config.name if facts.version is None else facts.title.removeprefix("Version ")


def _front_matter(facts: ModelFacts) -> str:
    """Return the YAML header; its strings are JSON, which YAML reads correctly whatever characters they hold."""
    split, value, metric = ("validation", facts.best.value, "accuracy") if facts.test is None else ("test", facts.test[0], "accuracy")
    if facts.kind is not TargetKind.LABEL:
        split, value = ("validation", facts.value) if facts.test_value is None else ("test", facts.test_value)
        metric = facts.spec.objective.metric
    task = "image-regression" if facts.kind is TargetKind.NUMBER else "image-classification"
    return "\n".join(
        [
            "---",
            "library_name: keras",
            *(["pipeline_tag: image-classification"] if facts.kind is not TargetKind.NUMBER else []),
            f"tags: [{task}, transfer-learning, tuner]",
            "model-index:",
            f"- name: {json.dumps(_name(facts))}",
            "  results:",
            f"  - task: {{type: {task}}}",
            f"    dataset: {{name: {json.dumps(facts.spec.data.source)}, type: {json.dumps(facts.spec.data.source)}, split: {split}}}",
            f"    metrics: [{{type: {metric}, value: {value:.4f}, name: {split} {metric.replace('_', ' ')}}}]",
            "---",
        ]
    )


def _results(facts: ModelFacts, *, exported_accuracy: float | None = None, exported_value: float | None = None) -> str:
    best, prepared = facts.best, facts.prepared
    if facts.kind is not TargetKind.LABEL:
        return "\n".join(["## Results", "", *_of_target(facts, exported_value), "", model_facts.caution(facts), *_by_label(facts)])
    rows = ["| | accuracy | images |", "|---|---|---|"]
    if facts.test is not None and facts.test_interval is not None:
        low, high = facts.test_interval
        rows.append(f"| test | {facts.test[0]:.4f}, 95 % interval {low:.4f} to {high:.4f} | {facts.test[1]:,} |")
        if exported_accuracy is not None:
            through = "test, through this model, which reduces images for its smaller members"
            rows.append(f"| {through} | {exported_accuracy:.4f} | {facts.test[1]:,} |")
    if facts.validation_accuracy is not None:
        rows.append(f"| validation | {facts.validation_accuracy:.4f} | {prepared.num_validation:,} |")
    if facts.verdict is None and best.rule_value is not None:
        rows.append(f"| validation, of the rule (trial 0) | {best.rule_value:.4f} | {prepared.num_validation:,} |")
    constant = ("test", prepared.commonest_test, prepared.num_test), ("validation", prepared.commonest_validation, prepared.num_validation)
    rows += [
        f"| {split}, always {_cell(prepared.commonest)} (the commonest class) | {score:.4f} | {number:,} |"
        for split, score, number in constant
        if score is not None
    ]
    lines = ["## Results", "", *rows, "", model_facts.caution(facts)]
    if facts.verdict is not None:
        lines += ["", *_judged(facts.verdict)]
    if facts.classes:
        lines += ["", f"Figures of each class on the {facts.split} images:", ""]
        lines += ["| class | images | precision | recall | F1 |", "|---|---|---|---|---|"]
        lines += [
            f"| {_cell(one.name)} | {one.num_images:,} | {_share(one.precision)} | {_share(one.recall)} | {_share(one.f1)} |"
            for one in facts.classes[:_LISTED_CLASSES]
        ]
        if len(facts.classes) > _LISTED_CLASSES:
            lines += ["", f"The figures of all {len(facts.classes):,} classes are in `metrics.json`."]
    return "\n".join(lines)


def _of_target(facts: ModelFacts, exported_value: float | None) -> list[str]:
    """Return the table of results, if an image has several labels or a number."""
    best, prepared, metric = facts.best, facts.prepared, facts.spec.objective.metric
    found = [
        ("test", facts.test_value, facts.num_test),
        ("test, through this model, which reduces images for its smaller members", exported_value, facts.num_test),
        ("test, images with exactly the right labels", None if facts.test is None else facts.test[0], facts.num_test),
        ("validation", facts.value, prepared.num_validation),
        ("validation, of the rule (trial 0)", best.rule_value, prepared.num_validation),
        (f"test, {prepared.always}", prepared.baseline_test, prepared.num_test),
        (f"validation, {prepared.always}", prepared.baseline_validation, prepared.num_validation),
    ]
    rows = [f"| {_cell(what)} | {wording.figure(score)} | {number:,} |" for what, score, number in found if score is not None]
    return [f"| | {metric.replace('_', ' ')} | images |", "|---|---|---|", *rows]


def _by_label(facts: ModelFacts) -> list[str]:
    """Return the table of labels; [] for numbers."""
    if not facts.classes:
        return []
    rows = [
        f"| {_cell(one.name)} | {one.num_images:,} | {_share(one.precision)} | {_share(one.recall)} | {_share(one.f1)} | "
        f"{_share(one.average_precision)} | {_share(one.threshold)} |"
        for one in facts.classes[:_LISTED_CLASSES]
    ]
    head = ["| label | images | precision | recall | F1 | average precision | threshold |", "|---|---|---|---|---|---|---|"]
    return ["", "Figures of each label on the validation images, by which the thresholds were chosen:", "", *head, *rows]


def _judged(verdict: Verdict) -> list[str]:
    """Return the list items of a verdict."""
    low, high = verdict.macro_f1_interval
    sentences = [
        f"Mean F1 over the classes {verdict.macro_f1:.4f}, 95 % interval {low:.4f} to {high:.4f}.",
        f"{verdict.calibration.words} If the model has a temperature, its probabilities include it.",
        *verdict.choice,
        *(one.words for one in verdict.comparisons),
        verdict.soup,
        *verdict.notes,
    ]
    return [f"- {one}" for one in sentences if one]


def _use(facts: ModelFacts, exported: errands.Exported) -> str:
    model = facts.spec.model
    image = f"probes/{exported.probes[0].file}" if exported.probes else "image.jpg"
    side = model.image_size
    return (
        f"## Use\n\nThe model takes images of the shape (n, {side}, {side}, 3), RGB from 0 to 255, "
        f"{_RESIZED[model.resize]}, and returns {_RETURNED[facts.kind]}. "
        f"All further preprocessing is part of the model. {_values(facts)}\n\n"
        f"```python\n{example(facts.kind).format(image=image, size=model.image_size)}```\n\n"
        "If tuner is installed, `tuner predict . IMAGE` does the same with image files of any size."
    )


#: what a model returns, by what an image is labeled with
_RETURNED = {
    TargetKind.LABEL: "a probability for each line of `labels.txt`",
    TargetKind.LABELS: "a probability for each line of `labels.txt`, which do not add up to one; `thresholds` in `metrics.json` says from "
    "which one on an image has the label",
    TargetKind.NUMBER: "one number, which `labels.txt` names",
}


def _values(facts: ModelFacts) -> str:
    if facts.prepared.value_range is None:
        return ""
    low, high = (wording.number(value) for value in facts.prepared.value_range)
    return (
        f"The training images were files with values from {low} to {high}, mapped linearly to 0 to 255 and clipped. "
        "Map other files the same way: `tuner predict` does it, the example does not."
    )


def _formats(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "## Formats",
        "",
        f"Each format was loaded in its own process and compared with the Keras model on {rows[0]['images_compared']} validation images.",
        "",
        "| file | equal labels | largest difference | ms per image | size |",
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
        Format.INT8: "`model.int8.tflite` takes images as uint8.",
    }
    written = {row["format"] for row in rows}
    said = [note for form, note in notes.items() if form.value in written]
    return "\n".join([*lines, *(["", " ".join(said)] if said else [])])


def _data(facts: ModelFacts) -> str:
    prepared = facts.prepared
    names = ", ".join(_cell(name) for name in prepared.classes[:20]) + (", …" if len(prepared.classes) > 20 else "")
    return (
        f"## Data\n\nSource `{facts.spec.data.source}`: {prepared.num_train:,} training images, "
        f"{prepared.num_validation:,} validation images and {prepared.num_test:,} test images. "
        f"{_named(facts, names)}.\n\n"
        f"Fingerprint of the images and labels: `{prepared.fingerprint}`. Fingerprint of the splits: `{prepared.splits}`.\n\n"
        "`probes/` holds a few validation images with the predictions of the model."
    )


def _named(facts: ModelFacts, names: str) -> str:
    if facts.kind is TargetKind.NUMBER:
        return f"Each has a number: {names}"
    several = ", of which an image may have any number" if facts.kind is TargetKind.LABELS else ""
    return f"{len(facts.prepared.classes)} classes{several}: {names}"


def _training(facts: ModelFacts, exported: errands.Exported) -> str:
    model, best = facts.spec.model, facts.best
    hyperparameters = facts.hyperparameters
    seconds = "" if best.seconds is None else f", {best.seconds:.0f} seconds on {facts.prepared.device}"
    versions = ", ".join(f"{name} {version}" for name, version in facts.prepared.versions.items())
    return (
        f"## Training\n\n`{model.backbone}` with weights `{model.weights}` at {model.image_size} pixels, "
        f"{exported.num_parameters:,} parameters, found with tuner by {_found_by(facts)}. "
        "A new head was trained on the features of the frozen network"
        + (", then the head and the top of the network together" if hyperparameters.unfreeze > 0 and best.prepared.epochs > 0 else "")
        + f": optimizer {hyperparameters.optimizer.value}, dropout {hyperparameters.dropout:.3g}, "
        f"features `{hyperparameters.features.value}`"
        f"{seconds}. All values are in `config.yaml`. {_repeat(facts)}\n\nTrained with {versions}. "
        "`environment.lock` lists the packages that wrote these files."
    )


def _found_by(facts: ModelFacts) -> str:
    if facts.ensemble is not None:
        trials = wording.count(facts.best.num_completed, "completed trial")
        return (
            f"a search of {trials}, whose {facts.ensemble.words}, it averages; the rest of this section is about trial {facts.best.trial}"
        )
    if facts.verdict is None:
        return f"a search of {wording.count(facts.best.num_completed, 'completed trial')}"
    verdict, network = facts.verdict, facts.verdict.networks[0]
    seeds = wording.count(len(network.seeds), "seed")
    return f"the search {verdict.study}: its trial {network.trial} was trained again with {seeds} on {verdict.trained_on}"


def _repeat(facts: ModelFacts) -> str:
    if facts.taught is not None:
        form = f"trial {facts.best.trial}, whose form the network has"
        return f"The ensemble of the study taught the network; `tuner run config.yaml` trains {form}, by the labels."
    if facts.ensemble is not None:
        return f"`tuner run config.yaml` trains trial {facts.best.trial} again; `config.yaml` lists the hyperparameters of every member."
    if facts.ensemble_seeds:
        many = wording.listed(facts.ensemble_seeds)
        return (
            f"The model averages the probabilities of the trainings with seeds {many}; `tuner run config.yaml` repeats the first of them."
        )
    seeds = () if facts.verdict is None else facts.verdict.networks[0].chosen_seeds
    if len(seeds) > 1:
        many = wording.listed(seeds)
        return f"The weights are the average of the trainings with seeds {many}; `tuner run config.yaml` repeats the first of them."
    return "`tuner run config.yaml` trains the model again."


def _limits(facts: ModelFacts) -> str:
    licences = " The images and the pretrained weights have licences of their own."
    metric = facts.spec.objective.metric.replace("_", " ")
    new = f"Its {metric} was measured on images of the same source as the training images; it is unknown "
    if facts.kind is TargetKind.NUMBER:
        low = "The model gives a number for each image, even if it shows something else, and is unreliable beyond the numbers that it saw. "
        return f"## Limits\n\n{low}{new}for other images.{licences}"
    if facts.kind is TargetKind.LABELS:
        knows = f"The model knows {len(facts.prepared.classes)} labels, and no others. "
        return f"## Limits\n\n{knows}{new}for other images. Its probabilities are not calibrated: they are not frequencies.{licences}"
    return (
        "## Limits\n\n"
        f"The model knows {len(facts.prepared.classes)} classes and assigns one of them to each image, even if it shows none of them. "
        "Its accuracy was measured on images of the same source as the training images; it is unknown for other images. "
        + (
            f"Its probabilities are calibrated with a temperature of {facts.temperature:.3g}."
            if facts.temperature != 1.0
            else "Its probabilities are not calibrated: they rank the classes, but they are not frequencies."
        )
        + licences
    )


def _plots(drawn: Mapping[str, str]) -> list[str]:
    if not drawn:
        return []
    return ["## Plots\n\n" + "\n\n".join(f"![{what}](plots/{name})\n\n{what[0].upper()}{what[1:]}." for name, what in drawn.items())]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _cell(name: str) -> str:
    """Return a name as text for a table cell, not as markup."""
    return wording.markdown(name)
