"""The best trial of a study as a file, YAML or JSON as `tuner export` writes it, and the pictures of trials."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuner.dashboard.pages import study
from tuner.dashboard.pages.served import Missing, Site, guarded, whole
from tuner.results import best as bests
from tuner.results import export
from tuner.search import one_trial, pictures
from tuner.search import study as studies

_KINDS = {"yaml": (export.as_yaml, "application/yaml"), "json": (export.as_json, "application/json")}


def route(site: Site) -> Route:
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


def picture(site: Site) -> Route:
    """The most confident mistakes of a trial, where this server knows the folder of artifacts."""

    def answer(request: Request) -> Response:
        listed = site.looks.storage.read(lambda connection: study.find(connection, request))
        number = whole(str(request.path_params["number"]), otherwise=-1)
        trial = site.looks.storage.read(lambda connection: one_trial.read(connection, listed.id, number)) if number >= 0 else None
        name = None if trial is None else trial.pictures.get("mistakes")
        content = None if site.artifacts is None or name is None else pictures.read(pictures.store(site.artifacts), name)
        if content is None:
            raise Missing(f"There is no picture of the mistakes of trial {number}; only the best few trials keep one.")
        return Response(content, HTTPStatus.OK, {"cache-control": "private, max-age=3600"}, media_type="image/jpeg")

    return Route("/tuner/studies/{study_id}/trials/{number}/mistakes.jpg", guarded(answer), methods=["GET"])
