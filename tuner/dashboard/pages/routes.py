"""A storage into the routes of our pages, beside optuna-dashboard's."""

from http import HTTPStatus
from pathlib import Path

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tuner.dashboard.pages import actions, downloads, rendering, studies, study, trial, workers
from tuner.dashboard.pages.served import Site, failure, guarded
from tuner.search.look import Looks
from tuner.search.regret import Regrets
from tuner.search.storage import Storage

#: our addresses that need no database
NEED_NO_DATABASE = ("/tuner/static/",)


class _Files(StaticFiles):
    """Files whose address changes with what is in them, so that a browser need never ask again."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        """The file."""
        answer = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        answer.headers["cache-control"] = "public, max-age=31536000, immutable"
        return answer


def routes(storage: Storage, artifacts: Path | None = None) -> list[BaseRoute]:
    """The pages at `/` and below `/tuner/`, and their files; each needs `request.state.identity`."""
    site = Site(looks=Looks(storage=storage), regrets=Regrets(storage=storage), artifacts=artifacts)
    pages = [page.PAGE.route(site) for page in (studies, study, trial, workers)]
    found: list[BaseRoute] = [
        Mount("/tuner/static", _Files(directory=rendering.STATIC)),
        *pages,
        downloads.route(site),
        downloads.picture(site),
    ]
    found += [*actions.routes(site), _nothing_else()]
    for route in found:
        if isinstance(route, Route | Mount):
            route.app = GZipMiddleware(route.app, minimum_size=500)
    return found


def _nothing_else() -> Route:
    def answer(request: Request) -> Response:
        asked = request.url.path[:200]
        return failure(request, HTTPStatus.NOT_FOUND, "There is no such page", f"You asked for {asked}, which the dashboard does not have.")

    return Route("/tuner/{path:path}", guarded(answer), methods=["GET", "HEAD"])
