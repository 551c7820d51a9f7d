"""A StudySpec and a storage into a study that any number of workers share."""

import difflib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna import Study as OptunaStudy
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.study import StudyDirection
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, Row, select
from sqlalchemy.exc import IntegrityError

from tuner import wording
from tuner.errors import StudyError
from tuner.sampling import enumeration
from tuner.sampling.history import Memory
from tuner.spec import file as study_file
from tuner.spec.study import Budget, Data, StudySpec
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import GIVEN_BUDGET, MIGRATED, SPEC
from tuner.storage.engine import Storage
from tuner.studies import notes


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study in a storage."""

    name: str
    spec: StudySpec
    storage: Storage = field(repr=False)
    #: the same to Optuna; finished trials are read once
    optuna: OptunaStudy = field(repr=False)
    #: of Optuna's tables and ours
    id: int
    #: what trial after trial tries, where the sampler goes through all combinations
    combinations: Sequence[dict[str, Any]] | None = field(repr=False, default=None)
    #: the study that its first trials were carried over from, how many they are, and how many were not; "" if it begins by itself
    carried_from: str = ""
    num_carried: int = 0
    num_left: int = 0
    #: what this process has read of it
    memory: Memory = field(repr=False, compare=False, default_factory=Memory)


def join(spec: StudySpec, storage: Storage) -> Study:
    """The study of a file: a new one, or the one that is there, whichever of many workers comes first.

    One that is there gets the budget of the file, unless someone has changed the budget since that same one was given; where its images
    lie is the file's for this process, and stays in the storage as it was.

    Raises:
        StudyError: there is one of this name that differs from the file, or that something else made.
        SpecError: the sampler cannot go through the search space.
        MissingPackage: the sampler needs a package that is not installed.
    """
    enumeration.check(spec)
    if not _exists(storage, spec.name):
        _create(spec, storage)
    study = load(spec.name, storage)
    changes = study_file.differences(study.spec, spec)
    if changes:
        compares = all(change.startswith(study_file.SEARCHED) for change in changes)
        raise StudyError(
            f"the study {spec.name} was begun with another file:\n  "
            + "\n  ".join(changes)
            + "\nTrials of both would not compare. Undo the changes, or give the file another name: to begin a new study."
            + (f" To keep the trials that belong to both: tuner migrate {spec.name} FILE" if compares else "")
        )
    budget = study.spec.budget
    if budget != spec.budget:
        budget = storage.write(lambda connection: _give_budget(connection, study, spec.budget))
    return _with(study, budget=budget, data=spec.data)


def load(name: str | None, storage: Storage) -> Study:
    """A study that is there; without a name the newest one.

    Raises:
        StudyError: there is none, or it was not made by tuner.
    """
    known = names(storage)
    if name is None:
        if not known:
            raise StudyError("there is no study in this storage yet; begin one with: tuner run STUDY.yaml")
        name = known[0]
    found = storage.read(lambda connection: _find(connection, name))
    if found is None:
        meant = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {meant[0]}?" if meant else ""
        listed = f"Known: {wording.listed(known)}." if known else "It holds no study yet."
        raise StudyError(f"there is no study {name} in this storage. {listed}{hint}")
    return _open(found.study_id, _read_spec(name, found), storage)


def at(study: Study, data: Data) -> Study:
    """The study with its images where this machine has them."""
    return _with(study, data=data)


def up_to_date(connection: Connection, study: Study) -> Study:
    """The study with the budget that the storage holds now: someone may have run it with another one since it was opened."""
    return with_stored(study, tables.get(connection, tables.STUDY_USER, study.id, SPEC))


def with_stored(study: Study, attributes: Mapping[str, Any]) -> Study:
    """The study with the budget among the attributes that were read of it."""
    stored = attributes.get(SPEC)
    return study if stored is None else _with(study, budget=Budget.model_validate(json.loads(stored)["budget"]))


def names(storage: Storage) -> list[str]:
    """The studies of tuner in a storage, the newest first."""
    query = select(tables.STUDIES.c.study_name).join(tables.STUDY_USER).where(tables.STUDY_USER.c.key == SPEC)
    return list(storage.read(lambda connection: connection.execute(query.order_by(tables.STUDIES.c.study_id.desc())).scalars().all()))


def _exists(storage: Storage, name: str) -> bool:
    return storage.read(lambda connection: _find(connection, name)) is not None


def _create(spec: StudySpec, storage: Storage) -> None:
    """Make the study whole in one transaction, unless another worker was quicker."""

    def attempt() -> None:
        try:
            storage.transact(lambda connection: create(connection, spec))
        except IntegrityError:
            if not _exists(storage, spec.name):
                raise

    storage.call(attempt)


def create(connection: Connection, spec: StudySpec) -> int:
    """A new study without trials; its id.

    Raises:
        IntegrityError: there is one of this name.
    """
    is_of_new_images = spec.training.images == "train"
    measured = "validation accuracy" if is_of_new_images else "accuracy on images that were trained on"
    study_id = tables.create_study(
        connection, spec.name, user={SPEC: spec.model_dump_json()}, system={optuna_private.METRIC_NAMES: [measured]}
    )
    notes.put(connection, study_id, notes.of_study(spec, best=None))
    return study_id


def _give_budget(connection: Connection, study: Study, budget: Budget) -> Budget:
    """Change the budget to a file's, unless that says the same as when someone changed it; the one that holds."""
    tables.lock_study(connection, study.id, study.name)
    given = tables.get(connection, tables.STUDY_USER, study.id, GIVEN_BUDGET).get(GIVEN_BUDGET)
    if given is not None and Budget.model_validate(given) == budget:
        return up_to_date(connection, study).spec.budget
    put_budget(connection, study, budget)
    tables.remove(connection, tables.STUDY_USER, study.id, GIVEN_BUDGET)
    return budget


