"""A MariaDB server that belongs to the tests: an ordinary process with its data in a folder."""

import contextlib
import getpass
import os
import random
import shutil
import subprocess
from pathlib import Path

import pymysql

#: no port of these is given to an outgoing connection, which could take it while the server is away
_PORTS = range(20_000, 30_000)
_PORT_TRIES = 20
_POLL_SECONDS = 0.02
#: central Europe, where an hour of the night occurs twice at the end of summer time: no time of tuner depends on the zone of the server
TIME_ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"
#: of Debian; they bring no service that would start by itself
PACKAGES = "mariadb-server-core mariadb-client-core"
#: Debian keeps servers where the PATH of a user does not look
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"
_SETTINGS = (
    "--no-defaults",
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--character-set-server=utf8mb4",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=8M",
    "--max-connections=400",
)


class Server:
    """One server, which starts when it is made.

    With `survives_power_cuts=False` it writes what is committed to the disk once a second, which is faster.
    """

    def __init__(self, folder: Path, *, survives_power_cuts: bool = True) -> None:
        self._folder = folder
        self._flush = 1 if survives_power_cuts else 2
        self._process: subprocess.Popen[bytes] | None = None
        install = [f"--datadir={self._data}", "--auth-root-authentication-method=normal", "--skip-test-db", "--cross-bootstrap"]
        command = [_program("mariadb-install-db"), "--no-defaults", *install, f"--user={getpass.getuser()}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PATH": _PATH})
        self.port = self._start_on_a_free_port()

    def get_uri(self, database: str = "") -> str:
        """The URL of a database, for the user who may do everything."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement as the user who may do everything."""
        connection = pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)

    def get_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server on the port that it had, and wait until it answers."""
        if not self._start(self.port):
            raise RuntimeError(f"MariaDB did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        """Shut the server down as an administrator does."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    def remove(self) -> None:
        """End the server, and delete what it kept."""
        self.kill()
        shutil.rmtree(self._folder)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _start_on_a_free_port(self) -> int:
        for _ in range(_PORT_TRIES):
            port = random.SystemRandom().choice(_PORTS)
            if self._start(port):
                return port
        raise RuntimeError(f"MariaDB did not start on any of {_PORT_TRIES} ports:\n{self._log.read_text()}")

    def _start(self, port: int) -> bool:
        """Start on a port; True as soon as the server accepts connections, False if it ended instead."""
        places = [f"--datadir={self._data}", f"--socket={self._folder / 's'}", f"--pid-file={self._folder / 'pid'}", f"--port={port}"]
        command = [_program("mariadbd"), *_SETTINGS, f"--innodb-flush-log-at-trx-commit={self._flush}", *places]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--user={getpass.getuser()}"], stdout=log, stderr=log, env=os.environ | {"TZ": TIME_ZONE}
            )
        while b"ready for connections" not in self._log.read_bytes():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_POLL_SECONDS)
                return False
        return True


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"{name} is missing; these tests need MariaDB: sudo apt-get install --no-install-recommends {PACKAGES}")
    return found
