import pytest
import tensorflow as tf

from tuner.kernels import gradients


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("side", "size", "multiplier"),
    [
        (9, 3, 1),  # narrow: as TensorFlow has it
        (9, 5, 1),
        (12, 5, 1),  # an even side: SAME with a stride of two pads one side more
        (12, 5, 2),
        (11, 7, 1),  # three parts, the last of one column
        (3, 5, 1),  # a filter wider than the image
    ],
)
def test_gradients_by_columns_are_the_gradients(padding: str, stride: int, side: int, size: int, multiplier: int) -> None:
    if padding == "VALID" and size > side:
        side = size
    image = tf.random.stateless_normal([4, side, side, 16], [1, 2])
    kernel = tf.random.stateless_normal([size, size, 16, multiplier], [3, 4])

    def result(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        found = tf.nn.depthwise_conv2d(image, kernel, [1, stride, stride, 1], padding)
        return tf.reduce_sum(found * tf.random.stateless_normal(found.shape, [5, 6]))

    def ours(image: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
        with gradients.quick_gradients():
            found: list[tf.Tensor] = tf.gradients(result(image, kernel), [image, kernel])
        return found

    with tf.GradientTape() as tape:
        tape.watch([image, kernel])
        value = result(image, kernel)
    for one, other in zip(tf.function(ours)(image, kernel), tape.gradient(value, [image, kernel]), strict=True):
        assert one.shape == other.shape
        tf.debugging.assert_near(one, other, rtol=1e-5, atol=1e-4)


def test_only_wide_filters_are_taken_by_columns() -> None:
    def operations(size: int) -> list[str]:
        def slope(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
            with gradients.quick_gradients():
                return tf.gradients(tf.reduce_sum(tf.nn.depthwise_conv2d(image, kernel, [1, 1, 1, 1], "SAME")), [kernel])

        traced = tf.function(slope).get_concrete_function(tf.TensorSpec([None, 8, 8, 16]), tf.TensorSpec([size, size, 16, 1]))
        return [each.type for each in traced.graph.get_operations()]

    assert operations(3).count("DepthwiseConv2dNativeBackpropFilter") == 1
    assert operations(5).count("DepthwiseConv2dNativeBackpropFilter") == 2
