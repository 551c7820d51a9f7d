import json
from pathlib import Path

import keras
import pytest

from tests.results import bundles
from tests.trust import keras_files
from tuner import errors
from tuner.protocol import errands
from tuner.spec import file as study_file
from tuner.trainer.export import verify
from tuner.trust import keras_file


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundles.make(tmp_path / "bundle", tmp_path / "data.npz")


def order(bundle: Path, *, with_data: bool = True, robustness: bool = False, most_images: int = 100) -> errands.Verify:
    spec = study_file.read(bundle / "config.yaml").model_dump_json() if with_data else None
    return errands.Verify(
        model=str(bundle / "model.keras"),
        probes=str(bundle / "probes"),
        spec=spec,
        cache=str(bundle.parent / "cache"),
        is_robustness_wanted=robustness,
        most_images=most_images,
    )


def test_probes_and_test_split_are_measured_as_they_were(bundle: Path) -> None:
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
def test_probes_that_cannot_be_read_are_a_wrong_request(bundle: Path, damage: str) -> None:
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
def test_what_keras_saves_of_its_own_layers_may_be_loaded(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu6", kernel_regularizer="l2")(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    x = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3, depthwise_initializer="he_normal")(x))
    x = x * keras.activations.hard_sigmoid(x) + 0.5
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)])
    x = keras.layers.Normalization(mean=[0.0] * 8, variance=[1.0] * 8)(x)
    x = keras.Sequential([keras.layers.Dense(5, "gelu"), keras.layers.Dropout(0.1)])(x)
    keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(10)(x))).save(tmp_path / "model.keras")
    assert keras_file.problems(tmp_path / "model.keras") == []


def test_a_file_whose_weights_do_not_fit_is_a_wrong_request(bundle: Path) -> None:
    layers = [keras_files.layer("another", "Dense", units=2)]
    (bundle / "model.keras").write_bytes(keras_files.packed(layers=layers))
    with pytest.raises(errors.DataError, match="cannot be loaded"):
        verify.verify(order(bundle))


def test_what_is_not_safe_to_load_is_not_predicted_with_either(bundle: Path) -> None:
    evil = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil"}}
    (bundle / "model.keras").write_bytes(keras_files.packed(layers=[evil]))
    asked = errands.PredictImages(path=str(bundle / "model.keras"), images=(str(bundle / "probes" / "000.png"),), size=32, resize="stretch")
    with pytest.raises(errors.RequestError, match="'Lambda'"):
        verify.predict(asked, threads=1)
