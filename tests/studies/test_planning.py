"""The plan of a study with a timeout, and which trials can still end in time."""

import heapq
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy

from tests.studies import by_hand
from tuner.protocol import messages
from tuner.protocol.messages import Ending
from tuner.results import best as bests
from tuner.results import export
from tuner.sampling.history import TimedTrial
from tuner.spec import budget
from tuner.spec.hyperparameters import ProbeSolver
from tuner.storage import tables
from tuner.storage.attributes import PACE, PLAN, PREPARED
from tuner.studies import continuation, data_check, planning, trials
from tuner.studies.continuation import Chances, Promotion
from tuner.studies.planning import Duration, Plan
from tuner.studies.study import Study

Begin = Callable[..., Study]
#: seconds of one image of EfficientNet-Lite0 at 160 pixels, with which an epoch of 2,000 training and 1,000 validation images takes
#: 0.002 * (4.2 * 2000 + 1000) = 18.8 s
IMAGE_SECONDS = 0.002
SIZES = {"image_size": [96, 128, 160]}


def choose(timeout: float, image_seconds: float = IMAGE_SECONDS, **sections: Any) -> Plan | None:
    spec = by_hand.spec(**({"model": SIZES, "budget": {"timeout": timeout}, "training": {}} | sections))
    return planning.choose(spec, num_train=2000, num_validation=1000, usual_epochs=12, image_seconds=image_seconds)


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        # at 160 pixels 12 epochs take 3 + 12 * 18.8 = 228.6 s, so that three with a tenth more take 754 s; features and head take 10 + 4 s
        (855, (160, 12)),
        # 11 epochs: 209.8 s, 692 s
        (852, (160, 11)),
        (786, (160, 11)),
        # 8 epochs: 153.4 s, 506 s
        (580, (160, 8)),
        # at 128 pixels an epoch takes 12.03 s: 12 epochs take 147.4 s, 486 s; features and head 6.4 + 4 s
        (553, (128, 12)),
        # at 96 pixels an epoch takes 6.77 s: 9 epochs take 63.9 s, 211 s; features and head 3.6 + 4 s
        (244, (96, 9)),
        (30, (96, 8)),
    ],
)
def test_a_plan_takes_the_largest_images_of_which_three_trials_fit(timeout: float, expected: tuple[int, int]) -> None:
    plan = choose(timeout)
    assert plan is not None
    assert (plan.image_size, plan.epochs) == expected


def test_without_three_two_trials_of_smaller_images_are_better_than_one() -> None:
    # at 96 pixels, two of 12 epochs take 185 s; three of 8 epochs 189 s
    plan = choose(216)
    assert plan is not None
    assert (plan.image_size, plan.epochs, plan.num_fine_tuned) == (96, 12, 2)


def test_a_number_of_epochs_in_the_file_is_kept() -> None:
    plan = choose(600, training={"epochs": 12})
    assert plan is not None
    assert (plan.image_size, plan.epochs) == (128, 12)


def test_a_study_of_few_trials_needs_no_more_to_fit() -> None:
    plan = choose(300, budget={"trials": 1, "timeout": 300})
    assert plan is not None
    assert (plan.image_size, plan.epochs, plan.num_fine_tuned) == (160, 12, 1)


def test_another_backbone_is_taken_only_if_the_first_is_too_slow() -> None:
    backbones = {"backbone": ["EfficientNetB4", "efficientnet_lite0"], "image_size": [96, 160]}
    fast, slow = (choose(640, seconds, model=backbones) for seconds in (0.002, 0.05))
    assert fast is not None and slow is not None
    assert (fast.backbone, slow.backbone) == ("EfficientNetB4", "efficientnet_lite0")


