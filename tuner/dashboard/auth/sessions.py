"""Whoever has signed in into a signed cookie, and a cookie back into who that is."""

import secrets
import threading
import time
from dataclasses import dataclass

import itsdangerous
from starlette.requests import Request
from starlette.responses import Response

from tuner.dashboard.auth.accounts import Accounts
from tuner.dashboard.auth.permissions import Identity, Role

#: longest that a session may last; the cookie says how old it is
DEFAULT_SECONDS = 12 * 3600.0


@dataclass(frozen=True, kw_only=True)
class _Session:
    key: str
    name: str
    role: Role
    #: how the user's role and password stood; "" for sessions that no user of the file has
    stamp: str


class Sessions:
    """The sessions of one server: its key lives no longer than it does, so that a new start ends them all."""

    def __init__(self, accounts: Accounts, *, seconds: float) -> None:
        self.seconds = seconds
        self._accounts = accounts
        self._signer = itsdangerous.URLSafeTimedSerializer(
            secrets.token_bytes(32), salt="tuner.session", signer_kwargs={"key_derivation": "hmac"}
        )
        #: of sessions that were ended before their time: when that comes
        self._ended: dict[str, float] = {}
        self._lock = threading.Lock()

    def begin(self, request: Request, response: Response, identity: Identity, *, is_user: bool) -> None:
        """Sign someone in: the answer brings the cookie."""
        stamp = (self._accounts.stamp(identity.name) or "gone") if is_user else ""
        value = self._signer.dumps([secrets.token_hex(8), identity.name, str(identity.role), stamp])
        assert isinstance(value, str)
        response.set_cookie(
            _cookie(request),
            value,
            max_age=int(self.seconds),
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )

    def find(self, request: Request) -> Identity | None:
        """Who signed in; None if no one did, or it was too long ago, or the user is no longer what he was."""
        session = self._read(request)
        if session is None or session.key in self._ended:
            return None
        if session.stamp and session.stamp != self._accounts.stamp(session.name):
            return None
        return Identity(name=session.name, role=session.role)

    def end(self, request: Request, response: Response) -> None:
        """Sign someone out: the cookie goes, and a copy of it is worth nothing."""
        session = self._read(request)
        if session is not None:
            now = time.time()
            with self._lock:
                self._ended = {key: until for key, until in self._ended.items() if until > now} | {session.key: now + self.seconds}
        response.delete_cookie(_cookie(request), path="/", secure=request.url.scheme == "https", httponly=True, samesite="lax")

    def _read(self, request: Request) -> _Session | None:
        value = request.cookies.get(_cookie(request))
        if value is None:
            return None
        try:
            key, name, role, stamp = self._signer.loads(value, max_age=int(self.seconds))
        except itsdangerous.BadData:
            return None
        return _Session(key=key, name=name, role=Role(role), stamp=stamp)


def _cookie(request: Request) -> str:
    """Name of the cookie: cookies do not know ports, and several dashboards may run on one machine."""
    port = request.url.port or (443 if request.url.scheme == "https" else 80)
    # browsers take a cookie of this prefix only if it is secure and of this very host
    prefix = "__Host-" if request.url.scheme == "https" else ""
    return f"{prefix}tuner-{port}"
