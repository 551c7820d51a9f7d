"""A verdict into one screen: the choice, the test figures, the comparisons, what is to be known."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tuner import wording
from tuner.results import classes
from tuner.results.verdict import Standing, Verdict
from tuner.terminal import plan

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


def _values(network: Standing) -> Iterator[str]:
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
        rows.add_row(each.name, f"{each.num_images:,}", f"{each.precision:.3f}", f"{each.recall:.3f}", f"{each.f1:.3f}")
    if len(verdict.classes) > _LISTED_CLASSES:
        rows.add_row(f"… {len(verdict.classes) - _LISTED_CLASSES} more with --json", *[""] * len(right), style="quiet")
    return rows


def _confusion(verdict: Verdict) -> RenderableType:
    names = [each.name for each in verdict.classes]
    if len(names) > _WIDEST_MATRIX:
        most = classes.most_confused(verdict.confusion, names, most=_CONFUSED)
        return Text("\n".join(f"{found.num_images} of {found.truth} taken for {found.taken_for}" for found in most) or "no mistakes")
    rows = plan.table("true class", *(name[:6] for name in names), right=[name[:6] for name in names])
    for name, counts in zip(names, verdict.confusion, strict=True):
        rows.add_row(name, *(str(count) if count else "·" for count in counts))
    return rows