@pytest.mark.parametrize(
    ("timeout", "screened"),
    [
        # 640 s: three of Lite0 fit at 128 pixels. Lite2 is 0.67 / 0.41 times as slow and three of it do not; probes of MobileNetV2 take 9 s
        (640, (("mobilenet_v2", 128),)),
        # its probes at 96 pixels take 7 s, which is more than 5 % of the time
        (120, ()),
        # an hour: probes of both at 160 pixels take 20 s and 11 s
        (3600, (("efficientnet_lite2", 160), ("mobilenet_v2", 160))),
    ],
)
def test_other_backbones_are_screened_at_the_planned_size_if_that_takes_little_of_the_time(
    timeout: float, screened: tuple[tuple[str, int], ...]
) -> None:
    backbones = ["efficientnet_lite0", "efficientnet_lite2", "mobilenet_v2"]
    plan = choose(timeout, model={"backbone": backbones, **SIZES}, training={"epochs": 12})
    assert plan is not None and plan.screened == screened
    alone = choose(timeout)
    assert alone is not None and alone.screened == ()


@pytest.mark.parametrize("sections", [{"budget": {"trials": 10}}, {"training": {"epochs": 0}}])
def test_there_is_nothing_to_plan_without_a_timeout_or_fine_tuning(sections: dict[str, Any]) -> None:
    spec = by_hand.spec(**({"budget": {"timeout": 600}, "training": {}} | sections))
    assert planning.choose(spec, num_train=2000, num_validation=1000, usual_epochs=spec.training.num_epochs(2000)) is None


def test_a_plan_is_told_in_words() -> None:
    plan = choose(840)
    assert plan is not None
    expected = "efficientnet_lite0 at 160 pixels, 11 epochs instead of 12, about 3 min 30 s a fine-tuned trial, 3 of them fit into 14 min"
    assert plan.words == expected


def timed(worker: str = "w", **known: Any) -> TimedTrial:
    usual: dict[str, Any] = {"probe_seconds": 2.0, "fine_tune_seconds": 40.0, "num_epochs": 6}
    return TimedTrial(worker=worker, **usual | known)


def fine_tuning(found: Duration | None) -> float:
    assert found is not None
    return found.fine_tune_seconds


def test_the_length_of_a_trial_is_what_its_worker_took_for_its_model() -> None:
    spec = by_hand.spec(model={"image_size": [96, 192]})
    known = [
        timed("fast", image_size=96),
        timed("slow", image_size=96, fine_tune_seconds=80.0),
        timed("fast", image_size=192, fine_tune_seconds=170.0),
        timed("fast", image_size=96, fine_tune_seconds=0.0, num_epochs=2),  # only a probe
    ]

    def seconds(size: int, worker: str | None, times: list[TimedTrial] = known, unfreeze: float = 1.0) -> float:
        model = spec.model.fixed(None, size).of_trial()
        return fine_tuning(planning.duration(spec, times, None, model=model, unfreeze=unfreeze, epochs=4, worker=worker))

    assert seconds(96, "fast") == 40.0
    assert seconds(96, "slow") == 80.0
    assert seconds(192, "fast") == 170.0
    # a worker that has not trained yet is as slow as the slowest
    assert seconds(96, "new") == 80.0
    # of a model that no trial had: four times the pixels
    assert seconds(192, "fast", known[:1]) == pytest.approx(160.0)
    # a forward pass, and twice that backward through a half
    assert seconds(96, "fast", unfreeze=0.5) == pytest.approx(40.0 * 2 / 3)


def test_an_exact_probe_is_one_epoch_however_many_a_probe_in_steps_would_have() -> None:
    spec = by_hand.spec(training={"probe_epochs": 20})
    exact = timed(num_epochs=1 + 4, is_probed_exactly=True)
    found = planning.duration(spec, [exact], None, model=spec.model.of_trial(), unfreeze=1.0, epochs=4, worker="w")
    assert fine_tuning(found) == 40.0
    pace = planning.pace(spec, [exact, timed(num_epochs=1, fine_tune_seconds=0.0, is_probed_exactly=True)], None, epochs=4)
    assert pace is not None
    assert (pace.num_fine_tuned, pace.fine_tune_seconds) == (1, 40.0)


