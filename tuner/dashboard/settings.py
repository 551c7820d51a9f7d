"""What the environment says of this container's port, into the address at which the machine's own browsers find it.

How a dashboard is to be served: to whom, under which names, with which certificate.
"""

import getpass
import ipaddress
import os
import secrets
import socket
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tuner.dashboard.auth import accounts, sessions
from tuner.dashboard.auth.provider import Provider
from tuner.errors import RequestError

#: where the port of the dashboard's container is published, for example 127.0.0.1:8080
PUBLISHED_AT = "TUNER_DASHBOARD_PUBLISHED_AT"
#: a published port leads to the container's outer address, never to its loopback
HOST = "0.0.0.0"
#: the Dockerfile makes it
MARK = Path(sys.prefix) / "is-image"
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")


def address() -> str | None:
    """Where a browser of the machine reaches this container; None where nothing is said of it, or this is not tuner's image.

    What is said cannot be checked from inside. It is asked for so that no one opens a dashboard without users by `--host` alone.
    Outside of the image it counts for nothing, since there every address of the machine would be served.

    Raises:
        RequestError: the port is published to other machines.
    """
    said = os.environ.get(PUBLISHED_AT)
    if not said or not MARK.exists():
        return None
    host, _, port = said.rpartition(":")
    if host not in _LOOPBACK or not port.isdecimal():
        raise RequestError(
            f"{PUBLISHED_AT} is {said}; it is for a port that is published to this machine only: 127.0.0.1:8080:8080 and "
            f"{PUBLISHED_AT}=127.0.0.1:8080. For others, leave it out, and give the dashboard users and --allowed-host"
        )
    return said


DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
#: names by which a browser on this machine reaches it; any other in the Host header is DNS rebinding
LOOPBACK = {
    "127.0.0.1": (socket.AF_INET, "127.0.0.1"),
    "localhost": (socket.AF_INET, "127.0.0.1"),
    "::1": (socket.AF_INET6, "::1"),
    "[::1]": (socket.AF_INET6, "::1"),
}
_ANY = ("0.0.0.0", "::", "[::]", "")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to serve; what is not said is as on a machine of one's own."""

    host: str = DEFAULT_HOST
    #: who may come in; TUNER_USERS or the user's own file
    users: Path = field(default_factory=accounts.default_path)
    #: names beside the machine's own under which browsers may ask
    allowed_hosts: tuple[str, ...] = ()
    #: addresses or networks whose X-Forwarded headers are believed
    proxies: tuple[str, ...] = ()
    #: PEM files; None: no TLS here
    certificate: Path | None = None
    key: Path | None = None
    session_seconds: float = sessions.DEFAULT_SECONDS
    #: whether an admin may have optuna-dashboard change the schema of the database
    allow_migration: bool = False
    #: whether /metrics needs no token
    open_metrics: bool = False
    #: where else than here people sign in; None: nowhere
    openid: Provider | None = None
    #: where spooled reports lie; None: not looked at
    artifacts: Path | None = None

    @property
    def is_public(self) -> bool:
        """Whether others than people of this machine may reach it: it listens beyond loopback, or a proxy or a name brings them here."""
        return not _is_near(self.host) or bool(self.proxies or self.allowed_hosts)

    @property
    def hosts(self) -> list[str]:
        """Names that a request may be addressed to."""
        own = [] if self.host in _ANY or self.host in LOOPBACK else [self.host]
        return [*LOOPBACK, *own, *self.allowed_hosts]

    @property
    def scheme(self) -> str:
        """Of its own address."""
        return "http" if self.certificate is None else "https"


@dataclass(frozen=True, kw_only=True)
class StartToken:
    """What the link that is printed at the start lets in with; there is one only on a machine of one's own."""

    value: str = field(repr=False)
    #: the user of the process
    name: str

    @classmethod
    def new(cls) -> "StartToken":
        """One that no one has seen."""
        return cls(value=secrets.token_urlsafe(16), name=_user())


def start_token(settings: Settings) -> StartToken | None:
    """The token of a new start; None where others could use the link."""
    return None if settings.is_public else StartToken.new()


def check(settings: Settings) -> None:
    """Refuse what would let anyone in, or no one.

    Raises:
        RequestError: it would; says what to do.
    """
    _check_certificate(settings)
    _check_proxies(settings.proxies)
    admits = settings.openid is not None and settings.openid.roles
    if settings.is_public and not admits and not accounts.read(settings.users).users:
        raise RequestError(
            f"{_public_because(settings)}, so it needs users, and {settings.users} names none. "
            "Add one first: tuner dashboard users add NAME --role admin. "
            f"Or serve this machine only (--host {DEFAULT_HOST}) and reach it through SSH: "
            f"ssh -L {DEFAULT_PORT}:{DEFAULT_HOST}:{DEFAULT_PORT} THIS_MACHINE"
        )
    if settings.host in _ANY and not _is_near(settings.host) and not settings.allowed_hosts:
        raise RequestError(
            f"the dashboard's host is {settings.host or 'empty'}, which is every address of this machine: "
            "say under which names browsers find it, for example --allowed-host tuner.example.com"
        )


def _is_near(host: str) -> bool:
    """Whether only this machine reaches a host; a container's outer address is near if its port is published on loopback only."""
    return host in LOOPBACK or (host == HOST and address() is not None)


def _public_because(settings: Settings) -> str:
    if not _is_near(settings.host):
        return f"the dashboard's host is {settings.host}, which other machines reach"
    return "the dashboard is served to other machines (--proxy, --allowed-host)"


def _check_proxies(proxies: tuple[str, ...]) -> None:
    for given in proxies:
        try:
            ipaddress.ip_network(given)
        except ValueError as error:
            raise RequestError(f"--proxy is {given!r}; expected the address of a proxy, or a network such as 10.0.0.0/8") from error


def _check_certificate(settings: Settings) -> None:
    if (settings.certificate is None) != (settings.key is None):
        raise RequestError("--certificate and --key belong together: give both PEM files, or neither.")
    if settings.certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "they are no PEM files"
        raise RequestError(
            f"--certificate {settings.certificate} with --key {settings.key} cannot be used: {reason}; "
            "expected PEM files that belong together"
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "local"
