"""Features and activations: computed once, stored in the cache, read by every trial."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tests import keras_studies
from tuner import machine
from tuner.cache import arrays as cache_files
from tuner.cache import entries
from tuner.kernels import cuts, head
from tuner.machine import TrainerShare
from tuner.spec.hyperparameters import Augmentation, Features
from tuner.tasks.images.training import backbones, features, steps, views

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3)).astype(np.uint8)
MIRRORED = views.View(flip_x=True)
DRAWN = views.View(strengths=Augmentation(translation=0.2))


@pytest.fixture(scope="module")
def backbone() -> backbones.Backbone:
    return backbones.load(keras_studies.study(model=keras_studies.NETWORK).model)


@pytest.fixture
def store(backbone: backbones.Backbone, tmp_path: Path) -> features.FeatureStore:
    return made(backbone, tmp_path)


def made(
    backbone: backbones.Backbone,
    cache: Path,
    *,
    images: NDArray[np.uint8] = IMAGES,
    key: str = "some",
    share: TrainerShare | None = None,
) -> features.FeatureStore:
    pictures = {
        "train": features.SplitImages(images=images, key=f"train {key}"),
        "validation": features.SplitImages(images=images[:8], key=f"validation {key}"),
    }
    return features.FeatureStore(
        backbone=backbone,
        network=backbone.digest(),
        splits=pictures,
        cache=cache,
        words={"study": "small"},
        share=share or TrainerShare(threads=1),
    )


def kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.npy"))


def near(found: Any, expected: Any, within: float = 2e-3) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=within, atol=within)


@pytest.mark.parametrize("view", [views.ORIGINAL, MIRRORED, DRAWN])
def test_the_vectors_are_those_of_the_network_standardized(store: features.FeatureStore, view: views.View) -> None:
    expected = [store.backbone.features(views.render(shown, IMAGES, 0), Features.SEVERAL).numpy() for shown in (views.ORIGINAL, view)]
    mean, deviation = expected[0].mean(0), np.sqrt(np.maximum(expected[0].var(0), head.SMALLEST_VARIANCE))
    found = store.vectors("train", (views.ORIGINAL, view))
    assert found.shape == (2, 70, store.backbone.num_features(Features.SEVERAL))
    near(found.whole()[1], (expected[1] - mean) / deviation, within=2e-2)
    near(store.vectors("validation", (view,)).whole()[0], found.whole()[1, :8], within=2e-2)


def test_features_of_the_original_training_images_have_mean_0_and_variance_1(store: features.FeatureStore) -> None:
    found = store.vectors("train", (views.ORIGINAL,)).whole().numpy()[0]
    varied = store.moments[1] > head.SMALLEST_VARIANCE
    near(found.mean(0), 0, within=1e-4)
    near(found[:, varied].var(0), 1)


def test_some_vectors_are_read_each_in_its_own_view(store: features.FeatureStore) -> None:
    found = store.vectors("train", (views.ORIGINAL, MIRRORED))
    numbers, rows = np.array([0, 1, 1, 0, 1]), np.array([3, 3, 0, 69, 64])
    assert (found.take(numbers, rows) == found.whole().numpy()[numbers, rows]).all()


def test_whether_vectors_are_small_depends_on_the_memory_of_the_machine(
    store: features.FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = store.vectors("train", (views.ORIGINAL,))
    assert found.is_small
    monkeypatch.setattr(features, "SHARE_OF_MEMORY", 1e-12)
    assert not found.is_small


def test_whether_vectors_are_small_depends_on_the_trainers_share_and_counts_each_width_once(
    backbone: backbones.Backbone, tmp_path: Path
) -> None:
    needed = 4 * 70 * sum({backbone.num_features(kind) for kind in Features})
    for room, expected in ((needed, True), (needed - 1, False)):
        share = TrainerShare(threads=1, memory_bytes=int(room / features.SHARE_OF_MEMORY))
        assert made(backbone, tmp_path, share=share).vectors("train", (views.ORIGINAL,)).is_small is expected


def test_vectors_of_a_width_are_computed_once_and_are_the_last_columns(store: features.FeatureStore) -> None:
    found, width = store.vectors("train", (views.ORIGINAL, MIRRORED)), store.backbone.num_features(Features.LAST)
    assert (found.whole(width) == found.whole()[..., -width:]).numpy().all()
    assert found.whole(width) is found.whole(width)


def test_everything_is_computed_once_and_mapped(store: features.FeatureStore, tmp_path: Path, backbone: backbones.Backbone) -> None:
    cut = backbone.cut(2)
    wanted = (views.ORIGINAL, MIRRORED)
    first, below = store.vectors("train", wanted).whole(), activations(store, cut, "train", wanted)
    paths = kept(tmp_path)
    times = [path.stat().st_mtime_ns for path in paths]
    assert [path.parent.name for path in paths] == ["activations"] * 2 + ["features"] * 2
    again = made(backbone, tmp_path)
    assert (again.vectors("train", wanted).whole() == first).numpy().all()
    rows = np.arange(70)
    found = activations(again, cut, "train", wanted).take(rows * 0, rows)
    assert all((a == b).all() for a, b in zip(found, below.take(rows * 0, rows), strict=True))
    assert [path.stat().st_mtime_ns for path in kept(tmp_path)] == times


def test_other_images_views_cuts_and_networks_have_their_own_entries(store: features.FeatureStore, tmp_path: Path) -> None:
    networks = [store.backbone, backbones.load(keras_studies.study(model=keras_studies.NETWORK | {"weights": "none"}).model)]
    for network in networks:
        for other in (made(network, tmp_path), made(network, tmp_path, key="others"), made(network, tmp_path, images=IMAGES[:66])):
            other.vectors("train", (views.ORIGINAL, MIRRORED))
            for num_open in (2, 4):
                activations(other, network.cut(num_open), "train", (views.ORIGINAL,))
    assert len(kept(tmp_path)) == 2 * 3 * 4


def activations(store: features.FeatureStore, cut: cuts.Cut, split: str, wanted: tuple[views.View, ...]) -> features.Activations:
    return store.activations(cut, split, wanted, below=steps.TracedSteps().below(cut, size=store.backbone.size))


@pytest.mark.parametrize("kind", Features)
def test_the_upper_part_computes_features_from_stored_activations(store: features.FeatureStore, kind: Features) -> None:
    cut = store.backbone.cut(3)
    found = activations(store, cut, "train", (views.ORIGINAL, MIRRORED))
    rows = np.array([5, 0, 69])
    lower = found.take(np.array([0, 1, 1]), rows)
    assert [part.dtype for part in lower] == [np.float32, np.float32]
    images = np.concatenate([IMAGES[5:6], IMAGES[[0, 69], :, ::-1]]).astype(np.float32)
    expected = store.backbone.features(images, kind).numpy()
    near(cut.above((tf.constant(lower[0]), tf.constant(lower[1])), kind), expected, within=2e-3 * float(np.abs(expected).max()))


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1], lambda content: content[:-1] + b"x"])
def test_a_damaged_entry_is_recreated(backbone: backbones.Backbone, tmp_path: Path, damage: Any) -> None:
    whole = made(backbone, tmp_path, images=IMAGES[:8]).vectors("validation", (views.ORIGINAL,)).whole()
    contents = {path: path.read_bytes() for path in kept(tmp_path)}
    for path, content in contents.items():
        path.write_bytes(damage(content))
    assert (made(backbone, tmp_path, images=IMAGES[:8]).vectors("validation", (views.ORIGINAL,)).whole() == whole).numpy().all()
    assert {path: path.read_bytes() for path in kept(tmp_path)} == contents


def test_with_a_full_cache_features_stay_in_memory(
    store: features.FeatureStore, backbone: backbones.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, wanted, rows = backbone.cut(2), (views.ORIGINAL, DRAWN), np.arange(70)
    expected, below = store.vectors("train", wanted).whole(), activations(store, cut, "train", wanted)
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "1KB")
    tight = made(backbone, tmp_path / "tight")
    assert (tight.vectors("train", wanted).whole() == expected).numpy().all()
    found = activations(tight, cut, "train", wanted)
    assert all((a == b).all() for a, b in zip(found.take(rows % 2, rows), below.take(rows % 2, rows), strict=True))
    assert kept(tmp_path / "tight") == []


def test_only_activations_in_memory_are_held_between_trials(
    store: features.FeatureStore, backbone: backbones.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, wanted = backbone.cut(2), (views.ORIGINAL,)
    activations(store, cut, "train", wanted)
    assert not any(entry.is_in_use() for entry in entries.find(tmp_path) if entry.kind == "activations")
    monkeypatch.setenv("TUNER_CACHE_LIMIT", "1KB")
    tight = made(backbone, tmp_path / "tight")
    first = activations(tight, cut, "train", wanted)
    assert activations(tight, cut, "train", wanted) is first
    activations(tight, backbone.cut(1), "train", wanted)
    assert activations(tight, cut, "train", wanted) is not first


def test_watchers_are_called_between_two_batches_and_can_interrupt(store: features.FeatureStore, tmp_path: Path) -> None:
    called: list[int] = []
    store.watch.append(lambda: called.append(1))
    whole = store.vectors("train", (views.ORIGINAL,)).whole()
    assert len(called) == 2  # seventy images are two batches

    def leave() -> None:
        if len(called) == 3:
            raise InterruptedError
        called.append(1)

    store.watch[:] = [leave]
    with pytest.raises(InterruptedError):
        store.vectors("train", (MIRRORED,))
    assert len(kept(tmp_path)) == 1
    assert not list(tmp_path.glob("*/*.part"))
    store.watch.clear()
    assert (store.vectors("train", (views.ORIGINAL, MIRRORED)).whole()[0] == whole[0]).numpy().all()


def test_watchers_are_called_while_another_process_computes(store: features.FeatureStore, tmp_path: Path) -> None:
    store.vectors("train", (views.ORIGINAL,))
    [path] = kept(tmp_path)
    path.unlink()
    computed: list[int] = []

    def leave() -> None:
        computed.append(1)
        if len(computed) > 1:  # the first batch was computed before, to choose the type that keeps it
            raise InterruptedError

    again = replace(made(store.backbone, tmp_path), tick_seconds=0.01)
    again.watch.append(leave)
    with cache_files.locked(path), pytest.raises(InterruptedError):
        again.vectors("train", (views.ORIGINAL,))


def test_two_processes_compute_the_same_entry_once(backbone: backbones.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    both_want, run = threading.Barrier(3), features.compute

    def counted(*given: Any) -> Any:
        for part in run(*given):
            computed.append(len(part))
            yield part

    monkeypatch.setattr(features, "compute", counted)
    found: list[Any] = []

    def want() -> None:
        store = made(backbone, tmp_path)
        both_want.wait()
        found.append(activations(store, backbone.cut(1), "train", (views.ORIGINAL,)))

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    both_want.wait()
    for thread in threads:
        thread.join()
    # the second has at most looked at its first batch, to choose the type that keeps it
    assert computed.count(6) == 1
    rows = np.arange(70)
    assert all((a == b).all() for a, b in zip(found[0].take(rows * 0, rows), found[1].take(rows * 0, rows), strict=True))


def test_values_beyond_float16_are_stored_as_float32(tmp_path: Path) -> None:
    large = backbones.load(keras_studies.study(model=keras_studies.NETWORK).model)
    for variable in large.network.variables[:2]:
        variable.assign(variable * 1e6)
    found = made(large, tmp_path).vectors("train", (views.ORIGINAL,))
    expected = large.features(IMAGES.astype(np.float32), Features.SEVERAL).numpy()
    mean, variance = head.measure_moments(expected)
    near(found.whole()[0], (expected - mean) / np.sqrt(variance), within=1e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"num_views": 8}, False),  # as many views as epochs: nothing is computed twice
        ({"num_views": 7}, True),
        ({"num_images": 10**9}, False),  # more than the memory
        ({"memory_bytes": 10**6}, False),  # more than the trainer's part of it
    ],
)
def test_activations_are_stored_if_that_saves_time(backbone: backbones.Backbone, changes: dict[str, int], expected: bool) -> None:
    given = {"num_images": 1000, "num_views": 1, "epochs": 8, "memory_bytes": machine.memory_bytes()} | changes
    assert features.is_worth_keeping(backbone.cut(2), **given) is expected


def test_activations_that_are_as_fast_to_compute_as_to_read_are_not_stored(backbone: backbones.Backbone) -> None:
    given = {"num_images": 1000, "num_views": 1, "epochs": 8, "memory_bytes": machine.memory_bytes()}
    worth = [features.is_worth_keeping(backbone.cut(number), **given) for number in range(1, 10)]
    assert worth == sorted(worth, reverse=True)
    assert worth[0] and not worth[-1]
    dear = replace(backbone.cut(9), multiply_adds=10**9)
    assert features.is_worth_keeping(dear, **given)


ROWS = np.random.default_rng(0).normal(size=(64, 200)).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (ROWS, True),
        (ROWS * 1e4, True),
        (ROWS * 1e5, False),  # float16 ends at 65,504
        (ROWS + 30, True),
        (ROWS + 300, False),  # the spread is lost beside the size
        (np.where(np.arange(200) == 7, ROWS + 300, ROWS), True),  # in one column of many
        (np.full((64, 200), 0.1, np.float32), True),  # nothing to lose
        (ROWS * 1e-8, True),  # as good as constant
        (np.where(np.arange(200) == 7, np.nan, ROWS), False),
    ],
)
def test_float16_is_used_if_it_is_precise_enough(values: NDArray[np.float32], expected: bool) -> None:
    assert features.is_half_enough(values) is expected


def test_the_time_of_an_image_is_measured_for_three_seconds(store: features.FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # three batches of 64 images
    clock = iter([10.0, 11.0, 12.9, 13.84])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert store.image_seconds() == pytest.approx(0.02)
