"""`tuner export` and `tuner predict` on a study whose trainers and errands are rehearsed."""

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests import databases
from tests.commands import test_retrain
from tests.results import rehearsed_errand
from tests.results.retrain import test_verdict
from tuner.cli import main
from tuner.commands import export
from tuner.errors import TrainingError
from tuner.protocol import errands
from tuner.protocol.errands import Format
from tuner.results import best as bests
from tuner.results.retrain import networks
from tuner.results.retrain.verdict import Verdict
from tuner.results.versions import versions
from tuner.results.versions.versions import WeightsSource
from tuner.spec.study import StudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study
from tuner.workers.bucket.transfer import Folders
from tuner.workers.worker import evaluation
from tuner.workers.worker.rehearsal import Rehearsal, Script
from tuner.workers.worker.stopping import Stopping
from tuner.workers.worker.trainer import Limits, WarmTrainer
from tuner.workers.worker.worker import Worker


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the folder of a finished study with three trials, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "run", rehearsed_errand.run)
    given = {"name": "study", "data": {"source": "digits"}, "budget": {"trials": 3}, "sampler": "random", "pruner": "none"}
    storage = storages.open(databases.sqlite(tmp_path))
    study = studies.join(StudySpec.model_validate(given | {"training": {"promote": 1.0}}), storage)
    stopping = Stopping()
    trainer = WarmTrainer(lambda: Rehearsal(Script()), Limits(), stopping)
    places = Folders(cache=tmp_path / "cache", artifacts=tmp_path / "tuner-artifacts")
    Worker(study, trainer, identity=trials.WorkerId.here("w1"), folders=places, stopping=stopping, tell=lambda event: None).run()
    yield tmp_path
    storage.engine.dispose()


def run(capsys: pytest.CaptureFixture[str], *call: str) -> tuple[int, str, str]:
    code = main.main(list(call))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_best_trial_is_exported_as_a_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "export", "study", "--to", "home", "--format", "onnx,litert", "--quantize", "int8")
    assert (code, out) == (0, "Wrote home. Try it with: tuner predict home IMAGE\n")
    assert "of the study study: exporting as a bundle (keras, onnx, litert, int8)" in err
    assert "model.onnx: 100.00% of 1000 labels are equal" in err
    assert not (folder / "home" / "saved_model").exists()
    assert run(capsys, "export", "study", "--to", "home")[0] == 2
    assert run(capsys, "export", "study", "--to", "home", "--force")[0] == 0


def test_another_trial_is_exported_by_its_number_if_its_weights_were_stored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, headlines = [], []
    for number in range(3):
        code, _, err = run(capsys, "export", "study", "--trial", str(number), "--to", f"home{number}")
        assert run(capsys, "export", "study", "--trial", str(number), "--to", f"trial{number}.yaml")[0] == 0
        config = (folder / f"trial{number}.yaml").read_text()
        headlines.append(config.splitlines()[0])
        codes.append(code)
        if code:
            assert f"the weights of trial {number} of the study study were not stored. Trials with stored weights: 0. To train" in err
            assert f"tuner export study --trial {number} --to again.yaml, then tuner run again.yaml" in err
        else:
            assert json.loads((folder / f"home{number}" / "metrics.json").read_text())["trial"] == number
            assert (folder / f"home{number}" / "config.yaml").read_text() == config
    assert codes[0] == 0
    assert set(codes) == {0, 2}
    assert sum("the best of 3 completed trials" in line for line in headlines) == 1
    assert sum("one of 3 completed trials" in line for line in headlines) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["--trial", "7", "--to", "home"], "the study study has no completed trial 7"),
        (
            ["--to", "home", "--format", "lite"],
            "--format has 'lite'; expected all, or a list with commas of keras, savedmodel, onnx, litert. Did",
        ),
        (["--to", "home", "--version", "7"], "study"),
        (["--to", "home", "--version", "1", "--trial", "0"], "--trial and --version are both given; choose one."),
        (["--to", "best.yaml", "--version", "1"], "--version applies only to a bundle"),
        (
            ["--to", "home.zip"],
            "--to is home.zip; expected a name that ends in .yaml, .yml, .json for a study file, or a folder for a bundle",
        ),
        (["--to", "best.yaml", "--format", "onnx"], "--format applies only to a bundle, but --to is best.yaml, a study file"),
        (["--to", "best.yaml", "--quantize", "int8"], "--quantize applies only to a bundle"),
        (["--to", "nowhere/home"], "the folder nowhere does not exist; create it first: mkdir -p nowhere"),
        (["--to", "tuner.db"], "--to is tuner.db; expected"),
        (["--to", "cache"], "cache exists and is not a bundle"),
    ],
)
def test_a_wrong_export_is_refused_with_one_line(folder: Path, capsys: pytest.CaptureFixture[str], call: list[str], message: str) -> None:
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache" / "mine.txt").write_text("mine")
    before = sorted(folder.rglob("*"))
    code, out, err = run(capsys, "export", "study", *call)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def versioned(folder: Path) -> Verdict:
    """Store trial 0 as version 1 and the result of a retraining as version 2; return its verdict."""
    storage = storages.open(databases.sqlite(folder))
    best = bests.of(studies.load("study", storage), 0)
    new, _ = versions.of_trial(best, Path(str(best.weights)), by="eva")
    versions.add(storage, new)
    verdict, _ = test_verdict.judged()
    versions.add(storage, replace(new, origin=WeightsSource.RETRAINING, metrics=verdict.model_dump(mode="json")))
    storage.engine.dispose()
    return verdict


