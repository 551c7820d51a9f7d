"""Trials of one study into another, whole: state, value, epochs, parameters and what is said of them, with where they came from."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import IntegrityError

from tuner.errors import StudyError
from tuner.search import claims, endings, leases, notes, tables
from tuner.search import study as studies
from tuner.search.evolution import Evolution, Kept
from tuner.search.notes import BestSoFar
from tuner.search.study import MIGRATED, PREPARED, Study
from tuner.search.tables import EPOCHS, INTERMEDIATE, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES

#: user attribute of a trial that was carried over
CARRIED_FROM = "carried_from"
#: of a trial that is not ours to keep twice are its pictures: their files belong to the old study
_SYSTEM = (claims.HYPERPARAMETERS, endings.CONFUSION, endings.MISTAKES, endings.LOG)
#: trials that are left behind and named in what is kept of a migration
_NAMED = 200


def carry(evolution: Evolution, *, by: str) -> Study:
    """Make the new study with all trials that are carried over, in one transaction; the old one is only read.

    Raises:
        StudyError: there is a study of this name.
    """
    storage, spec = evolution.source.storage, evolution.spec

    def attempt() -> None:
        try:
            storage.transact(lambda connection: _write(connection, evolution, by))
        except IntegrityError as error:
            raise StudyError(f"there is a study {spec.name} in this storage; name another in the file") from error

    storage.call(attempt)
    return studies.load(spec.name, storage)


def record(evolution: Evolution, *, by: str, at: float) -> dict[str, Any]:
    """What the new study says of its origin."""
    return {
        "from": evolution.source.name,
        "by": by,
        "at": at,
        "changes": list(evolution.changes),
        "num_carried": len(evolution.kept),
        "num_left": len(evolution.left),
        "left": [{"trial": left.number, "reason": left.reason} for left in evolution.left[:_NAMED]],
    }


def _write(connection: Connection, evolution: Evolution, by: str) -> None:
    said = record(evolution, by=by, at=leases.clock(connection))
    study_id = studies.create(connection, evolution.spec)
    prepared = evolution.prepared.model_dump(mode="json")
    tables.put(connection, tables.STUDY_USER, study_id, {PREPARED: prepared, MIGRATED: said})
    if not evolution.has_rule:
        trial_id = tables.enqueue_trial(connection, study_id, 0)
        tables.put(connection, TRIAL_USER, trial_id, {"origin": "rule", "seed": claims.seed_of(evolution.spec, 0)})
    ids = {kept.trial_id: _insert(connection, study_id, kept) for kept in evolution.kept}
    for kept in evolution.kept:
        tables.put_parameters(connection, ids[kept.trial_id], kept.fitted.values, kept.fitted.distributions)
    old_id = evolution.source.id
    for table in (VALUES, INTERMEDIATE, TRIAL_USER):
        _copy(connection, table, old_id, ids)
    _copy(connection, TRIAL_SYSTEM, old_id, ids, keys=_SYSTEM)
    _copy_epochs(connection, evolution, study_id)
    for kept in evolution.kept:
        tables.put(connection, TRIAL_USER, ids[kept.trial_id], _origin(evolution.source, kept))
    _note(connection, evolution, study_id, ids)


def _insert(connection: Connection, study_id: int, kept: Kept) -> int:
    moments = select(TRIALS.c.datetime_start, TRIALS.c.datetime_complete).where(TRIALS.c.trial_id == kept.trial_id)
    start, end = connection.execute(moments).one()
    row = {"study_id": study_id, "number": kept.new_number, "state": kept.state, "datetime_start": start, "datetime_complete": end}
    key = connection.execute(insert(TRIALS).values(**row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _copy(connection: Connection, table: Table, old_study: int, ids: Mapping[int, int], *, keys: tuple[str, ...] = ()) -> None:
    """The rows of some trials in a table of Optuna's, for the trials that they became."""
    query = select(table).join(TRIALS, TRIALS.c.trial_id == table.c.trial_id).where(TRIALS.c.study_id == old_study)
    if keys:
        query = query.where(table.c.key.in_(keys))
    own = {column.name for column in table.primary_key}
    rows = [
        {name: value for name, value in row.items() if name not in own} | {"trial_id": ids[row["trial_id"]]}
        for row in connection.execute(query).mappings()
        if row["trial_id"] in ids
    ]
    if rows:
        connection.execute(insert(table), rows)


def _copy_epochs(connection: Connection, evolution: Evolution, study_id: int) -> None:
    numbers = {kept.number: kept.new_number for kept in evolution.kept}
    found = connection.execute(select(EPOCHS).where(EPOCHS.c.study_id == evolution.source.id)).mappings()
    rows = [
        dict(row) | {"study_id": study_id, "trial_number": numbers[row["trial_number"]]} for row in found if row["trial_number"] in numbers
    ]
    if rows:
        connection.execute(insert(EPOCHS), rows)


def _origin(source: Study, kept: Kept) -> dict[str, str]:
    said = {CARRIED_FROM: f"trial {kept.number} of {source.name}"}
    return said | ({"origin": f"rule of {source.name}"} if kept.number == 0 and kept.new_number != 0 else {})


def _note(connection: Connection, evolution: Evolution, study_id: int, ids: Mapping[int, int]) -> None:
    """The study's note, with the best of the trials that were carried over."""
    completed = {ids[kept.trial_id]: kept.new_number for kept in evolution.kept if kept.state is TrialState.COMPLETE}
    query = select(VALUES.c.trial_id, VALUES.c.value).join(TRIALS, TRIALS.c.trial_id == VALUES.c.trial_id)
    query = query.where(TRIALS.c.study_id == study_id, TRIALS.c.state == TrialState.COMPLETE)
    row = connection.execute(query.order_by(VALUES.c.value.desc(), TRIALS.c.number).limit(1)).first()
    if row is not None:
        best = BestSoFar(number=completed[row[0]], value=row[1], parameters=tables.parameters(connection, row[0]))
        notes.put(connection, study_id, notes.of_study(evolution.spec, best=best))
