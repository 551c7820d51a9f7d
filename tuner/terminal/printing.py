"""Screens to the terminal: results to stdout, all else to stderr, plain where there is no terminal."""

import sys
from functools import cache

from rich.console import Console, RenderableType
from rich.theme import Theme

_THEME = Theme({"good": "green", "bad": "red", "quiet": "dim", "strong": "bold", "value": "cyan"})
#: wide enough for a line of a log, so that nothing is cut where no one set a width
_PLAIN_WIDTH = 100


@cache
def stdout() -> Console:
    """The console of results."""
    return _console(is_terminal=sys.stdout.isatty(), stderr=False)


@cache
def stderr() -> Console:
    """The console of everything else."""
    return _console(is_terminal=sys.stderr.isatty(), stderr=True)


def result(*parts: RenderableType) -> None:
    """Print what was asked for."""
    stdout().print(*parts, sep="\n")


def note(*parts: RenderableType) -> None:
    """Print what is worth knowing beside the result."""
    stderr().print(*parts, sep="\n")


def _console(*, is_terminal: bool, stderr: bool) -> Console:
    width = None if is_terminal else _PLAIN_WIDTH
    return Console(stderr=stderr, theme=_THEME, highlight=False, width=width, soft_wrap=False)
