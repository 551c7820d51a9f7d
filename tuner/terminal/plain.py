"""Plain text to stdout and stderr, without a package that takes long to import.

Text from data never controls the terminal: `wording.visible_lines` shows such characters in the escapes of JSON, so JSON stays the same.
"""

import io
import sys

from tuner import wording


def escape_unknown_letters() -> None:
    """Let stdout and stderr show letters that their encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def result(text: str) -> None:
    """Print the result of a command to stdout, to read or to parse."""
    print(wording.visible_lines(text.rstrip("\n")), flush=True)


def document(text: str) -> None:
    """Print the content of a file to stdout, unchanged."""
    print(text.rstrip("\n"), flush=True)


def line(text: str) -> None:
    """Print a message to stderr, without wrapping it."""
    print(wording.visible_lines(text), file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask the person at the terminal, and return whether the answer is yes."""
    print(f"{wording.visible_lines(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
