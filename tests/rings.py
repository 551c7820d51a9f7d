"""The three rings of tests: unit, integration and acceptance. `make unit` runs the first, which needs only Python.

A test is in the innermost ring that has all it needs: a unit test needs no TensorFlow, no database server, no browser and no `tuner`
process; an integration test needs no browser and no `tuner` process.
"""

import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
RINGS = {
    "unit": "needs no TensorFlow, no database server, no browser and no tuner process",
    "integration": "needs TensorFlow, a database server or several processes",
    "acceptance": "needs tuner processes or a browser",
}
#: folders whose tests are all in one ring
_FOLDERS = {
    "acceptance": "acceptance",
    "browser": "acceptance",
    "faults": "acceptance",
    "integration": "integration",
    "kernels": "integration",
    "tasks/images/training": "integration",
    "trainer": "integration",
}
#: fixtures that start what a unit test must not need
_FIXTURES = {
    "place": "acceptance",
    "finished": "acceptance",
    "terminals": "acceptance",
    "postgresql": "integration",
    "postgresql_server": "integration",
    "mariadb": "integration",
    "mariadb_server": "integration",
}
#: parameters that choose a kind of database, and the kind that needs no server
_STORAGES, _WITHOUT_SERVER = ("storage_url", "shared_storage"), "sqlite"
_KERAS = r"keras|tensorflow|tests\.keras_studies|tuner\.kernels|tuner\.trainer|tuner\.tasks\.images\.training"
_HEAVY_IMPORT = re.compile(rf"^\s*(?:import|from) (?:{_KERAS})\b", re.MULTILINE)


def of(item: pytest.Item) -> str:
    """Return the ring of a test."""
    needed = {_of_file(item.path), _of_fixtures(item)}
    return max(needed, key=list(RINGS).index)


def can_be_unit(path: Path) -> bool:
    """Whether a folder or file may hold unit tests; what may not is not even imported where only those are wanted."""
    return _of_file(path) == "unit"


@functools.cache
def _of_file(path: Path) -> str:
    inside = path.relative_to(TESTS).as_posix()
    ring = next((ring for folder, ring in _FOLDERS.items() if f"{inside}/".startswith(f"{folder}/")), "unit")
    return "integration" if ring == "unit" and path.suffix == ".py" and _HEAVY_IMPORT.search(path.read_text()) else ring


def _of_fixtures(item: pytest.Item) -> str:
    rings = [_FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in _FIXTURES]
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if any(parameters.get(name, _WITHOUT_SERVER) != _WITHOUT_SERVER for name in _STORAGES):
        rings.append("integration")
    return max(rings, key=list(RINGS).index, default="unit")
