"""What a worker says of images that only its trainer can read."""

from typing import Any

import pytest

from tests.studies import by_hand
from tuner.studies import data_check

CIFAR = {"source": "keras", "name": "cifar10"}


@pytest.mark.parametrize(
    ("data", "number", "said"),
    [
        (CIFAR, 16, ["validation has only 16 images: accuracy moves in steps of 6 points, too coarse to choose the best trial"]),
        (CIFAR, 100, []),
        ({"source": "digits"}, 16, []),  # `tuner run` has said it
    ],
)
def test_a_small_validation_split_of_keras_is_reported_by_the_worker(data: dict[str, Any], number: int, said: list[str]) -> None:
    prepared = by_hand.PREPARED.model_copy(update={"num_validation": number})
    assert data_check.cautions(by_hand.spec(data=data), prepared) == said
