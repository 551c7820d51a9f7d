"""`tuner run --from`: what earlier searches found, into the first trials of a new one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner import study_file, wording
from tuner.commands import controlling, options
from tuner.errors import RequestError
from tuner.search import storage as storages
from tuner.search import study as studies
from tuner.search import warm_start
from tuner.search.study import Study
from tuner.search.warm_start import Earlier, Taken
from tuner.spec import StudySpec
from tuner.terminal import plain

#: in a bundle
_CONFIG = "config.yaml"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run begins with."""

    #: studies, bundles and study files of fixed values
    names: Sequence[str] = ()
    #: where those studies are; None: where the new one is
    storage: str | None = None

    def read(self, spec: StudySpec, url: str) -> list[Earlier]:
        """The configs, before anything is written; those of the first source first.

        Raises:
            RequestError: a source is not there, or holds no config.
        """
        if self.storage is not None and not self.names:
            raise RequestError("--from-storage says where earlier studies are; name them with --from")
        place = self.storage or url
        known = self._known(place)
        return [earlier for name in self.names for earlier in self._of(name, spec, place, known)]

    def _known(self, place: str) -> list[str]:
        if not self.names or not options.is_there(place):
            return []
        opened = storages.open(place)
        try:
            return studies.names(opened)
        finally:
            opened.close()

    def _of(self, name: str, spec: StudySpec, place: str, known: Sequence[str]) -> list[Earlier]:
        path = Path(name).expanduser()
        file = path / _CONFIG if path.is_dir() else path
        is_file, is_study = file.is_file(), name in known
        if is_file and is_study:
            raise RequestError(f"--from {name} is a study and also a file; for the file write --from ./{name}")
        if is_file:
            return [warm_start.of_file(study_file.read(file), str(file))]
        if not is_study:
            where = f"no study of {storages.shown(place)} and no file or bundle"
            raise RequestError(f"--from {name} is {where}.{' ' + wording.known(known, name) if known else ''}")
        if name == spec.name and self.storage is None:
            raise RequestError(f"--from {name} is the study itself; it goes on without being told")
        opened = storages.open(place)
        try:
            return warm_start.best_of(studies.load(name, opened))
        finally:
            opened.close()


def begin(study: Study, found: Sequence[Earlier]) -> None:
    """Have a study begin with some configs, and say what became of each."""
    if found:
        for taken in warm_start.begin(study, found, by=controlling.user()):
            plain.line(_say(study, taken))


def _say(study: Study, taken: Taken) -> str:
    if taken.trial is None:
        return f"{study.name}: {taken.earlier.origin} is not tried: it {taken.reason}"
    if taken.reason:
        return f"{study.name}: {taken.earlier.origin} {taken.reason}: trial {taken.trial}"
    return f"{study.name}: {taken.earlier.origin} is tried as trial {taken.trial}"
