"""Write the results of all runs as a JSON file, a table and a plot: `python -m benchmarks.peers.report FOLDER`."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from benchmarks.peers import contenders

#: validation accuracy for which the time of each contender is reported
MARK = 0.80
#: seconds since the start of the process, and the best validation accuracy so far
Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of one contender on one data set with one seed."""

    contender: str
    data: str
    seed: int
    minutes: float
    #: epochs of each trial of a peer
    epochs: int
    threads: int
    workers: int
    curve: Curve
    trials: int
    epochs_trained: int
    #: best validation accuracy; None if no epoch ended in time
    best: float | None
    #: test accuracy of the best saved model
    test: float | None
    #: validation accuracy of that model
    validation_of_scored: float | None
    #: its accuracy on further test images
    more: float | None = None
    #: test accuracies of the trial of tuner with the best validation accuracy, and of trial 0, each without mirror images
    alone_test: float | None = None
    alone_more: float | None = None
    first_test: float | None = None
    first_more: float | None = None


@dataclass(frozen=True, kw_only=True)
class Race:
    """A comparison of tuner with the best peer, with the same data, seed and time."""

    data: str
    seed: int
    minutes: float
    #: the peer with the best validation accuracy; among equals the fastest
    peer: str
    accuracy: float
    peer_seconds: float
    #: when tuner reached the same accuracy; None: not in time
    our_seconds: float | None
    #: how many times faster
    ratio: float | None
    our_accuracy: float | None
    our_test: float | None
    #: best test accuracy of any peer
    best_peer_test: float | None


