"""A StudySpec into what will be done, in words."""

from collections.abc import Mapping
from typing import Any

from tuner import wording
from tuner.spec.strategies import Pruner, Sampler
from tuner.spec.study import StudySpec, Training


def facts(spec: StudySpec, epochs: int | None, num_hyperparameters: int) -> list[tuple[str, str]]:
    """The plan as pairs of a name and what is said of it; `epochs` are those of a fine-tuning, None if not known yet."""
    model = spec.model
    searched = wording.count(num_hyperparameters, "hyperparameter")
    again = retraining(spec)
    if again:
        search = "none: " + "; ".join(again)
    else:
        search = f"{searched}, sampler {_chosen(spec.sampler)}, pruner {_chosen(spec.pruner)}, seed {spec.seed}"
    return [
        ("study", spec.name),
        ("model", f"{model.backbone}, weights {model.weights}, {model.image_size} × {model.image_size} pixels"),
        ("a trial", _road(spec.training, epochs)),
        ("budget", budget(spec)),
        ("search", search),
    ]


def retraining(spec: StudySpec) -> list[str]:
    """Whose configs a study trains again, in words; nothing of a study that searches."""
    again = spec.retraining
    if again is None:
        return []
    which = f"trials {wording.listed(again.trials)}" if len(again.trials) > 1 else f"trial {again.trials[0]}"
    said = [f"{which} of the study {again.study}, trained again with {wording.count(len(again.seeds), 'seed')} each"]
    if spec.training.images != "train":
        said.append("validation images are trained on too: the value is of images that it trained on, and says nothing of new ones")
    return said


def budget(spec: StudySpec) -> str:
    """The budget in words: `20 trials, at most 1 h, or an accuracy of 0.97`."""
    parts = []
    if spec.budget.trials is not None:
        parts.append(wording.count(spec.budget.trials, "trial"))
    if spec.budget.timeout is not None:
        parts.append(f"at most {wording.duration(spec.budget.timeout)}")
    if spec.budget.target is not None:
        parts.append(f"or an accuracy of {spec.budget.target:g}")
    return ", ".join(parts).removeprefix("or ")


def carried(migrated: Mapping[str, Any]) -> str:
    """What came over from another study whose search was changed, by what is kept of the migration."""
    num, left = migrated["num_carried"], migrated["num_left"]
    return f"{num} of {wording.count(num + left, 'trial')} of {migrated['from']}; changed: {'; '.join(migrated['changes'])}"


def _road(training: Training, epochs: int | None) -> str:
    """What becomes of a trial."""
    heads = f" with {training.probe_heads} heads at once" if training.probe_heads > 1 else ""
    part = "all" if training.promote == 1 else f"the best {training.promote:.0%}"
    length = f" for {wording.count(epochs, 'epoch')}" if epochs else ""
    tuned = "" if epochs == 0 else f"; {part} of them are fine-tuned{length}"
    precision = f", in {training.precision}" if training.precision != "auto" else ""
    return f"a probe of {wording.count(training.probe_epochs, 'epoch')}{heads}{tuned}{precision}"


def _chosen(strategy: Sampler | Pruner) -> str:
    """A sampler or a pruner, with the options that the study file changes: `top-k (keep 3)`."""
    default = type(strategy).model_fields
    changed = {name: value for name, value in strategy if name != "name" and value != default[name].default}
    options = ", ".join(f"{name} {wording.show(value)}" for name, value in changed.items())
    return f"{strategy.name} ({options})" if options else strategy.name
