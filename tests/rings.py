"""The three rings of tests: unit, integration and acceptance. `make unit` runs the first, which needs only Python.

A test is in the innermost ring that has all it needs. A unit test needs no TensorFlow, no server, no browser and no process, and it
tests less than a whole search, worker, command or doctor. An integration test needs no browser and no `tuner` process.
"""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
RINGS = {
    "unit": "needs no TensorFlow, no server, no browser and no process",
    "integration": "needs TensorFlow, a server or a process, or tests a whole search, worker, command or doctor",
    "acceptance": "needs tuner processes or a browser",
}
#: folders and files whose tests are all in one ring
_FOLDERS = {
    "acceptance": "acceptance",
    "browser": "acceptance",
    "compatibility": "acceptance",
    "faults": "acceptance",
    "commands": "integration",
    "dashboard/test_api.py": "integration",
    "doctor": "integration",
    "integration": "integration",
    "kernels": "integration",
    "queue/test_fairness.py": "integration",
    "queue/test_pool.py": "integration",
    "results/verify": "integration",
    "sampling/test_pruners.py": "integration",
    "sampling/test_samplers.py": "integration",
    "tasks/custom/training": "integration",
    "tasks/images/training": "integration",
    "tasks/test_toy_task.py": "integration",
    "trainer": "integration",
    "views/test_regret.py": "integration",
    "workers/bucket": "integration",
    "workers/pool": "integration",
    "workers/worker": "integration",
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
#: kinds of databases that need a server, as parameters of tests
_SERVERS = {"postgresql", "mariadb"}
_KERAS = r"keras|tensorflow|tests\.keras_studies|tuner\.kernels|tuner\.trainer|tuner\.tasks\.\w+\.training"
_HEAVY_IMPORT = re.compile(rf"^\s*(?:import|from) (?:{_KERAS})\b", re.MULTILINE)
#: calls, in a test or in one of its fixtures, that start a process or a server
_HEAVY_CALL = re.compile(r"\b(?:subprocess|multiprocessing|ChildTrainer|Popen|server\.beside|buckets\.service|OpenIdProvider|mlflow)\b")


def of(item: pytest.Item) -> str:
    """Return the ring of a test."""
    needed = {_of_file(item.path), _of_fixtures(item), _of_calls(item)}
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
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if any(isinstance(value, str) and value in _SERVERS for value in parameters):
        rings.append("integration")
    return max(rings, key=list(RINGS).index, default="unit")


def _of_calls(item: pytest.Item) -> str:
    fixtures = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - pytest has no public name for it
    functions = [item.function, *(each.func for several in fixtures for each in several)]  # type: ignore[attr-defined]
    return "integration" if any(_starts_something(inspect.unwrap(each)) for each in functions) else "unit"


@functools.cache
def _starts_something(function: Callable[..., object]) -> bool:
    try:
        return _HEAVY_CALL.search(inspect.getsource(function)) is not None
    except (OSError, TypeError):  # it has no source: Schemathesis makes some
        return True
