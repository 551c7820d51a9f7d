"""OpenID provider: its settings in the environment, and the role of a user who signs in there."""

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
_MAX_NAME_LENGTH = 254


class NotAdmitted(Exception):
    """A user of the provider has no access to the dashboard. The message says why."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An OpenID provider, and the roles of its users."""

    #: exactly as in the provider's metadata
    issuer: str
    client_id: str
    #: None: a public client, which proves itself by PKCE only
    client_secret: str | None = field(repr=False)
    #: requested scopes, separated by spaces
    scopes: str = "openid email profile"
    #: the claim with a user's groups or roles
    claim: str = "groups"
    #: roles by group; `*` is any user in the domains
    roles: Mapping[str, Role] = field(default_factory=dict)
    #: allowed domains of verified e-mail addresses; empty: any
    domains: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Host name of the provider, for texts."""
        return urlsplit(self.issuer).hostname or self.issuer

    def admit(self, claims: Mapping[str, Any], accounts: Accounts) -> Identity:
        """Return the identity of a user. The users file with its verified e-mail addresses takes precedence over groups.

        Raises:
            NotAdmitted: the user has no role.
        """
        email = _verified_email(claims)
        named = next((name for name in accounts.read().users if email is not None and name.casefold() == email.casefold()), None)
        if named is not None:
            return Identity(name=named, role=accounts.read().users[named].role)
        name = email or f"{claims['sub']}@{self.name}"
        if not name.isprintable() or len(name) > _MAX_NAME_LENGTH:
            raise NotAdmitted(f"{self.name} sent a user name that is too long or has invisible characters.")
        if self.domains and (email is None or email.rpartition("@")[2].casefold() not in self.domains):
            raise NotAdmitted(f"{name} has no access. Only verified e-mail addresses of {', '.join(sorted(self.domains))} have access.")
        roles = [self.roles[group] for group in (_ANYONE, *_groups(claims, self.claim)) if group in self.roles]
        if not roles:
            raise NotAdmitted(f"{name} has no role: none of the groups in {self.claim} has one, and the users file has no such user.")
        return Identity(name=name, role=max(roles, key=list(Role).index))


def read_provider(environment: Mapping[str, str]) -> Provider | None:
    """Return the provider in environment variables; None if there is none.

    Raises:
        RequestError: a variable is missing or invalid.
    """
    given = {name: environment[name].strip() for name in _ALL if environment.get(name, "").strip()}
    if not given:
        return None
    missing = [name for name in (ISSUER, CLIENT_ID) if name not in given]
    if missing:
        raise RequestError(f"{next(iter(given))} is set, so {' and '.join(missing)} must be set too: OpenID Connect needs them")
    roles = dict(_roles(given.get(ROLES, "")))
    domains = frozenset(domain.strip().removeprefix("@").casefold() for domain in given.get(DOMAINS, "").split(",") if domain.strip())
    if _ANYONE in roles and not domains:
        raise RequestError(f"{ROLES} gives a role to * (any user); name the allowed e-mail domains in {DOMAINS}, for example example.com")
    scopes = given.get(SCOPES, Provider.scopes)
    if "openid" not in scopes.split():
        raise RequestError(f"{SCOPES} is {scopes!r}; expected openid among the scopes, for example: openid email profile groups")
    return Provider(
        issuer=_issuer(given[ISSUER]), client_id=given[CLIENT_ID], client_secret=_secret(given), scopes=scopes,
        claim=given.get(CLAIM, Provider.claim), roles=roles, domains=domains,
    )  # fmt: skip


def provider_here() -> Provider | None:
    """Return the provider in the environment of this process.

    Raises:
        RequestError: a variable is missing or invalid.
    """
    return read_provider(os.environ)


def _issuer(given: str) -> str:
    try:
        parts = urlsplit(given)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if not host or parts.query or parts.fragment or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))):
        raise RequestError(f"{ISSUER} is {given!r}; expected an address that starts with https://, without ? and #")
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
        raise RequestError(f"{CLIENT_SECRET} and {CLIENT_SECRET_FILE} are both set; set only one of them")
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
            raise RequestError(f"{ROLES} has {pair.strip()!r}; expected GROUP=ROLE, separated by commas, with a role of {', '.join(Role)}")
        yield group, Role(role)


def _verified_email(claims: Mapping[str, Any]) -> str | None:
    """Return the e-mail address only if the provider has verified it: a profile can contain any address."""
    email = claims.get("email")
    return email if isinstance(email, str) and email and claims.get("email_verified") in (True, "true") else None


def _groups(claims: Mapping[str, Any], claim: str) -> list[str]:
    """Return the texts of a claim, which can be nested: `realm_access.roles`."""
    found: Any = claims
    for part in (claim,) if claim in claims else claim.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    given = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    # a provider cannot grant the asterisk
    return [group for group in given if isinstance(group, str) and group != _ANYONE]
