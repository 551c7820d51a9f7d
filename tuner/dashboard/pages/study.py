"""Page of one study: state, history, running trials, best trial, outlook, failures, and all trials."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection
from starlette.requests import Request

from tuner.dashboard.pages.rendering import LivePage, NotFound, Site, parse_whole
from tuner.drawing import charts
from tuner.results import ensemble, statistics
from tuner.spec import plan
from tuner.spec.hyperparameters import ChosenValues, TargetKind
from tuner.spec.study import StudySpec
from tuner.spec.tasks import OBJECTIVE
from tuner.storage import attributes, tables
from tuner.storage.attributes import ENSEMBLE, LEFT_OUT, MIGRATED, ORIGIN, PREPARED
from tuner.studies import planning
from tuner.tasks import task
from tuner.views import outlook, status, trial, trials
from tuner.views import studies as views_studies
from tuner.views.studies import Listed, StudyView
from tuner.views.trials import SortOrder, TrialRow

_ROWS_PER_PAGE = 25


@dataclass(frozen=True, kw_only=True)
class ListedTrial:
    """A trial in a table."""

    row: TrialRow
    state: str
    #: SVG path of its curve
    line: str


def listed_trial(row: TrialRow) -> ListedTrial:
    """Return a trial for a table."""
    return ListedTrial(row=row, state=trial.STATES[row.state], line=charts.sparkline([point.value for point in row.curve]))


def find(connection: Connection, request: Request) -> Listed:
    """Return the study in the address of a request.

    Raises:
        NotFound: there is no such study.
    """
    given = str(request.path_params["study_id"])
    number = parse_whole(given, otherwise=-1)
    found = views_studies.one(connection, number) if number >= 0 else None
    if found is None:
        raise NotFound(f"Study {given[:100]} does not exist in this storage. It may have been deleted.")
    return found


def parameters(connection: Connection, study_id: int, number: int) -> Mapping[str, Any]:
    """Return the sampled parameters of a trial; all hyperparameters of the rule, and of a trial of user code."""
    chosen = trial.hyperparameters(connection, study_id, number)
    if isinstance(attributes.hyperparameters(chosen), ChosenValues):
        return trial.by_name(chosen)
    sampled = tables.parameters(connection, tables.trial_id(connection, study_id, number))
    values = {name: value for name, value in sampled.items() if not name.endswith(".on")}
    return values or trial.by_name(chosen)


def _is_rule(connection: Connection, listed: Listed, number: int) -> bool:
    """Return whether a trial is the rule that needs no search, which only studies of images have."""
    if number != 0 or not listed.is_about_images:
        return False
    trial_id = tables.trial_id(connection, listed.id, number)
    return tables.get(connection, tables.TRIAL_USER, trial_id, ORIGIN).get(ORIGIN) == "rule"


def _read(site: Site, request: Request) -> Mapping[str, Any]:
    return site.reader.storage.read(lambda connection: _at(connection, site, request))


def _at(connection: Connection, site: Site, request: Request) -> Mapping[str, Any]:
    listed = find(connection, request)
    view = site.reader.at(connection, listed)
    order = _order(request)
    last = max(1, -(-listed.num_trials // _ROWS_PER_PAGE))
    number = min(last, parse_whole(request.query_params.get("page"), otherwise=1, least=1))
    maximizes = listed.maximizes is not False
    rows = trials.page(
        connection,
        listed.id,
        order=order,
        maximizes=maximizes,
        offset=(number - 1) * _ROWS_PER_PAGE,
        limit=_ROWS_PER_PAGE,
        total=listed.num_trials,
    )
    best = view.history.best
    names = (ENSEMBLE, LEFT_OUT, MIGRATED, PREPARED, *planning.TOLD)
    known = {} if listed.spec is None else tables.get(connection, tables.STUDY_USER, listed.id, *names)
    timeout = None if listed.spec is None else listed.spec.budget.timeout
    return {
        "view": view,
        "listed": listed,
        "origin": [] if listed.spec is None else plan.retraining(listed.spec),
        "notice": _NOTICES.get(request.query_params.get("done", ""), ""),
        "chart": charts.history(view.history, listed.num_trials, maximizes=maximizes),
        "against": charts.costs(trials.measured(connection, listed.id), listed.spec) if listed.spec and listed.spec.limits else [],
        "open": [(trial, listed_trial(trial.row)) for trial in view.open],
        "parameters": {} if best is None else parameters(connection, listed.id, best.number),
        "is_rule": best is not None and _is_rule(connection, listed, best.number),
        "has_model": listed.spec is not None and listed.spec.task != OBJECTIVE,
        "failures": status.failures(connection, listed.id) if listed.counts.get(TrialState.FAIL) else [],
        "rows": [listed_trial(row) for row in rows],
        "order": order.value,
        "number": number,
        "last": last,
        "stagnation": outlook.STAGNATION,
        **_regret(site, view, known.get(PREPARED) or {}),
        "ensemble": _ensemble(listed, known, None if best is None else best.value),
        "time_plan": planning.told(known, timeout=timeout, busy_seconds=view.busy_seconds or 0.0),
        "baseline": plan.commonest_of(known.get(PREPARED), "accuracy" if listed.spec is None else listed.spec.objective.metric),
        **_planned(connection, listed, known),
    }


def _regret(site: Site, view: StudyView, prepared: Any) -> Mapping[str, Any]:
    """Return the regret bound, and whether it is smaller than the standard error of the best value."""
    found, best = site.regrets.at(view.listed, view.history.num_completed), view.history.best
    num_images = prepared.get("num_validation") if isinstance(prepared, Mapping) else None
    is_luck = False
    if found is not None and best is not None and num_images is not None and _is_accuracy(view.listed):
        is_luck = found.is_within(best.value, num_images)
    return {"regret": found, "is_luck": is_luck, "num_images": num_images}


def _is_accuracy(listed: Listed) -> bool:
    """Return whether the value of a trial is an accuracy on images, whose standard error is known."""
    return isinstance(listed.spec, StudySpec) and listed.spec.objective.metric == "accuracy"


def _ensemble(listed: Listed, known: Mapping[str, Any], best_value: float | None) -> Mapping[str, Any] | None:
    """Return the ensemble with the interval of its test accuracy; None if there is none, or a trial is better."""
    found = ensemble.understood(known.get(ENSEMBLE))
    if found is None or best_value is None or not found.is_at_least(best_value):
        return None
    of_one_label = isinstance(listed.spec, StudySpec) and listed.spec.data.kind is TargetKind.LABEL
    accuracy = found.test_accuracy if of_one_label else None
    interval = None if accuracy is None else statistics.accuracy_interval(accuracy, found.num_test)
    return {"found": found, "interval": interval}


def _planned(connection: Connection, listed: Listed, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the plan and the search space in words; nothing for a study that tuner did not make."""
    spec = listed.spec
    if spec is None:
        return {"plan": [], "space": []}
    about = task.spec(spec.task)
    rows = sorted(about.rows(spec), key=lambda row: not row.is_searched)
    if not listed.is_about_images:
        asked = trials.asked(connection, listed.id, num_trials=listed.num_trials)
        rows += trials.space_of(asked, besides=[row.name for row in rows])
    return {"plan": plan.of_study(spec, about, known.get(PREPARED), known.get(MIGRATED), known.get(LEFT_OUT)), "space": rows}


def _order(request: Request) -> SortOrder:
    given = request.query_params.get("sort")
    return SortOrder(given) if given in list(SortOrder) else SortOrder.NEWEST


#: notices after an action, by the value of `done` in the address
_NOTICES: Mapping[str, str] = {
    "stopped": "The study stops after its running trials.",
    "suspended": "Running trials are suspended and the workers stop.",
    "resumed": "The study resumes when a worker picks it up.",
    "budget": "The budget was changed.",
    "trial": "The trial was stopped.",
    "enqueued": "The config is enqueued. The next free worker trains it.",
}

PAGE = LivePage(
    path="/tuner/studies/{study_id}",
    template="study.html",
    parts={
        "headline": "study/headline.html",
        "history": "study/history.html",
        "constraints": "study/constraints.html",
        "running": "study/running.html",
        "best": "study/best.html",
        "outlook": "study/outlook.html",
        "failures": "study/failures.html",
        "trials": "study/trials.html",
    },
    read=_read,
)
