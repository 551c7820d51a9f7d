import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.results import bundles
from tests.trust import keras_files
from tuner import errors
from tuner.protocol import errands
from tuner.results.bundle import manifest, sign
from tuner.results.verify import verification
from tuner.results.verify.verification import Outcome, Report, VerificationOptions
from tuner.spec.study import StudySpec
from tuner.workers.worker import evaluation

TEST = errands.TestScore(accuracy=0.9, num_images=40, fingerprint="", splits="")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundles.make(tmp_path / "bundle", tmp_path / "data.npz")


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> list[errands.Verify]:
    """Record the requests to the process with Keras, which answers like the model."""
    asked: list[errands.Verify] = []

    def run(order: errands.Verify, *, threads: int = 0) -> errands.Verified:
        asked.append(order)
        recorded = json.loads((Path(order.model).parent / "metrics.json").read_text())
        score = None if order.spec is None else TEST.model_copy(update={name: recorded[name] for name in ("fingerprint", "splits")})
        robust = tuple(errands.Robust(corruption="noise", strength=0.1 * number, accuracy=0.5) for number in (1, 2, 3))
        return errands.Verified(
            num_probes=6,
            num_agreeing=6,
            max_difference=1e-7,
            test=score,
            num_images=40,
            clean=0.9,
            robust=robust if order.is_robustness_wanted else (),
        )

    monkeypatch.setattr(evaluation, "run", run)
    return asked


def wanted(**changes: Any) -> VerificationOptions:
    plain: dict[str, Any] = {
        "key": None, "requirements": None, "is_robustness_wanted": True, "most_images": 100, "tolerance": 0.005, "cache": Path("cache"),
        "localize": lambda spec: spec, "needs_data": False,
    }  # fmt: skip
    return VerificationOptions(**plain | changes)


def verified(bundle: Path, **changes: Any) -> dict[str, tuple[Outcome, str]]:
    report = verification.verify(bundle, wanted(**changes), tell=lambda _: None)
    assert report.is_good == all(check.outcome is not Outcome.FAILED for check in report.checks)
    return outcomes(report)


def outcomes(report: Report) -> dict[str, tuple[Outcome, str]]:
    return {check.name: (check.outcome, "; ".join(check.found)) for check in report.checks}


def test_an_unchanged_bundle_passes_every_check(bundle: Path, trainer: list[errands.Verify]) -> None:
    found = verified(bundle)
    assert {name for name, (outcome, _) in found.items() if outcome is Outcome.OK} == {
        "manifest", "safe loading", "probes", "test metrics", "robustness",
    }  # fmt: skip
    assert found["signature"] == (Outcome.NOT_CHECKED, "the bundle is not signed")
    assert found["test metrics"][1] == "accuracy 0.9000 on 40 images, recorded 0.9000"
    assert "on 40 images of the test split: clean 0.9000, mean 0.5000" in found["robustness"][1]
    assert trainer[0].model == str(bundle / "model.keras")


def test_the_test_accuracy_of_an_ensemble_of_several_sizes_is_that_through_the_exported_model(
    bundle: Path, trainer: list[errands.Verify]
) -> None:
    path = bundle / "metrics.json"
    recorded = json.loads(path.read_text())
    for through, outcome in ((0.9, Outcome.OK), (0.95, Outcome.FAILED)):
        path.write_text(json.dumps(recorded | {"test": recorded["test"] | {"accuracy": 0.95, "exported_accuracy": through}}))
        manifest.write(bundle)
        found = verified(bundle)["test metrics"]
        assert found[0] is outcome
        assert ("0.9500 on images of their own size" in found[1]) == (outcome is Outcome.OK)


def test_a_signature_is_checked_with_a_key_and_reported_without_one(bundle: Path, trainer: list[errands.Verify], tmp_path: Path) -> None:
    public = sign.make_keys(tmp_path / "key")
    assert verified(bundle, key=public)["signature"][0] is Outcome.FAILED
    sign.sign(bundle, tmp_path / "key")
    assert "not checked without a key" in verified(bundle)["signature"][1]
    assert verified(bundle, key=public)["signature"][0] is Outcome.OK
    (bundle / "labels.txt").write_text("red\nblue\n")
    manifest.write(bundle)
    assert "mismatch" in verified(bundle, key=public)["signature"][1].lower()
    with pytest.raises(errors.RequestError, match="not a public key"):
        verified(bundle, key=tmp_path / "key")


