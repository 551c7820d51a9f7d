"""Screens to the terminal: results to stdout, all else to stderr, plain where there is no terminal."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

from rich.console import Console, RenderableType
from rich.theme import Theme

from tuner.terminal import plain

#: styles by what they mean
THEME = Theme({"good": "green", "bad": "red", "quiet": "dim", "strong": "bold", "value": "cyan"})
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
    _print(stdout(), parts)


def busy(what: str) -> AbstractContextManager[object]:
    """Say that something takes its time, for as long as the `with` lasts."""
    if stderr().is_terminal:
        return stderr().status(what)
    plain.line(what)
    return nullcontext()


def _print(console: Console, parts: Sequence[RenderableType]) -> None:
    """Print one under another; without a terminal, without the blanks that fill up a line."""
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    console.file.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))
    console.file.flush()


def _console(*, is_terminal: bool, stderr: bool) -> Console:
    width = None if is_terminal else _PLAIN_WIDTH
    return Console(stderr=stderr, theme=THEME, highlight=False, width=width, soft_wrap=False)
