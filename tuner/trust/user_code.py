"""Code of the user's: how the functions that a study names are imported, recognized on another machine, and called."""

import contextlib
import hashlib
import importlib
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tuner import errors, wording

T = TypeVar("T")

#: import path of the process that started the study; empty: only this process's own
_CALLERS_PATH: list[str] = []
#: whether code that a study names is being imported or called
_IS_IMPORTING = ContextVar("_IS_IMPORTING", default=False)
#: modules of files by their paths, which are imported once in a process
_MODULES: dict[Path, ModuleType] = {}
#: a longer file is recognized by its SHA-256 only
_TEXT_BYTES = 65_536
#: lines of the user's code in a message about an exception
_MAX_FRAMES = 5
#: what the code printed last, in characters
_PRINTED = 4_000
#: folders of code that is not the user's
_NOT_USERS = ("site-packages", "dist-packages", f"{os.sep}lib{os.sep}python")
_OWN = str(Path(__file__).resolve().parents[1]) + os.sep


class UserCodeError(errors.TrainingError):
    """Code of the user's raised an exception; the message has its own lines of the traceback."""


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """A file of code that a study names, as the first worker found it."""

    name: str
    sha256: str
    #: to show the differences on another machine; "" if the file is long. It is never run
    text: str


def load(name: str, folder: Path | None, *, field: str) -> Any:
    """Return the function or class that `file.py:name` or `package.module:name` names; a file is in `folder`.

    Raises:
        DataError: there is no such file, module or name, or it cannot be imported.
    """
    place, _, attribute = name.rpartition(":")
    with current_folder(*([] if folder is None else [str(folder)])):
        module = _file_module(place, folder, field) if place.endswith(".py") else _named_module(place, name, field)
    if not hasattr(module, attribute):
        known = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise errors.DataError(
            f"{field} is {name}, but {place} has no {attribute}. {wording.known(known, attribute) if known else ''}".strip()
        )
    return getattr(module, attribute)


def path_of(name: str, folder: Path | None) -> Path | None:
    """Return the file of `file.py:name`; None for the name of a module."""
    place = name.rpartition(":")[0]
    return (folder or Path()).joinpath(place).expanduser() if place.endswith(".py") else None


def read(names: Sequence[str], folder: Path | None) -> tuple[CodeFile, ...]:
    """Return the files of some names, each once; modules that are installed have none.

    Raises:
        DataError: a file does not exist.
    """
    found: dict[str, CodeFile] = {}
    for name in names:
        path = path_of(name, folder)
        if path is None:
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            raise errors.DataError(f"the file {path} of {name} cannot be read: {error.strerror}") from error
        text = content.decode(errors="replace") if len(content) <= _TEXT_BYTES else ""
        place = name.rpartition(":")[0]
        found[place] = CodeFile(name=place, sha256=hashlib.sha256(content).hexdigest(), text=text)
    return tuple(found.values())


def _file_module(place: str, folder: Path | None, field: str) -> ModuleType:
    path = (folder or Path()).joinpath(place).expanduser().absolute()
    if path in _MODULES:
        return _MODULES[path]
    if not path.is_file():
        raise errors.DataError(f"{field} names the file {path}, which does not exist")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # its imports of files beside it also work later
    # a name of its own: a file may be called like a module of Python
    module_name = path.stem if path.stem not in sys.modules and path.stem not in sys.stdlib_module_names else f"{path.stem}_{len(_MODULES)}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise errors.DataError(f"{field} names the file {path}, which Python cannot import")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        called(lambda: spec.loader.exec_module(module), doing=f"importing {place}")  # type: ignore[union-attr]
    except UserCodeError as error:
        del sys.modules[module_name]
        raise errors.DataError(f"{field}: {error}") from error.__cause__
    _MODULES[path] = module
    return module


