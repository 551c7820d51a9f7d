"""A process that does one errand and leaves: `python -m tuner.trainer.errand ERRAND ANSWER --threads N`, two files of JSON.

What an errand needs is imported for it: a model in ONNX is loaded without TensorFlow, as its users do.
"""

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import errors
from tuner.kernels import imports
from tuner.protocol import errands

if TYPE_CHECKING:
    from tuner.kernels import devices


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the errand; whatever becomes of it is in the answer."""
    parser = argparse.ArgumentParser(prog="tuner.trainer.errand")
    parser.add_argument("errand", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="threads of one operation; 0: all cores")
    given = parser.parse_args(arguments)
    answer = answered(errands.read_errand(given.errand.read_bytes()), threads=given.threads)
    beside = given.answer.with_suffix(".part")
    beside.write_text(answer.model_dump_json(), encoding="utf-8")
    beside.replace(given.answer)


def answered(errand: errands.Errand, *, threads: int) -> errands.Answer:
    """The answer to an errand."""
    try:
        return _do(errand, threads)
    except Exception as error:  # noqa: BLE001 - what failed is told to who asked
        return errands.ErrandFailed(
            message=str(error) or type(error).__name__,
            is_request=isinstance(error, errors.RequestError),
            traceback="".join(traceback.format_exception(error)),
        )


def _do(errand: errands.Errand, threads: int) -> errands.Answer:
    match errand:
        case errands.Export():
            share = _share(threads)
            from tuner.trainer.export import export

            return export.export(errand, share)
        case errands.Compare():
            if errand.format is not errands.Format.ONNX:
                _share(threads)
            from tuner.trainer.export import compare

            return compare.compare(errand, threads=threads)
        case errands.PredictImages():
            _share(threads)
            from tuner.trainer.export import verify

            return verify.predict(errand, threads=threads)
        case errands.Verify():
            _share(threads)
            from tuner.trainer.export import verify

            return verify.verify(errand)


def _share(threads: int) -> "devices.TrainerShare":
    """What TensorFlow, which is imported with it, may take of the machine; said to it."""
    imports.import_keras()
    from tuner.kernels import devices

    share = devices.TrainerShare(threads=threads)
    devices.set_up(share)
    return share


if __name__ == "__main__":
    main()
