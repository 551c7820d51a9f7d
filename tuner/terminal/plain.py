"""Text as it is to stdout and stderr, without a package that takes its time to load."""

import sys


def result(text: str) -> None:
    """Print what was asked for, for people or for a program, exactly as it is."""
    print(text.rstrip("\n"), flush=True)


def line(text: str) -> None:
    """Print something else than the result, never folded."""
    print(text, file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask the person at the terminal; whether the answer is yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
