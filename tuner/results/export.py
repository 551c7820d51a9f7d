"""Export: the best trial of a study as a study file with fixed values, which `tuner run` trains again."""

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

from tuner import errors, wording
from tuner.results.best import Best
from tuner.spec import conditions, plan
from tuner.spec import file as study_file
from tuner.spec.data import Data
from tuner.spec.hyperparameters import ChosenValues, Hyperparameters
from tuner.spec.search import SearchSpace
from tuner.spec.strategies import NoPruner, Random
from tuner.spec.study import AnyStudySpec, Budget, StudySpec
from tuner.storage.attributes import BEST_EPOCHS, EXECUTIONS, FOLDS, STANDARD_DEVIATION

#: longest name of a study
_MAX_NAME = 100


def resolved(best: Best) -> AnyStudySpec:
    """Return a study of one trial that trains like the best one; its `result` section holds the results of the search and the seed."""
    return resolved_images(best) if isinstance(best.spec, StudySpec) else _resolved_code(best)


def _resolved_code(best: Best) -> AnyStudySpec:
    """Return a study of user code in which every value of the trial is fixed."""
    spec, chosen = best.spec, best.chosen
    assert isinstance(chosen, ChosenValues)
    fixed_values = {name: {"value": value} for name, value in chosen.values.items()}
    plain = spec.model_dump(mode="json", exclude={"retraining", "constraints"}) | {
        "name": name_of(best),
        "budget": {"trials": 1},
        "search": fixed_values,
        "sampler": "random",
        "pruner": "none",
        "result": _result(best),
    }
    return type(spec).model_validate(plain)


def resolved_images(best: Best) -> StudySpec:
    """Return a study of images of one trial that trains like the best one."""
    spec = best.images
    return StudySpec(
        name=name_of(best),
        objective=spec.objective,
        data=_data(best),
        model=spec.of_trial(best.of_images).model,
        budget=Budget(trials=1),
        training=spec.training.model_copy(update={"epochs": best.epochs}),
        validation=spec.validation,
        search=fixed(best.of_images),
        sampler=Random(),
        pruner=NoPruner(),
        seed=spec.seed,
        result=_result(best),
    )


def _data(best: Best) -> Data:
    """Return the data of the search, with the range of values that `auto` stood for."""
    found, data = best.prepared.value_range, best.images.data
    return data if found is None else data.model_copy(update={"value_range": found})


def name_of(best: Best) -> str:
    """Return the name of the exported study, which contains the trial's number."""
    suffix = f"-trial-{best.trial}"
    return best.spec.name[: _MAX_NAME - len(suffix)] + suffix


def fixed(hyperparameters: Hyperparameters) -> SearchSpace:
    """Return a search space with these hyperparameters as fixed values; backbone and image size are part of the model instead."""
    plain: dict[str, Any] = hyperparameters.model_dump(mode="json", exclude={*conditions.MODEL_NAMES})
    for rate in ("learning_rate", "probe_learning_rate"):
        plain[rate] = {plain["optimizer"]: plain[rate]}
    return SearchSpace.model_validate(plain)


def _result(best: Best) -> dict[str, Any]:
    prepared = best.prepared
    result = {
        "study": best.spec.name,
        "trial": best.trial,
        "trial_seed": best.seed,
        **_scores(best),
        "best_epoch": best.best_epoch,
        "seconds": best.seconds,
        "rule": None if best.rule_value is None else _without_unknown(rule_scores(best)),
        "ensemble": _ensemble(best),
        "always_commonest_class": _commonest(best),
        "completed_trials": best.num_completed,
        "classes": list(prepared.classes),
        "images": {"train": prepared.num_train, "validation": prepared.num_validation, "test": prepared.num_test},
        "fingerprint": prepared.fingerprint,
        "splits": prepared.splits,
        "value_range": None if prepared.value_range is None else list(prepared.value_range),
        "device": prepared.device,
        "versions": prepared.versions | {"optuna": importlib.metadata.version("optuna")},
    }
    return _without_unknown(result)


def _scores(best: Best) -> dict[str, Any]:
    """Return the value of the trial, under the name of what it is, and what was measured on the test split."""
    several = (FOLDS, BEST_EPOCHS, EXECUTIONS, STANDARD_DEVIATION) if best.spread else ()
    spread = {name: best.found.attributes.get(name) for name in several}
    if not isinstance(best.spec, StudySpec):
        named = {"metric": best.spec.objective.metric, "value": best.validated, **spread, "test_value": best.test_value, **best.costs}
        return {**named, "exceeds": best.exceeds or None}
    if not best.is_accuracy:
        named = {"metric": best.spec.objective.metric, "value": best.value, **spread, "test_value": best.test_value}
        return {**named, "test_accuracy": best.test_accuracy}
    # not a validation accuracy if the trial trained on the validation images
    validated = best.value if best.spec.measured_on_new_data else None
    return {"validation_accuracy": validated, **spread, "test_accuracy": best.test_accuracy}


