"""Commands that operate a service: `tuner dashboard`, `cache`, `copy` and `doctor`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import (
    DEFAULT_ARTIFACTS,
    DEFAULT_STORAGE,
    AllowCode,
    Artifacts,
    AsJson,
    Cache,
    CacheLimit,
    RootPath,
    Storage,
    StudyName,
    Wait,
)

_Role = Literal["viewer", "editor", "admin"]
_User = Annotated[str, Argument(metavar="NAME", help="Name or e-mail address of the user.", show_default=False)]
_Token = Annotated[str, Argument(metavar="NAME", help="Name of the token.", show_default=False)]
_Users = Annotated[
    Path | None, Option(envvar="TUNER_USERS", metavar="FILE", help="File of users and tokens.", show_default="~/.config/tuner/users.json")
]
_RoleOption = Annotated[_Role, Option("--role", help="Role: viewer, editor or admin.", show_default=False)]
_PasswordFile = Annotated[
    Path | None,
    Option(metavar="FILE", help="File whose first line is the password.", show_default="asked at the terminal, else read from stdin"),
]

app = typer.Typer()
dashboard = typer.Typer(help="Serve the dashboard to browsers, and manage its users.", invoke_without_command=True, no_args_is_help=False)
users = typer.Typer(help="Manage users who sign in with a password.", no_args_is_help=True)
tokens = typer.Typer(help="Manage tokens of programs.", no_args_is_help=True)
app.add_typer(dashboard, name="dashboard")
dashboard.add_typer(users, name="users")
dashboard.add_typer(tokens, name="tokens")


@dashboard.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    storage: Storage = DEFAULT_STORAGE,
    host: Annotated[str, Option(metavar="HOST", help="Address to serve at. Serving other machines needs users.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, metavar="PORT", help="Port to serve at. 0: any.")] = 8080,
    opened: Annotated[bool, Option("--open", help="Open the dashboard in a browser.")] = False,
    users: _Users = None,
    allowed_host: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Host name that browsers of other machines use (repeatable).", show_default="none"),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        Option(metavar="ADDRESS", help="Proxy or network whose X-Forwarded headers are trusted (repeatable).", show_default="none"),
    ] = None,
    root_path: RootPath = None,
    certificate: Annotated[
        Path | None, Option(metavar="FILE", help="PEM file of a certificate, to serve HTTPS.", show_default="none")
    ] = None,
    key: Annotated[Path | None, Option(metavar="FILE", help="PEM file of the certificate's key.", show_default="none")] = None,
    session: Annotated[str | None, Option(metavar="TIME", help="Time until a session expires, e.g. 1h.", show_default="12h")] = None,
    allow_migration: Annotated[
        bool, Option("--allow-migration", help="Allow admins to migrate a database of another Optuna version.")
    ] = False,
    open_metrics: Annotated[bool, Option("--open-metrics", help="Serve /metrics without a token.")] = False,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    wait: Wait = None,
    submit: Annotated[bool, Option("--submit", help="Let editors submit studies to the queue. Needs --data-roots.")] = False,
    data_roots: Annotated[
        list[Path] | None,
        Option(envvar="TUNER_DATA_ROOTS", metavar="FOLDER", help="Folder of data for submitted studies (repeatable).", show_default="none"),
    ] = None,
    uploads: Annotated[
        Path | None,
        Option(envvar="TUNER_UPLOADS", metavar="FOLDER", help="Folder for images that editors upload.", show_default="no uploads"),
    ] = None,
    allow_code: AllowCode = None,
) -> int:
    """Serve the dashboard to browsers."""
    if context.invoked_subcommand is not None:
        return 0
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.serve(
        storage,
        commands_dashboard.DashboardOptions(
            host=host, port=port, opened=opened, users=users, allowed_hosts=allowed_host or [], proxies=proxy or [],
            certificate=certificate, key=key, session=session, allow_migration=allow_migration, open_metrics=open_metrics,
            artifacts=artifacts, wait=wait, root_path=root_path, submit=submit, data_roots=data_roots or [], uploads=uploads,
            allow_code=allow_code,
        ),
    )  # fmt: skip


@dashboard.command()
def audit(
    storage: Storage = DEFAULT_STORAGE,
    limit: Annotated[int, Option(min=1, metavar="N", help="Maximum number of entries, newest first.")] = 100,
    as_json: AsJson = False,
) -> int:
    """Print sign-ins and changes, with who made them."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.show_audit(storage, limit, as_json=as_json)


