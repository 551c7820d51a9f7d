"""Trial files: one file for each trial that was trained to its end, with its epochs and its logits."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).with_name("recordings")


@dataclass(frozen=True, kw_only=True)
class RecordedEpoch:
    """An epoch of the probe or of the fine-tuning."""

    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    #: on the wall clock
    seconds: float
    #: of all threads of the process
    processor_seconds: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A recorded trial without its logits."""

    data_set: str
    image_size: int
    number: int
    kind: str
    seed: int
    #: values of the searched parameters, by their names in the storage
    parameters: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    num_train: int
    num_validation: int
    num_test: int
    probe: list[RecordedEpoch]
    fine_tune: list[RecordedEpoch]
    #: number of the epoch with the best validation score, counted from 1 over the probe and the fine-tuning
    best_step: int
    #: multiply-adds of one epoch of fine-tuning with its validation
    epoch_multiply_adds: float
    #: multiply-adds of the features of all images and their mirror images
    features_multiply_adds: float
    #: processor seconds of the features, which are computed once for a data set and a size
    features_processor_seconds: float
    threads: int
    versions: Mapping[str, str]
    #: full, half or continued
    length: str = "full"

    @property
    def is_whole(self) -> bool:
        """Whether the last epoch was reached: not if the loss became infinite or no number."""
        return math.isfinite(self.fine_tune[-1].validation_loss) and math.isfinite(self.fine_tune[-1].loss)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A trial that was trained to its end."""

    facts: Facts
    #: true classes (n,) of `validation` and `test`
    labels: Mapping[str, NDArray[np.uint8]]
    #: logits (n, classes), float16, by `split epoch view`: epoch is `last` or `best`, view is `image` or `mirrored`
    logits: Mapping[str, NDArray[np.float16]] = field(repr=False)

    def of(self, split: str, *, epoch: str = "last", view: str = "image") -> NDArray[np.float16]:
        """Return the logits (n, classes) of a split; those of the best epoch are stored only if it is not the last."""
        stored = epoch if f"{split}_{epoch}_image" in self.logits else "last"
        return self.logits[f"{split}_{stored}_{view}"]


def path_of(folder: Path, number: int) -> Path:
    """Return the file of a trial."""
    return folder / f"{number:02d}.npz"


def write(recording: Recording, path: Path) -> None:
    """Write a recording as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = np.frombuffer(json.dumps(asdict(recording.facts)).encode(), np.uint8)
    labels = {f"{split}_labels": labels for split, labels in recording.labels.items()}
    unfinished = path.with_name(f".{path.stem}-{os.getpid()}.npz")
    try:
        np.savez_compressed(unfinished, facts=facts, **labels, **recording.logits)  # type: ignore[arg-type]
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> Recording:
    """Read a recording."""
    with np.load(path, allow_pickle=False) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    facts = json.loads(given.pop("facts").tobytes())
    for stage in ("probe", "fine_tune"):
        facts[stage] = [RecordedEpoch(**epoch) for epoch in facts[stage]]
    labels = {split: given.pop(f"{split}_labels") for split in ("validation", "test")}
    return Recording(facts=Facts(**facts), labels=labels, logits=given)


def read_all(folder: Path = FOLDER) -> dict[str, list[Recording]]:
    """Return the recordings of each folder, in the order of their numbers."""
    folders = sorted(each for each in folder.glob("*") if each.is_dir())
    found = {each.name: [read(path) for path in sorted(each.glob("[0-9]*.npz"))] for each in folders}
    return {name: recordings for name, recordings in found.items() if recordings}
