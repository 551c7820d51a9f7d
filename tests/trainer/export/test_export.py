"""A small real model in every format: written, loaded, compared, and used as the model card says."""

import json
import subprocess
import sys
import sysconfig
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from tests.keras_studies import NETWORK, study
from tests.tasks.images.training.test_standalone import weights_of
from tuner import errors
from tuner.kernels import checkpoints
from tuner.protocol import errands, messages
from tuner.protocol.errands import Format
from tuner.results import statistics
from tuner.results.bundle import bundle, card
from tuner.results.retrain import networks
from tuner.spec.hyperparameters import Activation, Hyperparameters
from tuner.tasks.images.training import evaluation, probe, standalone, study_context
from tuner.tasks.images.training.study_context import StudyContext
from tuner.trainer.export import export, exported_model, formats, verify
from tuner.trust import keras_file

HYPERPARAMETERS = Hyperparameters.model_validate({"features": "several", "head_units": (9,), "activation": "silu", "feature_floor": 0.3})


@pytest.fixture(scope="module")
def written(_context: StudyContext, tmp_path_factory: pytest.TempPathFactory) -> tuple[errands.Exported, Path]:
    """One model in every format, with `answers.npz` in the same folder."""
    folder = tmp_path_factory.mktemp("export")
    _context.restore()
    checkpoints.write_weights(folder / "weights.npz", weights_of(_context, HYPERPARAMETERS), study=_context.identity)
    (folder / "bundle").mkdir()
    return export.write([_context], order(folder)), folder / "bundle"


def order(folder: Path) -> errands.Export:
    return errands.Export(
        cache="", networks=(errands.TrainedNetwork(spec="", hyperparameters=HYPERPARAMETERS, weights=str(folder / "weights.npz")),),
        temperature=1.3, formats=tuple(Format),
        folder=str(folder / "bundle"), num_probes=4, answers=str(folder / "answers.npz"), num_compared=50,
    )  # fmt: skip


@pytest.mark.parametrize("form", Format)
def test_every_format_predicts_like_the_keras_model(written: tuple[errands.Exported, Path], form: Format) -> None:
    _, folder = written
    asked = errands.Compare(format=form, path=str(folder / errands.BUNDLE_PATHS[form]), answers=str(folder.parent / "answers.npz"))
    found = exported_model.compare(asked, threads=1)
    assert found.num_images == 50
    assert found.milliseconds > 0
    if form is Format.INT8:
        assert found.agreement >= 0.94
    else:
        assert found.agreement == 1
        assert found.max_difference < 1e-5


def test_int8_takes_the_bytes_of_an_image_unchanged(written: tuple[errands.Exported, Path]) -> None:
    import tensorflow as tf

    with pytest.warns(UserWarning, match="Interpreter is deprecated"):
        interpreter = tf.lite.Interpreter(str(written[1] / errands.BUNDLE_PATHS[Format.INT8]))
    [given] = interpreter.get_input_details()
    assert given["dtype"] is np.uint8
    assert given["quantization"] == (1.0, 0)


