"""Versions into the screens of `tuner versions` and `tuner diff`.

A verdict into one screen: the choice, the test figures, the comparisons, what is to be known.

What a verification found, as lines and a table.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.protocol import errands
from tuner.results import statistics
from tuner.results.retrain.verdict import JudgedConfig, Verdict
from tuner.results.verify.verification import Outcome, Report
from tuner.results.versions.differences import Difference, Differences
from tuner.results.versions.stages import StageEvent
from tuner.results.versions.versions import Reading, Version
from tuner.terminal import plan

#: what a cell of a difference holds
_LONGEST = 40


def versions_table(found: Sequence[Version], readings: Sequence[Reading]) -> RenderableType:
    """A row for each version."""
    rows = plan.table("version", "in", "of", "validation", "test", "test read", "made", right=("validation", "test", "test read"))
    for version in found:
        kept = version.model
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


def history(events: Sequence[StageEvent], readings: Sequence[Reading]) -> Iterator[RenderableType]:
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


#: classes that have a row of their own
_LISTED_CLASSES = 40
#: kinds of mistakes that are listed where the classes are too many for a table of all
_CONFUSED = 8
_WIDEST_MATRIX = 12


def screen(verdict: Verdict, *, name: str, number: int) -> list[RenderableType]:
    """All that is known of a version that a retraining made."""
    return [
        Text.assemble((f"{name} version {number}", "strong"), (f"  trained on {verdict.trained_on}, by {verdict.retraining}", "quiet")),
        plan.headed("Choice", *(Text(line) for line in (*verdict.choice, verdict.soup))),
        plan.headed("Retrained", _networks(verdict)),
        plan.headed("Test", *_test(verdict)),
        plan.headed("By class", _classes(verdict), Text(""), _confusion(verdict)),
        plan.headed("Is it better?", *(Text(line) for line in _compared(verdict))),
        *([plan.headed("To be known", *(Text(line) for line in verdict.notes))] if verdict.notes else []),
    ]


def _compared(verdict: Verdict) -> list[str]:
    if not verdict.comparisons:
        return ["There is no other config to compare it with: it is the rule, and --top 1 was asked for or no other was left."]
    return [comparison.words for comparison in verdict.comparisons]


def _networks(verdict: Verdict) -> Table:
    right = ("search", "validation", "± seeds", "test", "95 %")
    rows = plan.table("trial", "", *right, right=right)
    names = ["the version", *(comparison.against for comparison in verdict.comparisons)]
    for name, network in zip(names, verdict.networks, strict=True):
        low, high = network.test_interval
        rows.add_row(str(network.trial), name, *_values(network), f"{network.test_accuracy:.4f}", f"{low:.3f} to {high:.3f}")
    return rows


def _values(network: JudgedConfig) -> Iterator[str]:
    for value in (network.search_value, network.mean, network.spread):
        yield wording.accuracy(value)


def _test(verdict: Verdict) -> Iterator[RenderableType]:
    low, high = verdict.test_interval
    images = f" of {verdict.num_test:,} test images; 95 % interval {low:.4f} to {high:.4f} (Wilson)"
    yield Text.assemble((f"{verdict.test_accuracy:.4f}", "bold green"), images)
    low, high = verdict.macro_f1_interval
    yield Text(f"mean F1 of the classes {verdict.macro_f1:.4f}, 95 % interval {low:.4f} to {high:.4f} (bootstrap)")
    yield Text(verdict.calibration.words)
    yield Text(verdict.optimism.words)


def _classes(verdict: Verdict) -> Table:
    right = ("images", "precision", "recall", "F1")
    rows = plan.table("class", *right, right=right)
    for each in verdict.classes[:_LISTED_CLASSES]:
        figures = ("–" if figure is None else f"{figure:.3f}" for figure in (each.precision, each.recall, each.f1))
        rows.add_row(each.name, f"{each.num_images:,}", *figures)
    if len(verdict.classes) > _LISTED_CLASSES:
        rows.add_row(f"… {len(verdict.classes) - _LISTED_CLASSES} more with --json", *[""] * len(right), style="quiet")
    return rows


def _confusion(verdict: Verdict) -> RenderableType:
    names = [each.name for each in verdict.classes]
    if len(names) > _WIDEST_MATRIX:
        most = statistics.most_confused(verdict.confusion, names, most=_CONFUSED)
        return Text("\n".join(f"{found.num_images} of {found.truth} taken for {found.taken_for}" for found in most) or "no mistakes")
    rows = plan.table("true class", *(name[:6] for name in names), right=[name[:6] for name in names])
    for name, counts in zip(names, verdict.confusion, strict=True):
        rows.add_row(name, *(str(count) if count else "·" for count in counts))
    return rows


_STYLES = {Outcome.OK: "good", Outcome.FAILED: "bad", Outcome.NOT_CHECKED: "quiet"}


def lines(report: Report) -> str:
    """A line for each thing that was found, however long."""
    width = max(len(check.name) for check in report.checks)
    return "\n".join(f"{check.outcome:<11}  {check.name:<{width}}  {line}" for check in report.checks for line in check.found)


def robust(report: Report) -> Sequence[RenderableType]:
    """The accuracy under each corruption, where it was measured."""
    measured = report.measured
    return [] if measured is None or not measured.robust else ["", _robust(measured)]


def verification_table(report: Report) -> RenderableType:
    """Everything that was looked at."""
    checks = Table.grid(padding=(0, 2))
    checks.add_column(no_wrap=True)
    checks.add_column(no_wrap=True)
    checks.add_column(overflow="fold")
    for check in report.checks:
        # what a bundle says of itself is no markup
        checks.add_row(check.name, Text(check.outcome, style=_STYLES[check.outcome]), Text("\n".join(check.found)))
    return checks


def _robust(measured: errands.Verified) -> Table:
    table = plan.table("accuracy under", "weak", "middle", "strong", "at strengths")
    rows: dict[str, list[errands.Robust]] = {}
    for one in measured.robust:
        rows.setdefault(one.corruption, []).append(one)
    table.add_row("nothing (clean)", f"{measured.clean:.4f}", "", "", "")
    for name, found in rows.items():
        shown = [f"{one.accuracy:.4f}" for one in found] + [""] * (3 - len(found))
        table.add_row(name, *shown, ", ".join(f"{one.strength:g}" for one in found))
    return table
