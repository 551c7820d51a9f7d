"""Trainer handle: the process that trains, seen from its worker: started, prepared, and replaced if it dies, hangs or grows too big."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import psutil

import tuner
from tuner import wording
from tuner.errors import DataError, RequestError, TrainingError, TunerError
from tuner.machine import AwakeClock
from tuner.protocol import messages
from tuner.protocol.failure_table import Failure
from tuner.trust import user_code
from tuner.workers.engines import gpus
from tuner.workers.worker.stopping import Stopping

#: options of Python for a child: files in the current folder, for example `types.py`, never hide modules of Python or of packages
PYTHON = ("-P", "-m")
#: settings that every child gets: the backend, a fixed order of sets, and logs that show a crash
_FIXED = {"KERAS_BACKEND": "tensorflow", "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
#: settings that a child gets unless the user has others: they change what TensorFlow logs
_USUAL = {"TF_CPP_MIN_LOG_LEVEL": "2"}
#: starts of the names of variables that change results, memory or the number of threads, without their underscore
_FAMILIES = (
    "KERAS", "TF", "TF2", "XLA", "ONEDNN", "DNNL", "OMP", "GOMP", "KMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB",
)  # fmt: skip
_OTHERS = {"NVIDIA_TF32_OVERRIDE"}
#: Python's own settings that turn warnings into errors, drop docstrings and assertions, change texts, or slow a process down
_PYTHON = {
    "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8",
    "PYTHONDEVMODE", "PYTHONDEBUG", "PYTHONVERBOSE", "PYTHONMALLOC", "PYTHONMALLOCSTATS", "PYTHONTRACEMALLOC", "PYTHONPROFILEIMPORTTIME",
    "PYTHONINTMAXSTRDIGITS", "PYTHONWARNDEFAULTENCODING", "PYTHONPERFSUPPORT", "PYTHONDUMPREFS", "PYTHONASYNCIODEBUG",
    "PYTHONLEGACYWINDOWSSTDIO", "PYTHON_JIT",
}  # fmt: skip
#: variables of these families that only say where files are, what is logged, or what a driver needs
_KEPT = {"KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "TF_CPP_MAX_VLOG_LEVEL", "TF_CPP_VMODULE", "TF_GPU_ALLOCATOR", "KMP_DUPLICATE_LIB_OK"}
#: starts of the names of Terraform's variables, which are not TensorFlow's
_TERRAFORM = (
    "TF_VAR_", "TF_CLI_", "TF_LOG", "TF_DATA_DIR", "TF_PLUGIN_", "TF_WORKSPACE", "TF_INPUT", "TF_IN_AUTOMATION", "TF_TOKEN_",
    "TF_REGISTRY_",
)  # fmt: skip
#: the option of XLA_FLAGS that names a folder of this machine
_CUDA_FOLDER = "--xla_gpu_cuda_data_dir="
#: what Keras does without a keras.json
_KERAS_DEFAULTS = {
    "backend": "tensorflow", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last", "nnx_enabled": False,
}  # fmt: skip
_MAX_SHOWN = 60
#: last lines of the log that are shown when the process dies
_TAIL_LINES = 20
_LINES_BEFORE_CRASH = 5
_TAIL_BYTES = 16_384
#: time limit for a trainer process to write where its code is
_PLACE_SECONDS = 5.0
#: time between two looks at what it writes there, and longest pause in its writing
_LOOK_SECONDS, _WRITING_SECONDS = 0.05, 1.0
#: time limit for a trainer process to end after it was asked to
_QUIT_SECONDS = 5.0
#: longest wait for a message before the worker turns to its other duties
POLL_SECONDS = 0.2
#: a trainer hangs if it is silent this many times longer than ever before
_HANG_FACTOR = 10.0
#: time limit for preparing, as a multiple of the hang limit: it reads every image, and may wait for another worker that does so
_PREPARE_HANG_LIMITS = 4.0
_PREPARE_TRIES = 2
#: messages on which a trainer works until it sends an answer
_ORDERS = (messages.Prepare, messages.Train, messages.Evaluate, messages.Predict)
_ANSWERS = (messages.Prepared, messages.Finished, messages.Failed, messages.Evaluated, messages.Predicted)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits above which a trainer is replaced."""

    #: longest silence while the duration of an epoch is unknown
    hang_seconds: float = 1800.0
    #: longest silence during a trial, whatever its epochs take; None: only the limit above
    stall_seconds: float | None = None
    #: time limit for a trainer to start and to prepare a study, unless the limits above allow more
    start_seconds: float = 120.0
    #: time limit for a trainer to obey after it was told that a trial took too long
    obey_seconds: float = 30.0
    #: memory between two trials; None: no limit
    memory_bytes: int | None = None
    #: threads of a trainer; None: unknown
    threads: int | None = None


