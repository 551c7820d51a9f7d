"""Every exception we raise, and what the command line makes of it.

TunerError                     exit 1: the work failed
├── TrainingError              a trial could not be trained; `kind` groups equal failures
├── LeaseLost                  a trial was given to another worker; what this one does with it counts no more
│   └── TrialStopped           someone stopped the trial
├── Dismissed                  someone asked this worker to end
├── StudyStopped               the study stopped itself: the same failure three times in a row
├── RegistryError              a model registry elsewhere cannot be reached or understood
└── RequestError               exit 2: the request was wrong, nothing was written
    ├── SpecError              a study file has mistakes, all of them listed in `problems`
    ├── DataError              the images or labels cannot be used as they are
    ├── StorageError           the database cannot be reached, written or understood
    ├── ArtifactsError         the bucket of artifacts cannot be reached, written or found
    ├── StudyError             the study asked for is not there, or differs from the file
    ├── VersionError           the version asked for is not there, or is where it must not be for what was asked
    ├── MissingPackage         an extra is not installed; names the command that installs it
    └── MissingDownload        a download that cannot be had here; names the cure
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake of a request: where it is, what is wrong with it, what to do."""

    #: dotted path of the field, "" for the file as a whole
    field: str
    #: what was given and what was expected, with the cure
    message: str
    #: line of the file, counted from 1, where it is known
    line: int | None = None


class TunerError(Exception):
    """The root of every error that tuner raises on purpose."""

    exit_code = 1


class TrainingError(TunerError):
    """A trial could not be trained."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class LeaseLost(TunerError):
    """A trial was given to another worker, because this one was not seen for too long; it is to drop the trial and go on."""


class TrialStopped(LeaseLost):
    """Someone stopped the trial; the message says who."""


class Dismissed(TunerError):
    """Someone asked this worker to end; the message says who."""


class StudyStopped(TunerError):
    """The study stopped itself; the message says why and how to go on."""


class RegistryError(TunerError):
    """A model registry elsewhere cannot be reached or understood."""


class RequestError(TunerError):
    """The request was wrong; nothing was written."""

    exit_code = 2


class SpecError(RequestError):
    """A study file has mistakes; the message lists them all, one a line."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        self.origin = origin
        self.problems = tuple(problems)
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        place = self.origin if problem.line is None else f"{self.origin}:{problem.line}"
        return f"{place}: {problem.field} {problem.message}" if problem.field else f"{place}: {problem.message}"


class DataError(RequestError):
    """The images or labels cannot be used as they are."""


class StorageError(RequestError):
    """The database cannot be reached, written or understood; the URL is shown without its password."""


class ArtifactsError(RequestError):
    """The bucket of artifacts cannot be reached, written or found; no credentials are shown."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        #: whether the same may succeed later, without anyone changing the request
        self.may_pass = may_pass


class StudyError(RequestError):
    """The study asked for is not there, or differs from the one in the storage."""


class VersionError(RequestError):
    """The version asked for is not there, or is where it must not be for what was asked."""


class MissingPackage(RequestError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package {package}. Install it with: pip install 'tuner[{extra}]'")


class MissingDownload(RequestError):
    """Something that would have to be downloaded cannot be had here."""
