"""Errors: every exception that tuner raises, and its exit code on the command line.

TunerError                     exit 1: the work failed
├── TrainingError              a trial could not be trained; `kind` groups equal failures
├── LeaseLost                  the trial belongs to another worker now; this worker's results for it no longer count
│   └── TrialStopped           a user stopped the trial
├── Dismissed                  a user asked this worker to end
├── UnusableTrial              another program enqueued a trial with values that the study does not search; only that trial fails
├── StudyStopped               the study stopped itself: the same failure three times in a row
├── RegistryError              an external model registry cannot be reached or understood
└── RequestError               exit 2: the request was wrong, nothing was written
    ├── SpecError              a study file has mistakes, all of them listed in `problems`
    ├── DataError              the images or labels cannot be used as they are
    ├── StorageError           the database cannot be reached, written or understood
    ├── ArtifactsError         the bucket of artifacts cannot be reached, written or found
    ├── StudyError             the requested study does not exist, or differs from the file
    ├── VersionError           the requested version does not exist, or its stage does not allow the request
    ├── MissingPackage         an extra is not installed; names the command that installs it
    └── MissingDownload        something cannot be downloaded; the message says what to do
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake of a request: where it is, what is wrong and what to do."""

    #: dotted path of the field, "" for the file as a whole
    field: str
    #: the given value, what was expected and what to do
    message: str
    #: line of the file, and column in it, counted from 1; None: unknown
    line: int | None = None
    column: int | None = None


class TunerError(Exception):
    """The base class of every error that tuner raises on purpose."""

    exit_code = 1


class TrainingError(TunerError):
    """A trial could not be trained."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class LeaseLost(TunerError):
    """The trial belongs to another worker now, because this one was silent for too long. This worker drops the trial and continues."""


class TrialStopped(LeaseLost):
    """A user stopped the trial; the message says who."""


class Dismissed(TunerError):
    """A user asked this worker to end; the message says who."""


class UnusableTrial(TunerError):
    """Another program enqueued a trial with values that the study does not search; only that trial fails."""


class StudyStopped(TunerError):
    """The study stopped itself; the message says why and how to continue."""


class RegistryError(TunerError):
    """An external model registry cannot be reached or understood."""


class RequestError(TunerError):
    """The request was wrong; nothing was written."""

    exit_code = 2


class SpecError(RequestError):
    """A study file has mistakes; the message lists all of them, one per line."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        self.origin = origin
        self.problems = tuple(problems)
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        location = self.origin if problem.line is None else f"{self.origin}:{problem.line}"
        return f"{location}: {problem.field} {problem.message}" if problem.field else f"{location}: {problem.message}"


class DataError(RequestError):
    """The images or labels cannot be used as they are."""


class StorageError(RequestError):
    """The database cannot be reached, written or understood; the message shows the URL without its password."""


class ArtifactsError(RequestError):
    """The bucket of artifacts cannot be reached, written or found; the message contains no credentials."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        #: whether the same request may succeed later
        self.may_pass = may_pass


class StudyError(RequestError):
    """The requested study does not exist, or differs from the one in the storage."""


class VersionError(RequestError):
    """The requested version does not exist, or its stage does not allow the request."""


class MissingPackage(RequestError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str, otherwise: str = "") -> None:
        command = f"pip install 'tuner[{extra}]'" if extra else f"pip install {package}"
        cure = f", {otherwise}" if otherwise else ""
        super().__init__(f"{needed_for} needs the package {package}. Install it with: {command}{cure}")


class MissingDownload(RequestError):
    """Something cannot be downloaded on this machine."""
