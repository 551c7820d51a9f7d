"""A study and a changed search of its own into which of its trials belong to that too, and why the others do not."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, select

from tuner import messages, study_file
from tuner.errors import StudyError
from tuner.hyperparameters import Hyperparameters
from tuner.search import claims, enumeration, fitting, requirements, rule, space, tables
from tuner.search.fitting import Fitted
from tuner.search.study import PREPARED, Study
from tuner.search.tables import STUDY_USER, TRIAL_SYSTEM, TRIALS
from tuner.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A trial that is carried over."""

    #: in the old study
    number: int
    trial_id: int
    #: in the new one
    new_number: int
    state: TrialState
    fitted: Fitted


@dataclass(frozen=True, kw_only=True)
class Left:
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
    kept: Sequence[Kept]
    left: Sequence[Left]

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
    requirements.check(spec)
    changes = [change for change in study_file.differences(source.spec, spec) if not change.startswith("name:")]
    _refuse(source, spec, changes)
    prepared, rows = source.storage.read(lambda connection: _read(connection, source))
    if prepared is None or not any(state.is_finished() for _, _, state, _ in rows):
        raise StudyError(f"no trial of the study {source.name} has ended yet, so there is nothing to carry over; run the new file instead")
    fitting_ones: list[tuple[int, int, TrialState, Fitted]] = []
    left: list[Left] = []
    for number, trial_id, state, known in rows:
        reason_or_fitted = _judge(state, known, spec)
        if isinstance(reason_or_fitted, str):
            left.append(Left(number=number, reason=reason_or_fitted))
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
    is_known = (TRIAL_SYSTEM.c.trial_id == TRIALS.c.trial_id) & (TRIAL_SYSTEM.c.key == claims.HYPERPARAMETERS)
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
    return rule.parameters(prepared.num_train, len(prepared.classes), spec.search, fine_tunes=space.fine_tunes(spec))


def _numbered(found: Sequence[tuple[int, int, TrialState, Fitted]], recipe: dict[str, Any]) -> list[Kept]:
    """The trials in their old order, with trial 0 for the rule alone: where the old rule is not the new one, that number stays free."""
    is_rule = bool(found) and found[0][0] == 0 and found[0][2] is TrialState.COMPLETE and dict(found[0][3].values) == recipe
    first = 0 if is_rule else 1
    return [
        Kept(number=number, trial_id=trial_id, new_number=new_number, state=state, fitted=fitted)
        for new_number, (number, trial_id, state, fitted) in enumerate(found, first)
    ]
