"""A version for tests."""

from typing import Any

from tuner.results.versions.versions import NewVersion, WeightsSource


def new_version(**changes: Any) -> NewVersion:
    """Return a version, by default of `flowers`, with a test accuracy of 0.9."""
    values: dict[str, Any] = {
        "name": "flowers",
        "study": "flowers",
        "origin": WeightsSource.RETRAINING,
        "trial": 17,
        "config": {},
        "metrics": {"test_accuracy": 0.9},
        "fingerprint": "f" * 64,
        "splits": "5" * 64,
        "artifact": "/weights.npz",
        "sha256": "a" * 64,
        "created_by": "ada",
    }
    return NewVersion(**values | changes)
