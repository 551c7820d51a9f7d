"""The versions that were kept of a study into what its report says of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tuner import wording
from tuner.results import versions
from tuner.results.verdict import Standing, Verdict
from tuner.results.versions import Origin, Stage, Version
from tuner.search.study import Study


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A version in a row."""

    number: int
    #: the trial, or the retraining, that it comes from
    origin: str
    validation_accuracy: float | None
    test_accuracy: float | None
    #: 95 % interval of the latter; "" where it is not measured
    interval: str
    #: looks at the test split
    num_readings: int
    #: "" if it is in none
    stages: str
    #: seconds since the epoch by the database's clock
    at: float
    by: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A version that a retraining made, with its verdict."""

    number: int
    verdict: Verdict
    #: what to make of it, in sentences
    said: tuple[str, ...]
    #: what each network is, and the network
    networks: tuple[tuple[str, Standing], ...]


def rows(study: Study) -> tuple[list[Kept], Judged | None]:
    """The versions of a study that are there, and the verdict on the one in production, else on the latest that a retraining made."""
    found = [version for version in versions.all(study.storage, study.name) if version.kept.study == study.name]
    looks = Counter(reading.version for reading in versions.readings(study.storage, study.name)) if found else Counter[int]()
    return [_row(version, looks[version.number]) for version in found], _judged(found)


def _row(version: Version, num_readings: int) -> Kept:
    kept = version.kept
    accuracy, num = kept.metrics.get("test_accuracy"), kept.metrics.get("num_test")
    again = kept.metrics.get("retraining") if kept.origin is Origin.RETRAINING else None
    return Kept(
        number=version.number,
        origin=str(again or f"trial {kept.trial}"),
        validation_accuracy=kept.metrics.get("validation_accuracy"),
        test_accuracy=accuracy,
        interval="" if accuracy is None or not num else "{:.4f} to {:.4f}".format(*wording.wilson(accuracy, num)),
        num_readings=num_readings,
        stages=wording.listed(stage.value for stage in version.stages),
        at=version.created_at,
        by=kept.created_by,
    )


def _judged(found: Sequence[Version]) -> Judged | None:
    again = [version for version in found if version.kept.origin is Origin.RETRAINING]
    if not again:
        return None
    chosen = next((version for version in again if Stage.PRODUCTION in version.stages), again[-1])
    verdict = Verdict.model_validate(chosen.kept.metrics)
    names = ["the version", *(comparison.against for comparison in verdict.comparisons)]
    return Judged(
        number=chosen.number, verdict=verdict, said=tuple(_said(verdict)), networks=tuple(zip(names, verdict.networks, strict=False))
    )


def _said(verdict: Verdict) -> list[str]:
    low, high = verdict.test_interval
    interval = f"95\u00a0% interval {low:.4f} to {high:.4f}, Wilson"
    tested = f"On {verdict.num_test:,} test images it reaches {verdict.test_accuracy:.4f} ({interval})"
    low, high = verdict.macro_f1_interval
    classes = f"mean F1 of the classes {verdict.macro_f1:.4f} ({low:.4f} to {high:.4f}, bootstrap)"
    said = [
        *verdict.choice,
        verdict.soup,
        f"{tested}; {classes}.",
        verdict.optimism.words,
        verdict.calibration.words,
        *(comparison.words for comparison in verdict.comparisons),
        *verdict.notes,
    ]
    return [sentence for sentence in said if sentence]
