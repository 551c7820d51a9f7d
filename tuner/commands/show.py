"""`tuner status` and `best`: what a storage holds, shown.

`tuner report`: a study into one file that explains it.

`tuner watch`: a study seen live from the storage alone, by whoever reaches that.
"""

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

from tuner.commands import options
from tuner.errors import StorageError, StudyError
from tuner.report import page
from tuner.results import best as bests
from tuner.results import export as exports
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.studies import workers
from tuner.studies.study import Study
from tuner.terminal import plain, printing
from tuner.terminal import status as status_screens
from tuner.terminal import watch as screens
from tuner.views import failures
from tuner.views import status as views_status


def show_status(name: str | None, url: str, *, as_json: bool) -> int:
    """Print how far one study is, or each of them."""
    found = [load(name, url)] if name is not None else _all(url)
    seen = [(study.spec, views_status.snapshot(study)) for study in found]
    if as_json:
        described = [status_screens.as_json(spec, snapshot) for spec, snapshot in seen]
        plain.result(json.dumps(described if name is None else described[0], indent=2))
    elif not seen:
        plain.result(f"There is no study in {storages.shown(url)} yet. Start one with: tuner run studies/animals.yaml")
    else:
        printing.result(status_screens.many(seen) if name is None else status_screens.one(*seen[0]))
    return 0


def show_best(name: str, url: str, *, form: options.OutputFormat) -> int:
    """Print the best trial of a study."""
    found = bests.best(load(name, url))
    match form:
        case options.OutputFormat.TEXT:
            printing.result(status_screens.best(found))
        case options.OutputFormat.JSON:
            plain.result(exports.as_json(found))
        case options.OutputFormat.YAML:
            plain.result(exports.as_yaml(found))
    return 0


def load(name: str, url: str) -> Study:
    """A study that is there.

    Raises:
        StudyError: it is not.
    """
    if not options.is_there(url):
        raise StudyError(f"there is no study {name}: {storages.shown(url)} does not exist. Name the database with --storage")
    return studies.load(name, storages.open(url))


def _all(url: str) -> list[Study]:
    if not options.is_there(url):
        return []
    storage = storages.open(url)
    return [studies.load(name, storage) for name in studies.names(storage)]


def report(name: str, url: str, to: Path, *, form: str | None, force: bool) -> int:
    """Write the report of a study; a file that is no report is replaced only by force."""
    target = to.expanduser()
    chosen = page.form(target, form)
    page.check_place(target, force=force)
    size = page.write(load(name, url), target, chosen)
    plain.result(f"Wrote {target}, {size / 1000:,.0f} kB. It needs nothing beside it, and no network.")
    return 0


_LOOK_SECONDS = 1.0
#: how long a look may take before the database counts as away
_PATIENCE_SECONDS = 0.5


def watch(name: str, url: str, *, as_json: bool) -> int:
    """Show a study until it ends or someone has seen enough; on a terminal q or Ctrl-C ends it. With JSON, one look."""
    study = load(name, url)
    if as_json:
        plain.result(json.dumps(_described(study), indent=2))
        return 0
    try:
        if printing.stderr().is_terminal:
            _watch_live(study)
        else:
            _watch_plainly(study)
    except KeyboardInterrupt:
        pass
    return 0


def _look(study: Study) -> screens.WatchedStudy:
    snapshot = views_status.snapshot(study)
    failed = study.storage.read(lambda connection: failures.read(connection, study.id)) if snapshot.num_failed else []
    return screens.WatchedStudy(
        snapshot=snapshot, workers=tuple(workers.of_study(study)), curve=tuple(views_status.best_curve(study)), troubles=tuple(failed)
    )


def _described(study: Study) -> dict[str, Any]:
    seen = _look(study)
    workers = [
        {"name": worker.name, "device": worker.device, "trial": worker.trial, "stage": worker.stage, "is_present": worker.is_present}
        for worker in seen.workers
    ]
    failures = [dataclasses.asdict(trouble) for trouble in seen.troubles]
    return status_screens.as_json(study.spec, seen.snapshot) | {"workers": workers, "curve": list(seen.curve), "failures": failures}


def _watch_live(study: Study) -> None:
    patient, away = _hasty(study), ""
    with screens.WatchScreen(study.spec) as screen, _keys():
        while True:
            try:
                seen, away = _look(patient), ""
            except StorageError as error:
                seen, away = None, str(error)
            screen.show(seen, away)
            if _is_enough(_LOOK_SECONDS):
                return


def _watch_plainly(study: Study) -> None:
    """A line each time something has changed, until the study ends."""
    said, patient = "", _hasty(study)
    while True:
        try:
            seen = _look(patient)
            line, is_over = screens.line(study.spec, seen), screens.is_over(seen)
        except StorageError as error:
            line, is_over = f"{study.name} the database is away: {error}", False
        if line != said:
            said = line
            plain.line(line)
        if is_over:
            return
        time.sleep(_LOOK_SECONDS)


def _hasty(study: Study) -> Study:
    return dataclasses.replace(study, storage=study.storage.within(_PATIENCE_SECONDS))


@contextmanager
def _keys() -> Iterator[None]:
    """Have single keys arrive at once, and leave the terminal as it was; where stdin is none, none arrive."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_enough(seconds: float) -> bool:
    """Wait for so long, or until someone presses q; whether someone did."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(ready) and sys.stdin.read(1) in ("q", "Q", "\x03", "")
