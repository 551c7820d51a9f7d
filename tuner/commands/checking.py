"""`tuner check`: a study file, its images, its search and its cost, before anything is trained."""

import os
from pathlib import Path

from tuner import study_file
from tuner.data import dataset, sources, splits
from tuner.data.dataset import Dataset
from tuner.data.splits import Splits
from tuner.search import requirements, space
from tuner.spec import StudySpec
from tuner.terminal import plain, plan, printing
from tuner.workers import cost

#: a source that only the trainer can read is assumed to be this big
_ASSUMED_TRAIN, _ASSUMED_VALIDATION = 1_000, 200


def check(path: Path, cache: Path) -> int:
    """Print what the study is; raises SpecError or DataError with every mistake."""
    spec = study_file.read(path)
    requirements.check(spec)
    num_train, num_validation = _show_images(spec, cache)
    rows = space.rows(spec)
    epochs = spec.training.num_epochs(num_train)
    num_cores = len(os.sched_getaffinity(0))
    estimated = cost.estimate(spec, num_train=num_train, num_validation=num_validation, epochs=epochs, num_cores=num_cores)
    printing.result(
        plan.headed("Search", plan.search(rows)),
        plan.headed("Plan", plan.plan(spec, epochs, sum(row.is_searched for row in rows))),
        plan.headed("Cost", plan.cost(estimated, num_cores=num_cores, num_trials=spec.budget.trials)),
        f"{path} is in order. Start it with: tuner run {path}",
    )
    return 0


def open_images(spec: StudySpec, cache: Path) -> tuple[Dataset, Splits] | None:
    """The images of a study and their splits; None where only the trainer can read them.

    Raises:
        DataError: they cannot be used as they are.
    """
    if sources.needs_keras(spec.data):
        return None
    data = sources.open(spec.data, cache=cache)
    return data, splits.split(data, spec.data, spec.seed)


def _show_images(spec: StudySpec, cache: Path) -> tuple[int, int]:
    """Print the images where they can be read without Keras; how many train and choose."""
    opened = open_images(spec, cache)
    if opened is None:
        printing.result(plan.headed("Images", f"source {spec.data.source}: read when the study runs"))
        return _ASSUMED_TRAIN, _ASSUMED_VALIDATION
    data, parts = opened
    printing.result(plan.headed("Images", plan.images(data, parts)))
    for remark in dataset.notes(data):
        plain.line(f"warning: {remark}")
    return len(parts.train), len(parts.validation)