@users.command("add")
def add_user(
    name: _User,
    role: _RoleOption,
    password_file: _PasswordFile = None,
    without_password: Annotated[bool, Option("--without-password", help="The user signs in at the OpenID provider only.")] = False,
    users: _Users = None,
) -> int:
    """Add a user."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.add_user(users, name, role, password_file, has_password=not without_password)


@users.command("change")
def change_user(
    name: _User,
    role: Annotated[_Role | None, Option("--role", help="New role.", show_default="unchanged")] = None,
    password: Annotated[bool, Option("--password", help="Set a new password.")] = False,
    password_file: _PasswordFile = None,
    users: _Users = None,
) -> int:
    """Change the role or the password of a user, and end their sessions."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.change_user(users, name, role, asks=password, password_file=password_file)


@users.command("remove")
def remove_user(name: _User, users: _Users = None) -> int:
    """Remove a user and end their sessions."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.remove_user(users, name)


@users.command("list")
def list_users(users: _Users = None, as_json: AsJson = False) -> int:
    """Print the users and their roles."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.list_users(users, as_json=as_json)


@tokens.command("add")
def add_token(
    name: _Token,
    role: Annotated[_Role | None, Option("--role", help="Role: viewer, editor or admin.", show_default=False)] = None,
    scope: Annotated[
        Literal["read", "submit", "admin"] | None,
        Option(help="Scope, in place of a role: read (viewer), submit (editor) or admin.", show_default=False),
    ] = None,
    expires: Annotated[str | None, Option(metavar="TIME", help="Time until the token expires, e.g. 90d.", show_default="never")] = None,
    users: _Users = None,
) -> int:
    """Create a token for a program. It is printed only once."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.add_token(users, name, role, expires, scope=scope)


@tokens.command("remove")
def remove_token(name: _Token, users: _Users = None) -> int:
    """Revoke a token."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.remove_token(users, name)


@tokens.command("list")
def list_tokens(users: _Users = None, as_json: AsJson = False) -> int:
    """Print the names and roles of all tokens."""
    from tuner.commands import dashboard as commands_dashboard

    return commands_dashboard.list_tokens(users, as_json=as_json)


@app.command("cache")
def cached(
    action: Annotated[Literal["show", "clear"], Argument(help="show: list the entries. clear: delete them.")] = "show",
    kind: Annotated[str | None, Option(metavar="KIND", help="Only entries of this kind, e.g. images.", show_default="all")] = None,
    older_than: Annotated[
        str | None, Option(metavar="TIME", help="Only entries that were not used for this long, e.g. 7d.", show_default="all")
    ] = None,
    study: Annotated[str | None, Option(metavar="STUDY", help="Only entries of this study.", show_default="all")] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
    cache: Cache = None,
    cache_limit: CacheLimit = None,
) -> int:
    """Show the entries of the cache, or delete them."""
    from tuner.commands import maintenance, options

    options.limit_cache(cache_limit)
    folder = options.cache_folder(cache)
    chosen = maintenance.EntryFilter(kind=kind, older_than=older_than, study=study)
    if action == "show":
        return maintenance.show_cache(folder, chosen, as_json=as_json)
    return maintenance.clear_cache(folder, chosen, confirmed=yes, as_json=as_json)


@app.command()
def copy(
    study: StudyName,
    to: Annotated[str, Option(metavar="URL", help="SQLAlchemy URL of the database that gets the copy.", show_default=False)],
    name: Annotated[str | None, Option(metavar="NAME", help="Name of the copy.", show_default="the same")] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Copy a whole study into another database."""
    from tuner.commands import migrate

    return migrate.copy(study, storage, to=to, name=name, as_json=as_json)


@app.command()
def doctor(
    storage: Storage = DEFAULT_STORAGE,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    cache: Cache = None,
    fix: Annotated[bool, Option("--fix", help="Fix the problems that are safe to fix.")] = False,
    pool: Annotated[bool, Option("--pool", help="Check the workers of the pool and the queue instead.")] = False,
    timeout: Annotated[float, Option(min=1, metavar="SECONDS", help="Time limit of each check.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Check the storage, folders, GPUs, memory and packages."""
    from tuner.commands import maintenance

    work = maintenance.examine_pool if pool else maintenance.examine_and_fix if fix else maintenance.examine
    return maintenance.print_findings(work(storage, artifacts, cache, timeout), as_json=as_json)
