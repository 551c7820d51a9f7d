"""Cost: a rough estimate of the time of a study, from the size of its data and of its backbone.

    core_seconds = multiply_adds × SECONDS_A_MULTIPLY_ADD × images × passes

- The features of the probe take 1 pass. Those of each image and its mirror images are computed once for a study. Those of drawn views are
  computed for each trial, because its augmentation strengths are likely unique.
- An exact probe is solved once for a study and shared by its trials, unless it is solved on drawn views.
- Fine-tuning takes as long as 4.2 passes for each training image and epoch, and 1 pass for each validation image. A training step computes
  3 passes, one forward and two backward; the rest is augmentation, the optimizer, and that small batches are slower.
- Every trial is probed. Trial 0 and a share of the others (`budget.share`) are fine-tuned.

The table below has the multiply-adds of each backbone at 224 pixels. They grow with the square of the image size.
"""

import statistics
from dataclasses import dataclass

from tuner import wording
from tuner.spec import budget, domains, space
from tuner.spec.hyperparameters import Flip, ProbeSolver
from tuner.spec.model import TrialModel
from tuner.spec.study import StudySpec

#: measured with EfficientNet-Lite0 at 96 pixels on two cores: 1.9 ms for the features of an image, 8 ms to train all blocks on it
SECONDS_A_MULTIPLY_ADD = 5e-11
#: seconds to trace a fine-tuning before its first step, unless an earlier trial had the same form
TRACE_SECONDS = 3.0
#: seconds to solve an exact probe, for each 1,000 images
EXACT_SECONDS = 2.0
#: seconds of one epoch of a head on cached features, for each 1,000 images
HEAD_SECONDS = 0.02
#: billions of multiply-adds for an image of 224 pixels, by the names of `spec.model.BACKBONES`
MULTIPLY_ADDS = {
    "efficientnet_lite0": 0.41,
    "efficientnet_lite1": 0.55,
    "efficientnet_lite2": 0.67,
    "mobilenet_v2": 0.30,
    "squeezenet1_1": 0.35,
    "MobileNet": 0.57,
    "MobileNetV2": 0.30,
    "MobileNetV3Small": 0.06,
    "MobileNetV3Large": 0.22,
    "EfficientNetB0": 0.39,
    "EfficientNetB1": 0.6,
    "EfficientNetB2": 0.7,
    "EfficientNetB3": 1.0,
    "EfficientNetB4": 1.6,
    "EfficientNetB5": 2.4,
    "EfficientNetB6": 3.4,
    "EfficientNetB7": 5.3,
    "EfficientNetV2B0": 0.7,
    "EfficientNetV2B1": 1.0,
    "EfficientNetV2B2": 1.3,
    "EfficientNetV2B3": 1.7,
    "EfficientNetV2S": 2.9,
    "EfficientNetV2M": 5.4,
    "EfficientNetV2L": 12.3,
    "NASNetMobile": 0.56,
    "NASNetLarge": 10.5,
    "DenseNet121": 2.9,
    "DenseNet169": 3.4,
    "DenseNet201": 4.3,
    "InceptionV3": 2.8,
    "InceptionResNetV2": 6.5,
    "Xception": 4.6,
    "ResNet50": 4.1,
    "ResNet101": 7.8,
    "ResNet152": 11.5,
    "VGG16": 15.5,
    "VGG19": 19.6,
    "ConvNeXtTiny": 4.5,
    "ConvNeXtSmall": 8.7,
    "ConvNeXtBase": 15.4,
    "ConvNeXtLarge": 34.4,
    "ConvNeXtXLarge": 60.9,
}
#: billions of multiply-adds for a backbone that is not in the table
_GUESS = 2.0
#: forward passes for the features of an image, and for training on it. Measured with EfficientNet-Lite0 on two cores: 1.56 ms a pass at 96
#: pixels, and 15 s for an epoch of 2,000 training and 1,000 validation images
_FORWARD, _TRAINING = 1, 4.2
#: number of images including mirror images
_MIRRORED = {Flip.NONE: 1, Flip.HORIZONTAL: 2, Flip.VERTICAL: 2, Flip.BOTH: 4}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimated seconds on this machine, with all cores on one trial at a time."""

    #: decoding images, computing their features and solving exact probes, once
    prepare_seconds: float
    #: the probe of one trial
    probe_seconds: float
    #: the fine-tuning of one trial
    fine_tune_seconds: float
    #: number of fine-tuned trials; None if the study has no limit on trials
    num_fine_tuned: int | None
    #: the whole study; None if the study has no limit on trials
    total_seconds: float | None
    #: whether the backbone is in the table
    is_known: bool


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """The sizes that a cost depends on."""

    num_train: int
    num_validation: int
    #: fine-tuning epochs of a trial
    epochs: int


def estimate(spec: StudySpec, *, num_train: int, num_validation: int, epochs: int, num_cores: int) -> Cost:
    """Estimate the cost of a study on `num_cores` cores without a GPU.

    If trials choose among several models, every model is prepared once, and the cost of a trial is the mean over the models.
    """
    size = DataSize(num_train=num_train, num_validation=num_validation, epochs=epochs)
    found = [of_model(spec, model, size, num_cores=num_cores) for model in spec.model.combinations()]
    prepare = sum(cost.prepare_seconds for cost in found)
    probe, fine_tune = (
        statistics.fmean(seconds) for seconds in zip(*((cost.probe_seconds, cost.fine_tune_seconds) for cost in found), strict=True)
    )
    num_fine_tuned, num_trials = found[0].num_fine_tuned, spec.budget.trials
    total = None if num_trials is None or num_fine_tuned is None else prepare + num_trials * probe + num_fine_tuned * fine_tune
    return Cost(
        prepare_seconds=prepare,
        probe_seconds=probe,
        fine_tune_seconds=fine_tune,
        num_fine_tuned=num_fine_tuned,
        total_seconds=total,
        is_known=all(cost.is_known for cost in found),
    )


def words(estimated: Cost, *, num_cores: int, num_trials: int | None) -> list[tuple[str, str]]:
    """Return a rough cost as pairs of a name and a text."""
    one = f"probe {wording.duration(estimated.probe_seconds)}, fine-tuning {wording.duration(estimated.fine_tune_seconds)}"
    facts = [("once", f"images and features: about {wording.duration(estimated.prepare_seconds)}"), ("a trial", f"about: {one}")]
    if estimated.total_seconds is not None and num_trials is not None:
        trials = f"{wording.count(num_trials, 'trial')}, {estimated.num_fine_tuned} of them fine-tuned"
        facts.append(("the study", f"about {wording.duration(estimated.total_seconds)}: {trials}"))
    caution = "" if estimated.is_known else "; the cost of this backbone is unknown, so this is a guess"
    facts.append(("", f"on {wording.count(num_cores, 'core')} without a GPU; expect half to twice as long{caution}"))
    return facts


def of_model(spec: StudySpec, model: TrialModel, size: DataSize, *, num_cores: int, seconds_a_multiply_add: float | None = None) -> Cost:
    """Estimate the cost of a study whose trials all have one model.

    `seconds_a_multiply_add` is measured on this machine, with all its cores; None: a typical core.
    """
    image_seconds = relative(model) * 1e9 * (seconds_a_multiply_add or SECONDS_A_MULTIPLY_ADD / num_cores)
    mirrored, drawn = _num_views(spec)
    prepare = image_seconds * _FORWARD * (mirrored * size.num_train + size.num_validation)
    solvers = space.probe_solvers(spec)
    # drawn views are those of one trial, and so is what is solved on them
    exact = EXACT_SECONDS * size.num_train / 1000 if any(solver is not ProbeSolver.SGD for solver in solvers) else 0.0
    prepare += 0.0 if drawn else exact
    steps = spec.training.probe_epochs if ProbeSolver.SGD in solvers else 0
    probe = HEAD_SECONDS * steps * size.num_train / 1000 + image_seconds * _FORWARD * drawn * size.num_train
    probe += exact if drawn else 0.0
    epoch = image_seconds * (_TRAINING * size.num_train + _FORWARD * size.num_validation)
    repeats = spec.num_trainings
    # the probes of repeats belong to the fine-tuning that follows them
    fine_tune = TRACE_SECONDS + repeats * size.epochs * epoch + (repeats - 1) * probe if size.epochs else 0.0
    probe *= 1 if size.epochs else repeats
    num_trials = spec.budget.trials
    num_fine_tuned = None if num_trials is None else budget.num_fine_tuned(spec.training, spec.budget, num_trials) if size.epochs else 0
    total = None if num_trials is None or num_fine_tuned is None else prepare + num_trials * probe + num_fine_tuned * fine_tune
    return Cost(
        prepare_seconds=prepare,
        probe_seconds=probe,
        fine_tune_seconds=fine_tune,
        num_fine_tuned=num_fine_tuned,
        total_seconds=total,
        is_known=model.backbone in MULTIPLY_ADDS,
    )


def relative(model: TrialModel) -> float:
    """Return the billions of multiply-adds of a model for one image."""
    return MULTIPLY_ADDS.get(model.backbone, _GUESS) * (model.image_size / 224) ** 2


def _num_views(spec: StudySpec) -> tuple[int, int]:
    """Return the maximum number of views of an image in a probe: the image with its mirror images, and drawn views."""
    augmentation = spec.search.augmentation
    mirrored = max(_MIRRORED[flip] for flip in domains.values(augmentation.flip))
    return mirrored, max(0, max(domains.values(augmentation.views)) - mirrored)