def main() -> None:
    """Write the report of the runs in a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


def write(folder: Path) -> None:
    """Write results.json, results.md and the plot of all finished runs in a folder, and print the tables."""
    from benchmarks.peers import plot

    runs = read(folder)
    if not runs:
        return
    found = {"runs": [asdict(run) for run in runs], "races": [asdict(race) for race in races(runs)]}
    (folder / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    text = "\n\n".join(_tables(runs)) + "\n"
    (folder / "results.md").write_text(text, encoding="utf-8")
    plot.draw(runs, folder / "results")
    print(text)


def read(folder: Path) -> list[Run]:
    """Return the finished runs in the order of the contenders."""
    order = list(contenders.CONTENDERS)
    plain = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/*/*/result.json")]
    names = [name for name in Run.__dataclass_fields__ if name != "curve"]
    runs = [Run(curve=tuple((s, best) for s, best in one["curve"]), **{name: one[name] for name in names if name in one}) for one in plain]
    return sorted(runs, key=lambda run: (run.data, run.minutes, order.index(run.contender), run.seed))


def seconds_to(curve: Curve, accuracy: float) -> float | None:
    """Return when a run reached an accuracy; None if it never did."""
    return next((seconds for seconds, best in curve if best >= accuracy), None)


def races(runs: Sequence[Run]) -> list[Race]:
    """Return the comparison of tuner with the best peer for each data set, time and seed where both ran."""
    keys = sorted({(run.data, run.minutes, run.seed) for run in runs})
    return [race for key in keys if (race := _race([run for run in runs if (run.data, run.minutes, run.seed) == key])) is not None]


def _race(runs: Sequence[Run]) -> Race | None:
    ours = next((run for run in runs if run.contender == contenders.OURS), None)
    peers = [(run.best, _reached(run), run) for run in runs if run.contender != contenders.OURS and run.best is not None]
    if ours is None or not peers:
        return None
    accuracy, peer_seconds, peer = min(peers, key=lambda one: (-one[0], one[1]))
    our_seconds = seconds_to(ours.curve, accuracy)
    return Race(
        data=ours.data,
        seed=ours.seed,
        minutes=ours.minutes,
        peer=peer.contender,
        accuracy=accuracy,
        peer_seconds=peer_seconds,
        our_seconds=our_seconds,
        ratio=peer_seconds / our_seconds if our_seconds else None,
        our_accuracy=ours.best,
        our_test=ours.test,
        best_peer_test=max((run.test for _, _, run in peers if run.test is not None), default=None),
    )


def _reached(run: Run) -> float:
    """Return when a run reached its best accuracy."""
    seconds = seconds_to(run.curve, run.best if run.best is not None else 0.0)
    assert seconds is not None, "the best is on the curve"
    return seconds


def _tables(runs: Sequence[Run]) -> Iterator[str]:
    for data, minutes in sorted({(run.data, run.minutes) for run in runs}):
        chosen = [run for run in runs if (run.data, run.minutes) == (data, minutes)]
        peers = [run for run in chosen if run.contender != contenders.OURS] or chosen
        epochs = " or ".join(sorted({str(run.epochs) for run in peers}))
        workers = " or ".join(sorted({str(run.workers) for run in chosen if run.contender == contenders.OURS})) or "no"
        threads = " or ".join(sorted({str(run.threads) for run in chosen}))
        yield f"**{data}, {minutes:g} minutes** ({threads} threads; {epochs} epochs per trial of a peer; {workers} workers of tuner)"
        yield contenders_table(chosen)
        if found := races(chosen):
            yield races_table(found)


def contenders_table(runs: Sequence[Run]) -> str:
    """Yield one row per contender with means over its seeds, and how many seeds reached the accuracy if not all did."""
    names = [name for name in contenders.CONTENDERS if any(run.contender == name for run in runs)]
    head = [
        "contender",
        "seeds",
        "validation",
        "worst seed",
        "test",
        "further images",
        "best trial alone",
        "trial 0 alone",
        "validation of the model tested",
        "reached after",
        f"{MARK:.2f} after",
        "trials",
        "tuner got there after",
    ]
    return _table(head, [_contender_row([run for run in runs if run.contender == name], runs) for name in names])


def _contender_row(runs: Sequence[Run], all_runs: Sequence[Run]) -> list[str]:
    bests = [run.best for run in runs if run.best is not None]
    name = runs[0].contender
    return [
        contenders.title(name),
        str(len(runs)),
        _accuracy(bests),
        f"{min(bests):.3f}" if len(bests) == len(runs) else "none",
        _accuracy([run.test for run in runs if run.test is not None]),
        _accuracy([run.more for run in runs if run.more is not None]),
        _accuracy([found for run in runs if (found := run.alone_test if run.alone_more is None else run.alone_more) is not None]),
        _accuracy([found for run in runs if (found := run.first_test if run.first_more is None else run.first_more) is not None]),
        _accuracy([run.validation_of_scored for run in runs if run.validation_of_scored is not None]),
        _seconds([_reached(run) for run in runs if run.best is not None], len(runs)),
        _seconds([seconds for run in runs if (seconds := seconds_to(run.curve, MARK)) is not None], len(runs)),
        f"{mean(run.trials for run in runs):.0f}",
        "" if name == contenders.OURS else _ours_after(runs, all_runs),
    ]


def _ours_after(runs: Sequence[Run], all_runs: Sequence[Run]) -> str:
    """Return when tuner, with the same seeds, reached the accuracy of these runs."""
    ours = {run.seed: run for run in all_runs if run.contender == contenders.OURS}
    both = [(run, ours[run.seed]) for run in runs if run.seed in ours and run.best is not None]
    found = [seconds for peer, our in both if (seconds := seconds_to(our.curve, peer.best or 0.0)) is not None]
    return _seconds(found, len(both)) if both else ""


def races_table(found: Sequence[Race]) -> str:
    """Yield one row per seed: the best peer, and when tuner reached its accuracy."""
    head = [
        "seed",
        "best peer",
        "its validation",
        "reached after",
        "tuner after",
        "times faster",
        "tuner's validation",
        "tuner's test",
        "best peer's test",
    ]
    return _table(head, [_race_row(race) for race in found])


def _race_row(race: Race) -> list[str]:
    return [
        str(race.seed),
        contenders.title(race.peer),
        f"{race.accuracy:.3f}",
        f"{race.peer_seconds:.0f} s",
        "not in time" if race.our_seconds is None else f"{race.our_seconds:.1f} s",
        "" if race.ratio is None else f"{race.ratio:.1f}",
        *("" if value is None else f"{value:.3f}" for value in (race.our_accuracy, race.our_test, race.best_peer_test)),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _accuracy(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" if values else "none"


def _seconds(values: Sequence[float], num_runs: int) -> str:
    if not values:
        return "not in time"
    shown = f"{mean(values):.0f} s" if mean(values) >= 100 else f"{mean(values):.1f} s"
    return shown if len(values) == num_runs else f"{shown} ({len(values)} of {num_runs})"


if __name__ == "__main__":
    main()
