"""The environment into the OpenID provider at which people sign in, and what it says of someone into his role."""

import ipaddress
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tuner.dashboard.auth.accounts import Accounts
from tuner.dashboard.auth.permissions import Identity, Role
from tuner.errors import RequestError

ISSUER = "TUNER_OIDC_ISSUER"
CLIENT_ID = "TUNER_OIDC_CLIENT_ID"
CLIENT_SECRET = "TUNER_OIDC_CLIENT_SECRET"
CLIENT_SECRET_FILE = "TUNER_OIDC_CLIENT_SECRET_FILE"
SCOPES = "TUNER_OIDC_SCOPES"
CLAIM = "TUNER_OIDC_CLAIM"
ROLES = "TUNER_OIDC_ROLES"
DOMAINS = "TUNER_OIDC_DOMAINS"
_ALL = (ISSUER, CLIENT_ID, CLIENT_SECRET, CLIENT_SECRET_FILE, SCOPES, CLAIM, ROLES, DOMAINS)
_ANYONE = "*"
_LONGEST_NAME = 254


class NotAdmitted(Exception):
    """The provider knows someone who may not come in here; says why."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Where people sign in, and what makes them viewer, editor or admin."""

    #: as the provider writes itself
    issuer: str
    client_id: str
    #: None: a client that has none, and shows by PKCE alone that it is the one that asked
    client_secret: str | None = field(repr=False)
    #: what is asked for, with blanks between
    scopes: str = "openid email profile"
    #: holds the groups or roles of someone
    claim: str = "groups"
    #: by group; `*` is anyone of the domains
    roles: Mapping[str, Role] = field(default_factory=dict)
    #: of e-mail addresses that the provider has verified; none: any
    domains: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """What people know it by."""
        return urlsplit(self.issuer).hostname or self.issuer

    def admit(self, claims: Mapping[str, Any], accounts: Accounts) -> Identity:
        """Who that is: by the users' file, which names verified e-mail addresses, else by the groups.

        Raises:
            NotAdmitted: he has no role here.
        """
        email = _email(claims)
        named = next((name for name in accounts.book().users if email is not None and name.casefold() == email.casefold()), None)
        if named is not None:
            return Identity(name=named, role=accounts.book().users[named].role)
        name = email or f"{claims['sub']}@{self.name}"
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise NotAdmitted(f"{self.name} gives you a name that cannot be shown.")
        if self.domains and (email is None or email.rpartition("@")[2].casefold() not in self.domains):
            raise NotAdmitted(f"{name} may not come in: only verified e-mail addresses of {', '.join(sorted(self.domains))} may.")
        roles = [self.roles[group] for group in (_ANYONE, *_groups(claims, self.claim)) if group in self.roles]
        if not roles:
            raise NotAdmitted(f"{name} has no role here: no group of {self.claim} gives one, and the users' file does not name you.")
        return Identity(name=name, role=max(roles, key=list(Role).index))


def read(environment: Mapping[str, str]) -> Provider | None:
    """The provider that the environment names; None if it names none.

    Raises:
        RequestError: something is missing, or not understood.
    """
    given = {name: environment[name].strip() for name in _ALL if environment.get(name, "").strip()}
    if not given:
        return None
    missing = [name for name in (ISSUER, CLIENT_ID) if name not in given]
    if missing:
        raise RequestError(f"{' and '.join(missing)} must be set too, since {next(iter(given))} is: sign-in by OpenID Connect needs both")
    roles = dict(_roles(given.get(ROLES, "")))
    domains = frozenset(domain.strip().removeprefix("@").casefold() for domain in given.get(DOMAINS, "").split(",") if domain.strip())
    if _ANYONE in roles and not domains:
        raise RequestError(f"{ROLES} lets in anyone whom the provider knows; say in {DOMAINS} of which e-mail domains, e.g. example.com")
    scopes = given.get(SCOPES, Provider.scopes)
    if "openid" not in scopes.split():
        raise RequestError(f"{SCOPES} is {scopes!r}; expected openid among them, for example: openid email profile groups")
    return Provider(
        issuer=_issuer(given[ISSUER]), client_id=given[CLIENT_ID], client_secret=_secret(given), scopes=scopes,
        claim=given.get(CLAIM, Provider.claim), roles=roles, domains=domains,
    )  # fmt: skip


def here() -> Provider | None:
    """The provider that this process's environment names.

    Raises:
        RequestError: something is missing, or not understood.
    """
    return read(os.environ)


def _issuer(given: str) -> str:
    try:
        parts = urlsplit(given)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or parts.query or parts.fragment or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise RequestError(f"{ISSUER} is {given!r}; expected an address that begins with https://, without ? and #")
    return given


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(given: Mapping[str, str]) -> str | None:
    if CLIENT_SECRET_FILE not in given:
        return given.get(CLIENT_SECRET)
    if CLIENT_SECRET in given:
        raise RequestError(f"{CLIENT_SECRET} and {CLIENT_SECRET_FILE} are both set; give one of them")
    path = Path(given[CLIENT_SECRET_FILE]).expanduser()
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{CLIENT_SECRET_FILE} is {path}, which cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not secret:
        raise RequestError(f"{CLIENT_SECRET_FILE} is {path}, which is empty; expected the client's secret")
    return secret


def _roles(given: str) -> Iterator[tuple[str, Role]]:
    for pair in given.split(","):
        if not pair.strip():
            continue
        group, separator, role = (part.strip() for part in pair.rpartition("="))
        if not group or not separator or role not in list(Role):
            raise RequestError(f"{ROLES} has {pair.strip()!r}; expected GROUP=ROLE with commas between, and {', '.join(Role)} as roles")
        yield group, Role(role)


def _email(claims: Mapping[str, Any]) -> str | None:
    """An address only if the provider has seen that it is his: anyone may write anyone's into a profile."""
    email = claims.get("email")
    return email if isinstance(email, str) and email and claims.get("email_verified") in (True, "true") else None


def _groups(claims: Mapping[str, Any], claim: str) -> list[str]:
    """The texts of a claim, which may lie inside others: `realm_access.roles`."""
    found: Any = claims
    for part in (claim,) if claim in claims else claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    given = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    # the asterisk is ours to give
    return [group for group in given if isinstance(group, str) and group != _ANYONE]
