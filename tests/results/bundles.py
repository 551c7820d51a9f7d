"""A small bundle like an exported one, made without Keras: its model distinguishes red and blue images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.trust import keras_files
from tuner.results.bundle import manifest
from tuner.spec import file as study_file
from tuner.tasks.images.data import dataset, sources, splits

CLASSES = ("blue", "red")
NUM_PROBES = 6


def images(num: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return noisy images, every second one red, some only slightly; one label in ten is wrong."""
    draw = np.random.default_rng(seed)
    is_red, strength = np.arange(num) % 2 == 1, np.where(np.arange(num) % 8 < 6, 60.0, 2.0)
    colours = np.full((num, 3), 128.0)
    colours[:, 0] += np.where(is_red, strength, -strength)
    colours[:, 2] -= np.where(is_red, strength, -strength)
    noise = draw.normal(0, 25, (num, keras_files.SIDE, keras_files.SIDE, 3))
    labels = np.where(np.arange(num) % 10 == 9, ~is_red, is_red).astype(np.int64)
    return np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8), labels


def probabilities(given: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the predictions of the model of `keras_files`."""
    weights = np.array([[-9, 9], [0, 0], [9, -9]])
    logits = given.astype(np.float64).mean(axis=(1, 2)) / 255 @ weights
    grown = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(grown / grown.sum(1, keepdims=True))


def save_data(path: Path) -> None:
    parts = {name: images(num, seed) for seed, (name, num) in enumerate({"train": 16, "val": 16, "test": 40}.items())}
    arrays: dict[str, Any] = {f"{letter}_{name}": part for name, pair in parts.items() for letter, part in zip("xy", pair, strict=True)}
    np.savez(path, classes=np.array(CLASSES), **arrays)


def make(folder: Path, data: Path) -> Path:
    """Write the bundle, and its training images to `data`."""
    save_data(data)
    folder.mkdir()
    config = (
        f"name: colours-trial-3\ndata: {{source: npz, path: {data}}}\n"
        f"model: {{backbone: efficientnet_lite0, image_size: {keras_files.SIDE}}}\nbudget: {{trials: 1}}\n"
    )
    (folder / "config.yaml").write_text(config)
    spec = study_file.read_images(folder / "config.yaml")
    read = sources.open(spec.data, cache=data.parent / "cache")
    parts = splits.split(read, spec.data, spec.seed)
    test_images, test_labels = images(40, 2)
    accuracy = float((probabilities(test_images).argmax(1) == test_labels).mean())
    metrics = {
        "test": {"accuracy": accuracy, "num_images": 40},
        "fingerprint": dataset.fingerprint(read),
        "splits": parts.digest,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "README.md").write_text("# colours\n")
    (folder / "model.keras").write_bytes(keras_files.packed())
    _write_probes(folder / "probes")
    manifest.write(folder)
    return folder


def _write_probes(folder: Path) -> None:
    folder.mkdir()
    given, labels = images(NUM_PROBES, 1)
    rows = []
    for number, (image, label, found) in enumerate(zip(given, labels, probabilities(given), strict=True)):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
        rows.append(
            {"file": f"{number:03d}.png", "label": CLASSES[label], "predicted": CLASSES[found.argmax()], "probabilities": found.tolist()}
        )
    (folder / "predictions.json").write_text(json.dumps({"classes": CLASSES, "images": rows}))
