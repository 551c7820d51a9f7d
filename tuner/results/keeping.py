"""A completed trial into a version, as the search measured it."""

from pathlib import Path

from tuner.results import config, manifest
from tuner.results.best import Best
from tuner.results.versions import NewReading, NewVersion, Origin


def of_trial(best: Best, weights: Path, *, by: str) -> tuple[NewVersion, NewReading | None]:
    """A trial whose weights are in a file, and the look at the test split that scored it; None: it was not scored."""
    prepared = best.prepared
    new = NewVersion(
        name=best.spec.name,
        study=best.spec.name,
        origin=Origin.TRIAL,
        trial=best.trial,
        config=config.resolved(best).model_dump(mode="json"),
        metrics={"validation_accuracy": best.value, "test_accuracy": best.test_accuracy, "num_test": best.num_test},
        fingerprint=prepared.fingerprint,
        splits=prepared.splits,
        artifact=str(best.weights),
        sha256=manifest.digest(weights),
        created_by=by,
    )
    if best.test_accuracy is None:
        return new, None
    reading = NewReading(splits=prepared.splits, by=by, purpose="run", accuracy=best.test_accuracy, num_images=best.num_test)
    return new, reading
