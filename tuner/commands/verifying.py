"""`tuner verify`: what can be said of a bundle that comes from elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path

from tuner.commands import here, options
from tuner.results import demands, verification
from tuner.terminal import plain, printing, verified


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How far to go, as the command line says it."""

    signature: Path | None
    require: Path | None
    #: where the images of the test split lie here
    data: Path | None
    robustness: bool
    images: int
    tolerance: float
    cache: Path | None


def verify(bundle: Path, asked: Asked, *, as_json: bool) -> int:
    """Verify a bundle and print what was found; the exit code is 1 where something is wrong."""
    wanted = verification.Wanted(
        key=asked.signature,
        demands=None if asked.require is None else demands.read(asked.require),
        is_robustness_wanted=asked.robustness,
        most_images=asked.images,
        tolerance=asked.tolerance,
        cache=options.cache(asked.cache),
        place=here.Here(data=asked.data, allowed_code=(), wait_seconds=0).place,
        needs_data=asked.data is not None,
    )
    report = verification.verify(bundle, wanted, tell=plain.line)
    if as_json:
        plain.result(json.dumps(_as_json(bundle, report), indent=2, ensure_ascii=False))
    else:
        if printing.stdout().is_terminal:
            printing.result(verified.table(report))
        else:
            plain.result(verified.lines(report))
        printing.result(*verified.robust(report))
        plain.line(f"{bundle} is what it says." if report.is_good else f"{bundle} is refused.")
    return 0 if report.is_good else 1


def _as_json(bundle: Path, report: verification.Report) -> dict[str, object]:
    measured = report.measured
    return {
        "bundle": str(bundle),
        "good": report.is_good,
        "checks": [{"name": check.name, "outcome": check.outcome.value, "found": list(check.found)} for check in report.checks],
        "measured": None if measured is None else measured.model_dump(mode="json", exclude={"kind"}),
    }
