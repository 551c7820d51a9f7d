"""User code: how the functions that a study names are imported, recognized on another machine, and called."""

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
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
#: first digits of a SHA-256 by which a trial names the code that trained it
_DIGITS = 12
#: changed lines of a file in a message, and the length of each
_MAX_CHANGES = 6
_CHANGE_LENGTH = 100
#: lines of the user's code in a message about an exception
_MAX_FRAMES = 5
#: signals whose handlers the trainer needs as they are
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)
#: what the code printed last, in characters
_PRINTED = 4_000
#: environment variable with what a study from the storage may import here, a list with commas
ALLOW_CODE = "TUNER_ALLOW_CODE"
#: a module, or a file of Python, and possibly one function of it
_ALLOWED = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^:,]+\.py)(:[A-Za-z_]\w*)?")
#: folders of code that is not the user's
_NOT_USERS = ("site-packages", "dist-packages", f"{os.sep}lib{os.sep}python")
#: a frame in what `faulthandler` writes
_DUMPED = re.compile(r'^  File "(.+)", line (\d+) in (\S+)$', re.MULTILINE)
_OWN = str(Path(__file__).resolve().parents[1]) + os.sep


class UserCodeError(errors.TrainingError):
    """User code raised an exception; the message has its own lines of the traceback."""

    def traceback(self) -> str:
        """Return the traceback with the frames of the user's code only."""
        error = self.__cause__
        return "" if error is None else _own_traceback(error)


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """A file of code that a study names, as the first worker found it."""

    name: str
    sha256: str
    #: to show the differences on another machine; "" if the file is long. It is never run
    text: str


def read_allowed(given: str | None) -> tuple[str, ...]:
    """Return the modules, files and functions of a list with commas.

    Raises:
        RequestError: an entry is not the name of a module.
    """
    names = tuple(name for part in (given or "").split(",") if (name := part.strip()))
    for name in names:
        if not _ALLOWED.fullmatch(name):
            expected = "expected modules or files such as my_package,my_other.module,churn.py, or my_module:function"
            raise errors.RequestError(f"--allow-code names {name!r}; {expected}.")
    return names


def require_allowed(study: str, named: Iterable[tuple[str, str]], allowed: Sequence[str]) -> None:
    """Refuse to import code that a study from the storage names, field by field, unless the user of this machine allows it.

    Otherwise everyone who may write to the storage could choose what other machines run.

    Raises:
        RequestError: it names a module that is not allowed; the message says how to allow it.
    """
    for field, name in named:
        if not is_allowed(name, allowed):
            module = name.partition(":")[0]
            known = f" Allowed: {', '.join(allowed)}." if allowed else ""
            raise errors.RequestError(
                f"the study {study} in this storage names code to import, {field} {name}, which is not allowed here.{known} "
                f"If you trust it: --allow-code {module}, or {ALLOW_CODE}={module} in the environment. "
                "Code named in your own study file is always allowed."
            )


def is_allowed(name: str, allowed: Sequence[str]) -> bool:
    """Return whether allowed modules, files or functions include this function."""
    return any(_covers(one, name) for one in allowed)


def _covers(allowed: str, name: str) -> bool:
    """Return whether an allowed module, file or function includes this function: `a.b` covers `a.b:f` and `a.b.c:f`, not `a.bc:f`.

    A file is only covered by its own name, as the study writes it: `churn.py` does not cover `../churn.py`.
    """
    if name == allowed or ":" in allowed:
        return name == allowed
    is_file = name.rpartition(":")[0].endswith(".py")
    return name.startswith(f"{allowed}:") or (not is_file and name.startswith(f"{allowed}."))


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
        except FileNotFoundError as error:
            raise errors.DataError(missing_file(path, name)) from error
        except OSError as error:
            raise errors.DataError(f"the file {path} of {name} cannot be read: {error.strerror}") from error
        text = content.decode(errors="replace") if len(content) <= _TEXT_BYTES else ""
        place = name.rpartition(":")[0]
        found[place] = CodeFile(name=place, sha256=hashlib.sha256(content).hexdigest(), text=text)
    return tuple(found.values())


