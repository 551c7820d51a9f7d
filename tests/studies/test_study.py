"""Creating, joining and loading studies."""

import json
from collections.abc import Callable
from typing import Any, Literal

import optuna
import pytest
from sqlalchemy import Connection

from tests.studies import by_hand
from tuner.errors import SpecError, StudyError
from tuner.spec.domains import Fixed
from tuner.spec.hyperparameters import ProbeSolver
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import SPEC
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.study import Study

Begin = Callable[..., Study]


def test_an_existing_study_is_joined(begin: Begin) -> None:
    first = begin()
    by_hand.must_claim(first)
    second = begin()
    assert (second.id, second.spec) == (first.id, first.spec)
    assert by_hand.must_claim(second).number == 1


def test_joining_a_changed_study_is_refused_with_what_changed(begin: Begin) -> None:
    begin(search={"dropout": [0, 0.5]})
    with pytest.raises(StudyError) as raised:
        begin(search={"dropout": 0.3}, seed=7)
    assert "search.dropout" in str(raised.value)
    assert "seed: 0 -> 7" in str(raised.value)
    assert "change the name" in str(raised.value)


def test_a_study_started_with_the_earlier_meaning_of_mobilenet_v2_keeps_it(begin: Begin) -> None:
    begin(model={"backbone": "MobileNetV2"})
    assert begin(model={"backbone": "mobilenet_v2"}).images.model.backbone == "MobileNetV2"


def test_a_study_of_the_packaged_mobilenet_v2_is_not_one_of_keras(begin: Begin) -> None:
    begin(model={"backbone": "mobilenet_v2"})
    assert begin(model={"backbone": "mobilenet_v2"}).images.model.backbone == "mobilenet_v2"
    with pytest.raises(StudyError, match="model.backbone: 'mobilenet_v2' -> 'MobileNetV2'"):
        begin(model={"backbone": "MobileNetV2"})


def test_a_changed_budget_does_not_prevent_joining(begin: Begin, storage: Storage) -> None:
    begin(budget={"trials": 10})
    begin(budget={"trials": 20})
    assert studies.load("by-hand", storage).spec.budget.trials == 20


def test_each_machine_may_have_its_own_path_of_the_images(begin: Begin, storage: Storage) -> None:
    first = begin(data={"source": "folder", "path": "/here/photos"})
    second = begin(data={"source": "folder", "path": "/there/photos"}, budget={"trials": 50})
    assert (second.id, str(second.images.data.path), second.images.budget.trials) == (first.id, "/there/photos", 50)  # type: ignore[union-attr]
    kept = studies.load("by-hand", storage)
    assert kept.spec == first.spec.model_copy(update={"budget": second.spec.budget})
    assert studies.at(kept, second.spec).spec == second.spec


def test_the_storage_holds_the_spec_of_the_file(begin: Begin, storage: Storage) -> None:
    begin(search={"optimizer": ["sgd", "lion"], "learning_rate": {"sgd": [1e-3, 1]}, "augmentation": {"mixup": {"choices": [0, 0.2]}}})
    loaded = studies.load("by-hand", storage)
    assert loaded.images == begin(search=loaded.images.search.model_dump(mode="json")).spec


def test_without_a_name_the_newest_study_is_loaded(begin: Begin, storage: Storage) -> None:
    begin(name="older")
    begin(name="newer")
    assert studies.load(None, storage).name == "newer"
    assert studies.names(storage) == ["newer", "older"]


def test_an_empty_storage_explains_how_to_start_a_study(storage: Storage) -> None:
    with pytest.raises(StudyError, match="tuner run"):
        studies.load(None, storage)


def test_an_unknown_study_names_the_known_ones(begin: Begin, storage: Storage) -> None:
    begin(name="flowers")
    with pytest.raises(StudyError, match=r"no study flwers .* Known: flowers\. Did you mean flowers\?"):
        studies.load("flwers", storage)


@pytest.mark.parametrize("directions", [["maximize"], ["minimize"], ["maximize", "minimize"]])
def test_a_study_of_another_program_is_not_joined(storage: Storage, directions: list[Literal["maximize", "minimize"]]) -> None:
    optuna.create_study(study_name="by-hand", storage=storage.rdb, directions=directions)
    with pytest.raises(StudyError, match="was not created by tuner"):
        studies.join(by_hand.spec(), storage)
    assert studies.names(storage) == []


def test_a_study_of_an_incompatible_version_is_explained(begin: Begin, storage: Storage) -> None:
    study = begin()
    storage.rdb.set_study_user_attr(study.id, SPEC, '{"name": "by-hand", "data": {"source": "holograms"}}')
    with pytest.raises(StudyError, match="another version of tuner"):
        studies.load("by-hand", storage)


def test_an_unusable_sampler_is_refused_before_anything_is_written(storage: Storage) -> None:
    fixed = dict.fromkeys(["weight_decay", "label_smoothing", "layer_decay", "unfreeze", "probe_learning_rate", "learning_rate"], 0.1)
    augmentation = dict.fromkeys(["rotation", "zoom", "translation", "brightness", "contrast", "erasing", "mixup"], 0.1)
    many = {"choices": [step / 100 for step in range(50)]}
    search = fixed | {"augmentation": augmentation | {"shear": many, "cutmix": many}, "head_units": [64], "dropout": many}
    with pytest.raises(SpecError, match="more than 10000 combinations"):
        studies.join(by_hand.spec(sampler="grid", search=search), storage)
    assert optuna.get_all_study_names(storage.rdb) == []


