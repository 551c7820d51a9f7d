"""Study files of user code: the section `search`, and what reads back equal."""

from pathlib import Path
from typing import Any

import pytest

from tuner import errors
from tuner.spec import file as study_file
from tuner.spec.domains import Choice, Fixed, Range
from tuner.spec.study import AnyStudySpec
from tuner.tasks import task
from tuner.tasks.custom.spec.custom_study import CustomStudySpec

CHURN: dict[str, Any] = {
    "name": "churn",
    "task": "custom",
    "model": {"build": "churn.py:build"},
    "data": {"load": "churn.py:load"},
    "objective": {"metric": "val_auc", "direction": "maximize"},
}
SEARCH: dict[str, Any] = {
    "learning_rate": {"range": [1e-5, 1e-2], "log": True},
    "optimizer": ["adam", "sgd"],
    "momentum": {"range": [0.8, 0.99], "when": {"optimizer": "sgd"}},
    "layers": [1, 4],
    "units": {"range": [16, 512], "step": 16},
    "bias": {"choices": [True, False]},
    "batch_size": 32,
    "sizes": {"choices": [3, 5]},
}


def churn(**sections: Any) -> CustomStudySpec:
    spec = study_file.parse(CHURN | sections, "churn.yaml")
    assert isinstance(spec, CustomStudySpec)
    return spec


def test_the_search_of_the_issue_is_read() -> None:
    found = {name: declared.domain for name, declared in churn(search=SEARCH).search.items()}
    assert found == {
        "learning_rate": Range(low=1e-5, high=1e-2, log=True),
        "optimizer": Choice(values=("adam", "sgd")),
        "momentum": Range(low=0.8, high=0.99),
        "layers": Range(low=1, high=4, integer=True),
        "units": Range(low=16, high=512, integer=True, step=16),
        "bias": Choice(values=(True, False)),
        "batch_size": Fixed(value=32),
        "sizes": Choice(values=(3, 5)),
    }


def test_a_dumped_study_reads_back_equal(tmp_path: Path) -> None:
    spec = churn(search=SEARCH, training={"epochs": 3, "early_stopping": {"patience": 2}}, sampler="random", folder=str(tmp_path))
    (tmp_path / "again.yaml").write_text(study_file.dump(spec))
    assert study_file.read(tmp_path / "again.yaml") == spec


class First:
    """Takes the first value of each domain, and notes the names."""

    def __init__(self, **taken: Any) -> None:
        self.taken, self.names = taken, list[str]()

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        self.names.append(name)
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        self.names.append(name)
        return low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.names.append(name)
        return self.taken.get(name, choices[0])


@pytest.mark.parametrize(("optimizer", "acts"), [("adam", False), ("sgd", True)])
def test_a_condition_decides_whether_a_hyperparameter_is_chosen(optimizer: str, acts: bool) -> None:
    chooser = First(optimizer=optimizer)
    chosen = task.spec("custom").suggest(chooser, churn(search=SEARCH))
    assert ("momentum" in chosen.values) is acts  # type: ignore[union-attr]
    assert ("momentum" in chooser.names) is acts


MISTAKES = [
    ({"a": [3, 1]}, "search.a has the range [3, 1], but the lower end comes first; write [1, 3]"),
    ({"a": {"range": [0, 1], "log": True}}, "search.a has a range that starts at 0, which a logarithmic scale does not allow"),
    ({"a": {"range": [1]}}, "search.a has the range [1]; expected two numbers, [low, high]"),
    ({"a": {"rnge": [1, 2]}}, "search.a has the key 'rnge'; expected range, choices or value"),
    ({"a": {}}, "search.a is empty; expected range, choices or value"),
    ({"a": []}, "search.a has the choices []; expected a list with at least one value"),
    ({"a": ["x", "x"]}, "search.a lists 'x' more than once"),
    ({"a": [[1, 2], [3]]}, "search.a contains [1, 2]; expected numbers, text, true, false or null"),
    ({"a": {"choices": [1, 2], "log": True}}, "search.a has log, which acts only on a range; remove it"),
    ({"a": {"range": [0, 10], "step": 0.5}}, "search.a has step: 0.5; expected a whole number above 0"),
    ({"a": {"value": 1, "when": {"b": 2}}}, "search.a acts when b has a value, but search has no b"),
    ({"a": {"value": 1, "when": {"b": 2}}, "b": [1, 2]}, "search.a acts when b has a value, so it must come after b; move it below"),
    ({"b": ["x", "y"], "a": {"value": 1, "when": {"b": "z"}}}, "search.a acts when b is 'z', which is not among its values"),
    ({"a": {"range": [1, 10], "step": 20}}, "search.a has step: 20, above the length of the range [1, 10], which has one value then"),
    ({"a": {"range": [0.1, 0.3], "step": 0.25}}, "search.a has step: 0.25, above the length of the range [0.1, 0.3]"),
    ({"a b": 1}, "search.a b is not a valid name; expected letters, digits, dots, dashes and underscores"),
    ([1, 2], "search is [1, 2]; expected a hyperparameter on each line"),
]


