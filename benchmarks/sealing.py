"""Seal and unseal a bundle of 1 GB on one core, each in its own process: megabytes per second and maximum memory.

python -m benchmarks.sealing [--megabytes 1000] [--folder FOLDER]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tuner.results.bundle import manifest

PIECE = 1024**2
PROGRAM = """
import resource, sys, time
from pathlib import Path
from tuner.results.bundle import seal
from tuner.trust import keys
folder = Path(sys.argv[2])
(identity,) = keys.identities(folder / "key")
words = keys.passphrase(folder / "words")
given = {"recipient": seal.Recipients(recipients=[identity.to_public()]), "passphrase": seal.Recipients(passphrase=words)}[sys.argv[3]]
began, used = time.perf_counter(), time.process_time()
if sys.argv[1] == "seal":
    seal.seal(folder / "bundle", folder / "sealed", given, replaces=True)
else:
    seal.unseal(folder / "sealed", folder / "out", lambda _: seal.OpeningKey(identities=[identity], passphrase=words))
peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.perf_counter() - began, time.process_time() - used, peak_kib)
"""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=None, help="folder for the files; needs three times their size")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        num_bytes = make_bundle(folder / "bundle", given.megabytes * 10**6)
        make_keys(folder)
        print("| what | with | MB/s by the clock | MB/s of the core's time | most memory |\n|---|---|---|---|---|")
        for way in ("recipient", "passphrase"):
            for what in ("seal", "unseal"):
                shutil.rmtree(folder / "out", ignore_errors=True)
                print(row(what, way, folder, num_bytes), flush=True)


def make_bundle(folder: Path, num_bytes: int) -> int:
    """Create a folder with one large file and its manifest; return its size in bytes."""
    folder.mkdir()
    with (folder / "model.keras").open("wb") as file:
        for _ in range(num_bytes // PIECE):
            file.write(os.urandom(PIECE))
    manifest.write(folder)
    return (folder / "model.keras").stat().st_size


def make_keys(folder: Path) -> None:
    """Create an age identity and a passphrase, in files that only their owner can read."""
    subprocess.run([sys.executable, "-m", "tuner", "keygen", "seal", str(folder / "key")], check=True, capture_output=True)
    (folder / "words").touch(mode=0o600)
    (folder / "words").write_text("correct horse battery staple\n")


def row(what: str, way: str, folder: Path, num_bytes: int) -> str:
    """Return a row of the table, measured in a process with one core."""
    core = {min(os.sched_getaffinity(0))}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, what, str(folder), way],
        check=True, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, core),
    )  # fmt: skip
    seconds, used_seconds, peak_kib = (float(number) for number in run.stdout.split())
    speed, core_speed = num_bytes / seconds / 1e6, num_bytes / used_seconds / 1e6
    return f"| {what} | {way} | {speed:.0f} | {core_speed:.0f} | {peak_kib * 1024 / 1e6:.0f} MB |"


if __name__ == "__main__":
    main()
