"""Whatever went wrong, into one message on stderr; passwords are blotted out."""

import datetime as dt
import os
import re
import sys
import traceback

from typer.exceptions import TyperException

from tuner.terminal import plain

_PASSWORD = re.compile(r"(\w[\w+.-]*://[^\s:/@]*):[^\s@]*@")


def complain(message: str, exit_code: int) -> int:
    """Print a message to stderr; gives the exit code back."""
    plain.line(blot(message))
    return exit_code


def blot(text: str) -> str:
    """A text in which the passwords of URLs cannot be read."""
    return _PASSWORD.sub(r"\1:***@", text)


def usage(error: TyperException) -> str:
    """What is wrong with a command line, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tuner"
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"{message}. See {command} --help."


def record(error: Exception) -> str:
    """One line for a fault of ours; the traceback goes to a file."""
    from tuner.commands import options

    cache = options.cache(None)
    text = blot("".join(traceback.format_exception(error)))
    name = f"error-{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    where = f"the whole story is in {cache / name}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(text)
    except OSError:
        where = f"its last line of code: {traceback.format_tb(error.__traceback__)[-1].strip().splitlines()[0]}"
    first = (str(error).splitlines() or [""])[0]
    return f"tuner has a fault: {type(error).__name__}: {first}; {where}"


def stop_printing() -> int:
    """Whoever read our output has left; let the interpreter's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
