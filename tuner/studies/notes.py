"""Notes: the short texts that optuna-dashboard shows beside a study or a trial.

optuna-dashboard stores notes in pages as system attributes of the study. Its own function needs one statement per page and a second
to import.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from tuner import wording
from tuner.spec import plan
from tuner.spec.study import AnyStudySpec
from tuner.storage import optuna_private, tables
from tuner.storage.attributes import NOTE_DIGEST
from tuner.tasks import task

#: more pages than a note of tuner has; a longer note of a user is recognized by its version
_MAX_PAGES = 16
#: a name without markup of Markdown
_PLAIN_NAME = re.compile(r"[\w.\-/]*")
#: path of tuner's own page of a study on the server that also serves optuna-dashboard
_PAGE = "/tuner/studies/{}"


@dataclass(frozen=True, kw_only=True)
class BestNote:
    """The best trial as the study's note shows it."""

    number: int
    value: float
    parameters: Mapping[str, Any]


def of_study(spec: AnyStudySpec, *, best: BestNote | None) -> str:
    """Return the note of a study: its search space, its budget, and the best trial so far."""
    about = task.spec(spec.task)
    searched = [row for row in about.rows(spec) if row.is_searched]
    rule = "; trial 0 is the rule that needs no search" if about.rule(spec, num_train=1, num_classes=1) else ""
    lines = [
        f"**{spec.name}**: {wording.markdown(about.subject(spec))}",
        "",
        *(f"- {line}" for line in plan.retraining(spec)),
        f"- sampler {spec.sampler.name}, pruner {spec.pruner.name}, {_budget(spec)}",
        f"- the value is the best {wording.markdown(plan.metric(spec))} of a trial{rule}",
    ]
    if best is not None:
        lines += ["", f"Best so far: **{wording.figure(best.value)}** by trial {best.number}"]
        lines += ["", *_table("hyperparameter", "value", best.parameters)]
    if searched:
        lines += ["", "Searched:", "", *_table("hyperparameter", "values", {row.name: row.what for row in searched})]
    return "\n".join(lines)


def of_trial(*, outcome: str, reason: str, attributes: Mapping[str, Any]) -> str:
    """Return the note of a trial: how it ended, and its figures."""
    return "\n".join(
        [f"**{outcome}**" + (f": {wording.markdown(reason)}" if reason else ""), "", *_table("", "", wording.flatten(attributes))]
    )


def put(connection: Connection, study_id: int, text: str, *, trial_id: int | None = None) -> None:
    """Store a note of a study, or of one of its trials, for optuna-dashboard. A note that a user wrote or changed is not overwritten."""
    owner = optuna_private.note_owner(trial_id)
    if trial_id is None:
        text += f"\n\n[Current state]({_PAGE.format(study_id)}), if `tuner dashboard` serves this page"
    version, page = optuna_private.note_version_key(owner), optuna_private.note_page_prefix(owner)
    mark = f"{NOTE_DIGEST}:{owner}"
    table, length = tables.STUDY_SYSTEM, optuna_private.NOTE_PAGE_LENGTH
    if trial_id is not None and len(text) <= length:  # its only note by tuner, so a stored page is a user's
        tables.put(connection, table, study_id, {f"{page}0": text, version: 1, mark: _digest(text)}, overwrites=False)
        return
    replace(connection, study_id, text, trial_id=trial_id)


def replace(connection: Connection, study_id: int, text: str, *, trial_id: int | None = None) -> None:
    """Overwrite an earlier note of tuner, but none that a user wrote or changed."""
    owner = optuna_private.note_owner(trial_id)
    version, page, mark = optuna_private.note_version_key(owner), optuna_private.note_page_prefix(owner), f"{NOTE_DIGEST}:{owner}"
    table, length = tables.STUDY_SYSTEM, optuna_private.NOTE_PAGE_LENGTH
    # whole keys, which the database finds by an index: a study has several keys per trial
    known = tables.get(connection, table, study_id, version, mark, *(f"{page}{page_number}" for page_number in range(_MAX_PAGES)))
    if known and known.get(mark) != _digest("".join(known.get(f"{page}{page_number}", "") for page_number in range(len(known)))):
        return
    parts = {f"{page}{start // length}": text[start : start + length] for start in range(0, len(text), length)}
    emptied = {key: "" for key in known if key.startswith(page)}
    tables.put(connection, table, study_id, emptied | parts | {version: int(known.get(version, 0)) + 1, mark: _digest(text)})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _budget(spec: AnyStudySpec) -> str:
    budget, ends = spec.budget, []
    if budget.trials is not None:
        ends.append(f"{budget.trials} trials")
    if budget.timeout is not None:
        ends.append(f"{budget.timeout:.0f} s of work")
    if budget.target is not None:
        ends.append(f"{wording.markdown(spec.objective.metric)} {budget.target:g}")
    return f"until {' or '.join(ends)}"


def _table(left: str, right: str, values: Mapping[str, Any]) -> list[str]:
    return [f"| {left} | {right} |", "| --- | --- |", *(f"| {_name(name)} | {_cell(value)} |" for name, value in values.items())]


def _name(name: str) -> str:
    """Return a name for a cell; user code may give any."""
    return name if _PLAIN_NAME.fullmatch(name) else wording.markdown(name)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return wording.markdown(value if isinstance(value, str) else wording.show(value))
