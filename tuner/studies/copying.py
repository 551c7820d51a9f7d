"""Copying: carries a whole study into another storage, with its retrainings, its versions and what the audit says about it.

- The whole copy is one transaction of the target. An interrupted copy leaves nothing there, and nobody sees a part of one.
- The source is read as it was at one moment, and is not changed. Every part is read back from the target and compared.
- Rows are carried as they are stored, with the ids of the target. Only a new name of the study changes values.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Table, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from tuner import wording
from tuner.errors import StorageError, StudyError
from tuner.storage import database_errors, optuna_private, queries, tables
from tuner.storage import engine as storages
from tuner.storage.attributes import COPIED, NOTE_DIGEST, SPEC, WEIGHTS
from tuner.storage.engine import Storage
from tuner.storage.tables import (
    AUDIT,
    EPOCHS,
    INTERMEDIATE,
    LEASES,
    PARAMETERS,
    READINGS,
    STAGES,
    STUDIES,
    STUDY_SYSTEM,
    STUDY_USER,
    TRIAL_SYSTEM,
    TRIAL_USER,
    TRIALS,
    VALUES,
    VERSIONS,
    WORKERS,
)
from tuner.studies import leases, moved, notes, retraining, workers
from tuner.studies import study as studies
from tuner.studies.notes import BestNote
from tuner.studies.study import Study

Row = dict[str, Any]
Rows = dict[Table, list[Row]]

#: number of trials that are read, written and compared at once
BATCH = 200
#: number of rows in one statement
_ROWS = 1_000
#: tables with rows of a trial, by its id and by its number
_BY_ID = (TRIALS, TRIAL_USER, TRIAL_SYSTEM, PARAMETERS, VALUES, INTERMEDIATE)
_BY_NUMBER = (LEASES, EPOCHS)
#: tables with rows of a model, which has the name of its study
_OF_MODELS = (VERSIONS, STAGES, READINGS)
#: tables whose key is text, which databases sort differently
_SORTED = (WORKERS, VERSIONS)
#: in a row that is carried: the number of its trial, in place of the id
_NUMBER = "number of its trial"
_OTHER_NAME = "To copy it under another name: --name NAME"
#: MySQL and MariaDB keep the times of a trial in whole seconds
_ROUNDING = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class CopiedStudy:
    """A study in another storage, with the record of its copy."""

    study: Study
    #: the attribute COPIED
    record: Mapping[str, Any]
    #: False: an earlier call made it, and the source has not changed since
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A study that is copied, with its name in the target."""

    study: Study
    name: str


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows that are read, written and compared together: of some trials, or those of a study beside its trials."""

    rows: Rows
    #: the numbers of the trials that the rows name, by id
    numbers: Mapping[int, int]


def copy(
    source: Study,
    target: Storage,
    *,
    name: str,
    by: str,
    batch: int = BATCH,
    tell: Callable[[str, int], Any] = lambda *_: None,
) -> CopiedStudy:
    """Copy a study and its retrainings into another storage under a name. If an earlier call did the same, write nothing.

    `tell` is called with the name of a study and the number of its trials copied so far. The copy appears in the target when it is whole.

    Raises:
        StudyError: workers are active, the target is the same database or has the name, or the study is a retraining of another one.
        StorageError: a database failed; nothing was copied.
    """
    require_idle(source)
    if storages.is_same(source.storage, target):
        raise StudyError(
            f"{storages.shown(target.url)} is the database that the study {source.name} is in, so it is not copied; name another database. "
            f"To change its search in the same database: tuner migrate {source.name} FILE"
        )
    transfer = _Transfer(source=source.storage, target=target, family=_family(source, name), by=by, batch=batch, tell=tell)
    earlier = transfer.earlier()
    record = transfer.run() if earlier is None else earlier
    return CopiedStudy(study=studies.load(name, target), record=record, is_new=earlier is None)


def require_idle(source: Study) -> None:
    """Refuse a study with active workers, or with a retraining that has some.

    Raises:
        StudyError: the workers would continue in the source, and their results would be missing from the copy.
    """
    for member in _family(source, source.name):
        _require_idle(member.study)


def places(study: Study) -> dict[str, int]:
    """Return the folders and URLs of the weights that a study, its retrainings and its versions name, with their number in each."""
    family = [member.study for member in _family(study, study.name)]
    weights = (
        select(TRIAL_USER.c.value_json)
        .join(TRIALS, TRIALS.c.trial_id == TRIAL_USER.c.trial_id)
        .where(TRIALS.c.study_id.in_([member.id for member in family]), TRIAL_USER.c.key == WEIGHTS)
    )
    kept = select(VERSIONS.c.artifact).where(VERSIONS.c.name.in_([member.name for member in family]), VERSIONS.c.deleted_at.is_(None))

    def read(connection: Connection) -> set[str]:
        known = map(optuna_private.decoded, connection.execute(weights).scalars())
        return {path for path in known if isinstance(path, str)} | set(connection.execute(kept).scalars())

    return dict(Counter(_place(path) for path in sorted(filter(None, study.storage.read(read)))))


def _place(path: str) -> str:
    """Return the folder of a study for a file of weights; a trial has a folder of its own below it."""
    folder = path.rpartition("/")[0] or "/"
    above, _, last = folder.rpartition("/")
    return above if last.startswith("trial-") and above else folder


def _family(source: Study, name: str) -> list[_Member]:
    """Return a study and its retrainings in the order of their creation, with the name that each gets."""
    again = source.spec.retraining
    if again is not None and again.study in studies.names(source.storage):
        raise StudyError(f"the study {source.name} is a retraining of {again.study}, which it is copied with: tuner copy {again.study}")
    kept = retraining.KEPT_NAME
    found = [_Member(study=source, name=name)]
    for retrained in retraining.existing(source):
        for study in (retrained, retraining.on_all(source, retrained)):
            if study is not None:
                found.append(_Member(study=study, name=name[:kept] + study.name[len(source.name[:kept]) :]))
    return sorted(found, key=lambda member: member.study.id)


def _require_idle(study: Study) -> None:
    active = study.storage.read(lambda connection: workers.alive(connection, study.id))
    if active:
        raise StudyError(
            f"the study {study.name} has {wording.count(len(active), 'active worker')} ({wording.listed(active)}). Their results would be "
            f"missing from the copy. Stop them (tuner stop {study.name} --now) and copy the study when they have ended. "
            f"A worker that was killed on another host counts as active for {leases.timing().lease_seconds:.0f} seconds"
        )


@dataclass(frozen=True, kw_only=True)
class _Transfer:
    """One copy: from where, to where, and what."""

    source: Storage
    target: Storage
    family: Sequence[_Member]
    by: str
    batch: int
    tell: Callable[[str, int], Any]

    @property
    def first(self) -> _Member:
        """The study that was named; its retrainings were created after it."""
        return self.family[0]

    @property
    def names(self) -> dict[str, str]:
        """The name of each study in the target, by its name in the source."""
        return {member.study.name: member.name for member in self.family}

    def earlier(self) -> dict[str, Any] | None:
        """Return the record of an earlier copy of the same; None if the target has no study and no version of these names.

        Raises:
            StudyError: a name is taken.
        """
        taken, record = self.target.read(self._read_target)
        if not taken:
            return None
        where = storages.shown(self.target.url)
        if record.get("from") != self.first.study.name:
            raise StudyError(f"{where} already has {taken}, so {self.first.study.name} is not copied. {_OTHER_NAME}")
        if record["sha256"] != self.source.call(lambda: self.source.read_snapshot(self._fingerprint)):
            when = wording.moment(record["at"])
            raise StudyError(f"{where} has a copy of {self.first.study.name} from {when}; the study has changed since then. {_OTHER_NAME}")
        return record

    def run(self) -> dict[str, Any]:
        """Copy everything, and return the record."""
        return self.source.call(
            lambda: self.source.read_snapshot(lambda old: self.target.call(lambda: self.target.transact(lambda new: self._carry(old, new))))
        )

    def _read_target(self, connection: Connection) -> tuple[str, dict[str, Any]]:
        """Return what has one of the names, in words, and the record of an earlier copy."""
        names = list(self.names.values())
        query = select(STUDIES.c.study_name, STUDIES.c.study_id).where(STUDIES.c.study_name.in_(names)).order_by(STUDIES.c.study_id)
        found = dict(connection.execute(query).all())
        if found:
            stored = tables.get(connection, STUDY_USER, found.get(self.first.name, -1), COPIED)
            return f"a study named {next(iter(found))}", stored.get(COPIED, {})
        for table in _OF_MODELS:
            name = connection.execute(select(table.c.name).where(table.c.name.in_(names)).limit(1)).scalar()
            if name is not None:
                return f"versions named {name}, of a study that was deleted", {}
        return "", {}

    def _fingerprint(self, old: Connection) -> str:
        digest = hashlib.sha256()
        for member in self.family:
            for part in _parts(old, member.study.id, self.batch):
                _add(digest, part.rows)
        _add(digest, _beside_studies(old, list(self.names)))
        return digest.hexdigest()

    def _carry(self, old: Connection, new: Connection) -> dict[str, Any]:
        digest = hashlib.sha256()
        made = [self._carry_study(old, new, member, digest) for member in self.family]
        num_versions = self._carry_beside_studies(old, new, digest)
        for member in self.family:  # a worker may have begun meanwhile
            _require_idle(member.study)
        record = {
            "from": self.first.study.name,
            "storage": storages.shown(self.source.url),
            "by": self.by,
            "at": tables.clock(new),
            "studies": [facts for _, facts in made],
            "versions": num_versions,
            "sha256": digest.hexdigest(),
        }
        tables.put(new, STUDY_USER, made[0][0], {COPIED: record})
        return record

    def _carry_study(self, old: Connection, new: Connection, member: _Member, digest: Any) -> tuple[int, dict[str, Any]]:
        """Copy a study with its trials; return its new id, and what it has."""
        study_id = self._create(new, member)
        ids: dict[int, int] = {}
        counts: Counter[str] = Counter()
        parts = _parts(old, member.study.id, self.batch)
        while (part := self._next(parts)) is not None:
            _add(digest, part.rows)
            rows = _renamed(part.rows, self.names)
            _write(new, rows, study_id, ids)
            numbers = {ids[number]: number for number in part.numbers.values()}
            stored = _of_trials(new, study_id, numbers) if TRIALS in rows else _beside_trials(new, study_id, numbers)
            _require_equal(rows, stored, is_rounded=_is_mysql(new))
            counts.update({table.name: len(some) for table, some in rows.items()})
            counts["unfinished"] += sum(row["state"] is TrialState.RUNNING for row in rows.get(TRIALS, ()))
            self.tell(member.name, counts[TRIALS.name])
        _renew_note(new, study_id)
        named = {"trials": counts[TRIALS.name], "epochs": counts[EPOCHS.name], "unfinished": counts["unfinished"]}
        return study_id, {"name": member.name, "from": member.study.name} | named

    def _carry_beside_studies(self, old: Connection, new: Connection, digest: Any) -> int:
        """Copy the versions and the audit; return the number of versions."""
        with _explained(self.source):
            found = _beside_studies(old, list(self.names))
        _add(digest, found)
        rows = _renamed(found, self.names)
        _write(new, rows, 0, {})
        stored = _beside_studies(new, list(self.names.values()))
        stored[AUDIT] = stored[AUDIT][len(stored[AUDIT]) - len(rows[AUDIT]) :]  # before them: of an earlier study of the name
        _require_equal(rows, stored, is_rounded=False)
        return len(rows[VERSIONS])

    def _create(self, new: Connection, member: _Member) -> int:
        try:
            return tables.create_study(new, member.name, user={}, system={})
        except IntegrityError as error:
            raise StudyError(f"{storages.shown(self.target.url)} already has a study named {member.name}. {_OTHER_NAME}") from error

    def _next(self, parts: Iterator[_Part]) -> _Part | None:
        with _explained(self.source):
            return next(parts, None)


@contextmanager
def _explained(storage: Storage) -> Iterator[None]:
    """Turn an error of a database inside the `with` block into one that names this storage: two are open at once."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StorageError(database_errors.explain(error, make_url(storage.url))) from error


