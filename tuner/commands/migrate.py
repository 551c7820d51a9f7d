"""`tuner migrate`: a study into one of a changed search, with all of its trials that belong to that too."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import wording
from tuner.commands import check, control, show
from tuner.errors import StudyError
from tuner.spec import file as study_file
from tuner.spec.study import StudySpec
from tuner.storage import tables
from tuner.storage.attributes import MIGRATED
from tuner.storage.engine import Storage
from tuner.studies import migrate as studies_migrate
from tuner.studies import study as studies
from tuner.studies.migrate import Migration
from tuner.studies.study import Study
from tuner.tasks.images.data import dataset
from tuner.terminal import plain

#: trials that are left behind and named on the screen
_NAMED = 20
_MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The study that is to be."""

    spec: StudySpec
    #: the same from an earlier call; None: there is none yet
    there: Study | None


def migrate(name: str, file: Path, url: str, *, cache: Path, as_json: bool) -> int:
    """Make the new study, unless an earlier call did, and say what became of each trial."""
    source, given = show.load(name, url), study_file.read(file)
    target = _target(source, given)
    if target.there is None:
        found = studies_migrate.decide(source, target.spec)
        _require_images(found, cache)
        made = studies_migrate.carry(found, by=control.user())
    else:
        made = target.there
    said = made.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, made.id, MIGRATED))[MIGRATED]
    if as_json:
        plain.result(json.dumps({"study": made.name} | said, indent=2))
    else:
        was_there = " (done before)" if target.there is not None else ""
        plain.result("\n".join(_lines(made, said, was_there, file if given.name == made.name else None)))
    return 0


def _target(source: Study, given: StudySpec) -> _Target:
    """The new study by the name of its file; where that is the old one's, by the next free `-v2`, `-v3`, ..."""
    if given.name != source.name:
        return _named(source, given)
    for number in range(2, 1000):
        suffix = f"-v{number}"
        spec = given.model_copy(update={"name": given.name[: _MAX_NAME - len(suffix)] + suffix})
        if spec.name not in studies.names(source.storage):
            return _Target(spec=spec, there=None)
        earlier = _earlier(source, spec)
        if earlier is not None:
            return _Target(spec=spec, there=earlier)
    raise StudyError(f"{given.name} has been migrated a thousand times; give the file a name of its own")


def _named(source: Study, spec: StudySpec) -> _Target:
    if spec.name not in studies.names(source.storage):
        return _Target(spec=spec, there=None)
    earlier = _earlier(source, spec)
    if earlier is None:
        raise StudyError(
            f"there is a study {spec.name} in this storage, which is not {source.name} with this search; name another in the file"
        )
    return _Target(spec=spec, there=earlier)


def _earlier(source: Study, spec: StudySpec) -> Study | None:
    """The study of this name if it is what this migration would make."""
    found = studies.load(spec.name, source.storage)
    said = _migrated(found.storage, found.id)
    is_it = said.get("from") == source.name and not study_file.differences(found.spec, spec)
    return found if is_it else None


def _migrated(storage: Storage, study_id: int) -> Mapping[str, Any]:
    return storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study_id, MIGRATED)).get(MIGRATED) or {}


def _require_images(found: Migration, cache: Path) -> None:
    """Refuse other images or splits than those that the trials were measured on; those that only a trainer reads, it turns away.

    Raises:
        StudyError: they are others.
        DataError: they cannot be read here.
    """
    opened = check.require(found.spec, cache)
    if opened is None:
        return
    data, parts = opened
    for what, here, there in (
        ("images and labels", dataset.fingerprint(data), found.prepared.fingerprint),
        ("splits", parts.digest, found.prepared.splits),
    ):
        if here != there:
            raise StudyError(
                f"the {what} here (fingerprint {here[:12]}) are not those that {found.source.name} was begun with ({there[:12]}), "
                "so its trials would not compare. Put the images back as they were; or begin with the best of it: "
                f"tuner run FILE --from {found.source.name}"
            )


def _lines(made: Study, said: Mapping[str, Any], was_there: str, file: Path | None) -> Iterator[str]:
    num, others, source = said["num_carried"], said["num_left"], said["from"]
    yield f"{made.name}: {num} of {wording.count(num + others, 'trial')} of {source} are carried over{was_there}; {source} stays as it is."
    yield from (f"  {change}" for change in said["changes"])
    yield from (f"  trial {left['trial']} is left behind: {left['reason']}" for left in said["left"][:_NAMED])
    if others > _NAMED:
        yield f"  … and {others - _NAMED} more; --json names {len(said['left'])}"
    yield "The budget counts new trials only."
    if file is not None:
        yield f"Go on with: tuner run {file}"
    else:
        yield f"Go on with: tuner worker {made.name}; or write `name: {made.name}` into the file, then: tuner run FILE"
