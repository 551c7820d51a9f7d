"""Data check: refuses a worker whose images or splits differ from those of its study."""

from typing import Any

from sqlalchemy import Connection

from tuner import wording
from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.spec.study import AnyStudySpec
from tuner.storage import tables
from tuner.storage.attributes import PLAN, PREPARED
from tuner.studies.planning import Plan
from tuner.studies.study import Study

#: fields that must be equal for trials to be comparable; device and versions may differ
_COMPARED = {
    "classes": "classes",
    "num_train": "images to train on",
    "num_validation": "images that choose the winner",
    "num_test": "test images",
    "epochs": "epochs of fine-tuning",
    "value_range": "values that become black and white",
    "fingerprint": "images and labels (fingerprint)",
    "splits": "splits (fingerprint)",
}
#: longer values are cut in a message
_SHOWN_LENGTH = 80


def admit(study: Study, prepared: messages.Prepared) -> None:
    """Store what the first trainer of a study found, and refuse a later trainer that found something else.

    Raises:
        StudyError: the images, labels or splits differ from those that the study was started with.
    """
    found = prepared.model_dump(mode="json", exclude={"kind", "warnings", "facts"})

    def write(connection: Connection) -> dict[str, Any]:
        tables.lock_study(connection, study.id, study.name)
        known = tables.get(connection, tables.STUDY_USER, study.id, PREPARED, PLAN)
        stored: dict[str, Any] | None = known.get(PREPARED)
        if stored is None:
            tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: found})
            return found
        plan = Plan.understood(known.get(PLAN))
        return stored if plan is None else stored | {"epochs": plan.usual_epochs}  # the plan has changed the number

    stored = study.storage.write(write)
    changes = [
        f"{name}: {_show(stored.get(key))} -> {_show(found[key])}" for key, name in _COMPARED.items() if stored.get(key) != found[key]
    ]
    if changes:
        raise StudyError(
            f"the study {study.name} was started with other images:\n  "
            + "\n  ".join(changes)
            + "\nTheir trials would not be comparable. Restore the images, or start a new study under another name."
        )


def departures(spec: AnyStudySpec, prepared: messages.Prepared) -> list[str]:
    """Return sentences on how this machine differs from the one an exported config was trained on, so that results may differ."""
    trained: dict[str, Any] = spec.result or {}
    found = prepared.model_dump(mode="json")
    sentences = [
        f"the {name} differ from those of the exported trial: {_show(trained[key])} -> {_show(found[key])}"
        for key, name in (("fingerprint", "images or their labels"), ("splits", "splits"))
        if key in trained and trained[key] != found[key]
    ]
    known = trained.get("versions") if isinstance(trained.get("versions"), dict) else None
    versions = [f"{name} {old} -> {new}" for name, new in prepared.versions.items() if (old := (known or {}).get(name, new)) != new]
    if versions:
        sentences.append(f"the exported trial was trained with other versions, so numbers may differ slightly: {', '.join(versions)}")
    return sentences


def _show(value: Any) -> str:
    text = wording.listed(value) if isinstance(value, list) else str(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]} …"
