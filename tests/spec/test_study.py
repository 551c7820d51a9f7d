"""Study specifications: durations, splits, backbones and heads."""

import datetime as dt
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tuner import errors
from tuner.spec import data as spec_data
from tuner.spec import file as study_file
from tuner.spec import study as spec_study
from tuner.spec.domains import Fixed, Range
from tuner.spec.hyperparameters import Hyperparameters, Optimizer
from tuner.spec.search import LEARNING_RATES, HeadSpace
from tuner.spec.study import StudySpec, images_of

MINIMAL: dict[str, Any] = {"name": "x", "data": {"source": "digits"}}


def study(**sections: Any) -> StudySpec:
    return images_of(study_file.parse(MINIMAL | sections, "study.yaml"))


def problems(**sections: Any) -> list[str]:
    with pytest.raises(errors.SpecError) as caught:
        study(**sections)
    return [f"{problem.field} {problem.message}" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90), ("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1h30m", 5400), ("1d 2h", 93600), ("1.5h", 5400), ("2H", 7200)],
)
def test_a_duration_is_read_in_seconds(given: Any, seconds: float) -> None:
    assert spec_study.read_duration(given) == seconds


@pytest.mark.parametrize("given", ["", "h", "2 hours", "1:30", "-5s", "2h foo", "1..5h"])
def test_an_invalid_duration_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 90s, 15m, 2h or 1h30m"):
        spec_study.read_duration(given)


@pytest.mark.parametrize("timeout", [0, "0s", -5, True, [1]])
def test_a_timeout_is_above_zero(timeout: Any) -> None:
    assert problems(budget={"timeout": timeout})[0].startswith("budget.timeout is ")


@pytest.mark.parametrize(
    ("shares", "field", "message"),
    [
        ({"validation": 0}, "data.validation", "is 0, but tuner needs validation images to choose the best trial"),
        ({"train": 0}, "data.train", "is 0; remove it"),
        # 1 could mean one image or all images; neither works
        ({"validation": 1}, "data.validation", "is 1; expected a fraction below 1, or a whole number of images, at least 2"),
        ({"test": 2.5}, "data.test", "is 2.5; expected a fraction below 1"),
        ({"validation": 0.5, "test": 0.5}, "data.validation", "the splits together take 1 of all images"),
        ({"train": 0.9, "validation": 0.1, "test": 0.1}, "data.validation", "together take 1.1 of all images"),
        ({"validation": -0.1}, "data.validation", "is -0.1; expected a number of at least 0"),
        ({"validation": "20%"}, "data.validation", "is '20%'; expected a number of at least 0, without quotes or unit"),
    ],
)
def test_splits_without_training_or_validation_images_are_refused(shares: dict[str, Any], field: str, message: str) -> None:
    (problem,) = problems(data={"source": "digits"} | shares)
    assert problem.startswith(field)
    assert message in problem


def test_splits_may_mix_fractions_and_counts() -> None:
    data = study(data={"source": "digits", "train": 0.5, "validation": 200, "test": 0}).data
    assert (data.train, data.validation, data.test) == (0.5, 200, 0)


@pytest.mark.parametrize(
    ("given", "backbone"),
    [
        ("efficientnet_lite0", "efficientnet_lite0"),
        ("EfficientNet-Lite0", "efficientnet_lite0"),
        ("mobilenet_v3_small", "MobileNetV3Small"),
        ("mobilenet_v2", "mobilenet_v2"),  # of a package
        ("MobileNetV2", "MobileNetV2"),  # of Keras, which downloads it
        ("mobilenet-v2", "MobileNetV2"),
        ("MobileNet_V2", "MobileNetV2"),
        ("EfficientNet-Lite2", "efficientnet_lite2"),
        ("resnet50", "ResNet50"),
        ("kerashub:resnet_50_imagenet", "kerashub:resnet_50_imagenet"),
        ("python:mine.networks:build", "python:mine.networks:build"),
        ("/nets/mine.keras", "/nets/mine.keras"),
    ],
)
def test_a_backbone_is_found_in_any_spelling(given: str, backbone: str) -> None:
    assert study(model={"backbone": given, "image_size": 96}).model.backbone == backbone


