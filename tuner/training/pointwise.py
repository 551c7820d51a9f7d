"""The gradients of 1 x 1 convolutions as products of matrices, which the cores are quicker with.

Such a convolution multiplies the channels of each place with one matrix; its gradients are the products of that matrix, and of all places'
channels, with the slopes. TensorFlow takes the general path for convolutions there. The sums are the same, rounded in another order.
"""

from typing import Any

import tensorflow as tf

from tuner.training import depthwise

NAME = "TunerConv2D"


@tf.RegisterGradient(NAME)  # type: ignore[untyped-decorator]
def _gradient(operation: tf.Operation, slope: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of the image (n, h, w, c) and of the filter (rows, columns, c, d)."""
    image, kernel = operation.inputs
    form = depthwise.form_of(operation)
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
