"""The model that stands alone against what the trainer itself makes of images."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.hyperparameters import Hyperparameters
from tuner.training import bench as benches
from tuner.training import fine_tune, head, standalone

IMAGES = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)


def weights_of(bench: benches.Bench, hyperparameters: Hyperparameters) -> list[NDArray[np.float32]]:
    """Weights as a trial keeps them, each unlike those that it began with."""
    random = np.random.default_rng(2)
    width = bench.backbone.num_features(hyperparameters.features)
    weights = head.initial(hyperparameters, width, bench.num_classes, seed=3)
    weights += [variable.numpy() for _, variable in bench.backbone.top(hyperparameters.unfreeze)]
    return [value + random.normal(0, 0.05, value.shape).astype(np.float32) for value in weights]


def predicted(bench: benches.Bench, hyperparameters: Hyperparameters, weights: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits as the trainer computes them."""
    count = 2 * (len(hyperparameters.head_units) + 1)
    opened = [variable for _, variable in bench.backbone.top(hyperparameters.unfreeze)]
    fine_tune.assign(opened, weights[count:])
    found = fine_tune.predict(bench, hyperparameters, weights[:count], IMAGES)
    bench.restore()
    return found


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"features": "several"},
        {"head_units": (9, 5), "activation": "leaky_relu", "features": "several", "unfreeze": 0.5},
        {"head_units": (9,), "activation": "gelu", "unfreeze": 0},
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_model_says_what_the_trainer_says(bench: benches.Bench, given: dict[str, Any], temperature: float) -> None:
    hyperparameters = Hyperparameters.model_validate(given)
    weights = weights_of(bench, hyperparameters)
    model = standalone.build(bench, hyperparameters, weights, temperature=temperature)
    logits = predicted(bench, hyperparameters, weights) / temperature
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    assert np.allclose(model.predict(IMAGES, verbose=0), wanted, atol=1e-6)
    assert np.allclose(model.predict(IMAGES.astype(np.float32), verbose=0), wanted, atol=1e-6)
