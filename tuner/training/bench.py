"""All that the trials of one study share in one trainer: data, backbone, features."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tuner import spec
from tuner.training import backbones, features, pipeline


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A study's data and pretrained network, loaded and warm."""

    study: spec.StudySpec
    data: pipeline.TrainingData
    backbone: backbones.Backbone
    #: `Backbone.digest` of the pretrained network
    network: str
    #: weights that every trial starts from, in the order of `backbone.network.variables`
    pretrained: tuple[NDArray[np.float32], ...]
    #: vectors (n, d) of the pretrained backbone
    train_features: tf.Tensor
    validation_features: tf.Tensor
    #: mean and variance (d,) of the training vectors
    moments: tuple[NDArray[np.float32], NDArray[np.float32]]
    #: epochs of fine-tuning
    epochs: int

    @property
    def num_classes(self) -> int:
        """Classes that the head tells apart."""
        return len(self.data.classes)

    @property
    def identity(self) -> str:
        """SHA-256 over what makes the weights of one study mean nothing in another: images, splits, network and road of a trial."""
        study = self.study
        parts = [self.data.fingerprint, self.data.splits, self.network, study.model.model_dump_json(), study.training.model_dump_json()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def restore(self) -> None:
        """Bring the backbone back to its pretrained weights."""
        for variable, value in zip(self.backbone.network.variables, self.pretrained, strict=True):
            variable.assign(value)


def prepare(study: spec.StudySpec, *, cache: Path) -> Bench:
    """Load what the trials of a study share.

    Raises:
        RequestError: the data or the network cannot be had as the study names them.
    """
    data = pipeline.load(study, cache=cache)
    backbone = backbones.load(study.model)
    network = backbone.digest()
    key = f"{data.fingerprint} {data.splits} {study.model.image_size} {study.model.resize}"
    train_features = features.load(backbone, data.train.images, network=network, key=f"train {key}", cache=cache)
    validation_features = features.load(backbone, data.validation.images, network=network, key=f"validation {key}", cache=cache)
    return Bench(
        study=study,
        data=data,
        backbone=backbone,
        network=network,
        pretrained=tuple(variable.numpy() for variable in backbone.network.variables),
        train_features=tf.constant(train_features),
        validation_features=tf.constant(validation_features),
        moments=(train_features.mean(0), train_features.var(0)),
        epochs=study.training.num_epochs(len(data.train.labels)),
    )
