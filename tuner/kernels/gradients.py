"""Gradients of convolutions that processors compute faster than TensorFlow's own, each used only where a measurement agrees.

There are two overrides. Both give the same sums as TensorFlow, rounded in another order, and both are off on a GPU.

- `COLUMNS`: the filter gradient of a wide depthwise convolution, three filter columns at a time. On x86 TensorFlow uses oneDNN, whose fast
  kernel handles filters of up to three columns. Wider ones, such as the 5 x 5 of EfficientNet and MobileNetV3, take a slower general path.
- `PRODUCTS`: both gradients of a 1 x 1 convolution, as matrix products over all places. TensorFlow takes its general path for convolutions.

`choose` times both ways on convolutions of the study's network and drops an override that is clearly slower. It writes the choice to the
cache folder, keyed by processor, TensorFlow version, number of threads and shapes. Every worker and every resumed trial on a machine
therefore uses the same kernels. Results on two machines may differ by rounding.
"""

import contextlib
import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tuner import errors
from tuner.cache import arrays as cache_files

#: the overrides, by the names under which TensorFlow knows their gradients
COLUMNS, PRODUCTS = "TunerDepthwiseConv2dNative", "TunerConv2D"
ALL = frozenset({COLUMNS, PRODUCTS})
_OPERATIONS = {COLUMNS: "DepthwiseConv2dNative", PRODUCTS: "Conv2D"}
_TITLES = {COLUMNS: "depthwise convolutions by columns", PRODUCTS: "1 x 1 convolutions as matrix products"}
#: columns of a filter that the fast kernel takes at once
_FAST_COLUMNS = 3
#: an override that takes at most this many times as long as TensorFlow's own stays on: a tie must not be decided by noise
_TOLERANCE = 1.25
#: size of a measurement: images in a batch, convolutions for each override, and repetitions
_NUM_IMAGES, _NUM_TIMED, _NUM_REPEATS = 4, 2, 4
_LOG = logging.getLogger(__name__)

#: returns the processor seconds of a call
Timer = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of a network, its images in the order (height, width, channels)."""

    is_depthwise: bool
    #: height, width, channels
    image: tuple[int, int, int]
    #: rows, columns, input channels, output channels or multiplier
    kernel: tuple[int, int, int, int]
    stride: int
    #: SAME or VALID
    padding: str

    @property
    def override(self) -> str | None:
        """The override that applies to it, if any."""
        rows, columns, channels, _ = self.kernel
        if self.is_depthwise:
            return COLUMNS if columns > _FAST_COLUMNS else None
        return PRODUCTS if (rows, columns, self.stride) == (1, 1, 1) and channels == self.image[2] else None


@contextlib.contextmanager
def overridden(overrides: Iterable[str] = ALL) -> Iterator[None]:
    """Use overrides for the gradients of the graph that is traced inside the `with` block."""
    with tf.compat.v1.get_default_graph().gradient_override_map({_OPERATIONS[name]: name for name in overrides}):
        yield


def choose(convolutions: Sequence[Convolution], *, threads: int, cache: Path, timer: Timer | None = None) -> frozenset[str]:
    """Return the overrides that are not slower than TensorFlow's own gradients on this machine; none on a GPU."""
    if tf.config.list_logical_devices("GPU"):
        return frozenset()
    timed = {name: _typical([each for each in convolutions if each.override == name]) for name in sorted(ALL)}
    try:
        return _stored(timed, threads=threads, cache=cache, timer=timer or _processor_seconds)
    except errors.DataError as error:
        _LOG.warning("cannot store the choice of gradients, so the next trainer measures again: %s", error)
        return _measure(timed, timer or _processor_seconds)


