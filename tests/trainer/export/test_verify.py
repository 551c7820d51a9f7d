"""Verification of a bundle's model, and its robustness."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.results import bundles
from tests.trust import keras_files
from tuner import errors
from tuner.protocol import errands
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import TargetKind
from tuner.spec.objective import ImageMetric
from tuner.tasks.images.data.corruptions import STRENGTHS
from tuner.trainer.export import exported_model, verify
from tuner.trust import keras_file


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundles.make(tmp_path / "bundle", tmp_path / "data.npz")


def order(bundle: Path, *, with_data: bool = True, robustness: bool = False, most_images: int = 100) -> errands.Verify:
    spec = study_file.read_images(bundle / "config.yaml").model_dump_json() if with_data else None
    return errands.Verify(
        model=str(bundle / "model.keras"),
        probes=str(bundle / "probes"),
        spec=spec,
        cache=str(bundle.parent / "cache"),
        is_robustness_wanted=robustness,
        most_images=most_images,
    )


def test_probes_and_test_split_give_the_recorded_scores(bundle: Path) -> None:
    found = verify.verify(order(bundle))
    recorded = json.loads((bundle / "metrics.json").read_text())
    assert (found.num_probes, found.num_agreeing) == (bundles.NUM_PROBES, bundles.NUM_PROBES)
    assert found.max_difference < 1e-5
    assert found.test == errands.TestScore(
        accuracy=recorded["test"]["accuracy"], num_images=40, fingerprint=recorded["fingerprint"], splits=recorded["splits"]
    )
    assert (found.num_images, found.clean, found.robust) == (40, 0.9, ())


def test_robustness_is_measured_on_some_test_images_or_on_the_probes(bundle: Path) -> None:
    some = verify.verify(order(bundle, robustness=True, most_images=10))
    assert some.num_images == 10 and len(some.robust) == 25
    probes = verify.verify(order(bundle, with_data=False, robustness=True))
    assert probes.test is None and probes.num_images == bundles.NUM_PROBES and len(probes.robust) == 25


def test_a_prediction_that_is_not_the_one_recorded_is_counted(bundle: Path) -> None:
    path = bundle / "probes" / "predictions.json"
    recorded = json.loads(path.read_text())
    recorded["images"][0]["probabilities"].reverse()
    path.write_text(json.dumps(recorded))
    found = verify.verify(order(bundle, with_data=False))
    assert found.num_agreeing == bundles.NUM_PROBES - 1 and found.max_difference > 0.1


@pytest.mark.parametrize(
    "damage",
    [
        "{}",
        "[",
        '{"classes": ["a", "b"], "images": []}',
        '{"classes": ["red"], "images": [{"file": "000.png", "label": "red", "probabilities": [1]}]}',
    ],
)
def test_unreadable_probes_are_a_request_error(bundle: Path, damage: str) -> None:
    (bundle / "probes" / "predictions.json").write_text(damage)
    with pytest.raises(errors.DataError, match="probes|probabilities"):
        verify.verify(order(bundle, with_data=False))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_a_lambda_that_would_run_code_is_refused_and_does_not_run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    evil = keras.layers.Lambda(lambda tensor: (__import__("pathlib").Path(__import__("os").environ["CANARY"]).touch(), tensor)[1])
    keras.Sequential([keras.Input((32, 32, 3)), evil, keras.layers.Flatten()]).save(bundle / "model.keras")
    canary.unlink()  # it ran when the model was made
    with pytest.raises(errors.RequestError, match="'Lambda'"):
        verify.verify(order(bundle))
    assert not canary.exists()
    # without the look, and without the safe mode of Keras, it would have run
    keras.saving.load_model(bundle / "model.keras", safe_mode=False)
    assert canary.exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_models_of_keras_layers_can_be_loaded(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu6", kernel_regularizer="l2")(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")(x))
    x = x * keras.activations.hard_sigmoid(x) + 0.5
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)])
    x = keras.layers.Normalization(mean=[0.0] * 8, variance=[1.0] * 8)(x)
    x = keras.Sequential([keras.layers.Dense(5, "gelu"), keras.layers.Dropout(0.1)])(x)
    keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(10)(x))).save(tmp_path / "model.keras")
    assert keras_file.problems(tmp_path / "model.keras") == []


def test_a_weights_file_of_another_shape_is_refused(bundle: Path) -> None:
    layers = [keras_files.layer("another", "Dense", units=2)]
    (bundle / "model.keras").write_bytes(keras_files.packed(layers=layers))
    with pytest.raises(errors.DataError, match="cannot be loaded"):
        verify.verify(order(bundle))


def test_an_unsafe_model_is_not_used_for_predictions(bundle: Path) -> None:
    evil = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil"}}
    (bundle / "model.keras").write_bytes(keras_files.packed(layers=[evil]))
    asked = errands.PredictImages(path=str(bundle / "model.keras"), images=(str(bundle / "probes" / "000.png"),), size=32, resize="stretch")
    with pytest.raises(errors.RequestError, match="'Lambda'"):
        exported_model.predict_images(asked, threads=1)


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
    for one in verify.measure_robustness(classifier(), images, labels):
        measured.setdefault(one.corruption, []).append(one.accuracy)
    return measured


def test_every_corruption_is_measured_at_each_of_its_strengths(found: dict[str, list[float]]) -> None:
    assert {name: len(accuracies) for name, accuracies in found.items()} == {
        **{kind.value: len(strengths) for kind, strengths in STRENGTHS.items()},
        "fgsm": 3,
    }


def test_a_model_of_colors_loses_accuracy_on_gray_images(found: dict[str, list[float]]) -> None:
    assert found["rotation"] == [0.9] * 3
    assert found["grey"][0] <= 0.6


def test_the_attack_harms_more_than_equal_noise_even_with_a_confident_softmax(found: dict[str, list[float]]) -> None:
    images, labels = bundles.images(40, 2)
    draw = np.random.default_rng(0)
    noisy = np.clip(images + 4 * draw.choice((-1, 1), images.shape), 0, 255).astype(np.uint8)
    by_chance = float((verify.probabilities(classifier(), noisy).argmax(1) == labels).mean())
    assert found["fgsm"] == sorted(found["fgsm"], reverse=True)
    assert found["fgsm"][2] <= by_chance - 0.2


@pytest.mark.parametrize("last", ["softmax", "activation"])
def test_the_attack_is_made_against_the_logits(last: str) -> None:
    model = classifier(last)
    images, _ = bundles.images(2, 2)
    logits = np.asarray(verify.raw_outputs(model, TargetKind.LABEL)(images.astype(np.float32)))
    assert np.abs(logits).max() > 100
    inside = np.asarray(verify.raw_outputs(classifier("inside"), TargetKind.LABEL)(images.astype(np.float32)))
    assert inside.max() == pytest.approx(0, abs=1e-6) and np.isfinite(inside).all()


def test_without_a_gradient_there_is_no_attack() -> None:
    image = keras.Input((keras_files.SIDE, keras_files.SIDE, 3))
    rounded = keras.ops.cast(keras.ops.cast(image, "uint8"), "float32")
    model = keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(rounded))))
    images, labels = bundles.images(4, 2)
    assert {one.corruption for one in verify.measure_robustness(model, images, labels)} == {kind.value for kind in STRENGTHS}


def of_target(kind: TargetKind, last: str = "activation") -> keras.Model:
    """Finds the labels red and blue, or the number of blue minus red, of an image."""
    image = keras.Input((keras_files.SIDE, keras_files.SIDE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    several = kind is TargetKind.LABELS
    dense = keras.layers.Dense(2 if several else 1, activation="sigmoid" if last == "inside" else None)
    x = dense(x)
    if several and last == "activation":
        x = keras.layers.Activation("sigmoid")(x)
    weights = [[-900, 900], [0, 0], [900, -900]] if several else [[-1], [0], [1]]
    dense.set_weights([np.array(weights, "f4"), np.zeros(2 if several else 1, "f4")])
    return keras.Model(image, x)


@pytest.mark.parametrize(("kind", "metric"), [(TargetKind.LABELS, "macro_f1"), (TargetKind.NUMBER, "mae")])
def test_robustness_of_other_targets_is_their_metric(kind: TargetKind, metric: ImageMetric) -> None:
    images, _ = bundles.images(40, 2)
    model = of_target(kind)
    exact = verify.probabilities(model, images)
    labels = (exact > 0.5).astype(np.float64) if kind is TargetKind.LABELS else exact.astype(np.float64)
    mean = errands.Answers(kind=kind, metric=metric, thresholds=(0.5, 0.5) if kind is TargetKind.LABELS else ())
    found: dict[str, list[float]] = {}
    for one in verify.measure_robustness(model, images, labels + (0 if kind is TargetKind.LABELS else 0.001), mean):
        found.setdefault(one.corruption, []).append(one.accuracy)
    assert set(found) == {kind.value for kind in STRENGTHS} | {"fgsm"}
    if kind is TargetKind.LABELS:
        assert found["fgsm"] == sorted(found["fgsm"], reverse=True)
        assert found["fgsm"][2] < 0.9
        assert found["grey"][0] <= 0.7
    else:
        # each step of a color moves the mean of blue minus red by 2 / 255, and the number is off by 0.001 before
        assert found["fgsm"] == [pytest.approx(0.001 + steps * 2 / 255, abs=0.002) for steps in verify.FGSM_STEPS]
        assert found["grey"][0] > 0.01


def test_the_attack_on_several_labels_is_made_against_the_logits() -> None:
    images, _ = bundles.images(2, 2)
    given = images.astype(np.float32)
    logits = np.asarray(verify.raw_outputs(of_target(TargetKind.LABELS), TargetKind.LABELS)(given))
    assert np.abs(logits).max() > 100
    inside = np.asarray(verify.raw_outputs(of_target(TargetKind.LABELS, "inside"), TargetKind.LABELS)(given))
    assert np.isfinite(inside).all()
    assert (np.sign(inside) == np.sign(logits)).all()
