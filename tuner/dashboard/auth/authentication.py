"""Authentication: who sends a request, or an answer that asks to sign in."""

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
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.dashboard.auth.accounts import Accounts
from tuner.dashboard.auth.permissions import READING_METHODS, Identity, Role
from tuner.dashboard.auth.sessions import Sessions, path_prefix
from tuner.dashboard.operations import problem
from tuner.dashboard.settings import Settings, StartToken
from tuner.errors import RequestError

SIGN_IN = "/tuner/signin"
SIGN_OUT = "/tuner/signout"
STYLE = "/tuner/signin.css"
#: addresses of the sign-in at an OpenID provider
OPENID = "/tuner/oidc/"
OPENID_START = f"{OPENID}start"
OPENID_BACK = f"{OPENID}back"
#: addresses that need no sign-in
_OPEN = frozenset({SIGN_IN, SIGN_OUT, STYLE, "/healthz", "/readyz", "/favicon.ico"})
_OPEN_FOLDERS = ("/tuner/static/", OPENID)
_BEARER = "bearer "

#: most names and addresses that are remembered; the oldest are forgotten first
_MAX_REMEMBERED = 10_000
#: a failure is forgotten after this long without another
_FORGET_SECONDS = 3600.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Failures before the first wait, and the longest wait."""

    free: int
    most_seconds: float


#: for a name: the longest wait is short, or anyone could lock a user out
BY_NAME = Limit(free=5, most_seconds=30.0)
#: for an address
BY_ADDRESS = Limit(free=10, most_seconds=600.0)


@dataclass(frozen=True, kw_only=True)
class _Failures:
    count: int
    last_at: float


class Throttle:
    """Failed sign-ins by name and by address. After the free ones, each failure doubles the wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, name: str, address: str) -> float:
        """Return the seconds that this sign-in must wait. With 0 it may be tried now, and counts as failed until it succeeds."""
        with self._lock:
            wait = max(self._wait(("name", name), BY_NAME), self._wait(("address", address), BY_ADDRESS))
            if wait <= 0:
                for key in (("name", name), ("address", address)):
                    self._count(key)
            return max(0.0, wait)

    def succeed(self, name: str, address: str) -> None:
        """Forget the failures of this name, but only this sign-in of the address. Otherwise one address could try names without limit."""
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
        while len(self._failed) > _MAX_REMEMBERED:
            self._failed.popitem(last=False)


@dataclass(frozen=True, kw_only=True)
class Authentication:
    """Users, tokens and sessions of one server."""

    settings: Settings
    accounts: Accounts
    sessions: Sessions
    #: None: the server has no printed link
    start_token: StartToken | None
    throttle: Throttle = field(default_factory=Throttle)

    @classmethod
    def of(cls, settings: Settings, start_token: StartToken | None) -> "Authentication":
        """Return the authentication of a new server."""
        accounts = Accounts(settings.users)
        sessions = Sessions(accounts, seconds=settings.session_seconds)
        return cls(settings=settings, accounts=accounts, sessions=sessions, start_token=start_token)

    def by_start_token(self, given: str) -> Identity | None:
        """Return the identity for the token of the printed link, which has all rights: its user also owns the process."""
        token = self.start_token
        if token is None or not secrets.compare_digest(token.value.encode(), given.encode()):
            return None
        return Identity(name=token.name, role=Role.ADMIN)

    def by_bearer(self, given: str) -> Identity | None:
        """Return the identity of a program's token, or of the token of the printed link."""
        return self.by_start_token(given) or self.accounts.check_token(given)


class RequireSignIn:
    """Middleware that adds the identity to the state of a request, and refuses requests without one."""

    def __init__(self, app: ASGIApp, *, auth: Authentication) -> None:
        self.app = app
        self.auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request with its identity, or answer it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the dashboard has no websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        scope.setdefault("state", {})  # shared with all inner applications
        request = Request(scope)
        try:
            answer = await run_in_threadpool(self._authenticate, request)
        except RequestError as error:
            _log.error("sign-in is not possible: %s", error)
            answer = PlainTextResponse("The users file cannot be read. See the log for the reason.\n", HTTPStatus.SERVICE_UNAVAILABLE)
        await (answer or self.app)(scope, receive, send)

    def _authenticate(self, request: Request) -> Response | None:
        """Return an answer that refuses or redirects the request; None if its identity is known or not needed."""
        token = request.query_params.get("token")
        if token is not None and request.method == "GET" and not request.url.path.startswith("/tuner/"):
            return self._exchange(request, token)
        identity = self._identity(request)
        if identity is not None:
            request.state.identity = identity
            return None
        return None if self._is_open(request.url.path) else ask_to_sign_in(request)

    def _identity(self, request: Request) -> Identity | None:
        given = request.headers.get("authorization")
        if given is not None:  # a token takes precedence: a cookie in the same request is ignored
            return self.auth.by_bearer(given[len(_BEARER) :].strip()) if given.lower().startswith(_BEARER) else None
        return self.auth.sessions.find(request)

    def _is_open(self, path: str) -> bool:
        return path in _OPEN or path.startswith(_OPEN_FOLDERS) or (path == "/metrics" and self.auth.settings.open_metrics)

    def _exchange(self, request: Request, token: str) -> Response:
        """Exchange a token in the address for a cookie, and redirect to the address without the token."""
        here = request.url.path
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        goal = local_path(quote(here) + (f"?{urlencode(rest)}" if rest else ""))
        identity = self.auth.by_start_token(token)
        if identity is None:
            return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': goal, 'stale': '1'})}", HTTPStatus.SEE_OTHER)
        answer = RedirectResponse(goal, HTTPStatus.SEE_OTHER)
        self.auth.sessions.begin(request, answer, identity, is_user=False)
        return answer


def ask_to_sign_in(request: Request) -> Response:
    """Redirect a browser to the sign-in page; answer a program with 401."""
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse(f"{SIGN_IN}?{urlencode({'next': local_path(_page(request))})}", HTTPStatus.SEE_OTHER)
    reason = "Sign in, or send a token: Authorization: Bearer TOKEN"
    return problem(HTTPStatus.UNAUTHORIZED, reason, headers={"WWW-Authenticate": 'Bearer realm="tuner"'})


def _page(request: Request) -> str:
    """Return the page to open after the sign-in. For a form, which is not sent again, it is the page of the form."""
    if request.method in READING_METHODS:
        return quote(request.url.path) + (f"?{request.url.query}" if request.url.query else "")
    try:
        return urlsplit(request.headers.get("referer", "")).path.removeprefix(path_prefix(request))
    except ValueError:  # not an address
        return "/"


def local_path(goal: str) -> str:
    """Return an address of this server, or `/` for any other address, so that no redirect leads to another site."""
    is_local = goal.startswith("/") and not goal.startswith(("//", "/\\")) and goal.isprintable() and "\\" not in goal
    return goal if is_local else "/"


def has_bearer_token(scope: Scope) -> bool:
    """Return whether a request has a token, which no page of another site can make a browser send."""
    return any(name == b"authorization" and value.lower().startswith(_BEARER.encode()) for name, value in scope["headers"])
