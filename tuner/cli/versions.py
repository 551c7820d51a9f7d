"""The commands around versions: list them, put one into production, go back, compare, delete."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import AsJson, Storage
from tuner.commands import storage_url

_Name = Annotated[str, Argument(metavar="NAME", help="Name of the versions: that of their study.", show_default=False)]
_Number = Annotated[int, Argument(metavar="V", min=1, help="Number of a version.", show_default=False)]
_Stage = Literal["production", "staging"]
_Mlflow = Annotated[
    str | None,
    Option(metavar="URI", help="MLflow's tracking server or database, whose model registry is to know it too.", show_default="none"),
]

app = typer.Typer()


@app.command()
def versions(
    name: Annotated[
        str | None, Argument(metavar="[NAME]", help="Name of the versions; all of them if left out.", show_default=False)
    ] = None,
    storage: Storage = storage_url.STORAGE,
    add: Annotated[
        int | None, Option(min=0, metavar="TRIAL", help="Keep a completed trial of the study NAME as a version.", show_default="none")
    ] = None,
    delete: Annotated[int | None, Option(min=1, metavar="V", help="Delete a version of NAME, for good.", show_default="none")] = None,
    deleted: Annotated[bool, Option("--deleted", help="Show those that were deleted, too.")] = False,
    yes: Annotated[bool, Option("--yes", help="Delete without asking.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show the versions that were kept of studies, add one, or delete one."""
    from tuner.commands import versions as commands_versions

    if add is not None:
        return commands_versions.add(commands_versions.named(name, "--add", add, but=delete), storage, add, as_json=as_json)
    if delete is not None:
        return commands_versions.delete(commands_versions.named(name, "--delete", delete), storage, delete, confirmed=yes, as_json=as_json)
    return commands_versions.show(name, storage, deleted=deleted, as_json=as_json)


@app.command()
def promote(
    name: _Name,
    number: _Number,
    to: Annotated[_Stage, Option(help="What it is to be used for.")] = "production",
    mlflow: _Mlflow = None,
    bundle: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Its bundle, whose files MLflow is to have.", show_default="its weights, config and metrics"),
    ] = None,
    storage: Storage = storage_url.STORAGE,
    as_json: AsJson = False,
) -> int:
    """Put a version into production, in place of the one that is there."""
    from tuner.commands import versions as commands_versions

    elsewhere = commands_versions.Elsewhere(mlflow=mlflow, bundle=bundle)
    return commands_versions.promote(name, storage, number, to, elsewhere=elsewhere, as_json=as_json)


@app.command()
def rollback(
    name: _Name,
    stage: Annotated[_Stage, Option(help="Where from.")] = "production",
    withdraw: Annotated[bool, Option("--withdraw", help="Put nothing there instead.")] = False,
    mlflow: _Mlflow = None,
    storage: Storage = storage_url.STORAGE,
    as_json: AsJson = False,
) -> int:
    """Put the version back into production that was there before."""
    from tuner.commands import versions as commands_versions

    elsewhere = commands_versions.Elsewhere(mlflow=mlflow)
    return commands_versions.rollback(name, storage, stage, withdraw=withdraw, elsewhere=elsewhere, as_json=as_json)


@app.command()
def diff(
    name: _Name,
    first: Annotated[int, Argument(metavar="V1", min=1, help="Number of a version.", show_default=False)],
    second: Annotated[int, Argument(metavar="V2", min=1, help="Number of another one.", show_default=False)],
    storage: Storage = storage_url.STORAGE,
    as_json: AsJson = False,
) -> int:
    """Compare two versions: config, data, metrics, and what made them."""
    from tuner.commands import versions as commands_versions

    return commands_versions.diff(name, storage, (first, second), as_json=as_json)
