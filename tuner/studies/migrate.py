"""Migrate: carries the trials of a study that fit a changed search space over into a new study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import IntegrityError

from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.sampling import enumeration, matching
from tuner.sampling.matching import MatchedParameters
from tuner.spec import file as study_file
from tuner.spec import space
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.storage import attributes, optuna_private, queries, tables
from tuner.storage.attributes import BY_CLASS, CARRIED_FROM, CONFUSION, HYPERPARAMETERS, LOG, MIGRATED, MISTAKES, PLAN, PREPARED
from tuner.storage.tables import EPOCHS, INTERMEDIATE, STUDY_USER, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES
from tuner.studies import claims, notes
from tuner.studies import study as studies
from tuner.studies.notes import BestNote
from tuner.studies.study import Study
from tuner.tasks.images.spec import recipe


@dataclass(frozen=True, kw_only=True)
class MigratedTrial:
    """A trial that is carried over."""

    #: its number in the old study
    number: int
    trial_id: int
    #: its number in the new study
    new_number: int
    state: TrialState
    fitted: MatchedParameters


@dataclass(frozen=True, kw_only=True)
class UnmigratedTrial:
    """A trial that is left behind."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Migration:
    """The plan of a migration."""

    source: Study
    #: spec of the new study
    spec: StudySpec
    #: the differences, one line per field
    changes: Sequence[str]
    prepared: messages.Prepared
    carried: Sequence[MigratedTrial]
    left_behind: Sequence[UnmigratedTrial]

    @property
    def has_rule(self) -> bool:
        """Whether the rule of the new study is among the trials that are carried over; otherwise the new study trains it."""
        return bool(self.carried) and self.carried[0].new_number == 0


def decide(source: Study, spec: StudySpec) -> Migration:
    """Decide which trials of a study fit a changed search space.

    Raises:
        StudyError: more than the search differs, nothing differs, or no trial has ended.
        SpecError: the new sampler cannot enumerate its search space.
    """
    enumeration.check_sampler(spec)
    changes = [change for change in study_file.differences(source.spec, spec) if not change.startswith("name:")]
    _refuse(source, spec, changes)
    prepared, rows = source.storage.read(lambda connection: _read(connection, source))
    if prepared is None or not any(state.is_finished() for _, _, state, _ in rows):
        raise StudyError(f"no trial of the study {source.name} has ended yet, so there is nothing to migrate; run the new file instead")
    fitting_trials: list[tuple[int, int, TrialState, MatchedParameters]] = []
    left_behind: list[UnmigratedTrial] = []
    for number, trial_id, state, known in rows:
        reason_or_fitted = _judge(state, known, spec)
        if isinstance(reason_or_fitted, str):
            left_behind.append(UnmigratedTrial(number=number, reason=reason_or_fitted))
        else:
            fitting_trials.append((number, trial_id, state, reason_or_fitted))
    carried = _numbered(fitting_trials, _recipe(spec, prepared))
    return Migration(source=source, spec=spec, changes=changes, prepared=prepared, carried=carried, left_behind=left_behind)


def _refuse(source: Study, spec: StudySpec, changes: Sequence[str]) -> None:
    wrong = [change for change in changes if not change.startswith(study_file.SEARCHED)]
    if wrong:
        raise StudyError(
            f"a migration of {source.name} may change only its search, sampler, pruner and budget, but these fields differ:\n  "
            + "\n  ".join(wrong)
            + "\nTheir trials would not be comparable. Undo these changes, or start a new study from its best: tuner run FILE --from "
            + source.name
        )
    if not changes:
        raise StudyError(f"the search does not differ from that of {source.name}; to continue that study: tuner run FILE")
    if enumeration.combinations(spec) is not None:
        raise StudyError(f"the sampler {spec.sampler.name} tries all combinations in order; choose another sampler to migrate trials")


def _read(connection: Connection, source: Study) -> tuple[messages.Prepared | None, list[tuple[int, int, TrialState, Any]]]:
    prepared = tables.get(connection, STUDY_USER, source.id, PREPARED).get(PREPARED)
    is_known = (TRIAL_SYSTEM.c.trial_id == TRIALS.c.trial_id) & (TRIAL_SYSTEM.c.key == HYPERPARAMETERS)
    query = (
        select(TRIALS.c.number, TRIALS.c.trial_id, TRIALS.c.state, TRIAL_SYSTEM.c.value_json)
        .outerjoin(TRIAL_SYSTEM, is_known)
        .where(TRIALS.c.study_id == source.id)
        .order_by(TRIALS.c.number)
    )
    rows = [(number, trial_id, state, text) for number, trial_id, state, text in connection.execute(query)]
    return None if prepared is None else messages.Prepared.model_validate(prepared), rows


def _judge(state: TrialState, known: str | None, spec: StudySpec) -> MatchedParameters | str:
    """Return the trial's parameters in the new search space, or the reason why it does not fit."""
    if not state.is_finished():
        return "it has not ended"
    if known is None:
        return "it ended before its hyperparameters were chosen"
    chosen = attributes.hyperparameters(optuna_private.decoded(known))
    if not isinstance(chosen, Hyperparameters):
        return "another program changed its hyperparameters"
    found = matching.match(chosen, spec)
    return found if isinstance(found, MatchedParameters) else "; ".join(found)