def digits(files: Sequence[CodeFile]) -> str:
    """Return the first digits of the SHA-256 of each file, by which a trial names the code that trained it."""
    return " ".join(file.sha256[:_DIGITS] for file in files)


def changes(before: Sequence[CodeFile], now: Sequence[CodeFile]) -> list[str]:
    """Return for each file that differs from its earlier version what changed, in a few lines; [] if all are equal."""
    earlier = {file.name: file for file in before}
    return [_change(earlier[file.name], file) for file in now if file.name in earlier and earlier[file.name].sha256 != file.sha256]


def _change(old: CodeFile, new: CodeFile) -> str:
    sums = f"SHA-256 {digits([old])} -> {digits([new])}"
    if not old.text or not new.text:
        return f"{new.name} differs ({sums}); it is too long to show what changed"
    lines = [
        line
        for line in difflib.unified_diff(old.text.splitlines(), new.text.splitlines(), n=0, lineterm="")
        if not line.startswith(("---", "+++", "@@"))
    ]
    added = sum(line.startswith("+") for line in lines)
    if not lines:
        return f"{new.name} differs in its line ends only ({sums})"
    shown = [f"    {line[0]} {wording.shorten(line[1:].expandtabs(4), longest=_CHANGE_LENGTH)}" for line in lines[:_MAX_CHANGES]]
    more = [f"    … {wording.count(len(lines) - _MAX_CHANGES, 'more line')}"] if len(lines) > _MAX_CHANGES else []
    return "\n".join([f"{new.name}: {wording.count(added, 'line')} added, {len(lines) - added} removed ({sums})", *shown, *more])


def require_arguments(function: Any, name: str, *, field: str, form: str, least: int = 1) -> None:
    """Refuse a function that cannot be called with one argument, or with fewer if `least` is 0; `form` shows what is expected.

    Raises:
        DataError: it takes other arguments, or is no function.
    """
    if not callable(function):
        raise errors.DataError(f"{field} is {name}, which is a {type(function).__name__}; expected a function {form}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function of C tells nothing
        return
    parameters = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    needed = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    by_position = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]
    if len(needed) > 1 or any(each.kind is each.KEYWORD_ONLY for each in needed) or len(by_position) < least:
        many = wording.listed(each.name for each in needed) if needed else "no arguments"
        what = "takes no arguments" if not by_position else f"needs {many}"
        raise errors.DataError(f"{field} is {name}, which {what}; expected {form}. Give any other argument a default value")


def _file_module(place: str, folder: Path | None, field: str) -> ModuleType:
    path = (folder or Path()).joinpath(place).expanduser().absolute()
    if path in _MODULES:
        return _MODULES[path]
    if not path.is_file():
        raise errors.DataError(missing_file(path, field))
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


def missing_file(path: Path, name: str) -> str:
    """Return what to say of a file of code that does not exist."""
    known = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
    here = Path.cwd() / path.name
    if here.is_file() and here != path:
        cure = f"There is a {path.name} in {here.parent}: move it beside the study file, or write its whole path"
    else:
        cure = f"Write it beside the study file, or write its whole path.{wording.question(path.name, known)}"
    return f"{name} names the file {path}, which does not exist. {cure}"


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
    """Return what user code returns; its exceptions and its `sys.exit` become a `UserCodeError`, but for `passes`.

    A process that the code forked and that returns here is ended: it is a copy of the trainer, which exists already.

    Raises:
        UserCodeError: the code raised an exception.
    """
    process = os.getpid()
    try:
        return work()
    except passes:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise UserCodeError(f"{describe(error)} (while {doing})", kind=type(error).__name__) from error
    finally:
        if os.getpid() != process:
            os._exit(0)