def test_a_list_of_backbones_and_sizes_is_choices() -> None:
    found = study(model={"backbone": ["squeezenet1_1", "EfficientNet-Lite0"], "image_size": [96, 160]})
    assert (found.model.backbones, found.model.sizes) == (("squeezenet1_1", "efficientnet_lite0"), (96, 160))
    assert [(model.backbone, model.image_size) for model in found.model.combinations()] == [
        ("squeezenet1_1", 96),
        ("squeezenet1_1", 160),
        ("efficientnet_lite0", 96),
        ("efficientnet_lite0", 160),
    ]
    assert StudySpec.model_validate_json(found.model_dump_json()) == found


def test_a_list_of_one_is_a_value() -> None:
    assert study(model={"backbone": ["squeezenet1_1"], "image_size": [96]}) == study(model={"backbone": "squeezenet1_1", "image_size": 96})


@pytest.mark.parametrize("chosen", [{}, {"image_size": 160}])
def test_a_trial_sees_a_study_of_the_model_that_it_chose(chosen: dict[str, Any]) -> None:
    found = study(model={"backbone": "squeezenet1_1", "image_size": [96, 160] if chosen else 160})
    assert found.of_trial(Hyperparameters(**chosen)) == study(model={"backbone": "squeezenet1_1", "image_size": 160})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": "efficientnet_lit0"}, "model.backbone is 'efficientnet_lit0', which is not a backbone. Known: "),
        ({"backbone": "efficientnet_lit0"}, "Did you mean efficientnet_lite0?"),
        ({"backbone": "python:mine"}, "model.backbone is 'python:mine'; expected python:my_package.my_module:function"),
        ({"backbone": "kerashub:"}, "which is not a backbone"),
        ({"backbone": 5}, "model.backbone is 5; expected text such as efficientnet_lite0"),
        ({"weights": "imagnet"}, "model.weights is 'imagnet'; expected imagenet, none, or a weights file"),
        ({"image_size": 16}, "model.image_size is 16; efficientnet_lite0 needs images of at least 32 pixels"),
        ({"backbone": "squeezenet1_1", "image_size": 31}, "model.image_size is 31; squeezenet1_1 needs images of at least 32 pixels"),
        ({"backbone": "Xception", "image_size": 64}, "model.image_size is 64; Xception needs images of at least 71 pixels"),
        ({"image_size": "96"}, "model.image_size is '96'; expected a whole number from 8 to 1024 or a list, without quotes or unit"),
        ({"image_size": []}, "model.image_size is an empty list; expected at least one value"),
        ({"image_size": [96, 128, 96]}, "model.image_size lists 96 more than once"),
        ({"image_size": [96, 2000]}, "model.image_size is [96, 2000]; expected a whole number from 8 to 1024 or a list"),
        ({"backbone": ["Xception", "squeezenet1_1"], "image_size": [64, 96]}, "lists 64; Xception needs images of at least 71 pixels"),
        ({"backbone": ["resnet50", "ResNet50"]}, "model.backbone lists ResNet50 more than once"),
        ({"backbone": ["resnet50", "vgg16"], "weights": "a.h5"}, "the weights of one network, but model.backbone lists several"),
        ({"image_size": 96.5}, "model.image_size is 96.5; expected a whole number from 8 to 1024"),
        ({"resize": "strech"}, "model.resize is 'strech'; expected one of stretch, crop, pad. Did you mean stretch?"),
    ],
)
def test_an_unusable_network_is_refused(model: dict[str, Any], message: str) -> None:
    assert message in problems(model=model)[0]


def test_random_weights_are_possible() -> None:
    assert study(model={"weights": "none"}).model.weights == "none"


def test_relative_paths_start_at_the_folder_of_the_study_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: x\ndata: {source: manifest, path: a.csv, root: ../photos}\nmodel: {backbone: my.keras, weights: w.weights.h5}\n")
    found = study_file.read_images(path)
    assert isinstance(found.data, spec_study.ManifestData)
    assert (found.data.path, found.data.root) == (tmp_path / "a.csv", tmp_path.parent / "photos")
    assert (found.model.backbone, found.model.weights) == (str(tmp_path / "my.keras"), str(tmp_path / "w.weights.h5"))


