"""A storage into pages: optuna-dashboard, unchanged at its own paths, with guards around it."""

import contextlib
import functools
import logging
import queue
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import a2wsgi
import sqlalchemy
import uvicorn
from a2wsgi.wsgi_typing import Environ, StartResponse, WSGIApp
from sqlalchemy import exc
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner import errors
from tuner.dashboard import guards, published
from tuner.dashboard.identity import Identity, Role
from tuner.dashboard.pages import routes
from tuner.search import storage as storages

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080

#: names by which a browser on this machine reaches it; any other in the Host header is DNS rebinding
_LOOPBACK = {
    "127.0.0.1": (socket.AF_INET, "127.0.0.1"),
    "localhost": (socket.AF_INET, "127.0.0.1"),
    "::1": (socket.AF_INET6, "::1"),
    "[::1]": (socket.AF_INET6, "::1"),
}
_NEED_NO_DATABASE = ("/static/", "/favicon.ico", *routes.NEED_NO_DATABASE)

_log = logging.getLogger(__name__)


def build(storage: storages.Storage) -> Starlette:
    """The dashboard of a storage as an ASGI application; only this machine's own names are served."""
    guarded = [
        Middleware(guards.SafeHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=list(_LOOPBACK), www_redirect=False),
        Middleware(guards.SameOrigin),
        Middleware(_Everyone),
        Middleware(guards.Outage, is_there=lambda: _is_there(storage), needs_no_database=_NEED_NO_DATABASE),
    ]
    optunas = cast(ASGIApp, a2wsgi.WSGIMiddleware(_optunas(storage)))
    return Starlette(routes=[*routes.routes(storage), Mount("/", app=optunas)], middleware=guarded)


def serve(storage: storages.Storage, host: str, port: int, *, ready: Callable[[str], None]) -> None:
    """Serve the dashboard until the process is interrupted; `ready` is called with its address. Port 0 takes any free one.

    Raises:
        RequestError: the host is not this machine, or the port is taken.
    """
    with _listen(host, port) as listener:
        server = _Server(_settings(storage), started_up=lambda: ready(_address(listener)))
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextlib.contextmanager
def beside(storage: storages.Storage, host: str, port: int | None) -> Iterator[str]:
    """Serve the dashboard from a thread while the `with` block runs; gives its address. Without a port, the usual one or any that is free.

    The address is there at once; pages that are asked for before the server is up wait for it.

    Raises:
        RequestError: the host is not this machine, or the port is taken.
    """
    servers: queue.SimpleQueue[uvicorn.Server] = queue.SimpleQueue()
    with _listen(host, port) if port is not None else _listen_anywhere(host) as listener:

        def serve_pages() -> None:
            server = uvicorn.Server(_settings(storage))
            servers.put(server)
            server.run(sockets=[listener])

        thread = threading.Thread(target=serve_pages, name="dashboard", daemon=True)
        thread.start()
        try:
            yield _address(listener)
        finally:
            servers.get().should_exit = True
            thread.join()


def check_host(host: str) -> None:
    """Refuse an address that other machines could reach; a container's own is none if its port is published on loopback only.

    Raises:
        RequestError: the host is not this machine.
    """
    if host not in _LOOPBACK and (host != published.HOST or published.address() is None):
        raise errors.RequestError(
            f"the dashboard's host is {host}; it has no passwords yet, so it serves this machine only: --host {DEFAULT_HOST}. "
            f"From another machine, reach it through SSH: ssh -L {DEFAULT_PORT}:{DEFAULT_HOST}:{DEFAULT_PORT} THIS_MACHINE"
        )


class _Everyone:
    """Lets everyone who reaches this machine's dashboard do everything."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a name on it."""
        scope.setdefault("state", {})["identity"] = Identity(name="local", role=Role.ADMIN)
        await self.app(scope, receive, send)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, started_up: Callable[[], object]) -> None:
        super().__init__(config)
        self._started_up = started_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started_up()


def _settings(storage: storages.Storage) -> uvicorn.Config:
    # a browser that keeps its connection open must not keep the process
    return uvicorn.Config(build(storage), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=2)


def _optunas(storage: storages.Storage) -> WSGIApp:
    """optuna-dashboard, loaded when the first page is asked for."""
    lock = threading.Lock()

    @functools.cache
    def load() -> WSGIApp:
        # imports scikit-learn and pandas: seconds of a processor, which a search that starts at the same time needs more
        import optuna_dashboard

        # of the importances of a study that has few trials yet
        warnings.filterwarnings("ignore", message="Some regimes for parameter", category=UserWarning)
        return cast(WSGIApp, optuna_dashboard.wsgi(storage.rdb))

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"] = sys.stderr  # stdout belongs to results
        with lock:
            pages = load()
        return pages(environ, start_response)

    return respond


def _is_there(storage: storages.Storage) -> bool:
    try:
        # on SQLite, looking must not wait for a worker that writes
        with storage.engine.connect().execution_options(sqlite_begin="BEGIN DEFERRED") as connection:
            connection.execute(sqlalchemy.text("SELECT 1 FROM studies WHERE 1 = 0"))
    except (exc.SQLAlchemyError, errors.StorageError) as error:
        _log.warning("the database is away: %s", type(error).__name__)
        return False
    return True


def _listen_anywhere(host: str) -> socket.socket:
    try:
        return _listen(host, DEFAULT_PORT)
    except errors.RequestError:
        return _listen(host, 0)


def _listen(host: str, port: int) -> socket.socket:
    check_host(host)
    family, address = _LOOPBACK.get(host, (socket.AF_INET, host))
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise errors.RequestError(
            f"the dashboard cannot listen on {host}, port {port}: {reason}; give another with --port, or --port 0 for any that is free"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host == published.HOST:
        return f"http://{published.address()}"
    return f"http://[{host}]:{port}" if listener.family is socket.AF_INET6 else f"http://{host}:{port}"
