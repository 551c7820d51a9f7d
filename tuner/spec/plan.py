"""Plan: what a study will do, in words."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tuner import wording
from tuner.spec import budget as budgets
from tuner.spec import space
from tuner.spec.hyperparameters import ProbeSolver, TargetKind
from tuner.spec.objective import UNCERTAIN
from tuner.spec.space import SpaceRow
from tuner.spec.strategies import Pruner, Sampler
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.spec.tasks import OBJECTIVE


class TaskWords(Protocol):
    """What a task says about a study."""

    def rows(self, spec: AnyStudySpec) -> list[SpaceRow]:
        """Return a row for each hyperparameter that can act in the study."""

    def facts(self, spec: AnyStudySpec, epochs: int | None) -> list[tuple[str, str]]:
        """Return what the study trains and how, as pairs of a name and a text."""


def facts(spec: AnyStudySpec, about: Sequence[tuple[str, str]], num_hyperparameters: int) -> list[tuple[str, str]]:
    """Return the plan as pairs of a name and a text; `about` is what the task says of the study."""
    is_asked = num_hyperparameters == 0 and not isinstance(spec, StudySpec)
    searched = "what the code asks for" if is_asked else wording.count(num_hyperparameters, "hyperparameter")
    retrained = retraining(spec)
    if retrained:
        search = "none: " + "; ".join(retrained)
    else:
        search = f"{searched}, sampler {_describe(spec.sampler)}, pruner {_describe(spec.pruner)}, seed {spec.seed}"
    return [("study", spec.name), *about, ("objective", objective(spec)), ("budget", budget(spec)), ("search", search)]


def about_images(spec: StudySpec, epochs: int | None) -> list[tuple[str, str]]:
    """Return what an image study trains; `epochs` are those of the fine-tuning, None if they are not known yet."""
    sizes = " or ".join(f"{size} × {size}" for size in spec.model.sizes)
    return [
        ("model", f"{' or '.join(spec.model.backbones)}, weights {spec.model.weights}, {sizes} pixels"),
        ("a trial", _stages(spec, epochs)),
        *([("screening", _screening(spec))] if len(spec.model.backbones) > 1 and not retraining(spec) else []),
    ]


def objective(spec: AnyStudySpec) -> str:
    """Return the metric that the study optimizes, and the direction, in words."""
    better = "higher" if spec.objective.maximizes else "lower"
    return f"{metric(spec)}; {better} is better"


def metric(spec: AnyStudySpec) -> str:
    """Return the name of the metric as a reader sees it: `validation accuracy`, `val_auc`."""
    if not isinstance(spec, StudySpec):
        return spec.objective.metric if spec.measured_on_new_data else f"{spec.objective.metric} on data that were trained on"
    name = spec.objective.metric.replace("_", " ")
    return f"validation {name}" if spec.measured_on_new_data else f"{name} on images that were trained on"


def _screening(spec: StudySpec) -> str:
    """Say how a study screens its models."""
    num_models = len(spec.model.backbones) * len(spec.model.sizes)
    if space.is_screened(spec) and spec.objective.metric in UNCERTAIN:
        metric = spec.objective.metric.replace("_", " ")
        return f"after trial 0, the rule with the other models; none is left out, because the error of a {metric} is not known"
    if space.is_screened(spec) and spec.budget.timeout is not None and space.fine_tunes(spec):
        return (
            "after trial 0, the rule with the other backbones at the planned size, as far as the time allows; "
            "a backbone whose probe is clearly worse is left out"
        )
    if space.is_screened(spec):
        return (
            f"after trial 0, {wording.count(num_models - 1, 'trial')} with the rule and the other models; "
            "a backbone whose probe is clearly worse is left out at that size"
        )
    if spec.budget.trials is not None and spec.budget.trials < space.TRIALS_A_MODEL * num_models:
        return f"none: {num_models} models need at least {space.TRIALS_A_MODEL * num_models} trials"
    return f"none: the sampler {spec.sampler.name} tries every combination"


#: what is read of the attribute of the first trainer
_PREPARED = {"epochs", "num_train", "num_validation", "num_test", "classes"}


def of_study(
    spec: AnyStudySpec, task: TaskWords, prepared: Mapping[str, Any] | None, migrated: Mapping[str, Any] | None, left_out: Any = None
) -> list[tuple[str, str]]:
    """Return the plan with what is known of a study: the attributes of its first trainer, its migration and its screening, if any.

    `task` is the task of the study, `tasks.task.spec(spec.task)`.
    """
    # another program can change the attributes of a study
    prepared = prepared if isinstance(prepared, Mapping) and prepared.keys() >= _PREPARED else None
    fixed = spec.training.epochs if isinstance(spec, StudySpec) and isinstance(spec.training.epochs, int) else None
    epochs = prepared["epochs"] if fixed is None and prepared else fixed
    found = facts(spec, task.facts(spec, epochs), sum(row.is_searched for row in task.rows(spec)))
    if prepared and isinstance(spec, StudySpec):
        train, validation, test = (prepared[f"num_{part}"] for part in ("train", "validation", "test"))
        images = f"{train:,} to train, {validation:,} to choose the best trial, {test:,} to measure it"
        if spec.num_folds > 1:
            images = f"{train + validation:,} in {spec.num_folds} folds to train and to choose the best trial, {test:,} to measure it"
        found.insert(1, ("images", f"{spec.data.source}: {images}; {_labels(spec, prepared['classes'])}"))
        if baseline := commonest_of(prepared, spec.objective.metric):
            found.insert(2, ("baseline", baseline))
    if isinstance(migrated, Mapping) and {"num_carried", "num_left", "from", "changes"} <= migrated.keys():
        found.append(("carried over", carried(migrated)))
    return found + [("left out", text) for text in models_left_out(left_out)]


def _labels(spec: StudySpec, classes: Sequence[str]) -> str:
    """Say what the images are labeled with."""
    if spec.data.kind is TargetKind.NUMBER:
        return f"a number each, {wording.shorten(classes[0])}"
    several = ", any number of them for an image" if spec.data.kind is TargetKind.LABELS else ""
    return f"{wording.count(len(classes), 'class')}{several}"


def models_left_out(stored: Any) -> list[str]:
    """Return in words which models a study left out and why, given its attribute."""
    rows = [row for row in (stored if isinstance(stored, list) else []) if isinstance(row, dict)]
    return [f"{row.get('backbone')} at {row.get('image_size')} pixels: {row.get('reason')}" for row in rows]


#: what answers without a look at the images, by metric, if its answer is more than the commonest class
_WITHOUT_A_LOOK = {"log_loss": "always the shares of the classes", "top_5_accuracy": "always the five commonest classes"}


def commonest(name: str, validation: float | None, test: float | None, metric: str = "accuracy", *, always: str = "") -> str:
    """Say what a model scores in a metric that looks at no image; "" if the study does not know it.

    It answers `always`, or else the commonest class, `name`.
    """
    scores = [f"{score:.4f} on {split}" for score, split in ((validation, "validation"), (test, "test")) if score is not None]
    who = always or _WITHOUT_A_LOOK.get(metric, f"always the commonest class, {wording.shorten(name)}")
    return f"{who}: {metric.replace('_', ' ')} {', '.join(scores)}" if scores else ""


def commonest_of(prepared: Any, metric: str = "accuracy") -> str:
    """Return `commonest` for the attribute of the first trainer of a study; "" if an earlier tuner or another program wrote it."""
    if not isinstance(prepared, Mapping):
        return ""
    kind = "commonest" if metric == "accuracy" else "baseline"
    validation, test = (prepared.get(f"{kind}_{split}") for split in ("validation", "test"))
    return commonest(prepared.get("commonest") or "", validation, test, metric, always=prepared.get("always") or "")


def retraining(spec: AnyStudySpec) -> list[str]:
    """Return which trials a study retrains, in words; an empty list for a study that searches."""
    again = spec.retraining
    if again is None:
        return []
    which = f"trials {wording.listed(again.trials)}" if len(again.trials) > 1 else f"trial {again.trials[0]}"
    texts = [f"{which} of the study {again.study}, retrained with {wording.count(len(again.seeds), 'seed')} each"]
    if not spec.measured_on_new_data:
        of_images = "training includes the validation images, so the validation accuracy says nothing about new images"
        texts.append(of_images if isinstance(spec, StudySpec) else "training includes all folds, so its values say nothing about new data")
    return texts


def trainings(spec: AnyStudySpec) -> str:
    """Return the trainings of a trial in words, through which its epochs are counted: `5 folds`; "" if it has one."""
    if spec.task == OBJECTIVE or spec.num_trainings == 1:
        return ""
    return f"{spec.num_folds} folds" if spec.num_folds > 1 else f"{spec.num_executions} trainings"


def budget(spec: AnyStudySpec) -> str:
    """Return the budget in words: `20 trials, at most 1 h, or an accuracy of 0.97`."""
    parts = []
    if spec.budget.trials is not None:
        parts.append(wording.count(spec.budget.trials, "trial"))
    if spec.budget.timeout is not None:
        parts.append(f"at most {wording.duration(spec.budget.timeout)}")
    if spec.budget.trial_timeout is not None:
        parts.append(f"at most {wording.duration(spec.budget.trial_timeout)} for each")
    if spec.budget.target is not None:
        name = spec.objective.metric.replace("_", " ") if isinstance(spec, StudySpec) else spec.objective.metric
        parts.append(f"or {'an' if name[:1] in 'aeiou' else 'a'} {name} of {spec.budget.target:g}")
    return ", ".join(parts).removeprefix("or ")


def carried(migrated: Mapping[str, Any]) -> str:
    """Return in words which trials were migrated from another study, given the stored description of the migration."""
    num, left = migrated["num_carried"], migrated["num_left"]
    return f"{num} of {wording.count(num + left, 'trial')} of {migrated['from']}; changed: {'; '.join(migrated['changes'])}"


def _stages(spec: StudySpec, epochs: int | None) -> str:
    """Return the stages of a trial, in words."""
    training, share = spec.training, budgets.share(spec.training, spec.budget)
    heads = f" with {training.probe_heads} heads at once" if training.probe_heads > 1 else ""
    part = "all" if share == 1 else f"the best {share:.0%}"
    if training.promote == "auto" and spec.budget.timeout is not None:
        part = "as many as the time allows"
    length = f" for {wording.count(epochs, 'epoch')}" if epochs else ""
    tuned = "" if epochs == 0 else f"; {part} of them are fine-tuned{length}"
    precision = f", in {training.precision}" if training.precision != "auto" else ""
    solvers = space.probe_solvers(spec)
    steps = [f"of {wording.count(training.probe_epochs, 'epoch')}{heads}"] if ProbeSolver.SGD in solvers else []
    probe = " or ".join([*steps, *(f"by {solver.value}" for solver in solvers if solver is not ProbeSolver.SGD)])
    several = f", {training.executions} times with different seeds" if training.executions > 1 else ""
    several = f", for each of {spec.num_folds} folds" if spec.num_folds > 1 else several
    return f"a probe {probe}{tuned}{several}{precision}"


def _describe(strategy: Sampler | Pruner) -> str:
    """Return a sampler or a pruner with the options that differ from the defaults: `top-k (keep 3)`."""
    default = type(strategy).model_fields
    changed = {name: value for name, value in strategy if name != "name" and value != default[name].default}
    options = ", ".join(f"{name} {wording.show(value)}" for name, value in changed.items())
    return f"{strategy.name} ({options})" if options else strategy.name
