"""Pictures: confusion and mistakes of the best few trials, in Optuna's artifact store.

The store maps ids to bytes. The attributes of a trial describe its ids in the format of `optuna.artifacts`, so that optuna-dashboard
finds them too.
"""

import contextlib
import dataclasses
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from tuner.protocol.messages import PictureKind
from tuner.storage import optuna_private, queries, tables
from tuner.storage.attributes import PICTURES
from tuner.storage.optuna_private import ARTIFACTS_ATTR_PREFIX
from tuner.storage.queries import VALUED
from tuner.storage.tables import TRIAL_SYSTEM
from tuner.studies.study import Study

# `optuna.artifacts` imports boto3, which takes a quarter of a second, so functions import it
if TYPE_CHECKING:
    from tuner.storage.optuna_private import ArtifactStore

#: number of completed trials, the best ones, whose pictures are stored
MAX_TRIALS = 5
#: a larger picture is not stored
MAX_BYTES = 1_000_000
#: name inside the folder of artifacts; no study can have this name
_FOLDER = ".pictures"
_MIME_TYPES = {PictureKind.MISTAKES: "image/jpeg", PictureKind.CONFUSION: "image/png"}
_SUFFIXES = {PictureKind.MISTAKES: ".jpg", PictureKind.CONFUSION: ".png"}


def store(artifacts: Path) -> "ArtifactStore":
    """Return the store of all pictures in a folder of artifacts. In a read-only folder the store may not exist."""
    from optuna.artifacts import FileSystemArtifactStore

    folder = artifacts / _FOLDER
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(folder)


def keep(where: "ArtifactStore", drawn: Mapping[PictureKind, str]) -> dict[PictureKind, str]:
    """Put pictures into the store, and return their ids for `attributes`.

    Raises:
        OSError: a picture cannot be written, for example because the disk is full.
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
    """Return the system attributes of a trial that describe its pictures."""
    if not ids:
        return {}
    from optuna.artifacts import ArtifactMeta

    said: dict[str, Any] = {PICTURES: {kind.value: name for kind, name in ids.items()}}
    for kind, name in ids.items():
        meta = ArtifactMeta(artifact_id=name, filename=f"{kind.value}{_SUFFIXES[kind]}", mimetype=_MIME_TYPES[kind], encoding=None)
        said[ARTIFACTS_ATTR_PREFIX + name] = json.dumps(dataclasses.asdict(meta))
    return said


def read(where: "ArtifactStore", artifact_id: str) -> bytes | None:
    """Return a picture, or None if it no longer exists."""
    from optuna.artifacts.exceptions import ArtifactNotFound

    try:
        with contextlib.closing(where.open_reader(artifact_id)) as file:
            return file.read()
    except (ArtifactNotFound, FileNotFoundError, NotADirectoryError):
        return None


def drop(where: "ArtifactStore", ids: Mapping[PictureKind, str]) -> None:
    """Remove pictures from the store."""
    from optuna.artifacts.exceptions import ArtifactNotFound

    for name in ids.values():
        with contextlib.suppress(ArtifactNotFound, FileNotFoundError):
            where.remove(name)


def tidy(study: Study, where: "ArtifactStore") -> None:
    """Remove the pictures of all trials except the best few."""
    for trial_id, ids in study.storage.read(lambda connection: _overtaken(connection, study.id)):
        drop(where, ids)
        names = [PICTURES, *(ARTIFACTS_ATTR_PREFIX + name for name in ids.values())]
        study.storage.write(lambda connection, trial_id=trial_id, names=names: _forget(connection, trial_id, names))  # type: ignore[misc]


def _overtaken(connection: Connection, study_id: int) -> list[tuple[int, dict[PictureKind, str]]]:
    """Return trials that have pictures but are not among the best few of those that do."""
    query = (
        queries.ranked(study_id)
        .add_columns(TRIAL_SYSTEM.c.value_json)
        .join(TRIAL_SYSTEM, TRIAL_SYSTEM.c.trial_id == VALUED.c.trial_id)
        .where(TRIAL_SYSTEM.c.key == PICTURES)
    )
    rows = connection.execute(query.offset(MAX_TRIALS).limit(10 * MAX_TRIALS))
    return [(trial_id, ids_of(optuna_private.decoded(text))) for trial_id, _, _, text in rows]


def ids_of(stored: Any) -> dict[PictureKind, str]:
    """Return the ids of pictures by kind, as a trial stores them; what another program stored is left out."""
    known = stored if isinstance(stored, Mapping) else {}
    return {PictureKind(kind): name for kind, name in known.items() if kind in set(PictureKind) and isinstance(name, str)}


def _forget(connection: Connection, trial_id: int, keys: list[str]) -> None:
    for key in keys:
        tables.remove(connection, TRIAL_SYSTEM, trial_id, key)
