"""Run one contender: `python -m benchmarks.peers.contend FOLDER`, until its search or the process ends."""

import argparse
import importlib
from pathlib import Path

from benchmarks.peers import contenders
from benchmarks.peers.task import Task


def main() -> None:
    """Run the search of the task in the given folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    task = Task.read(parser.parse_args().folder)
    module = contenders.CONTENDERS[task.contender].module
    importlib.import_module(f"benchmarks.peers.{module}").search(task)


if __name__ == "__main__":
    main()
