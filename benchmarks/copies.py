"""Grow a study of a few trials to thousands of trials by copying rows."""

from typing import Any

from sqlalchemy import Connection, Table, func, insert, select

from tuner.storage import tables

_ROWS_AT_ONCE = 5_000
_TRIALS_AT_ONCE = 5_000


class Copies:
    """Copies ended trials of a study with all their rows, so that 10,000 trials exist within seconds."""

    def __init__(self, connection: Connection, study_id: int) -> None:
        self._connection = connection
        self._patterns = self._read(tables.TRIALS, tables.TRIALS.c.study_id == study_id)
        ids = {row["trial_id"]: row["number"] for row in self._patterns}
        self._rows = {
            table: self._read(table, table.c.trial_id.in_(ids))
            for table in (tables.TRIAL_USER, tables.TRIAL_SYSTEM, tables.PARAMETERS, tables.VALUES, tables.INTERMEDIATE, tables.LEASES)
        }
        self._rows[tables.EPOCHS] = [
            row | {"trial_id": trial_id}
            for trial_id, number in ids.items()
            for row in self._read(tables.EPOCHS, (tables.EPOCHS.c.study_id == study_id) & (tables.EPOCHS.c.trial_number == number))
        ]
        notes = self._read(tables.STUDY_SYSTEM, tables.STUDY_SYSTEM.c.study_id == study_id)
        self._rows[tables.STUDY_SYSTEM] = [
            row | {"trial_id": trial_id} for row in notes for trial_id in ids if str(trial_id) in row["key"].split(":")
        ]

    def grow(self, size: int) -> None:
        """Copy until the study has the given number of trials."""
        first = len(self._patterns)
        if size <= first:
            return
        start = int(self._connection.execute(select(func.max(tables.TRIALS.c.trial_id))).scalar_one()) + 1
        for place in range(0, size - first, _TRIALS_AT_ONCE):
            self._copy_trials(start, first, range(place, min(place + _TRIALS_AT_ONCE, size - first)))
        if self._connection.dialect.name == "postgresql":  # ids were assigned here, not by the sequence
            last = select(func.setval(func.pg_get_serial_sequence("trials", "trial_id"), start + size - first))
            self._connection.execute(last)

    def _copy_trials(self, start: int, first: int, places: range) -> None:
        chosen = [(start + place, first + place, self._patterns[place % first]) for place in places]
        self._write(tables.TRIALS, [pattern | {"trial_id": new, "number": number} for new, number, pattern in chosen])
        for table, rows in self._rows.items():
            by_trial: dict[int, list[dict[str, Any]]] = {}
            for row in rows:
                by_trial.setdefault(row["trial_id"], []).append(row)
            copied = [self._copy(table, row, new, number) for new, number, old in chosen for row in by_trial.get(old["trial_id"], [])]
            self._write(table, copied)

    def _copy(self, table: Table, row: dict[str, Any], new: int, number: int) -> dict[str, Any]:
        changed = row | {"trial_id": new, "trial_number": number}
        if table is tables.STUDY_SYSTEM:
            changed["key"] = ":".join(str(new) if part == str(row["trial_id"]) else part for part in row["key"].split(":"))
        counted = {column.name for column in table.primary_key} - {"trial_id", "trial_number", "study_id", "attempt", "step"}
        return {name: value for name, value in changed.items() if name in table.c and name not in counted}

    def _read(self, table: Table, condition: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(select(table).where(condition)).mappings()]

    def _write(self, table: Table, rows: list[dict[str, Any]]) -> None:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self._connection.execute(insert(table), rows[start : start + _ROWS_AT_ONCE])