def test_a_trial_of_several_trainings_takes_as_many_times_as_long() -> None:
    spec = by_hand.spec(training={**by_hand.SHORT, "executions": 3})
    # 2 epochs of the probe, and 3 times 4 of fine-tuning
    known = [timed(num_epochs=14, fine_tune_seconds=120.0)]
    found = planning.duration(spec, known, None, model=spec.model.of_trial(), unfreeze=1.0, epochs=4, worker="w")
    assert fine_tuning(found) == 120.0
    shorter = planning.duration(spec, known, None, model=spec.model.of_trial(), unfreeze=1.0, epochs=2, worker="w")
    assert fine_tuning(shorter) == 60.0
    pace = planning.pace(spec, [*known, timed(num_epochs=8, fine_tune_seconds=60.0)], None, epochs=4)
    assert pace is not None
    assert pace.fine_tune_seconds == 120.0


def test_times_are_read_with_the_way_in_which_a_trial_was_probed(begin: Begin) -> None:
    study = begin(budget={"trials": 2}, training={"promote": 1.0}, search={"head_units": {"layers": [0, 1]}})
    claimed = [by_hand.must_claim(study) for _ in range(2)]
    for each in claimed:
        by_hand.finish(study, each, 0.5)
    study.storage.read(lambda connection: study.memory.measured.read(connection, study.id))
    known = {each.trial_id: each.of_images.probe_solver is not ProbeSolver.SGD for each in claimed}
    assert {trial_id: trial.is_probed_exactly for trial_id, trial in study.memory.measured.times.items()} == known
    assert known[claimed[0].trial_id]


def test_the_plan_says_how_long_the_first_trial_takes() -> None:
    spec, plan = by_hand.spec(), choose(855)
    assert plan is not None
    model = spec.model.of_trial()
    found = planning.duration(spec, [], plan, model=model, unfreeze=1.0, epochs=6, worker="w")
    assert fine_tuning(found) == pytest.approx(plan.fine_tune_seconds / 2)
    assert planning.duration(spec, [], None, model=model, unfreeze=1.0, epochs=6, worker="w") is None


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        # 301 s are left: two fine-tunings of 100 s with a margin fit; 81 s beside them give 20 probes of 3 s and 1 s between
        ({}, (2, 20)),
        # probes take a quarter of 400 s at most, so 40 s more
        ({"probed_seconds": 60.0}, (2, 10)),
        ({"probed_seconds": 100.0}, (2, 0)),
        ({"left_seconds": 115.0}, (1, 1)),
        ({"left_seconds": 105.0}, (0, 22)),
        # two workers fit twice as many
        ({"num_workers": 2}, (4, 40)),
    ],
)
def test_the_places_are_the_fine_tunings_that_still_fit(known: dict[str, Any], expected: tuple[int, int]) -> None:
    spec = by_hand.spec(budget={"trials": None, "timeout": 400}, training={})
    given = {"number": 5, "num_promoted": 1, "left_seconds": 301.0, "probed_seconds": 10.0} | known
    found = continuation.chances_of(spec, Duration(probe_seconds=3.0, fine_tune_seconds=100.0, epochs=4), **given)
    assert (found.num_places, found.num_to_come) == expected


def test_the_number_of_trials_limits_probes_and_fine_tunings() -> None:
    spec = by_hand.spec(budget={"trials": 12, "timeout": 40_000}, training={})
    expected = Duration(probe_seconds=3.0, fine_tune_seconds=100.0, epochs=4)
    found = continuation.chances_of(spec, expected, number=9, num_promoted=2, left_seconds=30_000.0, probed_seconds=10.0)
    # a quarter of 11 trials, rounded up, and trial 0 are four
    assert (found.num_places, found.num_to_come) == (2, 2)


