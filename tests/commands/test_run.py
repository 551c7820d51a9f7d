"""The sources of `tuner run --from`: studies, bundles, files, and wrong names."""

from pathlib import Path

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.commands import run
from tuner.commands.run import WarmStartSources
from tuner.errors import RequestError
from tuner.results import export
from tuner.spec import file as study_file
from tuner.spec.hyperparameters import Hyperparameters
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies

NEW = by_hand.spec(name="new", sampler="random")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Give a storage with a study of two completed trials."""
    opened = storages.open(databases.sqlite(tmp_path))
    study = studies.join(by_hand.spec(name="old", sampler="random"), opened)
    for value in (0.6, 0.7):
        by_hand.finish(study, by_hand.must_claim(study), value)
    return opened


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Give a folder with a study file as an export writes it."""
    spec = by_hand.spec(name="shipped", search=export.fixed(Hyperparameters(dropout=0.1)).model_dump(mode="json"))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "config.yaml").write_text(study_file.dump(spec), encoding="utf-8")
    return folder


def test_studies_and_bundles_are_read_in_the_given_order(storage: Storage, bundle: Path) -> None:
    found = WarmStartSources(names=[str(bundle), "old"]).read(NEW, storage.url)
    assert [one.origin for one in found] == [str(bundle / "config.yaml"), "trial 1 of old (0.7000)", "trial 0 of old (0.6000)"]


def test_the_studies_may_be_in_another_storage(storage: Storage, tmp_path: Path) -> None:
    found = WarmStartSources(names=["old"], storage=storage.url).read(NEW, f"sqlite:///{tmp_path / 'other.db'}")
    assert len(found) == 2
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odl", r"--from odl is neither a study in .* nor a file or bundle\. Known: both, new, old\. Did you mean old\?"),
        ("new", "is the study itself"),
        ("both", "is both a study and a file; write --from ./both for the file"),
        ("search.yaml", "expected fixed values, as in an export"),
    ],
)
def test_a_wrong_source_is_refused_with_advice(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for known in ("new", "both"):
        studies.join(by_hand.spec(name=known, sampler="random"), storage)
    for file in ("both", "search.yaml"):
        Path(file).write_text(study_file.dump(by_hand.spec(name="searching")), encoding="utf-8")
    with pytest.raises(RequestError, match=message):
        WarmStartSources(names=[name]).read(NEW, storage.url)


def test_from_storage_without_from_is_refused() -> None:
    with pytest.raises(RequestError, match="name the studies with --from"):
        WarmStartSources(storage="sqlite:///old.db").read(NEW, "sqlite:///tuner.db")


def test_the_outcome_of_each_configuration_is_printed(storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
    new = studies.join(by_hand.spec(name="new", sampler="random", search={"optimizer": ["adamw", "sgd", "lion"]}), storage)
    found = WarmStartSources(names=["old"]).read(new.spec, storage.url)
    run.enqueue_earlier(new, found)
    assert "new: trial 1 of old (0.7000) is tried as trial 1" in capsys.readouterr().err
    run.enqueue_earlier(new, found)
    assert "new: trial 1 of old (0.7000) was tried already: trial 1" in capsys.readouterr().err
    narrow = studies.join(by_hand.spec(name="narrow", sampler="random", search={"batch_size": 8}), storage)
    run.enqueue_earlier(narrow, found)
    assert "narrow: trial 1 of old (0.7000) is not tried: it does not fit: batch_size is 32" in capsys.readouterr().err
