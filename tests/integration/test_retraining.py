"""A retraining by several workers at once, on each kind of database."""

from concurrent.futures import ThreadPoolExecutor

from tests.studies import by_hand
from tuner.results.retrain import trainings
from tuner.storage import engine as storages
from tuner.studies import data_check, retraining, trials
from tuner.studies import study as studies


def test_workers_that_start_at_once_share_the_trainings_and_run_each_once(storage_url: str) -> None:
    searched = studies.join(by_hand.spec(sampler="random", budget={"trials": 4}), storages.open(storage_url))
    data_check.admit(searched, by_hand.PREPARED)
    for value in (0.7, 0.9, 0.8, 0.6):
        by_hand.finish(searched, by_hand.must_claim(searched), value)
    configs, seeds = retraining.configs(searched, 2), retraining.seeds(searched, 3)
    again = retraining.begin(searched, configs, seeds, top=2)

    def work(name: str) -> list[int]:
        study = studies.load(again.name, storages.open(storage_url))
        worker, done = trials.WorkerId.here(name), []
        while (claim := by_hand.claim(study, worker)) is not None:
            by_hand.finish(study, claim, 0.5 + 0.1 * claim.of_images.dropout)
            done.append(claim.number)
        study.storage.close()
        return done

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(work, ["w1", "w2", "w3"]))
    assert sorted(number for each in done for number in each) == list(range(9))
    found = trainings.read(again)
    assert sorted(each.trial for each in found) == [0, 1, 2]
    assert all([run.seed for run in each.runs] == list(seeds) and each.is_complete for each in found)
    searched.storage.close()
