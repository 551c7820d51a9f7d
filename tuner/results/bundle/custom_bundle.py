"""Custom bundle: a folder with the trained model of a trial of user code, its code, and everything that describes it."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tuner import wording
from tuner.errors import RequestError, TunerError
from tuner.protocol import errands
from tuner.protocol.errands import Format, ModelInput, ModelOutput
from tuner.results import best as bests
from tuner.results import export
from tuner.results.best import Best
from tuner.results.bundle import bundle, manifest
from tuner.results.bundle.bundle import BundleOptions, Tell
from tuner.spec.hyperparameters import ChosenValues
from tuner.storage import attributes
from tuner.trust import user_code
from tuner.workers.worker import evaluation

#: validation examples and what the model predicts for them, by the names of inputs and outputs
EXAMPLES, PREDICTIONS = "examples.npz", "predictions.npz"
#: folder of user code
CODE = "code"
#: number of these examples, and the largest number on which formats are compared
NUM_EXAMPLES, NUM_COMPARED = 16, 500
#: smallest share of examples with the same class, and the largest difference of an output
_MIN_AGREEMENT, _MAX_DIFFERENCE = 0.999, 0.01
#: formats that can be loaded without user code and without access to files, the first one that a bundle has
LOADED = (Format.KERAS, Format.ONNX, Format.LITERT)

#: size limit of interface.json
_MAX_INTERFACE_BYTES = 4 * 1024**2


class BundleInterface(BaseModel):
    """The inputs and outputs of a model: the file interface.json of its bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: name of the model's class
    model: str
    inputs: tuple[ModelInput, ...]
    outputs: tuple[ModelOutput, ...]
    #: the formats in the bundle
    formats: tuple[Format, ...]
    #: why each other format that was asked for is not in the bundle
    refused: dict[Format, str] = {}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A bundle that was written."""

    compared: Mapping[Format, errands.Compared]
    #: why each other format was left out
    refused: Mapping[Format, str]


def write(
    best: Best,
    weights: Path,
    folder: Path,
    wanted: BundleOptions,
    tell: Tell,
    *,
    version: tuple[str, int] | None = None,
    others: Sequence[errands.TrainedCode] = (),
) -> Written:
    """Write a bundle of the model of a trial, beside its folder and then renamed; `version` is the name and number of its version.

    With the `others` of its ensemble, the model predicts the mean of all of them.

    Raises:
        RequestError: the code, the data or the weights cannot be used, or the folder cannot be written.
        TrainingError: the model cannot be built, or its code raises an exception.
    """
    code = bests.require_code(best)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            beside, answers = Path(scratch) / "bundle", Path(scratch) / "answers.npz"
            beside.mkdir()
            exported = _export(best, weights, beside, answers, wanted, others=others)
            compared, refused = _compare(exported, beside, answers, wanted, tell)
            described = best if others else dataclasses.replace(best, ensemble_of_code=None)
            _describe(described, exported, compared, refused, code, beside, version=version)
            manifest.write(beside)
            bundle.put(beside, folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}") from error
    return Written(compared=compared, refused=refused)


def _export(
    best: Best, weights: Path, folder: Path, answers: Path, wanted: BundleOptions, *, others: Sequence[errands.TrainedCode]
) -> errands.ExportedCode:
    chosen = best.chosen
    assert isinstance(chosen, ChosenValues), "a trial of user code has values by name"
    order = errands.ExportCode(
        spec=best.spec.model_dump_json(),
        trial=best.trial,
        values=dict(chosen.values),
        weights=str(weights),
        cache=str(wanted.cache),
        formats=wanted.formats,
        folder=str(folder),
        examples=str(folder / EXAMPLES),
        predictions=str(folder / PREDICTIONS),
        num_examples=NUM_EXAMPLES,
        answers=str(answers),
        num_compared=NUM_COMPARED,
        others=tuple(others),
    )
    answer = evaluation.run(order, threads=wanted.threads)
    assert isinstance(answer, errands.ExportedCode)
    return answer


def _compare(
    exported: errands.ExportedCode, folder: Path, answers: Path, wanted: BundleOptions, tell: Tell
) -> tuple[dict[Format, errands.Compared], dict[Format, str]]:
    """Compare each format with the Keras model, and remove those that do not agree."""
    compared: dict[Format, errands.Compared] = {}
    refused = dict(exported.refused)
    for form in exported.written:
        path = folder / errands.BUNDLE_PATHS[form]
        order = errands.Compare(
            format=form,
            path=str(path),
            answers=str(answers),
            inputs=tuple(given.name for given in exported.inputs),
            outputs=tuple(found.meaning for found in exported.outputs),
        )
        try:
            answer = evaluation.run(order, threads=wanted.threads)
        except TunerError as error:
            refused[form] = str(error)
        else:
            assert isinstance(answer, errands.Compared)
            if answer.agreement >= _MIN_AGREEMENT and answer.max_difference <= _MAX_DIFFERENCE:
                compared[form] = answer
            else:
                refused[form] = f"it does not agree with the Keras model: {words(answer, exported)}"
        if form in refused:
            _remove(path)
        else:
            tell(f"{path.name}: {words(compared[form], exported)}")
    return compared, refused


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def words(compared: errands.Compared, exported: errands.ExportedCode) -> str:
    """Return how a format compares with the Keras model, in a line."""
    classes = any(found.meaning != "numbers" for found in exported.outputs)
    agreed = f", {compared.agreement:.2%} of them with an equal class" if classes else ""
    count = wording.count(compared.num_images, "example")
    return f"{count}{agreed}, largest difference {compared.max_difference:.1e}, {compared.milliseconds:.2f} ms per example"


def _describe(
    best: Best,
    exported: errands.ExportedCode,
    compared: Mapping[Format, errands.Compared],
    refused: Mapping[Format, str],
    code: Sequence[tuple[user_code.CodeFile, Path]],
    folder: Path,
    *,
    version: tuple[str, int] | None,
) -> None:
    """Write all files of the bundle except the models."""
    rows = [bundle.row(form, compared[form], folder) for form in compared]
    copies = _copy_code(code, folder)
    interface = BundleInterface(
        model=exported.model, inputs=exported.inputs, outputs=exported.outputs, formats=tuple(compared), refused=dict(refused)
    )
    texts = {
        bundle.CONFIG: export.commented(export.resolved(best), headline(best)),
        bundle.METRICS: bundle.as_json({**metrics(best, copies, exported), **_named(version)}),
        bundle.LOCK: bundle.environment_lock(exported, best.prepared.versions),
        bundle.FORMATS: bundle.as_json(rows),
        bundle.INTERFACE: interface.model_dump_json(indent=1, exclude_none=False) + "\n",
        bundle.CARD: card(best, exported, rows, interface, copies),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _copy_code(code: Sequence[tuple[user_code.CodeFile, Path]], folder: Path) -> list[dict[str, str]]:
    """Copy the files of code that a study names; return for each its name in the study, its SHA-256, and its place in the bundle."""
    copies: list[dict[str, str]] = []
    for file, path in code:
        (folder / CODE).mkdir(exist_ok=True)
        taken = {one["file"] for one in copies}
        place = next(f"{CODE}/{name}" for name in _names(path) if f"{CODE}/{name}" not in taken)
        (folder / place).write_bytes(path.read_bytes())
        copies.append({"name": file.name, "sha256": file.sha256, "file": place})
    return copies


def _names(path: Path) -> list[str]:
    return [path.name, *(f"{path.stem}_{number}{path.suffix}" for number in range(1, 10))]


def headline(best: Best) -> str:
    """Return one line with the origin of a model and its value."""
    metric, found = best.spec.objective.metric, best.ensemble_of_code
    if found is not None and found.value is not None:
        return (
            f"The {found.words} of the study {best.spec.name}, the best of its ensembles: {metric} {wording.figure(found.value)}; its best "
            f"trial, {best.trial} of {wording.count(best.num_completed, 'completed trial')}, has {wording.figure(best.value)}."
        )
    if not best.spec.measured_on_new_data:
        mean = (
            ""
            if best.validated is None
            else f" {metric} {wording.figure(best.validated)} is the mean over the folds of this configuration."
        )
        return f"Trial {best.trial} of the study {best.spec.name}, trained on all folds.{mean}"
    return f"Trial {best.trial} of the study {best.spec.name}, {best.standing}: {metric} {wording.figure(best.value)}."


def metrics(best: Best, copies: Sequence[Mapping[str, str]], exported: errands.ExportedCode) -> dict[str, Any]:
    """Return the contents of metrics.json."""
    prepared, stored = best.prepared, best.found.attributes
    test = stored.get(attributes.TEST) or {}
    return {
        "study": best.spec.name,
        "task": best.spec.task,
        "trial": best.trial,
        "note": caution(best),
        "metric": best.spec.objective.metric,
        "direction": "maximize" if best.spec.objective.maximizes else "minimize",
        "value": best.validated,
        "metrics": stored.get(attributes.METRICS) or {},
        "test_value": best.test_value,
        **({} if best.ensemble_of_code is None else {"ensemble": best.ensemble_of_code.model_dump(mode="json", exclude={"considered"})}),
        **best.costs,
        **({"exceeds": best.exceeds} if best.exceeds else {}),
        "test_metrics": test.get("metrics") or {},
        "hyperparameters": best.chosen.model_dump(mode="json").get("values"),
        "examples": {"train": prepared.num_train, "validation": prepared.num_validation, "test": prepared.num_test},
        "fingerprint": prepared.fingerprint,
        "num_parameters": exported.num_parameters,
        "code": list(copies),
        "versions": prepared.versions,
    }


def _named(version: tuple[str, int] | None) -> dict[str, Any]:
    return {} if version is None else {"name": version[0], "version": version[1]}


def caution(best: Best) -> str:
    """Return a sentence on how reliable the value is."""
    if not best.spec.measured_on_new_data:
        start = "The value is the mean over the folds, for models that each saw all folds but one. The model here saw all of them."
        known = "was not measured" if best.test_value is None else "was measured on data that were not used for any choice"
        return f"{start} Its configuration was chosen by such means, so expect a worse value. The test value {known}."
    origin = f"the best of {wording.count(best.num_completed, 'trial')}" if best.is_best else "that of one trial"
    exceeds = f"The trial is one {best.standing}, so the study would not choose it. " if best.exceeds else ""
    start = f"{exceeds}The value is {origin} on the validation data by which it was chosen, so expect a worse one on new data."
    if best.test_value is None:
        return f"{start} The value on unseen data was not measured."
    return f"{start} The test value was measured on data that were not used for any choice."


def card(
    best: Best,
    exported: errands.ExportedCode,
    rows: Sequence[Mapping[str, Any]],
    interface: BundleInterface,
    copies: Sequence[Mapping[str, str]],
) -> str:
    """Return the text of README.md."""
    metric = best.spec.objective.metric
    data = "the validation data" if best.spec.measured_on_new_data else "folds that were not trained on, mean"
    figures = [] if best.validated is None else [f"| {metric} {_alone(best)}on {data} | {wording.figure(best.validated)} |"]
    figures = [f"| {row} |" for row in _of_ensemble(best)] + figures
    test, name = best.test_value, metric.removeprefix("val_")
    figures += [] if test is None else [f"| {name} {_alone(best)}on the test data | {wording.figure(test)} |"]
    parts = [
        f"# {export.name_of(best)}",
        headline(best),
        "\n".join(["## Result", "", "| metric | value |", "|---|---|", *figures, "", caution(best)]),
        _use(interface),
        _in_and_out(interface),
        _formats(rows, interface),
        _code(copies, exported),
    ]
    return "\n\n".join(parts) + "\n"


def _alone(best: Best) -> str:
    return "" if best.ensemble_of_code is None else f"of trial {best.trial} alone "


def _of_ensemble(best: Best) -> list[str]:
    """Return the figures of the ensemble, if the bundle has one; those of its best trial follow."""
    found, metric = best.ensemble_of_code, best.spec.objective.metric
    if found is None or found.value is None:
        return []
    rows = [f"{metric} of the {found.words} on the validation data | {wording.figure(found.value)}"]
    return rows + (
        [] if found.test_value is None else [f"{metric.removeprefix('val_')} of it on the test data | {wording.figure(found.test_value)}"]
    )


def _use(interface: BundleInterface) -> str:
    lines = ["## Use", ""]
    if any(form in interface.formats for form in LOADED):
        lines += ["```", f"tuner predict . {EXAMPLES}", "```", ""]
    if Format.KERAS in interface.formats:
        given = "[" + ", ".join(f'x["{one.name}"]' for one in interface.inputs) + "]"
        call = f'x["{interface.inputs[0].name}"]' if len(interface.inputs) == 1 else given
        return "\n".join(
            [
                *lines,
                "```python",
                "import keras",
                "import numpy as np",
                "",
                'model = keras.saving.load_model("model.keras", compile=False)',
                f'x = np.load("{EXAMPLES}")',
                f"print(model.predict({call}))",
                "```",
            ]
        )
    why = interface.refused.get(Format.KERAS, "it was not asked for")
    return "\n".join(
        [
            *lines,
            f"There is no `model.keras`: {why}. Build the model with the code in `{CODE}/` and the values in `metrics.json`, call it once "
            f"on data, then load its weights:",
            "",
            "```python",
            f'model.load_weights("{errands.WEIGHTS_FILE}")',
            "```",
        ]
    )


def _in_and_out(interface: BundleInterface) -> str:
    rows = [f"| input | `{one.name}` | {_shape(one)} {one.dtype} |" for one in interface.inputs]
    rows += [f"| output | `{one.name}` | {one.meaning} |" for one in interface.outputs]
    return "\n".join(["## Inputs and outputs", "", "| | name | of one example |", "|---|---|---|", *rows])


def _shape(given: ModelInput) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in given.shape) + ")"


def _formats(rows: Sequence[Mapping[str, Any]], interface: BundleInterface) -> str:
    lines = ["## Formats", "", "| file | kB | equal classes | largest difference | ms per example |", "|---|---|---|---|---|"]
    has_classes = any(found.meaning != "numbers" for found in interface.outputs)
    for one in rows:
        agreed = f"{one['label_agreement']:.2%}" if has_classes else "–"
        figures = f"{agreed} | {one['max_difference']:.1e} | {one['milliseconds_an_image']:.2f}"
        lines.append(f"| `{one['file']}` | {one['bytes'] / 1000:,.0f} | {figures} |")
    lines += ["", f"`{errands.WEIGHTS_FILE}` has the weights alone."]
    lines += [f"Not in this bundle: `{errands.BUNDLE_PATHS[form]}`: {why}." for form, why in interface.refused.items()]
    return "\n".join(lines)


def _code(copies: Sequence[Mapping[str, str]], exported: errands.ExportedCode) -> str:
    lines = ["## Code and versions", "", "| file | SHA-256 |", "|---|---|"]
    lines += [f"| `{one['file']}` | `{one['sha256']}` |" for one in copies]
    lines += ["", "Other files that this code imports are not in the bundle."] if copies else []
    made = ", ".join(f"{name} {version}" for name, version in exported.versions.items())
    return "\n".join([*lines, "", f"Written by {made}. All packages are in `{bundle.LOCK}`."])


def read(folder: Path) -> BundleInterface:
    """Read the inputs and outputs of a bundle.

    Raises:
        RequestError: the bundle is damaged.
    """
    try:
        with manifest.open_file(folder / bundle.INTERFACE) as file:
            return BundleInterface.model_validate(json.loads(file.read(_MAX_INTERFACE_BYTES)))
    except (OSError, ValueError, ValidationError) as error:
        raise RequestError(f"{folder} is a damaged bundle: {bundle.INTERFACE} cannot be read: {str(error).splitlines()[0]}") from error


def loaded_format(folder: Path, interface: BundleInterface) -> Format | None:
    """Return the format that predictions are made with: the first that needs no code; None if the bundle has none."""
    return next((form for form in LOADED if form in interface.formats and (folder / errands.BUNDLE_PATHS[form]).is_file()), None)


def predict(folder: Path, interface: BundleInterface, arrays: Path, to: Path, *, threads: int = 0) -> int:
    """Predict arrays of an .npz file, which has one for each input, and write the outputs to another; return the number of examples.

    Raises:
        RequestError: the bundle has no model that loads without code of its own, or the arrays do not fit it.
    """
    form = loaded_format(folder, interface)
    if form is None:
        raise RequestError(
            f"{folder} has no model that loads without the user's code: {interface.refused.get(Format.KERAS, 'it has no model.keras')}. "
            "Export it with --format onnx or litert, or build it with the code in the bundle, as README.md says"
        )
    order = errands.PredictArrays(
        format=form,
        path=str(folder / errands.BUNDLE_PATHS[form]),
        inputs=interface.inputs,
        outputs=tuple(found.name for found in interface.outputs),
        arrays=str(arrays),
        to=str(to),
    )
    answer = evaluation.run(order, threads=threads)
    assert isinstance(answer, errands.ArrayPredictions)
    return answer.num_examples
