"""`tuner status`, `best`, `report` and `watch`: what the storage has about a study, shown or written to a file."""

import dataclasses
import json
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuner.commands import options, storage_url
from tuner.commands.origin import LocalSettings
from tuner.errors import StorageError, StudyError
from tuner.results import best as bests
from tuner.results import export as exports
from tuner.spec.study import AnyStudySpec
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import workers
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.terminal import status as status_screens
from tuner.terminal import watch as watch_screens
from tuner.views import status as views_status
from tuner.views.status import FailedTrials, Snapshot

_REFRESH_SECONDS = 1.0
#: a read that takes longer counts as a database that cannot be reached
_READ_LIMIT_SECONDS = 0.5


def load_study(name: str, url: str) -> Study:
    """Load an existing study.

    Raises:
        StudyError: it does not exist.
    """
    if not storage_url.exists(url):
        raise StudyError(f"there is no study {name}: {storage_url.missing(url)} Name the database with --storage")
    return studies.load(name, storages.open(url))


def localized(study: Study, local: LocalSettings) -> Study:
    """Return a study with the paths of its images and its code on this machine, and say if its code is read from another folder."""
    here = local.localize(study.spec)
    before, now = (getattr(spec, "folder", None) for spec in (study.spec, here))
    if now != before:
        plain.line(f"{study.name}: the folder of its code, {before}, does not exist here; its files are read from {now}")
    return studies.at(study, here)


def _snapshots(url: str) -> list[tuple[AnyStudySpec, Snapshot]]:
    """Return the state of each study. A study that cannot be read gets a line on stderr and does not hide the others."""
    if not storage_url.exists(url):
        return []
    storage = storages.open(url)
    seen = []
    for name in studies.names(storage):
        try:
            study = studies.load(name, storage)
            seen.append((study.spec, views_status.snapshot(study)))
        except StudyError as error:
            plain.line(f"left out: {error}")
    return seen


def show_status(name: str | None, url: str, *, as_json: bool) -> int:
    """Print the state of one study, or of all studies."""
    failed: list[FailedTrials] = []
    if name is None:
        seen = _snapshots(url)
    else:
        study = load_study(name, url)
        seen = [(study.spec, views_status.snapshot(study))]
        failed = _failures(study, seen[0][1])
    if as_json:
        described = [status_screens.as_json(spec, snapshot) for spec, snapshot in seen]
        plain.result(json.dumps(described if name is None else described[0], indent=2))
    elif not seen:
        empty = f"{storages.shown(url)} has no studies yet." if storage_url.exists(url) else storage_url.missing(url)
        plain.result(f"{empty} Start a study with: tuner run FILE")
    else:
        screens = [status_screens.studies_table(seen)] if name is None else [status_screens.study(*seen[0])]
        printing.result(*screens, *([status_screens.failures(failed)] if failed else []))
    return 0


def _failures(study: Study, snapshot: Snapshot) -> list[FailedTrials]:
    """Return the failures of a study by kind; no statement is needed if there are none."""
    return study.storage.read(lambda connection: views_status.failures(connection, study.id)) if snapshot.num_failed else []


def show_best(name: str, url: str, *, form: options.OutputFormat) -> int:
    """Print the best trial of a study."""
    found = bests.best(load_study(name, url))
    match form:
        case options.OutputFormat.TEXT:
            printing.result(status_screens.best_trial(found))
        case options.OutputFormat.JSON:
            plain.result(exports.as_json(found))
        case options.OutputFormat.YAML:
            plain.document(exports.as_yaml(found))
    return 0


def write_report(name: str, url: str, to: Path, *, form: str | None, force: bool) -> int:
    """Write the report of a study. A file that is not a report is overwritten only by force."""
    from tuner.report import page  # it brings the templates and drawings of the pages

    target = to.expanduser()
    chosen = page.format_of(target, form)
    page.check_target(target, force=force)
    size = page.write(load_study(name, url), target, chosen)
    plain.result(f"Wrote {target}, {size / 1000:,.0f} kB. The file is complete: it needs no other files and no network.")
    return 0


def watch(name: str, url: str, *, as_json: bool) -> int:
    """Show a study until it ends. On a terminal, q or Ctrl-C ends the command. With JSON, print the current state once."""
    study = load_study(name, url)
    if as_json:
        plain.result(json.dumps(_as_json(study), indent=2))
        return 0
    try:
        if printing.stderr().is_terminal:
            _watch_live(study)
        else:
            _watch_in_lines(study)
    except KeyboardInterrupt:
        pass
    return 0


def _read(study: Study) -> watch_screens.WatchedStudy:
    snapshot = views_status.snapshot(study)
    failed = _failures(study, snapshot)
    return watch_screens.WatchedStudy(
        snapshot=snapshot, workers=tuple(workers.of_study(study)), curve=tuple(views_status.best_curve(study)), failures=tuple(failed)
    )


def _as_json(study: Study) -> dict[str, Any]:
    seen = _read(study)
    workers = [
        {"name": worker.name, "device": worker.device, "trial": worker.trial, "stage": worker.stage, "is_present": worker.is_present}
        for worker in seen.workers
    ]
    failed = [dataclasses.asdict(failure) for failure in seen.failures]
    return status_screens.as_json(study.spec, seen.snapshot) | {"workers": workers, "curve": list(seen.curve), "failures": failed}


def _watch_live(study: Study) -> None:
    limited = _with_read_limit(study)
    with watch_screens.WatchScreen(study.spec) as screen, _single_keys():
        while True:
            try:
                seen, error_text = _read(limited), ""
            except StorageError as error:
                seen, error_text = None, str(error)
            screen.show(seen, error_text)
            if _waits_for_quit(_REFRESH_SECONDS):
                return


def _watch_in_lines(study: Study) -> None:
    """Print a line whenever something has changed, until the study ends."""
    printed, limited = "", _with_read_limit(study)
    while True:
        try:
            seen = _read(limited)
            line, is_over = watch_screens.line(study.spec, seen), watch_screens.is_over(seen)
        except StorageError as error:
            line, is_over = f"{study.name} the database cannot be reached: {error}", False
        if line != printed:
            printed = line
            plain.line(line)
        if is_over:
            return
        time.sleep(_REFRESH_SECONDS)


def _with_read_limit(study: Study) -> Study:
    return dataclasses.replace(study, storage=study.storage.within(_READ_LIMIT_SECONDS))


@contextmanager
def _single_keys() -> Iterator[None]:
    """Read single keys without Enter while a `with` block runs, then restore the terminal. Without a terminal, do nothing."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _waits_for_quit(seconds: float) -> bool:
    """Wait this long, or until someone presses q; return whether someone did."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and sys.stdin.read(1) in ("q", "Q", "\x03", "")
