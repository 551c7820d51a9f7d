"""A trainer process from the worker's side of the pipe."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tuner.protocol import messages
from tuner.spec import study
from tuner.spec.hyperparameters import Hyperparameters

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_SECONDS = 120.0
_TRAINER = (sys.executable, "-m", "tuner.trainer.process", "--threads", "1")
Answer = Callable[[messages.Message], messages.Message | None]


@dataclass(kw_only=True)
class Run:
    """The messages of a trainer about one trial."""

    told: list[messages.Message] = field(default_factory=list)

    @property
    def curve(self) -> list[messages.Epoch]:
        """The epochs, without their seconds."""
        return [message.model_copy(update={"seconds": 0.0}) for message in self.told if isinstance(message, messages.Epoch)]

    @property
    def finished(self) -> messages.Finished:
        """The last message."""
        last = self.told[-1]
        assert isinstance(last, messages.Finished), last
        return last


def go_on(message: messages.Message) -> messages.Message | None:
    """A worker that lets every trial fine-tune."""
    return messages.Proceed() if isinstance(message, messages.Probed) else None


class Child:
    """One trainer process."""

    def __init__(self, pipe: Connection, process: subprocess.Popen[bytes]) -> None:
        self.pipe, self.process = pipe, process
        self._prepared: tuple[str, str] | None = None

    def send(self, message: messages.Message) -> None:
        self.pipe.send_bytes(messages.encode(message))

    def receive(self) -> messages.Message:
        assert self.pipe.poll(_PATIENCE_SECONDS), "the trainer says nothing"
        return messages.decode(self.pipe.recv_bytes())

    def ask(self, message: messages.Message) -> messages.Message:
        self.send(message)
        return self.receive()

    def prepare(self, study: study.StudySpec, cache: Path) -> None:
        """Prepare the trainer for a study, unless it is prepared already."""
        wanted = (study.model_dump_json(), str(cache))
        if self._prepared != wanted:
            self._prepared = None
            answer = self.ask(messages.Prepare(spec=wanted[0], cache=wanted[1]))
            assert isinstance(answer, messages.Prepared), answer
            self._prepared = wanted

    def forget(self) -> None:
        """Forget which study the trainer is prepared for."""
        self._prepared = None

    def train(self, folder: Path, hyperparameters: Hyperparameters, *, number: int = 0, seed: int = 1, answer: Answer = go_on) -> Run:
        """Train one trial; `answer` sees each message and may send one back."""
        order = messages.Train(
            trial=number,
            hyperparameters=hyperparameters,
            seed=seed,
            weights=str(folder / f"weights-{number}"),
            checkpoint=str(folder / f"checkpoint-{number}"),
        )
        self.send(order)
        run = Run()
        while not run.told or not isinstance(run.told[-1], messages.Finished | messages.Failed):
            run.told.append(self.receive())
            if (reply := answer(run.told[-1])) is not None:
                self.send(reply)
        return run


@contextmanager
def start(command: Sequence[str] = _TRAINER) -> Iterator[Child]:
    """Start a trainer process for a `with` block; `command` gets the file descriptor of its end of the pipe."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=ROOT, stdout=subprocess.DEVNULL)
    pipe = Connection(ours.detach())
    try:
        yield Child(pipe, process)
    finally:
        if not pipe.closed:
            pipe.close()
        process.wait(_PATIENCE_SECONDS)
