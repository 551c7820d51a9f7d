"""The gradient of wide depthwise filters from narrow ones, which the cores are several times faster with.

On x86 TensorFlow computes depthwise filter gradients with oneDNN, whose kernel for them knows filters of up to three columns; wider ones,
such as the 5 x 5 of EfficientNet and MobileNetV3, take a general path that is two to five times slower, and a third of a step of fine-
tuning. A filter's gradient is that of its columns side by side, so that a wide filter is taken three columns at a time. The sum over
images and places is the same, rounded in another order.

The gradients of 1 x 1 convolutions as products of matrices, which the cores are quicker with.

Such a convolution multiplies the channels of each place with one matrix; its gradients are the products of that matrix, and of all places'
channels, with the slopes. TensorFlow takes the general path for convolutions there. The sums are the same, rounded in another order.

Convolutions whose gradients are computed in the way that the cores are quickest with.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

#: columns of a filter that the fast kernel takes at once
_COLUMNS = 3
DEPTHWISE = "TunerDepthwiseConv2dNative"


def form_of(operation: tf.Operation) -> dict[str, Any]:
    """The attributes of a convolution that its gradients have too."""
    form = {name: operation.get_attr(name) for name in ("strides", "padding", "explicit_paddings", "data_format", "dilations")}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in form.items()}


@tf.RegisterGradient(DEPTHWISE)  # type: ignore[untyped-decorator]
def _depthwise_gradient(operation: tf.Operation, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of the image (n, h, w, c) and of the filter (rows, columns, c, multiplier)."""
    image, kernel = operation.inputs
    form = form_of(operation)
    of_image = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=slope, **form)
    if _is_narrowed(image, kernel, form["data_format"], form["padding"], form["dilations"]):
        return of_image, _by_columns(image, kernel, slope, form["strides"], form["padding"])
    of_kernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(input=image, filter_sizes=tf.shape(kernel), out_backprop=slope, **form)
    return of_image, of_kernel


def _is_narrowed(image: tf.Tensor, kernel: tf.Tensor, data_format: str, padding: str, dilations: list[int]) -> bool:
    is_plain = data_format == "NHWC" and padding in ("SAME", "VALID") and set(dilations) == {1} and kernel.dtype == tf.float32
    is_known = None not in image.shape[1:] and None not in kernel.shape
    return is_plain and is_known and kernel.shape[1] > _COLUMNS and not tf.config.list_logical_devices("GPU")


def _by_columns(image: tf.Tensor, kernel: tf.Tensor, slope: tf.Tensor, strides: list[int], padding: str) -> tf.Tensor:
    rows, columns, channels, multiplier = kernel.shape
    image, width = _padded(image, kernel, strides, padding), (slope.shape[2] - 1) * strides[2]
    parts = []
    for first in range(0, columns, _COLUMNS):
        count = min(_COLUMNS, columns - first)
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
    """With the zeros around it that `SAME` stands for, the odd one after the last pixel."""
    if padding == "VALID":
        return image
    around = [(0, 0)]
    for axis in (1, 2):
        length, step, taps = image.shape[axis], strides[axis], kernel.shape[axis - 1]
        missing = max((-(-length // step) - 1) * step + taps - length, 0)
        around.append((missing // 2, missing - missing // 2))
    return tf.pad(image, [*around, (0, 0)])


POINTWISE = "TunerConv2D"


@tf.RegisterGradient(POINTWISE)  # type: ignore[untyped-decorator]
def _pointwise_gradient(operation: tf.Operation, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of the image (n, h, w, c) and of the filter (rows, columns, c, d)."""
    image, kernel = operation.inputs
    form = form_of(operation)
    if _is_product(image, kernel, form):
        return _products(image, kernel, slope)
    return (
        tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(image), filter=kernel, out_backprop=slope, **form),
        tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=tf.shape(kernel), out_backprop=slope, **form),
    )


def _is_product(image: tf.Tensor, kernel: tf.Tensor, form: dict[str, Any]) -> bool:
    is_plain = form["data_format"] == "NHWC" and set(form["strides"]) == {1} and kernel.dtype == tf.float32
    is_known = None not in kernel.shape and tuple(kernel.shape[:2]) == (1, 1) and image.shape[3] == kernel.shape[2]
    return is_plain and is_known and form["padding"] in ("SAME", "VALID") and not tf.config.list_logical_devices("GPU")


def _products(image: tf.Tensor, kernel: tf.Tensor, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    _, _, num_in, num_out = kernel.shape
    places, slopes = tf.reshape(image, [-1, num_in]), tf.reshape(slope, [-1, num_out])
    of_places = tf.matmul(slopes, tf.reshape(kernel, [num_in, num_out]), transpose_b=True)
    of_kernel = tf.matmul(places, slopes, transpose_a=True)
    return tf.reshape(of_places, tf.shape(image)), tf.reshape(of_kernel, kernel.shape)


@contextlib.contextmanager
def quick_gradients() -> Iterator[None]:
    """Inside, `tf.gradients` of convolutions is quick on cores; only while a graph is traced."""
    ways = {"DepthwiseConv2dNative": DEPTHWISE, "Conv2D": POINTWISE}
    with tf.compat.v1.get_default_graph().gradient_override_map(ways):
        yield
