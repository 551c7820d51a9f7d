"""Plain text to stdout and stderr, without a package that takes long to import."""

import sys


def result(text: str) -> None:
    """Print the result of a command to stdout, unchanged, to read or to parse."""
    print(text.rstrip("\n"), flush=True)


def line(text: str) -> None:
    """Print a message to stderr, without wrapping it."""
    print(text, file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask the person at the terminal, and return whether the answer is yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
