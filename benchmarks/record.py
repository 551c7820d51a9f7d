"""A study file into random trials that were all fine-tuned to the end, in a database of their own."""

import argparse
import subprocess
import sys
from pathlib import Path

ANIMALS = "{source: animals, train: 1000, validation: 500, test: 2000}"
STUDY = """
name: {name}
data: {data}
model: {{backbone: efficientnet_lite0, image_size: 96}}
training: {{epochs: {epochs}, promote: {promote}}}
budget: {{trials: {trials}}}
sampler: {sampler}
pruner: none
seed: {seed}
"""


def main() -> None:
    """Record 24 trials of each data set; a call that was interrupted goes on where it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--npz", type=Path, help="a second data set")
    parser.add_argument("--trials", type=int, default=24)
    given = parser.parse_args()
    for name, data, epochs in data_sets(given.npz, epochs=(6, 8)):
        run(given.folder, name=name, data=data, epochs=epochs, promote=1.0, trials=given.trials, sampler="random", seed=0)


def data_sets(npz: Path | None, *, epochs: tuple[int, int]) -> list[tuple[str, str, int]]:
    """Name, `data` section and epochs of fine-tuning of each data set."""
    more = [(npz.stem, f"{{source: npz, path: {npz.resolve()}}}", epochs[1])] if npz else []
    return [("animals", ANIMALS, epochs[0]), *more]


def run(folder: Path, *, name: str, **study: object) -> str:
    """Run a study to its end in `folder`; its storage URL."""
    folder.mkdir(parents=True, exist_ok=True)
    file, url = folder / f"{name}.yaml", f"sqlite:///{folder.resolve()}/{name}.db"
    file.write_text(STUDY.format(name=name, **study), encoding="utf-8")
    with (folder / f"{name}.log").open("a", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, "-m", "tuner", "run", str(file), "--workers", "2", *places(folder, name)], check=True, stdout=log, stderr=log
        )
    return url


def places(folder: Path, name: str) -> list[str]:
    """The options that keep all that a study writes in `folder`."""
    kept = {
        "--storage": f"sqlite:///{folder.resolve()}/{name}.db",
        "--artifacts": folder / "artifacts",
        "--cache": folder / "cache",
        "--to": folder / f"{name}-best.yaml",
    }
    return [str(part) for option in kept.items() for part in option]


if __name__ == "__main__":
    main()