def test_a_budget_without_an_end_is_refused() -> None:
    (problem,) = problems(budget={"trials": None})
    assert "the study would never end; set one of the three" in problem


@pytest.mark.parametrize("section", ["model", "budget", "training", "search"])
def test_an_empty_section_has_its_defaults(section: str) -> None:
    assert study(**{section: None}) == study()


def test_missing_learning_rates_are_filled_in_for_every_optimizer() -> None:
    search = study(search={"optimizer": ["sgd", "adam"], "learning_rate": [1e-4, 1e-2], "probe_learning_rate": {"sgd": 0.1}}).search
    assert search.learning_rate == dict.fromkeys((Optimizer.SGD, Optimizer.ADAM), Range(low=1e-4, high=1e-2, log=True))
    assert search.probe_learning_rate == {Optimizer.SGD: Fixed(value=0.1), Optimizer.ADAM: Range(low=3e-4, high=1e-2, log=True)}


def test_every_optimizer_has_a_default_rate() -> None:
    assert set(LEARNING_RATES) == set(Optimizer)


@pytest.mark.parametrize(("given", "widths"), [([512, 128], (512, 128)), ([64, 64], (64, 64)), ([], ())])
def test_a_list_of_widths_is_a_head_and_never_a_range(given: list[int], widths: tuple[int, ...]) -> None:
    assert study(search={"head_units": given, "activation": "relu"}).search.head_units == widths


def test_a_head_may_be_searched() -> None:
    head = study(search={"head_units": {"layers": 2}}).search.head_units
    assert isinstance(head, HeadSpace)
    assert head.layers == Fixed(value=2)


@pytest.mark.parametrize(
    "search",
    [
        {"dropout": 0.3, "optimizer": "sgd", "batch_size": [16, 32], "head_units": [512, 128]},
        {"learning_rate": {"sgd": {"range": [1e-3, 1], "log": False}}, "nesterov": [True, False]},
        {"weight_decay": {"range": [1e-5, 0.1], "off": True}, "augmentation": {"mixup": {"choices": [0, 0.2]}, "flip": ["none", "both"]}},
        {"head_units": {"layers": [0, 3], "units": {"choices": [64, 128]}}, "loss": ["focal", "cross_entropy"], "focal_gamma": 3},
    ],
)
def test_a_study_survives_json(search: dict[str, Any]) -> None:
    given = study(
        search=search, sampler="random", pruner={"name": "patient", "patience": 2}, budget={"timeout": "2h"}, result={"a": [1, None]}
    )
    assert StudySpec.model_validate_json(given.model_dump_json()) == given
    assert StudySpec.model_validate(json.loads(given.model_dump_json()), strict=False) == given


@pytest.mark.parametrize("data", [{"source": "folder", "path": "~/photos"}, {"source": "manifest", "path": "a.csv", "root": "b"}])
def test_the_paths_of_a_study_survive_json(data: dict[str, Any]) -> None:
    given = study(data=data)
    assert StudySpec.model_validate_json(given.model_dump_json()) == given


def test_an_impossible_study_built_in_python_is_refused_too() -> None:
    with pytest.raises(ValidationError, match="search.momentum acts only on sgd and rmsprop"):
        StudySpec.model_validate(MINIMAL | {"search": {"optimizer": "adam", "momentum": 0.5}})


FOLDER = {"source": "folder", "path": "/photos"}