@pytest.mark.parametrize(
    ("value", "chances", "is_promoted"),
    [
        # two fifths of three probes to come are better
        (0.55, Chances(num_places=1, num_to_come=3), False),
        # one fifth
        (0.65, Chances(num_places=1, num_to_come=3), True),
        # more places than probes
        (0.1, Chances(num_places=2, num_to_come=1), True),
        # three and two fifths of four
        (0.45, Chances(num_places=2, num_to_come=4), False),
        (0.55, Chances(num_places=2, num_to_come=4), True),
        # an equal probe is as good as a better one, but none is better than the best, or one that equals it
        (0.5, Chances(num_places=1, num_to_come=3), False),
        (0.6, Chances(num_places=1, num_to_come=30), True),
        # no place is left: only a probe that beats all others
        (0.6, Chances(num_places=0, num_to_come=3), False),
        (0.65, Chances(num_places=0, num_to_come=3), True),
    ],
)
def test_the_places_are_for_the_best_of_the_probes_to_come(value: float, chances: Chances, is_promoted: bool) -> None:
    assert continuation.earns_place(value, earlier=[0.4, 0.5, 0.6], chances=chances) is is_promoted


def pass_time(study: Study, seconds: float) -> None:
    """Move the beginning and the end of all work back."""
    columns = tables.LEASES.c
    earlier = sqlalchemy.update(tables.LEASES).where(columns.study_id == study.id)
    changes = {"started_at": columns.started_at - seconds, "seen_at": columns.seen_at}
    study.storage.write(lambda connection: connection.execute(earlier.values(changes)))


def attribute(study: Study, name: str) -> Any:
    return study.storage.read(lambda connection: tables.get(connection, tables.STUDY_USER, study.id, name)).get(name)


def train(study: Study, claimed: trials.Claim, value: float = 0.5) -> None:
    """End a trial whose probe of 2 epochs took 200 s, and whose fine-tuning of 4 took 800 s."""
    trials.report(study, claimed, by_hand.epochs(claimed, [value] * 6))
    found = by_hand.finished(claimed, value).model_copy(update={"probe_seconds": 200.0, "fine_tune_seconds": 800.0})
    trials.finish(study, claimed, found, [], device="cpu")


def answer(study: Study, claimed: trials.Claim, value: float) -> Promotion:
    return trials.promotion(study, claimed, messages.Probed(trial=claimed.number, value=value))


def test_a_trial_whose_fine_tuning_cannot_end_in_time_is_not_promoted(begin: Begin) -> None:
    study = begin(budget={"trials": None, "timeout": 10_000}, search={"unfreeze": 1.0, "probe_solver": "sgd"})
    data_check.admit(study, by_hand.PREPARED)
    first = by_hand.must_claim(study)
    assert answer(study, first, 0.5).is_promoted
    train(study, first)
    second, third = by_hand.must_claim(study), by_hand.must_claim(study, trials.WorkerId.here("other"))
    pass_time(study, 8_900)
    assert answer(study, second, 0.9).is_promoted  # 880 s of the 1,100 s that are left
    pass_time(study, 600)
    found = answer(study, third, 0.99)
    assert re.fullmatch(r"the [678] min .* left are too few for its fine-tuning, which takes about 14 min", found.reason)
    assert answer(study, third, 0.99) == found  # the first answer is kept


@pytest.mark.parametrize(
    ("left", "epochs"),
    [
        # 8 epochs take 100 s and a tenth more: 13.75 s each
        (110.0, 8),
        (1000.0, 8),
        (109.0, 7),
        (55.0, 4),
        # three are less than half
        (54.0, None),
    ],
)
def test_a_trial_may_be_shortened_to_half_of_its_epochs(left: float, epochs: int | None) -> None:
    expected = Duration(probe_seconds=3.0, fine_tune_seconds=100.0, epochs=8)
    assert planning.epochs_that_fit(by_hand.spec(training={}), expected, left) == epochs
    # a number of epochs in the file is kept
    assert planning.epochs_that_fit(by_hand.spec(training={"epochs": 8}), expected, left) == (8 if left >= 110 else None)


def test_a_trial_that_is_shortened_for_the_rest_of_the_time_stays_so(begin: Begin) -> None:
    study = begin(budget={"trials": None, "timeout": 10_000}, search={"unfreeze": 1.0, "probe_solver": "sgd"}, training={"probe_epochs": 2})
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"epochs": 8}))
    train(study, by_hand.must_claim(study))  # 200 s an epoch
    second = by_hand.must_claim(study)
    pass_time(study, 8_850)
    found = answer(study, second, 0.9)
    assert (found.is_promoted, found.epochs) == (True, 5)  # 220 s each of 1,150 s
    assert found.reason == "fine-tuned for 5 of 8 epochs, for which the 19 min left are enough"
    assert answer(study, second, 0.9) == found
    trials.release(study, second)
    again = by_hand.must_claim(study, trials.WorkerId.here("other"))
    assert (again.number, again.epochs) == (1, 5)
    by_hand.finish(study, again, 0.9)
    # the exported trial is trained as it was
    assert [export.resolved_images(bests.of(study, number)).training.epochs for number in (0, 1)] == [8, 5]


