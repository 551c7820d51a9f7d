"""Screens about versions and bundles: `tuner versions`, `diff`, `retrain` and `verify`."""

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
from tuner.terminal import printing

#: characters in a cell of the table of differences
_LONGEST = 40
#: number of classes with a row of their own
_LISTED_CLASSES = 40
#: number of frequent mistakes that are listed if there are too many classes for a matrix
_LISTED_MISTAKES = 8
#: number of classes that fit into a confusion matrix
_WIDEST_MATRIX = 12
_STYLES = {Outcome.OK: "good", Outcome.FAILED: "bad", Outcome.NOT_CHECKED: "quiet"}


def versions_table(found: Sequence[Version], readings: Sequence[Reading]) -> RenderableType:
    """Show one row for each version."""
    rows = printing.table(
        "version", "stage", "source", "validation", "test", "test read", "created", right=("validation", "test", "test read")
    )
    for version in found:
        model = version.model
        validation, test = model.scores
        num_recorded = sum((reading.name, reading.version) == (version.name, version.number) for reading in readings)
        num_read = num_recorded or int(test is not None)  # a reading is recorded with an accuracy, which other metrics do not have
        rows.add_row(
            f"{version.name} {version.number}",
            "deleted" if version.is_deleted else wording.listed(version.stages),
            model.origin.value,
            wording.figure(validation),
            wording.figure(test),
            "never" if not num_read else "once" if num_read == 1 else f"{num_read} times",
            f"{wording.moment(version.created_at)} by {model.created_by}",
            style="quiet" if version.is_deleted else "strong" if version.stages else "",
        )
    return rows


def history(events: Sequence[StageEvent], readings: Sequence[Reading]) -> Iterator[RenderableType]:
    """Show the changes of the stages, and a warning about versions whose test split was read more than once."""
    if events:
        yield Text("")
        rows = printing.table("stage", "version", "change", "time", "user")
        for event in events:
            number = "nothing" if event.version is None else str(event.version)
            rows.add_row(event.stage.value, number, event.change.value, wording.moment(event.at), event.by)
        yield rows
    again = sorted({reading.version for reading in readings if reading.ordinal > 1})
    if again:
        yield Text("")
        yield Text(
            f"The test split was read more than once for version {wording.listed(again)}. "
            "If you choose a version by the later results, its test accuracy is too high: these images are no longer unseen."
        )


def differences(found: Differences, name: str, numbers: tuple[int, int]) -> Iterator[RenderableType]:
    """Show one section for each kind of difference."""
    for title, section in (("Configuration", found.config), ("Data", found.data), ("Metrics", found.metrics), ("Packages", found.making)):
        if section:
            yield printing.section(title, _differences(section, name, numbers))
        else:
            yield printing.section(title, Text("the same", style="quiet"))


def _differences(section: Sequence[Difference], name: str, numbers: tuple[int, int]) -> RenderableType:
    columns = tuple(f"{name} {number}" for number in numbers)
    rows = printing.table("", *columns, "change", right=("change",))
    for difference in section:
        change = "" if difference.change is None else f"{difference.change:+.4g}"
        rows.add_row(difference.field, _value(difference.before), _value(difference.after), change)
    return rows


def _value(value: Any) -> str:
    """Return a value as in a study file, cut if it is long."""
    return "–" if value is None else wording.show(round(value, 6) if isinstance(value, float) else value, longest=_LONGEST)


def verdict(found: Verdict, *, name: str, number: int) -> list[RenderableType]:
    """Show everything that is known about a version from a retraining."""
    return [
        Text.assemble((f"{name} version {number}", "strong"), (f"  trained on {found.trained_on}, by {found.retraining}", "quiet")),
        printing.section("Choice", *(Text(line) for line in (*found.choice, found.soup))),
        printing.section("Retrained", _networks(found)),
        printing.section("Test", *_test(found)),
        printing.section("By class", _classes(found), Text(""), _confusion(found)),
        printing.section("Is it better?", *(Text(line) for line in _compared(found))),
        *([printing.section("Notes", *(Text(line) for line in found.notes))] if found.notes else []),
    ]


def _compared(verdict: Verdict) -> list[str]:
    if not verdict.comparisons:
        return ["There is no other configuration to compare it with: the version is the rule, and no other configuration was retrained."]
    return [comparison.words for comparison in verdict.comparisons]


