"""Commands to get started: `tuner init`, `check` and `schema`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from tuner.cli.parameters import Cache, StudyFile

app = typer.Typer()


@app.command()
def init(
    name: Annotated[str, Argument(metavar="NAME", help="Name of the new study.", show_default=False)],
    images: Annotated[str, Option(metavar="FOLDER", help="Folder with one sub-folder of images per class.", show_default=False)],
    class_pattern: Annotated[
        str | None,
        Option(metavar="REGEX", help="Find the class in the path of each image, in parentheses: '(\\w+)_\\d+'.", show_default=False),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        Option(metavar="PATTERN", help="Leave out folders and files by name or shell pattern (repeatable).", show_default="none"),
    ] = None,
    to: Annotated[Path | None, Option(metavar="FILE", help="Study file to write.", show_default="studies/NAME.yaml")] = None,
    cache: Cache = None,
) -> int:
    """Write a study file for a folder of images."""
    from tuner.commands import check as commands_check
    from tuner.commands import options

    target = to or Path("studies") / f"{name}.yaml"
    return commands_check.init(name, images, target, options.cache_folder(cache), class_pattern=class_pattern, ignore=ignore or ())


@app.command()
def check(study_file: StudyFile, cache: Cache = None) -> int:
    """Show the mistakes of a study file, or its images, search space, plan and rough cost."""
    from tuner.commands import check as commands_check
    from tuner.commands import options

    return commands_check.check(study_file, options.cache_folder(cache))


@app.command()
def schema() -> int:
    """Print the JSON Schema of study files, for editors."""
    import json

    from tuner.spec import file as study_file

    print(json.dumps(study_file.json_schema(), indent=2))
    return 0
