"""Printing with rich: results to stdout, everything else to stderr, without colours where there is no terminal.

Text is never markup: `Bird [adult]` and `:bear:` are shown as they are.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from tuner import wording
from tuner.terminal import plain

#: styles by their meaning
THEME = Theme({"good": "green", "bad": "red", "quiet": "dim", "strong": "bold", "value": "cyan"})
#: wide enough for a line of a log, so that nothing is cut where no terminal sets a width
_PLAIN_WIDTH = 100


@cache
def stdout() -> Console:
    """Return the console of results."""
    return _console(is_terminal=sys.stdout.isatty(), stderr=False)


@cache
def stderr() -> Console:
    """Return the console of everything else."""
    return _console(is_terminal=sys.stderr.isatty(), stderr=True)


def result(*parts: RenderableType) -> None:
    """Print the result of a command."""
    _print(stdout(), parts)


def busy(message: str) -> AbstractContextManager[object]:
    """Show a message while a `with` block runs that takes long."""
    if stderr().is_terminal:
        return stderr().status(Text(wording.visible_lines(message)))
    plain.line(message)
    return nullcontext()


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table without lines; the columns in `right` are aligned to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="quiet")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def section(title: str, *parts: RenderableType) -> RenderableType:
    """Return a section of a screen: a title, its parts and an empty line."""
    return Group(Text(title, style="strong"), *parts, Text(""))


def _print(console: Console, parts: Sequence[RenderableType]) -> None:
    """Print the parts one below another; without a terminal, without spaces at the ends of lines."""
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    with console.capture() as capture:
        console.print(*parts, sep="\n")
    # only line ends of rich are line ends
    console.file.write("".join(line.rstrip() + "\n" for line in capture.get().removesuffix("\n").split("\n")))
    console.file.flush()


class _Console(Console):
    """A console on which text from data controls nothing."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text with the characters that a screen obeys or hides as escapes."""
        return super().render_str(wording.visible_lines(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render a part of a screen; text that was styled before is made visible like other text."""
        if isinstance(renderable, Text) and (shown := wording.visible_lines(renderable.plain)) != renderable.plain:
            renderable = Text(
                shown, style=renderable.style, justify=renderable.justify, overflow=renderable.overflow, no_wrap=renderable.no_wrap
            )
        return super().render(renderable, options)


def _console(*, is_terminal: bool, stderr: bool) -> Console:
    width = None if is_terminal else _PLAIN_WIDTH
    return _Console(stderr=stderr, theme=THEME, highlight=False, markup=False, emoji=False, width=width, soft_wrap=False)
