"""What a trainer found in a study's images into its admission to the study, so that all trials are of the same images and splits."""

from typing import Any

from sqlalchemy import Connection

from tuner import wording
from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.spec.study import StudySpec
from tuner.storage import tables
from tuner.storage.attributes import PREPARED
from tuner.studies.study import Study

#: what must be the same for trials to compare; the device and the versions may differ
_COMPARED = {
    "classes": "classes",
    "num_train": "images to train on",
    "num_validation": "images that choose the winner",
    "num_test": "test images",
    "epochs": "epochs of fine-tuning",
    "fingerprint": "images and labels (fingerprint)",
    "splits": "splits (fingerprint)",
}
#: of a fingerprint, as much as tells two apart
_SHOWN_LENGTH = 80


def admit(study: Study, prepared: messages.Prepared) -> None:
    """Keep what the first trainer of a study found; one that finds other images is turned away before it trains or scores.

    Raises:
        StudyError: the images, their labels or their splits are not those that the study was begun with.
    """
    found = prepared.model_dump(mode="json", exclude={"kind"})

    def write(connection: Connection) -> dict[str, Any]:
        tables.lock_study(connection, study.id, study.name)
        kept: dict[str, Any] | None = tables.get(connection, tables.STUDY_USER, study.id, PREPARED).get(PREPARED)
        if kept is None:
            tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: found})
        return kept or found

    kept = study.storage.write(write)
    changes = [f"{name}: {_show(kept.get(key))} -> {_show(found[key])}" for key, name in _COMPARED.items() if kept.get(key) != found[key]]
    if changes:
        raise StudyError(
            f"the study {study.name} was begun with other images:\n  "
            + "\n  ".join(changes)
            + "\nTrials of both would not compare. Put the images back as they were, or give the study another name to begin a new one."
        )


def departures(spec: StudySpec, prepared: messages.Prepared) -> list[str]:
    """What differs here from what an exported config was trained with, so that a run of it may come out otherwise; sentences."""
    trained: dict[str, Any] = spec.result or {}
    found = prepared.model_dump(mode="json")
    said = [
        f"the {name} are not those that the exported trial was trained on: {_show(trained[key])} -> {_show(found[key])}"
        for key, name in (("fingerprint", "images or their labels"), ("splits", "splits"))
        if key in trained and trained[key] != found[key]
    ]
    known = trained.get("versions") if isinstance(trained.get("versions"), dict) else None
    versions = [f"{name} {old} -> {new}" for name, new in prepared.versions.items() if (old := (known or {}).get(name, new)) != new]
    if versions:
        said.append(f"the exported trial was trained with other versions, so that numbers may differ a little: {', '.join(versions)}")
    return said


def _show(value: Any) -> str:
    text = wording.listed(value) if isinstance(value, list) else str(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]} …"
