"""Pictures of the best few trials in the artifact store, in the form that Optuna reads."""

from pathlib import Path

import optuna
import pytest

from tests import databases
from tests.studies import by_hand
from tuner.protocol.messages import PictureKind
from tuner.storage import engine as storages
from tuner.studies import pictures, trials
from tuner.studies import study as studies
from tuner.studies.study import Study
from tuner.views import trial as views_trial
from tuner.workers.worker.events import EventEmitter
from tuner.workers.worker.worker import TrialPictures


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return studies.join(by_hand.spec(), storages.open(databases.sqlite(tmp_path)))


def end(study: Study, kept_pictures: TrialPictures, folder: Path, value: float) -> None:
    claimed = by_hand.must_claim(study)
    drawn = folder / "mistakes.jpg"
    drawn.write_bytes(f"picture of {claimed.number}".encode())
    finished = by_hand.finished(claimed, value).model_copy(update={"pictures": {PictureKind.MISTAKES: str(drawn)}})
    kept = kept_pictures.store(finished)
    assert not drawn.exists()
    trials.finish(study, claimed, kept, [], device="cpu")
    kept_pictures.discard_overtaken(kept)


def test_pictures_are_kept_for_the_best_few_trials_and_optuna_finds_them(study: Study, tmp_path: Path) -> None:
    kept_pictures = TrialPictures(study, tmp_path / "artifacts", EventEmitter(study.name, "w", lambda event: None))
    for number in range(pictures.MAX_TRIALS + 2):
        end(study, kept_pictures, tmp_path, 0.1 * (number + 1))
    where = pictures.store(tmp_path / "artifacts")
    assert len(list((tmp_path / "artifacts" / ".pictures").iterdir())) == pictures.MAX_TRIALS
    assert views_trial.load(study, 0).pictures == {}
    (kept,) = views_trial.load(study, 2).pictures.values()
    assert pictures.read(where, kept) == b"picture of 2"
    (meta,) = optuna.artifacts.get_all_artifact_meta(study.optuna.get_trials()[2], storage=study.storage.rdb)
    assert (meta.artifact_id, meta.mimetype) == (kept, "image/jpeg")


def test_pictures_of_a_trial_without_weights_are_deleted(study: Study, tmp_path: Path) -> None:
    kept_pictures = TrialPictures(study, tmp_path / "artifacts", EventEmitter(study.name, "w", lambda event: None))
    (tmp_path / "confusion.png").write_bytes(b"")
    given = {"weights": None, "pictures": {PictureKind.CONFUSION: str(tmp_path / "confusion.png")}}
    kept = kept_pictures.store(by_hand.finished(by_hand.must_claim(study), 0.5).model_copy(update=given))
    assert kept.pictures == {}
    assert not (tmp_path / "confusion.png").exists()


def test_reading_pictures_from_a_missing_folder_returns_none(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file, where a folder is wanted")
    where = pictures.store(tmp_path / "artifacts")
    assert pictures.read(where, "0d3b6f0e-0000-4000-8000-000000000000") is None
