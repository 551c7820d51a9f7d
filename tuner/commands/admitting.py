"""`tuner dashboard users` and `tokens`: the file of those who may come in, changed and shown."""

import getpass
import json
import sys
from pathlib import Path

from tuner.commands import options
from tuner.dashboard import accounts
from tuner.dashboard.identity import Role
from tuner.errors import RequestError
from tuner.terminal import plain, plan, printing


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