def _stored(timed: dict[str, list[Convolution]], *, threads: int, cache: Path, timer: Timer) -> frozenset[str]:
    """Return the choice from the cache folder; the first process makes it while the others wait."""
    key = f"{_processor()}, TensorFlow {tf.__version__}, {threads} threads, {timed}"
    path = cache / "kernels" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    with cache_files.locked(path):
        found = _read(path)
        if found is None:
            found = _measure(timed, timer)
            with cache_files.written_beside(path) as file:
                file.write(json.dumps({"key": key, "overrides": sorted(found)}).encode())
    return found


def _typical(convolutions: Sequence[Convolution]) -> list[Convolution]:
    """Return a few convolutions of different sizes, in an order that depends on nothing else."""
    ordered = sorted(set(convolutions), key=lambda each: (np.prod(each.image) * each.kernel[3], str(each)))
    positions = np.linspace(0, len(ordered) - 1, min(len(ordered), _NUM_TIMED)).round().astype(int)
    return [ordered[position] for position in positions]


def _measure(timed: dict[str, list[Convolution]], timer: Timer) -> frozenset[str]:
    start = time.perf_counter()
    found, words = set(ALL), []
    for name, convolutions in timed.items():
        if not convolutions:
            continue
        own, tensorflow = (sum(seconds) for seconds in zip(*(_seconds(each, timer) for each in convolutions), strict=True))
        if own > _TOLERANCE * tensorflow:
            found.remove(name)
        words.append(f"{_TITLES[name]} {'on' if name in found else 'off'} ({1000 * own:.1f} ms, TensorFlow {1000 * tensorflow:.1f} ms)")
    if words:
        _LOG.info("gradients chosen in %.2f s: %s", time.perf_counter() - start, "; ".join(words))
    return frozenset(found)


def _seconds(convolution: Convolution, timer: Timer) -> tuple[float, float]:
    """Return the shortest times of the override and of TensorFlow's own gradients, called in turn."""
    image, kernel = tf.ones((_NUM_IMAGES, *convolution.image)), tf.ones(convolution.kernel)
    strides, padding = [1, convolution.stride, convolution.stride, 1], convolution.padding
    forward = tf.nn.depthwise_conv2d if convolution.is_depthwise else tf.nn.conv2d
    slope = tf.ones_like(forward(image, kernel, strides, padding))
    form: dict[str, Any] = {"strides": strides, "padding": padding}

    def own() -> Any:
        if convolution.is_depthwise:
            return _by_columns(image, kernel, slope, strides, padding)
        return _products(image, kernel, slope)

    def tensorflow() -> Any:
        return (_depthwise_filter if convolution.is_depthwise else _convolution)(image, kernel, slope, form)

    ways = [tf.function(way, autograph=False).get_concrete_function() for way in (own, tensorflow)]
    for way in ways:
        way()  # the first call prepares the kernel
    found = [[timer(way) for way in ways] for _ in range(_NUM_REPEATS)]
    return min(one for one, _ in found), min(other for _, other in found)


