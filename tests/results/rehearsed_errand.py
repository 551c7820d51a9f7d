"""Errands without Keras: they write files that are not models, and answer as the environment variable ERRANDS sets."""

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tuner.protocol import errands
from tuner.protocol.errands import Format

CLASSES = ("Bear", "Bird")


def export(order: errands.Export) -> errands.Exported:
    folder = Path(order.folder)
    for form in order.formats:
        place = folder / errands.BUNDLE_PATHS[form]
        if form is Format.SAVED_MODEL:
            place.mkdir()
            place = place / "saved_model.pb"
        mirrored = ", mirrored" if order.mirrored else ""
        keras = f"temperature {order.temperature:g}" + (
            f", {len(order.networks)} networks{mirrored}" if len(order.networks) > 1 or mirrored else ""
        )
        place.write_text(keras if form is Format.KERAS else form.value)
    (folder / "probes").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "probes" / "000.png")
    np.savez(order.answers, images=np.zeros((1, 8, 8, 3), np.uint8), probabilities=np.array([[0.9, 0.1]], np.float32))
    return errands.Exported(
        classes=CLASSES,
        num_parameters=12345,
        seconds=dict.fromkeys(order.formats, 0.1),
        probes=(errands.Sample(file="000.png", label="Bear", predicted="Bear", probabilities=(0.9, 0.1)),),
        num_compared=1,
        test_accuracy=0.75 if order.scores_test else None,
        packages={"keras": "3.15.1", "tuner": "0.1.0"},
        versions={"python": "3.11.2", "keras": "3.99.0", "tensorflow": "2.21.0", "tuner": "0.1.0"},
    )


def measure(order: errands.Measure) -> errands.Measured:
    """Each pass through a network takes 10 ms; variants after the first one that is fast enough are not measured."""
    times = [10.0 * variant.num_passes for variant in order.variants]
    first = next((number for number, time in enumerate(times) if time <= order.most_milliseconds), len(times))
    told = tuple(time if number <= first else None for number, time in enumerate(times))
    return errands.Measured(milliseconds=told, alone=(10.0,) * len(order.networks))


def compare(order: errands.Compare, told: dict[str, float]) -> errands.Compared:
    agreement, difference = told.get(f"{order.format.value} agreement", 1.0), told.get(f"{order.format.value} difference", 1e-6)
    return errands.Compared(num_images=1000, max_difference=difference, agreement=agreement, milliseconds=1.5, load_seconds=0.5)


def predict(order: errands.PredictImages) -> errands.ImagePredictions:
    is_there = [Path(path).suffix == ".png" for path in order.images]
    return errands.ImagePredictions(
        probabilities=tuple((0.25, 0.75) if there else None for there in is_there),
        troubles=tuple("" if there else f"{path}: there is no such file" for path, there in zip(order.images, is_there, strict=True)),
    )


def run(order: errands.Errand, *, threads: int = 0) -> errands.Answer:
    """Replace `tuner.workers.worker.evaluation.run`."""
    told = json.loads(os.environ.get("ERRANDS", "{}"))
    match order:
        case errands.Export():
            return export(order)
        case errands.Measure():
            return measure(order)
        case errands.Compare():
            return compare(order, told)
        case errands.PredictImages():
            return predict(order)
        case _:
            raise AssertionError("nothing of a rehearsed bundle is a model")


def main() -> None:
    told = json.loads(os.environ.get("ERRANDS", "{}"))
    if told.get("dies"):
        sys.exit("the last words")
    order = errands.read_errand(Path(sys.argv[1]).read_bytes())
    answer = errands.ErrandFailed(message=told["refuses"], is_request=True) if "refuses" in told else run(order)
    Path(sys.argv[2]).write_text(answer.model_dump_json())


if __name__ == "__main__":
    main()
