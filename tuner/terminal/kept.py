"""Versions into the screens of `tuner versions` and `tuner diff`."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tuner import wording
from tuner.results.differences import Difference, Differences
from tuner.results.stages import Event
from tuner.results.versions import Reading, Version
from tuner.terminal import plan

#: what a cell of a difference holds
_LONGEST = 40


def table(found: Sequence[Version], readings: Sequence[Reading]) -> RenderableType:
    """A row for each version."""
    rows = plan.table("version", "in", "of", "validation", "test", "test read", "made", right=("validation", "test", "test read"))
    for version in found:
        kept = version.kept
        num_read = sum((reading.name, reading.version) == (version.name, version.number) for reading in readings)
        rows.add_row(
            f"{version.name} {version.number}",
            "deleted" if version.is_deleted else wording.listed(version.stages),
            kept.origin.value,
            _accuracy(kept.metrics.get("validation_accuracy")),
            _accuracy(kept.metrics.get("test_accuracy")),
            "never" if not num_read else "once" if num_read == 1 else f"{num_read} times",
            f"{wording.moment(version.created_at)} by {kept.created_by}",
            style="quiet" if version.is_deleted else "strong" if version.stages else "",
        )
    return rows


def history(events: Sequence[Event], readings: Sequence[Reading]) -> Iterator[RenderableType]:
    """What was changed of a name's stages, and which versions' test accuracy is no more of unseen images."""
    if events:
        yield Text("")
        rows = plan.table("stage", "version", "", "when", "who")
        for event in events:
            number = "nothing" if event.version is None else str(event.version)
            rows.add_row(event.stage.value, number, event.change.value, wording.moment(event.at), event.by)
        yield rows
    again = sorted({reading.version for reading in readings if reading.ordinal > 1})
    if again:
        yield Text("")
        yield Text(
            f"The test split was read more than once for version {wording.listed(again)}: "
            "what was chosen by the later figures has not been tested on unseen images."
        )


def differences(found: Differences, name: str, numbers: tuple[int, int]) -> Iterator[RenderableType]:
    """A section for each kind of difference."""
    for title, section in (("Config", found.config), ("Data", found.data), ("Metrics", found.metrics), ("Made with", found.making)):
        if section:
            yield plan.headed(title, _differences(section, name, numbers))
        else:
            yield plan.headed(title, Text("the same", style="quiet"))


def _differences(section: Sequence[Difference], name: str, numbers: tuple[int, int]) -> RenderableType:
    columns = tuple(f"{name} {number}" for number in numbers)
    rows = plan.table("", *columns, "change", right=("change",))
    for difference in section:
        change = "" if difference.change is None else f"{difference.change:+.4g}"
        rows.add_row(difference.field, _value(difference.before), _value(difference.after), change)
    return rows


def _value(value: Any) -> str:
    """A value as it stands in a study file, cut where it is long."""
    return "–" if value is None else wording.show(round(value, 6) if isinstance(value, float) else value, longest=_LONGEST)


def _accuracy(value: Any) -> str:
    return wording.accuracy(value if isinstance(value, int | float) else None)
