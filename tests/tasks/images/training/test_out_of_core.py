"""A study whose images do not fit in the cache gives the same trial, with images decoded on demand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.keras_studies import TINY, study
from tests.tasks.images.training.test_trial import PLAIN, order, run
from tuner.cache import entries
from tuner.protocol.messages import Ending, Stage
from tuner.spec.hyperparameters import Augmentation
from tuner.tasks.images.data import resized
from tuner.tasks.images.training import features, study_context
from tuner.tasks.images.training.study_context import StudyContext


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred small photographs in two classes."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(100):
        label = number % 2
        path = folder / ("cat", "dog")[label] / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(90 * label, 160 + 90 * label, (48, 64, 3), np.uint8)).save(path)
    return folder


def prepared(photos: Path, cache: Path) -> StudyContext:
    data: dict[str, Any] = {"source": "folder", "path": str(photos), "validation": 0.2, "test": 0.1}
    return study_context.prepare(study(data=data, model=TINY | {"image_size": 32}), cache=cache)


def test_a_trial_on_streamed_images_is_the_same_as_on_mapped_ones(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = prepared(photos, tmp_path / "mapped")
    first, first_told = run(mapped, order(tmp_path / "first", PLAIN))
    # room for features and not for images
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "50KB")
    streamed = prepared(photos, tmp_path / "streamed")
    second, second_told = run(streamed, order(tmp_path / "second", PLAIN))
    assert isinstance(mapped.data.train.images, np.memmap)
    assert isinstance(streamed.data.train.images, resized.Streamed)
    assert {entry.kind for entry in entries.find(tmp_path / "streamed")} == {"images", "features"}
    assert first.ending is second.ending is Ending.COMPLETED
    assert {epoch.stage for epoch in first_told.curve} == {Stage.PROBE, Stage.FINE_TUNE}
    assert first_told.curve == second_told.curve


def test_a_trial_on_drawn_views_does_not_depend_on_space_in_the_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "WORTHWHILE_MULTIPLY_ADDS", 1)
    drawn = PLAIN.model_copy(update={"unfreeze": 0.4, "augmentation": Augmentation(rotation=0.1, brightness=0.2, views=2)})
    roomy = replace(prepared(photos, tmp_path / "roomy"), epochs=4)
    _, first = run(roomy, order(tmp_path / "first", drawn))
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "100")
    tight = replace(prepared(photos, tmp_path / "tight"), epochs=4)
    _, second = run(tight, order(tmp_path / "second", drawn))
    assert "activations" in {entry.kind for entry in entries.find(tmp_path / "roomy")}
    assert not entries.find(tmp_path / "tight")
    assert first.curve == second.curve


def test_a_trial_runs_with_a_full_cache(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "100")
    finished, _ = run(prepared(photos, tmp_path / "cache"), order(tmp_path / "trial", PLAIN))
    assert finished.ending is Ending.COMPLETED
    assert not entries.find(tmp_path / "cache")
