"""Study files: reading, writing, comparing, and the message for every mistake."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tuner import errors
from tuner.spec import domains, schema, tasks
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec, images_of

MINIMAL = "name: x\ndata: {source: digits}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(folder: Path, text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(errors.SpecError) as caught:
        study_file.read_images(written(folder, text))
    return [(problem.line, problem.field, problem.message) for problem in caught.value.problems]


#: text after a complete study, the field of its mistake and a part of the message
ONE_MISTAKE = [
    # unknown keys
    ("search: {dropuot: 0.3}", "search.dropuot", "is not a hyperparameter. Known: "),
    ("search: {dropuot: 0.3}", "search.dropuot", "Did you mean dropout?"),
    ("serach: {dropout: 0.3}", "serach", "is not a key of a study file. Known: name, task, data, "),
    ("serach: {dropout: 0.3}", "serach", "Did you mean search?"),
    ("search: {augmentation: {mix_up: 0.3}}", "search.augmentation.mix_up", "Did you mean mixup?"),
    ("search: {head_units: {unit: 3}}", "search.head_units.unit", "is not a key of search.head_units. Known: layers, units."),
    ("model: {size: 3}", "model.size", "is not a key of model. Known: backbone, weights, image_size, resize, pooling."),
    # known keys in the wrong place
    ("trials: 3", "trials", "Did you mean budget.trials?"),
    ("search: {mixup: 0.1}", "search.mixup", "Did you mean search.augmentation.mixup?"),
    ("training: {batch_size: 32}", "training.batch_size", "is not a key of training. Did you mean search.batch_size?"),
    (
        "pruner: {name: median, percentile: 50}",
        "pruner.percentile",
        "is not a key of the pruner median. It belongs to the pruner percentile.",
    ),
    # names
    ("search: {optimizer: [adamw, sdg]}", "search.optimizer", "is 'sdg'; expected one of sgd, adam"),
    ("search: {loss: crossentropy}", "search.loss", "Did you mean cross_entropy?"),
    ("search: {learning_rate: {adamv: 1e-3}}", "search.learning_rate.adamv", "is not an optimizer. Known: sgd, "),
    (
        "sampler: tp",
        "sampler",
        "is 'tp'; expected one of tpe, gp, cma-es, nsga-ii, qmc, random, grid, brute-force, prior. Did you mean tpe?",
    ),
    ("sampler: {name: cmaes}", "sampler.name", "Did you mean cma-es?"),
    ("sampler: {startup_trials: 3}", "sampler.name", "is missing; add `name: tpe`, or another of tpe, gp"),
    ("pruner: hyperbnd", "pruner", "Did you mean hyperband?"),
    ("pruner: threshold", "pruner", "has neither lower nor upper; expected for example `pruner: {name: threshold, lower: 0.5}`"),
    ("pruner: {name: threshold}", "pruner", "has neither lower nor upper; expected for example `pruner: {name: threshold, lower: 0.5}`"),
    ("pruner: {name: threshold, lower: 50}", "pruner.lower", "is 50; expected a number from 0 to 1"),
    # values of the wrong kind or out of range
    ("search: {dropout: 1.5}", "search.dropout", "is 1.5; expected a number from 0 to 0.9"),
    ("search: {dropout: high}", "search.dropout", "is 'high'; expected a number from 0 to 0.9"),
    ("search: {dropout: }", "search.dropout", "is empty; expected a number from 0 to 0.9 or a list. Give it a value"),
    ("search: {learning_rate: 0}", "search.learning_rate", "is 0; expected a number above 0"),
    ("search: {learning_rate: [1e-2, 1e-4]}", "search.learning_rate", "but the lower end comes first; write [0.0001, 0.01]"),
    ("search: {nesterov: yes}", "search.nesterov", "is 'yes'; expected one of false, true"),
    ("search: {head_units: 256}", "search.head_units", "is 256; expected a list of widths such as [512, 128]"),
    ("search: {head_units: [64, wide]}", "search.head_units", "contains 'wide'; expected widths, each a whole number"),
    ("search: {head_units: [4, 4, 4, 4, 4]}", "search.head_units", "has 5 layers; expected at most 4"),
    ("search: {head_units: {layers: 9}}", "search.head_units.layers", "is 9; expected a whole number from 0 to 4"),
    ("search: {augmentation: {mixup: {off: true, alpha: 1}}}", "search.augmentation.mixup", "{range: [low, high], log: true, off: true}"),
    ("search: [dropout]", "search", "is ['dropout']; expected a section with keys such as optimizer, learning_rate"),
    ("search: {augmentation: none}", "search.augmentation", "is 'none'; expected a section with keys such as flip"),
    ("model: efficientnet_lite0", "model", "is 'efficientnet_lite0'; expected a section with keys such as backbone"),
    ("budget: 20", "budget", "is 20; expected a section with keys such as trials, timeout, target"),
    ("budget: {trials: 0}", "budget.trials", "is 0; expected a whole number of at least 1 or null"),
    ("budget: {trials: true}", "budget.trials", "is true; expected a whole number"),
    ("budget: {timeout: 2 hours}", "budget.timeout", "is '2 hours'; expected a duration such as 90s, 15m, 2h or 1h30m"),
    ("budget: {target: 95}", "budget.target", "is 95; expected a number above 0 and at most 1 or null; 95 % is 0.95"),
    ("training: {epochs: many}", "training.epochs", "is 'many'; expected auto or a whole number from 0 to 10000"),
    ("training: {epochs: -1}", "training.epochs", "is -1; expected auto or a whole number from 0 to 10000"),
    ("training: {promote: 0}", "training.promote", "is 0; expected auto or a number above 0 and at most 1"),
    ("training: {gradient_clip: .inf}", "training.gradient_clip", "is inf; expected a number above 0"),
    ("seed: -1", "seed", "is -1; expected a whole number of at least 0 and below 4294967296"),
    ("seed: 1.5", "seed", "is 1.5; expected a whole number"),
    ("sampler: 5", "sampler", "is 5; expected one of tpe, gp"),
    ("sampler: {name: tpe, candidates: 0}", "sampler.candidates", "is 0; expected a whole number of at least 1"),
    ("result: 5", "result", "is 5; expected a section"),
    # syntax
    ("name: y", "name", "is given twice, in lines 1 and 3; remove one of them"),
    ("search: {dropout: 0.1, dropout: 0.2}", "search.dropout", "is given twice"),
    ("3: 4", "", "has the key 3, which is not text"),
    ("search: {[1]: 2}", "search", "has the key a list or mapping, which is not text"),
    ("seed: !!python/name:os.system 3", "seed", "has the tag tag:yaml.org,2002:python/name:os.system"),
]
#: a whole file, the field and a part of the message
WHOLE_FILE = [
    ("name: x", "data", "is missing; add for example `data: {source: folder, path: ~/photos}`"),
    ("data: {source: digits}", "name", "is missing; add for example `name: my_study`"),
    (
        "name: my photos\ndata: {source: digits}",
        "name",
        "is 'my photos'; expected at most 100 letters, digits, dots, dashes and underscores",
    ),
    ("name: 2024\ndata: {source: digits}", "name", "is 2024; expected text such as my_study; a number needs quotes to be text: '2024'"),
    ("name:\ndata: {source: digits}", "name", "is empty; expected text such as my_study"),
    ("name: x\ndata:", "data", "is empty; expected a section such as {source: folder, path: ~/photos}"),
    ("name: x\ndata: ~/photos", "data", "is '~/photos'; expected a section such as {source: folder, path: ~/photos}"),
    ("name: x\ndata: {source: foldr, path: a}", "data.source", "is 'foldr'; expected one of folder, manifest, npz, keras, tfds, animals"),
    ("name: x\ndata: {path: a}", "data.source", "is missing; add `source: folder`, or another of folder, manifest"),
    ("name: x\ndata: {source: folder}", "data.path", "is missing; add for example `path: ~/photos`"),
    ("name: x\ndata: {source: folder, path: 3}", "data.path", "is 3; expected a path such as ~/photos"),
    ("name: x\ndata: {source: folder, path: ''}", "data.path", "is ''; expected a path such as ~/photos"),
    (
        "name: x\ndata: {source: digits, path: a}",
        "data.path",
        "is not a key of the source digits. It belongs to the source folder, manifest",
    ),
    ("name: x\ndata: {source: keras, name: cifar}", "data.name", "is 'cifar'; expected one of cifar10, cifar100, mnist, fashion_mnist."),
    ("name: x\ndata: {source: tfds}", "data.name", "is missing; add for example `name: tf_flowers`"),
    ("name: x\ndata: {source: python, function: load}", "data.function", "is 'load'; expected my_package.my_module:function"),
    ("", "", "is empty; a study file needs at least name and data"),
    ("# nothing but a comment", "", "is empty"),
    ("- name: x", "", "is [{name: 'x'}]; expected keys and values"),
    ("just words", "", "is 'just words'; expected keys and values"),
]


@pytest.mark.parametrize(("text", "field", "message"), ONE_MISTAKE)
def test_a_mistake_is_reported_with_field_line_and_what_to_do(tmp_path: Path, text: str, field: str, message: str) -> None:
    (found,) = mistakes(tmp_path, MINIMAL + text)
    assert found[:2] == (3, field)
    assert message in found[2]


@pytest.mark.parametrize(("text", "field", "message"), WHOLE_FILE)
def test_a_mistake_of_a_whole_file_is_reported_with_field_and_what_to_do(tmp_path: Path, text: str, field: str, message: str) -> None:
    (found,) = mistakes(tmp_path, text)
    assert found[1] == field
    assert message in found[2]


def test_all_mistakes_are_reported_at_once_in_file_order(tmp_path: Path) -> None:
    text = """\
