"""Measure how long a bundle with all formats takes, including the comparison in new processes, and how far each format agrees.

`python benchmarks/exporting.py FOLDER` runs a study of one trial in FOLDER unless there is one: EfficientNet-Lite0 on silhouettes at
`--size` pixels. Then it exports the best trial with `--format all --quantize int8`.
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
    given = parser.parse_args()
    folder = given.folder.absolute() / str(given.size)
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "bundle"
    run(folder, given.size)
    shutil.rmtree(bundle, ignore_errors=True)
    load, before, start = os.getloadavg()[0], used(), time.perf_counter()
    subprocess.run([*TUNER, "export", "exported", "--to", str(bundle), "--format", "all", "--quantize", "int8"], cwd=folder, check=True)
    seconds, processor = time.perf_counter() - start, used() - before
    print(f"{given.size} pixels: {seconds:.0f} s, {processor:.0f} s of the processors; load of the machine before: {load:.1f}\n")
    print("| file | labels that agree | largest difference | ms an image | MB |\n|---|---|---|---|---|")
    for row in json.loads((bundle / "formats.json").read_text()):
        agreed, difference = f"{row['label_agreement']:.2%} of {row['images_compared']}", f"{row['max_difference']:.0e}"
        print(f"| `{row['file']}` | {agreed} | {difference} | {row['milliseconds_an_image']:.1f} | {row['bytes'] / 1e6:.1f} |")


def run(folder: Path, size: int) -> None:
    """Run a study of one trial, unless it exists."""
    data = {"source": "animals", "train": 1000, "validation": 1000, "test": 0}
    model = {"backbone": "efficientnet_lite0", "image_size": size}
    study = {"name": "exported", "data": data, "model": model, "training": {"epochs": 4}, "budget": {"trials": 1}}
    (folder / "exported.yaml").write_text(json.dumps(study))
    if not (folder / "tuner.db").exists():
        subprocess.run([*TUNER, "run", "exported.yaml", "--no-export"], cwd=folder, check=True)


def used() -> float:
    """Return the processor seconds of child processes."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


if __name__ == "__main__":
    main()
