"""A study and a changed search of its own into which of its trials belong to that too, and why the others do not.

Trials of one study into another, whole: state, value, epochs, parameters and what is said of them, with where they came from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import IntegrityError

from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.sampling import enumeration, fitting
from tuner.sampling.fitting import Fitted
from tuner.spec import file as study_file
from tuner.spec import space
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.study import StudySpec
from tuner.storage import attributes, queries, tables
from tuner.storage.attributes import CARRIED_FROM, CONFUSION, HYPERPARAMETERS, LOG, MIGRATED, MISTAKES, PREPARED
from tuner.storage.tables import EPOCHS, INTERMEDIATE, STUDY_USER, TRIAL_SYSTEM, TRIAL_USER, TRIALS, VALUES
from tuner.studies import claims, notes
from tuner.studies import study as studies
from tuner.studies.notes import BestNote
from tuner.studies.study import Study
from tuner.tasks import task


@dataclass(frozen=True, kw_only=True)
class MigratedTrial:
    """A trial that is carried over."""

    #: in the old study
    number: int
    trial_id: int
    #: in the new one
    new_number: int
    state: TrialState
    fitted: Fitted


@dataclass(frozen=True, kw_only=True)
class UnmigratedTrial:
    """A trial that is not."""

    number: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """What becomes of a study."""

    source: Study
    #: the new one
    spec: StudySpec
    #: what differs, one line a field
    changes: Sequence[str]
    prepared: messages.Prepared
    kept: Sequence[MigratedTrial]
    left: Sequence[UnmigratedTrial]

    @property
    def has_rule(self) -> bool:
        """Whether the rule of the new study is among the trials that are carried over; else it is trained there."""
        return bool(self.kept) and self.kept[0].new_number == 0


def decide(source: Study, spec: StudySpec) -> Evolution:
    """Which trials of a study are trials of a changed search too.

    Raises:
        StudyError: more than the search differs, or nothing does, or no trial has ended.
        SpecError: the new sampler cannot go through its search space.
    """
    enumeration.check(spec)
    changes = [change for change in study_file.differences(source.spec, spec) if not change.startswith("name:")]
    _refuse(source, spec, changes)
    prepared, rows = source.storage.read(lambda connection: _read(connection, source))
    if prepared is None or not any(state.is_finished() for _, _, state, _ in rows):
        raise StudyError(f"no trial of the study {source.name} has ended yet, so there is nothing to carry over; run the new file instead")
    fitting_ones: list[tuple[int, int, TrialState, Fitted]] = []
    left: list[UnmigratedTrial] = []
    for number, trial_id, state, known in rows:
        reason_or_fitted = _judge(state, known, spec)
        if isinstance(reason_or_fitted, str):
            left.append(UnmigratedTrial(number=number, reason=reason_or_fitted))
        else:
            fitting_ones.append((number, trial_id, state, reason_or_fitted))
    kept = _numbered(fitting_ones, _recipe(spec, prepared))
    return Evolution(source=source, spec=spec, changes=changes, prepared=prepared, kept=kept, left=left)


def _refuse(source: Study, spec: StudySpec, changes: Sequence[str]) -> None:
    wrong = [change for change in changes if not change.startswith(study_file.SEARCHED)]
    if wrong:
        raise StudyError(
            f"a migration of {source.name} may change its search, sampler, pruner and budget; here more differs:\n  "
            + "\n  ".join(wrong)
            + "\nTrials of both would not compare. Undo these changes; or begin with the best of it: tuner run FILE --from "
            + source.name
        )
    if not changes:
        raise StudyError(f"nothing of the search differs from that of {source.name}; to go on with it: tuner run FILE")
    if enumeration.combinations(spec) is not None:
        raise StudyError(
            f"the sampler {spec.sampler.name} goes through all combinations in an order of its own; to carry trials over name another"
        )


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


def _judge(state: TrialState, known: str | None, spec: StudySpec) -> Fitted | str:
    """How a trial comes about in the new search; where it does not, why."""
    if not state.is_finished():
        return "it has not ended"
    if known is None:
        return "its hyperparameters were not chosen when it ended"
    found = fitting.fit(Hyperparameters.model_validate(json.loads(known)), spec)
    return found if isinstance(found, Fitted) else "; ".join(found)


def _recipe(spec: StudySpec, prepared: messages.Prepared) -> dict[str, Any]:
    return task.spec(task.IMAGE_CLASSIFICATION).parameters(
        prepared.num_train, len(prepared.classes), spec.search, fine_tunes=space.fine_tunes(spec)
    )


def _numbered(found: Sequence[tuple[int, int, TrialState, Fitted]], recipe: dict[str, Any]) -> list[MigratedTrial]:
    """The trials in their old order, with trial 0 for the rule alone: where the old rule is not the new one, that number stays free."""
    is_rule = bool(found) and found[0][0] == 0 and found[0][2] is TrialState.COMPLETE and dict(found[0][3].values) == recipe
    first = 0 if is_rule else 1
    return [
        MigratedTrial(number=number, trial_id=trial_id, new_number=new_number, state=state, fitted=fitted)
        for new_number, (number, trial_id, state, fitted) in enumerate(found, first)
    ]


#: of a trial that is not ours to keep twice are its pictures: their files belong to the old study
_SYSTEM = (HYPERPARAMETERS, CONFUSION, MISTAKES, LOG)
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
    said = record(evolution, by=by, at=tables.clock(connection))
    study_id = studies.create(connection, evolution.spec)
    prepared = evolution.prepared.model_dump(mode="json")
    tables.put(connection, tables.STUDY_USER, study_id, {PREPARED: prepared, MIGRATED: said})
    if not evolution.has_rule:
        trial_id = tables.enqueue_trial(connection, study_id, 0)
        tables.put(connection, TRIAL_USER, trial_id, {attributes.ORIGIN: "rule", attributes.SEED: claims.seed_of(evolution.spec, 0)})
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
    _note(connection, evolution, study_id)


def _insert(connection: Connection, study_id: int, kept: MigratedTrial) -> int:
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


def _origin(source: Study, kept: MigratedTrial) -> dict[str, str]:
    said = {CARRIED_FROM: f"trial {kept.number} of {source.name}"}
    return said | ({attributes.ORIGIN: f"rule of {source.name}"} if kept.number == 0 and kept.new_number != 0 else {})


def _note(connection: Connection, evolution: Evolution, study_id: int) -> None:
    """The study's note, with the best of the trials that were carried over."""
    found = queries.best(connection, study_id)
    if found is not None:
        best = BestNote(number=found.number, value=found.value, parameters=tables.parameters(connection, found.trial_id))
        notes.put(connection, study_id, notes.of_study(evolution.spec, best=best))
