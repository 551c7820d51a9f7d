import keras
import numpy as np
import pytest

from tests.results import bundles
from tests.trust import keras_files
from tuner.tasks.images.data.corruptions import STRENGTHS
from tuner.trainer.export import verify


def classifier(last: str = "softmax") -> keras.Model:
    """Red or blue, with logits so large that the softmax is 1.0 in float32."""
    image = keras.Input((keras_files.SIDE, keras_files.SIDE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    dense = keras.layers.Dense(2, activation="softmax" if last == "inside" else None)
    x = dense(x)
    if last == "softmax":
        x = keras.layers.Softmax()(x)
    if last == "activation":
        x = keras.layers.Activation("softmax")(x)
    dense.set_weights([np.array([[-900, 900], [0, 0], [900, -900]], "f4"), np.zeros(2, "f4")])
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def found() -> dict[str, list[float]]:
    images, labels = bundles.images(40, 2)
    measured: dict[str, list[float]] = {}
    for one in verify.measure(classifier(), images, labels):
        measured.setdefault(one.corruption, []).append(one.accuracy)
    return measured


def test_every_corruption_is_measured_at_each_of_its_strengths(found: dict[str, list[float]]) -> None:
    assert {name: len(accuracies) for name, accuracies in found.items()} == {
        **{kind.value: len(strengths) for kind, strengths in STRENGTHS.items()},
        "fgsm": 3,
    }


def test_colour_is_what_this_model_lives_on(found: dict[str, list[float]]) -> None:
    assert found["rotation"] == [0.9] * 3
    assert found["grey"][0] <= 0.6


def test_the_attack_harms_more_than_as_much_noise_though_the_softmax_is_sure(found: dict[str, list[float]]) -> None:
    images, labels = bundles.images(40, 2)
    draw = np.random.default_rng(0)
    noisy = np.clip(images + 4 * draw.choice((-1, 1), images.shape), 0, 255).astype(np.uint8)
    by_chance = verify.accuracy(verify.probabilities(classifier(), noisy), labels)
    assert found["fgsm"] == sorted(found["fgsm"], reverse=True)
    assert found["fgsm"][2] <= by_chance - 0.2


@pytest.mark.parametrize("last", ["softmax", "activation"])
def test_the_attack_is_made_against_the_logits(last: str) -> None:
    model = classifier(last)
    images, _ = bundles.images(2, 2)
    logits = np.asarray(verify._without_softmax(model)(images.astype(np.float32)))
    assert np.abs(logits).max() > 100
    inside = np.asarray(verify._without_softmax(classifier("inside"))(images.astype(np.float32)))
    assert inside.max() == pytest.approx(0, abs=1e-6) and np.isfinite(inside).all()


def test_without_a_gradient_there_is_no_attack() -> None:
    image = keras.Input((keras_files.SIDE, keras_files.SIDE, 3))
    rounded = keras.ops.cast(keras.ops.cast(image, "uint8"), "float32")
    model = keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(rounded))))
    images, labels = bundles.images(4, 2)
    assert {one.corruption for one in verify.measure(model, images, labels)} == {kind.value for kind in STRENGTHS}
