"""Compare the best probe that each sampler finds; many cheap trials reduce the effect of chance."""

import argparse
import json
from pathlib import Path

import numpy as np
import runs

import tuner

SAMPLERS = ("prior", "tpe", "random", "qmc", "nsga-ii", "cma-es")


def main() -> None:
    """Print a table for each data set and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--npz", type=Path, help="a second data set in an .npz file")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for name, data, epochs in runs.data_sets(given.npz, epochs=(0, 0)):
        print(f"\n{name}: {given.trials} probes a study, {given.seeds} seeds\n")
        print("| sampler | best of 20 (mean) | best of all (mean) | mean of the last 20 |\n|---|---|---|---|")
        rows = []
        for sampler in SAMPLERS:
            values = []
            for seed in range(given.seeds):
                title = f"{name}-{sampler}-{seed}"
                url = runs.run(
                    given.folder, name=title, data=data, epochs=epochs, promote=1.0, trials=given.trials, sampler=sampler, seed=seed
                )
                trials = tuner.load(title, tuner.open_storage(url)).optuna.get_trials()
                values.append([trial.value for trial in trials if trial.value is not None])
            figures = (lambda run: max(run[:20]), max, lambda run: np.mean(run[-20:]))
            best20, best, last = (float(np.mean([figure(run) for run in values])) for figure in figures)
            rows.append({"sampler": sampler, "best_of_20": best20, "best": best, "mean_of_last_20": last, "runs": values})
            print(f"| {sampler} | {best20:.4f} | {best:.4f} | {last:.4f} |", flush=True)
        (given.folder / f"{name}-samplers.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
