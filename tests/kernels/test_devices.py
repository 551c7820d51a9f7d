"""Settings and descriptions of devices that are only simulated."""

from collections.abc import Iterator

import keras
import pytest

from tests.keras_studies import TINY
from tests.tasks.images.training import networks
from tuner import machine
from tuner.kernels import devices
from tuner.kernels.devices import TensorFlowGpu
from tuner.machine import TrainerShare
from tuner.spec import model
from tuner.tasks.images.training import backbones

T4 = TensorFlowGpu(name="Tesla T4", capability=(7, 5))
A100 = TensorFlowGpu(name="NVIDIA A100-SXM4-40GB", capability=(8, 0))
H100 = TensorFlowGpu(name="NVIDIA H100 80GB HBM3", capability=(9, 0))
UNKNOWN = TensorFlowGpu(name="/physical_device:GPU:0", capability=None)


@pytest.fixture
def _policy() -> Iterator[None]:
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    ("precision", "gpu", "policy"),
    [
        # cores are slower with it
        ("auto", None, "float32"),
        ("bfloat16", None, "mixed_bfloat16"),
        ("auto", T4, "float32"),
        ("bfloat16", T4, "mixed_bfloat16"),
        ("auto", A100, "mixed_bfloat16"),
        ("auto", H100, "mixed_bfloat16"),
        ("float32", H100, "float32"),
        ("auto", UNKNOWN, "float32"),
    ],
)
def test_bfloat16_is_used_if_it_is_faster_or_requested(precision: devices.Precision, gpu: TensorFlowGpu | None, policy: str) -> None:
    assert devices.policy(precision, gpu) == policy


@pytest.mark.parametrize(
    ("precision", "gpu", "share", "words"),
    [
        ("float32", None, TrainerShare(threads=1), "cpu, 1 thread"),
        ("bfloat16", None, TrainerShare(threads=2), "cpu, 2 threads, bfloat16"),
        ("float32", T4, TrainerShare(threads=2, has_gpu=True), "Tesla T4, float32"),
        (
            "bfloat16",
            H100,
            TrainerShare(threads=2, memory_limit_mb=36701, has_gpu=True),
            "NVIDIA H100 80GB HBM3, bfloat16, 36,701 MiB of its memory",
        ),
        (
            "float32",
            None,
            TrainerShare(threads=2, has_gpu=True),
            "cpu, 2 threads; TensorFlow cannot use the assigned GPU. Is tensorflow[and-cuda] installed?",
        ),
    ],
)
@pytest.mark.usefixtures("_policy")
def test_the_device_and_its_precision_are_described(
    precision: devices.Precision, gpu: TensorFlowGpu | None, share: TrainerShare, words: str
) -> None:
    devices.set_precision(precision)
    assert devices.describe(gpu, share) == words


@pytest.mark.usefixtures("_policy")
def test_a_network_built_in_bfloat16_computes_in_it_and_keeps_its_weights_in_float32() -> None:
    devices.set_precision("bfloat16")
    network = networks.tiny(16)
    assert network.get_layer("conv1").compute_dtype == "bfloat16"
    assert {variable.dtype for variable in network.variables} == {"float32"}
    devices.set_precision("float32")
    assert networks.tiny(16).get_layer("conv1").compute_dtype == "float32"


@pytest.mark.usefixtures("_policy")
def test_a_bfloat16_network_has_its_own_cache_entries() -> None:
    digests = set()
    precisions: tuple[devices.Precision, ...] = ("float32", "bfloat16", "float32")
    for precision in precisions:
        devices.set_precision(precision)
        keras.utils.set_random_seed(0)
        digests.add(backbones.load(model.Model.model_validate(TINY)).digest())
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (TrainerShare(threads=1, memory_bytes=2**30), 2**30),
        (TrainerShare(threads=1, memory_bytes=2**30, has_gpu=True, memory_limit_mb=100), 100 * 2**20),
        (TrainerShare(threads=1, memory_bytes=2**20, has_gpu=True, memory_limit_mb=100), 2**20),
        (TrainerShare(threads=1), machine.memory_bytes()),
    ],
)
def test_tensors_may_use_the_smaller_of_both_memories(share: TrainerShare, expected: int) -> None:
    assert share.tensor_bytes == expected


class _Tensorflow:
    """A simulated `tf.config` of a machine with GPUs that records its settings."""

    def __init__(self, num_gpus: int) -> None:
        self.told: list[tuple[str, object]] = []
        self._gpus = [f"GPU:{number}" for number in range(num_gpus)]
        self.threading = self.experimental = self

    def list_physical_devices(self, kind: str) -> list[str]:
        return self._gpus if kind == "GPU" else []

    def set_memory_growth(self, device: str, enable: bool) -> None:
        self.told.append((device, "growth" if enable else "no growth"))

    def set_logical_device_configuration(self, device: str, configurations: list[object]) -> None:
        self.told.append((device, configurations))

    def LogicalDeviceConfiguration(self, memory_limit: int) -> int:  # noqa: N802 - TensorFlow's own name
        return memory_limit

    def set_intra_op_parallelism_threads(self, threads: int) -> None:
        self.told.append(("threads", threads))

    def set_inter_op_parallelism_threads(self, threads: int) -> None:
        pass

    def enable_op_determinism(self) -> None:
        self.told.append(("deterministic", True))


@pytest.mark.parametrize(
    ("share", "told"),
    [
        # alone on its GPU: memory as it needs it
        (TrainerShare(threads=2), [("threads", 2), ("deterministic", True), ("GPU:0", "growth")]),
        # TensorFlow takes either growth or a limit, not both
        (TrainerShare(threads=0, memory_limit_mb=9000), [("deterministic", True), ("GPU:0", [9000])]),
    ],
)
def test_gpu_memory_grows_on_demand_or_has_a_limit(
    share: TrainerShare, told: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = _Tensorflow(1)
    monkeypatch.setattr("tuner.kernels.devices.tf.config", stand_in)
    devices.limit_tensorflow(share)
    assert stand_in.told == told
