"""`tuner dashboard`: serve it, show its audit log, and manage its users and tokens."""

import dataclasses
import datetime as dt
import getpass
import json
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from tuner import wording
from tuner.commands import artifacts, options, storage_url
from tuner.commands.waiting import Deadline
from tuner.dashboard.auth import accounts
from tuner.dashboard.auth.permissions import SCOPES, Role
from tuner.errors import RequestError
from tuner.storage import audit as audits
from tuner.storage import engine as storages
from tuner.terminal import plain, printing

if TYPE_CHECKING:
    from tuner.dashboard.submission import SubmissionRules


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """The options of `tuner dashboard`."""

    host: str
    port: int
    opened: bool
    users: Path | None
    allowed_hosts: list[str]
    proxies: list[str]
    root_path: str | None
    certificate: Path | None
    key: Path | None
    session: str | None
    allow_migration: bool
    open_metrics: bool
    artifacts: str
    wait: str | None
    submit: bool = False
    data_roots: Sequence[Path] = ()
    uploads: Path | None = None
    allow_code: str | None = None


def serve(url: str, asked: DashboardOptions) -> int:
    """Wait until the database answers, then serve the dashboard until Ctrl-C."""
    from tuner.dashboard import server, settings
    from tuner.dashboard.auth import accounts, openid, sessions

    wanted = settings.Settings(
        host=asked.host,
        users=asked.users.expanduser() if asked.users else accounts.default_path(),
        allowed_hosts=tuple(asked.allowed_hosts),
        proxies=tuple(asked.proxies),
        root_path=settings.read_root_path(asked.root_path),
        certificate=asked.certificate,
        key=asked.key,
        session_seconds=sessions.DEFAULT_SECONDS if asked.session is None else options.read_seconds("--session", asked.session),
        allow_migration=asked.allow_migration,
        open_metrics=asked.open_metrics,
        artifacts=artifacts.locate(asked.artifacts)[0],
        openid=openid.provider_here(),
        submission=submission_rules(asked),
    )
    wait_seconds = options.read_wait_seconds(asked.wait)
    settings.check(wanted)

    new_database = storage_url.announcement(url)

    def ready(served: server.Served) -> None:
        plain.line(f"The dashboard is at {served.link} (stop it with Ctrl-C)" + (f"; {new_database}" if new_database else ""))
        if asked.opened and not webbrowser.open(served.link):
            plain.line("No browser was found on this machine. Open the link in a browser of your own.")

    server.serve(Deadline(wait_seconds).open_storage(url), wanted, asked.port, ready=ready)
    return 0


def submission_rules(asked: DashboardOptions) -> "SubmissionRules | None":
    """Return what users may submit; None without --submit.

    Raises:
        RequestError: an option is missing or wrong.
    """
    from tuner.dashboard.submission import SubmissionRules
    from tuner.trust import user_code
    from tuner.trust.roots import Roots

    if not asked.submit:
        if asked.data_roots or asked.uploads:
            raise RequestError("--data-roots and --uploads apply only to submitted studies; add --submit, or drop them")
        return None
    if not asked.data_roots and asked.uploads is None:
        raise RequestError("--submit needs the folders whose data submitted studies may read: --data-roots /srv/data")
    uploads = None if asked.uploads is None else asked.uploads.expanduser().resolve()
    if uploads is not None:
        uploads.mkdir(parents=True, exist_ok=True)
    roots = Roots.of([*asked.data_roots, *([] if uploads is None else [uploads])])
    return SubmissionRules(roots=roots, uploads=uploads, allowed_code=user_code.read_allowed(asked.allow_code))


def show_audit(url: str, limit: int, *, as_json: bool) -> int:
    """Print the latest entries of the audit log, newest first."""
    found = audits.read(storages.open(url), limit=limit) if storage_url.exists(url) else []
    if as_json:
        plain.result(json.dumps([{"id": record.id, "at": record.at, **dataclasses.asdict(record.event)} for record in found], indent=2))
    elif not found:
        plain.result("The audit log is empty: nobody has signed in to the dashboard or changed anything.")
    else:
        rows = printing.table("time (UTC)", "user", "role", "request", "status", "study", "address", right=("status",))
        for record in found:
            event = record.event
            when = f"{dt.datetime.fromtimestamp(record.at, dt.UTC):%Y-%m-%d %H:%M:%S}"
            cells = (
                when,
                event.who,
                event.role or "refused",
                f"{event.method} {event.path}",
                str(event.status),
                event.study,
                event.address,
            )
            rows.add_row(*(Text(wording.visible(cell)) for cell in cells))
        printing.result(rows)
    return 0


