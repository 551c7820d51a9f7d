"""Sessions: signed cookies that hold the identity of a signed-in user."""

import secrets
import threading
import time
from dataclasses import dataclass

import itsdangerous
from starlette.requests import Request
from starlette.responses import Response

from tuner.dashboard.auth.accounts import Accounts
from tuner.dashboard.auth.permissions import Identity, Role

#: default duration of a session; the cookie contains its start
DEFAULT_SECONDS = 12 * 3600.0


@dataclass(frozen=True, kw_only=True)
class _Session:
    key: str
    name: str
    role: Role
    #: stamp of the user's role and password at the sign-in; "" if the users file has no such user
    stamp: str


class Sessions:
    """Sessions of one server. Each server has a new key, so a restart ends all sessions."""

    def __init__(self, accounts: Accounts, *, seconds: float) -> None:
        self.seconds = seconds
        self._accounts = accounts
        self._signer = itsdangerous.URLSafeTimedSerializer(
            secrets.token_bytes(32), salt="tuner.session", signer_kwargs={"key_derivation": "hmac"}
        )
        #: sessions that were signed out, with the time at which they would have expired
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, request: Request, response: Response, identity: Identity, *, is_user: bool) -> None:
        """Sign a user in: add the cookie to the response."""
        stamp = (self._accounts.stamp(identity.name) or "gone") if is_user else ""
        value = self._signer.dumps([secrets.token_hex(8), identity.name, str(identity.role), stamp])
        assert isinstance(value, str)
        response.set_cookie(
            _cookie(request),
            value,
            max_age=int(self.seconds),
            path=path_prefix(request) or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )

    def find(self, request: Request) -> Identity | None:
        """Return the identity of a session; None if there is none, it has expired, or the user's role or password has changed."""
        session = self._read(request)
        if session is None or session.key in self._ended:
            return None
        if session.stamp and session.stamp != self._accounts.stamp(session.name):
            return None
        return Identity(name=session.name, role=session.role)

    def end(self, request: Request, response: Response) -> None:
        """Sign a user out: delete the cookie, and reject copies of it."""
        session = self._read(request)
        if session is not None:
            now = time.time()
            with self._lock:
                self._ended = {key: until for key, until in self._ended.items() if until > now} | {session.key: now + self.seconds}
        path = path_prefix(request) or "/"
        response.delete_cookie(_cookie(request), path=path, secure=request.url.scheme == "https", httponly=True, samesite="lax")

    def _read(self, request: Request) -> _Session | None:
        value = request.cookies.get(_cookie(request))
        if value is None:
            return None
        try:
            key, name, role, stamp = self._signer.loads(value, max_age=int(self.seconds))
        except itsdangerous.BadData:
            return None
        return _Session(key=key, name=name, role=Role(role), stamp=stamp)


def path_prefix(request: Request) -> str:
    """Return the path below which browsers see the dashboard, for example /user/me/proxy/8080; "" for the root of the host."""
    return str(getattr(request.state, "path_prefix", ""))


def _cookie(request: Request) -> str:
    """Return the name of the cookie. It contains the port, because browsers share cookies between the dashboards of one machine."""
    port = request.url.port or (443 if request.url.scheme == "https" else 80)
    # browsers accept a cookie with the first prefix only over TLS, from this host and for all paths; with the second, for any path
    prefix = "" if request.url.scheme != "https" else "__Secure-" if path_prefix(request) else "__Host-"
    return f"{prefix}tuner-{port}"
