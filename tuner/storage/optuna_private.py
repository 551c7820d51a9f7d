"""Private names of Optuna and optuna-dashboard: every one that tuner uses.

No other module uses a private name of either. tests/storage/test_optuna_private.py checks that each name exists and means what we
think, and pyproject.toml pins the versions that were checked.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.samplers import QMCSampler
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from sqlalchemy import Column, Connection, MetaData, String, Table

if TYPE_CHECKING:  # at run time it would import boto3, which takes a quarter of a second
    from optuna.artifacts._protocol import ArtifactStore as ArtifactStore  # noqa: PLC0414 - exported

#: Optuna's tables
METADATA: MetaData = models.BaseModel.metadata
STUDIES: Table = models.StudyModel.__table__
DIRECTIONS: Table = models.StudyDirectionModel.__table__
STUDY_USER: Table = models.StudyUserAttributeModel.__table__
STUDY_SYSTEM: Table = models.StudySystemAttributeModel.__table__
TRIALS: Table = models.TrialModel.__table__
TRIAL_USER: Table = models.TrialUserAttributeModel.__table__
TRIAL_SYSTEM: Table = models.TrialSystemAttributeModel.__table__
PARAMETERS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
INTERMEDIATE: Table = models.TrialIntermediateValueModel.__table__
#: holds the version of Optuna that created the tables
VERSION_INFO: Table = models.VersionInfoModel.__table__
#: Optuna's migrations, by their files, and the revision of a database that has had them all
_MIGRATIONS = {
    *("v0.9.0.a.py", "v1.2.0.a.py", "v1.3.0.a.py", "v2.4.0.a.py", "v2.6.0.a_.py"),
    *("v3.0.0.a.py", "v3.0.0.b.py", "v3.0.0.c.py", "v3.0.0.d.py", "v3.2.0.a_.py"),
}
_REVISION: Final = "v3.2.0.a"
#: holds that revision
_ALEMBIC = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
#: `value_type` of a finite value; Optuna stores an infinite value as NULL with another type
FINITE: Final = models.TrialValueModel.TrialValueType.FINITE
FINITE_INTERMEDIATE: Final = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE

#: system attribute of a trial: the parameters that `Study.enqueue_trial` was given
FIXED_PARAMS: Final = "fixed_params"
#: system attribute of a study: what `Study.set_metric_names` was given
METRIC_NAMES: Final = "study:metric_names"
#: start of the system attributes in which TPE tells other workers what it has drawn (optuna.samplers._tpe.sampler)
TPE_RELATIVE_PARAMS: Final = "tpe:relative_params"
#: start of the system attributes with the constraints of a trial: above 0 if it breaks one (optuna.study._constrained_optimization)
CONSTRAINTS: Final = "constraints:"

#: start of the system attributes that describe artifacts (optuna.artifacts._upload.ARTIFACTS_ATTR_PREFIX)
ARTIFACTS_ATTR_PREFIX: Final = "artifacts:"
#: optuna-dashboard keeps a note in pages of at most this length (optuna_dashboard._note.SYSTEM_ATTR_MAX_LENGTH)
NOTE_PAGE_LENGTH: Final = 2045
#: keys of a study's system attributes that contain the id of a trial: its notes and its artifacts in optuna-dashboard
_KEY_OF_TRIAL = re.compile(r"(dashboard:(?:artifacts:)?)(\d+)(:.*)?", re.DOTALL)
#: keys under which a genetic sampler stores the ids of a generation's parents (optuna.samplers._ga._base)
_PARENTS = re.compile(r"\w+:parent:\d+")


#: what reading attributes, values and parameters raises that Optuna did not write
_NOT_OF_OPTUNA: Final = (ValueError, RecursionError, IndexError, KeyError, TypeError, AttributeError, AssertionError)


def decoded(text: str) -> Any:
    """Return the value of an attribute; of one that is not JSON, which another program wrote or cut off, return its text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # RecursionError: thousands of brackets inside each other
        return text


def readable_parameters(stored: Iterable[tuple[str, tuple[float, str]]]) -> dict[str, tuple[float, BaseDistribution]]:
    """Return the value and the distribution of each stored parameter by name, without those that Optuna cannot read."""
    found = {}
    for name, (value, text) in stored:
        try:
            distribution = _distribution(text)
            distribution.to_external_repr(value)
        except _NOT_OF_OPTUNA:
            continue
        found[name] = (value, distribution)
    return found


@functools.lru_cache(maxsize=1_000)
def _distribution(text: str) -> BaseDistribution:
    """Return a stored distribution; most trials share a few."""
    return json_to_distribution(text)