def add_user(path: Path | None, name: str, role: str, password_file: Path | None, *, has_password: bool) -> int:
    """Add a user who signs in with a password, or whose e-mail address an OpenID provider verifies."""
    accounts.check_name(name)
    if not has_password and (password_file is not None or "@" not in name):
        raise RequestError(
            f"--without-password adds a user who signs in at an OpenID provider; expected an e-mail address instead of {name}, "
            "and no --password-file"
        )
    file = _users_file(path)
    if name in accounts.read(file).users:
        raise RequestError(f"the user {name} exists already; change the role or the password with: tuner dashboard users change {name}")
    accounts.add_user(file, name, Role(role), _password(password_file) if has_password else None)
    plain.line(f"Added the user {name} with the role {role} to {file}.")
    return 0


def change_user(path: Path | None, name: str, role: str | None, *, asks: bool, password_file: Path | None) -> int:
    """Change the role of a user, the password, or both."""
    if role is None and not asks and password_file is None:
        raise RequestError("expected at least one change: --role, --password or --password-file.")
    password = _password(password_file) if asks or password_file is not None else None
    accounts.change_user(_users_file(path), name, role=None if role is None else Role(role), password=password)
    plain.line(f"Changed the user {name}, who must sign in again.")
    return 0


def remove_user(path: Path | None, name: str) -> int:
    """Remove a user and end their sessions."""
    accounts.remove_user(_users_file(path), name)
    plain.line(f"Removed the user {name}.")
    return 0


def list_users(path: Path | None, *, as_json: bool) -> int:
    """Print the users and their roles."""
    found = accounts.read(_users_file(path)).users
    if as_json:
        plain.result(
            json.dumps([{"name": name, "role": str(user.role), "added_at": user.added_at} for name, user in found.items()], indent=2)
        )
        return 0
    return _print_roles(
        [(name, str(user.role)) for name, user in found.items()],
        none="There are no users. Add one with: tuner dashboard users add NAME --role admin",
    )


def add_token(path: Path | None, name: str, role: str | None, expires: str | None, *, scope: str | None = None) -> int:
    """Create a token for a program, and print it."""
    seconds = None if expires is None else options.read_seconds("--expires", expires)
    if (role is None) == (scope is None):
        raise RequestError("expected one of --role and --scope: --scope submit is the same as --role editor")
    granted = Role(role) if role is not None else SCOPES[scope or ""]
    token = accounts.add_token(_users_file(path), name, granted, seconds=seconds)
    plain.line("Copy the token now: it is not stored and not shown again. Programs send it as: Authorization: Bearer TOKEN")
    plain.result(token)
    return 0


def remove_token(path: Path | None, name: str) -> int:
    """Revoke a token."""
    accounts.remove_token(_users_file(path), name)
    plain.line(f"Token {name} is revoked.")
    return 0


def list_tokens(path: Path | None, *, as_json: bool) -> int:
    """Print the names and roles of the tokens, never the tokens themselves."""
    found = accounts.read(_users_file(path)).tokens
    if as_json:
        described = [
            {"name": name, "role": str(token.role), "added_at": token.added_at, "ends_at": token.ends_at} for name, token in found.items()
        ]
        plain.result(json.dumps(described, indent=2))
        return 0
    return _print_roles(
        [(name, str(token.role)) for name, token in found.items()],
        none="There are no tokens. Add one with: tuner dashboard tokens add NAME --role viewer",
    )


def _print_roles(found: list[tuple[str, str]], *, none: str) -> int:
    if not found:
        plain.result(none)
        return 0
    rows = printing.table("name", "role")
    for name, role in found:
        rows.add_row(name, role)
    printing.result(rows)
    return 0


def _users_file(given: Path | None) -> Path:
    return given.expanduser() if given is not None else accounts.default_path()


def _password(file: Path | None) -> str:
    """Read a password from a file, the terminal or stdin. Other users could read it on the command line."""
    if file is not None:
        try:
            return _first_line(file.expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise RequestError(f"--password-file is {file}, which cannot be read: {reason}.") from error
    if not sys.stdin.isatty():
        return _first_line(sys.stdin.readline())
    password = getpass.getpass("Password: ")
    if getpass.getpass("Repeat the password: ") != password:
        raise RequestError("the two passwords differ; nothing was changed.")
    return password


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]