def _parts(connection: Connection, study_id: int, batch: int) -> Iterator[_Part]:
    """Yield the rows of a study: those of its trials in batches, in the order of their creation, then the others."""
    query = select(TRIALS.c.trial_id, TRIALS.c.number).where(TRIALS.c.study_id == study_id).order_by(TRIALS.c.trial_id)
    numbers = connection.execute(query).all()
    for start in range(0, len(numbers), batch):
        some = dict(numbers[start : start + batch])
        yield _Part(rows=_of_trials(connection, study_id, some), numbers=some)
    yield _Part(rows=_beside_trials(connection, study_id, dict(numbers)), numbers=dict(numbers))


def _of_trials(connection: Connection, study_id: int, numbers: Mapping[int, int]) -> Rows:
    """Return the rows of some trials, whose numbers are given by id."""
    rows: Rows = {}
    for table in _BY_ID:
        found = _read(connection, table, table.c.trial_id.in_(list(numbers)))
        rows[table] = [_without_ids(table, row) | {_NUMBER: numbers[row["trial_id"]]} for row in found]
    for table in _BY_NUMBER:
        found = _read(connection, table, table.c.study_id == study_id, table.c.trial_number.in_(list(numbers.values())))
        rows[table] = [_without_ids(table, row) | {_NUMBER: row["trial_number"]} for row in found]
    return rows


