"""The command `tuner` as it is, but for its trainers: they play the script in the environment variable REHEARSAL instead of training."""

import json
import os
import sys

from tuner import cli
from tuner.workers import cluster, local, process
from tuner.workers.process import Assignment
from tuner.workers.rehearsal import Rehearsal, script_from


def start(assignment: Assignment) -> Rehearsal:
    return Rehearsal(script_from(json.loads(os.environ.get("REHEARSAL", "{}"))))


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        sys.exit(process.main(int(sys.argv[1]), start))
    local.COMMAND = (sys.executable, __file__)
    process.child = start
    script = os.environ.get("REHEARSAL", "{}")  # a node of a cluster has another environment
    cluster.COMMAND = ("/usr/bin/env", f"REHEARSAL={script}", sys.executable, __file__)
    sys.exit(cli.main())
