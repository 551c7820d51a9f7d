"""Tables: figures of many worlds in Markdown, with intervals, and each data set's choice by the other data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: figures (worlds,) by data set; a figure that does not exist is NaN
Figures = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Test accuracies of several policies in the same worlds."""

    #: by the name of the policy
    tests: Mapping[str, Figures]
    #: name of the policy that the others are compared with
    reference: str

    @property
    def data_sets(self) -> list[str]:
        """Names of the data sets."""
        return list(self.tests[self.reference])

    def differences(self, name: str) -> Figures:
        """Return test accuracies minus those of the reference, in points."""
        reference = self.tests[self.reference]
        return {data_set: 100 * (figures - reference[data_set]) for data_set, figures in self.tests[name].items()}

    def mean(self, name: str, *, without: str | None = None) -> float:
        """Return the mean difference over the data sets, except one."""
        return float(np.mean([np.nanmean(figures) for data_set, figures in self.differences(name).items() if data_set != without]))

    def best(self, *, without: str | None = None) -> str:
        """Return the policy with the highest mean over the data sets, except one."""
        complete = [name for name in self.tests if not any(np.isnan(figures).any() for figures in self.tests[name].values())]
        return max(complete, key=lambda name: self.mean(name, without=without))


def mean(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the mean of several comparisons of the same policies over the data sets that all of them have."""
    first = comparisons[0]
    shared = [data_set for data_set in first.data_sets if all(data_set in each.data_sets for each in comparisons)]
    tests = {
        name: {data_set: np.mean([each.tests[name][data_set] for each in comparisons], 0) for data_set in shared} for name in first.tests
    }
    return Comparison(tests=tests, reference=first.reference)


def differences(comparison: Comparison, *, best: Figures | None = None) -> list[str]:
    """Return a table with a row for each policy: the test accuracies of the reference, and the differences of all others in points.

    With the test accuracies of the best that is achievable, it has a column of the regret, in points.
    """
    rows = [_header(["", *comparison.data_sets, "mean", *(["regret"] if best else [])])]
    for name, tests in comparison.tests.items():
        if name == comparison.reference:
            cells = [f"{np.nanmean(each):.4f}" for each in (*tests.values(), _over_data_sets(tests))]
        else:
            found = comparison.differences(name)
            cells = [_cell(each) for each in (*found.values(), _over_data_sets(found))]
        if best:
            cells.append(_cell(_over_data_sets({data_set: 100 * (best[data_set] - each) for data_set, each in tests.items()})))
        rows.append(_row([f"{name} (reference)" if name == comparison.reference else name, *cells]))
    return rows


def _over_data_sets(figures: Figures) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.mean(list(figures.values()), 0)
    return found


def left_out(comparison: Comparison) -> list[str]:
    """Return a table with, for each data set, the policy that is best on the others, and its difference here."""
    rows = [_header(["data set", "best on the others", "its difference here", "best here", "its difference"])]
    for data_set in comparison.data_sets:
        chosen = comparison.best(without=data_set)
        here = max(comparison.tests, key=lambda name: _mean(comparison.differences(name)[data_set]))
        cells = [_cell(comparison.differences(name)[data_set]) for name in (chosen, here)]
        rows.append(_row([data_set, chosen, cells[0], here, cells[1]]))
    return rows


def _mean(figures: NDArray[np.float64]) -> float:
    return -np.inf if np.isnan(figures).all() else float(np.nanmean(figures))


def interval(figures: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range of the middle 95 % of the worlds."""
    low, high = np.nanquantile(figures, [0.025, 0.975])
    return float(low), float(high)


def _cell(figures: NDArray[np.float64]) -> str:
    if np.isnan(figures).any():
        return "-"
    low, high = interval(figures)
    return f"{np.mean(figures):+.2f} ({low:+.1f} to {high:+.1f})"


def _header(cells: Sequence[str]) -> str:
    return f"{_row(cells)}\n{_row(['---'] * len(cells))}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
