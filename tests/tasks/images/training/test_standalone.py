"""The standalone model, compared with the predictions of the trainer."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.keras_studies import study
from tuner import errors
from tuner.kernels import checkpoints, head
from tuner.protocol import messages
from tuner.spec.hyperparameters import Hyperparameters
from tuner.tasks.images.training import fine_tune, inverted_residuals, squeezenet, standalone, study_context
from tuner.tasks.images.training.study_context import StudyContext

IMAGES = np.random.default_rng(1).integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)


def weights_of(context: StudyContext, hyperparameters: Hyperparameters) -> list[NDArray[np.float32]]:
    """Weights of a trial, all different from the initial ones."""
    random = np.random.default_rng(2)
    width = context.backbone.num_features(hyperparameters.features)
    weights = head.initial_weights(hyperparameters, width, context.num_classes, seed=3)
    weights += [variable.numpy() for _, variable in context.backbone.top(hyperparameters.unfreeze)]
    return [value + random.normal(0, 0.05, value.shape).astype(np.float32) for value in weights]


def predicted(context: StudyContext, hyperparameters: Hyperparameters, weights: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits as the trainer computes them."""
    count = 2 * (len(hyperparameters.head_units) + 1)
    opened = [variable for _, variable in context.backbone.top(hyperparameters.unfreeze)]
    fine_tune.assign(opened, weights[count:])
    found = fine_tune.predict(context, hyperparameters, weights[:count], IMAGES)
    context.restore()
    return found


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"features": "several"},
        {"head_units": (9, 5), "activation": "leaky_relu", "features": "several", "unfreeze": 0.5},
        {"head_units": (9,), "activation": "gelu", "unfreeze": 0},
        {"features": "several", "feature_floor": 1.0},
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_standalone_model_predicts_like_the_trainer(context: StudyContext, given: dict[str, Any], temperature: float) -> None:
    hyperparameters = Hyperparameters.model_validate(given)
    weights = weights_of(context, hyperparameters)
    model = standalone.build(context, hyperparameters, weights, temperature=temperature)
    logits = predicted(context, hyperparameters, weights) / temperature
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    assert np.allclose(model.predict(IMAGES, verbose=0), wanted, atol=1e-6)
    assert np.allclose(model.predict(IMAGES.astype(np.float32), verbose=0), wanted, atol=1e-6)


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_the_form_for_int8_gives_the_same_predictions(context: StudyContext, floor: float) -> None:
    given = {"features": "several", "head_units": (9,), "activation": "elu", "feature_floor": floor}
    hyperparameters = Hyperparameters.model_validate(given)
    weights = weights_of(context, hyperparameters)
    plain = standalone.build(context, hyperparameters, weights, temperature=1.5)
    for_int8 = standalone.build_for_int8(context, hyperparameters, weights, temperature=1.5)
    images = np.asarray(context.data.train.images[0:20])  # on these, what did not vary does not
    assert np.allclose(plain(images), for_int8(images), atol=1e-5)
    if floor:
        assert np.allclose(plain(IMAGES), for_int8(IMAGES), atol=1e-5)


@pytest.mark.parametrize(
    ("preprocess", "layer"),
    [
        (lambda images: images, None),
        (inverted_residuals.NETWORKS["efficientnet_lite0"].preprocess, "Rescaling"),
        (inverted_residuals.NETWORKS["mobilenet_v2"].preprocess, "Rescaling"),
        (lambda images: images / np.array([255.0, 128.0, 64.0], np.float32) - np.array([0.5, 0.4, 0.3], np.float32), "Rescaling"),
        (squeezenet.preprocess, "Conv2D"),  # blue comes first
    ],
)
def test_a_preprocessing_becomes_layers_that_do_the_same(preprocess: Any, layer: str | None) -> None:
    layers = standalone.preprocessing(preprocess, 16)
    assert [type(found).__name__ for found in layers] == ([] if layer is None else [layer])
    found = IMAGES.astype(np.float32)
    for one in layers:
        found = np.asarray(one(found))
    assert np.allclose(found, preprocess(IMAGES.astype(np.float32)), atol=1e-4)


@pytest.mark.parametrize("preprocess", [lambda images: images**2, lambda images: images - images.mean((1, 2, 3), keepdims=True)])
def test_a_preprocessing_that_no_layer_does_is_refused(preprocess: Any) -> None:
    with pytest.raises(errors.DataError, match="not a weighted sum of the colors"):
        standalone.preprocessing(preprocess, 16)


def test_the_model_computes_in_float32_wherever_it_was_trained(cache: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = study_context.prepare(study(), cache=cache)
    finally:
        keras.config.set_dtype_policy("float32")
    hyperparameters = Hyperparameters()
    model = standalone.build(half, hyperparameters, weights_of(half, hyperparameters), temperature=1.0)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert np.asarray(model(IMAGES)).dtype == np.float32


def test_a_teacher_mixes_the_mean_of_its_members_with_the_label(context: StudyContext, tmp_path: Path) -> None:
    hyperparameters = Hyperparameters()
    drawn, members = weights_of(context, hyperparameters), []
    for number, factor in enumerate((1.0, 0.5)):
        path = tmp_path / f"{number}.npz"
        checkpoints.write_weights(path, [factor * each for each in drawn], study=context.identity)
        members.append(messages.TrainedMember(hyperparameters=hyperparameters, weights=str(path)))
    asked = messages.Teacher(members=tuple(members), share=0.75)
    images = IMAGES.astype(np.float32)
    labels = np.eye(context.num_classes, dtype=np.float32)[np.arange(len(images)) % context.num_classes]
    found = standalone.teacher(context, asked, lambda _: context)(images, labels)
    models = [standalone.build(context, hyperparameters, [factor * each for each in drawn], temperature=1.0) for factor in (1.0, 0.5)]
    mean = np.mean([model(images, training=False) for model in models], 0)
    np.testing.assert_allclose(found, 0.75 * mean + 0.25 * labels, atol=1e-5)
