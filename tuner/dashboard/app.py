"""A storage into pages: optuna-dashboard, unchanged at its own paths, our pages beside it, and a lock around both."""

import functools
import logging
import sys
import threading
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import a2wsgi
import sqlalchemy
from a2wsgi.wsgi_typing import Environ, StartResponse, WSGIApp
from sqlalchemy import exc
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from tuner import errors
from tuner.dashboard import api, guards, metrics
from tuner.dashboard.auth import authentication, openid, permitted, signin
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.pages import routes
from tuner.storage import engine as storages
from tuner.studies import pictures

#: scripts and styles, the same for everyone
_MAY_BE_KEPT = ("/static/", *routes.NEED_NO_DATABASE, authentication.STYLE)
_NEED_NO_DATABASE = (*_MAY_BE_KEPT, *guards.HEALTH, "/favicon.ico", authentication.SIGN_IN, authentication.SIGN_OUT, authentication.OPENID)

_READING = ("GET", "HEAD")

_log = logging.getLogger(__name__)


def build(storage: storages.Storage, lock: Authentication) -> Starlette:
    """The dashboard of a storage as an ASGI application; who may see what of it is the lock's to say."""
    settings = lock.settings
    guarded = [
        Middleware(guards.SafeHeaders, may_be_kept=_MAY_BE_KEPT),
        Middleware(guards.Forwarded, proxies=settings.proxies),
        Middleware(guards.Transport),
        Middleware(guards.KnownHosts, hosts=settings.hosts),
        Middleware(authentication.Door, lock=lock),
        Middleware(permitted.Recorded, storage=storage),
        Middleware(permitted.SameOrigin),
        Middleware(permitted.Permitted, allow_migration=settings.allow_migration),
        Middleware(guards.Outage, is_there=lambda: is_there(storage), needs_no_database=_NEED_NO_DATABASE),
    ]
    own = [
        *signin.routes(lock),
        *openid.routes(lock),
        *guards.routes(lambda: is_there(storage)),
        *metrics.routes(storage, settings.artifacts),
        *api.routes(storage),
        *routes.routes(storage, settings.artifacts),
    ]
    optunas = cast(ASGIApp, a2wsgi.WSGIMiddleware(_optunas(storage, settings.artifacts)))
    return Starlette(routes=[*own, Mount("/", app=optunas)], middleware=guarded)


def _optunas(storage: storages.Storage, artifacts: Path | None) -> WSGIApp:
    """optuna-dashboard, loaded when the first page is asked for."""
    lock = threading.Lock()

    @functools.cache
    def load() -> WSGIApp:
        # imports scikit-learn and pandas: seconds of a processor, which a search that starts at the same time needs more
        import optuna_dashboard

        # of the importances of a study that has few trials yet
        warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
        return cast(WSGIApp, optuna_dashboard.wsgi(storage.rdb, artifact_store=None if artifacts is None else pictures.store(artifacts)))

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"] = sys.stderr  # stdout belongs to results
        with lock:
            pages = load()
        if environ["REQUEST_METHOD"] not in _READING:
            return pages(environ, start_response)
        with storages.only_reading():
            return pages(environ, start_response)

    return respond


def is_there(storage: storages.Storage) -> bool:
    """Whether the database answers."""
    try:
        # on SQLite, looking must not wait for a worker that writes
        with storage.engine.connect().execution_options(sqlite_begin="BEGIN DEFERRED") as connection:
            connection.execute(sqlalchemy.text("SELECT 1 FROM studies WHERE 1 = 0"))
    except (exc.SQLAlchemyError, errors.StorageError) as error:
        _log.warning("the database is away: %s", type(error).__name__)
        return False
    return True
