"""The screen of `tuner check`: the images of a study, its search space, its plan and a rough cost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.kernels import targets
from tuner.spec import plan as plans
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.model import TrialModel
from tuner.spec.objective import ImageMetric
from tuner.spec.space import SpaceRow
from tuner.spec.study import AnyStudySpec
from tuner.tasks.images.data.dataset import Dataset
from tuner.tasks.images.data.splits import Splits, baseline, recommend
from tuner.tasks.images.spec import cost as costing
from tuner.tasks.images.spec.cost import Cost
from tuner.terminal import printing

#: number of classes with a row of their own
_LISTED_CLASSES = 20


def images(data: Dataset, splits: Splits, metric: ImageMetric = "accuracy") -> RenderableType:
    """Show how many images each class has in each split, what answers without a look at them score, and a better metric if there is one."""
    rows = printing.table("class", "train", "validation", "test", right=("train", "validation", "test"))
    parts = (splits.train, splits.validation, splits.test)
    counts = [data.counts_of(part) for part in parts]
    for label, name in [] if data.kind is TargetKind.NUMBER else list(enumerate(data.classes))[:_LISTED_CLASSES]:
        rows.add_row(wording.visible(name), *(f"{count[label]:,}" for count in counts))
    num_others = len(data.classes) - _LISTED_CLASSES
    if num_others > 0:
        rows.add_row(f"… {num_others} more", *(f"{count[_LISTED_CLASSES:].sum():,}" for count in counts), style="quiet")
    if data.kind is TargetKind.LABELS:
        rows.add_row("no label", *(f"{np.count_nonzero(~data.labels[part].any(1)):,}" for part in parts), style="quiet")
    rows.add_row("all", *(f"{len(part):,}" for part in parts), style="strong")
    if data.groups is not None:
        rows.add_row("groups", *(f"{len(np.unique(data.groups[part])):,}" for part in parts), style="quiet")
    target = targets.of_training(data.kind, data.labels[splits.train])
    labels = [target.encode(data.labels[part]) for part in parts]
    found = baseline(*labels, metric=metric, target=target)
    always = target.always(labels[0], data.classes)
    shown = [Text(plans.commonest(data.classes[found.label], found.validation, found.test, metric, always=always), style="quiet")]
    advice = recommend(data.classes, labels[0], labels[1], metric)
    return Group(rows, *_about_numbers(data, parts), *shown, *([Text(f"recommended: {advice}")] if advice else []))


def _about_numbers(data: Dataset, parts: Sequence[NDArray[np.int64]]) -> list[RenderableType]:
    """Return the lowest, the middle and the highest number of each split as a table; [] if the labels are classes."""
    if data.kind is not TargetKind.NUMBER:
        return []
    rows = printing.table(data.classes[0], "train", "validation", "test", right=("train", "validation", "test"))
    for name, share in (("lowest", 0.0), ("median", 0.5), ("highest", 1.0)):
        found = [float(np.quantile(data.labels[part], share)) if len(part) else float("nan") for part in parts]
        rows.add_row(name, *("–" if np.isnan(one) else f"{one:,.4g}" for one in found))
    return [rows]


def search(rows: Sequence[SpaceRow]) -> RenderableType:
    """Show the values of each hyperparameter, and when it acts; fixed ones come last."""
    shown = printing.table("hyperparameter", "values", "when it acts")
    for row in sorted(rows, key=lambda row: not row.is_searched):
        shown.add_row(row.name, row.what, row.when, style="" if row.is_searched else "quiet")
    return shown


def plan(spec: AnyStudySpec, about: Sequence[tuple[str, str]], num_hyperparameters: int, time: str = "") -> RenderableType:
    """Show what the study will do, in words; `about` is what its task says of it, `time` the plan of its time."""
    return _facts([*plans.facts(spec, about, num_hyperparameters), *([("time plan", time)] if time else [])])


def tried(facts: Sequence[tuple[str, str]]) -> RenderableType:
    """Show what a trainer found when it tried user code."""
    return _facts(facts)


def cost(estimated: Cost, *, num_cores: int, num_trials: int | None) -> RenderableType:
    """Show the rough cost, in words."""
    return _facts(costing.words(estimated, num_cores=num_cores, num_trials=num_trials))


def costs(estimated: Sequence[tuple[TrialModel, Cost]]) -> RenderableType:
    """Show the rough cost of each model that trials may choose."""
    shown = printing.table("backbone", "pixels", "once", "a probe", "a fine-tuning")
    for model, each in estimated:
        seconds = (each.prepare_seconds, each.probe_seconds, each.fine_tune_seconds)
        shown.add_row(model.backbone, str(model.image_size), *(wording.duration(one) for one in seconds))
    return shown


def _facts(facts: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="quiet", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in facts:
        grid.add_row(name, text)
    return grid
