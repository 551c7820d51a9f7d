"""The trainer process: carries out the orders that a worker sends through a socket, and keeps its graphs from trial to trial.

Run as `python -m tuner.trainer.process FD --threads N`, where FD is the file descriptor of the socket. Add `--gpu` if a GPU is assigned,
and `--memory-limit-mb N` if others share it. Add `--memory-bytes N` if others share the memory of the machine.
"""

import argparse
import faulthandler
import json
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection

from tuner import machine
from tuner.kernels import imports


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the worker sends quit or ends."""
    parser = argparse.ArgumentParser(prog="tuner.trainer.process")
    parser.add_argument("fd", type=int)
    parser.add_argument("--threads", type=int, default=0, help="threads of one operation; 0 means all cores")
    parser.add_argument("--gpu", action="store_true", help="a GPU is assigned to this trainer")
    parser.add_argument("--memory-limit-mb", type=int, default=None, help="MiB of GPU memory that it may use; by default all it needs")
    parser.add_argument("--memory-bytes", type=int, default=machine.memory_bytes(), help="bytes of memory that it may use")
    parser.add_argument("--import-path", type=json.loads, default=[], help="JSON list of the caller's import path, for code of the study")
    parser.add_argument("--without-keras", action="store_true", help="the task of the study trains without Keras")
    given = parser.parse_args(arguments)
    faulthandler.register(signal.SIGUSR1)  # the worker asks where the code is before it ends a process that says nothing
    # the worker decides when this process ends, not Ctrl-C in a terminal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # NumPy and SciPy only add and multiply short vectors here, for which waking threads of their own costs more than it saves
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    share = machine.TrainerShare(
        threads=given.threads, memory_limit_mb=given.memory_limit_mb, has_gpu=given.gpu, memory_bytes=given.memory_bytes
    )
    if not given.without_keras:
        imports.import_keras()
        from tuner.kernels import devices

        devices.limit_tensorflow(share)
    from tuner.trainer import inbox, loop
    from tuner.trust import user_code

    user_code.use_import_path(given.import_path)
    loop.serve(inbox.Inbox(Connection(given.fd)), share)


if __name__ == "__main__":
    main()
