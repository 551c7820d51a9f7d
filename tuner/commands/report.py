"""The command that explains a study."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from tuner.commands import defaults
from tuner.commands.parameters import Storage, StudyName

app = typer.Typer()


@app.command()
def report(
    study: StudyName,
    to: Annotated[Path, Option(metavar="FILE", help="File to write: .html or .md.", show_default=False)],
    form: Annotated[Literal["html", "md"] | None, Option("--format", help="What to write.", show_default="as the file's name says")] = None,
    storage: Storage = defaults.STORAGE,
    force: Annotated[bool, Option("--force", help="Replace whatever the file holds.")] = False,
) -> int:
    """Write one page that says all about a study, for a browser without a network."""
    from tuner.commands import reporting

    return reporting.report(study, storage, to, form=form, force=force)
