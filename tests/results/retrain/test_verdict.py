"""The choice, the network and the verdict of a retraining, with made-up logits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tuner.errors import StudyError
from tuner.protocol.messages import Split
from tuner.results.retrain import networks, trainings
from tuner.results.retrain import verdict as retrain_verdict
from tuner.results.retrain.networks import SplitLogits
from tuner.results.retrain.trainings import RetrainedConfig, TrainingRun
from tuner.results.retrain.verdict import Verdict, VerdictSubject
from tuner.spec.hyperparameters import Hyperparameters
from tuner.terminal import printing, versions

RULE = Hyperparameters()
SUBJECT = VerdictSubject(study="birds", retraining="birds-retrain-1", classes=("duck", "owl"), best=(7, 0.97), rule=RULE)
#: numbers of right answers on 100 validation and 1,000 test images, by trial and seeds
Known = Mapping[tuple[int, tuple[int, ...]], tuple[int, int]]


def config(trial: int, values: Sequence[float | None], *, dropout: float | None = None) -> RetrainedConfig:
    runs = tuple(
        TrainingRun(
            trial=10 * trial + seed, seed=seed, value=value, weights=None if value is None else "w.npz", best_epoch=3, failure="it failed"
        )
        for seed, value in enumerate(values, 1)
    )
    hyperparameters = RULE if dropout is None else Hyperparameters(dropout=dropout)
    return RetrainedConfig(trial=trial, search_value=0.9 + trial / 100, hyperparameters=hyperparameters, runs=runs)


class Answering:
    """Answers as `known` sets, and records its requests."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.asked: list[tuple[int, tuple[int, ...], Split]] = []

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split) -> SplitLogits:
        seeds = tuple(run.seed for run in runs)
        self.asked.append((config.trial, seeds, split))
        num = 100 if split == "validation" else 1000
        labels = np.arange(num) % 2
        num_right = self._known[config.trial, seeds][split == "test"]
        right = np.arange(num) < num_right
        taken = np.where(right, labels, 1 - labels)
        return SplitLogits(logits=(4.0 * np.eye(2)[taken]).astype(np.float32), labels=labels)


FIRST, SECOND, THIRD = config(7, [0.90, 0.92], dropout=0.1), config(4, [0.89, 0.90], dropout=0.2), config(0, [0.80, 0.82])
KNOWN: Known = {
    (7, (1,)): (90, 880),
    (7, (2,)): (92, 900),
    (7, (2, 1)): (94, 920),
    (4, (1,)): (89, 900),
    (4, (2,)): (90, 890),
    (4, (2, 1)): (90, 995),
    (0, (1,)): (80, 790),
    (0, (2,)): (82, 810),
    (0, (2, 1)): (70, 999),
}


def test_the_config_with_the_highest_mean_is_chosen_with_its_standard_deviation() -> None:
    configs = [FIRST, SECOND, THIRD]
    assert trainings.choose(configs) is FIRST
    chosen, ahead = trainings.choice_words(configs)
    assert chosen == "Trial 7 is chosen: validation accuracy 0.9100 ± 0.0141 over 2 seeds."
    assert "0.0150 ahead of trial 4 (0.8950 ± 0.0071 over 2 seeds), and better with 2 of 2 seeds" in ahead
    assert "random seeds may explain it" in ahead


def test_a_lead_with_every_seed_is_significant() -> None:
    _, ahead = trainings.choice_words([config(7, [0.95, 0.951, 0.95]), config(4, [0.90, 0.902, 0.90])])
    assert "more than random seeds explain" in ahead
    assert "may explain" not in ahead


def test_one_seed_cannot_show_significance() -> None:
    _, ahead = trainings.choice_words([config(7, [0.95]), config(4, [0.90])])
    assert "one seed cannot show whether the difference is random" in ahead


def test_a_config_that_failed_with_a_seed_cannot_be_chosen() -> None:
    said = trainings.choice_words([FIRST, config(4, [0.99, None], dropout=0.2)])
    assert said[-1] == "Trial 4 could not be chosen: with seed 2 it failed."
    with pytest.raises(StudyError, match="no config completed with every seed.*trial 4: with seed 2 it failed"):
        trainings.choose([config(4, [0.99, None])])


def test_a_soup_is_chosen_only_if_it_is_better_on_the_validation_images() -> None:
    ask = Answering(KNOWN)
    better, equal, worse = (networks.best_network(each, ask) for each in (FIRST, SECOND, THIRD))
    assert ([run.seed for run in better.runs], better.tried) == ([2, 1], (((2, 1), 0.94),))
    assert ([run.seed for run in equal.runs], equal.tried) == ([2], (((2, 1), 0.90),))
    assert ([run.seed for run in worse.runs], worse.tried) == ([2], (((2, 1), 0.70),))
    assert {split for *_, split in ask.asked} == {"validation"}


def judged() -> tuple[Verdict, Answering]:
    ask = Answering(KNOWN)
    candidates = retrain_verdict.build_candidates([FIRST, SECOND, THIRD], RULE, ask)
    verdict, network = retrain_verdict.judge(SUBJECT, candidates, ask, notes=["a note"])
    assert network is candidates.chosen
    return verdict, ask


