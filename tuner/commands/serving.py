"""`tuner dashboard` and `tuner dashboard audit`: the studies served to browsers, and what was done there, shown."""

import dataclasses
import datetime as dt
import json
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from tuner.commands import artifacts, options
from tuner.commands.waiting import Patience
from tuner.search import audit as audits
from tuner.search import storage as storages
from tuner.terminal import plain, plan, printing


@dataclass(frozen=True, kw_only=True)
class Asked:
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


def serve(url: str, asked: Asked) -> int:
    """Serve the dashboard until Ctrl-C, as soon as the database answers."""
    from tuner.dashboard import accounts, provider, server, sessions, settings

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
        artifacts=artifacts.read(asked.artifacts)[0],
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
        plain.result(json.dumps([{"id": record.id, "at": record.at, **dataclasses.asdict(record.deed)} for record in found], indent=2))
    elif not found:
        plain.result("Nothing was changed through the dashboard yet, and no one signed in.")
    else:
        rows = plan.table("when (UTC)", "who", "role", "what", "status", "study", "from", right=("status",))
        for record in found:
            deed = record.deed
            when = f"{dt.datetime.fromtimestamp(record.at, dt.UTC):%Y-%m-%d %H:%M:%S}"
            cells = (when, deed.who, deed.role or "refused", f"{deed.method} {deed.path}", str(deed.status), deed.study, deed.address)
            rows.add_row(*(Text(_visible(cell)) for cell in cells))
        printing.result(rows)
    return 0


def _visible(text: str) -> str:
    """A text that someone else chose, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
