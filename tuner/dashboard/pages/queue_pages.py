"""Pages of the service: the queue and the pool, with their actions as HTML forms."""

import functools
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tuner.dashboard import standing
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.pages.rendering import LivePage, Refused, Site, error_page, parse_whole, with_error_pages
from tuner.dashboard.standing import StudyInQueue
from tuner.queue import entries, limits, pool
from tuner.storage.engine import Storage

QUEUE, POOL = "/tuner/queue", "/tuner/pool"
#: studies on one page of the queue, and workers on the page of the pool
_PER_PAGE = 50
_MOST_WORKERS = 100
_NOTICES = {
    "submitted": "The study is queued.",
    "moved": "The study has a new place.",
    "priority": "The study has a new priority.",
    "cancel": "The study is cancelled. Its running trials are suspended.",
    "pause": "The study is paused. Its running trials end first.",
    "resume": "The study is queued again.",
    "drain": "The workers leave after their trials.",
    "stop": "The pool is stopped. Running trials are suspended.",
    "start": "The pool works again.",
}

#: changes the queue or the pool, and returns the key of the notice on the next page
QueueAction = Callable[[Storage, str, FormData, str], str]


def action_routes(site: Site) -> list[Route]:
    """Return the routes of all actions. Each redirects to the page that its form is on."""
    found = [_action(site, f"/tuner/actions/queue/{{name}}/{path}", action, QUEUE) for path, action in _ON_STUDIES.items()]
    return found + [_action(site, f"/tuner/actions/pool/{path}", action, POOL, Role.ADMIN) for path, action in _ON_POOL.items()]


def _action(site: Site, path: str, action: QueueAction, back: str, role: Role = Role.EDITOR) -> Route:
    def act(form: FormData, request: Request) -> Response:
        identity = request.state.identity
        if not identity.role.allows(role):
            message = f"This needs the role {role}; {identity.name} is {identity.role}."
            return error_page(request, HTTPStatus.FORBIDDEN, "Permission denied", message)
        done = action(site.reader.storage, str(request.path_params.get("name", "")), form, identity.name)
        return RedirectResponse(f"{back}?{urlencode({'done': done})}", HTTPStatus.SEE_OTHER)

    async def respond(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=20)
        return await run_in_threadpool(with_error_pages(functools.partial(act, form)), request)

    return Route(path, respond, methods=["POST"])


def _read_queue(site: Site, request: Request) -> Mapping[str, Any]:
    number = parse_whole(request.query_params.get("page"), otherwise=1, least=1, most=100_000)
    storage = site.reader.storage
    total = entries.count(storage)
    found = standing.queue(storage, offset=(number - 1) * _PER_PAGE, limit=_PER_PAGE)
    return {
        "waiting": [study for study in found if study.ended_at is None],
        "ended": [study for study in found if study.ended_at is not None],
        "stopped_by": storage.read(limits.read).stopped_by,
        "total": total,
        "number": number,
        "last": max(1, -(-total // _PER_PAGE)),
        "notice": _NOTICES.get(request.query_params.get("done", ""), ""),
    }


def _read_pool(site: Site, request: Request) -> Mapping[str, Any]:
    found = standing.whole_pool(site.reader.storage)
    present = [worker for worker in found.workers if worker.is_present]
    return {
        "pool": found,
        "workers": found.workers[:_MOST_WORKERS],
        "num_present": len(present),
        "num_busy": sum(worker.study is not None for worker in present),
        "hosts": sorted({worker.host for worker in present}),
        "notice": _NOTICES.get(request.query_params.get("done", ""), ""),
    }


def _place(storage: Storage, name: str, form: FormData, by: str) -> str:
    """Move a study before or after another one of the form, or one step up or down."""
    waiting = [study for study in standing.queue(storage) if study.ended_at is None]
    moved = next((study for study in waiting if study.name == name), None)
    if moved is None:
        raise Refused(f"The study {name} has ended, or is not in the queue any more.")
    step = _text(form, "step")
    index = waiting.index(moved) + {"up": -1, "down": 1}.get(step, 0)
    named = _text(form, "other") if not step else waiting[index].name if 0 <= index < len(waiting) else name
    other = next((study for study in waiting if study.name == named), None)
    if other is None or other.name == name:
        raise Refused("There is no study to change places with.")
    return _place_beside(storage, moved, other, waiting, is_after=(step or _text(form, "side")) in ("down", "after"))


def _place_beside(storage: Storage, moved: StudyInQueue, other: StudyInQueue, waiting: list[StudyInQueue], *, is_after: bool) -> str:
    if other.owner != moved.owner and other.priority == moved.priority:
        raise Refused(
            f"{moved.name} and {other.name} have different owners and one priority, so the fair share decides which comes first. "
            "Change the priority instead."
        )
    if other.owner != moved.owner:
        entries.move(storage, moved.name, priority=other.priority)
        return "priority"
    group = [one.name for one in waiting if (one.owner, one.priority) == (other.owner, other.priority) and one.name != moved.name]
    entries.move(storage, moved.name, priority=other.priority, place=group.index(other.name) + 1 + is_after)
    return "moved"


def _priority(storage: Storage, name: str, form: FormData, by: str) -> str:
    text = _text(form, "priority").strip()
    if not text.removeprefix("-").isdecimal() or len(text) > 6:
        raise Refused(f"The priority is {text[:20]!r}; expected a whole number such as 5.")
    entries.move(storage, name, priority=int(text))
    return "priority"


def _cancel(storage: Storage, name: str, form: FormData, by: str) -> str:
    entries.cancel(storage, name, by=by)
    return "cancel"


def _pause(storage: Storage, name: str, form: FormData, by: str) -> str:
    entries.pause(storage, name, by=by)
    return "pause"


def _resume(storage: Storage, name: str, form: FormData, by: str) -> str:
    entries.resume(storage, name)
    return "resume"


def _drain(storage: Storage, name: str, form: FormData, by: str) -> str:
    pool.drain(storage, _text(form, "host"), now=False, by=by)
    return "drain"


def _stop(storage: Storage, name: str, form: FormData, by: str) -> str:
    limits.stop(storage, by=by)
    return "stop"


def _start(storage: Storage, name: str, form: FormData, by: str) -> str:
    limits.start(storage)
    return "start"


def _text(form: FormData, field: str) -> str:
    value = form.get(field, "")
    return value if isinstance(value, str) else ""


#: actions by their path below the address of a study of the queue, and of the pool
_ON_STUDIES: Mapping[str, QueueAction] = {"place": _place, "priority": _priority, "cancel": _cancel, "pause": _pause, "resume": _resume}
_ON_POOL: Mapping[str, QueueAction] = {"drain": _drain, "stop": _stop, "start": _start}

QUEUE_PAGE = LivePage(path=QUEUE, template="queue.html", parts={"queue": "queue/list.html"}, read=_read_queue)
POOL_PAGE = LivePage(path=POOL, template="pool.html", parts={"pool": "pool/list.html"}, read=_read_pool)
