"""Runs: studies that a benchmark runs with `tuner run`, each with its own database and files in one folder."""

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


def data_sets(npz: Path | None, *, epochs: tuple[int, int]) -> list[tuple[str, str, int]]:
    """Return name, `data` section and fine-tuning epochs of each data set."""
    more = [(npz.stem, f"{{source: npz, path: {npz.resolve()}}}", epochs[1])] if npz else []
    return [("animals", ANIMALS, epochs[0]), *more]


def run(folder: Path, *, name: str, **study: object) -> str:
    """Run a study to its end in `folder`; return its storage URL."""
    folder.mkdir(parents=True, exist_ok=True)
    file, url = folder / f"{name}.yaml", f"sqlite:///{folder.resolve()}/{name}.db"
    file.write_text(STUDY.format(name=name, **study), encoding="utf-8")
    with (folder / f"{name}.log").open("a", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, "-m", "tuner", "run", str(file), "--workers", "2", *places(folder, name)], check=True, stdout=log, stderr=log
        )
    return url


def places(folder: Path, name: str) -> list[str]:
    """Return the options that keep all files of a study in `folder`."""
    kept = {
        "--storage": f"sqlite:///{folder.resolve()}/{name}.db",
        "--artifacts": folder / "artifacts",
        "--cache": folder / "cache",
        "--to": folder / f"{name}-best.yaml",
    }
    return [str(part) for option in kept.items() for part in option]