def describe(error: BaseException) -> str:
    """Return an exception with the lines of the user's code that led to it: `ValueError: no data (my_code.py, line 12, in build: …)`."""
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        line = (error.text or "").strip()
        return wording.visible(f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno}: {line})")
    where = "; ".join(
        f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()}" for frame in _own_frames(error)
    )
    return wording.visible(_what_happened(error) + (f" ({where})" if where else ""))


def _what_happened(error: BaseException) -> str:
    is_sentence = isinstance(error, KeyError) and " " in str(error)  # Python shows the key of a KeyError as a literal
    text = (" ".join(str(error.args[0] if is_sentence else error).split()) or "no message")[:1000]
    match error:
        case errors.RequestError():
            return text  # a sentence of tuner's
        case SystemExit():
            return f"SystemExit: the code called sys.exit({error.code!r}), which would end the trainer; return from the function instead"
        case MemoryError():
            return f"MemoryError: the code needs more memory than it can get{'' if text == 'no message' else f' ({text})'}"
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] not in sys.modules:
            cure = f"install {name.partition('.')[0]} for {sys.executable}, or put its file beside the code"
            return f"{type(error).__name__}: {text}; {cure}"
        case ImportError(path=path) if any((frame.filename, frame.name) == (path, "<module>") for frame in _own_frames(error)):
            return f"{type(error).__name__}: {text}; two files import each other: move what both need to a third one"
    return f"{type(error).__name__}: {text}"


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)][-_MAX_FRAMES:]


def _own_traceback(error: BaseException) -> str:
    """Return a traceback as Python prints it, with the frames of the user's code only."""
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error))
    frames = _own_frames(error)
    if not frames:
        return ""
    last = "".join(traceback.format_exception_only(error))
    return "".join(["Traceback of your code (most recent call last):\n", *traceback.format_list(frames), last])


def where(dump: str) -> str:
    """Return the lines of the user's code in what `faulthandler` wrote of a process, in words; "" if there are none."""
    frames = [(name, line, function) for name, line, function in _DUMPED.findall(dump) if _is_users(name)][:_MAX_FRAMES]
    return "; ".join(f"{Path(name).name}, line {line}, in {function}" for name, line, function in reversed(frames))


def _is_users(filename: str) -> bool:
    return not filename.startswith((_OWN, "<frozen", "<__array_function__")) and not any(part in filename for part in _NOT_USERS)


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

    def close(self) -> None:
        """Do nothing: user code that closes `sys.stdout` does not close the trainer's log."""

    def last(self) -> str:
        """Return the last part of what was printed."""
        return self._last


@contextmanager
def captured() -> Iterator[Printed]:
    """Remember what user code prints inside a `with` block; an exception that leaves the block takes it along."""
    printed = Printed(sys.stdout)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            yield printed
        finally:
            error = sys.exception()
            if error is not None:
                error.__dict__["printed"] = printed.last()


def printed_before(error: BaseException) -> str:
    """Return what user code printed before an exception ended it; "" if nothing is known of it."""
    return str(getattr(error, "printed", ""))


@contextmanager
def contained(warn: Callable[[str], None]) -> Iterator[None]:
    """Undo what user code changes in its process inside a `with` block: the current folder, signal handlers, timers, and streams.

    `warn` is told of threads that the code left running, which nobody can end.
    """
    streams, threads = (sys.stdin, sys.stdout, sys.stderr), set(threading.enumerate())
    is_main = threading.current_thread() is threading.main_thread()  # only there signals have handlers
    handlers = {number: signal.getsignal(number) for number in (_SIGNALS if is_main else ())}
    folder = Path.cwd()
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        if is_main:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        with contextlib.suppress(OSError):  # the folder is gone
            os.chdir(folder)
        left = [thread.name for thread in threading.enumerate() if thread not in threads and not thread.daemon and thread.is_alive()]
        if left:
            warn(
                f"the code left {wording.count(len(left), 'thread')} running ({wording.listed(left)}), which slow down the next trials; "
                "end them before the function returns"
            )


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
