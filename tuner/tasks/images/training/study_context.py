"""Study context: what the trials of one study share in one trainer: images, backbone and features."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.kernels import cuts, gradients, head, solvers
from tuner.kernels.targets import ImageTarget
from tuner.machine import TrainerShare
from tuner.spec import study as spec_study
from tuner.spec.hyperparameters import Hyperparameters
from tuner.tasks.images.training import backbones, steps, training_data, views
from tuner.tasks.images.training import features as feature_files


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """The images and the pretrained backbone of a study, loaded."""

    study: spec_study.StudySpec
    data: training_data.TrainingData
    backbone: backbones.Backbone
    #: `Backbone.digest` of the pretrained backbone
    network: str
    #: weights that every trial starts from, in the order of `backbone.network.variables`
    pretrained: tuple[NDArray[np.float32], ...]
    #: features of the images, computed by the pretrained backbone
    store: feature_files.FeatureStore
    #: number of epochs of fine-tuning
    epochs: int
    #: graphs that earlier trials traced
    traced: steps.TracedSteps = field(default_factory=steps.TracedSteps)
    #: heads that earlier probes solved, by everything that they depend on
    solved: dict[Any, solvers.FittedHead] = field(default_factory=dict)
    #: number of the fold that validates; None: the study has none, or this is not the context of a training
    fold: int | None = None

    def of_fold(self, number: int) -> "StudyContext":
        """Return the context of a training with one fold as validation split; all folds share the features of the frozen network."""
        data, rows = self.data.of_fold(number)
        return replace(self, data=data, store=self.store.of_rows(rows), fold=number)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.data.classes)

    @property
    def target(self) -> ImageTarget:
        """What is learned of each image."""
        return self.data.target

    @property
    def identity(self) -> str:
        """SHA-256 that ties weights to their study: over images, splits, network, training settings and metric."""
        study = self.study
        usual = {"images"} if study.training.images == "train" else set()  # earlier versions had no such setting
        training = study.training.model_dump_json(exclude={*usual, "executions"})  # each training alone is the same
        parts = [self.data.fingerprint, self.data.splits, self.network, study.model.model_dump_json(), training]
        if study.objective.metric != "accuracy":  # the only metric of earlier versions
            parts.append(study.objective.metric)
        if study.num_folds > 1:
            parts.append(f"{study.num_folds} folds")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def restore(self) -> None:
        """Reset the backbone to its pretrained weights."""
        for variable, value in zip(self.backbone.network.variables, self.pretrained, strict=True):
            variable.assign(value)

    @functools.cached_property
    def overrides(self) -> frozenset[str]:
        """Overrides of `gradients` that the fine-tuning uses on this machine."""
        return gradients.choose(self.backbone.convolutions(), threads=self.store.share.threads, cache=self.store.cache)

    def moments(self, hyperparameters: Hyperparameters) -> head.Moments:
        """Return the moments (d,) by which a trial standardizes its features: those of the original training images, with its floor."""
        mean, variance = self.store.floored(hyperparameters.feature_floor)
        width = self.backbone.num_features(hyperparameters.features)
        return mean[-width:], variance[-width:]

    def features(self, split: str, wanted: tuple[views.View, ...], *, floor: float = 0.0) -> feature_files.Vectors:
        """Return the features of several depths of `train` or `validation`, standardized with a `feature_floor`.

        The last `num_features(LAST)` columns are those of the last layer. Features that are not in the cache are computed, which requires
        the pretrained weights.
        """
        return self.store.vectors(split, wanted, floor=floor)

    def lower(self, cut: cuts.Cut, wanted: tuple[views.View, ...]) -> feature_files.Activations | None:
        """Return the activations of the training images at a cut, or None if storing them costs more than it saves.

        Activations that are not in the cache are computed, which requires the pretrained weights below the cut.
        """
        num_images, memory_bytes = len(self.data.train.labels), self.store.share.memory_bytes
        if not feature_files.is_worth_keeping(
            cut, num_images=num_images, num_views=len(wanted), epochs=self.epochs, memory_bytes=memory_bytes
        ):
            return None
        return self.store.activations(cut, "train", wanted, below=self.traced.below(cut, size=self.backbone.size))


def prepare(
    study: spec_study.StudySpec, *, cache: Path, share: TrainerShare | None = None, tick: Callable[[], None] = lambda: None
) -> StudyContext:
    """Load what the trials of a study with one model share, and compute the features of its original images.

    Without a share, use the whole machine. `tick` is called from time to time.

    Raises:
        RequestError: the images or the network cannot be used as the study names them.
    """
    data, model = training_data.load(study, cache=cache, tick=tick), study.model.of_trial()
    backbone = backbones.load(study.model)
    network = backbone.digest()
    key = f"{data.fingerprint} {data.splits} {model.image_size} {model.resize}"
    trained_on = study.training.images if data.folds is None else "train+validation"
    images = {"train": feature_files.SplitImages(images=data.train.images, key=f"{trained_on} {key}")}
    if data.folds is None:
        images["validation"] = feature_files.SplitImages(images=data.validation.images, key=f"validation {key}")
    store = feature_files.FeatureStore(
        backbone=backbone,
        network=network,
        splits=images,
        cache=cache,
        share=share or TrainerShare(threads=0),
        words={
            "study": study.name,
            "data": training_data.describe_source(study.data),
            "backbone": model.backbone,
            "size": str(model.image_size),
        },
        watch=[tick],
    )
    for split in store.splits:
        store.vectors(split, (views.ORIGINAL,))
    store.watch.clear()
    return StudyContext(
        study=study,
        data=data,
        backbone=backbone,
        network=network,
        pretrained=tuple(variable.numpy() for variable in backbone.network.variables),
        store=store,
        epochs=study.training.num_epochs(len(data.train.labels) - (0 if data.folds is None else len(data.folds) // study.num_folds)),
    )
