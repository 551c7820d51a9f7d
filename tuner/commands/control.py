"""`tuner stop`, `resume` and `enqueue`: what someone asks of a study while it runs, or between two runs."""

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tuner.commands import show
from tuner.errors import Problem, RequestError, SpecError
from tuner.spec import yaml_lines
from tuner.studies import control
from tuner.studies import enqueue as studies_enqueue
from tuner.terminal import plain


def stop(name: str, url: str, *, now: bool, trial: int | None, worker: str | None) -> int:
    """Stop a study, one of its trials, or one of its workers."""
    if sum((now, trial is not None, worker is not None)) > 1:
        raise RequestError("--now, --trial and --worker are of different things to stop; choose one.")
    study, by = show.load(name, url), user()
    if trial is not None:
        value = control.stop_trial(study, trial, by=by)
        reached = "before its first epoch" if value is None else f"at {value:.4f}"
        plain.result(f"{name} trial {trial} was stopped {reached}; its worker takes the next one.")
    elif worker is not None:
        control.stop_worker(study, worker, by=by)
        plain.result(f"{name}: {worker} ends after its trial.")
    elif now:
        control.suspend(study, by=by)
        plain.result(f"{name} was stopped; running trials are handed back within seconds. It goes on with: tuner resume {name}")
    else:
        control.stop(study, by=by)
        plain.result(f"{name} was stopped; running trials are trained to their end. It goes on with: tuner resume {name}")
    return 0


def resume(name: str, url: str) -> int:
    """Let a study go on that was stopped."""
    control.resume(show.load(name, url))
    plain.result(f"{name} goes on with its next worker: tuner worker {name}")
    return 0


def enqueue(name: str, url: str, file: Path | None, values: Sequence[str]) -> int:
    """Have the next worker try hyperparameters of one's own."""
    if (file is None) == (not values):
        raise RequestError("give the hyperparameters in a file, or one by one with --set NAME=VALUE.")
    study = show.load(name, url)
    given, origin = (_read(file), str(file)) if file is not None else (_of_words(values), "--set")
    number = studies_enqueue.enqueue(study, given, by=user(), origin=origin)
    plain.result(f"{name} trial {number} waits for the next worker that is free.")
    return 0


def _read(file: Path) -> dict[str, Any]:
    """The hyperparameters of a file: all of it, or the section `search` of a study file, as `tuner export` writes one."""
    value = yaml_lines.read(file).value
    if isinstance(value, dict) and isinstance(value.get("search"), dict):
        value = value["search"]
    if not isinstance(value, dict):
        raise SpecError(str(file), [Problem(field="", message="holds no hyperparameters; expected for example `dropout: 0.3`")])
    return value


def _of_words(values: Sequence[str]) -> dict[str, Any]:
    """Hyperparameters of `NAME=VALUE`; a dot in a name leads into a section."""
    found: dict[str, Any] = {}
    for word in values:
        name, is_given, text = word.partition("=")
        if not is_given or not name:
            raise RequestError(f"--set is {word!r}; expected NAME=VALUE, for example --set dropout=0.3.")
        try:
            value = YAML(typ="safe", pure=True).load(text)
        except YAMLError as error:
            raise RequestError(f"--set is {word!r}, of which the value cannot be read; expected for example dropout=0.3.") from error
        section, _, inner = name.partition(".")
        if inner and not isinstance(found.setdefault(section, {}), dict):
            raise RequestError(f"--set gives {section} twice; choose one.")
        (found[section] if inner else found)[inner or name] = value
    return found


def user() -> str:
    """Who asks, by the name that the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "someone without a name"