def test_every_choice_is_made_before_the_test_split_is_read() -> None:
    _, ask = judged()
    splits = [split for *_, split in ask.asked]
    assert splits == sorted(splits, reverse=True)


def test_the_verdict_holds_the_figures_of_the_chosen_network() -> None:
    verdict, _ = judged()
    assert (verdict.validation_accuracy, verdict.test_accuracy, verdict.num_test) == (0.94, 0.92, 1000)
    assert verdict.test_interval == pytest.approx((0.9015, 0.9353), abs=1e-4)
    assert verdict.confusion == ((460, 40), (40, 460))
    assert [(each.name, each.precision, each.recall) for each in verdict.classes] == [("duck", 0.92, 0.92), ("owl", 0.92, 0.92)]
    assert verdict.macro_f1_interval[0] < verdict.macro_f1 < verdict.macro_f1_interval[1]
    assert (verdict.optimism.trial, verdict.optimism.search_value) == (7, 0.97)
    assert verdict.optimism.too_high == pytest.approx(0.05)
    assert verdict.optimism.luck == pytest.approx(0.97 - 0.91)
    assert verdict.calibration.error_before == pytest.approx(1 / (1 + np.exp(-4.0)) - 0.92)
    assert [(each.num_images, each.accuracy) for each in verdict.calibration.bins] == [(1000, 0.92)]
    assert verdict.notes == ("a note",)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_a_class_without_images_has_undefined_figures_null_in_json_and_a_dash_on_the_screen() -> None:
    ask = Answering(KNOWN)
    subject = replace(SUBJECT, classes=("duck", "owl", "wren"))
    verdict, _ = retrain_verdict.judge(subject, retrain_verdict.build_candidates([FIRST, SECOND, THIRD], RULE, ask), ask, notes=[])
    *_, wren = verdict.model_dump(mode="json")["classes"]
    assert wren == {"name": "wren", "num_images": 0, "precision": None, "recall": None, "f1": None}
    console = Console(record=True, width=100, theme=printing.THEME)
    for part in versions.verdict(verdict, name="birds", number=1):
        console.print(part)
    (row,) = [line for line in console.export_text().splitlines() if line.split()[:2] == ["wren", "0"]]
    assert row.split() == ["wren", "0", "–", "–", "–"]


def test_number_2_and_the_rule_are_compared_on_the_same_images_and_over_the_same_seeds() -> None:
    verdict, _ = judged()
    second, rule = verdict.comparisons
    assert (second.against, second.trial, second.only_chosen, second.only_other) == ("number 2", 4, 30, 0)
    assert second.p < 1e-8
    assert second.words.startswith(
        "Compared with number 2 (trial 4): better; of 1,000 test images, 30 are right only with the chosen one and 0 only with the other"
    )
    assert second.difference == pytest.approx(-0.005)
    assert "which random seeds may explain" in second.words
    assert (rule.against, rule.trial) == ("the rule", 0)
    assert rule.difference == pytest.approx(0.09)
    assert [network.test_accuracies for network in verdict.networks] == [(0.88, 0.9), (0.9, 0.89), (0.79, 0.81)]


def test_equal_networks_have_no_significant_difference() -> None:
    known: Known = {(7, (1,)): (90, 900), (0, (1,)): (89, 900)}
    ask = Answering(known)
    verdict, _ = retrain_verdict.judge(
        SUBJECT, retrain_verdict.build_candidates([config(7, [0.9], dropout=0.1), config(0, [0.89])], RULE, ask), ask, notes=[]
    )
    (only,) = verdict.comparisons
    assert only.against == "number 2, the rule"
    assert only.p == 1.0
    assert "no significant difference" in only.words
    assert verdict.soup == "There is one seed, so there are no weights to average."


def test_a_network_trained_on_validation_images_is_chosen_by_a_fixed_rule() -> None:
    of_train = Answering(KNOWN)
    candidates = retrain_verdict.build_candidates([FIRST, SECOND, THIRD], RULE, of_train)
    on_all = Answering({(7, (1,)): (100, 930), (7, (2,)): (100, 935), (7, (1, 2)): (100, 940)})
    verdict, network = retrain_verdict.judge_on_all(SUBJECT, candidates, of_train, (FIRST, on_all), notes=[])
    assert [run.seed for run in network.runs] == [1, 2]
    assert {split for *_, split in on_all.asked} == {"test"}
    assert (verdict.trained_on, verdict.validation_accuracy, verdict.test_accuracy) == ("train+validation", None, 0.94)
    assert (verdict.networks[0].mean, verdict.networks[0].values) == (None, ())
    assert [each.against for each in verdict.comparisons] == [retrain_verdict.ON_TRAIN, "number 2", "the rule"]
    assert "so it has no validation accuracy" in verdict.notes[0]
    assert networks.declared_network(FIRST, soup=False).runs == FIRST.runs[:1]
