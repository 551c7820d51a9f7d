"""Image classification as study files describe it: implements `tasks.task.TaskSpec`."""

from collections.abc import Mapping
from typing import Any

from tuner.spec import plan, space
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.space import Chooser, SpaceRow
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.tasks.images.spec import recipe


def rule(spec: AnyStudySpec, *, num_train: int, num_classes: int) -> dict[str, Any]:
    """Return the parameters of trial 0, which the recipe takes from the number of images."""
    study = _images(spec)
    return recipe.parameters(num_train, num_classes, study.space, fine_tunes=space.fine_tunes(study))


def suggest(chooser: Chooser, spec: AnyStudySpec) -> Hyperparameters:
    """Return the hyperparameters that `chooser` chooses."""
    study = _images(spec)
    return space.suggest(chooser, study.space, fine_tunes=space.fine_tunes(study))


def fitted(given: Mapping[str, Any], spec: AnyStudySpec) -> tuple[dict[str, Any], list[str]]:
    """Return values of parameters as a trial of the study takes them, and the reasons why others do not fit."""
    return space.fitted(given, _images(spec).space)


def rows(spec: AnyStudySpec) -> list[SpaceRow]:
    """Return a row for each hyperparameter that can act in the study, searched or fixed."""
    return space.rows(_images(spec))


def subject(spec: AnyStudySpec) -> str:
    """Return the source of the images, the backbones and the image sizes."""
    study = _images(spec)
    sizes = " or ".join(map(str, study.model.sizes))
    return f"{study.data.source} on {' or '.join(study.model.backbones)} at {sizes} pixels"


def facts(spec: AnyStudySpec, epochs: int | None) -> list[tuple[str, str]]:
    """Return the model, the stages of a trial and the screening, in words."""
    return plan.about_images(_images(spec), epochs)


def asks_while_running(spec: AnyStudySpec) -> bool:
    """Return False: all hyperparameters are chosen before a trial starts."""
    return False


def _images(spec: AnyStudySpec) -> StudySpec:
    assert isinstance(spec, StudySpec), f"a study of the task {spec.task} is not one of images"
    return spec