@pytest.mark.parametrize(
    ("sections", "order"),
    [
        ({"data": FOLDER}, "natural"),
        ({"data": FOLDER, "result": None}, "natural"),
        ({"data": FOLDER, "result": {"trial": 3}}, "earlier"),  # exported by a version without the key
        ({"data": FOLDER | {"class_order": "natural"}, "result": {"trial": 3}}, "natural"),
        ({"data": {"source": "manifest", "path": "/t.csv"}, "result": {"trial": 3}}, "earlier"),
        ({"data": {"source": "npz", "path": "/t.npz"}, "result": {"trial": 3}}, "earlier"),
        ({"data": {"source": "python", "function": "a:b"}, "result": {"trial": 3}}, "earlier"),
        ({"data": {"source": "digits"}, "result": {"trial": 3}}, None),
    ],
)
def test_an_exported_trial_keeps_the_order_of_classes_that_it_was_trained_with(sections: dict[str, Any], order: str | None) -> None:
    spec = study(**sections)
    assert getattr(spec.data, "class_order", None) == order
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(("given", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_path_is_found_however_unicode_composes_its_letters(tmp_path: Path, given: Any, on_disk: Any) -> None:
    there = tmp_path / unicodedata.normalize(on_disk, "Zoo für Löwen/größer")
    there.mkdir(parents=True)
    data = {"source": "folder", "path": unicodedata.normalize(given, f"{tmp_path}/Zoo für Löwen/größer")}
    assert study(data=data).data.path == there  # type: ignore[union-attr]
    data["path"] += "/Affe ä"
    assert study(data=data).data.path == Path(data["path"])  # type: ignore[union-attr] # not there at all


def test_a_relative_path_is_found_however_unicode_composes_its_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    there = Path(unicodedata.normalize("NFD", "Zoo ä/ö.png"))
    there.parent.mkdir()
    there.touch()
    assert spec_data.existing(Path(unicodedata.normalize("NFC", "Zoo ä/ö.png"))) == there


def test_a_path_with_two_spellings_on_disk_is_taken_as_it_is_given(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "ö")).mkdir()
    for form in ("NFC", "NFD"):
        path = tmp_path / unicodedata.normalize(form, "ö")  # type: ignore[arg-type]
        assert study(data=FOLDER | {"path": str(path)}).data.path == path  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"patient_\d+", r"is patient_\d+; expected a regular expression with a part in parentheses, such as (patient_\d+)"),
        ("(patient", "is (patient, which is not a regular expression: missing ), unterminated subpattern at position 0; expected"),
    ],
)
def test_a_pattern_that_finds_no_group_is_refused(pattern: str, message: str) -> None:
    (problem,) = problems(data={"source": "folder", "path": "~/photos", "group_pattern": pattern})
    assert problem.startswith(f"data.group_pattern {message}")


@pytest.mark.parametrize(
    ("sections", "solver"),
    [
        ({}, "lbfgs"),
        ({"search": {"probe_solver": "ridge"}}, "ridge"),
        ({"search": {"dropout": 0.1, "optimizer": "sgd"}}, "lbfgs"),
        ({"training": {"epochs": 0}}, "lbfgs"),
        ({"training": {"epochs": 0}, "search": {"features": "last", "head_units": []}}, "lbfgs"),
        # what acts only in steps asks for steps
        ({"search": {"probe_learning_rate": 0.1}}, "sgd"),
        ({"training": {"epochs": 0}, "search": {"dropout": 0.1}}, "sgd"),
        ({"search": {"unfreeze": 0, "batch_size": 16}}, "sgd"),
        # unless the file names a solver
        ({"training": {"epochs": 0}, "search": {"dropout": 0.1, "probe_solver": "lbfgs"}}, "lbfgs"),
    ],
)
def test_a_file_without_a_solver_gets_the_one_that_its_other_fields_need(sections: dict[str, Any], solver: str) -> None:
    assert study(**sections).search.probe_solver == Fixed(value=solver)


@pytest.mark.parametrize(
    ("sections", "floor"),
    [
        ({}, 0.3),
        ({"search": {"dropout": 0.1}}, 0.3),
        ({"search": {"dropout": 0.1}, "result": {"study": "x"}}, 0),
        ({"search": {"feature_floor": 0.2}, "result": {"study": "x"}}, 0.2),
    ],
)
def test_only_an_exported_trial_of_an_earlier_version_has_no_floor_of_features(sections: dict[str, Any], floor: float) -> None:
    assert study(**sections).search.feature_floor == Fixed(value=floor)


