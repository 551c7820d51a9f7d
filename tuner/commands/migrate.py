"""`tuner migrate`: a new study with a changed search, and copies of all trials that fit it."""

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

#: number of trials without a copy that are listed on the screen
_NAMED = 20
_MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The new study."""

    spec: StudySpec
    #: the same study if an earlier call made it; None: it does not exist yet
    existing: Study | None


def migrate(name: str, file: Path, url: str, *, cache: Path, as_json: bool) -> int:
    """Create the new study, unless an earlier call did, and print what became of each trial."""
    source = show.load_study(name, url)
    given = study_file.with_class_order_of(source.spec, study_file.read(file))
    target = _target(source, given)
    if target.existing is None:
        found = studies_migrate.decide(source, target.spec)
        _require_images(found, cache)
        made = studies_migrate.carry(found, by=control.user_name())
    else:
        made = target.existing
    summary = made.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, made.id, MIGRATED))[MIGRATED]
    if as_json:
        plain.result(json.dumps({"study": made.name} | summary, indent=2))
    else:
        note = " (by an earlier command)" if target.existing is not None else ""
        plain.result("\n".join(_lines(made, summary, note, file if given.name == made.name else None)))
    return 0


def _target(source: Study, given: StudySpec) -> _Target:
    """Return the new study: under the name in its file, or if that is the old study's name, with the next free `-v2`, `-v3`, ..."""
    if given.name != source.name:
        return _named(source, given)
    for number in range(2, 1000):
        suffix = f"-v{number}"
        spec = given.model_copy(update={"name": given.name[: _MAX_NAME - len(suffix)] + suffix})
        if spec.name not in studies.names(source.storage):
            return _Target(spec=spec, existing=None)
        earlier = _earlier(source, spec)
        if earlier is not None:
            return _Target(spec=spec, existing=earlier)
    raise StudyError(f"{given.name} was migrated a thousand times; choose a new name in the file")


def _named(source: Study, spec: StudySpec) -> _Target:
    if spec.name not in studies.names(source.storage):
        return _Target(spec=spec, existing=None)
    earlier = _earlier(source, spec)
    if earlier is None:
        raise StudyError(f"the storage already has another study named {spec.name}; choose a different name in the file")
    return _Target(spec=spec, existing=earlier)


def _earlier(source: Study, spec: StudySpec) -> Study | None:
    """Return the study of this name if this migration would make the same one."""
    found = studies.load(spec.name, source.storage)
    summary = _migrated(found.storage, found.id)
    is_same = summary.get("from") == source.name and not study_file.differences(found.spec, spec)
    return found if is_same else None


def _migrated(storage: Storage, study_id: int) -> Mapping[str, Any]:
    return storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study_id, MIGRATED)).get(MIGRATED) or {}


def _require_images(found: Migration, cache: Path) -> None:
    """Refuse other images or splits than those that the trials were measured on. A trainer checks later what only it can read.

    Raises:
        StudyError: the images or splits differ.
        DataError: the images cannot be read here.
    """
    opened = check.require_usable(found.spec, cache)
    if opened is None:
        return
    data, parts = opened
    for what, here, stored in (
        ("images and labels", dataset.fingerprint(data), found.prepared.fingerprint),
        ("splits", parts.digest, found.prepared.splits),
    ):
        if here != stored:
            raise StudyError(
                f"the {what} here (fingerprint {here[:12]}) differ from those that {found.source.name} was started with ({stored[:12]}), "
                "so its trials would not be comparable. Restore the images; or start from its best configurations: "
                f"tuner run FILE --from {found.source.name}"
            )


def _lines(made: Study, summary: Mapping[str, Any], note: str, file: Path | None) -> Iterator[str]:
    num, others, source = summary["num_carried"], summary["num_left"], summary["from"]
    yield f"{made.name}: {num} of {wording.count(num + others, 'trial')} of {source} are copied{note}. {source} does not change."
    yield from (f"  {change}" for change in summary["changes"])
    yield from (f"  trial {left['trial']} is not copied: {left['reason']}" for left in summary["left"][:_NAMED])
    if others > _NAMED:
        yield f"  … and {others - _NAMED} more; --json lists {len(summary['left'])} of them"
    yield "The budget counts new trials only."
    if file is not None:
        yield f"Continue with: tuner run {file}"
    else:
        yield f"Continue with: tuner worker {made.name}; or write `name: {made.name}` into the file, then: tuner run FILE"
