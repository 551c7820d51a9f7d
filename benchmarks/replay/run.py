"""Replay policies of a search against the recorded trials, and print the tables of docs/benchmarks-replay.md.

    python -m benchmarks.replay.run [--recordings FOLDER] [--worlds 100] [--sections trials members views policies sizes lengths honesty]

A world is a draw of which recordings exist, and of which images choose and which judge. Every policy is replayed in the same worlds. An
interval is the range of the middle 95 % of the worlds.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.replay import ensembles, laboratory, tables, trial_files
from benchmarks.replay.contest import Arena, Entry, Outcome, Sample, Study
from benchmarks.replay.judging import Judge, Mirror, Result, best_achievable
from benchmarks.replay.laboratory import Laboratory, Trial, World
from benchmarks.replay.search import Policy, Prior
from benchmarks.replay.tables import Comparison
from tuner.results import statistics

SIZE = 96
COUNTS = (3, 5, 8, 12)
MINUTES = (3.0, 6.0, 12.0)
#: what a study made of its trials before there were ensembles
SINGLE = Result(rule="best 1, accuracy", mirror=Mirror.OFF)
#: the rule of the section `members` that holds on all data sets
RULE = "bagged greedy"
#: pruners that are compared, as in a study file
PRUNERS = (
    {"name": "median", "startup_trials": 2},
    {"name": "percentile", "percentile": 75, "startup_trials": 2},
    {"name": "top-k", "keep": 3},
    {"name": "top-k", "keep": 3, "epochs": 3},
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=trial_files.FOLDER)
    parser.add_argument("--worlds", type=int, default=100)
    parser.add_argument("--orders", type=int, default=2, help="orders of the trials in each world")
    parser.add_argument("--left-out", type=float, default=laboratory.LEFT_OUT, help="chance that a world lacks a recording")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    arena = Arena(laboratories=read(given.recordings), num_worlds=given.worlds, num_orders=given.orders, left_out=given.left_out)
    print(*contents(arena.laboratories), sep="\n")
    for name in given.sections:
        start = time.monotonic()
        print(*SECTIONS[name](arena), sep="\n")
        print(f"\n<!-- {name}: {time.monotonic() - start:.0f} s -->", flush=True)


def read(folder: Path) -> list[Laboratory]:
    """Return the laboratory of each data set whose recipe is recorded."""
    by_data_set: dict[str, list[trial_files.Recording]] = {}
    for each in trial_files.read_all(folder).values():
        by_data_set.setdefault(each[0].facts.data_set, []).extend(each)
    laboratories = [laboratory.build(name, found) for name, found in by_data_set.items() if found[0].facts.kind == "recipe"]
    if not laboratories:
        raise SystemExit(f"{folder} has no recorded recipe; record trials first: python -m benchmarks.replay.record --to {folder}")
    return laboratories


def contents(laboratories: Sequence[Laboratory]) -> list[str]:
    """Return a table of what was recorded."""
    rows = ["| data set | trials | recipe: validation, test | best trial: validation, test | 12 minutes here |", "|---|---|---|---|---|"]
    for each in laboratories:
        scores = [_scores(trial, each) for trial in each.trials]
        cells = [f"{validation:.4f}, {test:.4f}" for validation, test in (scores[0], max(scores))]
        whole = [trial.image_size for trial in each.trials if trial.length == "full"]
        halves = sum(trial.length == "continued" for trial in each.trials)
        counts = [f"{whole.count(size)} at {size}" for size in sorted(each.sizes)] + ([f"{halves} continued"] if halves else [])
        rows.append(f"| {each.data_set} | {', '.join(counts)} | {' | '.join(cells)} | {each.budget_seconds(12):.0f} s |")
    return rows


def _scores(trial: Trial, of: Laboratory, shown: str = "last") -> tuple[float, float]:
    right = trial.probabilities[shown].argmax(1) == of.labels
    return float(right[: of.num_validation].mean()), float(right[of.num_validation :].mean())


def trials(arena: Arena) -> list[str]:
    """Return a table of all trials, and how much better the last epoch and mirror images are on test images."""
    head = "| data set | pixels | trial | kind | probe | validation | test | test of the best epoch | test with mirror images |"
    rows, gains = ["", "### Trials", "", head, "|---|---|---|---|---|---|---|---|---|"], []
    for each in arena.laboratories:
        for trial in each.trials:
            last, best, both = (_scores(trial, each, shown) for shown in ("last", "best", "both"))
            gains.append((last[1] - best[1], both[1] - last[1]))
            kind = trial.kind if trial.length == "full" else f"{trial.kind}, {trial.length}"
            what = f"{each.data_set} | {trial.image_size} | {trial.number} | {kind}"
            rows.append(f"| {what} | {trial.probe:.3f} | {last[0]:.4f} | {last[1]:.4f} | {best[1]:.4f} | {both[1]:.4f} |")
    mean = 100 * np.mean(gains, 0)
    return [
        *rows,
        "",
        f"On average, the last epoch is {mean[0]:+.2f} points above the best one, and mirror images add {mean[1]:+.2f} points.",
    ]


def members(arena: Arena) -> list[str]:
    """Compare the rules that choose the members of an ensemble among N trials."""
    kinds = {"of the recipe and its neighborhood": ("recipe", "seed", "near"), "of all kinds": None}
    samples = {
        f"{count} trials {what}": Sample(count=count, kinds=which, size=SIZE, least=count)
        for what, which in kinds.items()
        for count in COUNTS
    }
    rules = [name for name in ensembles.RULES if name != "first"]
    entries = {
        f"{title}: {rule}": Entry(source=source, result=Result(rule=rule, mirror=Mirror.OFF))
        for title, source in samples.items()
        for rule in rules
    }
    outcome = arena.play(entries)
    lines, complete = [], []
    for title in samples:
        comparison = _compared({rule: outcome.tests[f"{title}: {rule}"] for rule in rules}, SINGLE.rule)
        if comparison is not None:
            complete.append(comparison)
            lines += ["", f"### Members among {title}", "", *tables.differences(comparison)]
    if complete and len(complete[0].data_sets) > 1:
        lines += ["", "### The rule that the other data sets choose", "", *tables.left_out(tables.mean(complete))]
    return lines


def _compared(tests: Mapping[str, tables.Figures], reference: str) -> Comparison | None:
    """Return a comparison over the data sets that have the reference in every world."""
    whole = [data_set for data_set, figures in tests[reference].items() if not np.isnan(figures).any()]
    kept = {name: {data_set: figures[data_set] for data_set in whole} for name, figures in tests.items()}
    return Comparison(tests=kept, reference=reference) if whole else None


def views(arena: Arena) -> list[str]:
    """Compare mirror averaging, the best and the last epoch, and calibrated members, on the splits of the recording."""
    source = Sample(count=8, size=SIZE, least=2)
    ways: dict[str, dict[str, Any]] = {
        "best epoch": {"epoch": "best"},
        "last epoch": {"mirror": Mirror.OFF},
        "last epoch, calibrated": {"mirror": Mirror.OFF, "calibrates": True},
        "last epoch, mirror on": {"mirror": Mirror.ON},
        "last epoch, mirror chosen": {"mirror": Mirror.CHOSEN},
    }
    rules = ("best 1, accuracy", "best 1", "best 3", "best 5", "all", RULE)
    entries = {f"{rule}, {way}": Entry(source=source, result=Result(rule=rule, **given)) for rule in rules for way, given in ways.items()}
    outcome = replace(arena, draw=laboratory.recorded_split).play(entries)
    comparison = _compared(outcome.tests, "best 1, accuracy, best epoch")
    return ["", "### Views and epochs: up to 8 trials of all kinds", "", *tables.differences(comparison)] if comparison else []


def policies(arena: Arena) -> list[str]:
    """Compare whole searches at 3, 6 and 12 minutes."""
    chosen, average = Result(rule=RULE), Result(rule="all")
    today = Policy(prior=Prior.SPACE, promote=0.25, pruner="median", plans=False)
    compared: dict[str, tuple[Policy, Result]] = {
        "recipe's ensemble": (Policy(prior=Prior.SEEDS), average),
        "recipe once": (Policy(prior=Prior.SEEDS), Result(rule="first", mirror=Mirror.OFF)),
        "recipe once, mirror": (Policy(prior=Prior.SEEDS), Result(rule="first")),
        "space, promote 0.25, median pruner, no plan, best trial": (today, SINGLE),
        "space, promote 0.25, median pruner, no plan": (today, chosen),
        **{str(prior): (Policy(prior=prior), chosen) for prior in Prior},
        **{f"{prior}, mean of all": (Policy(prior=prior), average) for prior in (Prior.NEAR, Prior.MIXED)},
        **{
            f"{prior}, promote {share:g}": (Policy(prior=prior, promote=share), chosen)
            for prior in (Prior.NEAR, Prior.MIXED, Prior.SPACE)
            for share in (0.5, 0.25)
        },
        **{f"mixed, {_named(pruner)}": (Policy(prior=Prior.MIXED, pruner=pruner), chosen) for pruner in PRUNERS},
        "mixed, no plan": (Policy(prior=Prior.MIXED, plans=False), chosen),
    }
    return _by_minutes(arena, compared, "Searches")


def _named(pruner: Mapping[str, object]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in pruner.items() if name != "name")
    return f"{pruner['name']} ({options})"


def lengths(arena: Arena) -> list[str]:
    """Compare the lengths of the fine-tuning, where several are recorded: one, two or three trials of the same draws."""
    recorded = [each for each in arena.laboratories if len({trial.length for trial in each.trials}) > 1]
    if not recorded:
        return []
    entries = {
        f"{count} of length {length}": Entry(source=Sample(count=count, size=SIZE, length=length, least=count), result=Result(rule="all"))
        for count in (1, 2, 3)
        for length in ("full", "half", "continued")
    }
    outcome = replace(arena, laboratories=[_continued(each) for each in recorded]).play(entries)
    comparison = _compared(outcome.tests, "1 of length full")
    return ["", "### Lengths", "", *tables.differences(comparison)] if comparison else []


def _continued(of: Laboratory) -> Laboratory:
    """Return a laboratory with only the trials whose draws are recorded at several lengths."""
    several = {trial.number for trial in of.trials if trial.length != "full"}
    return replace(of, trials=tuple(trial for trial in of.trials if trial.number in several and trial.image_size == SIZE))


def sizes(arena: Arena) -> list[str]:
    """Compare the sizes of images, and ensembles over both, where both are recorded."""
    large = max(size for each in arena.laboratories for size in each.sizes)
    both = [each for each in arena.laboratories if {SIZE, large} <= each.sizes]
    if large == SIZE or not both:
        return []
    compared = {"recipe's ensemble at 96": (Policy(prior=Prior.SEEDS), Result(rule="all"))}
    for shown, given in ((f"{SIZE}", (SIZE,)), (f"{large}", (large,)), (f"{SIZE} and {large} in turn", (SIZE, large))):
        for prior in (Prior.SEEDS, Prior.NEAR, Prior.MIXED):
            compared[f"{prior} at {shown}"] = (Policy(prior=prior, sizes=given), Result(rule=RULE))
        compared[f"near at {shown}, mean of all"] = (Policy(sizes=given), Result(rule="all"))
        compared[f"near at {shown}, best 1"] = (Policy(sizes=given), Result(rule="best 1"))
    return _by_minutes(replace(arena, laboratories=both), compared, "Sizes")


def _by_minutes(arena: Arena, compared: Mapping[str, tuple[Policy, Result]], title: str) -> list[str]:
    """Return a table for each budget; numbers in brackets are the mean numbers of trials that were trained to the end."""
    entries = {
        f"{minutes:g} {name}": Entry(source=Study(policy=policy, minutes=minutes), result=result)
        for minutes in MINUTES
        for name, (policy, result) in compared.items()
    }
    outcome, lines = arena.play(entries), []
    highest = {each.data_set: np.array([best_achievable(world) for world in arena.worlds(each)]) for each in arena.laboratories}
    for minutes in MINUTES:
        tests = {_counted(name, outcome, f"{minutes:g} {name}"): outcome.tests[f"{minutes:g} {name}"] for name in compared}
        reference = next(iter(tests))
        comparison = _compared(tests, reference)
        if comparison is not None:
            lines += ["", f"### {title} at {minutes:g} minutes", "", *tables.differences(comparison, best=highest)]
            lines += ["", *tables.left_out(comparison)] if len(comparison.data_sets) > 1 else []
    return lines


def _counted(name: str, outcome: Outcome, entry: str) -> str:
    return f"{name} [{np.mean(list(outcome.num_trials[entry].values())):.1f}]"


def honesty(arena: Arena) -> list[str]:
    """Return how often the interval of the one test reading contains the accuracy on images that neither chose nor measured."""
    head = "| result | data set | validation - held out, points | interval contains the held-out accuracy |"
    rows = ["", "### Intervals", "", head, "|---|---|---|---|"]
    for rule in ("best 1, accuracy", "best 5", "all", RULE):
        for each in arena.laboratories:
            held = [_held_out(world, rule, number) for number, world in enumerate(arena.worlds(each))]
            gap, contained = np.mean([gap for gap, _ in held]), np.mean([contains for _, contains in held])
            rows.append(f"| {rule} | {each.data_set} | {100 * gap:+.2f} | {contained:.0%} of {len(held)} |")
    return rows


def _held_out(world: World, rule: str, number: int) -> tuple[float, bool]:
    """Return validation minus held-out accuracy, and whether Wilson's interval of a quarter of the test images contains the rest's."""
    trials = Sample(count=8, size=SIZE, least=1).trials(world, number)
    judged = Judge(world, trials, seed=number).judge(Result(rule=rule))
    rows = np.random.default_rng([number, 2]).permutation(len(judged.right))
    reading, rest = np.split(judged.right[rows], [len(rows) // 4])
    low, high = statistics.wilson(int(reading.sum()), len(reading))
    return judged.validation - float(rest.mean()), low <= float(rest.mean()) <= high


SECTIONS = {
    "trials": trials,
    "members": members,
    "views": views,
    "policies": policies,
    "sizes": sizes,
    "lengths": lengths,
    "honesty": honesty,
}


if __name__ == "__main__":
    main()
