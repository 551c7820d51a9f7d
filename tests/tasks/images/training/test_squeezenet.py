"""SqueezeNet 1.1: its weights and its predictions for photographs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.keras_studies import Pictures, batch
from tuner.tasks.images.training import squeezenet


@pytest.fixture(scope="module")
def logits(pictures: Pictures) -> NDArray[np.float32]:
    """Apply the classifier at each place, then average."""
    images, _ = batch(pictures, 227)
    network, _ = squeezenet.build(227)
    squeezenet.load_imagenet(network)
    kernel, bias = squeezenet.classifier()
    maps = network(squeezenet.preprocess(images.astype(np.float32)), training=False).numpy()
    found: NDArray[np.float32] = (maps @ kernel + bias).mean((1, 2))
    return found


@pytest.mark.parametrize(("best", "accuracy"), [(1, 0.60), (5, 0.95)])
def test_the_photographs_are_named_as_the_published_weights_name_them(
    pictures: Pictures, logits: NDArray[np.float32], best: int, accuracy: float
) -> None:
    labels = [label for _, label in pictures]
    hits = [label in row.argsort()[-best:] for label, row in zip(labels, logits, strict=True)]
    assert np.mean(hits) == pytest.approx(accuracy)


def test_colors_are_reversed_to_bgr_and_centered() -> None:
    pixel = np.array([[[[10.0, 20.0, 30.0]]]], np.float32)
    np.testing.assert_allclose(squeezenet.preprocess(pixel)[0, 0, 0], [30 - 103.939, 20 - 116.779, 10 - 123.68], rtol=1e-6)


def test_every_layer_with_weights_is_in_one_block_in_order() -> None:
    network, blocks = squeezenet.build(32)
    assert sorted(name for names in blocks for name in names) == sorted(layer.name for layer in network.layers if layer.weights)
    assert [names[0] for names in blocks] == ["conv1", *(f"fire{number}_squeeze1x1" for number in range(2, 10))]
    assert network.count_params() == 722_496