class TrainerDied(TunerError):
    """The trainer process has ended; equal causes have an equal `cause`."""

    failure = Failure.CRASH

    def __init__(self, cause: str, last_lines: str) -> None:
        super().__init__(f"the training process {cause}" + (f"; it last wrote:\n{last_lines}" if last_lines else ""))
        self.cause = cause
        self.last_lines = last_lines


class TrainerHung(TunerError):
    """The trainer has been silent for longer than an epoch can take."""

    failure = Failure.HANG
    cause = "hang"

    def __init__(self, message: str, last_lines: str = "") -> None:
        super().__init__(message)
        #: what it last wrote, before it was asked where its code is
        self.last_lines = last_lines


class Trainer(Protocol):
    """A process that trains one trial after another."""

    def send(self, message: messages.Message) -> None:
        """Send it a message.

        Raises:
            TrainerDied: the process has ended.
        """
        ...

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Return its next message, or None if there is none in time.

        Raises:
            TrainerDied: the process has ended.
        """
        ...

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        ...

    def last_lines(self) -> str:
        """Return the last lines of its log; "" if there is no log."""
        ...

    def place(self) -> str:
        """Return where user code is now, in words; "" if it cannot tell."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def close(self) -> None:
        """Ask it to end; kill it if it does not."""
        ...


