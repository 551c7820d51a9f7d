"""`tuner doctor`: what stands in the way of a study here, and what to do about it."""

import json
from collections.abc import Sequence
from pathlib import Path

from tuner.commands import artifacts as where
from tuner.commands import options
from tuner.doctor import checks
from tuner.doctor.findings import Finding, Level, Visit
from tuner.terminal import diagnosis, plain, printing


def look(url: str, artifacts: str, cache: Path | None, patience_seconds: float) -> list[Finding]:
    """What there is to say of the storage, the folders and this machine."""
    folder, bucket = where.read(artifacts)
    is_there = options.is_there(url)
    visit = Visit(url=url, is_storage_there=is_there, artifacts=folder, bucket=bucket, cache=options.cache(cache))
    return checks.examine(visit, patience_seconds)


def mend(url: str, artifacts: str, cache: Path | None, patience_seconds: float) -> list[Finding]:
    """The same, with what is safe to mend mended."""
    return checks.mended(look(url, artifacts, cache, patience_seconds))


def tell(found: Sequence[Finding], *, as_json: bool) -> int:
    """Print findings; the exit code is 1 where there is a problem."""
    if as_json:
        plain.result(json.dumps([_as_json(finding) for finding in found], indent=2))
    elif printing.stdout().is_terminal:
        printing.result(diagnosis.table(found), "", diagnosis.summary(found))
    else:
        plain.result(f"{diagnosis.lines(found)}\n\n{diagnosis.summary(found)}")
    return int(any(finding.level is Level.PROBLEM for finding in found))


def _as_json(finding: Finding) -> dict[str, object]:
    names = ("subject", "level", "found", "cure", "fixed")
    return {name: getattr(finding, name) for name in names}