def test_a_storage_holds_many_studies(begin: Begin) -> None:
    one, other = begin(name="one"), begin(name="other")
    assert [by_hand.must_claim(study).number for study in (one, other, one)] == [0, 0, 1]


def test_optuna_logs_nothing_while_a_study_is_created(begin: Any, capsys: pytest.CaptureFixture[str]) -> None:
    begin()
    assert capsys.readouterr() == ("", "")


def test_the_url_of_a_storage_may_contain_braces(tmp_path: Any) -> None:
    storage = storages.open(f"sqlite:///{tmp_path}/{{tuner}}.db")
    assert studies.join(by_hand.spec(), storage).name == "by-hand"
    assert (tmp_path / "{tuner}.db").exists()
    storage.close()


BOTH = {"optimizer": ["adam", "adamw"], "weight_decay": {"range": [1e-5, 1e-2], "off": False}}


def forget_the_meaning_of_adam(study: Study) -> None:
    """Store the spec as a version did in which `weight_decay` acted on adam."""

    def write(connection: Connection) -> None:
        stored = json.loads(tables.get(connection, tables.STUDY_USER, study.id, SPEC)[SPEC])
        del stored["search"]["adam_weight_decay"]
        tables.put(connection, tables.STUDY_USER, study.id, {SPEC: json.dumps(stored)})

    study.storage.write(write)


def test_a_study_that_an_earlier_version_started_keeps_its_meaning_of_adam(begin: Callable[..., Study], storage: Storage) -> None:
    forget_the_meaning_of_adam(begin(search=BOTH))
    joined = begin(search=BOTH)
    assert joined.images.search.decays_adam
    assert studies.load(joined.name, storage).images.search.decays_adam
    assert not by_hand.spec(search=BOTH).search.decays_adam


def test_a_new_study_keeps_adam_without_weight_decay_when_it_is_joined_again(begin: Callable[..., Study]) -> None:
    begin(search=BOTH)
    assert not begin(search=BOTH).images.search.decays_adam


def test_another_meaning_of_adam_is_another_search(begin: Callable[..., Study]) -> None:
    begin(search=BOTH)
    with pytest.raises(StudyError, match="adam_weight_decay"):
        begin(search=BOTH | {"adam_weight_decay": True})


def forget(study: Study, name: str) -> None:
    """Store the spec as a version did that had no such hyperparameter."""

    def write(connection: Connection) -> None:
        stored = json.loads(tables.get(connection, tables.STUDY_USER, study.id, SPEC)[SPEC])
        del stored["search"][name]
        tables.put(connection, tables.STUDY_USER, study.id, {SPEC: json.dumps(stored)})

    study.storage.write(write)


def test_a_study_that_an_earlier_version_started_keeps_its_probes_in_steps(begin: Callable[..., Study], storage: Storage) -> None:
    forget(begin(), "probe_solver")
    joined = begin()
    assert joined.images.search.probe_solver == Fixed(value=ProbeSolver.SGD)
    assert studies.load(joined.name, storage).images.search.probe_solver == Fixed(value=ProbeSolver.SGD)
    with pytest.raises(StudyError, match=r"search\.probe_solver: 'sgd' -> 'lbfgs'|search\.probe_solver: sgd -> lbfgs"):
        begin(search={"probe_solver": "lbfgs"})


def test_a_new_study_keeps_its_solver_when_it_is_joined_again(begin: Callable[..., Study]) -> None:
    begin()
    assert begin().images.search.probe_solver == Fixed(value=ProbeSolver.LBFGS)
    with pytest.raises(StudyError, match=r"search\.probe_solver"):
        begin(search={"probe_solver": ["lbfgs", "sgd"]})


def test_a_study_that_an_earlier_version_started_keeps_its_features_without_a_floor(begin: Callable[..., Study], storage: Storage) -> None:
    forget(begin(), "feature_floor")
    joined = begin()
    assert joined.images.search.feature_floor == Fixed(value=0)
    assert studies.load(joined.name, storage).images.search.feature_floor == Fixed(value=0)
    with pytest.raises(StudyError, match=r"search\.feature_floor: 0(\.0)? -> 0\.3"):
        begin(search={"feature_floor": 0.3})


FOLDER = {"source": "folder", "path": "/photos"}


def forget_the_order(study: Study) -> None:
    """Store the spec as a version did that had no `data.class_order`."""

    def write(connection: Connection) -> None:
        stored = json.loads(tables.get(connection, tables.STUDY_USER, study.id, SPEC)[SPEC])
        del stored["data"]["class_order"]
        tables.put(connection, tables.STUDY_USER, study.id, {SPEC: json.dumps(stored)})

    study.storage.write(write)


def test_a_study_that_an_earlier_version_started_keeps_its_order_of_classes(begin: Begin, storage: Storage) -> None:
    assert begin(data=FOLDER).images.data.class_order == "natural"  # type: ignore[union-attr]
    forget_the_order(begin(data=FOLDER))
    joined = begin(data=FOLDER | {"path": "/elsewhere"})
    for found in (joined, studies.load(joined.name, storage)):
        assert found.images.data.class_order == "earlier"  # type: ignore[union-attr]
    assert str(joined.images.data.path) == "/elsewhere"  # type: ignore[union-attr]
    with pytest.raises(StudyError, match="class_order: 'earlier' -> 'natural'"):
        begin(data=FOLDER | {"class_order": "natural"})
