"""Report: the content of a study as one HTML page that needs no other file, or as Markdown."""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

import tuner
from tuner import wording
from tuner.dashboard.pages import rendering
from tuner.drawing import charts, templating
from tuner.errors import RequestError
from tuner.report import content, diagrams, facts
from tuner.report.content import ReportContent
from tuner.report.diagrams import Axis
from tuner.spec import plan as plan_words
from tuner.spec.study import AnyStudySpec, StudySpec
from tuner.studies.study import Study

FOLDER = Path(__file__).resolve().parent
#: texts at the start of every report of tuner; `write` replaces only a file with one of them
MARKS = ('<meta name="generator" content="tuner', "<!-- tuner report -->")
#: most slices, and most axes of the parallel coordinates without the value
_MOST_SLICES, _MOST_AXES = 12, 8
#: rows in a table of classes
_MAX_CLASSES = 100
_FORMATS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}


def format_of(path: Path, given: str | None) -> str:
    """Return the given format of a file, or the format of its suffix.

    Raises:
        RequestError: the suffix names no format.
    """
    if given is not None:
        return given
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        ending = f"the suffix {path.suffix}" if path.suffix else "no suffix"
        raise RequestError(f"{path} has {ending}; expected .html or .md, or name the format: --format html")
    return found


def check_target(path: Path, *, force: bool = False) -> None:
    """Refuse a path that cannot be written, or a file that is not a report, unless `force` is set.

    Raises:
        RequestError: the path is a folder, its folder does not exist, or the file is not a report.
    """
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file in it, for example {path / 'report.html'}")
    if not path.parent.is_dir():
        raise RequestError(f"{path} cannot be written: the folder {path.parent} does not exist; create it first: mkdir -p {path.parent}")
    if not force and path.exists() and path.stat().st_size and not _is_report(path):
        raise RequestError(f"{path} exists and is not a report of tuner, so it was not changed; name another file, or add --force")


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096).decode("utf-8", "replace")
    return any(mark in start for mark in MARKS)


def write(study: Study, path: Path, format_name: str) -> int:
    """Write the report of a study and return its size in bytes.

    Raises:
        RequestError: the file cannot be written.
    """
    text = _WRITERS[format_name](content.read(study)).encode("utf-8", "replace")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(text)
        beside.replace(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return len(text)


def html(content: ReportContent) -> str:
    """Return a page that loads nothing and runs no scripts."""
    styles = "".join(path.read_text(encoding="utf-8") for path in (rendering.STATIC / "tuner.css", FOLDER / "report.css"))
    texts = _texts(content)
    return _html().get_template("report.html").render(styles=styles, **texts, **_drawings(content, dict(texts["importances"])))


def markdown(content: ReportContent) -> str:
    """Return the same report without its diagrams."""
    text = _markdown().get_template("report.md").render(**_texts(content))
    return re.sub(r"\n{3,}", "\n\n", text)


_WRITERS = {"html": html, "md": markdown}


def _texts(content: ReportContent) -> Mapping[str, Any]:
    plan, space = facts.planned(content)
    best = facts.best(content)
    versions, judged = facts.version_rows(content.study)
    return {
        "version": tuner.__version__,
        "study": content.study,
        "view": content.view,
        "listed": content.view.listed,
        "metric": plan_words.metric(content.study.spec),
        "is_about_images": isinstance(content.study.spec, StudySpec),
        "best_title": f"Best trial, and how far to trust its {'accuracy' if best is None or best.is_accuracy else 'value'}",
        **_columns(content.study.spec),
        "chosen": facts.chosen(best),
        "prepared": content.prepared,
        "at": content.at,
        "counts": facts.counts(content),
        "plan": plan,
        "space": space,
        "best": best,
        "honesty": [] if best is None else facts.honesty(best),
        "against_rule": "" if best is None else facts.against_rule(best),
        "changes": facts.changes(content, best),
        "versions": versions,
        "judged": judged,
        "max_classes": _MAX_CLASSES,
        "ranked": facts.ranked(content),
        "importances": facts.importances(content.study, content.valued),
        "num_best": facts.num_best(len(content.valued)),
        "num_valued": len(content.valued),
        "min_trials": facts.MIN_TRIALS_FOR_IMPORTANCES,
        "cost": facts.cost(content),
        "timelines": diagrams.timelines(content.attempts),
        "failures": content.failures,
        "study_text": facts.study_text(content),
        **_confusion(content),
    }


def _columns(spec: AnyStudySpec) -> Mapping[str, str]:
    """Return how the report names the examples, the value of a trial in a table, and its counterpart on the test split."""
    if isinstance(spec, StudySpec):
        return {"examples": "images", "value_column": "validation", "test_metric": spec.objective.metric.replace("_", " ")}
    return {"examples": "examples", "value_column": spec.objective.metric, "test_metric": spec.objective.metric.removeprefix("val_")}


def _confusion(content: ReportContent) -> Mapping[str, Any]:
    if content.best_trial is None:
        nothing = {"has_several": False, "class_scores": [], "confused": [], "mistakes": [], "cells": []}
        return {**nothing, "is_table": True, "picture": False, "of_folds": ""}
    names = () if content.prepared is None else content.prepared.classes
    return {**charts.confusion(content.best_trial, names), "picture": False}


def _drawings(content: ReportContent, importances: Mapping[str, float]) -> Mapping[str, Any]:
    trial = content.best_trial
    best = None if trial is None else trial.row.number
    found = sorted(diagrams.axes(content.drawn, content.study.spec), key=lambda axis: -importances.get(axis.name, 0.0))
    axes = _least_important_first(found[:_MOST_AXES])
    listed, objective = content.view.listed, content.study.spec.objective
    return {
        "chart": charts.history(content.view.history, listed.num_trials, maximizes=objective.maximizes),
        "against": charts.costs(content.measured, content.study.spec),
        "slices": diagrams.slices(found[:_MOST_SLICES], content.drawn, best, objective),
        "num_axes": len(found),
        "axes": axes,
        "parallel": diagrams.parallel(axes, content.drawn, best, objective) if len(content.drawn) > 1 and axes else None,
        "curves": diagrams.curves(content.curves, content.drawn, best, objective, step=listed.step),
        "measured": [] if trial is None else charts.measured(trial.epochs, content.study.spec),
        "num_drawn": len(content.drawn),
        "most_workers": diagrams.MOST_WORKERS,
    }


def _least_important_first(axes: list[Axis]) -> list[Axis]:
    """Return the axes in reverse order, so that the most important one is next to the value."""
    return axes[::-1]


@functools.cache
def _html() -> jinja2.Environment:
    return _environment(escaped=True)


@functools.cache
def _markdown() -> jinja2.Environment:
    made = _environment(escaped=False)
    made.filters |= {"md": lambda value: wording.markdown(str(value)), "fenced": _fenced}
    return made


def _environment(*, escaped: bool) -> jinja2.Environment:
    made = templating.environment([FOLDER / "templates"], escaped=escaped)
    made.filters["parameter"] = lambda name, spec: templating.name(diagrams.study_file_name(name, spec))
    return made


def _fenced(text: str) -> str:
    """Return text as a block of code, with a fence longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"
