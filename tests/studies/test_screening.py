"""Screening: the first probe of every model, and which models are left out."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.studies import by_hand
from tuner.protocol import messages
from tuner.results import export
from tuner.spec import plan, space
from tuner.spec.hyperparameters import Hyperparameters
from tuner.spec.model import TrialModel
from tuner.spec.objective import ImageMetric
from tuner.storage import attributes, tables
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import data_check, enqueue, screening, trials
from tuner.studies import study as studies
from tuner.studies.planning import Plan
from tuner.studies.screening import ProbedModel, ProbeMeasuring
from tuner.studies.study import Study
from tuner.studies.trials import Claim, WorkerId
from tuner.tasks.images.spec import image_task
from tuner.terminal import printing
from tuner.terminal import status as status_screens
from tuner.views import status

Begin = Callable[..., Study]
#: billions of multiply-adds at 224 pixels: 0.35, 0.41 and 0.30
CHEAP, DEAR, CHEAPEST = "squeezenet1_1", "efficientnet_lite0", "mobilenet_v2"


def model(backbone: str, size: int) -> TrialModel:
    return TrialModel.model_construct(backbone=backbone, image_size=size)


def losers(num_images: int, *probes: tuple[str, int, float]) -> set[tuple[str, int]]:
    probed = [ProbedModel(model=model(name, size), trial=trial, value=value) for trial, (name, size, value) in enumerate(probes)]
    return {(each.backbone, each.image_size) for each in screening.judge(probed, ProbeMeasuring(num_images=num_images))}


@pytest.mark.parametrize(
    ("num_images", "probes", "expected"),
    [
        # one standard error of the difference of two accuracies around 0.7 on 1,000 images: 0.0205; two are 0.041
        (1000, [(CHEAP, 96, 0.70), (DEAR, 96, 0.65)], {(DEAR, 96)}),  # worse, at a higher cost
        (1000, [(CHEAP, 96, 0.70), (DEAR, 96, 0.665)], set()),
        # Lite0 costs 1.17 times as much as SqueezeNet: 0.23 doublings, for which it must be 0.0046 better on top
        (1000, [(CHEAP, 96, 0.655), (DEAR, 96, 0.70)], set()),
        (1000, [(CHEAP, 96, 0.65), (DEAR, 96, 0.70)], {(CHEAP, 96)}),
        # on more images the standard error is smaller
        (100_000, [(CHEAP, 96, 0.70), (DEAR, 96, 0.69)], {(DEAR, 96)}),
        # on 100 images the same gap means nothing
        (100, [(CHEAP, 96, 0.70), (DEAR, 96, 0.60)], set()),
    ],
)
def test_a_model_is_left_out_if_its_probe_is_clearly_worse_at_its_cost(
    num_images: int, probes: list[tuple[str, int, float]], expected: set[tuple[str, int]]
) -> None:
    assert losers(num_images, *probes) == expected


def test_sizes_are_never_compared() -> None:
    assert losers(10_000_000, (DEAR, 96, 0.733), (DEAR, 128, 0.757), (DEAR, 160, 0.751)) == set()
    assert losers(10_000_000, (DEAR, 96, 0.9), (CHEAP, 160, 0.5), (DEAR, 128, 0.1)) == set()


def test_a_backbone_that_loses_at_one_size_may_stay_at_another() -> None:
    assert losers(1000, (DEAR, 160, 0.8), (CHEAP, 160, 0.6), (DEAR, 96, 0.5), (CHEAP, 96, 0.6)) == {(CHEAP, 160), (DEAR, 96)}


def test_the_reason_names_the_best_of_several_winners() -> None:
    probes = [(CHEAP, 96, 0.6), (DEAR, 96, 0.8), (CHEAPEST, 96, 0.9)]
    probed = [ProbedModel(model=model(name, size), trial=trial, value=value) for trial, (name, size, value) in enumerate(probes)]
    # against mobilenet_v2, which costs less: 2 x sqrt((0.6 x 0.4 + 0.9 x 0.1) / 1000)
    assert [each.reason for each in screening.judge(probed, ProbeMeasuring(num_images=1000))] == [
        "its probe of 0.6000 (trial 0) is 0.3000 below the 0.9000 of mobilenet_v2 (trial 2), more than 0.0363",
        "its probe of 0.8000 (trial 1) is 0.1000 below the 0.9000 of mobilenet_v2 (trial 2), more than 0.0316",
    ]


@pytest.mark.parametrize(
    ("metric", "cheap", "dear", "constant", "lost"),
    [
        # on 1,000 images, two standard errors of the difference: 2 x sqrt((0.5 ** 2 + 0.4 ** 2) / 1000) = 0.0405
        ("mae", 0.5, 0.4, 2.0, {(CHEAP, 96)}),  # 0.23 doublings of the cost count as 0.23 x 0.02 x 2.0 = 0.0092
        ("mae", 0.4, 0.5, 2.0, {(DEAR, 96)}),
        ("mae", 0.5, 0.46, 2.0, set()),
        ("mae", 0.5, 0.4, 20.0, set()),  # the points of the cost count as 0.092
        ("mae", 0.5, 0.4, None, set()),
        # 2 x sqrt(1.25 x (0.44 ** 2 + 0.4 ** 2) / 1000) = 0.0420
        ("rmse", 0.4, 0.44, 2.0, set()),
        ("rmse", 0.4, 0.46, 2.0, {(DEAR, 96)}),
        # 2 x sqrt(5 x (0.5 ** 2 + 0.41 ** 2) / 1000) = 0.0914; higher is better, and the points count as those of an accuracy
        ("r2", 0.5, 0.59, None, set()),
        ("r2", 0.5, 0.61, None, {(CHEAP, 96)}),
        ("r2", -3.0, 0.6, None, {(CHEAP, 96)}),
    ],
)
def test_an_error_of_numbers_has_a_standard_error_of_its_own(
    metric: ImageMetric, cheap: float, dear: float, constant: float | None, lost: set[tuple[str, int]]
) -> None:
    probed = [ProbedModel(model=model(name, 96), trial=trial, value=value) for trial, name, value in ((0, CHEAP, cheap), (1, DEAR, dear))]
    found = screening.judge(probed, ProbeMeasuring(metric=metric, num_images=1000, constant=constant))
    assert {(each.backbone, each.image_size) for each in found} == lost


def test_the_reason_of_an_error_says_that_it_is_higher() -> None:
    probed = [ProbedModel(model=model(name, 96), trial=trial, value=value) for trial, name, value in ((0, CHEAP, 12.5), (1, DEAR, 8.0))]
    (found,) = screening.judge(probed, ProbeMeasuring(metric="mae", num_images=1000, constant=25.0))
    assert found.reason.startswith("its probe of 12.5 (trial 0) is 4.5 above the 8 of efficientnet_lite0 (trial 1), more than ")


def test_the_best_model_of_equals_and_a_single_model_stay() -> None:
    assert losers(1000, (CHEAP, 96, 0.7), (DEAR, 96, 0.7), (CHEAPEST, 96, 0.7)) == set()
    assert losers(1000, (CHEAP, 96, 0.1)) == set()
    assert losers(0, (CHEAP, 96, 0.0), (DEAR, 96, 1.0)) == {(CHEAP, 96)}


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, True),
        ({"budget": {"trials": 8}}, True),
        ({"budget": {"trials": 7}}, False),
        ({"budget": {"trials": None, "timeout": "10m"}}, True),
        ({"sampler": "random"}, True),
        ({"model": {"backbone": CHEAP, "image_size": [96, 160]}}, False),
        ({"model": {"backbone": CHEAP, "image_size": 96}}, False),
        ({"sampler": "grid", "search": export.fixed(Hyperparameters()).model_dump(mode="json")}, False),
    ],
)
def test_a_study_screens_if_it_has_several_backbones_and_enough_trials(sections: dict[str, Any], expected: bool) -> None:
    assert space.is_screened(by_hand.spec(**{"model": MODEL} | sections)) is expected


MODEL = {"backbone": [CHEAP, DEAR], "image_size": [96, 160]}


@pytest.fixture
def study(begin: Begin) -> Study:
    """Four models, whose images a trainer has read: 200 for validation."""
    found = begin(model=MODEL, search={"optimizer": "adamw"})
    data_check.admit(found, by_hand.PREPARED)
    return found


def chosen(claimed: Claim) -> tuple[str | None, int | None]:
    return claimed.of_images.backbone, claimed.of_images.image_size


def probe(study: Study, claimed: Claim, value: float) -> bool:
    """Whether the trial is promoted after its probe; it ends either way."""
    probed = messages.Probed(trial=claimed.number, value=value)
    is_promoted = trials.promotion(study, claimed, probed).is_promoted
    by_hand.finish(study, claimed, value)
    return is_promoted


def origins(study: Study) -> list[str]:
    return [trial.user_attrs[attributes.ORIGIN] for trial in study.optuna.get_trials()]


def test_the_first_trials_probe_every_model_with_the_rule_the_largest_images_first(study: Study) -> None:
    claimed = [by_hand.must_claim(study) for _ in range(5)]
    assert [chosen(each) for each in claimed[:4]] == [(CHEAP, 160), (DEAR, 160), (CHEAP, 96), (DEAR, 96)]
    rule = claimed[0].hyperparameters.model_dump(exclude={"backbone", "image_size"})
    assert all(each.hyperparameters.model_dump(exclude={"backbone", "image_size"}) == rule for each in claimed[1:4])
    assert origins(study) == ["rule", "screening", "screening", "screening", "prior"]


def test_a_trial_of_the_screening_keeps_its_model_in_its_next_attempt(study: Study) -> None:
    by_hand.must_claim(study)
    held = by_hand.must_claim(study)
    trials.release(study, held)
    again = by_hand.must_claim(study, WorkerId.here("other"))
    assert (again.number, chosen(again), again.hyperparameters) == (1, (DEAR, 160), held.hyperparameters)


def test_a_model_that_loses_is_not_fine_tuned_and_not_chosen_again(study: Study) -> None:
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    assert probe(study, claimed[0], 0.6)
    assert probe(study, claimed[1], 0.9)
    assert not probe(study, claimed[2], 0.5)
    assert not probe(study, claimed[3], 0.88)
    following = [by_hand.must_claim(study) for _ in range(16)]
    assert {chosen(each) for each in following} <= {(DEAR, 160), (DEAR, 96)}
    assert {size for _, size in map(chosen, following)} == {96, 160}
    lost = study.storage.read(lambda connection: screening.left_out(connection, study))
    assert [(each.backbone, each.image_size) for each in lost] == [(CHEAP, 160), (CHEAP, 96)]
    assert lost[0].reason == ("its probe of 0.6000 (trial 0) is 0.3000 below the 0.9000 of efficientnet_lite0 (trial 1), more than 0.0858")


def test_a_study_with_a_plan_screens_what_the_plan_names_and_takes_the_winner(begin: Begin) -> None:
    study = begin(model=MODEL | {"backbone": [CHEAP, DEAR, CHEAPEST]}, budget={"timeout": 3600})
    data_check.admit(study, by_hand.PREPARED)
    proposal = Plan(
        backbone=CHEAP, image_size=96, epochs=3, usual_epochs=3, timeout=3600, probe_seconds=1, fine_tune_seconds=60, num_fine_tuned=3,
        screened=((DEAR, 96), (CHEAPEST, 96)),
    )  # fmt: skip

    def claim() -> Claim:
        found = trials.claim(study, WorkerId.here("hand"), num_train=100, num_classes=2, epochs=3, proposal=proposal)
        assert found is not None
        return found

    for expected, value in ((CHEAP, 0.6), (DEAR, 0.8), (CHEAPEST, 0.9)):
        claimed = claim()
        assert chosen(claimed) == (expected, 96)
        probe(study, claimed, value)
    for _ in range(4):
        claimed = claim()
        assert chosen(claimed) == (CHEAPEST, 96)
        by_hand.finish(study, claimed, 0.9)
    assert origins(study)[:4] == ["rule", "screening", "screening", "prior"]


def test_a_plan_goes_on_with_the_winner_also_at_smaller_sizes_and_in_the_pace(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    search = {"unfreeze": 1.0, "probe_solver": "sgd"}
    study = begin(model=MODEL, budget={"timeout": 2000}, search=search, training={"probe_epochs": 2, "promote": 1.0})
    data_check.admit(study, by_hand.PREPARED)
    proposal = Plan(
        backbone=DEAR, image_size=160, epochs=4, usual_epochs=4, timeout=2000, probe_seconds=1, fine_tune_seconds=410, num_fine_tuned=3,
        screened=((CHEAP, 160),),
    )  # fmt: skip

    def pass_time(now: float) -> None:
        monkeypatch.setitem(tables._CLOCKS, "sqlite", f"({1_000_000 + now})")

    def claim(now: float) -> Claim | None:
        pass_time(now)
        return trials.claim(study, WorkerId.here("hand"), num_train=100, num_classes=2, epochs=4, proposal=proposal)

    first = claim(0)
    assert first is not None and chosen(first) == (DEAR, 160)
    pass_time(10)
    assert probe(study, first, 0.5)
    screened = claim(10)
    assert screened is not None and chosen(screened) == (CHEAP, 160)
    assert trials.promotion(study, screened, messages.Probed(trial=1, value=0.9)).is_promoted
    trials.report(study, screened, by_hand.epochs(screened, [0.9] * 6))
    pass_time(400)
    ended = by_hand.finished(screened, 0.9).model_copy(update={"probe_seconds": 1.0, "fine_tune_seconds": 350.0})
    trials.finish(study, screened, ended, [], device="cpu")
    # of 350 s at 160 pixels and 126 s at 96 pixels, with a tenth more
    for now, expected, until in ((400, (CHEAP, 160), 1700), (1700, (CHEAP, 96), 1850)):
        claimed = claim(now)
        assert claimed is not None and chosen(claimed) == expected
        pass_time(until)
        by_hand.finish(study, claimed, 0.9, ending=messages.Ending.STOPPED)
    last = claim(1850)
    assert last is not None
    pass_time(1870)
    by_hand.finish(study, last, 0.9, ending=messages.Ending.STOPPED)
    assert claim(1870) is None


def test_a_loser_of_the_screening_ends_after_its_probe_with_the_reason(begin: Begin) -> None:
    study = begin(model=MODEL, training=by_hand.SHORT | {"promote": 1.0})
    data_check.admit(study, by_hand.PREPARED)
    claimed = [by_hand.must_claim(study) for _ in range(3)]
    assert probe(study, claimed[0], 0.9)
    found = trials.promotion(study, claimed[1], messages.Probed(trial=1, value=0.5))
    assert not found.is_promoted
    assert found.reason.startswith(
        "its backbone and image size are left out: its probe of 0.5000 (trial 1) is 0.4000 below the 0.9000 of squeezenet1_1"
    )
    assert probe(study, claimed[2], 0.89)


def test_a_poor_sampled_trial_ends_for_the_usual_reason(study: Study) -> None:
    claimed = [by_hand.must_claim(study) for _ in range(5)]
    assert probe(study, claimed[0], 0.9)
    sampled = messages.Probed(trial=4, value=0.1)
    found = trials.promotion(study, claimed[4], sampled)
    assert (found.is_promoted, found.reason) == (False, "its probe is not among the best 25%")


def test_a_model_whose_trial_failed_is_not_judged(study: Study) -> None:
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    trials.fail(study, claimed[2], messages.Failed(trial=2, error="MemoryError", message="out of memory"))
    for each, value in zip((claimed[0], claimed[1], claimed[3]), (0.9, 0.5, 0.5), strict=True):
        probe(study, each, value)
    by_hand.must_claim(study)
    lost = study.storage.read(lambda connection: screening.left_out(connection, study))
    assert {(each.backbone, each.image_size) for each in lost} == {(DEAR, 160)}  # at 96 pixels, only one model has a probe
    assert origins(study).count("screening") == 3  # it is not tried again


def test_a_user_may_still_enqueue_a_model_that_is_left_out(study: Study) -> None:
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    for each, value in zip(claimed, (0.9, 0.5, 0.88, 0.5), strict=True):
        probe(study, each, value)
    by_hand.must_claim(study)
    enqueue.enqueue(study, {"backbone": DEAR, "image_size": 96}, by="ada", origin="--set")
    assert chosen(by_hand.must_claim(study)) == (DEAR, 96)
    enqueue.enqueue(study, {"dropout": 0.25}, by="ada", origin="--set")
    found = by_hand.must_claim(study)
    assert (found.of_images.dropout, found.of_images.backbone) == (0.25, CHEAP)


def test_enqueued_trials_do_not_take_the_place_of_the_screening(study: Study) -> None:
    enqueue.enqueue(study, {"dropout": 0.25}, by="ada", origin="--set")
    claimed = [by_hand.must_claim(study) for _ in range(5)]
    assert origins(study) == ["rule", "enqueued", "screening", "screening", "screening"]
    assert [chosen(each) for each in claimed[2:]] == [(DEAR, 160), (CHEAP, 96), (DEAR, 96)]


def test_a_study_of_probes_is_screened_by_its_values(begin: Begin) -> None:
    study = begin(model=MODEL, training={"probe_epochs": 2, "epochs": 0})
    data_check.admit(study, by_hand.PREPARED)
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    for each, value in zip(claimed, (0.9, 0.5, 0.88, 0.5), strict=True):
        by_hand.finish(study, each, value)
    assert {chosen(by_hand.must_claim(study))[0] for _ in range(8)} == {CHEAP}


def test_workers_that_claim_at_once_screen_each_model_once(study: Study, storage: Storage) -> None:
    claimed: list[Claim] = []

    def work(name: str) -> None:
        own = studies.load(study.name, storage)
        for number in range(3):
            claimed.append(by_hand.must_claim(own, WorkerId.here(f"{name}-{number}")))

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    screened = [chosen(each) for each in sorted(claimed, key=lambda each: each.number)[:4]]
    assert screened == [(CHEAP, 160), (DEAR, 160), (CHEAP, 96), (DEAR, 96)]
    assert origins(study).count("screening") == 3


def test_every_database_screens_the_same(storage_url: str) -> None:
    opened = storages.open(storage_url)
    try:
        study = studies.join(by_hand.spec(model=MODEL, sampler="random"), opened)
        data_check.admit(study, by_hand.PREPARED)
        claimed = [by_hand.must_claim(study) for _ in range(4)]
        assert [chosen(each) for each in claimed] == [(CHEAP, 160), (DEAR, 160), (CHEAP, 96), (DEAR, 96)]
        for each, value in zip(claimed, (0.9, 0.5, 0.5, 0.88), strict=True):
            probe(study, each, value)
        assert {chosen(by_hand.must_claim(study)) for _ in range(10)} == {(CHEAP, 160), (DEAR, 96)}
    finally:
        opened.close()


def test_what_is_left_out_is_shown(study: Study) -> None:
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    for each, value in zip(claimed, (0.9, 0.5, 0.88, 0.87), strict=True):
        probe(study, each, value)
    by_hand.must_claim(study)
    snapshot = status.snapshot(study)
    (words,) = snapshot.left_out
    console = Console(width=400, theme=printing.THEME)
    with console.capture() as capture:
        console.print(status_screens.study(study.spec, snapshot))
    assert f"left out: {words}" in capture.get()
    assert status_screens.as_json(study.spec, snapshot)["left_out"] == (words,)
    assert words.startswith("efficientnet_lite0 at 160 pixels: its probe of 0.5000 (trial 1) is 0.4000 below the 0.9000 of squeezenet1_1")
    stored = study.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study.id, attributes.LEFT_OUT))
    assert ("left out", words) in plan.of_study(study.spec, image_task, None, None, stored[attributes.LEFT_OUT])


@pytest.mark.parametrize("stored", [None, "text", [1], [{"backbone": "x"}], {"a": 1}])
def test_what_another_program_wrote_there_does_no_harm(study: Study, stored: Any) -> None:
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {attributes.LEFT_OUT: stored}))
    assert screening.read_left_out(stored) == []
    assert by_hand.must_claim(study).number == 0
    status.snapshot(study)


def test_the_plan_tells_of_the_screening() -> None:
    def told(**sections: Any) -> str:
        return dict(plan.about_images(by_hand.spec(**{"model": MODEL} | sections), 4)).get("screening", "")

    assert (
        told()
        == "after trial 0, 3 trials with the rule and the other models; a backbone whose probe is clearly worse is left out at that size"
    )
    assert told(budget={"trials": 6}) == "none: 4 models need at least 8 trials"
    assert told(model={"image_size": [96, 160]}) == ""


def test_a_study_of_one_model_reads_nothing_for_the_screening(begin: Begin, tmp_path: Path) -> None:
    found = begin()
    data_check.admit(found, by_hand.PREPARED)
    claimed = [by_hand.must_claim(found) for _ in range(3)]
    assert origins(found) == ["rule", "prior", "prior"]
    assert {chosen(each) for each in claimed} == {(None, None)}


def test_the_error_of_a_mean_over_classes_is_that_of_as_many_images_as_weigh_the_same(begin: Begin) -> None:
    # 200 images are enough to tell 0.9 from 0.7; those of a rare class weigh as little as 20
    for metric, expected in (("accuracy", {(DEAR, 160)}), ("balanced_accuracy", set())):
        study = begin(name=f"by-{metric}", model=MODEL, objective=metric)
        data_check.admit(study, by_hand.PREPARED.model_copy(update={"balanced_validation": 20.0}))
        claimed = [by_hand.must_claim(study) for _ in range(2)]
        for each, value in zip(claimed, (0.9, 0.7), strict=True):
            probe(study, each, value)
        by_hand.must_claim(study)
        lost = study.storage.read(lambda connection, study=study: screening.left_out(connection, study))  # type: ignore[misc]
        assert {(each.backbone, each.image_size) for each in lost} == expected


def test_a_study_of_numbers_leaves_a_worse_backbone_out(begin: Begin, tmp_path: Path) -> None:
    np.savez(tmp_path / "n.npz", x=np.zeros((24, 8, 8, 3), np.uint8), y=np.arange(24.0))
    data = {"source": "npz", "path": str(tmp_path / "n.npz"), "target": "number"}
    study = begin(model=MODEL, objective="mae", data=data)
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"baseline_validation": 6.0}))
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    for each, value in zip(claimed, (2.5, 0.1, 2.5, 0.1), strict=True):
        probe(study, each, value)
    by_hand.must_claim(study)
    lost = study.storage.read(lambda connection: screening.left_out(connection, study))
    assert lost
    assert {"above the 0.1000 of" in each.reason for each in lost} == {True}


def test_a_study_of_log_loss_leaves_no_model_out(begin: Begin) -> None:
    study = begin(model=MODEL, objective="log_loss")
    data_check.admit(study, by_hand.PREPARED)
    claimed = [by_hand.must_claim(study) for _ in range(4)]
    for each, value in zip(claimed, (2.5, 0.1, 2.5, 0.1), strict=True):
        probe(study, each, value)
    by_hand.must_claim(study)
    assert study.storage.read(lambda connection: screening.left_out(connection, study)) == []
    assert (
        "screening",
        "after trial 0, the rule with the other models; none is left out, because the error of a log loss is not known",
    ) in (plan.about_images(study.images, 4))
