"""The trainer: a process that does what a worker tells it down a pipe, and is warm from trial to trial.

Run as `python -m tuner.trainer.process FD --threads N`, where FD is the open end of a socket; on a GPU with `--gpu`, and with
`--memory-limit-mb N` where others share it; with `--memory-bytes N` where others share the machine's own memory.
"""

import argparse
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection

from tuner import machine
from tuner.kernels import imports


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until told to quit, or until the worker is gone."""
    parser = argparse.ArgumentParser(prog="tuner.trainer.process")
    parser.add_argument("fd", type=int)
    parser.add_argument("--threads", type=int, default=0, help="threads of one operation; 0: all cores")
    parser.add_argument("--gpu", action="store_true", help="it was given a GPU")
    parser.add_argument("--memory-limit-mb", type=int, default=None, help="MiB of the GPU that it may take; none: what it needs")
    parser.add_argument("--memory-bytes", type=int, default=machine.memory_bytes(), help="bytes of the machine's memory that it may take")
    given = parser.parse_args(arguments)
    # the worker decides when this ends; a terminal's Ctrl-C must not
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    imports.import_keras()
    from tuner.kernels import devices
    from tuner.trainer import inbox, loop

    share = devices.TrainerShare(
        threads=given.threads, memory_limit_mb=given.memory_limit_mb, has_gpu=given.gpu, memory_bytes=given.memory_bytes
    )
    devices.set_up(share)
    loop.serve(inbox.Inbox(Connection(given.fd)), share)


if __name__ == "__main__":
    main()
