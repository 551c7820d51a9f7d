"""A trial into all that is known of it before it becomes a bundle, and that into the bundle's metrics.json."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner import messages, wording
from tuner.hyperparameters import Hyperparameters
from tuner.results import config
from tuner.results.best import Best
from tuner.search import details
from tuner.search.details import ClassScore
from tuner.search.study import Study
from tuner.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A model that a search found, and what is known of it."""

    #: for example "Trial 17 of the study animals"
    title: str
    #: one line that says what it is and how good
    headline: str
    #: the study that it was trained in, and one of fixed values that trains it again
    spec: StudySpec
    config: StudySpec
    hyperparameters: Hyperparameters
    #: what logits are divided by
    temperature: float
    #: what the trainer found when it loaded the data
    prepared: messages.Prepared
    curve: Sequence[messages.Epoch]
    #: of the validation images, rows true and columns predicted; () where it is not known
    confusion: Sequence[Sequence[int]]
    scores: Sequence[ClassScore]
    #: the search's own numbers
    best: Best


def of_trial(study: Study, best: Best) -> Finding:
    """A trial with what the storage holds of it."""
    known = details.of_trial(study, best.trial)
    title = f"Trial {best.trial} of the study {study.name}"
    rank = "the best" if best.is_best else "one"
    return Finding(
        title=title,
        headline=f"{title}, {rank} of {wording.count(best.num_completed, 'completed trial')}: validation accuracy {best.value:.4f}.",
        spec=best.spec,
        config=config.resolved(best),
        hyperparameters=best.hyperparameters,
        temperature=1.0,
        prepared=best.prepared,
        curve=known.curve,
        confusion=known.confusion,
        scores=known.scores,
        best=best,
    )


def caution(found: Finding) -> str:
    """What the numbers are worth, in words."""
    best = found.best
    if best.test_accuracy is None:
        luck = f"the search's own: the highest of {wording.count(best.num_completed, 'trial')}" if best.is_best else "the search's own"
        return (
            f"The validation accuracy is {luck} on the images that chose it, so that new images will see less. "
            "No accuracy on unseen images was measured."
        )
    return (
        f"The test accuracy is of {best.num_test:,} images that nothing was chosen by. "
        "The validation accuracy is the search's own, on the images that chose the winner, and too high by what luck gave it."
    )


def metrics(found: Finding) -> dict[str, Any]:
    """What was measured, for programs."""
    best, prepared = found.best, found.prepared
    test = None if best.test_accuracy is None else {"accuracy": best.test_accuracy, "num_images": best.num_test}
    rule = None if best.rule_value is None else {"validation_accuracy": best.rule_value, "test_accuracy": best.rule_test_accuracy}
    return {
        "study": found.spec.name,
        "trial": best.trial,
        "note": caution(found),
        "validation": {
            "accuracy": best.value,
            "num_images": prepared.num_validation,
            "confusion": [list(row) for row in found.confusion],
            "classes": [
                {"name": one.name, "num_images": one.support, "precision": one.precision, "recall": one.recall, "f1": one.f1}
                for one in found.scores
            ],
        },
        "test": test,
        "rule": rule,
        "temperature": found.temperature,
        "classes": list(prepared.classes),
        "images": {"train": prepared.num_train, "validation": prepared.num_validation, "test": prepared.num_test},
        "fingerprint": prepared.fingerprint,
        "splits": prepared.splits,
    }