def test_the_mean_error_of_8_bits_is_subtracted_from_the_features(context: StudyContext) -> None:
    model = standalone.build_for_int8(context, HYPERPARAMETERS, weights_of(context, HYPERPARAMETERS), temperature=1.0)
    images = np.asarray(context.data.train.images[0:60])

    def added(wanted: Any) -> float:
        found = formats.features(model, images)
        return float(np.abs((found - wanted).mean(0)).mean())

    wanted = np.asarray(keras.Model(model.inputs[0], model.get_layer(standalone.FIRST_DENSE).input)(images)).reshape(60, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        before = added(wanted)
        formats.correct(model, images)
        assert added(wanted) < before / 3


def test_the_probes_are_validation_images_with_the_models_predictions(
    written: tuple[errands.Exported, Path], context: StudyContext
) -> None:
    told, folder = written
    assert [probe.file for probe in told.probes] == ["000.png", "001.png", "002.png", "003.png"]
    first = np.asarray(Image.open(folder / "probes" / "000.png"))
    assert np.array_equal(first, context.data.validation.images[0:1][0])
    assert told.probes[0].label == context.data.classes[context.data.validation.labels[0]]
    model = exported_model.load(Format.KERAS, folder / "model.keras", threads=1)
    assert np.allclose(model(first[None])[0], told.probes[0].probabilities, atol=1e-6)


def test_the_answer_says_what_wrote_the_model(written: tuple[errands.Exported, Path]) -> None:
    told, _ = written
    assert told.packages["keras"] == told.versions["keras"]
    assert set(told.seconds) == set(Format)
    assert told.num_parameters > 1000


def test_images_of_any_size_are_predicted_and_a_broken_one_is_named(written: tuple[errands.Exported, Path], tmp_path: Path) -> None:
    told, folder = written
    Image.open(folder / "probes" / "001.png").resize((40, 40), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths = (str(folder / "probes" / "002.png"), str(tmp_path / "broken.png"), str(tmp_path / "large.png"))
    asked = errands.PredictImages(path=str(folder / "model.keras"), images=paths, size=16, resize="stretch")
    found = exported_model.predict_images(asked, threads=1)
    first, broken, large = found.probabilities
    assert np.allclose(first or (), told.probes[2].probabilities, atol=1e-6)
    assert broken is None
    assert large is not None
    assert [bool(trouble) for trouble in found.troubles] == [False, True, False]
    assert "broken.png: it is not a JPEG" in found.troubles[1]


def test_deep_images_are_predicted_like_the_same_images_of_8_bits(written: tuple[errands.Exported, Path], tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "deep.png")
    model = str(written[1] / "model.keras")
    found = [
        exported_model.predict_images(
            errands.PredictImages(path=model, images=(str(tmp_path / name),), size=16, resize="stretch", value_range=values), threads=1
        )
        for name, values in (("grey.png", None), ("deep.png", (0, 4080)), ("deep.png", None))
    ]
    grey_row, deep_row, dark_row = (np.array(one.probabilities[0]) for one in found)
    assert np.allclose(grey_row, deep_row, atol=1e-6)
    assert not np.allclose(grey_row, dark_row, atol=1e-3)


def test_a_model_with_code_in_it_is_not_loaded(written: tuple[errands.Exported, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(written[1] / "model.keras") as model, zipfile.ZipFile(tmp_path / "model.keras", "w") as changed:
        for name in model.namelist():
            changed.writestr(name, model.read(name).replace(b'"class_name": "Softmax"', b'"class_name": "Lambda"'))
    asked = errands.PredictImages(path=str(tmp_path / "model.keras"), images=("x.png",), size=16, resize="stretch")
    with pytest.raises(errors.RequestError, match="'Lambda' of keras.layers, which is not an allowed layer of Keras"):
        exported_model.predict_images(asked, threads=1)


def test_the_example_of_the_model_card_runs_without_tuner(written: tuple[errands.Exported, Path], tmp_path: Path) -> None:
    told, folder = written
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in ("zero", *"123456789")))
    # without site, no editable install is found: only what is in the folder of packages
    packages = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
    assert subprocess.run(
        [sys.executable, "-S", "-c", packages + "import tuner"], capture_output=True, cwd=tmp_path, check=False
    ).returncode
    program = packages + card.EXAMPLE.format(image="probes/001.png", size=16)
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, cwd=folder, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    best = max(told.probes[1].probabilities)
    assert len(lines) == 3
    assert float(lines[0].split(": ")[1]) == pytest.approx(best, abs=1e-3)


def test_weights_of_another_study_are_refused(context: StudyContext, tmp_path: Path) -> None:
    checkpoints.write_weights(tmp_path / "weights.npz", weights_of(context, HYPERPARAMETERS), study="another")
    (tmp_path / "bundle").mkdir()
    with pytest.raises(errors.DataError, match="has weights from a study with other images"):
        export.write([context], order(tmp_path))


def test_a_file_that_is_not_a_model_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_bytes(b"no model")
    with pytest.raises(errors.DataError, match=r"model.keras cannot be loaded"):
        exported_model.load(Format.KERAS, tmp_path / "model.keras", threads=1)


def test_the_mean_of_several_networks_is_one_model_over_images_and_mirror_images(context: StudyContext) -> None:
    images = np.asarray(context.data.validation.images[0:8]).astype(np.float32)
    drawn = weights_of(context, HYPERPARAMETERS)
    models = [standalone.build(context, HYPERPARAMETERS, [factor * each for each in drawn], temperature=1.0) for factor in (1.0, 0.5)]
    wanted = np.mean([model(each, training=False) for model in models for each in (images, images[:, :, ::-1])], 0)
    found = standalone.averaged(models, mirrored=True)
    np.testing.assert_allclose(found(images, training=False), wanted, atol=1e-5)
    plain = standalone.averaged(models, mirrored=False)
    np.testing.assert_allclose(plain(images, training=False), np.mean([model(images, training=False) for model in models], 0), atol=1e-5)


def test_a_smaller_member_gets_the_image_as_pillow_reduces_it() -> None:
    import keras

    image = np.random.default_rng(0).integers(60, 200, (2, 24, 24, 3)).astype(np.uint8)
    members = []
    for size in (24, 15):
        given = keras.Input((size, size, 3))
        members.append(keras.Model(given, keras.layers.Softmax()(keras.layers.Flatten()(keras.layers.Rescaling(0.02)(given))[:, :675])))
    small = keras.Model(members[1].inputs[0], members[1].outputs[0])
    found = np.asarray(standalone.averaged([members[0], members[1]], mirrored=False)(image.astype(np.float32)))
    reduced = np.stack([np.asarray(Image.fromarray(one).resize((15, 15), Image.Resampling.BICUBIC)) for one in image])
    wanted = (np.asarray(members[0](image.astype(np.float32))) + np.asarray(small(reduced.astype(np.float32)))) / 2
    np.testing.assert_allclose(found, wanted, atol=3e-4)


def test_an_ensemble_is_written_in_every_format_and_each_agrees(context: StudyContext, tmp_path: Path) -> None:
    context.restore()
    drawn = weights_of(context, HYPERPARAMETERS)
    (tmp_path / "bundle").mkdir()
    networks = []
    for number, factor in enumerate((1.0, 0.5)):
        path = tmp_path / f"{number}.npz"
        checkpoints.write_weights(path, [factor * each for each in drawn], study=context.identity)
        networks.append(errands.TrainedNetwork(spec="", hyperparameters=HYPERPARAMETERS, weights=str(path)))
    forms = tuple(form for form in Format if form is not Format.INT8)
    asked = order(tmp_path).model_copy(update={"networks": tuple(networks), "mirrored": True, "formats": forms})
    export.write([context, context], asked)
    for form in forms:
        model = str(tmp_path / "bundle" / errands.BUNDLE_PATHS[form])
        found = exported_model.compare(errands.Compare(format=form, path=model, answers=str(tmp_path / "answers.npz")), threads=1)
        assert found.agreement == 1
        assert found.max_difference < 1e-5
    keras_file.require_safe(tmp_path / "bundle" / errands.BUNDLE_PATHS[Format.KERAS])


def test_models_are_measured_until_one_is_fast_enough(context: StudyContext) -> None:
    drawn = weights_of(context, HYPERPARAMETERS)
    models = [standalone.build(context, HYPERPARAMETERS, [factor * each for each in drawn], temperature=1.0) for factor in (1.0, 0.5)]
    variants = tuple(
        errands.Variant(members=members, mirrored=mirrored) for members, mirrored in (((0, 1), True), ((0, 1), False), ((1,), False))
    )

    def measured(limit: float) -> errands.Measured:
        return export.measure_variants(models, errands.Measure(cache="", networks=(), variants=variants, most_milliseconds=limit))

    first = measured(1e6)
    assert first.milliseconds[0] is not None and first.milliseconds[0] > 0
    assert first.milliseconds[1:] == (None, None)  # the first one was fast enough
    none = measured(0.0)
    assert none.milliseconds[:2] == (None, None)  # their members alone take longer
    assert none.milliseconds[2] == none.alone[1] > 0


@pytest.fixture(scope="module")
def of_two_sizes(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[errands.Exported, Path, list[StudyContext]]:
    """Give an ensemble of two networks with images of 32 and 48 pixels in every format, with its folder and its contexts."""
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "bundle").mkdir()
    contexts, networks = [], []
    for size in (32, 48):
        context = study_context.prepare(study(model=NETWORK | {"image_size": size}), cache=cache)
        probed = probe.begin(context, Hyperparameters(), seed=size)
        for _ in probed.epochs():
            pass
        path = folder / f"{size}.npz"
        checkpoints.write_weights(path, probed.weights(), study=context.identity)
        contexts.append(context)
        networks.append(errands.TrainedNetwork(spec="", hyperparameters=Hyperparameters(), weights=str(path)))
    forms = tuple(form for form in Format if form is not Format.INT8)
    changes = {"networks": tuple(networks), "mirrored": True, "formats": forms, "temperature": 1.0, "scores_test": True}
    return export.write(contexts, order(folder).model_copy(update=changes)), folder, contexts


def test_an_ensemble_of_two_sizes_is_written_in_every_format_and_each_agrees(
    of_two_sizes: tuple[errands.Exported, Path, list[StudyContext]],
) -> None:
    told, folder, _ = of_two_sizes
    for form in told.seconds:
        model = str(folder / "bundle" / errands.BUNDLE_PATHS[form])
        found = exported_model.compare(errands.Compare(format=form, path=model, answers=str(folder / "answers.npz")), threads=1)
        assert found.agreement >= bundle.MIN_AGREEMENT[form]
        assert found.max_difference < 1e-4
    keras_file.require_safe(folder / "bundle" / errands.BUNDLE_PATHS[Format.KERAS])


def test_a_verification_gives_the_test_accuracy_of_the_exported_model(
    of_two_sizes: tuple[errands.Exported, Path, list[StudyContext]], cache: Path
) -> None:
    told, folder, contexts = of_two_sizes
    assert told.test_accuracy is not None
    # each member on images of its own size, as the study measured it: a few images may differ
    logits = []
    for context, name in zip(contexts, ("32", "48"), strict=True):
        weights = checkpoints.read_weights(folder / f"{name}.npz", study=context.identity)
        for mirrored in (False, True):
            logits += evaluation.predict_splits(context, Hyperparameters(), weights, [context.data.test], mirrored=mirrored)
    labels = contexts[0].data.test.labels
    alone = statistics.accuracy(np.stack(logits), labels)
    assert abs(told.test_accuracy - alone) <= 3 / len(labels)
    assert alone > 0.3

    probes = {"classes": list(told.classes), "images": [one.model_dump() for one in told.probes]}
    (folder / "bundle" / "probes" / errands.PREDICTIONS).write_text(json.dumps(probes))
    asked = errands.Verify(
        model=str(folder / "bundle" / "model.keras"), probes=str(folder / "bundle" / "probes"), cache=str(cache),
        spec=contexts[1].study.model_dump_json(), is_robustness_wanted=False, most_images=1,
    )  # fmt: skip
    found = verify.verify(asked)
    assert found.test is not None
    assert found.test.accuracy == told.test_accuracy
    assert (found.num_agreeing, found.num_probes) == (4, 4)


def test_the_exported_ensemble_of_a_version_has_the_probabilities_that_were_measured(context: StudyContext, tmp_path: Path) -> None:
    drawn = weights_of(context, HYPERPARAMETERS)
    answers, paths = [], []
    for number, factor in enumerate((1.0, 0.5)):
        path = tmp_path / f"{number}.npz"
        checkpoints.write_weights(path, [factor * each for each in drawn], study=context.identity)
        asked = messages.Predict(
            trial=number, hyperparameters=HYPERPARAMETERS, weights=(str(path),), splits=("validation",), mirrored=True,
            to=str(tmp_path / f"answers-{number}.npz"),
        )  # fmt: skip
        evaluation.predict(context, asked)
        answers.append(networks.read_logits(Path(asked.to), "validation"))
        paths.append(path)
    wanted = networks.average_probabilities(answers, mirrored=True).at(1.3)

    networks.pack(paths, tmp_path / "ensemble.zip")
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "bundle").mkdir()
    trained = tuple(
        errands.TrainedNetwork(spec="", hyperparameters=HYPERPARAMETERS, weights=str(path))
        for path in networks.unpack(tmp_path / "ensemble.zip", tmp_path / "unpacked")
    )
    changes = {"networks": trained, "mirrored": True, "formats": (Format.KERAS,), "num_compared": 1000}
    export.write([context, context], order(tmp_path).model_copy(update=changes))
    with np.load(tmp_path / "answers.npz") as found:
        np.testing.assert_allclose(found["probabilities"], np.exp(wanted.logits), atol=1e-5)


@pytest.mark.parametrize("activation", Activation)
def test_every_activation_of_a_head_is_written_in_every_format(context: StudyContext, tmp_path: Path, activation: Activation) -> None:
    given = keras.Input((8, 8, 3))
    hidden = keras.layers.Dense(4, activation=activation.value)(keras.layers.Flatten()(keras.layers.Rescaling(0.01)(given)))
    model = keras.Model(given, keras.layers.Softmax()(hidden))
    (tmp_path / "bundle").mkdir()
    forms = tuple(form for form in Format if form is not Format.INT8)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    formats.write(model, forms, tmp_path / "bundle", for_int8=lambda: model, calibration=images)
    for form in forms:
        found = exported_model.load(form, tmp_path / "bundle" / errands.BUNDLE_PATHS[form], threads=1)(images)
        np.testing.assert_allclose(found, np.asarray(model(images.astype(np.float32))), atol=1e-5)