def test_a_version_is_exported_with_its_measurements(folder: Path, versioned: Verdict, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "export", "study", "--version", "2", "--to", "home")
    assert code == 0
    assert "Version 2 of study: exporting as a bundle (keras)" in err
    told = json.loads((folder / "home" / "metrics.json").read_text())
    assert (told["version"], told["trial"], told["test"]["accuracy"]) == (2, 0, 0.92)
    assert told["test"]["interval"] == pytest.approx((0.9015, 0.9353), abs=1e-4)
    assert told["test"]["confusion"] == [[460, 40], [40, 460]]
    assert "confusion" not in told["validation"]
    assert Verdict.model_validate(told["retraining"]) == versioned
    assert (folder / "home" / "model.keras").read_text() == f"temperature {versioned.calibration.temperature:g}"
    card = (folder / "home" / "README.md").read_text()
    for words in (
        "# 2 of study",
        "| test | 0.9200, 95 % interval 0.9015 to 0.9353 | 1,000 |",
        "The search ended with 0.9700 on its validation images, 0.0500 above it.",
        "Compared with number 2 (trial 4): better",
        "Figures of each class on the test images:",
        "a note",
        "The weights are the average of the trainings with seeds 2, 1; `tuner run config.yaml` repeats the first of them.",
    ):
        assert words in card


def test_a_version_made_from_a_trial_is_exported_as_that_trial(
    folder: Path, versioned: Verdict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "export", "study", "--version", "1", "--to", "home")[0] == 0
    told = json.loads((folder / "home" / "metrics.json").read_text())
    assert (told["version"], told["retraining"], told["temperature"]) == (1, None, 1.0)
    assert "# Version 1 of study: trial 0 of the study study" in (folder / "home" / "config.yaml").read_text()


def test_changed_weights_of_a_version_are_refused(folder: Path, versioned: Verdict, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folder / "tuner-artifacts").rglob("*.weights"):
        path.write_bytes(b"other weights")
    code, _, err = run(capsys, "export", "study", "--version", "2", "--to", "home")
    assert code == 2
    assert "were changed: their SHA-256 differs from the stored one" in err
    assert not (folder / "home").exists()


@pytest.fixture
def of_ensemble(folder: Path) -> Verdict:
    """Store an ensemble of two trainings as version 1; return its verdict."""
    storage = storages.open(databases.sqlite(folder))
    best = bests.of(studies.load("study", storage), 0)
    packed = folder / "tuner-artifacts" / "study" / "ensemble-0-1.zip"
    networks.pack([Path(str(best.weights))] * 2, packed)
    new, _ = versions.of_trial(best, packed, by="eva")
    verdict, _ = test_verdict.judged()
    first = verdict.networks[0].model_copy(update={"is_ensemble": True, "mirrored": True, "chosen_seeds": (2, 1)})
    verdict = verdict.model_copy(update={"networks": (first, *verdict.networks[1:])})
    metrics = verdict.model_dump(mode="json")
    versions.add(storage, replace(new, origin=WeightsSource.RETRAINING, metrics=metrics, artifact=str(packed)))
    storage.engine.dispose()
    return verdict


