"""The page of one study: how it stands, what it found, what goes wrong, and its trials page by page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection
from starlette.requests import Request

from tuner import wording
from tuner.dashboard.pages.served import Missing, PageOf, Site, whole
from tuner.drawing import charts
from tuner.spec import plan, space
from tuner.spec.study import StudySpec
from tuner.storage import tables
from tuner.storage.attributes import MIGRATED, PREPARED
from tuner.views import failures, outlook, trial, trials
from tuner.views import studies as views_studies
from tuner.views.studies import Look
from tuner.views.trials import SortOrder, TrialRow

_ROWS = 25
_STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A trial with its curve as an SVG path."""

    row: TrialRow
    state: str
    line: str


def drawn(row: TrialRow) -> Drawn:
    """A trial as a list draws it."""
    return Drawn(row=row, state=_STATES[row.state], line=charts.sparkline([point.value for point in row.curve]))


def find(connection: Connection, request: Request) -> views_studies.Listed:
    """The study that an address names.

    Raises:
        Missing: there is none.
    """
    given = str(request.path_params["study_id"])
    number = whole(given, otherwise=-1)
    found = views_studies.one(connection, number) if number >= 0 else None
    if found is None:
        raise Missing(f"You asked for the study number {given[:100]}; this storage has no such study, or has it no more.")
    return found


def parameters(connection: Connection, study_id: int, number: int) -> Mapping[str, Any]:
    """What the best trial was given: what was sampled for it; of the rule all of its hyperparameters."""
    trial_id = tables.trial_id(connection, study_id, number)
    sampled = tables.parameters(connection, trial_id)
    shown = {name: value for name, value in sampled.items() if not name.endswith(".on")}
    return shown or wording.flatten(trial.hyperparameters(connection, study_id, number) or {})


def _read(site: Site, request: Request) -> Mapping[str, Any]:
    return site.looks.storage.read(lambda connection: _at(connection, site, request))


def _at(connection: Connection, site: Site, request: Request) -> Mapping[str, Any]:
    listed = find(connection, request)
    seen = site.looks.at(connection, listed)
    order = _order(request)
    last = max(1, -(-listed.num_trials // _ROWS))
    number = min(last, whole(request.query_params.get("page"), otherwise=1, least=1))
    maximizes = listed.maximizes is not False
    rows = trials.page(
        connection, listed.id, order=order, maximizes=maximizes, offset=(number - 1) * _ROWS, limit=_ROWS, total=listed.num_trials
    )
    best = seen.history.best
    known = {} if listed.spec is None else tables.get(connection, tables.STUDY_USER, listed.id, PREPARED, MIGRATED)
    return {
        "look": seen,
        "listed": listed,
        "origin": [] if listed.spec is None else plan.retraining(listed.spec),
        "said": _SAID.get(request.query_params.get("done", ""), ""),
        "chart": charts.history(seen.history, listed.num_trials, maximizes=maximizes),
        "open": [(trial, drawn(trial.row)) for trial in seen.open],
        "parameters": {} if best is None else parameters(connection, listed.id, best.number),
        "troubles": failures.read(connection, listed.id) if listed.counts.get(TrialState.FAIL) else [],
        "rows": [drawn(row) for row in rows],
        "order": order.value,
        "number": number,
        "last": last,
        "stagnation": outlook.STAGNATION,
        **_left(site, seen, known.get(PREPARED) or {}),
        **_planned(listed.spec, known),
    }


def _left(site: Site, seen: Look, prepared: Mapping[str, Any]) -> Mapping[str, Any]:
    """How much there may be left to find, and whether that is less than the error of the best."""
    found, best = site.regrets.at(seen.listed, seen.history.num_completed), seen.history.best
    num_images = prepared.get("num_validation")
    is_luck = found is not None and best is not None and num_images is not None and found.is_within(best.value, num_images)
    return {"regret": found, "is_luck": is_luck, "num_images": num_images}


def _planned(spec: StudySpec | None, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plan and the search space in words; nothing of a study that is not ours."""
    if spec is None:
        return {"plan": [], "space": []}
    rows = space.rows(spec)
    prepared, migrated = known.get(PREPARED) or {}, known.get(MIGRATED)
    epochs = prepared.get("epochs") if spec.training.epochs == "auto" else spec.training.epochs
    facts = plan.facts(spec, epochs, sum(row.is_searched for row in rows))
    if prepared:
        train, choose, score = (prepared[f"num_{part}"] for part in ("train", "validation", "test"))
        images = f"{train:,} to train on, {choose:,} that choose the winner, {score:,} that score it"
        facts.insert(1, ("images", f"{spec.data.source}: {images}; {len(prepared['classes'])} classes"))
    if isinstance(migrated, dict):
        facts.append(("carried over", plan.carried(migrated)))
    return {"plan": facts, "space": sorted(rows, key=lambda row: not row.is_searched)}


def _order(request: Request) -> SortOrder:
    given = request.query_params.get("sort")
    return SortOrder(given) if given in list(SortOrder) else SortOrder.NEWEST


#: what is said after an action
_SAID: Mapping[str, str] = {
    "stopped": "No further trial starts; those that run are trained to their end.",
    "suspended": "Running trials are handed back and the workers end.",
    "resumed": "The study goes on as soon as a worker is at it.",
    "budget": "The budget is changed.",
    "trial": "The trial is ended.",
    "enqueued": "The config is enqueued; the next free worker takes it.",
}

PAGE = PageOf(
    path="/tuner/studies/{study_id}",
    template="study.html",
    parts={
        "headline": "study/headline.html",
        "history": "study/history.html",
        "running": "study/running.html",
        "best": "study/best.html",
        "outlook": "study/outlook.html",
        "troubles": "study/troubles.html",
        "trials": "study/trials.html",
    },
    read=_read,
)
