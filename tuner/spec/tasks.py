"""Tasks by name: what a study can be about. A new task is a package below `tuner/tasks` and one entry of `TASKS`."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import PlainSerializer, PlainValidator

from tuner.spec.study import IMAGE_CLASSIFICATION, AnyStudySpec

CUSTOM = "custom"
OBJECTIVE = "objective"


class UnknownTask(Exception):
    """A study has a task that this version of tuner does not know."""


@dataclass(frozen=True, kw_only=True)
class TaskModules:
    """The modules of a task, which are imported when a study needs them."""

    #: module and class of its study files
    study: str
    #: module that implements `tasks.task.TaskSpec`, without Keras
    spec: str
    #: module that implements `tasks.task.TaskTraining`
    training: str
    #: whether its trainer imports Keras before it knows the study, as all tasks need that train with Keras
    needs_keras: bool = True


TASKS: dict[str, TaskModules] = {
    IMAGE_CLASSIFICATION: TaskModules(
        study="tuner.spec.study:StudySpec", spec="tuner.tasks.images.spec.image_task", training="tuner.tasks.images.training.prepared"
    ),
    CUSTOM: TaskModules(
        study="tuner.tasks.custom.spec.custom_study:CustomStudySpec",
        spec="tuner.tasks.custom.spec.choices",
        training="tuner.tasks.custom.training.custom",
    ),
    OBJECTIVE: TaskModules(
        study="tuner.tasks.custom.spec.custom_study:ObjectiveStudySpec",
        spec="tuner.tasks.custom.spec.choices",
        training="tuner.tasks.custom.running.objective",
        needs_keras=False,
    ),
}


def study_class(task: str) -> type[AnyStudySpec]:
    """Return the class of the study files of a task.

    Raises:
        KeyError: there is no such task.
    """
    module, _, name = TASKS[task].study.partition(":")
    return cast(type[AnyStudySpec], getattr(importlib.import_module(module), name))


def parse(given: Any) -> AnyStudySpec:
    """Return a study from its plain values, which `model_dump` gave.

    Raises:
        ValidationError: this version cannot read them.
        UnknownTask: there is no such task.
    """
    if isinstance(given, AnyStudySpec):
        return given
    task = given.get("task", IMAGE_CLASSIFICATION) if isinstance(given, Mapping) else IMAGE_CLASSIFICATION
    if task not in TASKS:
        raise UnknownTask(f"has the task {task}, which this version of tuner does not know")
    return study_class(task).model_validate(given)


#: a study of any task as a field of a message
ParsedSpec = Annotated[AnyStudySpec, PlainValidator(parse), PlainSerializer(lambda spec: spec.model_dump(mode="json"))]
