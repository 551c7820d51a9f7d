"""`tuner stop`, `resume` and `enqueue`: requests to a study, while it runs or between two runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tuner import machine, wording
from tuner.commands import show
from tuner.errors import Problem, RequestError, SpecError
from tuner.spec import yaml_lines
from tuner.studies import control
from tuner.studies import enqueue as studies_enqueue
from tuner.studies.study import Study
from tuner.terminal import plain


def stop(name: str, url: str, *, now: bool, trial: int | None, worker: str | None) -> int:
    """Stop a study, one of its trials, or one of its workers."""
    if sum((now, trial is not None, worker is not None)) > 1:
        raise RequestError("--now, --trial and --worker cannot be combined; choose one.")
    study, by = show.load_study(name, url), machine.user_name()
    if trial is not None:
        value = control.stop_trial(study, trial, by=by)
        reached = "before its first epoch" if value is None else f"at {wording.figure(value)}"
        plain.result(f"{name} trial {trial} was stopped {reached}. Its worker continues with the next trial.")
    elif worker is not None:
        control.stop_worker(study, worker, by=by)
        plain.result(f"{name}: worker {worker} will end after its trial.")
    elif now:
        control.suspend(study, by=by)
        plain.result(f"{name} was stopped. Running trials are suspended within seconds. Resume the study with: tuner resume {name}")
    else:
        control.stop(study, by=by)
        plain.result(f"{name} was stopped. Running trials are trained to their end. Resume the study with: tuner resume {name}")
    return 0


def resume(name: str, url: str) -> int:
    """Allow workers to claim trials of a stopped study again."""
    control.resume(show.load_study(name, url))
    plain.result(f"{name} is resumed. Start a worker, if none is running: tuner worker {name}")
    return 0


def enqueue(name: str, url: str, file: Path | None, values: Sequence[str]) -> int:
    """Add a trial with the given hyperparameters, for the next free worker."""
    if (file is None) == (not values):
        raise RequestError("expected the hyperparameters either in a file, or one by one with --set NAME=VALUE.")
    study = show.load_study(name, url)
    given, origin = (_read(study, file), str(file)) if file is not None else (_parse_values(values), "--set")
    number = studies_enqueue.enqueue(study, given, by=machine.user_name(), origin=origin)
    plain.result(f"{name} trial {number} is enqueued. The next free worker trains it.")
    return 0


def _read(study: Study, file: Path) -> dict[str, Any]:
    """Read the hyperparameters of a file: the whole file, or those of an export."""
    value = yaml_lines.read(file).value
    if isinstance(value, dict) and isinstance(value.get("search"), dict):
        value = studies_enqueue.config_of(study, value)
    if not isinstance(value, dict):
        raise SpecError(str(file), [Problem(field="", message="has no hyperparameters; expected for example `dropout: 0.3`")])
    return value


def _parse_values(values: Sequence[str]) -> dict[str, Any]:
    """Return hyperparameters given as `NAME=VALUE`; `SECTION.NAME` is a hyperparameter of a section."""
    found: dict[str, Any] = {}
    for word in values:
        name, is_given, text = word.partition("=")
        if not is_given or not name:
            raise RequestError(f"--set is {word!r}; expected NAME=VALUE, for example --set dropout=0.3.")
        try:
            value = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise RequestError(f"--set is {word!r}, but its value is not valid YAML; expected for example dropout=0.3.") from error
        section, _, inner = name.partition(".")
        if inner and not isinstance(found.setdefault(section, {}), dict):
            raise RequestError(f"--set gives both a value and a section for {section}; choose one.")
        (found[section] if inner else found)[inner or name] = value
    return found
