"""Server: the dashboard on a port, in the main thread or beside other work."""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import uvicorn

from tuner import errors
from tuner.dashboard import app, notifications, settings
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.settings import Settings, StartToken
from tuner.storage import engine as storages


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running dashboard."""

    #: without a slash at the end
    address: str
    #: None: the dashboard has no printed link
    token: StartToken | None = field(repr=False)

    @property
    def link(self) -> str:
        """Address with the token, which signs in every browser that opens it."""
        return self.address if self.token is None else f"{self.address}/?token={self.token.value}"


def serve(storage: storages.Storage, wanted: Settings, port: int, *, ready: Callable[[Served], None]) -> None:
    """Serve the dashboard until the process is interrupted. Calls `ready` when it is up. Port 0 means any free port.

    Raises:
        RequestError: the settings are unsafe, or the port is taken.
    """
    with notifications.watching(storage), _listen(wanted, port) as listener:
        served = _served(listener, wanted)
        server = _server(storage, wanted, served)
        server.started_up = lambda: ready(served)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextlib.contextmanager
def beside(storage: storages.Storage, wanted: Settings, port: int | None) -> Iterator[Served]:
    """Serve the dashboard from a thread while the `with` block runs. Without a port, use the default port or any free one.

    The address accepts requests at once. They wait until the server is up.

    Raises:
        RequestError: the settings are unsafe, or the port is taken.
    """
    servers: queue.SimpleQueue[uvicorn.Server] = queue.SimpleQueue()
    with notifications.watching(storage), _listen(wanted, port) if port is not None else _listen_anywhere(wanted) as listener:
        served = _served(listener, wanted)

        def serve_pages() -> None:
            server = _server(storage, wanted, served)
            servers.put(server)
            server.run(sockets=[listener])

        thread = threading.Thread(target=serve_pages, name="dashboard", daemon=True)
        thread.start()
        try:
            yield served
        finally:
            servers.get().should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.started_up: Callable[[], object] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.started_up()


def _server(storage: storages.Storage, wanted: Settings, served: Served) -> _Server:
    pages = app.build(storage, Authentication.of(wanted, served.token))
    config = uvicorn.Config(
        pages,
        log_config=None,
        access_log=False,
        server_header=False,
        # tuner.dashboard.middleware.TrustedProxies does this for the named proxies
        proxy_headers=False,
        # a browser with an open connection must not delay the exit
        timeout_graceful_shutdown=2,
        ssl_certfile=wanted.certificate,
        ssl_keyfile=wanted.key,
    )
    server = _Server(config)
    # streams of open pages end by themselves; otherwise the exit would log a traceback for each
    pages.state.is_over = lambda: server.should_exit
    return server


def _served(listener: socket.socket, wanted: Settings) -> Served:
    return Served(address=f"{wanted.scheme}://{_host_and_port(listener)}{wanted.root_path}", token=settings.start_token(wanted))


def _listen_anywhere(wanted: Settings) -> socket.socket:
    try:
        return _listen(wanted, settings.DEFAULT_PORT)
    except errors.RequestError:
        return _listen(wanted, 0)


def _listen(wanted: Settings, port: int) -> socket.socket:
    settings.check(wanted)
    family, address = _family(wanted.host)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise errors.RequestError(
            f"the dashboard cannot listen on {wanted.host}, port {port}: {reason}; "
            "choose another port with --port, or any free port with --port 0"
        ) from error
    return listener


def _family(host: str) -> tuple[socket.AddressFamily, str]:
    bare = host.removeprefix("[").removesuffix("]")
    return settings.LOOPBACK.get(host, (socket.AF_INET6 if ":" in bare else socket.AF_INET, bare))


def _host_and_port(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host == settings.CONTAINER_HOST and (published := settings.published_address()) is not None:
        return published
    return f"[{host}]:{port}" if listener.family is socket.AF_INET6 else f"{host}:{port}"