def _beside_trials(connection: Connection, study_id: int, numbers: Mapping[int, int]) -> Rows:
    """Return the rows of a study that are not those of its trials. Keys with the id of a trial have its number instead."""
    tables_of_study = (STUDY_USER, STUDY_SYSTEM, WORKERS)
    rows = {table: _without_all_ids(table, _read(connection, table, table.c.study_id == study_id)) for table in tables_of_study}
    rows[STUDY_USER] = [row for row in rows[STUDY_USER] if row["key"] != COPIED]
    return rows | {STUDY_SYSTEM: _with_ids(rows[STUDY_SYSTEM], numbers)}


def _beside_studies(connection: Connection, names: Collection[str]) -> Rows:
    """Return the rows that name studies: their versions, and what the audit says about them."""
    rows = {table: _without_all_ids(table, _read(connection, table, table.c.name.in_(names))) for table in _OF_MODELS}
    return rows | {AUDIT: _without_all_ids(AUDIT, _read(connection, AUDIT, AUDIT.c.study.in_(names)))}


def _read(connection: Connection, table: Table, *where: ColumnElement[bool]) -> list[Row]:
    query = select(table).where(*where).order_by(*table.primary_key)
    return [dict(row) for row in connection.execute(query).mappings()]


def _without_all_ids(table: Table, rows: Sequence[Row]) -> list[Row]:
    return [_without_ids(table, row) for row in rows]


