"""What a study will take, from the size of its data and of its backbone: rough, and said to be.

    core_seconds = multiply_adds × SECONDS_A_MULTIPLY_ADD × images × passes

`passes` is 1 for the features of the probe (computed once a study, of each image and its mirror images; once a trial for each view
that is drawn, since its strengths are likely to be its own) and for each validation image and epoch, and 3 for each training image and
epoch of fine-tuning (forward, and twice that backward). The multiply-adds of a backbone at 224 pixels stand below; they grow with the
square of the image size. Every trial is probed; the part `training.promote` of them, and
trial 0, is fine-tuned.
"""

import math
from dataclasses import dataclass

from tuner.spec import domains
from tuner.spec.hyperparameters import Flip
from tuner.spec.study import StudySpec

#: measured with EfficientNet-Lite0 at 96 pixels, everything unfrozen, on two cores: 8 ms an image
SECONDS_A_MULTIPLY_ADD = 7e-11
#: tracing a fine-tuning before its first step, where no trial before it had the same shape
TRACE_SECONDS = 3.0
#: what one epoch of a head on cached features takes, for each 1,000 images
HEAD_SECONDS = 0.02
#: billions of multiply-adds an image of 224 pixels
MULTIPLY_ADDS = {
    "efficientnet_lite0": 0.41,
    "squeezenet1_1": 0.35,
    "mobilenet": 0.57,
    "mobilenet_v2": 0.30,
    "mobilenet_v3_small": 0.06,
    "mobilenet_v3_large": 0.22,
    "efficientnet_b0": 0.39,
    "efficientnet_b1": 0.6,
    "efficientnet_b2": 0.7,
    "efficientnet_b3": 1.0,
    "efficientnet_b4": 1.6,
    "efficientnet_b5": 2.4,
    "efficientnet_b6": 3.4,
    "efficientnet_b7": 5.3,
    "efficientnet_v2_b0": 0.7,
    "efficientnet_v2_b1": 1.0,
    "efficientnet_v2_b2": 1.3,
    "efficientnet_v2_b3": 1.7,
    "efficientnet_v2_s": 2.9,
    "efficientnet_v2_m": 5.4,
    "efficientnet_v2_l": 12.3,
    "nasnet_mobile": 0.56,
    "nasnet_large": 10.5,
    "densenet121": 2.9,
    "densenet169": 3.4,
    "densenet201": 4.3,
    "inception_v3": 2.8,
    "inception_resnet_v2": 6.5,
    "xception": 4.6,
    "resnet50": 4.1,
    "resnet101": 7.8,
    "resnet152": 11.5,
    "vgg16": 15.5,
    "vgg19": 19.6,
    "convnext_tiny": 4.5,
    "convnext_small": 8.7,
    "convnext_base": 15.4,
    "convnext_large": 34.4,
    "convnext_xlarge": 60.9,
}
#: of a backbone that is not in the list
_GUESS = 2.0
_FORWARD, _BACKWARD = 1, 3
#: an image with its mirror images
_MIRRORED = {Flip.NONE: 1, Flip.HORIZONTAL: 2, Flip.VERTICAL: 2, Flip.BOTH: 4}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds on this machine, all its cores at work on one trial at a time."""

    #: decoding images and computing features, once
    prepare_seconds: float
    #: the probe of one trial
    probe_seconds: float
    #: the fine-tuning of one trial
    fine_tune_seconds: float
    #: trials that are fine-tuned; None where the study has no number of trials
    num_fine_tuned: int | None
    #: the whole study; None where the study has no number of trials
    total_seconds: float | None
    #: whether the backbone is in the list
    is_known: bool


def estimate(spec: StudySpec, *, num_train: int, num_validation: int, epochs: int, num_cores: int) -> Cost:
    """The cost of a study on `num_cores` cores without a GPU."""
    name = spec.model.backbone.lower().replace("-", "_")
    multiply_adds = _multiply_adds(name)
    image_seconds = (multiply_adds or _GUESS) * 1e9 * (spec.model.image_size / 224) ** 2 * SECONDS_A_MULTIPLY_ADD / num_cores
    mirrored, drawn = _num_views(spec)
    prepare = image_seconds * _FORWARD * (mirrored * num_train + num_validation)
    probe = HEAD_SECONDS * spec.training.probe_epochs * num_train / 1000 + image_seconds * _FORWARD * drawn * num_train
    epoch = image_seconds * (_BACKWARD * num_train + _FORWARD * num_validation)
    fine_tune = TRACE_SECONDS + epochs * epoch if epochs else 0.0
    num_trials = spec.budget.trials
    num_fine_tuned = None if num_trials is None else _num_promoted(spec, num_trials) if epochs else 0
    total = None if num_trials is None or num_fine_tuned is None else prepare + num_trials * probe + num_fine_tuned * fine_tune
    return Cost(
        prepare_seconds=prepare,
        probe_seconds=probe,
        fine_tune_seconds=fine_tune,
        num_fine_tuned=num_fine_tuned,
        total_seconds=total,
        is_known=multiply_adds is not None,
    )


def _num_views(spec: StudySpec) -> tuple[int, int]:
    """The most that a trial's probe may see of an image: it with its mirror images, and versions that are drawn."""
    augmentation = spec.search.augmentation
    mirrored = max(_MIRRORED[flip] for flip in domains.values(augmentation.flip))
    return mirrored, max(0, max(domains.values(augmentation.views)) - mirrored)


def _num_promoted(spec: StudySpec, num_trials: int) -> int:
    return min(num_trials, 1 + math.ceil(spec.training.promote * (num_trials - 1)))


def _multiply_adds(backbone: str) -> float | None:
    plain = {name.replace("_", ""): billions for name, billions in MULTIPLY_ADDS.items()}
    return plain.get(backbone.replace("_", ""))
