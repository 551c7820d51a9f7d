"""What editors may ask of a study, as plain forms: stop, resume, spend more, stop a trial or a worker, try a config of one's own."""

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
from tuner.dashboard.pages.served import Refused, Site, failure, guarded, whole
from tuner.spec import yaml_lines
from tuner.studies import control, enqueue
from tuner.studies import study as studies
from tuner.studies.study import Study

_ORIGIN = "your config"

Action = Callable[[Study, Request, FormData], str]


def routes(site: Site) -> list[Route]:
    """The actions at their addresses; each answers with the page that it was asked on."""
    return [
        Route(f"/tuner/actions/studies/{{study_id}}/{path}", _action(site, action), methods=["POST"]) for path, action in _ACTIONS.items()
    ]


def _action(site: Site, action: Action) -> Callable[[Request], object]:
    async def answer(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=20)
        return await run_in_threadpool(guarded(functools.partial(_act, site, action, form)), request)

    return answer


def _act(site: Site, action: Action, form: FormData, request: Request) -> Response:
    identity = request.state.identity
    if not identity.role.allows(Role.EDITOR):
        message = f"This needs the role {Role.EDITOR}; {identity.name} is {identity.role}."
        return failure(request, HTTPStatus.FORBIDDEN, "You may not do this", message)
    storage = site.looks.storage
    listed = storage.read(lambda connection: pages.find(connection, request))
    if _text(form, "name") != listed.name:
        raise Refused("The study at this address is another one than that of your page; it was deleted meanwhile. Load the page again.")
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
    """An empty field lifts its limit; a field that is not there leaves it."""
    given = {field: _text(form, field).strip() for field in ("trials", "timeout", "target") if field in form}
    control.set_budget(study, **{field: _number(field, text) for field, text in given.items()})
    return "budget"


def _stop_trial(study: Study, request: Request, form: FormData) -> str:
    number = whole(str(request.path_params["number"]), otherwise=-1)
    control.stop_trial(study, number, by=request.state.identity.name)
    return "trial"


def _stop_worker(study: Study, request: Request, form: FormData) -> str:
    control.stop_worker(study, _text(form, "worker"), by=request.state.identity.name)
    return "worker"


def _enqueue(study: Study, request: Request, form: FormData) -> str:
    given = yaml_lines.parse(_text(form, "config"), Path(_ORIGIN)).value
    if not isinstance(given, dict):
        raise Refused("A config names hyperparameters, one a line, for example `dropout: 0.3`.")
    enqueue.enqueue(study, given.get("search", given), by=request.state.identity.name, origin=_ORIGIN)
    return "enqueued"


def _text(form: FormData, field: str) -> str:
    value = form.get(field, "")
    return value if isinstance(value, str) else ""


def _number(field: str, text: str) -> int | float | str | None:
    """A limit as the budget takes it; what is no number is left for the budget to refuse."""
    if not text:
        return None
    try:
        return int(text) if field == "trials" else float(text)
    except ValueError:
        return text


#: below the address of a study
_ACTIONS: Mapping[str, Action] = {
    "stop": _stop,
    "suspend": _suspend,
    "resume": _resume,
    "budget": _budget,
    "enqueue": _enqueue,
    "trials/{number}/stop": _stop_trial,
    "workers/stop": _stop_worker,
}
