"""`tuner watch`: a study seen live from the storage alone, by whoever reaches that."""

import dataclasses
import json
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tuner.commands import showing
from tuner.errors import StorageError
from tuner.search import progress, roster, troubles
from tuner.search.study import Study
from tuner.terminal import plain, printing, standing
from tuner.terminal import watch as screens

_LOOK_SECONDS = 1.0
#: how long a look may take before the database counts as away
_PATIENCE_SECONDS = 0.5


def watch(name: str, url: str, *, as_json: bool) -> int:
    """Show a study until it ends or someone has seen enough; on a terminal q or Ctrl-C ends it. With JSON, one look."""
    study = showing.load(name, url)
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


def _look(study: Study) -> screens.Seen:
    snapshot = progress.snapshot(study)
    failed = study.storage.read(lambda connection: troubles.read(connection, study.id)) if snapshot.num_failed else []
    return screens.Seen(
        snapshot=snapshot, workers=tuple(roster.of_study(study)), curve=tuple(progress.best_curve(study)), troubles=tuple(failed)
    )


def _described(study: Study) -> dict[str, Any]:
    seen = _look(study)
    workers = [
        {"name": worker.name, "device": worker.device, "trial": worker.trial, "stage": worker.stage, "is_present": worker.is_present}
        for worker in seen.workers
    ]
    failures = [dataclasses.asdict(trouble) for trouble in seen.troubles]
    return standing.as_json(study.spec, seen.snapshot) | {"workers": workers, "curve": list(seen.curve), "failures": failures}


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
