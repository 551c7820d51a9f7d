"""The replay laboratory without training: recordings by hand, and searches, ensembles and tables computed from them."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.replay import contest, ensembles, jobs, laboratory, run, search, tables, trial_files
from benchmarks.replay.ensembles import Candidates
from benchmarks.replay.jobs import Drawn, Job, Kind
from benchmarks.replay.judging import Judge, Mirror, Result
from benchmarks.replay.laboratory import Trial, World
from benchmarks.replay.search import Policy, Prior, Search
from benchmarks.replay.tables import Comparison
from benchmarks.replay.trial_files import Facts, RecordedEpoch, Recording
from tuner.spec import space
from tuner.spec.study import StudySpec
from tuner.tasks.images.spec import recipe

SPACE = StudySpec.model_validate({"name": "study", "data": {"source": "digits"}}).search
RECIPE = recipe.parameters(1000, 10, SPACE)
RANDOM = np.random.default_rng(0)


def candidates(*true: list[float]) -> Candidates:
    """Return trials on images of class 0 of two classes, given the probability of the true class for each trial and image."""
    given = np.array(true, np.float32)
    return Candidates(probabilities=np.stack([given, 1 - given], 2), labels=np.zeros(given.shape[1], np.int64))


def epoch(accuracy: float, loss: float = 1.0) -> RecordedEpoch:
    """Return an epoch."""
    return RecordedEpoch(
        loss=loss, accuracy=0.5, validation_loss=1.0, validation_accuracy=accuracy, learning_rate=0.1, seconds=2.0, processor_seconds=3.0
    )


def recording(number: int, logits: NDArray[np.float16], **given: Any) -> Recording:
    """Return a recording with 2 validation and 2 test images of classes 0, 1, 0, 1, and these logits (4, 2) of the last epoch."""
    facts = Facts(
        data_set="digits",
        image_size=96,
        number=number,
        kind=jobs.KINDS[number].value,
        seed=number,
        parameters={"dropout": 0.3},
        hyperparameters={},
        num_train=2000,
        num_validation=2,
        num_test=2,
        probe=[epoch(0.4), epoch(0.5)],
        fine_tune=[epoch(0.6), epoch(0.7)],
        best_step=4,
        epoch_multiply_adds=1e12,
        features_multiply_adds=5e11,
        features_processor_seconds=1.0,
        threads=2,
        versions={},
    )
    mirrored = given.pop("mirrored", logits)
    named = {f"{split}_last_{view}": each for view, both in (("image", logits), ("mirrored", mirrored)) for split, each in split_up(both)}
    labels = {split: np.array([0, 1], np.uint8) for split in ("validation", "test")}
    return Recording(facts=replace(facts, **given), labels=labels, logits=named)


def split_up(both: NDArray[np.float16]) -> list[tuple[str, NDArray[np.float16]]]:
    return [("validation", both[:2]), ("test", both[2:])]


def logits(*margins: float) -> NDArray[np.float16]:
    """Return logits (4, 2) of images of classes 0, 1, 0, 1 with these margins of the true class."""
    return np.array([[margin, 0.0] if number % 2 == 0 else [0.0, margin] for number, margin in enumerate(margins)], np.float16)


def trial(probe: float = 0.5, *, curve: tuple[float, ...] = (0.6, 0.7), epoch_seconds: float = 10.0, size: int = 96) -> Trial:
    """Return a trial whose fine-tuning takes 3 s and two epochs."""
    return Trial(
        number=0,
        kind="near",
        image_size=size,
        probe=probe,
        curve=curve,
        probe_seconds=1.0,
        epoch_seconds=epoch_seconds,
        features_seconds=5.0,
        is_whole=True,
        probabilities={},
    )


def test_jobs_come_by_number_over_all_data_sets_with_the_large_ones_between_them() -> None:
    listed = list(jobs.jobs())
    assert [(job.folder, job.number) for job in listed[16:26]] == [
        *((name, 4) for name in jobs.DATA_SETS),
        ("cifar10_small-160", 0),
        *((name, 5) for name in jobs.DATA_SETS),
        ("cifar10_small-160", 1),
    ]
    assert len(listed) == 4 * 24 + 12 + 4 * 4
    assert [job.folder for job in listed if job.number == 3 and job.length != "full"] == [f"{name}-continued" for name in jobs.DATA_SETS]
    assert {kind: jobs.KINDS.count(kind) for kind in Kind} == {Kind.RECIPE: 1, Kind.SEED: 5, Kind.NEAR: 9, Kind.SPACE: 9}
    assert len({(job.folder, job.number) for job in listed}) == len(listed)


def test_the_recipe_and_its_seeds_have_the_parameters_of_trial_0() -> None:
    for kind in (Kind.RECIPE, Kind.SEED):
        job = Job(data_set="digits", image_size=96, number=jobs.KINDS.index(kind))
        chooser = Drawn(job, RECIPE)
        space.suggest(chooser, SPACE, fine_tunes=True)
        assert chooser.parameters == RECIPE


def test_draws_of_one_number_are_equal_on_all_data_sets_whatever_else_acts() -> None:
    first, second = (Drawn(Job(data_set=name, image_size=96, number=3), RECIPE) for name in ("digits", "animals"))
    second.suggest_float("other", 0.0, 1.0)
    assert first.suggest_float("dropout", 0.0, 0.5) == second.suggest_float("dropout", 0.0, 0.5)
    assert first.suggest_categorical("optimizer", ["adamw", "sgd"]) == second.suggest_categorical("optimizer", ["adamw", "sgd"])


def test_neighbors_stay_nearer_to_the_recipe_than_draws_of_the_whole_space() -> None:
    def distance(kind: Kind) -> float:
        numbers = [number for number, each in enumerate(jobs.KINDS) if each is kind]
        rates = [Drawn(Job(data_set="digits", image_size=96, number=n), RECIPE).suggest_float("dropout", 0.0, 0.5) for n in numbers]
        assert all(0.0 <= rate <= 0.5 for rate in rates) and len(set(rates)) == 9
        return float(np.mean(np.abs(np.array(rates) - RECIPE["dropout"])))

    assert distance(Kind.NEAR) < distance(Kind.SPACE)


def test_fashion_mnist_is_drawn_with_as_many_images_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FASHION_MNIST", tmp_path)
    monkeypatch.setattr(jobs, "_PER_CLASS", {"train": 2, "val": 1, "test": 3})
    for part in ("train", "t10k"):
        labels = np.repeat(np.arange(10, dtype=np.uint8), 4)
        images = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
        header = struct.pack(">4i", 2051, 40, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">2i", 2049, 40) + labels.tobytes()))
    with np.load(jobs.fashion_mnist(tmp_path / "cache")) as arrays:
        assert [np.bincount(arrays[f"y_{split}"]).tolist() for split in ("train", "val", "test")] == [[2] * 10, [1] * 10, [3] * 10]
        assert (arrays["x_train"][:, 0, 0] // 4 == arrays["y_train"]).all()
        assert not set(arrays["x_train"][:, 0, 0]) & set(arrays["x_val"][:, 0, 0])


def test_without_fashion_mnist_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FASHION_MNIST", tmp_path / "missing")
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        jobs.fashion_mnist(tmp_path)


def test_a_recording_is_read_back_and_an_unfinished_one_is_not_read(tmp_path: Path) -> None:
    written = recording(3, logits(1, 2, 3, -4))
    trial_files.write(written, trial_files.path_of(tmp_path / "digits", 3))
    (tmp_path / "digits" / ".04-17.npz").write_bytes(b"half of a recording")
    (tmp_path / "empty").mkdir()
    [(name, [found])] = trial_files.read_all(tmp_path).items()
    assert (name, found.facts) == ("digits", written.facts)
    assert found.of("test").tolist() == [[3.0, 0.0], [0.0, -4.0]]
    assert found.of("test", epoch="best").tolist() == found.of("test").tolist()


def test_the_mirror_images_of_a_best_epoch_that_is_not_the_last_were_not_recorded() -> None:
    written = recording(3, logits(1, 2, 3, 4))
    found = replace(written, logits={**written.logits, "test_best_image": logits(5, 6, 7, 8)[2:]})
    assert found.of("test", epoch="best").tolist() == [[7.0, 0.0], [0.0, 8.0]]
    with pytest.raises(KeyError):
        found.of("test", epoch="best", view="mirrored")


def test_a_trial_that_diverged_is_not_whole() -> None:
    facts = recording(0, logits(1, 1, 1, 1)).facts
    assert facts.is_whole
    assert not replace(facts, fine_tune=[epoch(0.6), epoch(0.1, loss=float("nan"))]).is_whole


def test_trials_rank_by_accuracy_or_cross_entropy_or_by_cross_entropy_within_one_standard_error() -> None:
    # accuracies 0.75, 0.75, 0.5; the third has the lowest cross-entropy, and the standard error of 0.75 on 4 images is 0.22
    given = candidates([0.6, 0.6, 0.6, 0.1], [0.9, 0.9, 0.9, 0.1], [0.9, 0.9, 0.49, 0.49])
    assert ensembles.by_accuracy(given).tolist() == [1, 0, 2]
    assert ensembles.by_loss(given).tolist() == [2, 1, 0]
    assert ensembles.within_error(given).tolist() == [1, 0, 2]
    assert ensembles.within_error(candidates([0.6, 0.6, 0.6, 0.6], [0.9, 0.9, 0.9, 0.4])).tolist() == [0, 1]
    tied = candidates(*([0.6] * 8 + [0.4], [0.9] * 7 + [0.4] * 2))  # 0.89 and 0.78, standard error 0.105
    assert ensembles.within_error(tied).tolist() == [0, 1]
    tied = candidates([0.6] * 6 + [0.4] * 3, [0.9] * 5 + [0.45] * 4)  # 0.67 and 0.56, standard error 0.157
    assert ensembles.within_error(tied).tolist() == [1, 0]


def test_the_best_few_have_equal_weights() -> None:
    given = candidates([0.6, 0.2], [0.9, 0.9], [0.8, 0.9])
    assert ensembles.best(2)(given, RANDOM).tolist() == [0.0, 0.5, 0.5]
    assert ensembles.best(9)(given, RANDOM) == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_good_trials_are_at_most_some_standard_errors_below_the_best() -> None:
    # accuracies 0.75, 0.5, 0.25 on 4 images: the standard error of the best is 0.2165
    given = candidates([0.9, 0.9, 0.9, 0.1], [0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1])
    assert ensembles.good(1.0)(given, RANDOM).tolist() == [1.0, 0.0, 0.0]
    assert ensembles.good(2.0)(given, RANDOM).tolist() == [0.5, 0.5, 0.0]
    assert ensembles.every(given, RANDOM) == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_a_greedy_choice_takes_a_trial_several_times() -> None:
    # the first is best alone; the second repairs its mistake, and would dominate with half of the weight
    given = candidates([0.9, 0.9, 0.9, 0.02], [0.3, 0.3, 0.3, 0.9])
    [first, second] = ensembles.greedy(given, RANDOM)
    assert first > second > 0 and first + second == pytest.approx(1.0)
    # by hand: with a share w of the first, the loss is -(3 log(0.3 + 0.6 w) + log(0.9 - 0.88 w)) / 4, lowest at w = 0.642
    assert first == pytest.approx(0.642, abs=0.05)


def test_bags_start_with_their_best_and_leave_out_what_only_harms() -> None:
    given = candidates(*([[0.9, 0.8, 0.7, 0.9]] * 7 + [[0.01, 0.01, 0.01, 0.01]]))
    found = ensembles.bagged(given, np.random.default_rng(0))
    assert found.sum() == pytest.approx(1.0)
    assert found[7] == 0.0


def test_leaving_one_out_stops_when_the_average_no_longer_improves() -> None:
    given = candidates([0.9, 0.2], [0.2, 0.9], [0.1, 0.1])
    assert ensembles.pruned(given, RANDOM).tolist() == [0.5, 0.5, 0.0]
    assert ensembles.best_prefix(given, RANDOM).tolist() == [0.5, 0.5, 0.0]


def test_calibration_sharpens_a_hesitant_trial_and_dampens_a_rash_one() -> None:
    given = candidates([0.6] * 9 + [0.4], [0.99] * 6 + [0.01] * 4)
    hesitant, rash = ensembles.calibrated(given)
    assert hesitant > 1 > rash
    assert ensembles.sharpened(given.probabilities[:1], np.array([2.0]))[0, 0, 0] == pytest.approx(0.36 / (0.36 + 0.16))


def test_seconds_are_those_of_the_multiply_adds_and_not_of_the_machine() -> None:
    [found] = laboratory.build("digits", [recording(0, logits(1, 1, 1, 1))]).trials
    assert (found.probe, found.curve) == (0.5, (0.6, 0.7))
    assert found.epoch_seconds == pytest.approx(15.2)
    assert found.fine_tune_seconds == pytest.approx(3 + 2 * 15.2)
    assert found.features_seconds == pytest.approx(7.6)
    assert found.probe_seconds == pytest.approx(0.02 * 2 * 4002 / 2000)


def test_twelve_minutes_are_eight_times_the_recipe() -> None:
    found = laboratory.build("digits", [recording(0, logits(1, 1, 1, 1))])
    assert found.budget_seconds(12) == pytest.approx(8 * 30.4)
    assert found.budget_seconds(3) == pytest.approx(2 * 30.4)


def test_recordings_of_other_images_are_refused() -> None:
    other = replace(recording(1, logits(1, 1, 1, 1)), labels={split: np.array([1, 1], np.uint8) for split in ("validation", "test")})
    with pytest.raises(SystemExit, match="digits: recording 1 at 96 pixels has other images"):
        laboratory.build("digits", [recording(0, logits(1, 1, 1, 1)), other])


def test_a_world_splits_the_images_anew_and_keeps_the_recipe_and_its_seeds() -> None:
    built = laboratory.build("digits", [recording(number, logits(1, 1, 1, 1)) for number in range(8)])
    worlds = [laboratory.draw(built, np.random.default_rng(seed)) for seed in range(20)]
    assert all(sorted([*world.validation, *world.test]) == [0, 1, 2, 3] and len(world.validation) == 2 for world in worlds)
    assert {tuple(world.validation) for world in worlds} != {(0, 1)}
    assert all(sum(each.kind in ("recipe", "seed") for each in world.trials) == 3 for world in worlds)
    assert any(len(world.trials) < 8 for world in worlds)
    assert laboratory.recorded_split(built, np.random.default_rng(0)).test.tolist() == [2, 3]


def test_a_search_trains_until_the_budget_is_spent() -> None:
    trials = [trial() for _ in range(5)]
    # 10 s to start, 5 s of features, then 24 s a trial
    assert Search(Policy(), 63.0).run(iter(trials)) == trials[:2]
    assert Search(Policy(), 62.9).run(iter(trials)) == trials[:1]


def test_without_a_plan_the_last_trial_is_lost_and_the_time_spent() -> None:
    searched = Search(Policy(plans=False), 62.9)
    assert len(searched.run(iter([trial() for _ in range(5)]))) == 1
    assert searched.seconds == pytest.approx(63.0)


def test_the_features_of_each_size_are_paid_once() -> None:
    searched = Search(Policy(), 1000.0)
    searched.run(iter([trial(size=96), trial(size=160), trial(size=96)]))
    assert searched.seconds == pytest.approx(10 + 2 * 5 + 3 * 24)


def test_a_poor_probe_is_not_promoted_and_costs_its_probe_only() -> None:
    searched = Search(Policy(promote=0.5), 1000.0)
    kept = searched.run(iter([trial(0.5), trial(0.4), trial(0.6), trial(0.3)]))
    assert [each.probe for each in kept] == [0.5, 0.6]
    assert searched.seconds == pytest.approx(10 + 5 + 4 * 1 + 2 * 23)


def test_the_pruner_of_a_study_file_ends_a_trial() -> None:
    curves = [(0.6, 0.8, 0.9, 0.9), (0.7, 0.8, 0.9, 0.9), (0.5, 0.6, 0.7, 0.9)]
    trials = [trial(curve=curve, epoch_seconds=1.0) for curve in curves]
    searched = Search(Policy(pruner={"name": "top-k", "keep": 1}), 1000.0)
    # after one epoch, the third trial is below the first two
    assert searched.run(iter(trials)) == trials[:2]
    assert searched.seconds == pytest.approx(10 + 5 + 3 * 4 + 4 + 4 + 1)


def test_a_diverged_trial_is_paid_and_lost() -> None:
    searched = Search(Policy(), 1000.0)
    assert searched.run(iter([replace(trial(), is_whole=False)])) == []
    assert searched.seconds == pytest.approx(39.0)


def test_trials_come_after_the_recipe_from_the_prior_and_in_turns_of_the_sizes() -> None:
    built = laboratory.build(
        "digits", [recording(number, logits(1, 1, 1, 1), image_size=size) for size in (96, 160) for number in range(4)]
    )
    world = World(laboratory=built, trials=built.trials, validation=np.array([0, 1]), test=np.array([2, 3]))

    def kinds(policy: Policy) -> list[tuple[str, int]]:
        return [(each.kind, each.image_size) for each in search.order(world, policy, np.random.default_rng(0))]

    assert kinds(Policy(prior=Prior.SEEDS)) == [("recipe", 96), ("seed", 96)]
    assert kinds(Policy(prior=Prior.SPACE, sizes=(96, 160))) == [("recipe", 96), ("recipe", 160), ("space", 96), ("space", 160)]
    assert sorted(kinds(Policy(prior=Prior.MIXED))[1:]) == [("near", 96), ("space", 96)]


def test_the_test_accuracy_of_an_ensemble_is_that_of_averaged_probabilities() -> None:
    # the first errs on the last image by a little, the second on the third by a little: together they are right
    built = laboratory.build("digits", [recording(0, logits(3, 3, 3, -1)), recording(1, logits(3, 3, -1, 3))])
    world = World(laboratory=built, trials=built.trials, validation=np.array([0, 1]), test=np.array([2, 3]))
    judge = Judge(world, built.trials, seed=0)
    assert judge.judge(Result(rule="best 1")).test == 0.5
    assert judge.judge(Result(rule="all")).test == 1.0
    assert judge.judge(Result(rule="all")).validation == 1.0


@pytest.mark.parametrize(("margin", "is_on"), [(3.0, True), (-3.0, False)])
def test_mirror_images_are_averaged_only_where_they_help_on_validation_images(margin: float, is_on: bool) -> None:
    built = laboratory.build("digits", [recording(0, logits(1, 1, -1, -1), mirrored=logits(margin, margin, 2, 2))])
    world = World(laboratory=built, trials=built.trials, validation=np.array([0, 1]), test=np.array([2, 3]))
    judge = Judge(world, built.trials, seed=0)
    assert judge.judge(Result(rule="best 1", mirror=Mirror.OFF)).test == 0.0
    assert judge.judge(Result(rule="best 1", mirror=Mirror.ON)).test == 1.0
    assert judge.judge(Result(rule="best 1", mirror=Mirror.CHOSEN)).test == float(is_on)


def test_differences_are_in_points_of_the_same_worlds() -> None:
    tests = {"a": {"digits": np.array([0.80, 0.88])}, "b": {"digits": np.array([0.82, 0.89])}, "c": {"digits": np.array([0.80, np.nan])}}
    found = tables.differences(Comparison(tests=tests, reference="a"), best={"digits": np.array([0.9, 0.9])})
    assert found[0].startswith("|  | digits | mean | regret |")
    assert found[1:] == [
        "| a (reference) | 0.8400 | 0.8400 | +6.00 (+2.2 to +9.8) |",
        "| b | +1.50 (+1.0 to +2.0) | +1.50 (+1.0 to +2.0) | +4.50 (+1.2 to +7.8) |",
        "| c | - | - | - |",
    ]


def test_the_policy_of_a_data_set_is_chosen_by_the_others() -> None:
    def figures(digits: float, animals: float, fashion: float) -> dict[str, NDArray[np.float64]]:
        return {name: np.array([value]) for name, value in (("digits", digits), ("animals", animals), ("fashion", fashion))}

    tests = {"a": figures(0.5, 0.5, 0.5), "b": figures(0.9, 0.4, 0.5), "c": figures(0.4, 0.6, 0.6)}
    rows = tables.left_out(Comparison(tests=tests, reference="a"))[1:]
    assert rows[0] == "| digits | c | -10.00 (-10.0 to -10.0) | b | +40.00 (+40.0 to +40.0) |"
    assert rows[1].startswith("| animals | b | -10.00")


def repeated(given: Recording, times: int) -> Recording:
    """Return a recording with each image several times."""
    labels = {split: np.tile(each, times) for split, each in given.labels.items()}
    tiled = {name: np.tile(each, (times, 1)) for name, each in given.logits.items()}
    return replace(given, facts=replace(given.facts, num_validation=2 * times, num_test=2 * times), labels=labels, logits=tiled)


def test_the_tables_are_printed_from_a_few_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        small = repeated(recording(number, logits(3, 3, 3 - number, number)), 8)
        trial_files.write(small, trial_files.path_of(tmp_path / "digits", number))
        large = repeated(recording(number, logits(4, 4, 4, 4), image_size=160), 8)
        trial_files.write(large, trial_files.path_of(tmp_path / "digits-160", number))
        for length in ("half", "continued"):
            continued = replace(small, facts=replace(small.facts, length=length))
            trial_files.write(continued, trial_files.path_of(tmp_path / f"digits-{length}", number))
    monkeypatch.setattr("sys.argv", ["run", "--recordings", str(tmp_path), "--worlds", "2", "--orders", "1"])
    run.main()
    printed = capsys.readouterr().out
    assert "| digits | 96 | 4 | near | 0.500 | 1.0000 | 0.5000 | 0.5000 | 0.5000 |" in printed
    assert "| digits | 6 at 96, 6 at 160, 6 continued |" in printed
    for title in (
        "Members among 3 trials of all kinds",
        "Views and epochs",
        "Searches at 12 minutes",
        "Sizes at 12 minutes",
        "Lengths",
        "Intervals",
    ):
        assert title in printed
    assert "nan" not in printed


def test_a_source_without_trials_has_no_result() -> None:
    built = laboratory.build("digits", [recording(0, logits(1, 1, 1, 1))])
    arena = contest.Arena(laboratories=[built], num_worlds=2, num_orders=1)
    entries = {
        name: contest.Entry(source=source, result=Result(rule="all"))
        for name, source in (("one", contest.Sample(count=1, size=96, least=1)), ("two", contest.Sample(count=2, size=96, least=2)))
    }
    outcome = arena.play(entries)
    assert outcome.tests["one"]["digits"].tolist() == [1.0, 1.0]
    assert np.isnan(outcome.tests["two"]["digits"]).all()
    assert outcome.num_trials["two"]["digits"].tolist() == [0.0, 0.0]


def test_a_folder_without_recordings_is_refused_with_the_command_that_records(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no recorded recipe; record trials first: python -m benchmarks\.replay\.record --to"):
        run.read(tmp_path / "missing")