def _processor_seconds(call: Callable[[], Any]) -> float:
    """Time a call by the processor, not by the clock: other programs on the machine then matter little."""
    start = time.process_time()
    call()
    return time.process_time() - start


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _read(path: Path) -> frozenset[str] | None:
    """Return the overrides of an earlier choice, or None if there is none that can be read."""
    try:
        found = frozenset(json.loads(path.read_bytes())["overrides"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found <= ALL else None


@tf.RegisterGradient(COLUMNS)  # type: ignore[untyped-decorator]
def _depthwise_gradient(operation: tf.Operation, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the gradients of the images (n, h, w, c) and of the filter (rows, columns, c, multiplier)."""
    image, kernel = operation.inputs
    form = _form_of(operation)
    of_image = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=slope, **form)
    if _is_narrowed(image, kernel, form):
        return of_image, _by_columns(image, kernel, slope, form["strides"], form["padding"])
    return of_image, _depthwise_filter(image, kernel, slope, form)


def _form_of(operation: tf.Operation) -> dict[str, Any]:
    """Return the attributes of a convolution that its gradients have too."""
    form = {name: operation.get_attr(name) for name in ("strides", "padding", "explicit_paddings", "data_format", "dilations")}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in form.items()}


def _is_narrowed(image: tf.Tensor, kernel: tf.Tensor, form: dict[str, Any]) -> bool:
    is_plain = form["data_format"] == "NHWC" and form["padding"] in ("SAME", "VALID") and set(form["dilations"]) == {1}
    is_known = None not in image.shape[1:] and None not in kernel.shape and kernel.dtype == tf.float32
    return is_plain and is_known and kernel.shape[1] > _FAST_COLUMNS and not tf.config.list_logical_devices("GPU")


def _depthwise_filter(image: tf.Tensor, kernel: tf.Tensor, slope: tf.Tensor, form: dict[str, Any]) -> tf.Tensor:
    return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(input=image, filter_sizes=tf.shape(kernel), out_backprop=slope, **form)


def _by_columns(image: tf.Tensor, kernel: tf.Tensor, slope: tf.Tensor, strides: list[int], padding: str) -> tf.Tensor:
    rows, columns, channels, multiplier = kernel.shape
    image, width = _padded(image, kernel, strides, padding), (slope.shape[2] - 1) * strides[2]
    parts = []
    for first in range(0, columns, _FAST_COLUMNS):
        count = min(_FAST_COLUMNS, columns - first)
        parts.append(
            tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
                input=image[:, :, first : first + width + count],
                filter_sizes=[rows, count, channels, multiplier],
                out_backprop=slope,
                strides=strides,
                padding="VALID",
            )
        )
    return tf.concat(parts, 1)


def _padded(image: tf.Tensor, kernel: tf.Tensor, strides: list[int], padding: str) -> tf.Tensor:
    """Return the images with the zeros around them that `SAME` stands for, the odd one after the last pixel."""
    if padding == "VALID":
        return image
    around = [(0, 0)]
    for axis in (1, 2):
        length, step, taps = image.shape[axis], strides[axis], kernel.shape[axis - 1]
        missing = max((-(-length // step) - 1) * step + taps - length, 0)
        around.append((missing // 2, missing - missing // 2))
    return tf.pad(image, [*around, (0, 0)])


@tf.RegisterGradient(PRODUCTS)  # type: ignore[untyped-decorator]
def _pointwise_gradient(operation: tf.Operation, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the gradients of the images (n, h, w, c) and of the filter (rows, columns, c, d)."""
    image, kernel = operation.inputs
    form = _form_of(operation)
    return _products(image, kernel, slope) if _is_product(image, kernel, form) else _convolution(image, kernel, slope, form)


def _is_product(image: tf.Tensor, kernel: tf.Tensor, form: dict[str, Any]) -> bool:
    is_plain = form["data_format"] == "NHWC" and set(form["strides"]) == {1} and kernel.dtype == tf.float32
    is_known = None not in kernel.shape and tuple(kernel.shape[:2]) == (1, 1) and image.shape[3] == kernel.shape[2]
    return is_plain and is_known and form["padding"] in ("SAME", "VALID") and not tf.config.list_logical_devices("GPU")


def _convolution(image: tf.Tensor, kernel: tf.Tensor, slope: tf.Tensor, form: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
    return (
        tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=slope, **form),
        tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=tf.shape(kernel), out_backprop=slope, **form),
    )


def _products(image: tf.Tensor, kernel: tf.Tensor, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    _, _, num_in, num_out = kernel.shape
    pixels, slopes = tf.reshape(image, [-1, num_in]), tf.reshape(slope, [-1, num_out])
    of_pixels = tf.matmul(slopes, tf.reshape(kernel, [num_in, num_out]), transpose_b=True)
    of_kernel = tf.matmul(pixels, slopes, transpose_a=True)
    return tf.reshape(of_pixels, tf.shape(image)), tf.reshape(of_kernel, kernel.shape)
