"""The commands of `tuner dashboard`: serve it, and say who may come in."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import Artifacts, AsJson, Storage, Wait
from tuner.commands import storage_url

_Role = Literal["viewer", "editor", "admin"]
_Name = Annotated[str, Argument(metavar="NAME", help="Name.", show_default=False)]
_Users = Annotated[
    Path | None, Option(envvar="TUNER_USERS", metavar="FILE", help="File of users.", show_default="~/.config/tuner/users.json")
]
_RoleOption = Annotated[_Role, Option("--role", help="What he may do: see, change studies, or everything.", show_default=False)]
_PasswordFile = Annotated[
    Path | None,
    Option(metavar="FILE", help="File whose first line is the password.", show_default="asked at the terminal, else read from stdin"),
]

app = typer.Typer(help="Serve the studies to a browser.", invoke_without_command=True, no_args_is_help=False)
users = typer.Typer(help="Say who may come in with a password.", no_args_is_help=True)
tokens = typer.Typer(help="Say which programs may come in with a token.", no_args_is_help=True)
app.add_typer(users, name="users")
app.add_typer(tokens, name="tokens")


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    storage: Storage = storage_url.STORAGE,
    host: Annotated[str, Option(metavar="HOST", help="Address to serve at; beyond this machine it needs users.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, metavar="PORT", help="Port to serve at; 0: any.")] = 8080,
    opened: Annotated[bool, Option("--open", help="Open it in the browser.")] = False,
    users: _Users = None,
    allowed_host: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Name under which browsers of other machines find it; may be given often.", show_default="none"),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        Option(metavar="ADDRESS", help="Proxy or network whose X-Forwarded headers are believed; may be given often.", show_default="none"),
    ] = None,
    certificate: Annotated[
        Path | None, Option(metavar="FILE", help="PEM file of a certificate, to serve by TLS.", show_default="none")
    ] = None,
    key: Annotated[Path | None, Option(metavar="FILE", help="PEM file of the certificate's key.", show_default="none")] = None,
    session: Annotated[str | None, Option(metavar="TIME", help="How long a sign-in lasts, e.g. 1h.", show_default="12h")] = None,
    allow_migration: Annotated[
        bool, Option("--allow-migration", help="Let admins change the schema of another Optuna's database.")
    ] = False,
    open_metrics: Annotated[bool, Option("--open-metrics", help="Answer /metrics without a token.")] = False,
    artifacts: Artifacts = storage_url.ARTIFACTS,
    wait: Wait = None,
) -> int:
    """Serve the studies to a browser."""
    if context.invoked_subcommand is not None:
        return 0
    from tuner.commands import dashboard

    return dashboard.serve(
        storage,
        dashboard.DashboardOptions(
            host=host, port=port, opened=opened, users=users, allowed_hosts=allowed_host or [], proxies=proxy or [],
            certificate=certificate, key=key, session=session, allow_migration=allow_migration, open_metrics=open_metrics,
            artifacts=artifacts, wait=wait,
        ),
    )  # fmt: skip


@app.command()
def audit(
    storage: Storage = storage_url.STORAGE,
    limit: Annotated[int, Option(min=1, metavar="N", help="How many, the newest first.")] = 100,
    as_json: AsJson = False,
) -> int:
    """Print who signed in and who changed what."""
    from tuner.commands import dashboard

    return dashboard.audit(storage, limit, as_json=as_json)


@users.command("add")
def add_user(
    name: _Name,
    role: _RoleOption,
    password_file: _PasswordFile = None,
    without_password: Annotated[bool, Option("--without-password", help="He signs in at the OpenID provider only.")] = False,
    users: _Users = None,
) -> int:
    """Let someone in, with a password."""
    from tuner.commands import dashboard

    return dashboard.add_user(users, name, role, password_file, has_password=not without_password)


@users.command("change")
def change_user(
    name: _Name,
    role: Annotated[_Role | None, Option("--role", help="His new role.", show_default="as it is")] = None,
    password: Annotated[bool, Option("--password", help="Give him a new password.")] = False,
    password_file: _PasswordFile = None,
    users: _Users = None,
) -> int:
    """Give a user another role or password, and end his sessions."""
    from tuner.commands import dashboard

    return dashboard.change_user(users, name, role, asks=password, password_file=password_file)


@users.command("remove")
def remove_user(name: _Name, users: _Users = None) -> int:
    """Let someone in no more, and end his sessions."""
    from tuner.commands import dashboard

    return dashboard.remove_user(users, name)


@users.command("list")
def list_users(users: _Users = None, as_json: AsJson = False) -> int:
    """Print the users and their roles."""
    from tuner.commands import dashboard

    return dashboard.list_users(users, as_json=as_json)


@tokens.command("add")
def add_token(
    name: _Name,
    role: _RoleOption,
    expires: Annotated[str | None, Option(metavar="TIME", help="How long it is good for, e.g. 90d.", show_default="for ever")] = None,
    users: _Users = None,
) -> int:
    """Let a program in; prints its token, this once."""
    from tuner.commands import dashboard

    return dashboard.add_token(users, name, role, expires)


@tokens.command("remove")
def remove_token(name: _Name, users: _Users = None) -> int:
    """Take a token back."""
    from tuner.commands import dashboard

    return dashboard.remove_token(users, name)


@tokens.command("list")
def list_tokens(users: _Users = None, as_json: AsJson = False) -> int:
    """Print the tokens' names and roles."""
    from tuner.commands import dashboard

    return dashboard.list_tokens(users, as_json=as_json)
