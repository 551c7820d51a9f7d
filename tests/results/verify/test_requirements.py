from pathlib import Path

import pytest

from tuner import errors
from tuner.protocol import errands
from tuner.results.verify import verification
from tuner.tasks.images.data import corruptions


def found(**accuracies: list[float]) -> errands.Verified:
    robust = tuple(
        errands.Robust(corruption=name, strength=float(place), accuracy=accuracy)
        for name, several in accuracies.items()
        for place, accuracy in enumerate(several)
    )
    return errands.Verified(num_probes=1, num_agreeing=1, max_difference=0.0, test=None, num_images=10, clean=0.9, robust=robust)


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "robustness.yaml").write_text(text)
    return tmp_path / "robustness.yaml"


def test_every_corruption_can_have_a_requirement() -> None:
    assert set(verification.KNOWN) == {kind.value for kind in corruptions.Corruption} | {"fgsm", "clean", "mean"}


def test_one_number_holds_for_all_strengths_a_list_for_each_and_null_for_none(tmp_path: Path) -> None:
    asked = verification.read(written(tmp_path, "clean: 0.95\nnoise: 0.8\nblur: [0.9, null, 0.3]\ngrey: 0.5\nmean: 0.7\n"))
    measured = found(noise=[0.85, 0.8, 0.79], blur=[0.8, 0.1, 0.3], grey=[0.5])
    assert verification.shortfalls(asked, measured) == [
        "clean has 0.9000; expected at least 0.95",
        "mean has 0.5914; expected at least 0.7",
        "noise at strength 3 has 0.7900; expected at least 0.8",
        "blur at strength 1 has 0.8000; expected at least 0.9",
    ]


def test_a_requirement_without_a_measurement_is_not_met(tmp_path: Path) -> None:
    asked = verification.read(written(tmp_path, "fgsm: [0.5, 0.4, 0.3]\nmean: 0.1\n"))
    assert verification.shortfalls(asked, found()) == [
        "mean could not be measured, but is required",
        "fgsm could not be measured, but is required",
    ]


def test_the_mean_is_without_the_attack() -> None:
    assert verification.mean(found(noise=[1.0, 0.0], fgsm=[0.0, 0.0])) == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected minimum accuracies"),
        ("- 1", "expected minimum accuracies"),
        ("nois: 0.5", "Did you mean noise?"),
        ("noise: 1.5", "robustness.yaml:1: noise is 1.5; expected an accuracy from 0 to 1, or a list of 3"),
        ("clean: 1\nblur: yes", "robustness.yaml:2: blur is"),
        ("blur: [0.5, 0.4]", "has 2 numbers; expected one for each of 3 strengths"),
        ("grey: [0.5, 0.4]", "has 2 numbers; expected one for each of 1 strength"),
        ("clean: [0.5]", "clean is [0.5]; expected an accuracy from 0 to 1"),
        ("mean: .nan", "mean is"),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(errors.SpecError) as refused:
        verification.read(written(tmp_path, text))
    assert said in str(refused.value)