def changed(bundle: Path) -> None:
    (bundle / "labels.txt").write_text("red\nblue\n")


def with_lambda(bundle: Path) -> None:
    evil = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil"}}
    (bundle / "model.keras").write_bytes(keras_files.packed(layers=[evil]))
    manifest.write(bundle)


def without_model(bundle: Path) -> None:
    (bundle / "model.keras").unlink()
    manifest.write(bundle)


def with_pickle(bundle: Path) -> None:
    (bundle / "plots").mkdir()
    (bundle / "plots" / "curve.png").write_bytes(b"\x80\x04\x95evil")
    manifest.write(bundle)


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (changed, "manifest", "labels.txt has the SHA-256"),
        (with_lambda, "safe loading", "'Lambda'"),
        (without_model, "safe loading", "model.keras is missing"),
        (with_pickle, "safe loading", "plots/curve.png is a pickle"),
    ],
)
def test_the_model_of_a_bundle_with_a_failed_check_is_not_loaded(
    bundle: Path, trainer: list[errands.Verify], change: Callable[[Path], None], check: str, said: str
) -> None:
    change(bundle)
    found = verified(bundle)
    assert found[check][0] is Outcome.FAILED and said in found[check][1]
    assert found["model"][0] is Outcome.NOT_CHECKED
    assert trainer == []