name: x
data: {source: foldr, validation: 0}
model:
  image_size: 16
  poling: avg
search:
  optimizer: adam
  dropuot: 0.3
  momentum: 0.5
  focal_gamma: 9
training: {epochs: 3}
pruner:
  name: patient
  patience: 9
seed: off
"""
    assert [found[:2] for found in mistakes(tmp_path, text)] == [
        (2, "data.source"),
        (2, "data.validation"),
        (4, "model.image_size"),
        (5, "model.poling"),
        (8, "search.dropuot"),
        (9, "search.momentum"),
        (10, "search.focal_gamma"),
        (14, "pruner.patience"),
        (15, "seed"),
    ]


def test_a_clash_with_a_wrong_field_is_not_reported(tmp_path: Path) -> None:
    found = mistakes(tmp_path, MINIMAL + "search: {optimizer: [sdg], momentum: 0.5, learning_rate: {adam: 1e-3}}")
    assert [field for _, field, _ in found] == ["search.optimizer"]


def test_a_message_names_the_file_the_line_and_the_field(tmp_path: Path) -> None:
    with pytest.raises(errors.SpecError) as caught:
        study_file.read_images(written(tmp_path, MINIMAL + "seed: x\nbudget: {trials: x}"))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/study.yaml:3: seed is 'x'; expected ")
    assert second.startswith(f"{tmp_path}/study.yaml:4: budget.trials is 'x'; expected ")


@pytest.mark.parametrize(("text", "field", "_message"), ONE_MISTAKE + WHOLE_FILE)
def test_no_message_mentions_python_or_pydantic(tmp_path: Path, text: str, field: str, _message: str) -> None:
    whole = text if (text, field, _message) in WHOLE_FILE else MINIMAL + text
    for _, name, message in mistakes(tmp_path, whole):
        assert not any(
            word in f"{name} {message}" for word in ("Input should", "None", "True", "Error", "pydantic", "function-", "literal[")
        )


@pytest.mark.parametrize(
    "search", ["search: 5", "search: {learning_rate: {adam: [], sgd: {range: 3}, 5: 6}}", "search: {head_units: {a: {b: []}}}"]
)
@pytest.mark.parametrize(
    "rest", ["data: []", "data: {source: [1]}", "data: {source: {a: b}}", "sampler: [tpe]", "pruner: {name: 5}", "data: {source: null}"]
)
def test_nonsense_is_refused_with_messages(tmp_path: Path, search: str, rest: str) -> None:
    assert len(mistakes(tmp_path, f"name: [x]\n{search}\n{rest}\n")) >= 3


def test_values_that_are_not_from_a_file_are_checked_too() -> None:
    with pytest.raises(errors.SpecError, match=r"^request: trials is not a key of a study file. Did you mean budget.trials\?$"):
        images_of(study_file.parse({"name": "x", "data": {"source": "digits"}, "trials": 4}, "request"))
    with pytest.raises(errors.SpecError, match="^request: has the key 4"):
        images_of(study_file.parse({"name": "x", "data": {"source": "digits"}, 4: 4}, "request"))


def test_the_given_mapping_is_not_modified() -> None:
    given: dict[str, Any] = {"name": "x", "data": {"source": "digits"}, "search": {"augmentation": None}, "seed": "x"}
    before = json.dumps(given)
    with pytest.raises(errors.SpecError):
        images_of(study_file.parse(given, "request"))
    assert json.dumps(given) == before


SECTIONS: list[dict[str, Any]] = [
    {},
    {"data": {"source": "folder", "path": "/photos/with: colon", "train": 1000, "validation": 0.5}},
    {"data": {"source": "manifest", "path": "/a.csv", "root": "/b", "label_column": "null"}},
    {"data": {"source": "python", "function": "a.b:c"}, "model": {"backbone": "python:a.b:c", "weights": "/w.weights.h5"}},
    {"name": "1e3", "budget": {"trials": None, "timeout": "1h30m", "target": 0.97}, "training": {"epochs": 5, "promote": 1}},
    {"search": {"dropout": 0.3, "optimizer": "sgd", "nesterov": [True, False], "batch_size": [16, 32], "head_units": []}},
    {"search": {"head_units": [512, 128], "weight_decay": 1e-7, "learning_rate": {"lion": {"range": [1e-6, 1e-3], "log": False}}}},
    {
        "search": {
            "augmentation": {
                "mixup": {"choices": [0, 0.2]},
                "zoom": {"range": [0.1, 0.2], "log": True, "off": True},
                "flip": ["none", "both"],
            }
        }
    },
    {"sampler": {"name": "nsga-ii", "population": 5}, "pruner": "none", "seed": 2**32 - 1},
    {
        "result": {
            "value": 0.971,
            "curve": [0.5, None, 1e-9],
            "when": "2025-11-22T12:00:00",
            "no": "off",
            "nested": {"a": {"b": [[1], []]}},
            "text": "a: b\n# c",
        }
    },
]


@pytest.mark.parametrize("sections", SECTIONS)
def test_a_written_study_reads_back_equal(tmp_path: Path, sections: dict[str, Any]) -> None:
    spec = images_of(study_file.parse({"name": "x", "data": {"source": "digits"}} | sections, "study"))
    assert study_file.read_images(written(tmp_path, study_file.dump(spec))) == spec
    assert study_file.read_images(written(tmp_path, spec.model_dump_json(indent=1))) == spec
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_study_with_the_values_of_one_trial_reads_back_equal(tmp_path: Path) -> None:
    best = Hyperparameters(head_units=(512, 128), weight_decay=3.2e-5)
    given = {
        "name": "x",
        "data": {"source": "digits"},
        "search": best.model_dump(mode="json"),
        "budget": {"trials": 1},
        "result": {"value": 0.9},
    }
    spec = images_of(study_file.parse(given, "best"))
    assert spec.search.head_units == (512, 128)
    assert study_file.read_images(written(tmp_path, study_file.dump(spec))) == spec


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, []),
        ({"search": {"dropout": [0, 0.5]}}, {"search": {"dropout": 0.3}}, ["search.dropout: [0, 0.5] -> 0.3"]),
        # giving the default makes no difference
        ({"seed": 0, "search": {"dropout": [0, 0.5]}}, {}, []),
        # the budget, the result and the folder of the images may differ
        ({"budget": {"trials": 5}}, {"budget": {"timeout": "2h"}, "result": {"a": 1}}, []),
        ({"data": {"source": "folder", "path": "/a"}}, {"data": {"source": "folder", "path": "/b"}}, []),
        (
            {"data": {"source": "folder", "path": "/a", "test": 0.2}},
            {"data": {"source": "folder", "path": "/a"}},
            ["data.test: 0.2 -> 0.15"],
        ),
        ({"model": {"image_size": 96}}, {"model": {"image_size": 128}}, ["model.image_size: 96 -> 128"]),
        ({"search": {"head_units": []}}, {"search": {"head_units": [64]}}, ["search.head_units: [] -> [64]"]),
        (
            {"search": {"optimizer": "sgd", "learning_rate": 0.1}},
            {"search": {"optimizer": "sgd", "learning_rate": [0.1, 1]}},
            ["search.learning_rate.sgd: 0.1 -> [0.1, 1] log"],
        ),
        (
            {"sampler": "random"},
            {"sampler": {"name": "cma-es", "startup_trials": 3}},
            ["sampler.name: 'random' -> 'cma-es'", "sampler.startup_trials: not given -> 3"],
        ),
    ],
)
def test_the_differences_of_two_studies_are_one_line_per_field(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    minimal = {"name": "x", "data": {"source": "digits"}}
    before, after = (images_of(study_file.parse(minimal | given, "study")) for given in (old, new))
    assert study_file.differences(before, after) == expected


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_schema_describes_every_key(task: str) -> None:
    keys = schema.all_keys(tasks.study_class(task))
    assert not [key.field for key in keys if not key.meaning and key.name not in ("source", "name")]
    assert {key.field: key.meaning for key in keys}["budget.trials"].startswith("trials of the study")


def test_a_study_of_images_needs_a_name_and_data() -> None:
    assert study_file.json_schema()["required"] == ["name", "data"]


def test_the_defaults_of_the_schema_form_a_study(tmp_path: Path) -> None:
    defaults = {key.field: key.default for key in schema.all_keys() if key.field not in ("name", "data", "search") and not key.kind}
    given: dict[str, Any] = {"name": "x", "data": {"source": "digits"}}
    for field, default in defaults.items():
        section: dict[str, Any] = given
        *above, name = field.split(".")
        if any(defaults.get(".".join(above[:end]), {}) is None for end in range(1, len(above) + 1)):
            continue  # a section that a study does not have by default
        for key in above:
            section = section.setdefault(key, {})
        section[name] = default
    assert images_of(study_file.parse(given, "defaults")) == study_file.read_images(written(tmp_path, MINIMAL))


def test_reading_a_study_imports_nothing_heavy(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    program = f"""
import sys, pathlib
from tuner.spec import file as study_file
study_file.read_images(pathlib.Path({str(path)!r}))
print(sorted({{"numpy", "pandas", "optuna", "sqlalchemy", "keras", "tensorflow", "sklearn"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("given", "floor"), [({}, 0), ({"feature_floor": 0.2}, 0.2)])
def test_a_changed_search_keeps_the_floor_of_features_of_its_study_unless_the_file_gives_one(given: dict[str, Any], floor: float) -> None:
    minimal = {"name": "x", "data": {"source": "digits"}}
    old = images_of(study_file.parse(minimal | {"search": {"feature_floor": 0}}, "old"))
    new = images_of(study_file.parse(minimal | {"search": {"dropout": 0.3} | given}, "new"))
    assert domains.values(study_file.with_defaults_of(old, new).search.feature_floor) == (floor,)
    assert bool(study_file.differences(old, new.model_copy(update={"search": old.search.model_copy(update=given)}))) is bool(given)


@pytest.mark.parametrize(("given", "solver"), [({}, "sgd"), ({"probe_solver": "ridge"}, "ridge")])
def test_a_changed_search_keeps_the_solver_of_its_study_unless_the_file_gives_one(given: dict[str, Any], solver: str) -> None:
    minimal = {"name": "x", "data": {"source": "digits"}}
    old = images_of(study_file.parse(minimal | {"search": {"probe_solver": "sgd"}}, "old"))
    new = images_of(study_file.parse(minimal | {"search": {"dropout": 0.3} | given}, "new"))
    found = study_file.with_defaults_of(old, new)
    assert domains.values(found.search.probe_solver) == (solver,)
    assert found.search.dropout == new.search.dropout


@pytest.mark.parametrize(("given", "sampler", "is_changed"), [({}, "tpe", False), ({"sampler": "random"}, "random", True)])
def test_a_study_keeps_its_sampler_unless_the_file_gives_one(given: dict[str, Any], sampler: str, is_changed: bool) -> None:
    minimal = {"name": "x", "data": {"source": "digits"}}
    old, new = images_of(study_file.parse(minimal | {"sampler": "tpe"}, "old")), images_of(study_file.parse(minimal | given, "new"))
    assert any("sampler" in line for line in study_file.differences(old, new)) is is_changed
    assert study_file.with_defaults_of(old, new).sampler.name == sampler
    assert images_of(study_file.parse(minimal, "new")).sampler.name == "prior"


def test_the_schema_is_written_although_another_thread_parses_code_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 then raises SystemError."""
    usual, fails = schema._parsed, itertools.chain([True, True], itertools.repeat(False))

    def parsed(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
        if next(fails):
            raise SystemError("AST constructor recursion depth mismatch (before=279, after=297)")
        return usual(kind)

    expected = study_file.json_schema()
    monkeypatch.setattr(schema, "_parsed", parsed)
    monkeypatch.setattr(schema, "_DOCSTRINGS", {})
    assert study_file.json_schema() == expected
