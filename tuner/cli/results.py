"""The commands that take a study as a whole: explain it, or carry its trials over into another search."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from tuner.cli.parameters import AsJson, Cache, Storage, StudyName
from tuner.commands import storage_url

app = typer.Typer()


@app.command()
def report(
    study: StudyName,
    to: Annotated[Path, Option(metavar="FILE", help="File to write: .html or .md.", show_default=False)],
    form: Annotated[Literal["html", "md"] | None, Option("--format", help="What to write.", show_default="as the file's name says")] = None,
    storage: Storage = storage_url.STORAGE,
    force: Annotated[bool, Option("--force", help="Replace whatever the file holds.")] = False,
) -> int:
    """Write one page that says all about a study, for a browser without a network."""
    from tuner.commands import show

    return show.report(study, storage, to, form=form, force=force)


@app.command()
def migrate(
    study: StudyName,
    study_file: Annotated[Path, Argument(metavar="FILE", help="Study file with the changed search.", show_default=False)],
    storage: Storage = storage_url.STORAGE,
    cache: Cache = None,
    as_json: AsJson = False,
) -> int:
    """Carry a study's trials over into a changed search; the study itself stays as it is."""
    from tuner.commands import migrate as commands_migrate
    from tuner.commands import options

    return commands_migrate.migrate(study, study_file, storage, cache=options.cache(cache), as_json=as_json)
