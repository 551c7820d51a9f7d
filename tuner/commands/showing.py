"""`tuner status`, `best`, `export` and `dashboard`: what a storage holds, shown."""

import json
from pathlib import Path

from tuner.commands import options
from tuner.dashboard import app
from tuner.results import best as bests
from tuner.results import export as exports
from tuner.search import progress
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.terminal import printing, standing


def status(name: str | None, url: str, *, as_json: bool) -> int:
    """Print how far one study is, or each of them."""
    storage = storages.open(url)
    names = [name] if name is not None else studies.names(storage)
    found = [(study.spec, progress.snapshot(study)) for study in (studies.load(one, storage) for one in names)]
    if as_json:
        printing.raw(json.dumps([standing.as_json(spec, snapshot) for spec, snapshot in found], indent=2))
    elif name is not None:
        printing.result(standing.one(*found[0]))
    elif found:
        printing.result(standing.many(found))
    else:
        printing.result(f"There are no studies in {storages.shown(url)}. Start one with: tuner run studies/animals.yaml")
    return 0


def best(name: str, url: str, *, form: options.Form) -> int:
    """Print the best trial of a study."""
    study = studies.load(name, storages.open(url))
    found = bests.best(study)
    match form:
        case options.Form.TEXT:
            printing.result(standing.best(found))
        case options.Form.JSON:
            printing.raw(exports.as_json(study, found))
        case options.Form.YAML:
            printing.raw(exports.as_yaml(study, found))
    return 0


def export(name: str, url: str, to: Path) -> int:
    """Write the best trial's config to a file."""
    target = options.config_file(to)
    study = studies.load(name, storages.open(url))
    exports.write(bests.best(study), target)
    printing.result(f"Wrote {target}. It is a study file: tuner run {target}")
    return 0


def dashboard(url: str, host: str, port: int) -> int:
    """Serve the dashboard until Ctrl-C."""
    app.serve(storages.open(url), host, port, ready=lambda address: printing.note(f"The dashboard is at {address} (Ctrl-C ends it)"))
    return 0
