"""How `tuner check` describes the stages of a trial, the sampler and the pruner."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from tests.studies import by_hand
from tuner.spec import plan as plans
from tuner.tasks.images.data import in_memory, splits
from tuner.terminal import plan, printing


def printed(part: RenderableType) -> str:
    console = Console(width=200, color_system=None, theme=printing.THEME)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def shown(sections: dict[str, Any], epochs: int = 12) -> str:
    console = Console(width=200, color_system=None, theme=printing.THEME)
    with console.capture() as capture:
        spec = by_hand.spec(**sections)
        console.print(plan.plan(spec, plans.about_images(spec, epochs), 3))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


@pytest.mark.parametrize(
    ("training", "epochs", "words"),
    [
        ({}, 12, "a probe of 20 epochs or by lbfgs; the best 25% of them are fine-tuned for 12 epochs\n"),
        ({"promote": 1}, 12, "a probe of 20 epochs or by lbfgs; all of them are fine-tuned for 12 epochs\n"),
        ({"probe_heads": 4, "epochs": 0}, 0, "a probe of 20 epochs with 4 heads at once or by lbfgs\n"),
        ({"precision": "bfloat16"}, 1, "a probe of 20 epochs or by lbfgs; the best 25% of them are fine-tuned for 1 epoch, in bfloat16\n"),
    ],
)
def test_the_stages_of_a_trial_are_described(training: dict[str, Any], epochs: int, words: str) -> None:
    assert words in shown({"training": {"probe_epochs": 20, "promote": 0.25} | training}, epochs)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"probe_solver": "sgd"}, "a probe of 20 epochs; the best"),
        ({"head_units": [64]}, "a probe of 20 epochs; the best"),
        ({"head_units": []}, "a probe by lbfgs; the best"),
        ({"head_units": [], "probe_solver": ["sgd", "ridge"]}, "a probe of 20 epochs or by ridge; the best"),
    ],
)
def test_the_solvers_of_the_probes_are_named(search: dict[str, Any], words: str) -> None:
    assert words in shown({"search": search, "training": {"probe_epochs": 20}})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"sampler": "tpe", "pruner": "median"}, "sampler tpe, pruner median,"),
        # what the file changes of their options
        ({"pruner": {"name": "top-k", "keep": 3}}, "pruner top-k (keep 3),"),
        ({"pruner": {"name": "percentile", "percentile": 50, "warmup": 0.25}}, "pruner percentile (warmup 0.25, percentile 50),"),
        ({"sampler": {"name": "tpe", "startup_trials": 20}}, "sampler tpe (startup_trials 20),"),
        ({"pruner": {"name": "threshold", "lower": 0.5}}, "pruner threshold (lower 0.5),"),
    ],
)
def test_sampler_and_pruner_are_named_with_their_changed_options(sections: dict[str, Any], words: str) -> None:
    assert words in shown(sections)


def test_the_images_are_shown_with_what_the_commonest_class_scores() -> None:
    labels = np.repeat([0, 1], [30, 10])
    pixels = np.arange(40, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2)
    data = in_memory.from_arrays(pixels, labels, ["ok", "crack"])
    parts = splits.split(data, by_hand.spec().data.model_copy(update={"validation": 8, "test": 8}), 0)
    console = Console(width=200, color_system=None, theme=printing.THEME)
    with console.capture() as capture:
        console.print(plan.images(data, parts))
    assert capture.get().splitlines()[-3] == "always the commonest class, ok: accuracy 0.7500 on validation, 0.7500 on test"
