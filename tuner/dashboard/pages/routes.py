"""Routes of tuner's pages, their static files, downloads of the best trial and pictures of mistakes."""

from http import HTTPStatus
from pathlib import Path

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from tuner.dashboard.pages import actions, new_study, overview, queue_pages, rendering, study, trial
from tuner.dashboard.pages.rendering import NotFound, Site, error_page, parse_whole, with_error_pages
from tuner.dashboard.streams import MAX_STREAM_SECONDS
from tuner.dashboard.submission import SubmissionRules
from tuner.results import best as bests
from tuner.results import export
from tuner.storage.engine import Storage
from tuner.studies import pictures
from tuner.studies import study as studies
from tuner.views import trial as views_trial
from tuner.views.regret import RegretBounds
from tuner.views.studies import StudyReader

#: addresses that work without the database
NEED_NO_DATABASE = ("/tuner/static/",)
_EXPORTS = {"yaml": (export.as_yaml, "application/yaml"), "json": (export.as_json, "application/json")}


def routes(
    storage: Storage,
    artifacts: Path | None = None,
    *,
    rules: SubmissionRules | None = None,
    max_stream_seconds: float = MAX_STREAM_SECONDS,
) -> list[BaseRoute]:
    """Return the routes at `/` and below `/tuner/`. Each needs `request.state.identity`."""
    regrets = RegretBounds(storage=storage)
    site = Site(reader=StudyReader(storage=storage), regrets=regrets, artifacts=artifacts, max_stream_seconds=max_stream_seconds)
    pages = [
        page.route(site)
        for page in (overview.STUDIES_PAGE, study.PAGE, trial.PAGE, overview.WORKERS_PAGE, queue_pages.QUEUE_PAGE, queue_pages.POOL_PAGE)
    ]
    found: list[BaseRoute] = [
        Mount("/tuner/static", _CachedFiles(directory=rendering.STATIC)),
        *pages,
        _best_download(site),
        _mistakes_picture(site),
        *actions.routes(site),
        *queue_pages.action_routes(site),
        *new_study.form_routes(site, rules),
        _not_found(),
    ]
    for route in found:
        if isinstance(route, Route | Mount):
            route.app = GZipMiddleware(route.app, minimum_size=500)
    return found


class _CachedFiles(StaticFiles):
    """Static files that browsers cache forever, since their addresses change with their content."""

    def file_response(self, *arguments: object, **options: object) -> Response:
        """Return the file."""
        answer = super().file_response(*arguments, **options)  # type: ignore[arg-type]
        answer.headers["cache-control"] = "public, max-age=31536000, immutable"
        return answer


def _best_download(site: Site) -> Route:
    """Return the route of the best trial as `tuner export` writes it, in YAML or JSON."""

    def respond(request: Request) -> Response:
        storage = site.reader.storage
        listed = storage.read(lambda connection: study.find(connection, request))
        if listed.spec is None:
            raise NotFound("tuner did not create this study, so its best trial cannot be exported as a study file.")
        kind = str(request.path_params["kind"])
        if kind not in _EXPORTS:
            raise NotFound(f"The best trial is not available as {kind[:20]}; expected yaml or json.")
        write, media_type = _EXPORTS[kind]
        found = bests.best(studies.load(listed.name, storage))
        text = write(found)
        if "save" not in request.query_params:
            return Response(text, HTTPStatus.OK, {"cache-control": "no-store"}, media_type="text/plain")
        # the name of a study of tuner contains only letters, digits, dots, dashes and underscores
        where = f'attachment; filename="{listed.name}-trial-{found.trial}.{kind}"'
        return Response(text, HTTPStatus.OK, {"cache-control": "no-store", "content-disposition": where}, media_type=media_type)

    return Route("/tuner/studies/{study_id}/best.{kind}", with_error_pages(respond), methods=["GET"])


def _mistakes_picture(site: Site) -> Route:
    """Return the route of a trial's most confident mistakes, which needs the folder of artifacts."""

    def respond(request: Request) -> Response:
        listed = site.reader.storage.read(lambda connection: study.find(connection, request))
        number = parse_whole(str(request.path_params["number"]), otherwise=-1)
        trial = (
            site.reader.storage.read(lambda connection: views_trial.read(connection, listed.id, number, listed.spec))
            if number >= 0
            else None
        )
        name = None if trial is None else trial.pictures.get("mistakes")
        content = None if site.artifacts is None or name is None else pictures.read(pictures.store(site.artifacts), name)
        if content is None:
            raise NotFound(f"Trial {number} has no picture of its mistakes. Only the best few trials have one.")
        return Response(content, HTTPStatus.OK, {"cache-control": "private, max-age=3600"}, media_type="image/jpeg")

    return Route("/tuner/studies/{study_id}/trials/{number}/mistakes.jpg", with_error_pages(respond), methods=["GET"])


def _not_found() -> Route:
    def respond(request: Request) -> Response:
        return error_page(request, HTTPStatus.NOT_FOUND, "Page not found", f"The dashboard has no page {request.url.path[:200]}.")

    return Route("/tuner/{path:path}", with_error_pages(respond), methods=["GET", "HEAD"])
