"""Measure how long a bundle with all formats takes, including the comparison in new processes, and how far each format agrees.

`python benchmarks/exporting.py FOLDER` runs a study of one trial in FOLDER unless there is one: EfficientNet-Lite0 on silhouettes at
`--size` pixels. Then it exports the best trial with `--format all --quantize int8`. With `--members 5` it trains five trials for one epoch
each, and exports their ensemble with mirror images in all formats but 8 bits.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

TUNER = (sys.executable, "-m", "tuner")


def main() -> None:
    """Run, export, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--members", type=int, default=1, help="number of networks in the exported model")
    given = parser.parse_args()
    folder = given.folder.absolute() / (str(given.size) if given.members == 1 else f"{given.size}-{given.members}")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "bundle"
    run(folder, given.size, given.members)
    shutil.rmtree(bundle, ignore_errors=True)
    load, before, start = os.getloadavg()[0], used(), time.perf_counter()
    quantized = ("--quantize", "int8") if given.members == 1 else ()
    subprocess.run([*TUNER, "export", "exported", "--to", str(bundle), "--format", "all", *quantized], cwd=folder, check=True)
    seconds, processor = time.perf_counter() - start, used() - before
    print(f"{given.size} pixels: {seconds:.0f} s, {processor:.0f} s of the processors; load of the machine before: {load:.1f}\n")
    print("| file | labels that agree | largest difference | ms an image | MB |\n|---|---|---|---|---|")
    for row in json.loads((bundle / "formats.json").read_text()):
        agreed, difference = f"{row['label_agreement']:.2%} of {row['images_compared']}", f"{row['max_difference']:.0e}"
        print(f"| `{row['file']}` | {agreed} | {difference} | {row['milliseconds_an_image']:.1f} | {row['bytes'] / 1e6:.1f} |")


def run(folder: Path, size: int, num_members: int) -> None:
    """Run a study of some trials, unless it exists; several become an ensemble, whatever they predict."""
    data = {"source": "animals", "train": 1000 if num_members == 1 else 200, "validation": 1000, "test": 0}
    model = {"backbone": "efficientnet_lite0", "image_size": size}
    training = {"epochs": 4 if num_members == 1 else 1, "promote": 1.0}
    study = {"name": "exported", "data": data, "model": model, "training": training, "budget": {"trials": num_members}}
    (folder / "exported.yaml").write_text(json.dumps(study))
    if not (folder / "tuner.db").exists():
        subprocess.run([*TUNER, "run", "exported.yaml", "--no-export"], cwd=folder, check=True)
    if num_members > 1:
        join(folder, num_members)


def join(folder: Path, num_members: int) -> None:
    """Make all trials of the study its ensemble, as if it were better than each of them."""
    from tuner.commands import ensemble as commands_ensemble
    from tuner.results import ensemble as ensembles
    from tuner.storage import engine as storages
    from tuner.studies import study as studies

    study = studies.load("exported", storages.open(f"sqlite:///{folder / 'tuner.db'}"))
    predicted = commands_ensemble.predictions(study, range(num_members), folder)
    assert predicted is not None, "all trials keep their weights and logits"
    found = ensembles.of_members(*predicted, mirrored=True)
    ensembles.store(study, found.model_copy(update={"validation_accuracy": 1.0}))


def used() -> float:
    """Return the processor seconds of child processes."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


if __name__ == "__main__":
    main()
