"""A PgBouncer that belongs to the tests: an ordinary process in front of a PostgreSQL server."""

import contextlib
import os
import random
import shutil
import subprocess
from pathlib import Path

from sqlalchemy.engine import make_url

#: no port of these is given to an outgoing connection
_PORTS = range(20_000, 30_000)
_PORT_TRIES = 20
_POLL_SECONDS = 0.02
#: of Debian
PACKAGE = "pgbouncer"
#: Debian keeps servers where the PATH of a user does not look
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"


class PgBouncer:
    """A pool of a few connections to the databases of a server; it starts when it is made."""

    def __init__(self, folder: Path, server: str, *, mode: str = "transaction", pool_size: int = 1) -> None:
        """`server` is the URL of a database on a PostgreSQL server that listens on a socket."""
        self._folder = folder
        self._sockets = Path(str(make_url(server).query["host"]))
        self._settings = (f"pool_mode = {mode}", f"default_pool_size = {pool_size}", "auth_type = any", "max_client_conn = 200")
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self._start_on_a_free_port()

    def get_uri(self, database: str) -> str:
        """The URL of a database, through the pool."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def remove(self) -> None:
        """End the process."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    @property
    def _log(self) -> Path:
        return self._folder / "pgbouncer.log"

    def _start_on_a_free_port(self) -> int:
        for _ in range(_PORT_TRIES):
            port = random.SystemRandom().choice(_PORTS)
            if self._start(port):
                return port
        raise RuntimeError(f"PgBouncer did not start on any of {_PORT_TRIES} ports:\n{self._log.read_text()}")

    def _start(self, port: int) -> bool:
        """Start on a port; True as soon as it accepts connections, False if it ended instead."""
        config = self._folder / "pgbouncer.ini"
        listens = ("listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =")
        lines = ["[databases]", f"* = host={self._sockets} user=postgres", "[pgbouncer]", *listens, *self._settings]
        config.write_text("\n".join(lines) + "\n")
        # it refuses to run as root; the owner of the server's socket may use that
        user = ["-u", self._sockets.owner()] if os.getuid() == 0 else []
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([_program(), *user, str(config)], stdout=log, stderr=log)
        while b"process up" not in self._log.read_bytes():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_POLL_SECONDS)
                return False
        return True


def _program() -> str:
    found = shutil.which("pgbouncer", path=_PATH)
    if found is None:
        raise RuntimeError(f"pgbouncer is missing; these tests need it: sudo apt-get install --no-install-recommends {PACKAGE}")
    return found
