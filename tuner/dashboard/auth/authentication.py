"""Sign-ins that failed into the time that the next one must wait.

A request into who sends it, or into an answer that asks to sign in.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.dashboard.auth.accounts import Accounts
from tuner.dashboard.auth.permissions import READING_METHODS, Identity, Role
from tuner.dashboard.auth.sessions import Sessions
from tuner.dashboard.settings import Settings, StartToken
from tuner.errors import RequestError

#: names and addresses that are remembered at most; the oldest are forgotten
_MOST = 10_000
#: after so long without a failure it is forgotten
_FORGET_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How often may be tried at once, and how long is the longest wait."""

    free: int
    most_seconds: float


#: of one name: short, or anyone could keep a user out
BY_NAME = Limit(free=5, most_seconds=30.0)
#: of one address
BY_ADDRESS = Limit(free=10, most_seconds=600.0)


@dataclass(frozen=True, kw_only=True)
class _Failures:
    count: int
    last_at: float


class Attempts:
    """Failed sign-ins by name and by address; after the free ones, each doubles the wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, address: str) -> float:
        """Seconds that this attempt must wait; 0: it may be made now, and counts as failed until it succeeds."""
        with self._lock:
            wait = max(self._wait(("name", name), BY_NAME), self._wait(("address", address), BY_ADDRESS))
            if wait <= 0:
                for key in (("name", name), ("address", address)):
                    self._count(key)
            return max(0.0, wait)

    def succeed(self, name: str, address: str) -> None:
        """Forget what failed for this name; of the address only this attempt, or its owner could try other names without end."""
        with self._lock:
            self._failed.pop(("name", name), None)
            failed = self._failed.get(("address", address))
            if failed is not None:
                self._failed[("address", address)] = replace(failed, count=failed.count - 1)

    def _wait(self, key: tuple[str, str], limit: Limit) -> float:
        failed = self._failed.get(key)
        if failed is None or failed.count < limit.free:
            return 0.0
        pause = min(limit.most_seconds, 2.0 ** min(failed.count - limit.free, 20))
        return failed.last_at + pause - self._clock()

    def _count(self, key: tuple[str, str]) -> None:
        failed = self._failed.pop(key, None)
        is_old = failed is None or failed.last_at + _FORGET_SECONDS < self._clock()
        count = 1 if is_old or failed is None else failed.count + 1
        self._failed[key] = _Failures(count=count, last_at=self._clock())
        while len(self._failed) > _MOST:
            self._failed.popitem(last=False)


SIGN_IN = "/tuner/signin"
SIGN_OUT = "/tuner/signout"
STYLE = "/tuner/signin.css"
#: to an OpenID provider, and from it
OPENID = "/tuner/oidc/"
SIGN_IN_ELSEWHERE = f"{OPENID}start"
BACK_FROM_ELSEWHERE = f"{OPENID}back"
#: what anyone may ask for
_OPEN = frozenset({SIGN_IN, SIGN_OUT, STYLE, "/healthz", "/readyz", "/favicon.ico"})
_OPEN_FOLDERS = ("/tuner/static/", OPENID)
_BEARER = "bearer "

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Authentication:
    """All that tells who may come in."""

    settings: Settings
    accounts: Accounts
    sessions: Sessions
    #: None: only users come in
    start_token: StartToken | None
    attempts: Attempts = field(default_factory=Attempts)

    @classmethod
    def of(cls, settings: Settings, start_token: StartToken | None) -> "Authentication":
        """The lock of one server."""
        accounts = Accounts(settings.users)
        sessions = Sessions(accounts, seconds=settings.session_seconds)
        return cls(settings=settings, accounts=accounts, sessions=sessions, start_token=start_token)

    def by_start_token(self, given: str) -> Identity | None:
        """Whoever holds the link of the start may do everything: the database's file is his too."""
        token = self.start_token
        if token is None or not secrets.compare_digest(token.value.encode(), given.encode()):
            return None
        return Identity(name=token.name, role=Role.ADMIN)

    def by_bearer(self, given: str) -> Identity | None:
        """The program of a token; the start's token will do as well."""
        return self.by_start_token(given) or self.accounts.check_token(given)


class Door:
    """Lets in who shows a token or has signed in, and puts the identity into the request's state."""

    def __init__(self, app: ASGIApp, *, lock: Authentication) -> None:
        self.app = app
        self.lock = lock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its identity, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing of ours is a websocket
            await send({"type": "websocket.close", "code": 1008})
            return
        scope.setdefault("state", {})  # one for all that follow
        request = Request(scope)
        try:
            answer = await run_in_threadpool(self._look, request)
        except RequestError as error:
            _log.error("no one can be let in: %s", error)
            answer = PlainTextResponse("The users' file cannot be read; the log says why.\n", HTTPStatus.SERVICE_UNAVAILABLE)
        await (answer or self.app)(scope, receive, send)

    def _look(self, request: Request) -> Response | None:
        """An answer to who may not come in, or must come again; None once the identity is known or not needed."""
        token = request.query_params.get("token")
        if token is not None and request.method == "GET" and not request.url.path.startswith("/tuner/"):
            return self._exchange(request, token)
        identity = self._identity(request)
        if identity is not None:
            request.state.identity = identity
            return None
        return None if self._is_open(request.url.path) else refuse(request)

    def _identity(self, request: Request) -> Identity | None:
        given = request.headers.get("authorization")
        if given is not None:  # whoever shows a token means it: a cookie beside it is not looked at
            return self.lock.by_bearer(given[len(_BEARER) :].strip()) if given.lower().startswith(_BEARER) else None
        return self.lock.sessions.find(request)

    def _is_open(self, path: str) -> bool:
        return path in _OPEN or path.startswith(_OPEN_FOLDERS) or (path == "/metrics" and self.lock.settings.open_metrics)

    def _exchange(self, request: Request, token: str) -> Response:
        """A token in the address into a cookie, and an address without it."""
        here = request.url.path
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        goal = local(quote(here) + (f"?{urlencode(rest)}" if rest else ""))
        identity = self.lock.by_start_token(token)
        if identity is None:
            return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': goal, 'stale': '1'})}", HTTPStatus.SEE_OTHER)
        answer = RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        self.lock.sessions.begin(request, answer, identity, is_user=False)
        return answer


def refuse(request: Request) -> Response:
    """Ask a browser's user to sign in, and tell a program."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': local(_page(request))})}", HTTPStatus.SEE_OTHER)
    reason = "Sign in, or send a token: Authorization: Bearer TOKEN"
    return JSONResponse({"reason": reason}, HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Bearer realm="tuner"'})


def _page(request: Request) -> str:
    """The page that is asked for; of a form, which is not sent again after signing in, the page that it stands on."""
    if request.method in READING_METHODS:
        return quote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
    try:
        return urlsplit(request.headers.get("referer", "")).path
    except ValueError:  # the browser did not write it
        return "/"


def local(goal: str) -> str:
    """An address of this server, whatever was asked for: no one is sent elsewhere."""
    is_local = goal.startswith("/") and not goal.startswith(("//", "/\\")) and goal.isprintable() and "\\" not in goal
    return goal if is_local else "/"


def is_by_token(scope: Scope) -> bool:
    """Whether a request shows a token: no page of another site can make a browser send one."""
    return any(name == b"authorization" and value.lower().startswith(_BEARER.encode()) for name, value in scope["headers"])
