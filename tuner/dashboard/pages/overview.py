"""Overview pages: all studies as cards, and all workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from starlette.requests import Request

from tuner.dashboard.pages.rendering import LivePage, Site, parse_whole
from tuner.drawing import charts
from tuner.spec import plan
from tuner.storage.tables import STUDIES
from tuner.studies import workers
from tuner.studies.workers import WorkerRow
from tuner.tasks import task
from tuner.views.studies import StudyView

_CARDS_PER_PAGE = 24
#: most workers that are listed; active workers come first
_MAX_WORKERS = 100


@dataclass(frozen=True, kw_only=True)
class Card:
    """A study on the page of all studies."""

    view: StudyView
    #: the search in one line; "" for a study that tuner did not make
    what: str
    #: SVG path of the best value so far over the trials
    line: str


def _read_studies(site: Site, request: Request) -> Mapping[str, Any]:
    number = parse_whole(request.query_params.get("page"), otherwise=1, least=1, most=100_000)
    total, found = site.reader.page(offset=(number - 1) * _CARDS_PER_PAGE, limit=_CARDS_PER_PAGE)
    return {"cards": [_card(view) for view in found], "total": total, "number": number, "last": max(1, -(-total // _CARDS_PER_PAGE))}


def _card(view: StudyView) -> Card:
    spec = view.listed.spec
    what = "" if spec is None else f"{task.spec(spec.task).subject(spec)}, {plan.budget(spec)}"
    return Card(view=view, what=what, line=charts.steps(view.history, view.listed.num_trials, maximizes=view.listed.maximizes is not False))


def _read_workers(site: Site, request: Request) -> Mapping[str, Any]:
    found = workers.of_storage(site.reader.storage)
    ids = site.reader.storage.read(lambda connection: _study_ids(connection, found[:_MAX_WORKERS]))
    return {
        "workers": found[:_MAX_WORKERS],
        "num": len(found),
        "num_present": sum(worker.is_present for worker in found),
        "ids": ids,
        "notice": "The worker stops after its trial." if request.query_params.get("done") == "worker" else "",
    }


def _study_ids(connection: Connection, workers: list[WorkerRow]) -> dict[str, int]:
    """Return the ids of the workers' studies by name."""
    named = select(STUDIES.c.study_name, STUDIES.c.study_id).where(STUDIES.c.study_name.in_({worker.study for worker in workers}))
    return {row.study_name: row.study_id for row in connection.execute(named)}


STUDIES_PAGE = LivePage(path="/", template="studies.html", parts={"cards": "studies/cards.html"}, read=_read_studies)
WORKERS_PAGE = LivePage(path="/tuner/workers", template="workers.html", parts={"workers": "workers/list.html"}, read=_read_workers)
