"""The best trial of a study as a file, YAML or JSON as `tuner export` writes it, and the pictures of trials.

A storage into the routes of our pages, beside optuna-dashboard's.
"""

from http import HTTPStatus
from pathlib import Path

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tuner.dashboard.pages import actions, overview, rendering, study, trial
from tuner.dashboard.pages.served import Missing, Site, failure, guarded, whole
from tuner.results import best as bests
from tuner.results import export
from tuner.storage.engine import Storage
from tuner.studies import pictures
from tuner.studies import study as studies
from tuner.views import trial as views_trial
from tuner.views.regret import RegretBounds
from tuner.views.studies import Looks

_KINDS = {"yaml": (export.as_yaml, "application/yaml"), "json": (export.as_json, "application/json")}


def download_best(site: Site) -> Route:
    """The files at their addresses."""

    def answer(request: Request) -> Response:
        storage = site.looks.storage
        listed = storage.read(lambda connection: study.find(connection, request))
        if listed.spec is None:
            raise Missing("This study was not made by tuner, so there is no study file of its best trial.")
        kind = str(request.path_params["kind"])
        if kind not in _KINDS:
            raise Missing(f"You asked for the best trial as {kind[:20]}; it is there as yaml and json.")
        write, media_type = _KINDS[kind]
        found = bests.best(studies.load(listed.name, storage))
        text = write(found)
        if "save" not in request.query_params:
            return Response(text, HTTPStatus.OK, {"cache-control": "no-store"}, media_type="text/plain")
        # a study of ours has a name of letters, digits, dots, dashes and underscores
        where = f'attachment; filename="{listed.name}-trial-{found.trial}.{kind}"'
        return Response(text, HTTPStatus.OK, {"cache-control": "no-store", "content-disposition": where}, media_type=media_type)

    return Route("/tuner/studies/{study_id}/best.{kind}", guarded(answer), methods=["GET"])


def show_picture(site: Site) -> Route:
    """The most confident mistakes of a trial, where this server knows the folder of artifacts."""

    def answer(request: Request) -> Response:
        listed = site.looks.storage.read(lambda connection: study.find(connection, request))
        number = whole(str(request.path_params["number"]), otherwise=-1)
        trial = site.looks.storage.read(lambda connection: views_trial.read(connection, listed.id, number)) if number >= 0 else None
        name = None if trial is None else trial.pictures.get("mistakes")
        content = None if site.artifacts is None or name is None else pictures.read(pictures.store(site.artifacts), name)
        if content is None:
            raise Missing(f"There is no picture of the mistakes of trial {number}; only the best few trials keep one.")
        return Response(content, HTTPStatus.OK, {"cache-control": "private, max-age=3600"}, media_type="image/jpeg")

    return Route("/tuner/studies/{study_id}/trials/{number}/mistakes.jpg", guarded(answer), methods=["GET"])


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
    site = Site(looks=Looks(storage=storage), regrets=RegretBounds(storage=storage), artifacts=artifacts)
    pages = [page.route(site) for page in (overview.STUDIES_PAGE, study.PAGE, trial.PAGE, overview.WORKERS_PAGE)]
    found: list[BaseRoute] = [
        Mount("/tuner/static", _Files(directory=rendering.STATIC)),
        *pages,
        download_best(site),
        show_picture(site),
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