def test_a_study_ends_when_no_further_trial_could_be_fine_tuned(begin: Begin) -> None:
    study = begin(budget={"trials": None, "timeout": 10_000}, search={"unfreeze": 1.0, "probe_solver": "sgd"})
    data_check.admit(study, by_hand.PREPARED)
    train(study, by_hand.must_claim(study))
    pass_time(study, 9_100)
    assert by_hand.claim(study) is None
    # 200 s and 800 s with a tenth more
    found = str(trials.stop_reason(study))
    assert re.fullmatch(r"the 1[345] min left of 2 h 46 min are too few for another trial, which takes at least about 18 min", found)
    assert attribute(study, PACE) == {"num_fine_tuned": 1, "probe_seconds": 200.0, "fine_tune_seconds": 800.0, "needed_seconds": 1080.0}


def test_the_first_trial_is_always_started_and_promoted(begin: Begin) -> None:
    study = begin(budget={"trials": None, "timeout": 10_000})
    data_check.admit(study, by_hand.PREPARED)
    first = by_hand.must_claim(study)
    pass_time(study, 9_999)
    assert answer(study, first, 0.5).is_promoted


@pytest.mark.parametrize(("num_trials", "num_promoted"), [(1, 1), (2, 2), (3, 3), (4, 3), (6, 3), (9, 3), (13, 4)])
def test_without_a_timeout_at_least_three_trials_are_fine_tuned(begin: Begin, num_trials: int, num_promoted: int) -> None:
    study = begin(budget={"trials": num_trials})
    found = []
    for number in range(num_trials):
        claimed = by_hand.must_claim(study)
        found.append(answer(study, claimed, 0.9 - number / 100).is_promoted)  # each is worse than the one before
        by_hand.finish(study, claimed, 0.9 - number / 100, ending=Ending.COMPLETED if found[-1] else Ending.STOPPED)
    assert found.count(True) >= min(num_trials, 3)
    assert budget.num_fine_tuned(study.images.training, study.images.budget, num_trials) == num_promoted


def planned(study: Study, plan: Plan, worker: trials.WorkerId | None = None) -> trials.Claim:
    found = trials.claim(study, worker or trials.WorkerId.here("hand"), num_train=2000, num_classes=2, epochs=12, proposal=plan)
    assert found is not None
    return found


def test_the_first_claim_stores_the_plan_and_all_trials_follow_it(begin: Begin) -> None:
    study = begin(model=SIZES, budget={"timeout": 414}, training={"probe_epochs": 2})
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"epochs": 12}))
    first, other = choose(244), choose(855)
    assert first is not None and other is not None
    claimed = [planned(study, first), planned(study, other, trials.WorkerId.here("b")), planned(study, other, trials.WorkerId.here("c"))]
    assert [claim.epochs for claim in claimed] == [9, 9, 9]
    assert [claim.of_images.image_size for claim in claimed] == [96, 96, 96]
    assert attribute(study, PLAN) == first.model_dump(mode="json")
    assert attribute(study, PREPARED)["epochs"] == 9
    # a later worker, which finds 12 epochs, is admitted
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"epochs": 12}))


def test_a_study_that_has_trials_gets_no_plan(begin: Begin) -> None:
    study = begin(model=SIZES, budget={"timeout": 414})
    by_hand.must_claim(study)
    plan = choose(244)
    assert plan is not None
    assert planned(study, plan, trials.WorkerId.here("b")).epochs == 12
    assert attribute(study, PLAN) is None