def test_a_version_that_is_an_ensemble_is_exported_as_one_model(
    folder: Path, of_ensemble: Verdict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "export", "study", "--version", "1", "--to", "home")[0] == 0
    temperature = f"{of_ensemble.calibration.temperature:g}"
    assert (folder / "home" / "model.keras").read_text() == f"temperature {temperature}, 2 networks, mirrored"
    told = json.loads((folder / "home" / "metrics.json").read_text())
    assert (told["mirrored"], told["test"]["accuracy"]) == (True, of_ensemble.test_accuracy)
    assert "averages the probabilities of the trainings with seeds 2, 1" in (folder / "home" / "README.md").read_text()
    assert not list((folder / "tuner-artifacts" / "study").glob(".ensemble-*"))
    code, _, err = run(capsys, "export", "study", "--version", "1", "--to", "small", "--quantize", "int8")
    assert code == 2
    assert "study 1 is an ensemble, and --quantize int8 applies to one network; make a version of one network: tuner retrain" in err


def test_missing_weights_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folder / "tuner-artifacts").rglob("*.weights"):
        path.unlink()
    code, _, err = run(capsys, "export", "study", "--to", "home")
    assert code == 2
    assert "which does not exist here; export on the machine that trained them" in err
    assert not (folder / "home").exists()