def _without_ids(table: Table, row: Row) -> Row:
    """Return a row without the columns that only its own database gives a meaning."""
    own = {column.name for column in table.primary_key} if len(table.primary_key) == 1 else set()
    return {name: value for name, value in row.items() if name not in own | {"study_id", "trial_id"}}


def _with_ids(rows: Sequence[Row], ids: Mapping[int, int]) -> list[Row]:
    """Return system attributes of a study with other ids of its trials, without those of trials that it does not have."""
    mark, changed = f"{NOTE_DIGEST}:", []
    for row in rows:
        key = str(row["key"])
        start = mark if key.startswith(mark) else ""
        found = optuna_private.with_other_ids(key.removeprefix(start), row["value_json"], ids)
        if found is not None:
            changed.append(row | {"key": start + found[0], "value_json": found[1]})
    return changed


def _add(digest: Any, rows: Rows) -> None:
    for table, some in rows.items():
        digest.update(repr((table.name, some)).encode())


def _renamed(rows: Rows, names: Mapping[str, str]) -> Rows:
    """Return rows in which studies have other names."""
    if all(name == other for name, other in names.items()):
        return rows
    changed = dict(rows)
    if STUDY_USER in rows:
        changed[STUDY_USER] = [
            row | {"value_json": _renamed_spec(row["value_json"], names)} if row["key"] == SPEC else row for row in rows[STUDY_USER]
        ]
    for table in {*_OF_MODELS, AUDIT} & rows.keys():
        changed[table] = [row | {key: names.get(row[key], row[key]) for key in ("name", "study") if key in row} for row in rows[table]]
    if VERSIONS in rows:
        changed[VERSIONS] = [row | moved.renamed_version(row, names) for row in rows[VERSIONS]]
    return changed


