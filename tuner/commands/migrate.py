"""`tuner migrate` and `tuner copy`: a study with a changed search, and a whole study in another database.

`migrate` copies the trials that fit the changed search. `copy` copies everything.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import machine, wording
from tuner.commands import artifacts, show, storage_url
from tuner.errors import RequestError, StudyError
from tuner.queue import admission
from tuner.spec import file as study_file
from tuner.spec.study import NAME, StudySpec
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import HALTED, MIGRATED, STOPPED
from tuner.storage.engine import Storage
from tuner.studies import copying
from tuner.studies import migrate as studies_migrate
from tuner.studies import study as studies
from tuner.studies.copying import CopiedStudy
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
    given = study_file.with_defaults_of(source.images, study_file.with_class_order_of(source.images, study_file.read_images(file)))
    target = _target(source, given)
    if target.existing is None:
        found = studies_migrate.decide(source, target.spec)
        _require_images(found, cache)
        made = studies_migrate.carry(found, by=machine.user_name())
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
    opened = admission.require_usable(found.spec, cache)
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


def copy(study: str, url: str, *, to: str, name: str | None, as_json: bool) -> int:
    """Copy a whole study into another database, unless an earlier call did, and print what is left to do."""
    if not to:
        raise RequestError("--to is empty; expected the URL of a database, for example postgresql://USER@HOST/DATABASE.")
    if name is not None and not re.fullmatch(NAME, name):
        raise RequestError(f"--name is {name!r}; expected up to 100 letters, digits, dots, dashes and underscores.")
    source = show.load_study(study, url)
    copying.require_idle(source)  # before the target is created
    target = storages.open(storage_url.url(to))
    made = copying.copy(source, target, name=name or source.name, by=machine.user_name(), tell=_tell)
    places = copying.places(made.study)
    if as_json:
        said = {"study": made.study.name, "to": storages.shown(target.url), "by_an_earlier_command": not made.is_new}
        plain.result(json.dumps(said | dict(made.record) | {"files": places}, indent=2))
    else:
        plain.result("\n".join((*_copied_lines(made, source), *_file_lines(made, places), *_next_lines(made, source))))
    return 0


def _tell(name: str, num_trials: int) -> None:
    """Print how far a long copy is."""
    if num_trials and num_trials % (10 * copying.BATCH) == 0:
        plain.line(f"{name}: {num_trials:,} trials so far")


def _copied_lines(made: CopiedStudy, source: Study) -> Iterator[str]:
    record, target = made.record, storages.shown(made.study.storage.url)
    first, *others = record["studies"]
    what = f"{wording.count(first['trials'], 'trial')} with {wording.count(first['epochs'], 'epoch')}"
    if made.is_new:
        yield f"{source.name} is copied to {target} as {first['name']}: {what}. The study in {record['storage']} does not change."
    else:
        yield f"{source.name} was copied to {target} as {first['name']} on {wording.moment(record['at'])}: {what}. Nothing was written."
    for other in others:
        yield f"  its retraining {other['name']}: {wording.count(other['trials'], 'trial')} with {wording.count(other['epochs'], 'epoch')}"
    if record["versions"]:
        yield f"  {wording.count(record['versions'], 'version')}, with stages and readings of the test split"


def _file_lines(made: CopiedStudy, places: Mapping[str, int]) -> Iterator[str]:
    """Yield where the files of a copy are, and how to copy them to another machine."""
    unfinished = sum(study["unfinished"] for study in made.record["studies"])
    folders = [place for place in places if not artifacts.is_in_bucket(place)][:_NAMED]
    folders += sorted({str(path) for path in (Path(place).parent / ".pictures" for place in folders) if path.is_dir()})
    yield "Files are not copied: weights, checkpoints, pictures and logs. The copy names the same files, which stay valid on this machine."
    yield from (f"  {place}: weights of {wording.count(num, 'model')}" for place, num in list(places.items())[:_NAMED])
    if folders:
        yield "On another machine, they must have the same path. To copy them there, for each folder:"
        yield from (f"  rsync -aR {shlex.quote(place)}/ HOST:/" for place in folders)
    if unfinished:
        renamed = [study for study in made.record["studies"] if study["name"] != study["from"] and study["unfinished"]]
        yield f"{wording.count(unfinished, 'trial')} did not end. The checkpoints are in the folder of artifacts, below the study's name."
        yield from (f"  To resume them: cp -a ARTIFACTS/{study['from']} ARTIFACTS/{study['name']}" for study in renamed)


def _next_lines(made: CopiedStudy, source: Study) -> Iterator[str]:
    name, target = made.study.name, storages.shown(made.study.storage.url)
    stored = made.study.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, made.study.id, STOPPED, HALTED))
    if stored:
        yield f"The copy is stopped, as the study was. To resume it: tuner resume {name} --storage {target}"
    file = "tuner run FILE" if name == source.name else f"write `name: {name}` into the file, then: tuner run FILE"
    yield f"Continue with: {file} --storage {target}"
    if name == source.name:
        yield "Do not continue the study in both databases with one folder of artifacts: both would write the same files."
