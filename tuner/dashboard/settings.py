"""Settings of a dashboard: address, users, host names, certificate, and checks that they are safe."""

import getpass
import ipaddress
import os
import re
import secrets
import socket
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tuner.dashboard.auth import accounts, sessions
from tuner.dashboard.auth.openid import Provider
from tuner.dashboard.streams import MAX_STREAM_SECONDS
from tuner.dashboard.submission import SubmissionRules
from tuner.errors import RequestError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
#: names of this machine for browsers on it; any other name in the Host header is a sign of DNS rebinding
LOOPBACK = {
    "127.0.0.1": (socket.AF_INET, "127.0.0.1"),
    "localhost": (socket.AF_INET, "127.0.0.1"),
    "::1": (socket.AF_INET6, "::1"),
    "[::1]": (socket.AF_INET6, "::1"),
}
_ANY = ("0.0.0.0", "::", "[::]", "")
#: environment variable with the published address of the container's port, for example 127.0.0.1:8080
PUBLISHED_AT = "TUNER_DASHBOARD_PUBLISHED_AT"
#: a published port leads to the outer address of the container, not to its loopback
CONTAINER_HOST = "0.0.0.0"
#: a path prefix: no empty parts, and no parts of dots
ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~@%+=:,!$&*-]+)+", re.ASCII)
#: this file exists only in tuner's image; the Dockerfile creates it
IMAGE_MARK = Path(sys.prefix) / "is-image"
_PUBLISHABLE_HOSTS = ("127.0.0.1", "[::1]", "localhost")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a dashboard. The defaults are for use on your own machine."""

    host: str = DEFAULT_HOST
    #: users file; the default is TUNER_USERS or the file of the current user
    users: Path = field(default_factory=accounts.default_path)
    #: host names of the dashboard for browsers on other machines
    allowed_hosts: tuple[str, ...] = ()
    #: addresses or networks whose X-Forwarded headers are trusted
    proxies: tuple[str, ...] = ()
    #: path below which browsers see the dashboard, for example /user/me/proxy/8080; "": the root of the host
    root_path: str = ""
    #: PEM files; None: no TLS
    certificate: Path | None = None
    key: Path | None = None
    session_seconds: float = sessions.DEFAULT_SECONDS
    #: after this time, an open page connects anew, and a user who lost their rights is signed out
    max_stream_seconds: float = MAX_STREAM_SECONDS
    #: whether an admin can change the database schema in optuna-dashboard
    allow_migration: bool = False
    #: whether /metrics needs no token
    open_metrics: bool = False
    #: provider where users can sign in; None: only here
    openid: Provider | None = None
    #: what users may submit; None: they cannot submit studies
    submission: SubmissionRules | None = None
    #: folder with artifacts and spooled reports; None: not used
    artifacts: Path | None = None

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach the dashboard: by its host, a proxy, or a host name."""
        return not _is_local(self.host) or bool(self.proxies or self.allowed_hosts)

    @property
    def hosts(self) -> list[str]:
        """Host names that requests can use."""
        own = [] if self.host in _ANY or self.host in LOOPBACK else [self.host]
        return [*LOOPBACK, *own, *self.allowed_hosts]

    @property
    def scheme(self) -> str:
        """Scheme of the dashboard's own address."""
        return "http" if self.certificate is None else "https"


@dataclass(frozen=True, kw_only=True)
class StartToken:
    """Token of the link that tuner prints at the start. Only a dashboard that other machines cannot reach has one."""

    value: str = field(repr=False)
    #: the user of the process
    name: str

    @classmethod
    def new(cls) -> "StartToken":
        """Return a new random token."""
        return cls(value=secrets.token_urlsafe(16), name=_user())


def start_token(settings: Settings) -> StartToken | None:
    """Return a new token; None if other machines can reach the dashboard."""
    return None if settings.is_public else StartToken.new()


def published_address() -> str | None:
    """Return the address of this container's port for browsers on this machine; None outside tuner's image, or if it is not set.

    A process in a container cannot check this address. Without the setting, `--host` alone must not open a dashboard without users.
    Outside tuner's image the setting has no effect, because there the host would open the dashboard to other machines.

    Raises:
        RequestError: the port is published to other machines.
    """
    given = os.environ.get(PUBLISHED_AT)
    if not given or not IMAGE_MARK.exists():
        return None
    host, _, port = given.rpartition(":")
    if host not in _PUBLISHABLE_HOSTS or not port.isdecimal():
        raise RequestError(
            f"{PUBLISHED_AT} is {given}; expected an address that is published to this machine only: 127.0.0.1:8080:8080 and "
            f"{PUBLISHED_AT}=127.0.0.1:8080. To serve other machines, remove it, and add users and --allowed-host"
        )
    return given


def read_root_path(given: str | None) -> str:
    """Return a path prefix without a slash at its end; "" if there is none.

    Raises:
        RequestError: it is not the path of an address.
    """
    path = (given or "").strip().rstrip("/")
    if path and not ROOT_PATH.fullmatch(path):
        raise RequestError(
            f"--root-path is {given}; expected the path of the dashboard's address, without scheme and host: "
            "/user/me/proxy/8080 for https://hub.example.com/user/me/proxy/8080/"
        )
    return path


def check(settings: Settings) -> None:
    """Refuse settings that would let in anyone or no one.

    Raises:
        RequestError: the settings are unsafe or incomplete. The message says what to do.
    """
    _check_certificate(settings)
    _check_proxies(settings.proxies)
    has_roles = settings.openid is not None and settings.openid.roles
    if settings.is_public and not has_roles and not accounts.read(settings.users).users:
        raise RequestError(
            f"{_public_because(settings)}, so it needs users, and {settings.users} has none. "
            "Add a user first: tuner dashboard users add NAME --role admin. "
            f"Or serve this machine only (--host {DEFAULT_HOST}) and use SSH: "
            f"ssh -L {DEFAULT_PORT}:{DEFAULT_HOST}:{DEFAULT_PORT} THIS_MACHINE"
        )
    if settings.host in _ANY and not _is_local(settings.host) and not settings.allowed_hosts:
        raise RequestError(
            f"the dashboard's host is {settings.host or 'empty'}, which means every address of this machine; "
            "add the host names that browsers use, for example --allowed-host tuner.example.com"
        )


def _is_local(host: str) -> bool:
    """Return whether only this machine reaches a host. In tuner's image, this includes a port that is published on loopback only."""
    return host in LOOPBACK or (host == CONTAINER_HOST and published_address() is not None)


def _public_because(settings: Settings) -> str:
    if not _is_local(settings.host):
        return f"the dashboard's host is {settings.host}, which other machines can reach"
    return "other machines can reach the dashboard (--proxy, --allowed-host)"


def _check_proxies(proxies: tuple[str, ...]) -> None:
    for given in proxies:
        try:
            ipaddress.ip_network(given)
        except ValueError as error:
            raise RequestError(f"--proxy is {given!r}; expected the address of a proxy, or a network such as 10.0.0.0/8") from error


def _check_certificate(settings: Settings) -> None:
    if (settings.certificate is None) != (settings.key is None):
        raise RequestError("only one of --certificate and --key is given; give both PEM files, or neither")
    if settings.certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "they are not PEM files"
        raise RequestError(
            f"--certificate {settings.certificate} with --key {settings.key} cannot be used: {reason}; "
            "expected a certificate and its key in PEM files"
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "local"
