"""The page of the workers: where each runs, what it does, when it was last seen."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select
from starlette.requests import Request

from tuner.dashboard.pages.served import PageOf, Site
from tuner.search import roster
from tuner.search.roster import Worker
from tuner.search.tables import STUDIES

#: workers that are listed, those at work first
_LISTED = 100


def _read(site: Site, request: Request) -> Mapping[str, Any]:
    found = roster.of_storage(site.looks.storage)
    ids = site.looks.storage.read(lambda connection: _ids(connection, found[:_LISTED]))
    return {
        "workers": found[:_LISTED],
        "num": len(found),
        "num_present": sum(worker.is_present for worker in found),
        "ids": ids,
        "said": "The worker ends after its trial." if request.query_params.get("done") == "worker" else "",
    }


def _ids(connection: Connection, workers: list[Worker]) -> dict[str, int]:
    """The ids of the workers' studies, by name."""
    named = select(STUDIES.c.study_name, STUDIES.c.study_id).where(STUDIES.c.study_name.in_({worker.study for worker in workers}))
    return {row.study_name: row.study_id for row in connection.execute(named)}


PAGE = PageOf(path="/tuner/workers", template="workers.html", parts={"workers": "workers/list.html"}, read=_read)
