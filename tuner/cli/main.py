"""The command `tuner`: its groups of commands, and its errors as one message and an exit code.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted. Passwords never appear in a message.
"""

import datetime as dt
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Abort, Option
from typer.core import TyperGroup
from typer.exceptions import TyperException

import tuner
from tuner import machine, wording
from tuner.cli import get_started, operate, results, run, service, ship
from tuner.errors import TunerError
from tuner.terminal import plain

#: sections of `tuner --help`, and the commands below each
GROUPS = {
    "Get started": get_started.app,
    "Run": run.app,
    "Service": service.app,
    "Results": results.app,
    "Ship": ship.app,
    "Operate": operate.app,
}
#: module that calls functions of users
_SOURCES = "tuner.tasks.images.data.sources"
_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:/@]*):[^\s@]*@")


def complain(message: str, exit_code: int) -> int:
    """Print a message to stderr, and return the exit code."""
    plain.line(hide_passwords(message))
    return exit_code


def hide_passwords(text: str) -> str:
    """Return the text with the passwords of URLs hidden."""
    return _PASSWORD.sub(r"\1:***@", text)


def usage(error: TyperException) -> str:
    """Return the mistake in a command line, and the command that shows the help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tuner"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message}. See {command} --help."


def cause_outside(error: Exception) -> str | None:
    """Return what is wrong with the folder, the disk or the user of this process, and what to do; None if the error has another cause."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left where this command writes its output or a file; free some space there and run it again"
    if isinstance(error, FileNotFoundError) and not _has_folder():
        return "the current folder does not exist any more; change to another one (cd) and run the command again"
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        if _has_home():
            return "a path starts with ~NAME, but this machine has no user NAME; write the whole path"
        return "this user has no home folder: HOME is not set. Set it, or write paths without ~ and set TUNER_CACHE to a folder"
    return None


def failed_function(error: BaseException) -> str | None:
    """Return which function of the user, called for images, failed, in which line and how; None if the error has another cause."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [(str(frame.f_globals.get("__name__")), frame.f_code.co_name) for frame in frames]
    if (_SOURCES, "call_function") not in names:
        return None
    start = names.index((_SOURCES, "call_function"))
    if len(names) == start + 1 or any(module.startswith("tuner.") and module != _SOURCES for module, _ in names[start:]):
        return None
    name = frames[start].f_locals["data"].function
    places = traceback.extract_tb(error.__traceback__)[start + 1 :]
    own = [one for one in places if "site-packages" not in one.filename and not one.filename.startswith(("<", f"{sys.base_prefix}/lib"))]
    place = (own or places)[-1]
    said = wording.shorten(f"{type(error).__name__}: {error}".strip().removesuffix(":"), longest=300)
    module, _, function = name.partition(":")
    return (
        f"data.function {name} failed with {said} ({Path(place.filename).name}, line {place.lineno}); correct it. To see the whole "
        f"traceback, run: python -c 'import {module}; {module}.{function}()'"
    )


def _has_folder() -> bool:
    try:
        return Path.cwd().is_dir()
    except OSError:
        return False


def _has_home() -> bool:
    try:
        return Path.home().is_absolute()
    except RuntimeError:
        return False


def record(error: Exception) -> str:
    """Write the traceback of an unexpected error to a file, and return a message of one line."""
    from tuner.commands import options

    try:
        cache = options.cache_folder(None)
    except RuntimeError:  # the user has no home folder
        cache = Path(tempfile.gettempdir())
    text = hide_passwords("".join(traceback.format_exception(error)))
    name = f"error-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    where = f"the traceback is in {cache / name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(text)
    except OSError:
        where = f"its last line of code is {traceback.format_tb(error.__traceback__)[-1].strip().splitlines()[0]}"
    first = (str(error).splitlines() or [""])[0]
    return f"unexpected error in tuner: {type(error).__name__}: {first}; {where}"


def stop_printing() -> int:
    """Ignore further output, because the process that read it has ended; return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def open_missing_streams() -> None:
    """Open the standard streams that the process was started without, so that no other file gets their numbers and is printed into."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


class _Grouped(TyperGroup):
    """A group of commands whose help has one section for each of `GROUPS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section for each group of commands."""
        for title, group in GROUPS.items():
            names = list(_names(group))
            with formatter.section(title):
                formatter.write_dl([(name, _first_line(self.commands[name].help)) for name in names])


def _first_line(text: str | None) -> str:
    """Return the first line of a help text; with PYTHONOPTIMIZE=2 there are no docstrings, and so no texts."""
    return (text or "").partition("\n")[0]


def _names(group: typer.Typer) -> Iterator[str]:
    for command in group.registered_commands:
        yield command.name or command.callback.__name__  # type: ignore[union-attr]
    yield from (str(below.name) for below in group.registered_groups)


app = typer.Typer(
    name="tuner",
    cls=_Grouped,
    help="Tune the hyperparameters of pretrained Keras image classifiers on your own images.",
    epilog="Documentation: docs/README.md. All options of a command: tuner COMMAND --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _group in GROUPS.values():
    app.add_typer(_group)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code of the process."""
    plain.escape_unknown_letters()
    machine.collect_garbage_rarely()
    plain.remember_storage("")
    try:
        return int(app(arguments, prog_name="tuner", standalone_mode=False) or 0)
    except TunerError as error:
        return complain(str(error), error.exit_code)
    except TyperException as error:
        return complain(usage(error), error.exit_code)
    except (KeyboardInterrupt, Abort):
        return 130
    except BrokenPipeError:
        return stop_printing()
    except SystemExit as error:  # code of the user, such as argparse in a module without a main guard
        failed = failed_function(error)
        if failed is None:
            raise
        return complain(failed, 2)
    except Exception as error:
        failed = failed_function(error)
        return complain(failed, 2) if failed else complain(cause_outside(error) or record(error), 1)


@app.callback(invoke_without_command=True)
def _tuner(version: Annotated[bool, Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    open_missing_streams()
    if version:
        print(f"tuner {tuner.__version__}")
        raise typer.Exit


if __name__ == "__main__":
    sys.exit(main())
