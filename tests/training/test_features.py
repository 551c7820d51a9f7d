"""Features of images: computed once, read by all."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training import conftest
from tuner.training import backbones, features

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def backbone() -> backbones.Backbone:
    return backbones.load(conftest.study(model=conftest.NETWORK).model)


def load(backbone: backbones.Backbone, cache: Path, images: NDArray[np.uint8] = IMAGES, key: str = "some") -> NDArray[np.float32]:
    return features.load(backbone, images, network=backbone.digest(), key=key, cache=cache)


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "features").glob("*.npy"))


def test_the_cached_vectors_are_those_of_the_network(backbone: backbones.Backbone, tmp_path: Path) -> None:
    found = load(backbone, tmp_path)
    assert found.shape == (70, 512)
    assert found.dtype == np.float32
    assert (found == features.compute(backbone, IMAGES)).all()
    np.testing.assert_allclose(found, backbone.features(IMAGES.astype(np.float32)), rtol=1e-4, atol=1e-4)


def test_they_are_computed_once(backbone: backbones.Backbone, tmp_path: Path) -> None:
    first = load(backbone, tmp_path)
    [path] = kept(tmp_path)
    before = path.stat().st_mtime_ns
    second = load(backbone, tmp_path)
    assert isinstance(second, np.memmap)
    assert (second == first).all()
    assert path.stat().st_mtime_ns == before


def test_other_images_or_another_network_are_another_file(backbone: backbones.Backbone, tmp_path: Path) -> None:
    load(backbone, tmp_path)
    load(backbone, tmp_path, key="others")
    load(backbone, tmp_path, IMAGES[:8])
    load(backbones.load(conftest.study(model=conftest.NETWORK | {"weights": "none"}).model), tmp_path)
    assert len(kept(tmp_path)) == 4


@pytest.mark.parametrize(
    "damage", [lambda content: b"", lambda content: content[:-1], lambda content: b"x" * 600, lambda content: content[:60]]
)
def test_a_damaged_file_is_made_anew(backbone: backbones.Backbone, tmp_path: Path, damage: Any) -> None:
    whole = np.array(load(backbone, tmp_path, IMAGES[:8]))
    [path] = kept(tmp_path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert (load(backbone, tmp_path, IMAGES[:8]) == whole).all()
    assert path.read_bytes() == content


@pytest.mark.parametrize("wrong", [np.zeros((8, 512), np.float64), np.zeros((7, 512), np.float32), np.zeros(8, np.float32)])
def test_a_file_of_another_form_is_made_anew(backbone: backbones.Backbone, tmp_path: Path, wrong: NDArray[Any]) -> None:
    whole = np.array(load(backbone, tmp_path, IMAGES[:8]))
    [path] = kept(tmp_path)
    np.save(path, wrong)
    assert (load(backbone, tmp_path, IMAGES[:8]) == whole).all()


def test_two_that_want_the_same_at_once_have_it_computed_once(
    backbone: backbones.Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    both_want, compute = threading.Barrier(3), features.compute

    def counted(backbone: backbones.Backbone, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        computed.append(len(images))
        return compute(backbone, images)

    monkeypatch.setattr(features, "compute", counted)
    found: list[NDArray[np.float32]] = []

    def want() -> None:
        both_want.wait()
        found.append(load(backbone, tmp_path))

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    both_want.wait()
    for thread in threads:
        thread.join()
    assert computed == [70]
    assert (found[0] == found[1]).all()