def _recipe(spec: StudySpec, prepared: messages.Prepared) -> dict[str, Any]:
    return recipe.parameters(prepared.num_train, len(prepared.classes), spec.space, fine_tunes=space.fine_tunes(spec))


def _numbered(found: Sequence[tuple[int, int, TrialState, MatchedParameters]], recipe: dict[str, Any]) -> list[MigratedTrial]:
    """Number the trials in their old order. Number 0 is reserved for the rule, and stays free if the old rule is not the new one."""
    is_rule = bool(found) and found[0][0] == 0 and found[0][2] is TrialState.COMPLETE and dict(found[0][3].values) == recipe
    first = 0 if is_rule else 1
    return [
        MigratedTrial(number=number, trial_id=trial_id, new_number=new_number, state=state, fitted=fitted)
        for new_number, (number, trial_id, state, fitted) in enumerate(found, first)
    ]


#: system attributes that are copied; pictures are not, because their files belong to the old study
_SYSTEM = (HYPERPARAMETERS, CONFUSION, BY_CLASS, MISTAKES, LOG)
#: maximum number of trials left behind that the record of a migration names
_NAMED = 200


def carry(migration: Migration, *, by: str) -> Study:
    """Create the new study with all trials that are carried over, in one transaction. The old study does not change.

    Raises:
        StudyError: the storage has a study of this name.
    """
    storage, spec = migration.source.storage, migration.spec

    def attempt() -> None:
        try:
            storage.transact(lambda connection: _write(connection, migration, by))
        except IntegrityError as error:
            raise StudyError(f"the storage already has a study named {spec.name}; choose a different name in the file") from error

    storage.call(attempt)
    return studies.load(spec.name, storage)


def record(migration: Migration, *, by: str, at: float) -> dict[str, Any]:
    """Return the record of the migration, which the new study stores."""
    return {
        "from": migration.source.name,
        "by": by,
        "at": at,
        "changes": list(migration.changes),
        "num_carried": len(migration.carried),
        "num_left": len(migration.left_behind),
        "left": [{"trial": left.number, "reason": left.reason} for left in migration.left_behind[:_NAMED]],
    }


def _write(connection: Connection, migration: Migration, by: str) -> None:
    stored = record(migration, by=by, at=tables.clock(connection))
    study_id = studies.create(connection, migration.spec)
    prepared = migration.prepared.model_dump(mode="json")
    tables.put(connection, tables.STUDY_USER, study_id, {PREPARED: prepared, MIGRATED: stored})
    # with it, the number of epochs of the trials that are carried over
    tables.put(connection, tables.STUDY_USER, study_id, tables.get(connection, STUDY_USER, migration.source.id, PLAN))
    if not migration.has_rule:
        trial_id = tables.enqueue_trial(connection, study_id, 0)
        tables.put(connection, TRIAL_USER, trial_id, {attributes.ORIGIN: "rule", attributes.SEED: claims.seed_of(migration.spec, 0)})
    ids = {trial.trial_id: _insert(connection, study_id, trial) for trial in migration.carried}
    for trial in migration.carried:
        tables.put_parameters(connection, ids[trial.trial_id], trial.fitted.values, trial.fitted.distributions)
    old_id = migration.source.id
    for table in (VALUES, INTERMEDIATE, TRIAL_USER):
        _copy(connection, table, old_id, ids)
    _copy(connection, TRIAL_SYSTEM, old_id, ids, keys=_SYSTEM)
    _copy_epochs(connection, migration, study_id)
    for trial in migration.carried:
        tables.put(connection, TRIAL_USER, ids[trial.trial_id], _origin(migration.source, trial))
    _note(connection, migration, study_id)


def _insert(connection: Connection, study_id: int, trial: MigratedTrial) -> int:
    moments = select(TRIALS.c.datetime_start, TRIALS.c.datetime_complete).where(TRIALS.c.trial_id == trial.trial_id)
    start, end = connection.execute(moments).one()
    row = {"study_id": study_id, "number": trial.new_number, "state": trial.state, "datetime_start": start, "datetime_complete": end}
    key = connection.execute(insert(TRIALS).values(**row)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _copy(connection: Connection, table: Table, old_study: int, ids: Mapping[int, int], *, keys: tuple[str, ...] = ()) -> None:
    """Copy the rows of some trials in one of Optuna's tables to the new trials."""
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


def _copy_epochs(connection: Connection, migration: Migration, study_id: int) -> None:
    numbers = {trial.number: trial.new_number for trial in migration.carried}
    found = connection.execute(select(EPOCHS).where(EPOCHS.c.study_id == migration.source.id)).mappings()
    rows = [
        dict(row) | {"study_id": study_id, "trial_number": numbers[row["trial_number"]]} for row in found if row["trial_number"] in numbers
    ]
    if rows:
        connection.execute(insert(EPOCHS), rows)


def _origin(source: Study, trial: MigratedTrial) -> dict[str, str]:
    stored = {CARRIED_FROM: f"trial {trial.number} of {source.name}"}
    return stored | ({attributes.ORIGIN: f"rule of {source.name}"} if trial.number == 0 and trial.new_number != 0 else {})


def _note(connection: Connection, migration: Migration, study_id: int) -> None:
    """Store the note of the new study with the best trial that was carried over."""
    found = queries.best(connection, study_id)
    if found is not None:
        best = BestNote(number=found.number, value=found.value, parameters=tables.parameters(connection, found.trial_id))
        notes.put(connection, study_id, notes.of_study(migration.spec, best=best))
