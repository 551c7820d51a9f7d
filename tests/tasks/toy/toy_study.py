"""Study files of the toy task: the search for a number."""

from typing import Annotated, Literal

from pydantic import Field

from tuner.spec.objective import OBJECTIVE, Objective
from tuner.spec.study import AnyStudySpec
from tuner.tasks.custom.spec.custom_study import DeclaredSearch


class ToyStudySpec(AnyStudySpec):
    """A study file of the toy task."""

    task: Literal["toy"] = "toy"
    """what the study is about: a number"""
    objective: Annotated[Objective, OBJECTIVE] = Objective(metric="error")
    """the distance from the number"""
    number: float
    """the number to find"""
    width: Annotated[float, Field(gt=0)] = 3.0
    """how far from 0 it is looked for"""
    search: DeclaredSearch = Field(default_factory=dict)
    """the guess, if it is fixed, as in an exported trial"""
