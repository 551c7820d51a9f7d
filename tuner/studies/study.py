"""Study: a study in a storage, which any number of workers share."""

import contextlib
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
from tuner.sampling.history import StudyMemory
from tuner.spec import file as study_file
from tuner.spec import plan, tasks
from tuner.spec.data import keep_earlier_order
from tuner.spec.hyperparameters import ProbeSolver
from tuner.spec.study import IMAGE_CLASSIFICATION, AnyStudySpec, Budget, StudySpec, images_of
from tuner.spec.tasks import UnknownTask
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import GIVEN_BUDGET, MIGRATED, SPEC
from tuner.storage.engine import Storage
from tuner.studies import moved, notes


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study in a storage."""

    name: str
    spec: AnyStudySpec
    storage: Storage = field(repr=False)
    #: the same study as an object of Optuna, with a cache of finished trials
    optuna: OptunaStudy = field(repr=False)
    #: id in the database
    id: int
    #: the values of each trial by number, if the sampler tries all combinations; else None
    combinations: Sequence[dict[str, Any]] | None = field(repr=False, default=None)
    #: the study that its first trials were migrated from, and the numbers of trials carried over and left behind; "" if none
    carried_from: str = ""
    num_carried: int = 0
    num_left: int = 0
    #: whether this program, and not the storage, named the code of the study, so that it may be imported here
    is_own: bool = False
    #: what this process has already read of the study
    memory: StudyMemory = field(repr=False, compare=False, default_factory=StudyMemory)

    @property
    def images(self) -> StudySpec:
        """The study file of an image study.

        Raises:
            StudyError: the study is about something else.
        """
        return images_of(self.spec)

    @property
    def is_of_images(self) -> bool:
        """Whether it is a study of images."""
        return isinstance(self.spec, StudySpec)

    @property
    def searches_models(self) -> bool:
        """Whether trials choose among several backbones or image sizes."""
        return isinstance(self.spec, StudySpec) and self.spec.model.is_searched


def join(spec: AnyStudySpec, storage: Storage) -> Study:
    """Create the study of a file, or join the existing one; many workers may call this at once.

    An existing study gets the budget of the file, unless someone changed the budget after the last run of the file. This
    process uses the path of the images and the section `results` from the file; those in the storage stay the same.

    Raises:
        StudyError: the existing study of this name differs from the file, or another program created it.
        SpecError: the sampler cannot enumerate the search space.
        MissingPackage: the sampler needs a package that is not installed.
    """
    enumeration.check_sampler(spec)
    if not _exists(storage, spec.name):
        _create(spec, storage)
    study = load(spec.name, storage)
    if isinstance(study.spec, StudySpec) and isinstance(spec, StudySpec):
        spec = study_file.with_backbone_of(study.spec, spec)
    changes = study_file.differences(study.spec, spec)
    if changes:
        compares = all(change.startswith(study_file.SEARCHED) for change in changes)
        raise StudyError(
            f"the study {spec.name} was started with another file:\n  "
            + "\n  ".join(changes)
            + "\nTheir trials would not be comparable. Undo the changes, or change the name in the file to start a new study."
            + (f" To keep the trials that fit both files: tuner migrate {spec.name} FILE" if compares else "")
        )
    budget = study.spec.budget
    if budget != spec.budget:
        budget = storage.write(lambda connection: _give_budget(connection, study, spec.budget))
    if isinstance(study.spec, StudySpec) and isinstance(spec, StudySpec):
        spec = study_file.with_class_order_of(study.spec, spec)
    return at(_with(study, budget=budget, results=spec.results), spec)


def load(name: str | None, storage: Storage) -> Study:
    """Open an existing study; without a name, the newest one.

    Raises:
        StudyError: there is no such study, or another program created it.
    """
    known = names(storage)
    if name is None:
        if not known:
            raise StudyError("there is no study in this storage yet; start one with: tuner run STUDY.yaml")
        name = known[0]
    found = storage.read(lambda connection: _find(connection, name))
    if found is None:
        now = storage.read(lambda connection: moved.current_name(connection, name))
        meant = difflib.get_close_matches(name, known, n=1)
        hint = f" Another program renamed it to {now}." if now != name else f" Did you mean {meant[0]}?" if meant else ""
        listed = f"Known: {wording.listed(known)}." if known else "The storage has no study yet."
        raise StudyError(f"there is no study {name} in this storage. {listed}{hint}")
    return _open(found.study_id, _read_spec(name, found), storage)


#: sections of a study file that depend on the machine: where the images are, and where the code is
_OF_THE_MACHINE = ("data", "folder")


def at(study: Study, here: AnyStudySpec) -> Study:
    """Return the study with the paths of its images and its code on this machine, and with the limit of silence of this file."""
    sections = {name: getattr(here, name) for name in type(study.spec).model_fields.keys() & set(_OF_THE_MACHINE)}
    training = getattr(study.spec, "training", None)
    if here.stall_seconds != study.spec.stall_seconds and training is not None:
        sections["training"] = training.model_copy(update={"stall_timeout": here.stall_seconds})
    return _with(study, **sections)


def up_to_date(connection: Connection, study: Study) -> Study:
    """Return the study with its current budget in the storage, which may have changed since the study was opened."""
    return with_stored(study, tables.get(connection, tables.STUDY_USER, study.id, SPEC))


def with_stored(study: Study, attributes: Mapping[str, Any]) -> Study:
    """Return the study with the budget in its stored attributes."""
    stored = attributes.get(SPEC)
    if stored is None:
        return study
    try:
        return _with(study, budget=Budget.model_validate(_object(stored)["budget"]))
    except (KeyError, ValidationError) as error:
        raise _damaged(study.name) from error


def names(storage: Storage) -> list[str]:
    """Return the names of tuner's studies in a storage, the newest first."""
    query = select(tables.STUDIES.c.study_name).join(tables.STUDY_USER).where(tables.STUDY_USER.c.key == SPEC)
    return list(storage.read(lambda connection: connection.execute(query.order_by(tables.STUDIES.c.study_id.desc())).scalars().all()))


