"""Devices: the GPU or processor that this process trains on, its share of memory, and the precision."""

from dataclasses import dataclass
from typing import Literal

import keras
import tensorflow as tf

from tuner.machine import TrainerShare

Precision = Literal["auto", "float32", "bfloat16"]

#: minimum compute capability of GPUs that multiply bfloat16 faster than float32; processors are slower with bfloat16: a step of
#: EfficientNet-Lite0 took 386 ms instead of 178 ms
_BFLOAT16_CAPABILITY = (8, 0)
_FLOAT32, _BFLOAT16 = "float32", "mixed_bfloat16"


@dataclass(frozen=True, kw_only=True)
class TensorFlowGpu:
    """The GPU that TensorFlow uses."""

    name: str
    #: compute capability; None if the driver does not report it
    capability: tuple[int, int] | None


def limit_tensorflow(share: TrainerShare) -> None:
    """Limit TensorFlow to its share of the machine; call this before TensorFlow creates its first tensor."""
    if share.threads:
        tf.config.threading.set_intra_op_parallelism_threads(share.threads)
    # a second thread prepares the next batch meanwhile, which makes small models 7 % faster; a third gains nothing
    tf.config.threading.set_inter_op_parallelism_threads(1 if share.threads == 1 else 2)
    tf.config.experimental.enable_op_determinism()
    for device in tf.config.list_physical_devices("GPU"):
        if share.memory_limit_mb is None:
            tf.config.experimental.set_memory_growth(device, True)
        else:
            limited = tf.config.LogicalDeviceConfiguration(memory_limit=share.memory_limit_mb)
            tf.config.set_logical_device_configuration(device, [limited])


def gpu() -> TensorFlowGpu | None:
    """Return the GPU that trains trials, or None if the processor does."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return None
    details = tf.config.experimental.get_device_details(devices[0])
    return TensorFlowGpu(name=str(details.get("device_name", devices[0].name)), capability=details.get("compute_capability"))


def set_precision(precision: Precision) -> None:
    """Set the precision of all layers that are built from now on; their weights are always float32."""
    keras.config.set_dtype_policy(policy(precision, gpu()))


def policy(precision: Precision, found: TensorFlowGpu | None) -> str:
    """Return the Keras dtype policy; `auto` is bfloat16 on GPUs that compute it faster."""
    if precision != "auto":
        return _BFLOAT16 if precision == "bfloat16" else _FLOAT32
    is_faster = found is not None and found.capability is not None and found.capability >= _BFLOAT16_CAPABILITY
    return _BFLOAT16 if is_faster else _FLOAT32


def describe(found: TensorFlowGpu | None, share: TrainerShare) -> str:
    """Describe the device that trains trials, and its precision."""
    precision = "bfloat16" if keras.config.dtype_policy().name == _BFLOAT16 else "float32"
    if found is not None:
        limit = "" if share.memory_limit_mb is None else f", {share.memory_limit_mb:,} MiB of its memory"
        return f"{found.name}, {precision}{limit}"
    threads = f"{share.threads} threads" if share.threads != 1 else "1 thread"
    slowed = ", bfloat16" if precision == "bfloat16" else ""
    unseen = "; TensorFlow cannot use the assigned GPU. Is tensorflow[and-cuda] installed?" if share.has_gpu else ""
    return f"cpu, {threads}{slowed}{unseen}"
