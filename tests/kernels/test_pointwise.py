"""Gradients of 1 x 1 convolutions by products of matrices."""

import pytest
import tensorflow as tf

from tuner.kernels import gradients


@pytest.mark.parametrize(
    ("size", "stride", "padding", "groups", "is_product"),
    [
        (1, 1, "SAME", 1, True),
        (1, 1, "VALID", 1, True),
        (1, 2, "SAME", 1, False),  # reads every other place
        (3, 1, "SAME", 1, False),
        (3, 2, "VALID", 1, False),
        (1, 1, "SAME", 2, False),  # two matrices
    ],
)
def test_gradients_are_those_of_tensorflow(size: int, stride: int, padding: str, groups: int, is_product: bool) -> None:
    image = tf.random.stateless_normal([4, 9, 8, 12], [1, 2])
    kernel = tf.random.stateless_normal([size, size, 12 // groups, 20], [3, 4])

    def result(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        found = tf.nn.conv2d(image, kernel, stride, padding)
        return tf.reduce_sum(found * tf.random.stateless_normal([4, *found.shape[1:]], [5, 6]))

    def ours(image: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
        with gradients.quick_gradients():
            found: list[tf.Tensor] = tf.gradients(result(image, kernel), [image, kernel])
        return found

    # as many images as there are
    traced = tf.function(ours).get_concrete_function(tf.TensorSpec([None, 9, 8, 12]), tf.TensorSpec(kernel.shape))
    operations = [each.type for each in traced.graph.get_operations()]
    assert operations.count("MatMul") == (2 if is_product else 0)
    assert operations.count("Conv2DBackpropFilter") == operations.count("Conv2DBackpropInput") == (0 if is_product else 1)
    with tf.GradientTape() as tape:
        tape.watch([image, kernel])
        value = result(image, kernel)
    for one, other in zip(traced(image, kernel), tape.gradient(value, [image, kernel]), strict=True):
        assert one.shape == other.shape
        tf.debugging.assert_near(one, other, rtol=1e-5, atol=1e-4)