def put_budget(connection: Connection, study: Study, budget: Budget) -> None:
    """Change the budget in the storage, and nothing beside it. The study must be locked."""
    stored = tables.get(connection, tables.STUDY_USER, study.id, SPEC)
    changed = json.loads(stored[SPEC]) | {"budget": budget.model_dump(mode="json")}
    tables.put(connection, tables.STUDY_USER, study.id, {SPEC: json.dumps(changed)})


def _with(study: Study, **sections: Any) -> Study:
    return replace(study, spec=study.spec.model_copy(update=sections))


def _find(connection: Connection, name: str) -> Row[Any, Any, Any] | None:
    """Row of id, direction and spec of a study; None if there is none."""
    user, directions = tables.STUDY_USER, tables.DIRECTIONS
    is_spec = (user.c.study_id == tables.STUDIES.c.study_id) & (user.c.key == SPEC)
    query = (
        select(tables.STUDIES.c.study_id, directions.c.direction, user.c.value_json)
        .join(directions, directions.c.study_id == tables.STUDIES.c.study_id)
        .outerjoin(user, is_spec)
        .where(tables.STUDIES.c.study_name == name)
        .order_by(directions.c.objective.desc())
    )
    return connection.execute(query).first()


def _read_spec(name: str, found: Row[Any, Any, Any]) -> StudySpec:
    cure = "Give the study another name, or choose another --storage."
    if found.value_json is None:
        raise StudyError(f"the study {name} in this storage was not made by tuner. {cure}")
    if found.direction is not StudyDirection.MAXIMIZE:
        raise StudyError(f"the study {name} in this storage does not maximize one value, so tuner did not make it. {cure}")
    try:
        return parse_spec(json.loads(found.value_json))
    except ValidationError as error:
        raise StudyError(f"the study {name} was made by another version of tuner: {error.errors()[0]['msg']}. {cure}") from error


def parse_spec(text: str) -> StudySpec:
    """Return the spec of a study from its attribute `SPEC`, which this or an earlier version of tuner wrote.

    Raises:
        ValidationError: this version cannot read it.
    """
    stored = TypeAdapter(dict[str, Any]).validate_json(text)
    search = stored.get("search")
    if isinstance(search, dict) and "adam_weight_decay" not in search:  # before this field existed, `weight_decay` acted on adam
        stored = stored | {"search": search | {"adam_weight_decay": True}}
    return StudySpec.model_validate(stored)


def _open(study_id: int, spec: StudySpec, storage: Storage) -> Study:
    combinations = enumeration.combinations(spec)
    if combinations is not None:
        random.Random(spec.seed).shuffle(combinations)
    migrated = storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study_id, MIGRATED)).get(MIGRATED) or {}
    reader = storage.call(lambda: OptunaStudy(spec.name, storage.cached, sampler=RandomSampler(), pruner=NopPruner()))
    return Study(
        name=spec.name, spec=spec, storage=storage, optuna=reader, id=study_id, combinations=combinations,
        carried_from=migrated.get("from", ""), num_carried=migrated.get("num_carried", 0), num_left=migrated.get("num_left", 0),
    )  # fmt: skip
