"""Data check: refuses a worker whose data, splits or code differ from those of its study."""

import json
from collections.abc import Sequence
from typing import Any

from optuna.trial import TrialState
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, select

from tuner import wording
from tuner.errors import StudyError
from tuner.protocol import messages
from tuner.spec.study import AnyStudySpec
from tuner.storage import tables
from tuner.storage.attributes import PLAN, PREPARED
from tuner.studies.planning import Plan
from tuner.studies.study import Study
from tuner.trust import user_code
from tuner.trust.user_code import CodeFile

_FILES = TypeAdapter(list[CodeFile])
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
#: the same for studies of other tasks
_OTHER_WORDS = {
    "num_train": "examples to train on",
    "num_validation": "validation examples",
    "num_test": "test examples",
    "epochs": "epochs of a trial",
    "fingerprint": "data (fingerprint)",
}
#: length of the texts of code that are stored with a study, as JSON: databases limit the length of an attribute
_CODE_LENGTH = 40_000
#: longer values are cut in a message
_SHOWN_LENGTH = 80


def admit(study: Study, prepared: messages.Prepared, *, accept_code: bool = False) -> list[str]:
    """Store what the first trainer of a study found, and refuse a later trainer that found something else.

    Return sentences about changed code that is the code of the study from now on. Nothing is compared with the code of a study whose
    trials all failed: its user has probably fixed it.

    Raises:
        StudyError: the data or the splits differ from those that the study was started with, or its code does and `accept_code` is false.
    """
    found = prepared.model_dump(mode="json", exclude={"kind", "warnings", "facts"}) | {"code": _stored_code(prepared.code)}

    def write(connection: Connection) -> list[str]:
        tables.lock_study(connection, study.id, study.name)
        known = tables.get(connection, tables.STUDY_USER, study.id, PREPARED, PLAN)
        stored: dict[str, Any] | None = known.get(PREPARED)
        if stored is None:
            tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: found})
            return []
        changed = user_code.changes(_read_code(stored.get("code")), prepared.code)
        if changed and not _has_results(connection, study):
            tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: found})
            return [f"the study continues with changed code, because none of its trials has a result: {change}" for change in changed]
        if changed and not accept_code:
            raise StudyError(_changed_code(study, changed))
        plan = Plan.understood(known.get(PLAN))  # it may have changed the number of epochs
        different = _differences(study, stored if plan is None else stored | {"epochs": plan.usual_epochs}, found)
        if different:
            raise StudyError(_different_data(study, different, with_code=bool(changed)))
        if changed:
            tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: stored | {"code": found["code"]}})
        return [f"the study continues with changed code, accepted by --accept-code: {change}" for change in changed]

    return study.storage.write(write)


def _has_results(connection: Connection, study: Study) -> bool:
    """Return whether a trial of a study has a result, or may still get one from a worker with the earlier code."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    query = select(tables.TRIALS.c.trial_id).where(tables.TRIALS.c.study_id == study.id, tables.TRIALS.c.state.in_(states)).limit(1)
    return connection.execute(query).first() is not None


def _differences(study: Study, stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    words = _COMPARED if study.is_of_images else _COMPARED | _OTHER_WORDS
    return [f"{name}: {_show(stored.get(key))} -> {_show(found[key])}" for key, name in words.items() if stored.get(key) != found[key]]


def _different_data(study: Study, changes: Sequence[str], *, with_code: bool) -> str:
    text = f"the study {study.name} was started with other {'images' if study.is_of_images else 'data'}:\n  " + "\n  ".join(changes)
    if study.is_of_images:
        return f"{text}\nTheir trials would not be comparable. Restore the images, or start a new study under another name."
    cause = (
        "The changed code loads other data, which --accept-code does not accept. Restore the code"
        if with_code
        else "The code must load the same data in every process: give its random generators and its split a fixed seed. Restore the data"
    )
    return f"{text}\nTheir trials would not be comparable. {cause}, or start a new study under another name."


def _changed_code(study: Study, changes: Sequence[str]) -> str:
    return (
        f"the code of the study {study.name} differs here from the code that its trials ran:\n  "
        + "\n  ".join(changes)
        + "\nTheir trials may not be comparable. Restore the file, or start a new study under another name. "
        "To continue with the file as it is here, add --accept-code to `tuner run` or `tuner worker` (in Python: accept_code=True)."
    )


def _stored_code(files: Sequence[CodeFile]) -> list[dict[str, str]]:
    """Return files of code as they are stored: without their texts, if these are long."""
    found, length = [], 0
    for file in files:
        length += len(json.dumps(file.text))
        text = file.text if length <= _CODE_LENGTH else ""
        found.append({"name": file.name, "sha256": file.sha256, "text": text})
    return found


def _read_code(stored: Any) -> list[CodeFile]:
    """Return the stored files of code; [] if an earlier version of tuner stored none."""
    try:
        return _FILES.validate_python(stored or [])
    except ValidationError:
        return []


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
