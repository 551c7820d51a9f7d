"""Permissions: identities, roles, and the role that each request needs. A change that is not listed here is refused."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Role of a user or token. Each role includes the rights of the roles before it."""

    #: sees everything, changes nothing
    VIEWER = "viewer"
    #: also changes studies
    EDITOR = "editor"
    #: also deletes studies and reads the audit log
    ADMIN = "admin"

    def allows(self, needed: "Role") -> bool:
        """Return whether this role includes the needed one."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A signed-in user, or a program with a token."""

    name: str
    role: Role


READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_STUDY = "/api/studies/<study_id:int>"
#: routes of optuna-dashboard that change something, as optuna-dashboard writes them. A rename copies the study and deletes it, even
#: if workers train it.
CHANGES: Mapping[tuple[str, str], Role] = {
    ("POST", "/api/studies"): Role.EDITOR,
    ("POST", f"{_STUDY}/rename"): Role.ADMIN,
    ("DELETE", _STUDY): Role.ADMIN,
    ("PUT", f"{_STUDY}/note"): Role.EDITOR,
    ("POST", f"{_STUDY}/preference"): Role.EDITOR,
    ("PUT", f"{_STUDY}/preference_feedback_component"): Role.EDITOR,
    ("DELETE", f"{_STUDY}/preference/<history_id>"): Role.EDITOR,
    ("POST", f"{_STUDY}/preference/<history_id>"): Role.EDITOR,
    ("POST", "/api/trials/<trial_id:int>/tell"): Role.EDITOR,
    ("POST", "/api/trials/<trial_id:int>/user-attrs"): Role.EDITOR,
    ("POST", f"{_STUDY}/<trial_id:int>/skip"): Role.EDITOR,
    ("PUT", f"{_STUDY}/<trial_id:int>/note"): Role.EDITOR,
    ("POST", "/api/artifacts/<study_id:int>/<trial_id:int>"): Role.EDITOR,
    ("POST", "/api/artifacts/<study_id:int>"): Role.EDITOR,
    ("DELETE", "/api/artifacts/<study_id:int>/<trial_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"): Role.ADMIN,
    ("DELETE", "/api/artifacts/<study_id:int>/<artifact_id:re:[0-9a-fA-F-]+>"): Role.ADMIN,
}
#: allowed for admins if the server was started with `--allow-migration`
MIGRATION = ("POST", "/incompatible-rdb-schema")
#: refused to everyone: they send a study to a language model, and none is set up
CLOSED = (
    ("POST", "/api/llm/trial_filter_query"),
    ("POST", "/api/llm/generate_plotly_graph_query"),
    ("POST", "/api/llm/re_generate_plotly_graph_query"),
)
_API = "/tuner/api/v1"
#: changing operations of tuner's own API, in the same syntax
OPERATIONS: Mapping[tuple[str, str], Role] = {
    ("POST", f"{_API}/validate"): Role.EDITOR,
    ("POST", f"{_API}/data"): Role.EDITOR,
    ("POST", f"{_API}/queue"): Role.EDITOR,
    ("PATCH", f"{_API}/queue/<name>"): Role.EDITOR,
    ("POST", f"{_API}/queue/<name>/cancel"): Role.EDITOR,
    ("POST", f"{_API}/queue/<name>/pause"): Role.EDITOR,
    ("POST", f"{_API}/queue/<name>/resume"): Role.EDITOR,
    ("PUT", f"{_API}/limits"): Role.ADMIN,
    ("POST", f"{_API}/pool/drain"): Role.ADMIN,
    ("POST", f"{_API}/pool/stop"): Role.ADMIN,
    ("POST", f"{_API}/pool/start"): Role.ADMIN,
}
#: scopes of tokens as other services name them, and the role of each
SCOPES: Mapping[str, Role] = {"read": Role.VIEWER, "submit": Role.EDITOR, "admin": Role.ADMIN}
#: actions of tuner's own pages; each can require a higher role itself
_ACTIONS = "/tuner/actions/"
#: pages for admins
_PRIVATE = ("/tuner/audit", f"{_API}/audit")
#: pages for editors: what they submit, and the data of the server
_SUBMISSION = ("/tuner/new", f"{_API}/data")

_WILDCARD = re.compile(r"<\w+(?::(int)|:re:([^>]+))?>")


def needed(method: str, path: str, *, allow_migration: bool = False) -> Role | None:
    """Return the role that a request needs; None if the request is refused to everyone."""
    # optuna-dashboard ignores slashes at the end
    path = path.rstrip("/") or "/"
    if method in READING_METHODS:
        return Role.ADMIN if path.startswith(_PRIVATE) else Role.EDITOR if path.startswith(_SUBMISSION) else Role.VIEWER
    if method == "POST" and path.startswith(_ACTIONS):
        return Role.EDITOR
    if allow_migration and (method, path) == MIGRATION:
        return Role.ADMIN
    return next((role for (verb, pattern), role in _PATTERNS if verb == method and pattern.fullmatch(path)), None)


def study_id(path: str) -> int | None:
    """Return the study in a path of optuna-dashboard or of an action."""
    found = re.match(r"/(?:api/studies|api/artifacts|tuner/actions/studies)/([0-9]{1,18})(?:/|$)", path)
    return int(found[1]) if found else None


def trial_id(path: str) -> int | None:
    """Return the trial in a path of optuna-dashboard that does not name the study."""
    found = re.match(r"/api/trials/([0-9]{1,18})(?:/|$)", path)
    return int(found[1]) if found else None


def _pattern(rule: str) -> re.Pattern[str]:
    """Return the regular expression of a route in Bottle's syntax."""
    parts, end = [], 0
    for found in _WILDCARD.finditer(rule):
        parts += [re.escape(rule[end : found.start()]), "[0-9]+" if found[1] else found[2] or "[^/]+"]
        end = found.end()
    return re.compile("".join([*parts, re.escape(rule[end:])]))


_PATTERNS = [((verb, _pattern(rule)), role) for (verb, rule), role in [*CHANGES.items(), *OPERATIONS.items()]]
