"""The best trial of a study into a file that `tuner run` and `tuner check` read as a study."""

import json
import os
from pathlib import Path

from tuner import errors, study_file
from tuner.results import config
from tuner.results.best import Best
from tuner.spec import StudySpec

_COMMENTS = {
    "data": "the images, and how they are split; the splits follow from the seed",
    "model": "the pretrained network",
    "budget": "one trial: there is nothing left to search",
    "training": "the road of the trial",
    "search": "every hyperparameter of the best trial; those that do not act on it stand at their defaults",
    "result": "what the search found, and with what; trial_seed is the seed of the run, the rest is carried along",
}


def as_yaml(best: Best) -> str:
    """The best trial as a commented study file."""
    rank = "the best" if best.is_best else "one"
    what = f"Trial {best.trial} of the study {best.spec.name}, {rank} of {best.num_completed} completed trials"
    measured = "validation accuracy" if best.spec.training.images == "train" else "accuracy on images that it trained on"
    return commented(config.resolved(best), f"{what}: {measured} {best.value:.4f}.")


def commented(spec: StudySpec, headline: str) -> str:
    """A study of fixed values as a study file, with a line above it and one above each section."""
    lines = [f"# {headline}", "# A study file of fixed values, written by tuner: `tuner run` trains it again."]
    for line in study_file.dump(spec).splitlines():
        comment = _COMMENTS.get(line.partition(":")[0])
        lines += ["", f"# {comment}"] if comment else []
        lines.append(line)
    return "\n".join(lines) + "\n"


def as_json(best: Best) -> str:
    """The best trial as a study file in JSON."""
    return json.dumps(config.resolved(best).model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def write(best: Best, path: Path) -> None:
    """Write the best trial to a file, as YAML or JSON by its suffix; an earlier export of the same study is replaced.

    Raises:
        RequestError: the suffix is neither, something else is in the way, or the folder cannot be written.
    """
    check_place(path)
    if path.exists() and not is_export(path, best.spec.name):
        raise errors.RequestError(
            f"{path} exists and is not an export of the study {best.spec.name}, so it is left as it is; name another file, or give --force"
        )
    replace(best, path)


def replace(best: Best, path: Path) -> None:
    """As `write`, whatever the file holds.

    Raises:
        RequestError: the suffix is neither, or the folder cannot be written.
    """
    check_place(path)
    try:
        _write_beside_and_rename(path, _WRITERS[path.suffix.lower()](best))
    except OSError as error:
        raise errors.RequestError(f"{path} cannot be written: {error.strerror}") from error


def check_place(path: Path) -> None:
    """Find out before a search whether its export could be written.

    Raises:
        RequestError: the suffix is not known, or the path is or lacks a folder.
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
        raise errors.RequestError(f"{path} cannot be written: there is no folder {path.parent}; make it first: mkdir -p {path.parent}")


_WRITERS = {".yaml": as_yaml, ".yml": as_yaml, ".json": as_json}


def is_export(path: Path, study: str) -> bool:
    """Whether a file is an export of this study, which a newer one may replace."""
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
