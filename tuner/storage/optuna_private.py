"""Private names of Optuna and optuna-dashboard: every one that tuner uses.

No other module uses a private name of either. tests/storage/test_optuna_private.py checks that each name exists and means what we
think, and pyproject.toml pins the versions that were checked.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler
from optuna.storages._rdb import models
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

#: start of the system attributes that describe artifacts (optuna.artifacts._upload.ARTIFACTS_ATTR_PREFIX)
ARTIFACTS_ATTR_PREFIX: Final = "artifacts:"
#: optuna-dashboard keeps a note in pages of at most this length (optuna_dashboard._note.SYSTEM_ATTR_MAX_LENGTH)
NOTE_PAGE_LENGTH: Final = 2045
#: keys of a study's system attributes that contain the id of a trial: its notes and its artifacts in optuna-dashboard
_KEY_OF_TRIAL = re.compile(r"(dashboard:(?:artifacts:)?)(\d+)(:.*)?", re.DOTALL)
#: keys under which a genetic sampler stores the ids of a generation's parents (optuna.samplers._ga._base)
_PARENTS = re.compile(r"\w+:parent:\d+")


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
