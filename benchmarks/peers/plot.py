"""Plot the curves of all runs: best validation accuracy against wall time on a logarithmic axis, one panel per data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import contenders
from benchmarks.peers.report import Run

#: those of the contenders, in their order
_COLOURS = ("#d62728", "#1f77b4", "#aec7e8", "#2ca02c", "#98df8a", "#9467bd", "#7f7f7f", *("#ff7f0e",) * 3, *("#8c564b",) * 3)
_LINES = {96: ":", 128: "--"}


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write `path`.svg and `path`.png."""
    import matplotlib as mpl

    mpl.use("agg")
    # make the file reproducible, and keep text as text
    mpl.rcParams |= {"svg.hashsalt": "tuner", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot as plt

    panels = sorted({(run.data, run.minutes) for run in runs})
    figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 4.2), squeeze=False, layout="constrained")
    for axis, (data, minutes) in zip(axes[0], panels, strict=True):
        _panel(axis, [run for run in runs if (run.data, run.minutes) == (data, minutes)], f"{data}, {minutes:g} minutes")
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)


def _panel(axis: Any, runs: Sequence[Run], title: str) -> None:
    colours = dict(zip(contenders.CONTENDERS, _COLOURS, strict=True))
    named: set[str] = set()
    for run in runs:
        seconds, best = _steps(run)
        label = None if run.contender in named or not seconds else contenders.title(run.contender)
        named |= {run.contender} if seconds else set()
        width = 2.0 if run.contender == contenders.OURS else 1.0
        line = _LINES.get(contenders.CONTENDERS[run.contender].image_size or 0, "-")
        axis.plot(
            seconds, best, drawstyle="steps-post", linestyle=line, color=colours[run.contender], linewidth=width, alpha=0.85, label=label
        )
    axis.set(xscale="log", xlabel="seconds since the start of the process", ylabel="best validation accuracy", title=title)
    axis.grid(alpha=0.3, which="both", linewidth=0.5)
    if named:
        axis.legend(loc="lower right", fontsize=7)


def _steps(run: Run) -> tuple[list[float], list[float]]:
    """Return the points where the curve rises, and its end."""
    seconds: list[float] = []
    best: list[float] = []
    for second, value in run.curve:
        if not best or value > best[-1]:
            seconds.append(second)
            best.append(value)
    return ([*seconds, run.minutes * 60], [*best, best[-1]]) if best else ([], [])
