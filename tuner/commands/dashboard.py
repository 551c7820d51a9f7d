"""`tuner dashboard` and `tuner dashboard audit`: the studies served to browsers, and what was done there, shown.

`tuner dashboard users` and `tokens`: the file of those who may come in, changed and shown.
"""

import dataclasses
import datetime as dt
import getpass
import json
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from tuner.commands import options
from tuner.commands.waiting import Patience
from tuner.dashboard.auth import accounts
from tuner.dashboard.auth.permissions import Role
from tuner.errors import RequestError
from tuner.storage import audit as audits
from tuner.storage import engine as storages
from tuner.terminal import plain, plan, printing


@dataclass(frozen=True, kw_only=True)
class DashboardOptions:
    """What the command line says."""

    host: str
    port: int
    opened: bool
    users: Path | None
    allowed_hosts: list[str]
    proxies: list[str]
    certificate: Path | None
    key: Path | None
    session: str | None
    allow_migration: bool
    open_metrics: bool
    artifacts: str
    wait: str | None


def serve(url: str, asked: DashboardOptions) -> int:
    """Serve the dashboard until Ctrl-C, as soon as the database answers."""
    from tuner.dashboard import server, settings
    from tuner.dashboard.auth import accounts, provider, sessions

    wanted = settings.Settings(
        host=asked.host,
        users=asked.users.expanduser() if asked.users else accounts.default_path(),
        allowed_hosts=tuple(asked.allowed_hosts),
        proxies=tuple(asked.proxies),
        certificate=asked.certificate,
        key=asked.key,
        session_seconds=sessions.DEFAULT_SECONDS if asked.session is None else options.read_seconds("--session", asked.session),
        allow_migration=asked.allow_migration,
        open_metrics=asked.open_metrics,
        artifacts=options.read(asked.artifacts)[0],
        openid=provider.here(),
    )
    wait_seconds = options.wait_seconds(asked.wait)
    settings.check(wanted)

    def ready(served: server.Served) -> None:
        plain.line(f"The dashboard is at {served.link} (Ctrl-C ends it)")
        if asked.opened and not webbrowser.open(served.link):
            plain.line("There is no browser here to open it in.")

    server.serve(Patience(wait_seconds).open(url), wanted, asked.port, ready=ready)
    return 0


def audit(url: str, limit: int, *, as_json: bool) -> int:
    """Print the latest records of who did what, the newest first."""
    found = audits.read(storages.open(url), limit=limit) if options.is_there(url) else []
    if as_json:
        plain.result(json.dumps([{"id": record.id, "at": record.at, **dataclasses.asdict(record.event)} for record in found], indent=2))
    elif not found:
        plain.result("Nothing was changed through the dashboard yet, and no one signed in.")
    else:
        rows = plan.table("when (UTC)", "who", "role", "what", "status", "study", "from", right=("status",))
        for record in found:
            deed = record.event
            when = f"{dt.datetime.fromtimestamp(record.at, dt.UTC):%Y-%m-%d %H:%M:%S}"
            cells = (when, deed.who, deed.role or "refused", f"{deed.method} {deed.path}", str(deed.status), deed.study, deed.address)
            rows.add_row(*(Text(_visible(cell)) for cell in cells))
        printing.result(rows)
    return 0


def _visible(text: str) -> str:
    """A text that someone else chose, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def add_user(path: Path | None, name: str, role: str, password_file: Path | None, *, has_password: bool) -> int:
    """Let someone in, with a password that is asked for or as an e-mail address that an OpenID provider verifies."""
    accounts.check_name(name)
    if not has_password and (password_file is not None or "@" not in name):
        raise RequestError(
            f"--without-password is for {name} to sign in at an OpenID provider; expected an e-mail address as name, and no --password-file"
        )
    place = _place(path)
    if name in accounts.read(place).users:
        raise RequestError(f"there is a user {name} already; change the role or the password with: tuner dashboard users change {name}")
    accounts.add_user(place, name, Role(role), _password(password_file) if has_password else None)
    plain.line(f"{name} may come in as {role}; {place} says so.")
    return 0


def change_user(path: Path | None, name: str, role: str | None, *, asks: bool, password_file: Path | None) -> int:
    """Give a user another role, another password, or both."""
    if role is None and not asks and password_file is None:
        raise RequestError("nothing to change is named; expected --role, --password or --password-file.")
    password = _password(password_file) if asks or password_file is not None else None
    accounts.change_user(_place(path), name, role=None if role is None else Role(role), password=password)
    plain.line(f"{name} is changed, and must sign in again.")
    return 0


def remove_user(path: Path | None, name: str) -> int:
    """Let someone in no more."""
    accounts.remove_user(_place(path), name)
    plain.line(f"{name} may come in no more.")
    return 0


def list_users(path: Path | None, *, as_json: bool) -> int:
    """Print the users."""
    found = accounts.read(_place(path)).users
    if as_json:
        plain.result(
            json.dumps([{"name": name, "role": str(user.role), "added_at": user.added_at} for name, user in found.items()], indent=2)
        )
        return 0
    return _print(
        [(name, str(user.role)) for name, user in found.items()],
        none="There are no users. Add one: tuner dashboard users add NAME --role admin",
    )


def add_token(path: Path | None, name: str, role: str, expires: str | None) -> int:
    """Let a program in; prints its token."""
    seconds = None if expires is None else options.read_seconds("--expires", expires)
    token = accounts.add_token(_place(path), name, Role(role), seconds=seconds)
    plain.line("This is the token; it is not kept and not shown again. Programs send it as: Authorization: Bearer TOKEN")
    plain.result(token)
    return 0


def remove_token(path: Path | None, name: str) -> int:
    """Take a token back."""
    accounts.remove_token(_place(path), name)
    plain.line(f"The token {name} is good for nothing now.")
    return 0


def list_tokens(path: Path | None, *, as_json: bool) -> int:
    """Print the tokens, but for themselves."""
    found = accounts.read(_place(path)).tokens
    if as_json:
        told = [
            {"name": name, "role": str(token.role), "added_at": token.added_at, "ends_at": token.ends_at} for name, token in found.items()
        ]
        plain.result(json.dumps(told, indent=2))
        return 0
    return _print(
        [(name, str(token.role)) for name, token in found.items()],
        none="There are no tokens. Add one: tuner dashboard tokens add NAME --role viewer",
    )


def _print(found: list[tuple[str, str]], *, none: str) -> int:
    if not found:
        plain.result(none)
        return 0
    rows = plan.table("name", "role")
    for name, role in found:
        rows.add_row(name, role)
    printing.result(rows)
    return 0


def _place(given: Path | None) -> Path:
    return given.expanduser() if given is not None else accounts.default_path()


def _password(file: Path | None) -> str:
    """A password from a file, the terminal without echo, or stdin; never from the command line, which other users can read."""
    if file is not None:
        try:
            return _first_line(file.expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise RequestError(f"--password-file is {file}, which cannot be read: {reason}.") from error
    if not sys.stdin.isatty():
        return _first_line(sys.stdin.readline())
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        raise RequestError("the two passwords differ; nothing was changed.")
    return password


def _first_line(text: str) -> str:
    return (text.splitlines() or [""])[0]