def _networks(verdict: Verdict) -> Table:
    right = ("search", "validation", "± seeds", "test", "95 %")
    rows = printing.table("trial", "configuration", *right, right=right)
    names = ["this version", *(comparison.against for comparison in verdict.comparisons)]
    for name, network in zip(names, verdict.networks, strict=True):
        low, high = network.test_interval
        rows.add_row(str(network.trial), name, *_values(network), f"{network.test_accuracy:.4f}", f"{low:.3f} to {high:.3f}")
    return rows


def _values(network: JudgedConfig) -> Iterator[str]:
    for value in (network.search_value, network.mean, network.spread):
        yield wording.figure(value)


def _test(verdict: Verdict) -> Iterator[RenderableType]:
    low, high = verdict.test_interval
    images = f" of {verdict.num_test:,} test images; 95 % interval {low:.4f} to {high:.4f} (Wilson)"
    yield Text.assemble((f"{verdict.test_accuracy:.4f}", "bold green"), images)
    low, high = verdict.macro_f1_interval
    yield Text(f"macro F1 {verdict.macro_f1:.4f}, 95 % interval {low:.4f} to {high:.4f} (bootstrap)")
    yield Text(verdict.calibration.words)
    yield Text(verdict.optimism.words)


def _classes(verdict: Verdict) -> Table:
    right = ("images", "precision", "recall", "F1")
    rows = printing.table("class", *right, right=right)
    for each in verdict.classes[:_LISTED_CLASSES]:
        figures = ("–" if figure is None else f"{figure:.3f}" for figure in (each.precision, each.recall, each.f1))
        rows.add_row(wording.visible(each.name), f"{each.num_images:,}", *figures)
    if len(verdict.classes) > _LISTED_CLASSES:
        rows.add_row(f"… {len(verdict.classes) - _LISTED_CLASSES} more with --json", *[""] * len(right), style="quiet")
    return rows


def _confusion(verdict: Verdict) -> RenderableType:
    names = [each.name for each in verdict.classes]
    if len(verdict.confusion) < len(names):
        return Text(f"not stored for {len(names):,} classes")
    if len(names) > _WIDEST_MATRIX:
        most = statistics.most_confused(verdict.confusion, names, most=_LISTED_MISTAKES)
        pairs = ((found.num_images, wording.visible(found.truth), wording.visible(found.taken_for)) for found in most)
        return Text("\n".join(f"{number} of {truth} predicted as {taken}" for number, truth, taken in pairs) or "no mistakes")
    columns = wording.shortened(names, longest=6)
    rows = printing.table("true class", *columns, right=columns)
    for name, counts in zip(names, verdict.confusion, strict=True):
        rows.add_row(wording.visible(name), *(str(count) if count else "·" for count in counts))
    return rows


def verification_lines(report: Report) -> str:
    """Return one line for each result of a check, without wrapping."""
    width = max(len(check.name) for check in report.checks)
    return "\n".join(f"{check.outcome:<11}  {check.name:<{width}}  {line}" for check in report.checks for line in check.found)


def robustness(report: Report) -> Sequence[RenderableType]:
    """Show the accuracy or the metric under each corruption, if it was measured."""
    measured = report.measured
    return [] if measured is None or not measured.robust else ["", _robustness_table(measured)]


def verification_table(report: Report) -> RenderableType:
    """Show one row for each check."""
    checks = Table.grid(padding=(0, 2))
    checks.add_column(no_wrap=True)
    checks.add_column(no_wrap=True)
    checks.add_column(overflow="fold")
    for check in report.checks:
        # texts from a bundle are never read as markup
        checks.add_row(check.name, Text(check.outcome, style=_STYLES[check.outcome]), Text("\n".join(check.found)))
    return checks


def _robustness_table(measured: errands.Verified) -> Table:
    table = printing.table("corruption", "weak", "medium", "strong", "strengths")
    rows: dict[str, list[errands.Robust]] = {}
    for one in measured.robust:
        rows.setdefault(one.corruption, []).append(one)
    table.add_row("none (clean)", wording.figure(measured.clean), "", "", "")
    for name, found in rows.items():
        shown = [wording.figure(one.accuracy) for one in found] + [""] * (3 - len(found))
        table.add_row(name, *shown, ", ".join(f"{one.strength:g}" for one in found))
    return table
