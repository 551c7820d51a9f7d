"""Pictures of the best few trials into the artifact store, where our pages and optuna-dashboard find them, and out of it again.

The store is Optuna's: a place of bytes under ids. What an id is, a trial's attributes say, in the form that `optuna.artifacts` gives them.
"""

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import Connection

from tuner.protocol.messages import PictureKind
from tuner.storage import queries, tables
from tuner.storage.attributes import PICTURES
from tuner.storage.optuna_private import ARTIFACTS_ATTR_PREFIX, ArtifactStore
from tuner.storage.queries import VALUED
from tuner.storage.tables import TRIAL_SYSTEM
from tuner.studies.study import Study

#: completed trials, the best ones, that keep theirs
KEPT_TRIALS = 5
#: a larger picture is not kept
MAX_BYTES = 1_000_000
#: in the folder of artifacts; no study has such a name
_FOLDER = ".pictures"
_MIME_TYPES = {PictureKind.MISTAKES: "image/jpeg", PictureKind.CONFUSION: "image/png"}
_SUFFIXES = {PictureKind.MISTAKES: ".jpg", PictureKind.CONFUSION: ".png"}


def store(artifacts: Path) -> ArtifactStore:
    """Where the pictures of all studies are, given the folder of artifacts; one that may only be read has none to begin with."""
    folder = artifacts / _FOLDER
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder)


def keep(where: ArtifactStore, drawn: Mapping[PictureKind, str]) -> dict[PictureKind, str]:
    """Put pictures into the store; their ids there, which `attributes` then says of the trial.

    Raises:
        OSError: there is no room, for example.
    """
    ids: dict[PictureKind, str] = {}
    for kind, name in drawn.items():
        path = Path(name)
        if path.stat().st_size <= MAX_BYTES:
            ids[kind] = str(uuid.uuid4())
            with path.open("rb") as file:
                where.write(ids[kind], file)
    return ids


def attributes(ids: Mapping[PictureKind, str]) -> dict[str, Any]:
    """What a trial's system attributes say of its pictures."""
    if not ids:
        return {}
    said: dict[str, Any] = {PICTURES: {kind.value: name for kind, name in ids.items()}}
    for kind, name in ids.items():
        meta = ArtifactMeta(artifact_id=name, filename=f"{kind.value}{_SUFFIXES[kind]}", mimetype=_MIME_TYPES[kind], encoding=None)
        said[ARTIFACTS_ATTR_PREFIX + name] = json.dumps(dataclasses.asdict(meta))
    return said


def read(where: ArtifactStore, artifact_id: str) -> bytes | None:
    """A picture; None if it is not there any more."""
    try:
        with contextlib.closing(where.open_reader(artifact_id)) as file:
            return file.read()
    except (ArtifactNotFound, FileNotFoundError, NotADirectoryError):
        return None


def drop(where: ArtifactStore, ids: Mapping[PictureKind, str]) -> None:
    """Take pictures out of the store."""
    for name in ids.values():
        with contextlib.suppress(ArtifactNotFound, FileNotFoundError):
            where.remove(name)


def tidy(study: Study, where: ArtifactStore) -> None:
    """Keep the pictures of the best few trials, and no others."""
    for trial_id, ids in study.storage.read(lambda connection: _overtaken(connection, study.id)):
        drop(where, ids)
        names = [PICTURES, *(ARTIFACTS_ATTR_PREFIX + name for name in ids.values())]
        study.storage.write(lambda connection, trial_id=trial_id, names=names: _forget(connection, trial_id, names))  # type: ignore[misc]


def _overtaken(connection: Connection, study_id: int) -> list[tuple[int, dict[PictureKind, str]]]:
    """Trials with pictures that are not among the best few of those."""
    query = (
        queries.ranked(study_id)
        .add_columns(TRIAL_SYSTEM.c.value_json)
        .join(TRIAL_SYSTEM, TRIAL_SYSTEM.c.trial_id == VALUED.c.trial_id)
        .where(TRIAL_SYSTEM.c.key == PICTURES)
    )
    rows = connection.execute(query.offset(KEPT_TRIALS).limit(10 * KEPT_TRIALS))
    return [(trial_id, {PictureKind(kind): name for kind, name in json.loads(text).items()}) for trial_id, _, _, text in rows]


def _forget(connection: Connection, trial_id: int, keys: list[str]) -> None:
    for key in keys:
        tables.remove(connection, TRIAL_SYSTEM, trial_id, key)