def _renamed_spec(text: str, names: Mapping[str, str]) -> str:
    spec = json.loads(json.loads(text))
    again = spec.get("retraining")
    changed = {"name": names.get(spec["name"], spec["name"])}
    if again:
        changed["retraining"] = again | {"study": names.get(again["study"], again["study"])}
    return json.dumps(json.dumps(spec | changed))


def _write(connection: Connection, rows: Rows, study_id: int, ids: dict[int, int]) -> None:
    """Insert rows of a study, and add the ids of the trials among them by number."""
    for table, some in rows.items():
        carried = _with_ids(some, ids) if table is STUDY_SYSTEM else some
        owned = "study_id" in table.c
        full = []
        for row in carried:
            values = {name: value for name, value in row.items() if name != _NUMBER} | ({"study_id": study_id} if owned else {})
            full.append(values | {"trial_id": ids[row[_NUMBER]]} if "trial_id" in table.c and table is not TRIALS else values)
        _insert(connection, table, full)
        if table is TRIALS:
            is_new = TRIALS.c.number.in_([row["number"] for row in some])
            query = select(TRIALS.c.number, TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id, is_new)
            ids.update(connection.execute(query).all())


def _insert(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        try:
            connection.execute(insert(table), some)
        except (DataError, IntegrityError) as error:
            longest = max((value for row in some for value in row.values() if isinstance(value, str)), key=len, default="")
            raise StudyError(
                f"the target refuses a row of {table.name}, where the longest text has {len(longest):,} characters: "
                f"{str(error.orig).splitlines()[0][:200]}. Nothing was copied. Choose another kind of database"
            ) from error


def _require_equal(wanted: Rows, stored: Rows, *, is_rounded: bool) -> None:
    """Refuse a copy that is not what was read, for example because a database has shortened a text without saying so."""
    for table, rows in wanted.items():
        if len(rows) != len(stored[table]):
            raise StudyError(f"the target has stored {len(stored[table])} of {len(rows)} rows of {table.name}. Nothing was copied")
        sides = [sorted(side, key=repr) for side in (rows, stored[table])] if table in _SORTED else [rows, stored[table]]
        for row, other in zip(*sides, strict=True):
            wrong = [name for name, value in row.items() if not _is_equal(value, other[name], is_rounded=is_rounded)]
            if wrong:
                whose = f" of trial {row[_NUMBER]}" if _NUMBER in row else ""
                raise StudyError(
                    f"the target has stored another {wrong[0]} in {table.name}{whose} than it was given: {wording.show(other[wrong[0]])} "
                    f"for {wording.show(row[wrong[0]])}. Nothing was copied. Check its settings (on MySQL: sql_mode), "
                    "or choose another database"
                )


def _is_equal(value: Any, other: Any, *, is_rounded: bool) -> bool:
    if is_rounded and isinstance(value, datetime) and isinstance(other, datetime):
        return abs(value - other) <= _ROUNDING
    return bool(value == other)


def _is_mysql(connection: Connection) -> bool:
    return connection.dialect.name in ("mysql", "mariadb")


def _renew_note(connection: Connection, study_id: int) -> None:
    """Let the note of a study link to its page in the target; a note that a user changed stays as it is."""
    version = optuna_private.note_version_key(optuna_private.note_owner(None))
    if not tables.get(connection, STUDY_SYSTEM, study_id, version):
        return
    spec = studies.parse_spec(tables.get(connection, STUDY_USER, study_id, SPEC)[SPEC])
    found = queries.best(connection, study_id)
    best = None
    if found is not None:
        best = BestNote(number=found.number, value=found.value, parameters=tables.parameters(connection, found.trial_id))
    notes.put(connection, study_id, notes.of_study(spec, best=best))