def follow_renames(storage: Storage) -> None:
    """Give the versions of studies that another program renamed their new names, as opening these studies does."""
    for name in storage.read(moved.with_orphaned_versions):
        with contextlib.suppress(StudyError):  # a study that cannot be read keeps its versions under its earlier name
            load(name, storage)


def _exists(storage: Storage, name: str) -> bool:
    return storage.read(lambda connection: _find(connection, name)) is not None


def _create(spec: AnyStudySpec, storage: Storage) -> None:
    """Create the study in one transaction, unless another worker has just created it."""

    def attempt() -> None:
        try:
            storage.transact(lambda connection: create(connection, spec))
        except IntegrityError:
            if not _exists(storage, spec.name):
                raise

    storage.call(attempt)


def create(connection: Connection, spec: AnyStudySpec) -> int:
    """Create a study without trials, and return its id.

    Raises:
        IntegrityError: the name is taken.
    """
    study_id = tables.create_study(
        connection,
        spec.name,
        maximizes=spec.objective.maximizes,
        user={SPEC: spec.model_dump_json()},
        system={optuna_private.METRIC_NAMES: [plan.metric(spec)]},
    )
    notes.put(connection, study_id, notes.of_study(spec, best=None))
    return study_id


def _give_budget(connection: Connection, study: Study, budget: Budget) -> Budget:
    """Return the budget that applies: a changed budget in the file overwrites the stored one."""
    tables.lock_study(connection, study.id, study.name)
    given = tables.get(connection, tables.STUDY_USER, study.id, GIVEN_BUDGET).get(GIVEN_BUDGET)
    if given is not None and Budget.model_validate(given) == budget:
        return up_to_date(connection, study).spec.budget
    put_budget(connection, study, budget)
    tables.remove(connection, tables.STUDY_USER, study.id, GIVEN_BUDGET)
    return budget


def put_budget(connection: Connection, study: Study, budget: Budget) -> None:
    """Change only the budget in the storage. The study must be locked."""
    stored = tables.get(connection, tables.STUDY_USER, study.id, SPEC)
    try:
        changed = _object(stored[SPEC]) | {"budget": budget.model_dump(mode="json")}
    except (KeyError, ValidationError) as error:
        raise _damaged(study.name) from error
    tables.put(connection, tables.STUDY_USER, study.id, {SPEC: json.dumps(changed)})


def _with(study: Study, **sections: Any) -> Study:
    return replace(study, spec=study.spec.model_copy(update=sections))


