"""Actions of editors as HTML forms: stop, resume, change the budget, stop a trial or a worker, enqueue a config."""

import functools
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.pages import study as pages
from tuner.dashboard.pages.rendering import Refused, Site, error_page, parse_whole, with_error_pages
from tuner.spec import yaml_lines
from tuner.studies import control, enqueue
from tuner.studies import study as studies
from tuner.studies.study import Study

_ORIGIN = "your config"

#: changes a study, and returns the key of the notice on the next page
Action = Callable[[Study, Request, FormData], str]


def routes(site: Site) -> list[Route]:
    """Return the routes of all actions. Each redirects to the page that its form is on."""
    return [
        Route(f"/tuner/actions/studies/{{study_id}}/{path}", _endpoint(site, action), methods=["POST"]) for path, action in _ACTIONS.items()
    ]


def _endpoint(site: Site, action: Action) -> Callable[[Request], object]:
    async def respond(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=20)
        return await run_in_threadpool(with_error_pages(functools.partial(_act, site, action, form)), request)

    return respond


def _act(site: Site, action: Action, form: FormData, request: Request) -> Response:
    identity = request.state.identity
    if not identity.role.allows(Role.EDITOR):
        message = f"This needs the role {Role.EDITOR}; {identity.name} is {identity.role}."
        return error_page(request, HTTPStatus.FORBIDDEN, "Permission denied", message)
    storage = site.reader.storage
    listed = storage.read(lambda connection: pages.find(connection, request))
    if _text(form, "name") != listed.name:
        raise Refused("The study of your page was deleted, and another study has its address now. Reload the page.")
    done = action(studies.load(listed.name, storage), request, form)
    back = "/tuner/workers" if _text(form, "back") == "workers" else f"/tuner/studies/{listed.id}"
    return RedirectResponse(f"{back}?{urlencode({'done': done})}", HTTPStatus.SEE_OTHER)


def _stop(study: Study, request: Request, form: FormData) -> str:
    control.stop(study, by=request.state.identity.name)
    return "stopped"


def _suspend(study: Study, request: Request, form: FormData) -> str:
    control.suspend(study, by=request.state.identity.name)
    return "suspended"


def _resume(study: Study, request: Request, form: FormData) -> str:
    control.resume(study)
    return "resumed"


def _budget(study: Study, request: Request, form: FormData) -> str:
    """Set the limits in the form: an empty field removes its limit, a missing field leaves it unchanged."""
    given = {field: _text(form, field).strip() for field in ("trials", "timeout", "target") if field in form}
    control.set_budget(study, **{field: _number(field, text) for field, text in given.items()})
    return "budget"


def _stop_trial(study: Study, request: Request, form: FormData) -> str:
    number = parse_whole(str(request.path_params["number"]), otherwise=-1)
    control.stop_trial(study, number, by=request.state.identity.name)
    return "trial"


def _stop_worker(study: Study, request: Request, form: FormData) -> str:
    control.stop_worker(study, _text(form, "worker"), by=request.state.identity.name)
    return "worker"


def _enqueue(study: Study, request: Request, form: FormData) -> str:
    given = yaml_lines.parse(_text(form, "config"), Path(_ORIGIN)).value
    if not isinstance(given, dict):
        raise Refused("The config has no hyperparameters. Write one hyperparameter per line, for example `dropout: 0.3`.")
    enqueue.enqueue(study, enqueue.config_of(study, given), by=request.state.identity.name, origin=_ORIGIN)
    return "enqueued"


def _text(form: FormData, field: str) -> str:
    value = form.get(field, "")
    return value if isinstance(value, str) else ""


def _number(field: str, text: str) -> int | float | str | None:
    """Return a limit of the budget. Text that is not a number stays text, which the budget refuses."""
    if not text:
        return None
    try:
        return int(text) if field == "trials" else float(text)
    except ValueError:
        return text


#: actions by their path below the address of a study
_ACTIONS: Mapping[str, Action] = {
    "stop": _stop,
    "suspend": _suspend,
    "resume": _resume,
    "budget": _budget,
    "enqueue": _enqueue,
    "trials/{number}/stop": _stop_trial,
    "workers/stop": _stop_worker,
}
