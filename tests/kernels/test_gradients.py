"""Gradients of convolutions: equal to TensorFlow's, and used only where they are not slower."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tuner.kernels import gradients
from tuner.kernels.gradients import COLUMNS, PRODUCTS, Convolution
from tuner.spec import study
from tuner.tasks.images.training import backbones

WIDE = Convolution(is_depthwise=True, image=(6, 6, 8), kernel=(5, 5, 8, 1), stride=1, padding="SAME")
POINTWISE = Convolution(is_depthwise=False, image=(6, 6, 8), kernel=(1, 1, 8, 4), stride=1, padding="SAME")
OTHERS = [
    Convolution(is_depthwise=True, image=(6, 6, 8), kernel=(3, 3, 8, 1), stride=1, padding="SAME"),
    Convolution(is_depthwise=False, image=(6, 6, 8), kernel=(3, 3, 8, 4), stride=1, padding="SAME"),
    Convolution(is_depthwise=False, image=(6, 6, 8), kernel=(1, 1, 8, 4), stride=2, padding="SAME"),
    Convolution(is_depthwise=False, image=(6, 6, 8), kernel=(1, 1, 4, 4), stride=1, padding="SAME"),
]


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
        with gradients.overridden():
            found: list[tf.Tensor] = tf.gradients(result(image, kernel), [image, kernel])
        return found

    with tf.GradientTape() as tape:
        tape.watch([image, kernel])
        value = result(image, kernel)
    for one, other in zip(tf.function(ours)(image, kernel), tape.gradient(value, [image, kernel]), strict=True):
        assert one.shape == other.shape
        tf.debugging.assert_near(one, other, rtol=1e-5, atol=1e-4)


def test_only_wide_filters_are_computed_by_columns() -> None:
    def operations(size: int) -> list[str]:
        def slope(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
            with gradients.overridden():
                return tf.gradients(tf.reduce_sum(tf.nn.depthwise_conv2d(image, kernel, [1, 1, 1, 1], "SAME")), [kernel])

        traced = tf.function(slope).get_concrete_function(tf.TensorSpec([None, 8, 8, 16]), tf.TensorSpec([size, size, 16, 1]))
        return [each.type for each in traced.graph.get_operations()]

    assert operations(3).count("DepthwiseConv2dNativeBackpropFilter") == 1
    assert operations(5).count("DepthwiseConv2dNativeBackpropFilter") == 2


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
def test_gradients_by_products_are_those_of_tensorflow(size: int, stride: int, padding: str, groups: int, is_product: bool) -> None:
    image = tf.random.stateless_normal([4, 9, 8, 12], [1, 2])
    kernel = tf.random.stateless_normal([size, size, 12 // groups, 20], [3, 4])

    def result(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        found = tf.nn.conv2d(image, kernel, stride, padding)
        return tf.reduce_sum(found * tf.random.stateless_normal([4, *found.shape[1:]], [5, 6]))

    def ours(image: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
        with gradients.overridden():
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


def timer(*seconds: float) -> Callable[[Callable[[], Any]], float]:
    """A timer that reports these seconds: of the override for a 1 x 1 convolution, TensorFlow's, then those of a depthwise one."""
    pairs = [seconds[first : first + 2] for first in range(0, len(seconds), 2) for _ in range(gradients._NUM_REPEATS)]
    left = [each for pair in pairs for each in pair]

    def measured(call: Callable[[], Any]) -> float:
        call()
        return left.pop(0)

    return measured


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((1.0, 2.0, 1.0, 2.0), {PRODUCTS, COLUMNS}),
        ((3.0, 2.0, 1.0, 2.0), {COLUMNS}),
        ((1.0, 2.0, 3.0, 2.0), {PRODUCTS}),
        ((3.0, 2.0, 3.0, 2.0), set()),
        ((2.1, 2.0, 2.0, 2.0), {PRODUCTS, COLUMNS}),  # a tie is not decided by noise
    ],
)
def test_an_override_that_is_slower_is_not_chosen(seconds: tuple[float, ...], expected: set[str], tmp_path: Path) -> None:
    found = gradients.choose([WIDE, POINTWISE, *OTHERS], threads=1, cache=tmp_path, timer=timer(*seconds))
    assert found == expected


def test_overrides_are_chosen_once_per_machine_and_the_choice_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tuner.kernels.gradients")
    assert gradients.choose([WIDE], threads=1, cache=tmp_path, timer=timer(3.0, 2.0)) == {PRODUCTS}
    [line] = [record.message for record in caplog.records]
    assert "depthwise convolutions by columns off (3000.0 ms, TensorFlow 2000.0 ms)" in line
    assert gradients.choose([WIDE], threads=1, cache=tmp_path, timer=timer()) == {PRODUCTS}
    assert len(caplog.records) == 1
    other = gradients.choose([WIDE], threads=2, cache=tmp_path, timer=timer(1.0, 2.0))
    assert other == {PRODUCTS, COLUMNS}


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"overrides": ["Other"]}), json.dumps({"overrides": 1})])
def test_a_damaged_choice_is_repeated(content: str, tmp_path: Path) -> None:
    gradients.choose([WIDE], threads=1, cache=tmp_path, timer=timer(1.0, 2.0))
    [path] = (tmp_path / "kernels").glob("*.json")
    path.write_text(content)
    assert gradients.choose([WIDE], threads=1, cache=tmp_path, timer=timer(3.0, 2.0)) == {PRODUCTS}
    assert gradients.choose([WIDE], threads=1, cache=tmp_path, timer=timer()) == {PRODUCTS}


def test_a_choice_that_cannot_be_stored_is_used(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert gradients.choose([WIDE], threads=1, cache=blocked, timer=timer(3.0, 2.0)) == {PRODUCTS}


def test_only_chosen_overrides_are_in_a_graph() -> None:
    def operations(overrides: frozenset[str]) -> list[str]:
        def slope(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
            with gradients.overridden(overrides):
                return tf.gradients(tf.reduce_sum(tf.nn.conv2d(image, kernel, 1, "SAME")), [kernel])

        traced = tf.function(slope).get_concrete_function(tf.TensorSpec([None, 8, 8, 16]), tf.TensorSpec([1, 1, 16, 4]))
        return [each.type for each in traced.graph.get_operations()]

    assert "MatMul" in operations(frozenset({PRODUCTS}))
    assert "MatMul" not in operations(frozenset({COLUMNS}))


def test_few_convolutions_of_a_real_network_are_timed(tmp_path: Path) -> None:
    network = backbones.load(study.Model(backbone="efficientnet_lite0", weights="none", image_size=96))
    convolutions = network.convolutions()
    assert {each.override for each in convolutions} == {None, COLUMNS, PRODUCTS}
    assert len(convolutions) > 40
    num_calls = 0

    def counted(call: Callable[[], Any]) -> float:
        nonlocal num_calls
        num_calls += 1
        call()
        return 1.0

    gradients.choose(convolutions, threads=1, cache=tmp_path, timer=counted)
    # two convolutions for each of two overrides, both ways, repeated
    assert num_calls == 2 * 2 * 2 * gradients._NUM_REPEATS