def _find(connection: Connection, name: str) -> Row[Any, Any, Any, Any] | None:
    """Return id, last direction with its place, and spec of a study, or None if there is no such study."""
    user, directions = tables.STUDY_USER, tables.DIRECTIONS
    is_spec = (user.c.study_id == tables.STUDIES.c.study_id) & (user.c.key == SPEC)
    query = (
        select(tables.STUDIES.c.study_id, directions.c.direction, directions.c.objective, user.c.value_json)
        .join(directions, directions.c.study_id == tables.STUDIES.c.study_id)
        .outerjoin(user, is_spec)
        .where(tables.STUDIES.c.study_name == name)
        .order_by(directions.c.objective.desc())
    )
    return connection.execute(query).first()


def _read_spec(name: str, found: Row[Any, Any, Any, Any]) -> AnyStudySpec:
    cure = "Choose another name for the study, or another --storage."
    if found.value_json is None:
        raise StudyError(f"the study {name} in this storage was not created by tuner. {cure}")
    if found.objective:
        raise StudyError(f"the study {name} in this storage has several objectives, so it was not created by tuner. {cure}")
    text = optuna_private.decoded(found.value_json)
    try:
        _object(text)
    except ValidationError as error:
        raise _damaged(name) from error
    try:
        spec = parse_spec(text, name=name)
    except UnknownTask as error:
        raise StudyError(f"the study {name} {error}. {cure}") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("name",):
            raise StudyError(
                f"the study {name} was renamed or copied by another program, and a name of a study has only letters, digits, dots, dashes "
                "and underscores, and at most 100 of them. Give it another name with that program"
            ) from error
        raise StudyError(f"the study {name} was created by another version of tuner: {first['msg']}. {cure}") from error
    if (found.direction is StudyDirection.MAXIMIZE) is not spec.objective.maximizes:
        raise StudyError(
            f"the study {name} in this storage has the direction {found.direction.name.lower()}, but its file says otherwise, so another "
            f"program changed it. {cure}"
        )
    return spec


def parse_spec(text: Any, *, name: str | None = None) -> AnyStudySpec:
    """Return the spec of a study from its attribute `SPEC`, which this or an earlier version of tuner wrote.

    `name` is the name of the study in the storage: Optuna and optuna-dashboard rename and copy a study without changing its spec.

    Raises:
        ValidationError: this version cannot read it.
        UnknownTask: this version has no such task.
    """
    stored = _object(text)
    if name is not None:
        stored = stored | {"name": name}
    if stored.get("task", IMAGE_CLASSIFICATION) != IMAGE_CLASSIFICATION:
        return tasks.parse(stored)
    search = stored.get("search")
    if isinstance(search, dict):
        # before these fields existed, `weight_decay` acted on adam, every probe trained in steps, and features had no floor
        earlier = {"adam_weight_decay": True, "probe_solver": ProbeSolver.SGD.value, "feature_floor": 0}
        stored = stored | {"search": earlier | search}
    return StudySpec.model_validate(stored | {"data": keep_earlier_order(stored.get("data"))})


def _object(text: Any) -> dict[str, Any]:
    """Return the stored spec as a dict.

    Raises:
        ValidationError: it is something else.
    """
    return TypeAdapter(dict[str, Any]).validate_json(text if isinstance(text, str) else "null")


def _damaged(name: str) -> StudyError:
    return StudyError(
        f"the study {name} cannot be read: its user attribute `{SPEC}` is not what tuner wrote. Restore it from a backup of the database, "
        "or delete the study"
    )


def _open(study_id: int, spec: AnyStudySpec, storage: Storage) -> Study:
    combinations = enumeration.combinations(spec)
    if combinations is not None:
        random.Random(spec.seed).shuffle(combinations)
    if storage.read(lambda connection: moved.is_incomplete(connection, study_id, spec.name)):
        storage.write(lambda connection: moved.complete(connection, study_id, spec.name))
    migrated = storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study_id, MIGRATED)).get(MIGRATED)
    migrated = migrated if isinstance(migrated, dict) else {}
    reader = storage.call(lambda: OptunaStudy(spec.name, storage.cached, sampler=RandomSampler(), pruner=NopPruner()))
    return Study(
        name=spec.name, spec=spec, storage=storage, optuna=reader, id=study_id, combinations=combinations,
        carried_from=migrated.get("from", ""), num_carried=migrated.get("num_carried", 0), num_left=migrated.get("num_left", 0),
    )  # fmt: skip