def _named_module(place: str, name: str, field: str) -> ModuleType:
    if place == "__main__":
        raise errors.DataError(
            f"{field} is {name}, a function of the program or notebook itself, which a trainer cannot import: it is a process of its own. "
            f"Move the function to a file, for example my_code.py, and write my_code.py:{name.rpartition(':')[2]}"
        )
    try:
        return called(lambda: importlib.import_module(place), doing=f"importing {place}")
    except UserCodeError as error:
        cure = f"install {place}, start tuner in its folder, or add its folder to PYTHONPATH"
        raise errors.DataError(f"{field} is {name}, which cannot be imported: {error}; {cure}") from error.__cause__


def called(work: Callable[[], T], *, doing: str, passes: tuple[type[BaseException], ...] = ()) -> T:
    """Return what code of the user's returns; its exceptions and its `sys.exit` become a `UserCodeError`, but for `passes`.

    A process that the code forked and that returns here is ended: it is a copy of the trainer, which exists already.

    Raises:
        UserCodeError: the code raised an exception.
    """
    process = os.getpid()
    try:
        return work()
    except passes:
        raise
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"{describe(error)} (while {doing})", kind=type(error).__name__) from error
    finally:
        if os.getpid() != process:
            os._exit(0)


def describe(error: BaseException) -> str:
    """Return an exception with the lines of the user's code that led to it: `ValueError: no data (my_code.py, line 12, in build: …)`."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)][-_MAX_FRAMES:]
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, SystemExit):
        text = f"the code called sys.exit({error.code!r}), which would end the trainer"
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()})"
    where = "; ".join(f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()}" for frame in own)
    return wording.visible(f"{type(error).__name__}: {text[:1000]}" + (f" ({where})" if where else ""))


def _is_users(filename: str) -> bool:
    return not filename.startswith((_OWN, "<frozen")) and not any(part in filename for part in _NOT_USERS)


class Printed(io.TextIOBase):
    """Passes printed text on to the trainer's log, and remembers the last part of it for the trial."""

    def __init__(self, to: Any) -> None:
        self._to, self._last = to, ""

    def write(self, text: str, /) -> int:
        """Write text."""
        self._to.write(text)
        self._last = (self._last + text)[-_PRINTED:]
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._to.flush()

    def last(self) -> str:
        """Return the last part of what was printed."""
        return self._last


@contextmanager
def captured() -> Iterator[Printed]:
    """Remember what code of the user's prints inside a `with` block."""
    printed = Printed(sys.stdout)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        yield printed


@contextmanager
def current_folder(*folders: str) -> Iterator[None]:
    """Put some folders, the current folder and the caller's import path at the start of this one inside a `with` block."""
    before, prefix = list(sys.path), [*folders, str(Path.cwd()), *_CALLERS_PATH]
    sys.path[:] = [*prefix, *(folder for folder in before if folder not in prefix)]
    token = _IS_IMPORTING.set(True)
    try:
        yield
    finally:
        _IS_IMPORTING.reset(token)
        sys.path[:] = [*before, *(folder for folder in sys.path if folder not in {*before, *prefix})]


def use_import_path(folders: Sequence[str]) -> None:
    """Import code that a study names as another process would: the one that has this import path."""
    _CALLERS_PATH[:] = folders


def import_path() -> tuple[str, ...]:
    """Return the import path of this process in absolute paths, for `use_import_path` of another process."""
    folders: list[object] = list(sys.path)  # programs put paths of other types there, which Python ignores
    return tuple(str(Path(folder).absolute()) for folder in folders if isinstance(folder, str))


def require_outside(call: str = "tuner.run") -> None:
    """Refuse a study that starts while code of a study is imported: its module calls `tuner.run` when it is imported.

    Raises:
        RequestError: this is such a call.
    """
    if _IS_IMPORTING.get():
        raise errors.RequestError(
            f"{call} was called while tuner imported the code that a study names, which would start the study again and again. "
            'Put the call below `if __name__ == "__main__":`, or move the functions of the study to a file of their own.'
        )
