"""Studies in lists: an odd study hides no other."""

from pathlib import Path

from tests import databases
from tests.studies import odd_ones
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.views import figures
from tuner.views.studies import StudyReader


def test_odd_studies_are_listed_with_the_others(tmp_path: Path) -> None:
    storage = storages.open(databases.sqlite(tmp_path))
    odd_ones.add(storage)
    total, views = StudyReader(storage=storage).page(offset=0, limit=100)
    assert total == len(views)
    readable = {view.listed.name for view in views if view.listed.spec is not None}
    assert readable == {"good", "attributes-1", "attributes-2", "attributes-3"}
    best = {view.listed.name: view.history.best for view in views}
    assert best["good"] is not None
    assert best["good"].value == 0.5
    assert {study.name for study in figures.of_all(storage)} == set(studies.names(storage)) == set(best) - {"plain-optuna"}
    storage.close()
