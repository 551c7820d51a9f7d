"""Which classes a trial took for which, into the table or the picture of it, and the figures of each class beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.results import classes
from tuner.search import details
from tuner.search.one_trial import Trial

#: classes whose confusion is a table; of more it is a picture
_TABLED = 20
_MISTAKES = 8


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a confusion matrix."""

    row: int
    column: int
    num: int
    #: shade from 0 to 10: the part of the row that is here
    shade: int


def shown(trial: Trial, names: Sequence[str]) -> Mapping[str, Any]:
    """What the template `confusion.html` shows of a trial, less the picture of its mistakes."""
    return {
        "figures": details.scores([classes.name_of(label, names) for label in range(len(trial.confusion))], trial.confusion),
        "confused": classes.most_confused(trial.confusion, names, most=_MISTAKES),
        "mistakes": _mistakes(trial, names),
        "cells": _cells(trial),
        "is_tabled": len(trial.confusion) <= _TABLED,
    }


def _mistakes(trial: Trial, names: Sequence[str]) -> list[tuple[str, str, float]]:
    """True class, predicted class and confidence of the most confident mistakes."""
    return [
        (classes.name_of(mistake.true, names), classes.name_of(mistake.predicted, names), mistake.confidence) for mistake in trial.mistakes
    ]


def _cells(trial: Trial) -> list[list[Cell]]:
    return [
        [Cell(row=place, column=column, num=num, shade=round(10 * num / sum(row)) if num else 0) for column, num in enumerate(row)]
        for place, row in enumerate(trial.confusion)
    ]