def test_an_enqueued_model_takes_precedence_over_the_plan(begin: Begin) -> None:
    study = begin(model=SIZES, budget={"timeout": 414})
    plan = choose(244)
    assert plan is not None
    planned(study, plan)
    study.optuna.enqueue_trial({"image_size": 128})
    assert planned(study, plan, trials.WorkerId.here("b")).of_images.image_size == 128


def test_what_was_planned_and_what_became_of_it_is_told() -> None:
    plan = choose(600)
    assert plan is not None
    pace = {"num_fine_tuned": 3, "probe_seconds": 2.5, "fine_tune_seconds": 160.0, "needed_seconds": 178.5}
    stored = {PLAN: plan.model_dump(mode="json"), PACE: pace}
    assert planning.told(stored, timeout=600, busy_seconds=570.0) == [
        ("time plan", plan.words),
        ("so far", "3 fine-tuned trials, 2 min 40 s each; a probe took 2.5 s; 30 s left of 10 min"),
    ]
    assert planning.told(stored, timeout=600, busy_seconds=605.0)[1][1].endswith("; 5.0 s over of 10 min")
    # another program wrote them
    assert planning.told({PLAN: "no plan", PACE: 5}, timeout=600, busy_seconds=1.0) == []


@dataclass(kw_only=True)
class Simulation:
    """Workers of a study whose probes and fine-tunings pass by the clock of the database alone."""

    study: Study
    monkeypatch: pytest.MonkeyPatch
    #: seconds of a probe, and of a fine-tuning of the whole backbone by each worker
    probe_seconds: float = 3.0
    fine_tune_seconds: tuple[float, ...] = (60.0,)
    values: Iterator[float] = field(default_factory=lambda: itertools.cycle([0.5, 0.7, 0.4, 0.6, 0.55, 0.65, 0.45]))
    #: seconds of probes, and trials that were fine-tuned, by worker
    probed: float = 0.0
    tuned: list[int] = field(default_factory=list)

    def set_clock(self, now: float) -> None:
        self.monkeypatch.setitem(tables._CLOCKS, "sqlite", f"({1_000_000 + now})")

    def run(self) -> float:
        """Let all workers work until none gets a trial; return when the last one ended."""
        workers = [self.work(number) for number in range(len(self.fine_tune_seconds))]
        waiting, now = [(0.0, number) for number in range(len(workers))], 0.0
        while waiting:
            now, number = heapq.heappop(waiting)
            self.set_clock(now)
            seconds = next(workers[number], None)
            if seconds is not None:
                heapq.heappush(waiting, (now + seconds, number))
        return now

    def work(self, number: int) -> Iterator[float]:
        """Be a worker: yield the seconds until its next step."""
        identity = trials.WorkerId.here(f"w{number}")
        plan = choose(self.study.spec.budget.timeout or 0.0) if self.study.spec.budget.timeout else None
        while (claimed := trials.claim(self.study, identity, num_train=2000, num_classes=2, epochs=12, proposal=plan)) is not None:
            yield self.probe_seconds
            self.probed += self.probe_seconds
            value, tuned = next(self.values), 0.0
            curve = by_hand.epochs(claimed, [value] * 2)
            found = answer(self.study, claimed, value)
            if found.is_promoted:
                pixels, epochs = ((claimed.of_images.image_size or 160) / 160) ** 2, found.epochs or claimed.epochs
                tuned = self.fine_tune_seconds[number] * pixels * (1.0 + 0.04 * (-1) ** claimed.number)  # no two take the same time
                tuned *= epochs / claimed.epochs
                yield tuned
                curve += by_hand.epochs(claimed, [value] * epochs, first=3)
                self.tuned.append(number)
            ending = Ending.COMPLETED if tuned else Ending.STOPPED
            finished = by_hand.finished(claimed, value, ending=ending)
            finished = finished.model_copy(update={"probe_seconds": self.probe_seconds, "fine_tune_seconds": tuned})
            trials.finish(self.study, claimed, finished, curve, device="cpu")


