"""Search a folder of images much larger than the memory limit: first with mapped resized images, then with streamed ones."""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import runs
from PIL import Image

MB, GB = 2**20, 2**30
CLASSES = ("red", "green", "blue", "grey")
WIDTH, HEIGHT = 1600, 1200
STUDY = """
name: {name}
data: {{source: folder, path: {photos}, validation: 0.1, test: 0.05}}
model: {{backbone: {backbone}, image_size: {size}}}
training: {{probe_epochs: 5, epochs: 1, promote: 1.0}}
search: {{unfreeze: 0.25, features: last}}
budget: {{trials: {trials}}}
"""


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for the images and all other files")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the folder of images")
    parser.add_argument("--distinct", type=int, default=100, help="number of distinct files; the others are hard links to them")
    parser.add_argument("--limit", type=float, default=3.0, help="RLIMIT_DATA of each process, in gigabytes")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--images", choices=("mapped", "streamed"), nargs="+", default=["mapped", "streamed"])
    given = parser.parse_args()
    folder: Path = given.folder.resolve()
    photos = folder / "photos"
    if given.distinct % len(CLASSES):
        parser.error(f"--distinct is {given.distinct}; expected a multiple of {len(CLASSES)}, the number of classes")
    apparent, num_files = make(photos, num_bytes=int(given.gigabytes * GB), num_distinct=given.distinct)
    figures: dict[str, Any] = {
        "folder_gb": round(apparent / GB, 2),
        "files": num_files,
        "decoded_gb": round(num_files * WIDTH * HEIGHT * 3 / GB, 2),
        "distinct_on_disk_gb": round(given.distinct * WIDTH * HEIGHT * 3 / GB, 2),
        "memory_limit_gb": given.limit,
        "machine_memory_gb": round(psutil.virtual_memory().total / GB, 1),
    }
    train_bytes = int(num_files * 0.85 * given.size**2 * 3)
    for name in given.images:
        # the list of decoded files serves every later search; resized images and features are created again
        for left in ("cache/images", "cache/features", "cache/activations", f"artifacts/{name}"):
            shutil.rmtree(folder / left, ignore_errors=True)
        (folder / f"{name}.db").unlink(missing_ok=True)
        file = folder / f"{name}.yaml"
        file.write_text(STUDY.format(name=name, photos=photos, backbone=given.backbone, size=given.size, trials=given.trials))
        limit = train_bytes // 2 if name == "streamed" else None
        figures[name] = search(folder, name, file, data_limit=int(given.limit * GB), cache_limit=limit)
        (folder / "out_of_core.json").write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


def make(photos: Path, *, num_bytes: int, num_distinct: int) -> tuple[int, int]:
    """Create a folder of uncompressed images; return its apparent size and its number of files."""
    each = WIDTH * HEIGHT * 3
    num_files = -(-num_bytes // each)
    random = np.random.default_rng(0)
    originals: list[Path] = []
    for number in range(num_files):
        path = photos / CLASSES[number % len(CLASSES)] / f"{number:05}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < num_distinct:
            path.unlink(missing_ok=True)
            picture(random, number % len(CLASSES)).save(path)
            originals.append(path)
        elif not path.exists():
            path.hardlink_to(originals[number % num_distinct])
    return sum(path.stat().st_size for path in photos.rglob("*.bmp")), num_files


def picture(random: np.random.Generator, label: int) -> Image.Image:
    """Return a picture of coloured blots, most of them in the colour of the class."""
    blots = random.integers(0, 200, (9, 12, 3))
    if label < 3:
        blots[..., label] += 55
    return Image.fromarray(blots.astype(np.uint8)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def search(folder: Path, name: str, file: Path, *, data_limit: int, cache_limit: int | None) -> dict[str, Any]:
    """Run `tuner run` and observe it; return the seconds, and the maximum private memory of each of its processes."""
    is_known = any((folder / "cache" / "index").glob("*.json"))
    environment = dict(os.environ) | ({"TUNER_CACHE_LIMIT": str(cache_limit)} if cache_limit else {})
    began = time.monotonic()
    peaks: dict[str, dict[str, int]] = {}
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tuner", "run", str(file), *runs.places(folder, name)],
            stdout=log,
            stderr=log,
            env=environment,
            preexec_fn=limited(data_limit),  # noqa: PLW1509 -- no other thread runs yet
        )
        over = threading.Event()
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), peaks, over))
        watcher.start()
        code = process.wait()
        over.set()
        watcher.join()
    return {
        "exit_code": code,
        "seconds": round(time.monotonic() - began),
        "files_were_known": is_known,
        "images_are": images_are(folder / "artifacts" / name),
        "cache_limit_mb": round(cache_limit / MB) if cache_limit else None,
        "cache_mb": round(sum(path.stat().st_size for path in (folder / "cache").glob("*/*.npy")) / MB),
        "peak_mb": {role: {what: round(value / MB) for what, value in found.items()} for role, found in peaks.items()},
    }


def limited(data_limit: int) -> Callable[[], None]:
    """Return a function that limits the private memory of a new process and its children."""
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (data_limit, data_limit))


def watch(root: psutil.Process, peaks: dict[str, dict[str, int]], over: threading.Event) -> None:
    """Record the maximum memory of each process by its role: private (anonymous) memory, and resident pages of mapped files."""
    while not over.wait(0.1):
        for process in family(root):
            try:
                words = " ".join(process.cmdline())
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (psutil.Error, OSError):
                continue
            role = "trainer" if "training.process" in words else "worker" if process.pid != root.pid else "command"
            found = peaks.setdefault(role, {"anonymous": 0, "file": 0, "data_segment": 0})
            for what, field in (("anonymous", "RssAnon"), ("file", "RssFile"), ("data_segment", "VmData")):
                found[what] = max(found[what], kilobytes(status, field) * 1024)


def family(root: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def kilobytes(status: str, field: str) -> int:
    """Return a value of /proc/PID/status."""
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:")), 0)


def images_are(artifacts: Path) -> str:
    """Return whether the trainer reported that it decodes images repeatedly."""
    logs = "".join(path.read_text(errors="replace") for path in (artifacts / "logs").glob("*.trainer.log"))
    return "streamed" if "decoded each time they are used" in logs else "mapped"


if __name__ == "__main__":
    main()