class TolerantStorage(RDBStorage):
    """Optuna's storage, which also reads studies and trials to which another program added what Optuna cannot read.

    An attribute that is not JSON is read as its text. Parameters and values that cannot be read are left out.
    """

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the user attributes of a study."""
        try:
            return super().get_study_user_attrs(study_id)
        except (ValueError, RecursionError):
            return self._attributes_of_studies(STUDY_USER).get(study_id, {})

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the system attributes of a study."""
        try:
            return super().get_study_system_attrs(study_id)
        except (ValueError, RecursionError):
            return self._attributes_of_studies(STUDY_SYSTEM).get(study_id, {})

    def get_all_studies(self) -> list[FrozenStudy]:
        """Return all studies with their attributes."""
        try:
            return super().get_all_studies()
        except (ValueError, RecursionError):
            return self._all_studies()

    def _all_studies(self) -> list[FrozenStudy]:
        user, system = self._attributes_of_studies(STUDY_USER), self._attributes_of_studies(STUDY_SYSTEM)
        with self.engine.connect() as connection:
            query = sqlalchemy.select(DIRECTIONS.c.study_id, DIRECTIONS.c.direction).order_by(DIRECTIONS.c.objective)
            directions: dict[int, list[Any]] = {}
            for study_id, direction in connection.execute(query):
                directions.setdefault(study_id, []).append(direction)
            named = connection.execute(sqlalchemy.select(STUDIES.c.study_id, STUDIES.c.study_name).order_by(STUDIES.c.study_id)).all()
        return [
            FrozenStudy(
                study_name=name, direction=None, directions=directions.get(study_id, []), user_attrs=user.get(study_id, {}),
                system_attrs=system.get(study_id, {}), study_id=study_id,
            )
            for study_id, name in named
        ]  # fmt: skip

    def _attributes_of_studies(self, table: Table) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        with self.engine.connect() as connection:
            for study_id, key, text in connection.execute(sqlalchemy.select(table.c.study_id, table.c.key, table.c.value_json)):
                found.setdefault(study_id, {})[key] = decoded(text)
        return found

    def _build_frozen_trial_from_trial_model(self, trial: models.TrialModel) -> FrozenTrial:
        try:
            return super()._build_frozen_trial_from_trial_model(trial)
        except _NOT_OF_OPTUNA:
            return super()._build_frozen_trial_from_trial_model(_readable(trial))


def _readable(trial: models.TrialModel) -> Any:
    """Return a trial as Optuna reads it, without what it cannot read."""
    values = [one for one in trial.values if one.value is not None or one.value_type != FINITE]
    objectives = {value.objective for value in values}
    return SimpleNamespace(
        trial_id=trial.trial_id, number=trial.number, state=trial.state,
        datetime_start=trial.datetime_start, datetime_complete=trial.datetime_complete,
        values=values if objectives == set(range(len(objectives))) else [],
        params=[one for one in trial.params if readable_parameters([("", (one.param_value, one.distribution_json))])],
        user_attributes=[_as_json(attribute) for attribute in trial.user_attributes],
        system_attributes=[_as_json(attribute) for attribute in trial.system_attributes],
        intermediate_values=trial.intermediate_values,
    )  # fmt: skip


def _as_json(attribute: Any) -> Any:
    return SimpleNamespace(key=attribute.key, value_json=json.dumps(decoded(attribute.value_json)))


class NumberedQMCSampler(QMCSampler):
    """A quasi-random sampler with a fixed index into its sequence. Optuna counts in the storage, where two workers may get one index."""

    def __init__(self, index: int, **options: Any) -> None:
        super().__init__(**options)
        self._index = index

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self._index


def is_up_to_date(connection: Connection) -> bool:
    """Return whether a database certainly has the tables of this version of Optuna; if not, Optuna's own check has to decide.

    That check reads all of Optuna's migrations, which takes most of the time that opening a storage takes.
    """
    if not _knows_migrations() or not sqlalchemy.inspect(connection).has_table(_ALEMBIC.name):
        return False
    return connection.execute(sqlalchemy.select(_ALEMBIC.c.version_num)).scalars().all() == [_REVISION]


def stamp(connection: Connection) -> None:
    """Store that new tables are those of this version of Optuna.

    Optuna does the same, but with a second connection while the first one waits: processes that start at once would block each other if a
    pool such as PgBouncer has only a few connections.
    """
    is_new = connection.execute(sqlalchemy.select(VERSION_INFO.c.version_info_id)).first() is None
    if is_new and _knows_migrations():
        _ALEMBIC.create(connection, checkfirst=True)
        if connection.execute(sqlalchemy.select(_ALEMBIC)).first() is None:
            connection.execute(sqlalchemy.insert(_ALEMBIC).values(version_num=_REVISION))


def _knows_migrations() -> bool:
    return {path.name for path in (Path(models.__file__).parent / "alembic" / "versions").glob("*.py")} == _MIGRATIONS


def trial_id(trial: FrozenTrial) -> int:
    """Return the id of a trial in the database."""
    return trial._trial_id


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution can give a value."""
    return distribution._contains(distribution.to_internal_repr(value))


def with_other_ids(key: str, text: str, ids: Mapping[int, int]) -> tuple[str, str] | None:
    """Return a system attribute of a study, as key and JSON text, with other ids of its trials; None if it is about an unknown trial."""
    if _PARENTS.fullmatch(key):
        return key, json.dumps([ids[trial_id] for trial_id in json.loads(text) if trial_id in ids])
    found = _KEY_OF_TRIAL.fullmatch(key)
    if found is None:
        return key, text
    start, trial_id, rest = found.groups()
    return None if int(trial_id) not in ids else (f"{start}{ids[int(trial_id)]}{rest or ''}", text)


def note_owner(trial_id: int | None) -> str:
    """Return the start of the keys of a note, which are system attributes of the study; `trial_id` is None for the study's own note."""
    return "dashboard" if trial_id is None else f"dashboard:{trial_id}"


def note_version_key(owner: str) -> str:
    """Return the key of a note's version."""
    return f"{owner}:note_ver"


def note_page_prefix(owner: str) -> str:
    """Return the start of the keys of a note's pages; the number of the page follows, counted from 0."""
    return f"{owner}:note_str:"