@pytest.mark.parametrize(("search", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_in_the_search_is_named(search: Any, message: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        churn(search=search)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"task": "custm"}, "task is 'custm'; expected one of image_classification, custom, objective. Did you mean custom?"),
        ({"model": {}}, "model.build is missing; add for example `build: my_code.py:build`"),
        ({"model": {"build": "churn.py"}}, "model.build is 'churn.py'; expected a file and a function, such as my_code.py:build"),
        ({"objective": None}, "objective is empty"),
        ({"training": {"epochs": 0}}, "training.epochs is 0; expected a whole number from 1"),
        ({"training": {"epoch": 3}}, "training.epoch is not a key of training. Known:"),
        ({"sampler": "prior"}, "sampler is prior, which draws around a rule, and code of yours has none"),
        ({"sampler": "grid", "search": {"a": [0.5, 1.5]}}, "sampler is grid, which tries every combination, but these are ranges: a"),
        ({"sampler": "grid"}, "sampler is grid, which tries every combination, but the section search is empty"),
    ],
)
def test_a_mistake_in_another_section_is_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError) as caught:
        churn(**sections)
    assert message in str(caught.value)


def test_a_step_may_be_as_long_as_its_range() -> None:
    steps = {"a": {"range": [1, 10], "step": 9}, "b": {"range": [0.1, 0.3], "step": 0.2}}
    assert [declared.domain for declared in churn(search=steps).search.values()] == [
        Range(low=1, high=10, integer=True, step=9),
        Range(low=0.1, high=0.3, step=0.2),
    ]


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        *[("units", value, True) for value in (16, 32, 64, 32.0)],
        *[("units", value, False) for value in (17, 24, 80, 0, True)],
        *[("rate", value, True) for value in (0.1, 0.3, 0.1 + 0.2, 0.7)],
        *[("rate", value, False) for value in (0.15, 0.2000001, 0.35)],
    ],
)
def test_an_enqueued_value_keeps_the_step_of_its_range(name: str, value: Any, fits: bool) -> None:
    spec = churn(search={"units": {"range": [16, 64], "step": 16}, "rate": {"range": [0.1, 0.7], "step": 0.1}})
    found, reasons = task.spec("custom").fitted({name: value}, spec)
    assert (found == {name: value}, bool(reasons)) == (fits, not fits)
    steps = {"units": "16 to 64, whole, in steps of 16", "rate": "0.1 to 0.7, in steps of 0.1"}
    assert reasons == ([] if fits else [f"{name} is {value}; expected {steps[name]}".replace("True", "true")])


@pytest.mark.parametrize("given", ["smaller", 3, ["maximize"]])
def test_an_objective_of_another_direction_is_told_what_is_expected(given: Any) -> None:
    with pytest.raises(errors.SpecError, match=r"objective is .*; expected maximize or minimize$"):
        study_file.parse({"name": "o", "task": "objective", "function": "my.py:f", "objective": given}, "o.yaml")


def test_files_are_found_beside_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "churn.yaml").write_text(study_file.dump(churn()))
    spec: AnyStudySpec = study_file.read(tmp_path / "churn.yaml")
    assert isinstance(spec, CustomStudySpec)
    assert spec.folder == tmp_path.resolve()
    assert study_file.differences(spec, spec.model_copy(update={"folder": Path("/elsewhere")})) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"validation": {"folds": 1}}, "validation.folds is 1; expected a whole number from 2 to 100"),
        ({"validation": {"folds": "five"}}, "validation.folds is 'five'; expected a whole number from 2 to 100"),
        ({"validation": 5}, "validation is 5; expected a section"),
        ({"validation": {"fold": 5}}, "Did you mean folds?"),
        ({"validation": {"stratify": "auto"}}, "validation.folds is missing"),
        ({"validation": {"folds": 5, "stratify": True}}, "validation.stratify is true; expected one of auto, never"),
        (
            {"validation": {"folds": 5}, "training": {"executions": 3}},
            "training.executions is 3, but validation.folds is 5, so that a trial is a mean of several trainings already; remove one of",
        ),
        ({"validation": {"folds": 5}, "pruner": "patient"}, "pruner is patient, which waits for an improvement, but with folds the value"),
        ({"validation": {"folds": 5, "train_on": "all"}}, "validation.train_on is all, which leaves no validation data to choose the best"),
    ],
)
def test_a_mistake_in_folds_is_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError) as raised:
        churn(**sections)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (
            {"name": "cost", "task": "objective", "function": "my.py:cost", "objective": "minimize", "validation": {"folds": 5}},
            "validation is not a key of a study with an objective, whose function divides its data itself: train once for each fold in it",
        ),
    ],
)
def test_folds_of_another_task_are_refused_with_a_cure(study: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.SpecError) as raised:
        study_file.parse(study, "study.yaml")
    assert message in str(raised.value)
