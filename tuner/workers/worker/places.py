"""Where a worker keeps its files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders of files that are not in the storage."""

    #: decoded images and features, shared by the workers of a host
    cache: Path
    #: weights and checkpoints, a folder a study and in it a folder a trial
    artifacts: Path
    #: s3://BUCKET/PREFIX, where weights and checkpoints go that other machines are to find; None: the folder is where they look
    bucket: str | None = None

    def of_study(self, study: str) -> Path:
        """The folder of a study's artifacts."""
        return self.artifacts / study

    def of_spool(self, study: str) -> Path:
        """The folder of what workers of a study could not deliver."""
        return self.of_study(study) / "spool"

    def of_trial(self, study: str, trial: int) -> Path:
        """The folder of a trial's artifacts."""
        return self.of_study(study) / f"trial-{trial:05d}"