def rule_scores(best: Best) -> dict[str, Any]:
    """Return the value of trial 0, under the name of what it is, and its test accuracy."""
    name = "validation_accuracy" if best.is_accuracy else "value"
    return {name: best.rule_value, "test_accuracy": best.rule_test_accuracy}


def _ensemble(best: Best) -> dict[str, Any] | None:
    """Return the ensemble that is better than the best trial of the study; None for another trial."""
    if best.ensemble_of_code is not None and best.is_best:
        return best.ensemble_of_code.model_dump(mode="json", exclude={"considered", "refused"}, exclude_none=True)
    if best.ensemble is None or not best.is_best:
        return None
    return best.ensemble.model_dump(mode="json", exclude={"confusion"}, exclude_none=True)


def _commonest(best: Best) -> dict[str, Any] | None:
    """Return what a model scores that always answers the commonest class; None if the study does not know it."""
    prepared = best.prepared
    scores = {"validation_accuracy": prepared.commonest_validation, "test_accuracy": prepared.commonest_test}
    if not best.is_accuracy:
        scores |= {"value": prepared.baseline_validation, "test_value": prepared.baseline_test}
    if prepared.always:
        return {"answer": prepared.always} | _without_unknown(scores)
    return {"class": prepared.commonest} | _without_unknown(scores) if prepared.commonest else None


def _without_unknown(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


_COMMENTS = {
    "data": "the images, and how they are split; the seed determines the splits",
    "model": "the pretrained network",
    "budget": "one trial, because nothing is left to search",
    "training": "the stages of the trial",
    "search": "every hyperparameter of the trial; those without effect have their defaults",
    "result": "the results of the search and its conditions; only trial_seed has an effect, as the seed of the trial",
}
_CODE_COMMENTS = _COMMENTS | {
    "data": "the function that loads the data",
    "model": "the function that builds the model",
    "function": "the objective",
    "training": "how the trial is trained",
    "search": "every value of the trial",
}


def as_yaml(best: Best) -> str:
    """Return the best trial as a study file with comments."""
    headline = f"Trial {best.trial} of the study {best.spec.name}, {best.standing}"
    return commented(resolved(best), f"{headline}: {plan.metric(best.spec)} {wording.figure(best.value)}.")


def commented(spec: AnyStudySpec, headline: str) -> str:
    """Return a study as YAML, with a headline and a comment above each section."""
    lines = [f"# {headline}", "# A study file with fixed values, written by tuner; `tuner run` trains it again."]
    comments = _COMMENTS if isinstance(spec, StudySpec) else _CODE_COMMENTS
    for line in study_file.dump(spec).splitlines():
        comment = comments.get(line.partition(":")[0])
        lines += ["", f"# {comment}"] if comment else []
        lines.append(line)
    return "\n".join(lines) + "\n"


def as_json(best: Best) -> str:
    """Return the best trial as a study file in JSON."""
    return json.dumps(resolved(best).model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def write(best: Best, path: Path) -> None:
    """Write the best trial to a YAML or JSON file, by its suffix; replace an earlier export of the same study.

    Raises:
        RequestError: the suffix is unknown, the file is not an export of this study, or the folder cannot be written.
    """
    check_place(path)
    if path.exists() and not is_export(path, best.spec.name):
        raise errors.RequestError(
            f"{path} exists and is not an export of the study {best.spec.name}, so it is not overwritten; name another file, or add --force"
        )
    replace(best, path)


def replace(best: Best, path: Path) -> None:
    """Write the best trial like `write`, but overwrite any file.

    Raises:
        RequestError: the suffix is unknown, or the folder cannot be written.
    """
    check_place(path)
    try:
        _write_beside_and_rename(path, _WRITERS[path.suffix.lower()](best))
    except OSError as error:
        raise errors.RequestError(f"{path} cannot be written: {error.strerror}") from error


def check_place(path: Path) -> None:
    """Check before a search that its export can be written.

    Raises:
        RequestError: the suffix is unknown, the path is a folder, or its folder does not exist.
    """
    if path.suffix.lower() not in _WRITERS:
        raise errors.RequestError(f"{path} ends in {path.suffix or 'no suffix'}; expected {', '.join(_WRITERS)}")
    try:
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
    except OSError as error:
        raise errors.RequestError(f"{path} cannot be written: {error.strerror}") from error
    if is_folder:
        raise errors.RequestError(f"{path} is a folder; name a file in it, for example {path / 'best.yaml'}")
    if not has_folder:
        raise errors.RequestError(
            f"{path} cannot be written: the folder {path.parent} does not exist; create it first: mkdir -p {path.parent}"
        )


_WRITERS = {".yaml": as_yaml, ".yml": as_yaml, ".json": as_json}


def is_export(path: Path, study: str) -> bool:
    """Return whether a file is an export of this study, which a newer export may replace."""
    try:
        found = study_file.read(path)
    except errors.SpecError:
        return False
    return found.result is not None and found.result.get("study") == study


def _write_beside_and_rename(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
