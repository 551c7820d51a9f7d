"""The page of the workers: where each runs, what it does, when it was last seen."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from tuner.dashboard.pages.served import PageOf, Site
from tuner.search import seen_workers

_LISTED = 100


def _read(site: Site, request: Request) -> Mapping[str, Any]:
    found = site.looks.storage.read(lambda connection: seen_workers.read(connection, limit=_LISTED))
    return {"workers": found, "num_at_work": sum(worker.is_at_work for worker in found), "is_cut": len(found) == _LISTED}


PAGE = PageOf(path="/tuner/workers", template="workers.html", parts={"workers": "workers/list.html"}, read=_read)
