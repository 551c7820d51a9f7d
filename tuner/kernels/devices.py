"""What this process trains on: a GPU or the cores, how much of its memory, and in which precision."""

from dataclasses import dataclass, field
from typing import Literal

import keras
import tensorflow as tf

from tuner import machine

Precision = Literal["auto", "float32", "bfloat16"]

#: GPUs from here on multiply bfloat16 faster than float32; cores are slowed down by it: a step of EfficientNet-Lite0 took 386 ms, not 178
_BFLOAT16_CAPABILITY = (8, 0)
_FLOAT32, _BFLOAT16 = "float32", "mixed_bfloat16"


@dataclass(frozen=True, kw_only=True)
class TensorFlowGpu:
    """The GPU that TensorFlow sees."""

    name: str
    #: compute capability; None where the driver does not tell
    capability: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class TrainerShare:
    """What of the machine a trainer may take."""

    #: threads of one operation; 0: all cores
    threads: int
    #: MiB of the GPU; None: what it needs, as it needs it
    memory_limit_mb: int | None = None
    #: whether it was given a GPU
    has_gpu: bool = False
    #: of the machine's memory
    memory_bytes: int = field(default_factory=machine.memory_bytes)

    @property
    def tensor_bytes(self) -> int:
        """Memory for tensors: they are made in the machine's and lie in the GPU's, whose size is not known where it is not shared."""
        return self.memory_bytes if self.memory_limit_mb is None else min(self.memory_bytes, self.memory_limit_mb * 2**20)


def set_up(share: TrainerShare) -> None:
    """Say to TensorFlow what it may take; only before its first tensor."""
    if share.threads:
        tf.config.threading.set_intra_op_parallelism_threads(share.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    for device in tf.config.list_physical_devices("GPU"):
        if share.memory_limit_mb is None:
            tf.config.experimental.set_memory_growth(device, True)
        else:
            limited = tf.config.LogicalDeviceConfiguration(memory_limit=share.memory_limit_mb)
            tf.config.set_logical_device_configuration(device, [limited])


def gpu() -> TensorFlowGpu | None:
    """The GPU that trials are trained on; None: they are trained on the cores."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return None
    details = tf.config.experimental.get_device_details(devices[0])
    return TensorFlowGpu(name=str(details.get("device_name", devices[0].name)), capability=details.get("compute_capability"))


def use(precision: Precision) -> None:
    """Have the layers that are built from now on compute in a precision; their weights are float32 in any."""
    keras.config.set_dtype_policy(policy(precision, gpu()))


def policy(precision: Precision, found: TensorFlowGpu | None) -> str:
    """The Keras policy: `auto` is bfloat16 where that is faster."""
    if precision != "auto":
        return _BFLOAT16 if precision == "bfloat16" else _FLOAT32
    is_faster = found is not None and found.capability is not None and found.capability >= _BFLOAT16_CAPABILITY
    return _BFLOAT16 if is_faster else _FLOAT32


def words(found: TensorFlowGpu | None, share: TrainerShare) -> str:
    """What trials are trained on, in the precision that is in use."""
    precision = "bfloat16" if keras.config.dtype_policy().name == _BFLOAT16 else "float32"
    if found is not None:
        limit = "" if share.memory_limit_mb is None else f", {share.memory_limit_mb:,} MiB of its memory"
        return f"{found.name}, {precision}{limit}"
    threads = f"{share.threads} threads" if share.threads != 1 else "1 thread"
    slowed = ", bfloat16" if precision == "bfloat16" else ""
    unseen = "; TensorFlow does not see the GPU that it was given, tensorflow[and-cuda] may be missing" if share.has_gpu else ""
    return f"cpu, {threads}{slowed}{unseen}"
