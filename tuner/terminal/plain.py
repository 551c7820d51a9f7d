"""Plain text to stdout and stderr, without a package that takes long to import.

Text from data never controls the terminal: `wording.visible_lines` shows such characters in the escapes of JSON, so JSON stays the same.
"""

import io
import re
import shlex
import sys
from contextvars import ContextVar

from tuner import wording

#: commands in a text that open a storage, without the option that names it
_COMMAND = re.compile(
    r"\btuner (?:run|worker|stop|resume|enqueue|migrate|status|watch|best|report|export|retrain|versions|promote|rollback|diff|copy|doctor"
    r"|dashboard)\b(?![^.;:]*--storage)(?= +[\w./'-]|$|[.,;)`])"
)
#: the storage that the command line named, as the commands in messages need it, too; "" if they find it themselves
_STORAGE: ContextVar[str] = ContextVar("_STORAGE", default="")


def remember_storage(url: str) -> None:
    """Name a storage in every message of this process that proposes a command; "" ends it."""
    _STORAGE.set(url)


def _completed(text: str) -> str:
    """Return a text that proposes commands with the option that they need to find the storage of this one."""
    num_commands = len(_COMMAND.findall(text)) if _STORAGE.get() and not text.startswith(("{", "[")) else 0
    if not num_commands:
        return text
    commands = "the command" if num_commands == 1 else "the commands"
    return f"{text.rstrip('.')}. Add --storage {shlex.quote(_STORAGE.get())} to {commands}, or set TUNER_STORAGE."


def escape_unknown_letters() -> None:
    """Let stdout and stderr show letters that their encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def result(text: str) -> None:
    """Print the result of a command to stdout, to read or to parse."""
    print(wording.visible_lines(_completed(text.rstrip("\n"))), flush=True)


def document(text: str) -> None:
    """Print the content of a file to stdout, unchanged."""
    print(text.rstrip("\n"), flush=True)


def line(text: str) -> None:
    """Print a message to stderr, without wrapping it."""
    print(wording.visible_lines(_completed(text)), file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask the person at the terminal, and return whether the answer is yes."""
    print(f"{wording.visible_lines(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
