"""A process that does one errand and exits: `python -m tuner.trainer.errand ERRAND ANSWER --threads N`, with two JSON files.

Each errand imports only what it needs: an ONNX model is loaded without TensorFlow, as its users load it.
"""

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tuner import errors
from tuner.kernels import imports
from tuner.machine import TrainerShare
from tuner.protocol import errands

if TYPE_CHECKING:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the errand and write its answer, or its failure, to a file."""
    parser = argparse.ArgumentParser(prog="tuner.trainer.errand")
    parser.add_argument("errand", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="threads of one operation; 0 means all cores")
    given = parser.parse_args(arguments)
    answer = carry_out(errands.read_errand(given.errand.read_bytes()), threads=given.threads)
    beside = given.answer.with_suffix(".part")
    beside.write_text(answer.model_dump_json(), encoding="utf-8")
    beside.replace(given.answer)


def carry_out(errand: errands.Errand, *, threads: int) -> errands.Answer:
    """Do an errand and return its answer."""
    try:
        return _do(errand, threads)
    except Exception as error:  # noqa: BLE001 - the answer reports the failure
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
        case errands.Measure():
            share = _share(threads)
            from tuner.trainer.export import export

            return export.measure(errand, share)
        case errands.Compare():
            if errand.format is not errands.Format.ONNX:
                _share(threads)
            from tuner.trainer.export import exported_model

            return exported_model.compare(errand, threads=threads)
        case errands.PredictImages():
            _share(threads)
            from tuner.trainer.export import exported_model

            return exported_model.predict_images(errand, threads=threads)
        case errands.ExportCode():
            share = _share(threads)
            from tuner.trainer.export import custom_model

            return custom_model.export(errand, share)
        case errands.MeanOfCode():
            share = _share(threads)
            from tuner.trainer.export import custom_model

            return custom_model.measure_means(errand, share)
        case errands.PredictArrays():
            if errand.format is not errands.Format.ONNX:
                _share(threads)
            from tuner.trainer.export import exported_model

            return exported_model.predict_arrays(errand, threads=threads)
        case errands.Verify():
            _share(threads)
            from tuner.trainer.export import verify

            return verify.verify(errand)


def _share(threads: int) -> TrainerShare:
    """Import TensorFlow and limit it to its share of the machine."""
    imports.import_keras()
    from tuner.kernels import devices

    share = TrainerShare(threads=threads)
    devices.limit_tensorflow(share)
    return share


if __name__ == "__main__":
    main()
