"""What `tuner init`, `check` and `run` say of images before anything is trained."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tuner.cli import main


def put(root: Path, counts: dict[str, int], *, size: int = 8) -> Path:
    """Write a number of different images into each folder below a folder."""
    noise = np.random.default_rng(0)
    for place, count in counts.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(noise.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(root / place / f"{number}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path


XRAY = {"train/well": 60, "train/ill": 60, "val/well": 8, "val/ill": 8, "test/well": 10, "test/ill": 10}
FEW = "warning: validation has only 16 images: accuracy moves in steps of 6 points, too coarse to choose the best trial."


def run(capsys: pytest.CaptureFixture[str], *call: str) -> tuple[int, str, list[str]]:
    code = main.main(list(call))
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


def test_a_small_validation_split_is_reported_with_the_key_that_replaces_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "xray", XRAY)
    Path("study.yaml").write_text("name: xray\ndata: {source: folder, path: xray, validation: 0.15}\n")
    code, out, err = run(capsys, "check", "study.yaml")
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith("all")] == [["all", "120", "16", "20"]]
    assert [line for line in err if line.startswith(FEW)] == [
        f"{FEW} The data has this validation split of its own, so data.validation: 0.15 does not apply; "
        "to draw one from the training images, set data.validation_from: train"
    ]
    Path("study.yaml").write_text("name: xray\ndata: {source: folder, path: xray, validation: 0.15, validation_from: train}\n")
    out = run(capsys, "check", "study.yaml")[1]
    assert [line.split() for line in out.splitlines() if line.startswith("all")] == [["all", "113", "23", "20"]]


def test_init_draws_validation_anew_if_the_own_split_is_too_small_and_check_accepts_its_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder / "xray", XRAY)
    code, out, err = run(capsys, "init", "xray", "--images", "xray")
    assert code == 0
    assert "always the commonest class, ill: accuracy 0.5000 on all images" in out
    assert f"{FEW} The study file draws validation images from the training images instead: validation_from: train" in err
    code, out, _ = run(capsys, "check", "studies/xray.yaml")
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith("all")] == [["all", "113", "23", "20"]]


def test_rare_classes_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "parts", {"ok": 990, "crack": 10}, size=2)
    Path("study.yaml").write_text("name: parts\ndata: {source: folder, path: parts, validation: 200, test: 200}\n")
    code, out, err = run(capsys, "check", "study.yaml")
    assert code == 0
    assert "always the commonest class, ok: accuracy 0.9900 on validation, 0.9900 on test" in out
    assert any(
        "always answering ok, the commonest class, has a validation accuracy of 0.9900, and crack has only 2" in line for line in err
    )
    assert "always the commonest class, ok: accuracy 0.9900 on all images" in run(capsys, "init", "parts", "--images", "parts")[1]


def test_check_shows_the_cost_of_each_model_that_trials_may_choose(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("study.yaml").write_text("name: n\ndata: {source: digits}\nmodel: {backbone: [squeezenet1_1, ResNet50], image_size: [32, 64]}\n")
    code, out, _ = run(capsys, "check", "study.yaml")
    assert code == 0
    models = out.partition("\nModels\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[:2] for line in models[1:]] == [
        ["squeezenet1_1", "32"],
        ["squeezenet1_1", "64"],
        ["ResNet50", "32"],
        ["ResNet50", "64"],
    ]
    assert "squeezenet1_1 or ResNet50, weights imagenet, 32 × 32 or 64 × 64 pixels" in out
    Path("study.yaml").write_text("name: n\ndata: {source: digits}\n")
    assert "\nModels\n" not in run(capsys, "check", "study.yaml")[1]


def test_init_reads_classes_in_file_names_and_check_accepts_its_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0)
    (folder / "pets").mkdir()
    for number in range(12):
        pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pets" / f"{('cats', 'dogs')[number % 2]}.{number}.png")
    code, _, err = run(capsys, "init", "pets", "--images", "pets")
    assert code == 2
    assert not Path("studies").exists()
    pattern = err[-1].split("--class-pattern of tuner init, to '")[1].split("'.")[0]
    Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "pets" / "cover.png")
    given = ("init", "pets", "--images", "pets", "--class-pattern", pattern)
    code, _, err = run(capsys, *given)
    assert code == 2
    assert "first cover.png" in err[-1]
    code, out, _ = run(capsys, *given, "--ignore", "cover.*")
    assert code == 0
    assert out.splitlines()[1:3] == ["  cats  6", "  dogs  6"]
    code, out, _ = run(capsys, "check", "studies/pets.yaml")
    assert code == 0
    assert [line.split() for line in out.splitlines() if line.startswith("all")] == [["all", "8", "2", "2"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--images", "https://example.org/data.zip"),
            "--images is 'https://example.org/data.zip', a URL; expected a path of this machine",
        ),
        (("--images", r"C:\photos"), r"--images is 'C:\photos', a path of Windows, but tuner runs on Linux; in WSL, write /mnt/c/photos"),
        (("--images", "."), "has no sub-folders; expected one sub-folder for each class"),
        (("--images", ".", "--class-pattern", "(a"), "--class-pattern is (a, which is not a regular expression"),
        (("--images", ".", "--ignore", "/"), "--ignore is ['/']; expected a list of names or shell patterns"),
        (("--images", ".", "--class-pattern", "(a)"), "has no images; expected files that end in"),
    ],
)
def test_init_refuses_what_it_cannot_read_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], message: str
) -> None:
    code, _, err = run(capsys, "init", "new", *given)
    assert code == 2
    assert len(err) == 1
    assert message in err[0]


def test_check_shows_what_fits_into_the_timeout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "name: digits\ndata: {source: digits}\nmodel: {backbone: squeezenet1_1, image_size: [32, 64]}\nbudget: {timeout: %s}\n"
    Path("study.yaml").write_text(text % "30h")
    out = " ".join(run(capsys, "check", "study.yaml")[1].split())
    assert "as many as the time allows of them are fine-tuned" in out
    assert "time plan squeezenet1_1 at 64 pixels, 13 epochs, about" in out
    assert "the study measures the speed of its machine before it decides" in out
    Path("study.yaml").write_text(text % "1s")
    assert "time plan squeezenet1_1 at 32 pixels, 9 epochs instead of 13" in " ".join(run(capsys, "check", "study.yaml")[1].split())


def test_check_and_init_recommend_a_metric_for_unequal_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "parts", {"ok": 160, "crack": 40}, size=2)
    text = "name: parts\ndata: {source: folder, path: parts, validation: 50, test: 50}\n"
    Path("study.yaml").write_text(text)
    out = " ".join(run(capsys, "check", "study.yaml")[1].split())
    assert "recommended: the largest class has 4 times as many images as the smallest: always ok scores 0.8000 in accuracy" in out
    Path("study.yaml").write_text(f"{text}objective: balanced_accuracy\n")
    out = " ".join(run(capsys, "check", "study.yaml")[1].split())
    assert "always the commonest class, ok: balanced accuracy 0.5000 on validation, 0.5000 on test" in out
    assert "recommended" not in out
    Path("study.yaml").write_text(f"{text}objective: top_5_accuracy\n")
    code, _, err = run(capsys, "check", "study.yaml")
    assert code == 2
    assert "top_5_accuracy, but the data has only 2 classes, so every answer is right; choose accuracy" in err[0]
    out = run(capsys, "init", "parts", "--images", "parts")[1]
    assert "0.5000 in balanced_accuracy and 0.4444 in macro_f1" in out
    assert "\n# objective: balanced_accuracy\n" in Path("studies/parts.yaml").read_text()