@pytest.mark.parametrize(
    ("timeout", "fine_tune_seconds", "least", "least_part"),
    [
        (240.0, (60.0,), 3, 0.8),
        # a fourth does not fit
        (720.0, (180.0,), 3, 0.8),
        (720.0, (60.0,), 9, 0.9),
        (300.0, (60.0, 60.0, 60.0), 9, 0.8),
        # a worker that is three times as slow trains as many as it can end
        (300.0, (40.0, 120.0), 7, 0.8),
        # one fits besides trial 0
        (150.0, (60.0,), 2, 0.8),
    ],
)
def test_a_study_uses_its_time_and_ends_in_time(
    begin: Begin,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float,
    fine_tune_seconds: tuple[float, ...],
    least: int,
    least_part: float,
) -> None:
    study = begin(
        budget={"trials": None, "timeout": timeout},
        search={"unfreeze": 1.0, "probe_solver": "sgd"},
        sampler="random",
        training={"probe_epochs": 2},
    )
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"epochs": 12}))
    simulation = Simulation(study=study, monkeypatch=monkeypatch, fine_tune_seconds=fine_tune_seconds)
    ended = simulation.run()
    assert least_part * timeout <= ended <= 1.03 * timeout
    assert len(simulation.tuned) >= least
    assert simulation.probed <= 0.3 * timeout * len(fine_tune_seconds)


@pytest.mark.parametrize(
    ("left_seconds", "wanted", "expected"),
    [
        # at 160 pixels a trial takes 2 + 1.1 * 100 = 112 s, at 128 pixels 2 + 70.4 = 72.4 s, at 96 pixels 2 + 39.6 = 41.6 s
        (224.1, 2, 160),
        (223.0, 2, 128),
        (144.1, 2, 96),
        (112.1, 1, 160),
        # two do not fit: the largest that fits once
        (80.0, 2, 128),
        # only a trial that fine-tunes a part of the network still fits
        (41.0, 2, 96),
    ],
)
def test_a_plan_that_took_too_long_goes_on_with_smaller_images(left_seconds: float, wanted: int, expected: int) -> None:
    plan = choose(640)
    assert plan is not None and plan.image_size == 160
    spec = by_hand.spec(model=SIZES)
    known = [timed(image_size=160, fine_tune_seconds=100.0, num_epochs=2 + plan.epochs)]
    found = planning.fitting_model(spec, known, plan, left_seconds=left_seconds, wanted=wanted)
    assert found.image_size == expected


def test_three_trials_fit_even_if_the_first_takes_longer_than_planned(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    budget_of = {"trials": None, "timeout": 640.0}
    study = begin(
        model=SIZES, budget=budget_of, search={"unfreeze": 1.0, "probe_solver": "sgd"}, sampler="random", training={"probe_epochs": 2}
    )
    data_check.admit(study, by_hand.PREPARED.model_copy(update={"epochs": 12}))
    # a trial at 160 pixels takes 228 s instead of 153 s: after the first, two fit at 128 pixels (146 s) only; then a shortened one at 160
    simulation = Simulation(study=study, monkeypatch=monkeypatch, fine_tune_seconds=(228.0,))
    ended = simulation.run()
    sizes = [trial.params["image_size"] for trial in study.optuna.get_trials() if trial.state.name == "COMPLETE"]
    epochs = [trial.user_attrs.get("fine_tune_epochs") for trial in study.optuna.get_trials() if trial.state.name == "COMPLETE"]
    assert epochs == [None, None, 7]  # of 32.6 s each, with a tenth more, in the 251 s that are left after its probe
    assert sizes == [160, 128, 160]
    assert 0.9 * 640 <= ended <= 1.03 * 640


def test_trials_of_a_study_without_the_planned_model_choose_freely(begin: Begin) -> None:
    plan = choose(640)
    assert plan is not None
    study = begin(model={"image_size": [96, 128]}, budget={"timeout": 414}, sampler="random")
    study.storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PLAN: plan.model_dump(mode="json")}))
    assert planned(study, plan).of_images.image_size == 128  # the rule
    sizes = {planned(study, plan, trials.WorkerId.here(str(number))).of_images.image_size for number in range(8)}
    assert sizes == {96, 128}
