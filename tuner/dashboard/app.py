"""Dashboard application: tuner's pages, optuna-dashboard at its own addresses, and the middleware around both."""

import functools
import logging
import sys
import threading
import warnings
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import cast

import a2wsgi
import sqlalchemy
from a2wsgi.wsgi_typing import Environ, StartResponse, WSGIApp
from sqlalchemy import exc
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner import errors
from tuner.dashboard import api, metrics, middleware
from tuner.dashboard.auth import authentication, enforcement, sessions, signin
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.pages import rendering, routes
from tuner.storage import engine as storages
from tuner.studies import pictures

#: scripts and styles, which are the same for every user
_CACHEABLE = ("/static/", *routes.NEED_NO_DATABASE, authentication.STYLE)
_SIGN_IN = (authentication.SIGN_IN, authentication.SIGN_OUT, authentication.OPENID)
_NEED_NO_DATABASE = (*_CACHEABLE, *middleware.HEALTH, "/favicon.ico", *_SIGN_IN)

_READING = ("GET", "HEAD")

_log = logging.getLogger(__name__)


def build(storage: storages.Storage, auth: Authentication) -> Starlette:
    """Return the dashboard of a storage as an ASGI application. `auth` decides who can use it."""
    settings = auth.settings
    around = [
        Middleware(middleware.TrustedProxies, proxies=settings.proxies, root_path=settings.root_path),
        Middleware(middleware.SecurityHeaders, cacheable=_CACHEABLE),
        Middleware(middleware.StrictTransport),
        Middleware(middleware.AllowedHosts, hosts=settings.hosts),
        Middleware(authentication.RequireSignIn, auth=auth),
        Middleware(enforcement.RecordChanges, storage=storage),
        Middleware(enforcement.RequireSameOrigin),
        Middleware(enforcement.RequireRole, allow_migration=settings.allow_migration),
        Middleware(middleware.DatabaseOutage, is_available=lambda: is_available(storage), needs_no_database=_NEED_NO_DATABASE),
    ]
    own = [
        *signin.routes(auth),
        *middleware.routes(lambda: is_available(storage)),
        *metrics.routes(storage, settings.artifacts),
        *api.routes(storage, settings.submission, artifacts=settings.artifacts, max_stream_seconds=settings.max_stream_seconds),
        *routes.routes(storage, settings.artifacts, rules=settings.submission, max_stream_seconds=settings.max_stream_seconds),
    ]
    optuna_dashboard = cast(ASGIApp, a2wsgi.WSGIMiddleware(_optuna_dashboard(storage, settings.artifacts)))
    built = Starlette(routes=[*own, Mount("/", app=_at_root_only(optuna_dashboard))], middleware=around)
    built.state.takes_studies = settings.submission is not None
    return built


def _at_root_only(optuna_dashboard: ASGIApp) -> ASGIApp:
    """Return optuna-dashboard with an explanation in place of its pages below a path prefix: their addresses start at the root."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and "text/html" in Headers(scope=scope).get("accept", "")
        if not is_page or not sessions.path_prefix(Request(scope)):
            await optuna_dashboard(scope, receive, send)
            return
        message = (
            "The Optuna dashboard works only at the root of a host name or port, and this dashboard is below a path prefix. "
            "Open it through an SSH tunnel, or give it a host name of its own (docs/dashboard.md, A path prefix)."
        )
        answer = rendering.error_page(Request(scope), HTTPStatus.NOT_FOUND, "The Optuna dashboard is not here", message)
        await answer(scope, receive, send)

    return respond


def _optuna_dashboard(storage: storages.Storage, artifacts: Path | None) -> WSGIApp:
    """Return optuna-dashboard, which is imported at its first request."""
    lock = threading.Lock()

    @functools.cache
    def load() -> WSGIApp:
        # imports scikit-learn and pandas, which takes seconds that a search starting at the same time needs
        import optuna_dashboard

        # optuna-dashboard computes importances even for a study with few trials
        warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
        return cast(WSGIApp, optuna_dashboard.wsgi(storage.rdb, artifact_store=None if artifacts is None else pictures.store(artifacts)))

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"] = sys.stderr  # stdout is for results
        with lock:
            pages = load()
        if environ["REQUEST_METHOD"] not in _READING:
            return pages(environ, start_response)
        with storages.only_reading():
            return pages(environ, start_response)

    return respond


def is_available(storage: storages.Storage) -> bool:
    """Return whether the database answers."""
    try:
        # on SQLite, a read must not wait for a worker that writes
        with storage.engine.connect().execution_options(sqlite_begin="BEGIN DEFERRED") as connection:
            connection.execute(sqlalchemy.text("SELECT 1 FROM studies WHERE 1 = 0"))
    except (exc.SQLAlchemyError, errors.StorageError) as error:
        _log.warning("the database does not answer: %s", type(error).__name__)
        return False
    return True