@pytest.mark.parametrize("package", ["tf2onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    code, _, err = run(capsys, "export", "study", "--to", "home", "--format", "onnx")
    assert code == 2
    assert f"--format onnx needs the package {package}. Install it with: pip install 'tuner[onnx]'" in err


def test_formats_are_separated_by_commas_and_always_include_keras() -> None:
    assert export.read_formats(None, int8=False) == (Format.KERAS,)
    assert export.read_formats(" litert, savedmodel ", int8=False) == (Format.KERAS, Format.SAVED_MODEL, Format.LITERT)
    assert export.read_formats("all", int8=True) == tuple(Format)


@pytest.fixture
def home(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Give a folder with a bundle and images."""
    assert run(capsys, "export", "study", "--to", "home")[0] == 0
    (folder / "photos" / "inner").mkdir(parents=True)
    for name in ("b.png", "inner/a.png"):
        Image.new("RGB", (9, 7)).save(folder / "photos" / name)
    (folder / "photos" / "notes.txt").write_text("no image")
    return folder / "home"


def test_images_and_folders_of_images_are_predicted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "predict", "home", "photos", "photos/b.png", "--top", "2")
    assert (code, err) == (0, "photos: ignored because of their names: 1 file (1 .txt)\n")
    assert out.splitlines() == [
        "photos/b.png: Bird 0.750, Bear 0.250",
        "photos/inner/a.png: Bird 0.750, Bear 0.250",
        "photos/b.png: Bird 0.750, Bear 0.250",
    ]
    assert run(capsys, "predict", "home", "photos/b.png")[1] == "photos/b.png: Bird 0.750\n"


def test_a_folder_is_predicted_as_a_study_reads_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home.parent / "linked").mkdir()
    for name in ("__MACOSX/a.png", ".thumbnails/b.png", ".b.png"):
        (home.parent / "photos" / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 7)).save(home.parent / "photos" / name)
    Image.new("RGB", (9, 7)).save(home.parent / "linked" / "c.png")
    (home.parent / "photos" / "linked").symlink_to(home.parent / "linked", target_is_directory=True)
    (home.parent / "photos" / "linked" / "again").symlink_to(home.parent / "photos", target_is_directory=True)
    out = run(capsys, "predict", "home", "photos")[1]
    assert [line.partition(":")[0] for line in out.splitlines()] == ["photos/b.png", "photos/inner/a.png", "photos/linked/c.png"]


def test_images_with_other_names_are_named_in_a_prediction(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home.parent / "photos" / "b.png").rename(home.parent / "photos" / "b")
    first = run(capsys, "predict", "home", "photos")[2].splitlines()[0]
    assert first.startswith(
        "photos: not read, because their names do not end like those of images: 1 image, first photos/b; let their names"
    )
    (home.parent / "photos" / "inner" / "a.png").unlink()
    code, _, err = run(capsys, "predict", "home", "photos")
    assert code == 2
    assert "has no images; expected files that end in" in err
    assert err.endswith("find photos -type f ! -name '*.*' -exec mv {} {}.jpg ';'\n")


def test_predictions_are_printed_as_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "predict", "home", "photos/b.png", "--json", "--top", "3")[1])
    predictions = [{"label": "Bird", "probability": 0.75}, {"label": "Bear", "probability": 0.25}]
    assert told == [{"image": "photos/b.png", "predictions": predictions}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.org/a.jpg", "IMAGE is 'https://example.org/a.jpg', a URL; expected a path of this machine: download it first"),
        ("file:///photos/a%20b.jpg", "IMAGE is 'file:///photos/a%20b.jpg', a URL; expected a path of this machine: write /photos/a b.jpg"),
        (r"C:\photos\a.jpg", r"IMAGE is 'C:\photos\a.jpg', a path of Windows, but tuner runs on Linux; in WSL, write /mnt/c/photos/a.jpg"),
        ("none/*.jpg", "IMAGE is 'none/*.jpg', but no file matches it; give image files, or a folder of them"),
        ("a.zip", "a.zip is an archive; unpack it with: unzip a.zip -d a, and give the folder"),
        ("a.csv", "a.csv is a table; expected image files, or a folder of them. Give the images that it names"),
    ],
)
def test_what_is_no_image_is_refused_with_what_to_do(home: Path, capsys: pytest.CaptureFixture[str], given: str, message: str) -> None:
    for name in ("a.zip", "a.csv"):
        Path(name).write_bytes(b"x")
    code, out, err = run(capsys, "predict", "home", given, "photos/b.png")
    assert (code, out) == (2, "")
    assert err.startswith(message)


def test_an_unreadable_image_is_named_and_the_others_are_predicted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "predict", "home", "none.jpg", "photos/b.png")
    assert (code, out, err) == (1, "photos/b.png: Bird 0.750\n", "none.jpg: there is no such file\n")


def test_a_folder_without_images_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home.parent / "empty").mkdir()
    code, out, err = run(capsys, "predict", "home", "empty")
    assert (code, out) == (2, "")
    assert "the folder empty has no images" in err


@pytest.fixture
def of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A finished search of a model of code whose folder does not exist here; its file is in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNER_ALLOW_CODE", raising=False)
    (tmp_path / "my.py").write_text("def build(hp): ...\ndef load(): ...\n")
    return test_retrain.of_code(tmp_path, folder=str(tmp_path / "elsewhere"))


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[errands.ExportCode]:
    """The orders that an export gave to a trainer, which refused them."""
    orders: list[errands.ExportCode] = []

    def refuse(order: errands.ExportCode, *, threads: int = 0) -> None:
        orders.append(order)
        raise TrainingError("no trainer", kind="errand")

    monkeypatch.setattr(evaluation, "run", refuse)
    return orders


def test_code_whose_folder_is_missing_is_exported_from_the_current_folder(
    of_code: Study, tmp_path: Path, exported: list[errands.ExportCode], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "export", "prices", "--to", "home", "--allow-code", "my.py")
    assert (code, [order.kind for order in exported]) == (1, ["mean_of_code", "export_code"]), err
    assert [json.loads(order.spec)["folder"] for order in exported] == [str(tmp_path)] * 2
    assert f"prices: the folder of its code, {tmp_path / 'elsewhere'}, does not exist here; its files are read from {tmp_path}" in err


def test_the_code_of_a_version_must_be_allowed_too(
    of_code: Study, tmp_path: Path, exported: list[errands.ExportCode], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "export", "prices", "--to", "home")[0] == 2
    (tmp_path / "evil.py").write_text("def build(hp): ...\ndef load(): ...\n")
    code_of = {"model": {"build": "evil.py:build"}, "data": {"load": "evil.py:load"}, "folder": str(tmp_path / "elsewhere")}
    other = test_retrain.of_code(tmp_path, name="evil", **code_of)
    new, _ = versions.of_trial(bests.best(other), tmp_path / "evil-2.npz", by="eva")
    versions.add(of_code.storage, replace(new, name="prices"))  # as anyone who may write to the database can
    code, _, err = run(capsys, "export", "prices", "--to", "home", "--version", "1", "--allow-code", "my.py")
    assert (code, exported) == (2, [])
    assert "names code to import, model.build evil.py:build, which is not allowed here" in err
    assert run(capsys, "export", "prices", "--to", "home", "--version", "1", "--allow-code", "evil.py")[0] == 1
    assert json.loads(exported[0].spec)["folder"] == str(tmp_path)
