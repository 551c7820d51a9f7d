"""The page on which people sign in, and the way out."""

import functools
import math
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.templating import Jinja2Templates

from tuner.dashboard.auth import authentication
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.auth.permissions import Identity

_HERE = Path(__file__).parents[1]
#: a name, a password and an address have room in it
_MOST_BYTES = 16_384
_WRONG = "That name and password are not known together."


def routes(lock: Authentication) -> list[BaseRoute]:
    """Sign in, sign out and what the page looks like."""
    pages = _Pages(lock)
    return [
        Route(authentication.SIGN_IN, pages.show, methods=["GET"]),
        Route(authentication.SIGN_IN, pages.enter, methods=["POST"]),
        Route(authentication.SIGN_OUT, pages.leave, methods=["POST"]),
        Route(authentication.STYLE, _style, methods=["GET"]),
    ]


def page(lock: Authentication, request: Request, *, status: int = 200, wait: int = 0, **shown: Any) -> Response:
    """The page on which people sign in, with what is said to them."""
    named = lock.settings.openid
    seen = {
        "name": "",
        "has_users": any(user.password is not None for user in lock.accounts.book().users.values()),
        "has_token": lock.start_token is not None,
        "sign_in": authentication.SIGN_IN,
        "style": authentication.STYLE,
        "elsewhere": "" if named is None else named.name,
        "there": authentication.SIGN_IN_ELSEWHERE,
    }
    headers = {"Retry-After": str(wait)} if wait else None
    return _templates().TemplateResponse(request, "signin.html", seen | shown, status_code=status, headers=headers)


class _Pages:
    def __init__(self, lock: Authentication) -> None:
        self._lock = lock

    async def show(self, request: Request) -> Response:
        """The page, for who has not signed in."""
        goal = authentication.local(request.query_params.get("next", "/"))
        if _identity(request) is not None:
            return RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        said = ""
        if "stale" in request.query_params:
            said = "This link is no longer good: tuner was started again since. Take the one that it printed last."
        return await run_in_threadpool(self._page, request, goal=goal, said=said)

    async def enter(self, request: Request) -> Response:
        """Let in who knows a password or the token of the start."""
        form = await _form(request)
        if form is None:
            return PlainTextResponse("The form is too large.\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return await run_in_threadpool(self._enter, request, form)

    async def leave(self, request: Request) -> Response:
        """Sign out."""
        answer = RedirectResponse(authentication.SIGN_IN, HTTPStatus.SEE_OTHER)
        self._lock.sessions.end(request, answer)
        return answer

    def _enter(self, request: Request, form: dict[str, str]) -> Response:
        goal = authentication.local(form.get("next", "/"))
        name, address = form.get("name", "").strip()[:200], request.client.host if request.client else ""
        wait = self._lock.attempts.begin(name, address)
        if wait > 0:
            said = f"Too many attempts. Try again in {math.ceil(wait)} s."
            return self._page(request, goal=goal, name=name, said=said, status=HTTPStatus.TOO_MANY_REQUESTS, wait=math.ceil(wait))
        request.state.signing_in = name
        is_user = "token" not in form
        if is_user:
            identity = self._lock.accounts.check_password(name, form.get("password", ""))
        else:
            identity = self._lock.by_start_token(form["token"].strip().rpartition("token=")[2])
        if identity is None:
            said = _WRONG if is_user else "That is not the token that tuner printed last."
            return self._page(request, goal=goal, name=name, said=said, status=HTTPStatus.UNAUTHORIZED)
        self._lock.attempts.succeed(name, address)
        request.state.identity = identity
        answer = RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        self._lock.sessions.begin(request, answer, identity, is_user=is_user)
        return answer

    def _page(self, request: Request, **shown: Any) -> Response:
        return page(self._lock, request, **shown)


@functools.cache
def _templates() -> Jinja2Templates:
    return Jinja2Templates(_HERE / "templates")


async def _style(request: Request) -> Response:
    return FileResponse(_HERE / "static" / "signin.css", media_type="text/css")


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of a form, each once; None if it is larger than any of ours."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_BYTES:
                return None
    except ClientDisconnect:
        return None
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}


def _identity(request: Request) -> Identity | None:
    found: Identity | None = getattr(request.state, "identity", None)
    return found