def test_predictions_that_differ_from_the_recorded_ones_fail(
    bundle: Path, trainer: list[errands.Verify], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = evaluation.run(
        errands.Verify(model=str(bundle / "model.keras"), probes="", spec=None, cache="", is_robustness_wanted=False, most_images=1)
    )
    for change in ({"num_agreeing": 5}, {"max_difference": 0.01}, {"max_difference": float("nan")}):
        monkeypatch.setattr(evaluation, "run", lambda *_, change=change, **__: answer.model_copy(update=change))
        assert verified(bundle)["probes"][0] is Outcome.FAILED


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({}, "5 of 6 images have the recorded class, and a probability differs by 0.25; expected all, and a difference of at most 0.001"),
        (
            {"target": "labels", "metric": "macro_f1"},
            "5 of 6 images have the recorded labels, and a probability differs by 0.25; expected all, and a difference of at most 0.001",
        ),
        (
            {"target": "number", "metric": "mae"},
            "6 images: a predicted number differs from the recorded one by 0.25 of the largest one; expected at most 0.001",
        ),
    ],
)
def test_a_failed_check_of_the_probes_says_what_the_model_predicts(
    bundle: Path, trainer: list[errands.Verify], monkeypatch: pytest.MonkeyPatch, target: dict[str, str], words: str
) -> None:
    metrics = json.loads((bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps(metrics | target))
    manifest.write(bundle)
    num_agreeing = 6 if target.get("target") == "number" else 5  # numbers always agree
    answer = evaluation.run(
        errands.Verify(model=str(bundle / "model.keras"), probes="", spec=None, cache="", is_robustness_wanted=False, most_images=1)
    ).model_copy(update={"num_agreeing": num_agreeing, "max_difference": 0.25})
    monkeypatch.setattr(evaluation, "run", lambda *_, **__: answer)
    assert verified(bundle)["probes"] == (Outcome.FAILED, words)


def test_a_test_accuracy_beyond_the_tolerance_fails(bundle: Path, trainer: list[errands.Verify]) -> None:
    metrics = json.loads((bundle / "metrics.json").read_text())
    for accuracy, tolerance, outcome in (
        (0.92, 0.005, Outcome.FAILED),
        (0.92, 0.03, Outcome.OK),
        ("high\nok", 1.0, Outcome.FAILED),
        (float("nan"), 1.0, Outcome.FAILED),
        (10**400, 1.0, Outcome.FAILED),
        (True, 1.0, Outcome.FAILED),
    ):
        metrics["test"]["accuracy"] = accuracy
        (bundle / "metrics.json").write_text(json.dumps(metrics))
        manifest.write(bundle)
        found = verified(bundle, tolerance=tolerance)["test metrics"]
        assert found[0] is outcome and len(found[1]) < 200 and "\n" not in found[1]


def test_other_images_than_those_of_the_bundle_fail(bundle: Path, trainer: list[errands.Verify], monkeypatch: pytest.MonkeyPatch) -> None:
    run = evaluation.run

    def other(order: errands.Verify, **_: Any) -> errands.Verified:
        answer = run(order)
        return answer.model_copy(update={"test": TEST})  # type: ignore[return-value]

    monkeypatch.setattr(evaluation, "run", other)
    assert "the images here are not those of the bundle" in verified(bundle)["test metrics"][1]


def test_without_the_images_robustness_is_measured_on_the_probes(bundle: Path, trainer: list[errands.Verify], tmp_path: Path) -> None:
    (tmp_path / "data.npz").unlink()
    found = verified(bundle)
    assert found["test metrics"][0] is Outcome.NOT_CHECKED and "name their folder with --data" in found["test metrics"][1]
    assert "of the probes, which are validation images" in found["robustness"][1]
    assert trainer[0].spec is None


def test_required_images_that_cannot_be_read_fail_the_check(
    bundle: Path, trainer: list[errands.Verify], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluation.run

    def refuse(order: errands.Verify, **_: Any) -> Any:
        if order.spec is not None:
            raise errors.DataError("the images cannot be read")
        return run(order)

    monkeypatch.setattr(evaluation, "run", refuse)
    assert verified(bundle)["test metrics"] == (Outcome.NOT_CHECKED, "the images cannot be read")
    assert verified(bundle, needs_data=True)["model"] == (Outcome.FAILED, "the images cannot be read")


def test_code_that_a_bundle_names_for_its_data_is_not_run(bundle: Path, trainer: list[errands.Verify]) -> None:
    text = (bundle / "config.yaml").read_text()
    (bundle / "config.yaml").write_text(text.replace(text.splitlines()[1], "data: {source: python, function: 'antigravity:fly'}"))
    manifest.write(bundle)

    def localize(spec: StudySpec) -> StudySpec:
        raise AssertionError("it is not asked where such data are")

    found = verified(bundle, localize=localize)
    assert found["test metrics"][0] is Outcome.NOT_CHECKED and "may run code" in found["test metrics"][1]
    assert trainer[0].spec is None


def test_requirements_that_are_not_met_fail_the_check(bundle: Path, trainer: list[errands.Verify]) -> None:
    kept = verified(bundle, requirements=verification.Requirements(noise=0.5), is_robustness_wanted=False)
    assert kept["robustness"][0] is Outcome.OK and "all requirements are met" in kept["robustness"][1]
    missed = verified(bundle, requirements=verification.Requirements(noise=[0.5, 0.6, None], clean=0.95))
    assert missed["robustness"][0] is Outcome.FAILED
    assert "clean has 0.9000; expected at least 0.95" in missed["robustness"][1]
    assert "noise at strength 2 has 0.5000; expected at least 0.6" in missed["robustness"][1]


def test_robustness_of_several_labels_names_their_metric(bundle: Path, trainer: list[errands.Verify]) -> None:
    recorded = json.loads((bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps(recorded | {"target": "labels", "metric": "macro_f1", "thresholds": [0.5, 0.5]}))
    manifest.write(bundle)
    outcome, said = verified(bundle, requirements=verification.Requirements(noise=0.6))["robustness"]
    assert outcome is Outcome.FAILED
    assert "noise at strength 1 has 0.5000; expected at least 0.6, on 40 images of the test split: macro f1 clean 0.9000" in said
    assert trainer[0].answers_mean.metric == "macro_f1"


def test_robustness_can_be_left_out(bundle: Path, trainer: list[errands.Verify]) -> None:
    assert verified(bundle, is_robustness_wanted=False)["robustness"] == (Outcome.NOT_CHECKED, "not requested")


def test_a_process_that_dies_fails_the_check(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: Any, **__: Any) -> Any:
        raise errors.TrainingError("the process for verify was killed by signal 9", kind="errand")

    monkeypatch.setattr(evaluation, "run", die)
    assert verified(bundle)["model"] == (Outcome.FAILED, "the process for verify was killed by signal 9")


def test_a_path_that_is_not_a_folder_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(errors.RequestError, match="is not a folder"):
        verified(tmp_path / "nowhere")
