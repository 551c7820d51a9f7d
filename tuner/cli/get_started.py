"""Commands to get started: `tuner init`, `check` and `schema`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from tuner.cli.parameters import Cache, StudyFile

app = typer.Typer()


@app.command()
def init(
    name: Annotated[
        str | None, Argument(metavar="NAME", help="Name of the new study. With --from, by default that of the file.", show_default=False)
    ] = None,
    images: Annotated[
        str | None, Option(metavar="FOLDER", help="Folder with one sub-folder of images per class.", show_default=False)
    ] = None,
    code: Annotated[
        str | None,
        Option("--from", metavar="CODE", help="Your own code instead: my.py:build or my.py:objective.", show_default=False),
    ] = None,
    data: Annotated[str | None, Option(metavar="CODE", help="With --from: function that loads the data.", show_default=False)] = None,
    direction: Annotated[
        str | None, Option(metavar="DIRECTION", help="With --from of an objective: maximize or minimize.", show_default=False)
    ] = None,
    class_pattern: Annotated[
        str | None,
        Option(metavar="REGEX", help="Find the class in the path of each image, in parentheses: '(\\w+)_\\d+'.", show_default=False),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        Option(metavar="PATTERN", help="Leave out folders and files by name or shell pattern (repeatable).", show_default="none"),
    ] = None,
    to: Annotated[
        Path | None, Option(metavar="FILE", help="Study file to write.", show_default="studies/NAME.yaml, or NAME.yaml beside the code")
    ] = None,
    cache: Cache = None,
) -> int:
    """Write a study file for a folder of images, or for your own code."""
    from tuner.commands import check as commands_check
    from tuner.commands import init_code, options
    from tuner.errors import RequestError

    if code is not None:
        if images is not None or class_pattern is not None or ignore:
            raise RequestError("--from is for your own code, and --images, --class-pattern and --ignore are for images; choose one")
        named = init_code.NamedCode(code=code, data=data, direction=direction)
        return init_code.init(name, named, to, options.cache_folder(cache))
    if name is None or images is None:
        raise RequestError("init needs NAME and --images, or --from; write for example: tuner init flowers --images ~/photos/flowers")
    if data is not None or direction is not None:
        raise RequestError("--data and --direction belong to --from; drop them, or write for example: --from my.py:build --data my.py:load")
    target = to or Path("studies") / f"{name}.yaml"
    return commands_check.init(name, images, target, options.cache_folder(cache), class_pattern=class_pattern, ignore=ignore or ())


@app.command()
def check(study_file: StudyFile, cache: Cache = None) -> int:
    """Show the mistakes of a study file, or its images, search space, plan and rough cost."""
    from tuner.commands import check as commands_check
    from tuner.commands import options

    return commands_check.check(study_file, options.cache_folder(cache))


@app.command()
def schema(
    task: Annotated[
        str, Option(metavar="TASK", help="Task of the study files: image_classification, custom or objective.")
    ] = "image_classification",
) -> int:
    """Print the JSON Schema of study files, for editors."""
    import json

    from tuner.spec import file as study_file

    print(json.dumps(study_file.json_schema(task), indent=2))
    return 0
