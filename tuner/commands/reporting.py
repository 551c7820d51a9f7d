"""`tuner report`: a study into one file that explains it."""

from pathlib import Path

from tuner.commands import showing
from tuner.report import writing
from tuner.terminal import plain


def report(name: str, url: str, to: Path, *, form: str | None, force: bool) -> int:
    """Write the report of a study; a file that is no report is replaced only by force."""
    target = to.expanduser()
    chosen = writing.form(target, form)
    writing.check_place(target, force=force)
    size = writing.write(showing.load(name, url), target, chosen)
    plain.result(f"Wrote {target}, {size / 1000:,.0f} kB. It needs nothing beside it, and no network.")
    return 0
