"""`tuner verify`: what can be said of a bundle that comes from elsewhere."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from tuner.commands import controlling, here, options
from tuner.results import demands, rereading, verification
from tuner.search import storage as storages
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
    #: database that may keep the version that the bundle is of
    storage: str


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
    reading = _reading(bundle, report, asked)
    if reading is not None:
        report = dataclasses.replace(report, checks=(*report.checks, reading))
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


def _reading(bundle: Path, report: verification.Report, asked: Asked) -> verification.Check | None:
    """What became of the record of a reading of the test split; None: there was none, or the bundle is of a trial."""
    if report.measured is None or report.measured.test is None:
        return None
    metrics, _ = verification.recorded(bundle)
    if metrics.get("version") is None:
        return None
    named = rereading.version_of(metrics)
    if named is None:
        return rereading.unrecorded("the bundle does not say which version it is of")
    if not options.is_there(asked.storage):
        where = storages.shown(asked.storage)
        return rereading.unrecorded(f"{where} does not exist; name the database that keeps {named[0]} {named[1]} with --storage")
    return rereading.record(asked.storage, named, report.measured.test, tolerance=asked.tolerance, by=controlling.user())


def _as_json(bundle: Path, report: verification.Report) -> dict[str, object]:
    measured = report.measured
    return {
        "bundle": str(bundle),
        "good": report.is_good,
        "checks": [{"name": check.name, "outcome": check.outcome.value, "found": list(check.found)} for check in report.checks],
        "measured": None if measured is None else measured.model_dump(mode="json", exclude={"kind"}),
    }
