"""Fixtures that use TensorFlow: one small study in this process, and one in a trainer process."""

import os
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# the tests must not see the downloads of the user of this machine
os.environ["KERAS_HOME"] = tempfile.mkdtemp(prefix="tuner-keras-")

from tests import keras_first  # noqa: F401

# isort: split
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tests.trainer import child
from tuner.protocol import messages
from tuner.spec import study as spec_study
from tuner.tasks.images.data import image_file, resized
from tuner.tasks.images.training import study_context
from tuner.tasks.images.training.study_context import StudyContext

DIGITS = {"source": "digits", "train": 100, "validation": 60, "test": 50}
NETWORK = {"backbone": "squeezenet1_1", "weights": "imagenet", "image_size": 32}
TINY = {"backbone": "python:tests.tasks.images.training.networks:tiny", "image_size": 16}
Pictures = list[tuple[NDArray[np.uint8], int]]


@pytest.fixture(scope="session", autouse=True)
def _as_in_the_trainer() -> None:
    """Make TensorFlow repeatable; small kernels gain nothing from a second thread."""
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def study(**sections: Any) -> spec_study.StudySpec:
    """Return a study of 100 digits whose trials take a second."""
    given = {"name": "small", "data": DIGITS, "model": TINY, "training": {"probe_epochs": 3, "epochs": 2}}
    return spec_study.StudySpec.model_validate(given | sections)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def _context(cache: Path) -> StudyContext:
    return study_context.prepare(study(), cache=cache)


@pytest.fixture
def context(_context: StudyContext) -> StudyContext:
    """The small study, prepared in this process, with the pretrained weights of its backbone."""
    _context.restore()
    return _context


@pytest.fixture(scope="session")
def _trainer() -> Iterator[child.Child]:
    with child.start() as trainer:
        yield trainer
        trainer.send(messages.Quit())
        assert trainer.process.wait(60) == 0


@pytest.fixture
def trainer(_trainer: child.Child, cache: Path) -> child.Child:
    """The small study, prepared in a trainer process."""
    _trainer.prepare(study(), cache)
    return _trainer


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """Twenty photographs with their ImageNet classes, from the package foolbox."""
    files = [path for path in metadata.files("foolbox") or () if path.match("data/imagenet_*.jpg")]
    found = [(image_file.read(str(path.locate())), int(path.stem.rpartition("_")[2])) for path in sorted(files)]
    assert len(found) == 20
    return found


def batch(pictures: Pictures, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pictures (n, size, size, 3) and their classes (n,)."""
    pixels = np.stack([resized.fit(picture, size, "stretch") for picture, _ in pictures])
    return pixels, np.array([label for _, label in pictures], np.int64)
