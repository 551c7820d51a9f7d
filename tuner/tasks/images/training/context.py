"""All that the trials of one study share in one trainer: data, backbone, features."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.kernels import cuts, devices, head
from tuner.spec import study as spec_study
from tuner.spec.hyperparameters import Features
from tuner.tasks.images.training import backbones, pipeline, steps, views
from tuner.tasks.images.training import features as feature_files


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """A study's data and pretrained network, loaded and warm."""

    study: spec_study.StudySpec
    data: pipeline.TrainingData
    backbone: backbones.Backbone
    #: `Backbone.digest` of the pretrained network
    network: str
    #: weights that every trial starts from, in the order of `backbone.network.variables`
    pretrained: tuple[NDArray[np.float32], ...]
    #: what the pretrained backbone makes of the images
    shelf: feature_files.FeatureStore
    #: epochs of fine-tuning
    epochs: int
    #: what trials traced, for those after them
    traced: steps.Steps = field(default_factory=steps.Steps)

    @property
    def num_classes(self) -> int:
        """Classes that the head tells apart."""
        return len(self.data.classes)

    @property
    def identity(self) -> str:
        """SHA-256 over what makes the weights of one study mean nothing in another: images, splits, network and road of a trial."""
        study = self.study
        usual = {"images"} if study.training.images == "train" else set()  # an earlier version did not know of it
        road = study.training.model_dump_json(exclude=usual)
        parts = [self.data.fingerprint, self.data.splits, self.network, study.model.model_dump_json(), road]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def restore(self) -> None:
        """Bring the backbone back to its pretrained weights."""
        for variable, value in zip(self.backbone.network.variables, self.pretrained, strict=True):
            variable.assign(value)

    def moments(self, kind: Features) -> head.Moments:
        """Mean and variance (d,) of the features over the training images as they are."""
        mean, variance = self.shelf.moments
        width = self.backbone.num_features(kind)
        return mean[-width:], variance[-width:]

    def features(self, split: str, wanted: tuple[views.View, ...]) -> feature_files.Vectors:
        """Standardized features of several depths of `train` or `validation`; the last `num_features(LAST)` columns are the last layer's.

        What is not in the cache is computed: the backbone must be as pretrained.
        """
        return self.shelf.vectors(split, wanted)

    def lower(self, cut: cuts.Cut, wanted: tuple[views.View, ...]) -> feature_files.Activations | None:
        """What the network below a cut makes of the training images; None where keeping it costs more than it saves.

        What is not in the cache is computed: below the cut the backbone must be as pretrained.
        """
        num_images, memory_bytes = len(self.data.train.labels), self.shelf.share.memory_bytes
        if not feature_files.is_worth_keeping(
            cut, num_images=num_images, num_views=len(wanted), epochs=self.epochs, memory_bytes=memory_bytes
        ):
            return None
        return self.shelf.activations(cut, "train", wanted, below=self.traced.below(cut, size=self.backbone.size))


def prepare(study: spec_study.StudySpec, *, cache: Path, share: devices.TrainerShare | None = None) -> StudyContext:
    """Load what the trials of a study share, and compute the features of its images as they are; without a share, by all of the machine.

    Raises:
        RequestError: the data or the network cannot be had as the study names them.
    """
    data = pipeline.load(study, cache=cache)
    backbone = backbones.load(study.model)
    network = backbone.digest()
    key = f"{data.fingerprint} {data.splits} {study.model.image_size} {study.model.resize}"
    shelf = feature_files.FeatureStore(
        backbone=backbone,
        network=network,
        pictures={
            "train": feature_files.Pictures(images=data.train.images, key=f"{study.training.images} {key}"),
            "validation": feature_files.Pictures(images=data.validation.images, key=f"validation {key}"),
        },
        cache=cache,
        share=share or devices.TrainerShare(threads=0),
        words={
            "study": study.name,
            "data": pipeline.title(study.data),
            "backbone": study.model.backbone,
            "size": str(study.model.image_size),
        },
    )
    for split in shelf.pictures:
        shelf.vectors(split, (views.ORIGINAL,))
    return StudyContext(
        study=study,
        data=data,
        backbone=backbone,
        network=network,
        pretrained=tuple(variable.numpy() for variable in backbone.network.variables),
        shelf=shelf,
        epochs=study.training.num_epochs(len(data.train.labels)),
    )
