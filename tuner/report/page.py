"""What is known of a study into a report: one page of HTML that needs nothing beside it, or Markdown.

A report into a file.
"""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

import tuner
from tuner.dashboard.pages import rendering
from tuner.drawing import charts, templating
from tuner.errors import RequestError
from tuner.report import content, coordinates, facts
from tuner.report.content import Material
from tuner.report.coordinates import Column
from tuner.studies.study import Study

FOLDER = Path(__file__).resolve().parent
#: slices, and axes of the parallel coordinates beside the value
_MOST_SLICES, _MOST_AXES = 12, 8


def html(material: Material) -> str:
    """A page that fetches nothing and in which nothing runs."""
    styles = "".join(path.read_text(encoding="utf-8") for path in (rendering.STATIC / "tuner.css", FOLDER / "report.css"))
    said = _said(material)
    return _html().get_template("report.html").render(styles=styles, **said, **_drawn(material, dict(said["importances"])))


def markdown(material: Material) -> str:
    """The same without its pictures."""
    text = _markdown().get_template("report.md").render(**_said(material))
    return re.sub(r"\n{3,}", "\n\n", text)


def _said(material: Material) -> Mapping[str, Any]:
    plan, space = facts.planned(material)
    best = facts.winner(material)
    versions, judged = facts.rows(material.study)
    return {
        "version": tuner.__version__,
        "study": material.study,
        "look": material.look,
        "prepared": material.prepared,
        "at": material.at,
        "counts": facts.counts(material),
        "plan": plan,
        "space": space,
        "best": best,
        "honesty": [] if best is None else facts.honesty(best),
        "against_rule": "" if best is None else facts.against_rule(best),
        "changes": facts.changes(material, best),
        "versions": versions,
        "judged": judged,
        "ranked": facts.ranked(material),
        "importances": coordinates.importances(material.study, material.valued),
        "num_best": coordinates.num_best(len(material.valued)),
        "num_valued": len(material.valued),
        "least": coordinates.LEAST,
        "cost": facts.cost(material),
        "shifts": coordinates.shifts(material.attempts),
        "troubles": material.troubles,
        "study_text": facts.study_text(material),
        **_confusion(material),
    }


def _confusion(material: Material) -> Mapping[str, Any]:
    if material.winner is None:
        return {"figures": [], "confused": [], "mistakes": [], "cells": [], "is_tabled": True, "picture": False}
    names = () if material.prepared is None else material.prepared.classes
    return {**charts.shown(material.winner, names), "picture": False}


def _drawn(material: Material, weights: Mapping[str, float]) -> Mapping[str, Any]:
    best = None if material.winner is None else material.winner.row.number
    found = sorted(coordinates.columns(material.drawn), key=lambda column: -weights.get(column.name, 0.0))
    axes = found[:_MOST_AXES]
    return {
        "chart": charts.history(material.look.history, material.look.listed.num_trials, maximizes=True),
        "slices": coordinates.slices(found[:_MOST_SLICES], material.drawn, best),
        "num_columns": len(found),
        "axes": _in_order(axes),
        "parallel": coordinates.parallel(_in_order(axes), material.drawn, best) if len(material.drawn) > 1 and axes else None,
        "curves": coordinates.curves(material.curves, material.drawn, best),
        "winner_accuracy": None if material.winner is None else charts.accuracy(material.winner.epochs),
        "winner_loss": None if material.winner is None else charts.loss(material.winner.epochs),
        "num_drawn": len(material.drawn),
        "most_workers": coordinates.MOST_WORKERS,
    }


def _in_order(axes: list[Column]) -> list[Column]:
    """The axes from the least to the most important, which stands beside the value."""
    return axes[::-1]


@functools.cache
def _html() -> jinja2.Environment:
    return _environment(escaped=True)


@functools.cache
def _markdown() -> jinja2.Environment:
    made = _environment(escaped=False)
    made.filters |= {"md": _plain, "fenced": _fenced}
    return made


def _environment(*, escaped: bool) -> jinja2.Environment:
    made = templating.environment([FOLDER / "templates"], escaped=escaped)
    made.filters["parameter"] = lambda name: templating.name(coordinates.shown(name))
    return made


def _plain(value: object) -> str:
    """Text that Markdown shows as it is, in one line."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", line)


def _fenced(text: str) -> str:
    """Text as a block of code, which nothing in it can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"


_FORMATS = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md"}
_WRITERS = {"html": html, "md": markdown}
#: what a report of ours holds, so that it is known when it is to be replaced
MARKS = ('<meta name="generator" content="tuner', "<!-- tuner report -->")


def form(path: Path, given: str | None) -> str:
    """The format of a file: the one that is given, else that of its name.

    Raises:
        RequestError: the name says nothing of it.
    """
    if given is not None:
        return given
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise RequestError(f"{path} ends in {path.suffix or 'no suffix'}; expected .html or .md, or name the format: --format html")
    return found


def check_place(path: Path, *, force: bool = False) -> None:
    """Refuse a file that cannot be written, or, unless forced, that is no report.

    Raises:
        RequestError: it is a folder, lacks one, or holds something else.
    """
    if path.is_dir():
        raise RequestError(f"{path} is a folder; name a file in it, for example {path / 'report.html'}")
    if not path.parent.is_dir():
        raise RequestError(f"{path} cannot be written: there is no folder {path.parent}; make it first: mkdir -p {path.parent}")
    if not force and path.exists() and path.stat().st_size and not _is_report(path):
        raise RequestError(f"{path} exists and is no report of tuner, so it is left as it is; name another file, or give --force")


def write(study: Study, path: Path, form: str) -> int:
    """Write the report of a study; its size in bytes.

    Raises:
        RequestError: the file cannot be written.
    """
    text = _WRITERS[form](content.read(study)).encode("utf-8", "replace")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(text)
        beside.replace(path)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    return len(text)


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096).decode("utf-8", "replace")
    return any(mark in start for mark in MARKS)
