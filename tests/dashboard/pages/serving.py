"""Pages of tuner without authentication: each request has the role that the test chooses."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.dashboard.auth.permissions import Identity, Role
from tuner.dashboard.pages import routes
from tuner.storage.engine import Storage


class As:
    """Middleware that sets the identity of each request."""

    def __init__(self, app: ASGIApp, role: Role) -> None:
        self.app, self.role = app, role

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["identity"] = Identity(name="ada", role=self.role)
        await self.app(scope, receive, send)


def build(storage: Storage, role: Role = Role.ADMIN, artifacts: Path | None = None, **options: Any) -> Starlette:
    """Return the pages of a storage for a user with a role."""
    return Starlette(routes=routes.routes(storage, artifacts, **options), middleware=[Middleware(As, role=role)])


@contextlib.contextmanager
def beside(storage: Storage, artifacts: Path | None = None) -> Iterator[str]:
    """Serve the pages from a thread of this process, and yield their address."""
    pages = build(storage, artifacts=artifacts)
    server = uvicorn.Server(uvicorn.Config(pages, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    pages.state.is_over = lambda: server.should_exit
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