def test_a_pattern_that_finds_no_class_is_refused() -> None:
    (problem,) = problems(data={"source": "folder", "path": "~/photos", "class_pattern": r"\w+_\d+"})
    assert problem.startswith(
        r"data.class_pattern is \w+_\d+; expected a regular expression with a part in parentheses, such as (\w+)[._]\d+. "
        "The text in that part is the class"
    )


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ({"search": {"learning_rate": np.float32(0.01)}}, {"search": {"learning_rate": 0.01}}),
        ({"search": {"learning_rate": {"choices": np.array([0.01, 0.1])}}}, {"search": {"learning_rate": {"choices": [0.01, 0.1]}}}),
        ({"search": {"batch_size": {"choices": np.array([16, 32])}}}, {"search": {"batch_size": {"choices": [16, 32]}}}),
        ({"search": {"optimizer": np.array(["adam", "sgd"])}}, {"search": {"optimizer": ["adam", "sgd"]}}),
        ({"search": {"nesterov": np.bool_(True)}}, {"search": {"nesterov": True}}),
        ({"budget": {"trials": np.int64(5)}, "seed": np.uint8(3)}, {"budget": {"trials": 5}, "seed": 3}),
        ({"budget": {"timeout": dt.timedelta(minutes=5)}}, {"budget": {"timeout": 300}}),
    ],
)
def test_values_of_numpy_and_durations_of_python_are_read(given: dict[str, Any], plain: dict[str, Any]) -> None:
    base = {"name": "mine", "data": {"source": "digits"}}
    read = StudySpec.model_validate({**base, **given})
    assert read == StudySpec.model_validate({**base, **plain})
    assert StudySpec.model_validate_json(read.model_dump_json()) == read


def test_a_path_may_have_variables_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOTOS", str(tmp_path))
    for given in ("$PHOTOS/a", "${PHOTOS}/a"):
        data = StudySpec.model_validate({"name": "mine", "data": {"source": "folder", "path": given}}).data
        assert data == spec_data.FolderData(source="folder", path=tmp_path / "a")
    with pytest.raises(ValidationError, match=r"is '\$NO_PHOTOS/a', but the environment has no variable NO_PHOTOS"):
        StudySpec.model_validate({"name": "mine", "data": {"source": "folder", "path": "$NO_PHOTOS/a"}})


def test_a_file_whose_name_has_a_dollar_sign_is_found(tmp_path: Path) -> None:
    (tmp_path / "$PHOTOS").mkdir()
    data = StudySpec.model_validate({"name": "mine", "data": {"source": "folder", "path": str(tmp_path / "$PHOTOS")}}).data
    assert data == spec_data.FolderData(source="folder", path=tmp_path / "$PHOTOS")


def test_several_paths_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValidationError, match=r"is \['a', 'b'\]; expected one path. Put the folders, or links to them, into one folder"):
        StudySpec.model_validate({"name": "mine", "data": {"source": "folder", "path": ["a", "b"]}})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"validation": {"folds": 1}}, "validation.folds is 1; expected a whole number from 2 to 100"),
        (
            {"validation": {"folds": 5}, "training": {"executions": 3}},
            "training.executions is 3, but validation.folds is 5, so that a trial is a mean of several trainings already; remove one of",
        ),
        ({"validation": {"folds": 5}, "pruner": "patient"}, "pruner is patient, which waits for an improvement, but with folds the value"),
    ],
)
def test_a_mistake_in_folds_of_images_is_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError) as raised:
        study_file.parse({"name": "photos", "data": {"source": "digits"}} | sections, "photos.yaml")
    assert message in str(raised.value)


def test_a_study_of_images_has_folds_unless_it_trains_on_all_images() -> None:
    folds = study(validation={"folds": 5})
    assert (folds.num_folds, folds.num_trainings, folds.reports_best) == (5, 5, False)
    on_all = {"training": {"images": "train+validation"}, "result": {"trial_seed": 1}}
    assert study(validation={"folds": 5}, **on_all).num_folds == 1
    assert study().model_dump().keys().isdisjoint({"validation"})
