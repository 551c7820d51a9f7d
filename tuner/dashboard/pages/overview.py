"""The page of all studies: a card each.

The page of the workers: where each runs, what it does, when it was last seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from starlette.requests import Request

from tuner.dashboard.pages.served import PageOf, Site, whole
from tuner.drawing import charts
from tuner.spec import plan
from tuner.storage.tables import STUDIES
from tuner.studies import workers
from tuner.studies.workers import WorkerRow
from tuner.views.studies import Look

_CARDS = 24


@dataclass(frozen=True, kw_only=True)
class Card:
    """A study in a few figures."""

    look: Look
    #: what is searched, in a line; "" where only Optuna knows
    what: str
    #: the best so far over the trials, as an SVG path
    line: str


def _card(look: Look) -> Card:
    spec = look.listed.spec
    what = "" if spec is None else f"{spec.data.source} on {spec.model.backbone}, {plan.budget(spec)}"
    return Card(look=look, what=what, line=charts.steps(look.history, look.listed.num_trials))


def _read_studies(site: Site, request: Request) -> Mapping[str, Any]:
    number = whole(request.query_params.get("page"), otherwise=1, least=1, most=100_000)
    total, looks = site.looks.page(offset=(number - 1) * _CARDS, limit=_CARDS)
    return {"cards": [_card(look) for look in looks], "total": total, "number": number, "last": max(1, -(-total // _CARDS))}


STUDIES_PAGE = PageOf(path="/", template="studies.html", parts={"cards": "studies/cards.html"}, read=_read_studies)


#: workers that are listed, those at work first
_LISTED = 100


def _read_workers(site: Site, request: Request) -> Mapping[str, Any]:
    found = workers.of_storage(site.looks.storage)
    ids = site.looks.storage.read(lambda connection: _ids(connection, found[:_LISTED]))
    return {
        "workers": found[:_LISTED],
        "num": len(found),
        "num_present": sum(worker.is_present for worker in found),
        "ids": ids,
        "said": "The worker ends after its trial." if request.query_params.get("done") == "worker" else "",
    }


def _ids(connection: Connection, workers: list[WorkerRow]) -> dict[str, int]:
    """The ids of the workers' studies, by name."""
    named = select(STUDIES.c.study_name, STUDIES.c.study_id).where(STUDIES.c.study_name.in_({worker.study for worker in workers}))
    return {row.study_name: row.study_id for row in connection.execute(named)}


WORKERS_PAGE = PageOf(path="/tuner/workers", template="workers.html", parts={"workers": "workers/list.html"}, read=_read_workers)
