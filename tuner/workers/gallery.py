"""The pictures that a trainer drew of a trial into the artifact store, if the trial is worth keeping, and off the disk in any case."""

from pathlib import Path

from tuner import messages
from tuner.errors import StorageError
from tuner.search import pictures
from tuner.search.study import Study
from tuner.workers.narrator import Narrator


class Gallery:
    """The pictures of a study's trials, as one worker keeps them."""

    def __init__(self, study: Study, artifacts: Path, narrator: Narrator) -> None:
        self._study = study
        self._artifacts = artifacts
        self._narrator = narrator

    def hang(self, finished: messages.Finished) -> messages.Finished:
        """The same with the names of its pictures in the store, where its weights are kept; else without pictures."""
        ids: dict[messages.PictureKind, str] = {}
        try:
            if finished.weights is not None and finished.pictures:
                ids = pictures.keep(pictures.store(self._artifacts), finished.pictures)
        except OSError as error:
            self._narrator.trouble(f"the pictures of the trial are not kept: {error}", finished.trial)
        for name in finished.pictures.values():
            Path(name).unlink(missing_ok=True)
        return finished.model_copy(update={"pictures": ids})

    def take_down(self, finished: messages.Finished) -> None:
        """Drop the pictures of a trial that was not ours any more."""
        if finished.pictures:
            pictures.drop(pictures.store(self._artifacts), finished.pictures)

    def tidy(self, finished: messages.Finished) -> None:
        """Drop the pictures of trials that this one has overtaken."""
        if finished.pictures:
            try:
                pictures.tidy(self._study, pictures.store(self._artifacts))
            except (StorageError, OSError) as error:
                self._narrator.trouble(f"pictures of overtaken trials stay: {error}", finished.trial)
