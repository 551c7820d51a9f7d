"""Measure the time and memory of importing Keras and TensorFlow, with and without `tuner.kernels.imports`.

    python -m benchmarks.importing

Both kinds run alternately in new processes; the results are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys

_SCRIPT = """
import json, resource, sys, time
began = time.perf_counter()
if sys.argv[1] == "quick":
    from tuner.kernels import imports
    imports.import_keras()
import tuner.trainer.loop
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7)
    times = parser.parse_args().times
    found: dict[str, list[list[float]]] = {"plain": [], "quick": []}
    for _ in range(times):
        for way, each in found.items():
            done = subprocess.run([sys.executable, "-c", _SCRIPT, way], capture_output=True, text=True, check=True)
            each.append(json.loads(done.stdout))
    for way, each in found.items():
        seconds, mib = ([pair[k] for pair in each] for k in (0, 1))
        print(f"{way}: {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {statistics.median(mib):,.0f} MiB")


if __name__ == "__main__":
    main()
