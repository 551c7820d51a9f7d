"""SQLite databases for tests: copies of an empty one, since creating all tables takes a tenth of a second."""

import functools
import shutil
import tempfile
from pathlib import Path

from tuner.storage import engine as storages


def sqlite(folder: Path, name: str = "tuner.db") -> str:
    """Return the URL of a database in a folder; where there is none yet, of one without studies."""
    path = folder / name
    if not path.exists():
        shutil.copyfile(_empty(), path)
    return f"sqlite:///{path}"


@functools.cache
def _empty() -> Path:
    path = Path(tempfile.mkdtemp(prefix="tuner-tests-")) / "empty.db"
    storages.open(f"sqlite:///{path}").close()
    return path
