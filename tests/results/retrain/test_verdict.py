"""The choice, the network and the verdict of a retraining, with made-up logits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tuner.errors import DataError, StudyError
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

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split, *, mirrored: bool = False) -> SplitLogits:
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


def test_a_mean_over_folds_is_not_compared_with_new_seeds_on_the_validation_split() -> None:
    ask = Answering(KNOWN)
    candidates = retrain_verdict.build_candidates([FIRST, SECOND, THIRD], RULE, ask)
    verdict, _ = retrain_verdict.judge(replace(SUBJECT, num_folds=5), candidates, ask, notes=[])
    assert verdict.optimism.luck is None
    assert verdict.optimism.words == "The best value of the search, 0.9700 of trial 7, was too high by 0.0500."


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


#: probabilities of the second class for four images of the classes 0, 1, 0, 1, by the networks of two seeds and of their soup, on the
#: validation and the test split; the mean of the seeds is right everywhere, except for the last test image
BY_SEED = {
    (1,): ([0.1, 0.9, 0.6, 0.9], [0.1, 0.9, 0.6, 0.4]),
    (2,): ([0.6, 0.9, 0.1, 0.9], [0.6, 0.9, 0.1, 0.4]),
    (1, 2): ([0.6, 0.9, 0.1, 0.9], [0.6, 0.9, 0.1, 0.9]),
    (2, 1): ([0.6, 0.9, 0.1, 0.9], [0.6, 0.9, 0.1, 0.9]),
}
CLASSES = np.array([0, 1, 0, 1])


class Deciding:
    """Answers with probabilities by hand; mirror images are right and certain if they help, else wrong."""

    def __init__(self, *, mirror_helps: bool) -> None:
        self._mirror = np.where(int(mirror_helps) == CLASSES, 0.95, 0.05)
        self.asked: list[tuple[tuple[int, ...], Split, bool]] = []

    def __call__(self, config: RetrainedConfig, runs: Sequence[TrainingRun], split: Split, *, mirrored: bool = False) -> SplitLogits:
        seeds = tuple(run.seed for run in runs)
        self.asked.append((seeds, split, mirrored))
        given = np.array(BY_SEED[seeds][split == "test"])
        found, mirror = (np.log(np.stack([1 - each, each], 1)).astype(np.float32) for each in (given, self._mirror))
        return SplitLogits(logits=found, labels=CLASSES, mirrored=mirror if mirrored else None)


def test_the_mean_of_the_probabilities_of_all_seeds_is_chosen_if_it_is_better_than_one_training_and_the_soup() -> None:
    only = config(7, [0.75, 0.75])
    found = networks.best_network(only, Deciding(mirror_helps=False))
    assert (found.is_ensemble, found.is_soup, found.mirrored) == (True, False, False)
    assert [run.seed for run in found.runs] == [1, 2]
    assert found.validation is not None
    assert found.validation.accuracy == found.ensemble_accuracy == 1.0
    np.testing.assert_allclose(np.exp(found.validation.logits[:, 1]), [0.35, 0.9, 0.35, 0.9], rtol=1e-5)


def test_mirror_images_count_in_the_ensemble_of_seeds_if_they_lower_the_cross_entropy() -> None:
    only = config(7, [0.75, 0.75])
    helped = networks.best_network(only, Deciding(mirror_helps=True))
    assert helped.mirrored
    assert helped.validation is not None
    np.testing.assert_allclose(np.exp(helped.validation.logits[:, 1]), [0.2, 0.925, 0.2, 0.925], rtol=1e-5)
    never = networks.best_network(only, Deciding(mirror_helps=True), networks.Forms(mirror="never"))
    assert (never.is_ensemble, never.mirrored) == (True, False)
    always = networks.best_network(only, Deciding(mirror_helps=False), networks.Forms(mirror="always"))
    assert not always.is_ensemble  # the mirror images make it worse than one training


def test_a_retraining_for_one_network_never_gives_an_ensemble() -> None:
    ask = Deciding(mirror_helps=True)
    found = networks.best_network(config(7, [0.75, 0.75]), ask, networks.Forms(ensembles=False))
    assert (found.is_ensemble, len(found.runs), found.ensemble_accuracy) == (False, 1, None)
    assert not any(mirrored for *_, mirrored in ask.asked)
    subject = replace(SUBJECT, forms=networks.Forms(ensembles=False))
    candidates = retrain_verdict.build_candidates([config(7, [0.75, 0.75])], RULE, ask, subject.forms)
    verdict, _ = retrain_verdict.judge(subject, candidates, ask, notes=[])
    assert (verdict.single, verdict.networks[0].is_ensemble) == (True, False)


def test_the_ensemble_of_seeds_is_measured_on_test_images_as_the_mean_of_probabilities() -> None:
    ask = Deciding(mirror_helps=False)
    candidates = retrain_verdict.build_candidates([config(7, [0.75, 0.75])], RULE, ask)
    verdict, network = retrain_verdict.judge(SUBJECT, candidates, ask, notes=[])
    assert network.is_ensemble
    assert (verdict.validation_accuracy, verdict.test_accuracy) == (1.0, 0.75)
    chosen = verdict.networks[0]
    assert (chosen.is_ensemble, chosen.chosen_seeds, chosen.test_accuracies) == (True, (1, 2), (0.5, 0.5))
    assert verdict.soup == (
        "The version is the mean of the probabilities of seeds 1, 2: 1.0000 on the validation images; the best single seed has "
        "0.7500, the best average of several seeds' weights 0.7500."
    )
    splits = [split for _, split, _ in ask.asked]
    assert splits == sorted(splits, reverse=True)
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_the_temperature_of_an_ensemble_applies_to_each_network_before_the_mean() -> None:
    given = [Deciding(mirror_helps=False)(config(7, [0.75, 0.75]), [run], "test") for run in config(7, [0.75, 0.75]).runs]
    found = networks.average_probabilities(given, mirrored=False).at(0.5)
    # with a temperature of 0.5, a probability p becomes p² / (p² + (1 - p)²)
    sharper = [[p**2 / (p**2 + (1 - p) ** 2) for p in BY_SEED[(seed,)][1]] for seed in (1, 2)]
    np.testing.assert_allclose(np.exp(found.logits[:, 1]), np.mean(sharper, 0), rtol=1e-5)
    assert given[0].at(0.5) is given[0]  # one network has no other classes with a temperature


def test_an_ensemble_trained_on_validation_images_is_that_of_all_seeds_as_the_train_split_chose() -> None:
    of_train = Deciding(mirror_helps=True)
    candidates = retrain_verdict.build_candidates([config(7, [0.75, 0.75])], RULE, of_train)
    on_all = Deciding(mirror_helps=True)
    verdict, network = retrain_verdict.judge_on_all(SUBJECT, candidates, of_train, (config(7, [0.75, 0.75]), on_all), notes=[])
    assert (network.is_ensemble, network.mirrored, [run.seed for run in network.runs]) == (True, True, [1, 2])
    assert {(split, mirrored) for _, split, mirrored in on_all.asked} == {("test", True)}
    assert "the mean of the probabilities of all seeds, with mirror images; tuner set this rule in advance" in verdict.soup
    assert (verdict.networks[0].mirrored, verdict.validation_accuracy) == (True, None)


def test_a_version_of_an_earlier_tuner_is_no_ensemble() -> None:
    verdict, _ = judged()
    stored = verdict.model_dump(mode="json", exclude={"single": True, "networks": {"__all__": {"is_ensemble", "mirrored"}}})
    found = Verdict.model_validate(stored)
    assert (found.single, found.networks[0].is_ensemble, found.networks[0].mirrored) == (False, False, False)


def test_the_weights_of_an_ensemble_are_one_file(tmp_path: Path) -> None:
    for name, content in (("a", b"first"), ("b", b"second")):
        (tmp_path / name).write_bytes(content)
    for name in ("once.zip", "again.zip"):
        networks.pack([tmp_path / "a", tmp_path / "b"], tmp_path / name)
    assert (tmp_path / "once.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    (tmp_path / "to").mkdir()
    assert [path.read_bytes() for path in networks.unpack(tmp_path / "once.zip", tmp_path / "to")] == [b"first", b"second"]
    with pytest.raises(DataError, match="does not hold the weights of an ensemble"):
        networks.unpack(tmp_path / "a", tmp_path / "to")