class ChildTrainer:
    """A process `tuner.trainer.process` and the pipe to it; it has a session of its own, so Ctrl-C in a terminal does not reach it."""

    def __init__(
        self,
        *,
        threads: int,
        log: Path,
        gpu: gpus.GpuShare | None = None,
        memory_bytes: int | None = None,
        import_path: Sequence[str] = (),
        with_keras: bool = True,
        command: Sequence[str] = (sys.executable, *PYTHON, "tuner.trainer.process"),
    ) -> None:
        """Start the process; `memory_bytes` is the memory that it may use, None for all memory of the machine.

        Code that the study names is imported from the current folder, from `import_path`, and from the process's own path.
        """
        self._log = log
        options = ["--threads", str(threads), *_gpu_options(gpu), *([] if memory_bytes is None else ["--memory-bytes", str(memory_bytes)])]
        options += ["--import-path", json.dumps(list(import_path))] if import_path else []
        options += [] if with_keras else ["--without-keras"]
        log.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs, log.open("wb") as written:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), *options],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=gpus.environment(child_environment(os.environ), gpu),
            )
        self._pipe = Connection(ours.detach())
        self._is_group_ended = False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, message: messages.Message) -> None:
        """Send the process a message."""
        try:
            self._pipe.send_bytes(messages.encode(message))
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout_seconds: float) -> messages.Message | None:
        """Return the next message, or None if there is none in time."""
        try:
            if not self._pipe.poll(timeout_seconds):
                # a process that the code forked may hold the other end of the pipe open
                if self._process.poll() is not None and not self._pipe.poll(0):
                    raise self._death()
                return None
            return messages.decode(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._death() from error

    def memory_bytes(self) -> int:
        """Return the resident memory of the process; 0 if it has ended."""
        try:
            return int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def last_lines(self) -> str:
        """Return the last lines of the log."""
        return last_lines(self._log)

    def place(self) -> str:
        """Return where user code is now: the process writes it to its log. "" if it does not."""
        start, deadline = self._log.stat().st_size, time.monotonic() + _PLACE_SECONDS
        self._process.send_signal(signal.SIGUSR1)
        dump, place, changed_at = "", "", time.monotonic()
        # it writes thread by thread, with pauses on a busy machine
        while time.monotonic() < deadline and not (dump and time.monotonic() > changed_at + (_LOOK_SECONDS if place else _WRITING_SECONDS)):
            time.sleep(_LOOK_SECONDS)
            with self._log.open("rb") as written:
                written.seek(start)
                known, dump = dump, written.read().decode(errors="replace")
            if dump != known:
                place, changed_at = user_code.where(dump), time.monotonic()
        return place

    def kill(self) -> None:
        """End the process at once, with the processes that user code started in it."""
        self._kill_group()
        self._process.kill()
        self._process.wait()
        self._is_group_ended = True
        self._pipe.close()

    def close(self) -> None:
        """Ask the process to end; kill it if it does not."""
        if not self._pipe.closed:
            try:
                self._pipe.send_bytes(messages.encode(messages.Quit()))
                self._process.wait(_QUIT_SECONDS)
            except (OSError, subprocess.TimeoutExpired):
                pass  # it is killed below
        self.kill()

    def _death(self) -> TrainerDied:
        """Return how the process ended, after it closed its end of the pipe."""
        try:
            code = self._process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return TrainerDied("closed its pipe", last_lines(self._log))
        finally:
            self._kill_group()
        return TrainerDied(_cause(code), last_lines(self._log))

    def _kill_group(self) -> None:
        """End the process and all that it started and that are still in its group, once: its number may be another process's later."""
        if self._is_group_ended:
            return
        self._is_group_ended = self._process.poll() is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def last_lines(log: Path) -> str:
    """Return the last lines of a log, or the first lines of a crash report of Python; "" if there is no log."""
    try:
        with log.open("rb") as written:
            written.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = written.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    shown = [line for line in lines if line.strip() and not line.startswith("Extension modules: ")]
    crashes = [number for number, line in enumerate(shown) if line.startswith("Fatal Python error")]
    return "\n".join(shown[max(0, crashes[-1] - _LINES_BEFORE_CRASH) :][:_TAIL_LINES] if crashes else shown[-_TAIL_LINES:])


def _cause(code: int) -> str:
    """Return how a process ended; the text is stored as the kind of the failure, so it never changes."""
    if code == -9:
        return "was killed (SIGKILL: often the machine ran out of memory)"
    if code < 0:
        return f"crashed (signal {-code})"
    return f"left with exit code {code}"


def _gpu_options(gpu: gpus.GpuShare | None) -> list[str]:
    """Return the command-line options of a trainer on a GPU."""
    if gpu is None:
        return []
    return ["--gpu"] if gpu.memory_mb is None else ["--gpu", "--memory-limit-mb", str(gpu.memory_mb)]


class WarmTrainer:
    """The trainer of one worker: a running process, prepared for the next trial."""

    def __init__(self, start: Callable[[], Trainer], limits: Limits, stopping: Stopping) -> None:
        self._start = start
        self._limits = limits
        self._stopping = stopping
        self._trainer: Trainer | None = start()
        #: whether it is prepared for a trial
        self.is_warm = False
        #: whether it works on an order
        self.is_busy = False
        self._longest_wait_seconds = 0.0
        self._awake: AwakeClock | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._waiting_since = self._clock()

    def heed_sleep(self, clock: AwakeClock) -> None:
        """Measure silence with a clock that stands still while this process sleeps: the trainer sleeps with it."""
        self._awake = clock
        self._clock = clock.seconds
        self._waiting_since = self._clock()

    def slept_seconds(self) -> float:
        """Return for how long this process has slept so far."""
        return 0.0 if self._awake is None else self._awake.slept()[0]

    def warm_up(self, prepare: messages.Prepare) -> messages.Prepared | None:
        """Prepare the trainer for a study; return None if the worker is asked to stop meanwhile.

        Raises:
            RequestError: the study's data or model cannot be used.
            TrainingError: neither this trainer nor a new one can be prepared.
        """
        for is_last in [False] * (_PREPARE_TRIES - 1) + [True]:
            try:
                return self._await_prepared(prepare)
            except (TrainerDied, TrainerHung) as error:
                self.kill()
                if is_last:
                    raise TrainingError(f"the trainer cannot be prepared: {error}", kind=error.cause) from error
        raise AssertionError("the last try returns or raises")

    def send(self, message: messages.Message) -> None:
        """Send the trainer a message, to which it must answer in time."""
        self._waiting_since = self._clock()
        self.is_busy = self.is_busy or isinstance(message, _ORDERS)
        self._started().send(message)

    def receive(self) -> messages.Message | None:
        """Return the next message, or None after `POLL_SECONDS` without one.

        Raises:
            TrainerDied: the process has ended.
            TrainerHung: the trainer has been silent for too long.
        """
        message = self._started().receive(POLL_SECONDS)
        waited_seconds = self._clock() - self._waiting_since
        if message is None:
            stall_seconds = self._limits.stall_seconds
            if stall_seconds is not None and waited_seconds > stall_seconds:
                lines = self.last_lines()
                raise TrainerHung(
                    f"the code reported nothing for {wording.duration(waited_seconds)}, longer than training.stall_timeout"
                    f"{self._at_place()}; look for an endless loop, or raise training.stall_timeout",
                    lines,
                )
            limit_seconds = max(self._limits.hang_seconds, _HANG_FACTOR * self._longest_wait_seconds)
            if waited_seconds > limit_seconds and stall_seconds is None:
                raise TrainerHung(
                    f"the training process was silent for {waited_seconds:.0f} s; if an epoch takes longer, raise --hang-limit"
                )
            return None
        self.is_busy = self.is_busy and not isinstance(message, _ANSWERS)
        if isinstance(message, messages.Epoch):
            self._longest_wait_seconds = max(self._longest_wait_seconds, waited_seconds)
        self._waiting_since = self._clock()
        return message

    def place(self) -> str:
        """Return where user code is now, in words; "" if the trainer cannot tell."""
        return "" if self._trainer is None else self._trainer.place()

    def _at_place(self) -> str:
        place = self.place()
        return f" (it is at {place})" if place else ""

    def seconds(self) -> float:
        """Return the time on the clock that measures silence, which stands still while this process sleeps."""
        return self._clock()

    @property
    def obey_seconds(self) -> float:
        """Time limit for the trainer to obey after it was told that a trial took too long."""
        return self._limits.obey_seconds

    @property
    def threads(self) -> int | None:
        """Threads of the trainer; None: unknown."""
        return self._limits.threads

    def memory_bytes(self) -> int | None:
        """Return the resident memory of the trainer; None if there is no trainer."""
        trainer = self._trainer
        return None if trainer is None else trainer.memory_bytes()

    def last_lines(self) -> str:
        """Return the last lines of the trainer's log; "" if there is no trainer."""
        return "" if self._trainer is None else self._trainer.last_lines()

    def excess_memory(self) -> str:
        """Return a text with the memory that exceeds the trainer's limit, or "" if none does."""
        limit_bytes = self._limits.memory_bytes
        if self._trainer is None or limit_bytes is None:
            return ""
        used_bytes = self._trainer.memory_bytes()
        return f"it uses {used_bytes / 2**20:.0f} MiB, and its limit is {limit_bytes / 2**20:.0f} MiB" if used_bytes > limit_bytes else ""

    def kill(self) -> None:
        """End the trainer at once; the next message starts a new one."""
        if self._trainer is not None:
            self._trainer.kill()
            self._trainer = None
        self.is_warm = self.is_busy = False

    def close(self) -> None:
        """Ask the trainer to end; kill it if it does not."""
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None
        self.is_warm = False

    def _started(self) -> Trainer:
        if self._trainer is None:
            self._trainer = self._start()
        return self._trainer

    def _await_prepared(self, prepare: messages.Prepare) -> messages.Prepared | None:
        self.send(prepare)
        while not self._stopping.is_asked:
            message = self._started().receive(POLL_SECONDS)
            self.is_busy = self.is_busy and not isinstance(message, _ANSWERS)
            match message:
                case messages.Prepared():
                    self.is_warm = True
                    return message
                case messages.Failed(is_request=True):
                    raise request_error(message)
                case messages.Failed():
                    raise TrainingError(message.words, kind=message.error)
            stall_seconds, waited_seconds = self._limits.stall_seconds, self._clock() - self._waiting_since
            if stall_seconds is not None and waited_seconds > max(self._limits.start_seconds, _PREPARE_HANG_LIMITS * stall_seconds):
                raise TrainerHung(
                    f"importing the code and loading the data took longer than {wording.duration(waited_seconds)}{self._at_place()}; "
                    "look for an endless loop, or raise training.stall_timeout"
                )
            if stall_seconds is None and waited_seconds > _PREPARE_HANG_LIMITS * self._limits.hang_seconds:
                raise TrainerHung("preparing the data and the backbone took too long; if they need more time, raise --hang-limit")
        return None


def request_error(failed: messages.Failed) -> RequestError:
    """Return the error of a trainer that refused a request."""
    return DataError(failed.message) if failed.error == DataError.__name__ else RequestError(failed.message)


def child_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child process: the given one, without the settings that would change what it computes."""
    kept = {name: value for name, value in given.items() if not _is_overridden(name)}
    folder = next((part for part in given.get("XLA_FLAGS", "").split() if part.startswith(_CUDA_FOLDER)), None)
    if folder is not None:
        kept["XLA_FLAGS"] = folder
    if sys.getfilesystemencoding() == "utf-8":  # the child reads names of files as this process does, whatever its locale
        kept["PYTHONUTF8"] = "1"
    return _USUAL | kept | _FIXED | _import_path(kept)


def overridden_variables(given: Mapping[str, str]) -> Iterator[str]:
    """Yield each setting that a child process does not get, as `NAME=value`."""
    here = child_environment(given)
    for name, value in sorted(given.items()):
        if value and _is_overridden(name) and here.get(name) != value:
            yield f"{name}={wording.cut(value, _MAX_SHOWN)}"


def keras_settings(given: Mapping[str, str]) -> Iterator[str]:
    """Yield each setting of the user's keras.json that trainers do not use, as `name=value (file)`."""
    path = Path(os.path.expanduser(given.get("KERAS_HOME") or "~/.keras")) / "keras.json"  # noqa: PTH111 -- a user may have no home
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(settings, dict):
        return
    for name, usual in _KERAS_DEFAULTS.items():
        if name in settings and settings[name] != usual:
            yield f"{name}={wording.cut(str(settings[name]), _MAX_SHOWN)} ({path})"


def _is_overridden(name: str) -> bool:
    if name in _KEPT or name.startswith(_TERRAFORM):
        return False
    return name in _PYTHON or name in _OTHERS or name.partition("_")[0] in _FAMILIES


def _import_path(given: Mapping[str, str]) -> dict[str, str]:
    """Return PYTHONPATH with the folder of tuner, if a child would not find tuner otherwise: for example in a checkout."""
    folder = Path(tuner.__file__).resolve().parents[1]
    if folder.name in ("site-packages", "dist-packages"):
        return {}
    parts = given["PYTHONPATH"].split(os.pathsep) if given.get("PYTHONPATH") else []
    return {} if str(folder) in parts else {"PYTHONPATH": os.pathsep.join([*parts, str(folder)])}
