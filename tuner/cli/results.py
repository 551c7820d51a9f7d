"""Commands that show results: `tuner status`, `watch`, `best` and `report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from tuner.cli.parameters import DEFAULT_STORAGE, AnyStudy, AsJson, Storage, StudyName

app = typer.Typer()


@app.command()
def status(study: AnyStudy = None, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Show the state, the trials and the best value of one study or all studies."""
    from tuner.commands import show

    return show.show_status(study, storage, as_json=as_json)


@app.command()
def watch(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Show a study live in the terminal, from any machine that reaches the storage."""
    from tuner.commands import show

    return show.watch(study, storage, as_json=as_json)


@app.command()
def best(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
    as_yaml: Annotated[bool, Option("--yaml", help="Print the whole configuration as a study file.")] = False,
) -> int:
    """Print the best trial of a study."""
    from tuner.commands import options, show

    return show.show_best(study, storage, form=options.output_format(as_json=as_json, as_yaml=as_yaml))


@app.command()
def report(
    study: StudyName,
    to: Annotated[Path, Option(metavar="FILE", help="File to write: .html or .md.", show_default=False)],
    form: Annotated[Literal["html", "md"] | None, Option("--format", help="Format of the file.", show_default="by its suffix")] = None,
    storage: Storage = DEFAULT_STORAGE,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
) -> int:
    """Write one file that describes a whole study, as HTML or Markdown."""
    from tuner.commands import show

    return show.write_report(study, storage, to, form=form, force=force)
