"""`tuner status` and `best`: what a storage holds, shown."""

import json

from tuner.commands import options
from tuner.errors import StudyError
from tuner.results import best as bests
from tuner.results import export as exports
from tuner.search import progress
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search.study import Study
from tuner.terminal import plain, printing, standing


def status(name: str | None, url: str, *, as_json: bool) -> int:
    """Print how far one study is, or each of them."""
    found = [load(name, url)] if name is not None else _all(url)
    seen = [(study.spec, progress.snapshot(study)) for study in found]
    if as_json:
        described = [standing.as_json(spec, snapshot) for spec, snapshot in seen]
        plain.result(json.dumps(described if name is None else described[0], indent=2))
    elif not seen:
        plain.result(f"There is no study in {storages.shown(url)} yet. Start one with: tuner run studies/animals.yaml")
    else:
        printing.result(standing.many(seen) if name is None else standing.one(*seen[0]))
    return 0


def best(name: str, url: str, *, form: options.Form) -> int:
    """Print the best trial of a study."""
    found = bests.best(load(name, url))
    match form:
        case options.Form.TEXT:
            printing.result(standing.best(found))
        case options.Form.JSON:
            plain.result(exports.as_json(found))
        case options.Form.YAML:
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
