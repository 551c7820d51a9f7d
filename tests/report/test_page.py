"""Reports: their texts, and that they load and run nothing."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.report.conftest import HOSTILE
from tests.results.retrain import test_verdict
from tests.studies import by_hand
from tuner.protocol import messages
from tuner.report import content, page
from tuner.results.versions import versions
from tuner.results.versions.versions import NewReading, NewVersion, WeightsSource
from tuner.storage import tables
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.study import Study

#: attributes that make a browser load or run something
FETCHING = {"src", "srcset", "action", "formaction", "data", "poster", "background", "ping", "xlink:href"}


class Elements(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def assert_nothing_runs_or_is_fetched(text: str) -> None:
    for tag, attributes in Elements(text).elements:
        assert tag not in ("script", "img", "iframe", "object", "embed", "link", "base", "form", "image", "use"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name in FETCHING], (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#"), attributes
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert styles
    assert not re.search(r"@import|url\(", styles)


def section(text: str, name: str) -> str:
    """Return the text of one section of a page."""
    found = re.search(rf'<section class="card" aria-labelledby="h-{name}">(.*?)</section>', text, re.DOTALL)
    assert found is not None, f"no section {name}"
    return " ".join(" ".join(Elements(found[1]).texts).split())


@pytest.fixture(scope="module")
def html(worked: Study) -> str:
    return page.html(content.read(worked))


@pytest.fixture(scope="module")
def markdown(worked: Study) -> str:
    return page.markdown(content.read(worked))


def test_a_report_loads_and_runs_nothing(html: str) -> None:
    assert_nothing_runs_or_is_fetched(html)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_hostile_names_are_shown_as_text(html: str) -> None:
    shown = " ".join("".join(Elements(html).texts).split())
    assert " ".join(HOSTILE.split())[:100] in shown
    assert "owned'</script>" not in html


def test_hostile_names_cannot_break_out_of_markdown_cells_and_code_blocks(markdown: str) -> None:
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "\n## y" not in outside
    assert not re.search(r"(?<!\\)<(?!!-- tuner report)", outside)
    rows = [line for line in outside.splitlines() if "owned" in line and line.startswith("|")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_the_best_trial_is_named_with_how_far_to_trust_its_accuracy(html: str, worked: Study) -> None:
    text = section(html, "best")
    assert "is the highest validation accuracy of 8 completed trials" in text
    assert "so the number is too high: expect a lower accuracy on new images" in text
    assert "The trial was not measured on the 200 test images" in text
    assert "The rule that needs no search (trial 0) reached 0.5000" in text


@pytest.mark.parametrize("name", ["best", "history", "space", "importance", "curves", "trials", "work", "failures", "again"])
def test_each_section_is_in_both_formats(html: str, markdown: str, name: str) -> None:
    heading = re.search(rf'<h2 id="h-{name}">(.*?)</h2>', html)
    assert heading is not None
    assert section(html, name)
    if name not in ("history", "curves"):
        assert f"## {heading[1]}" in markdown


def test_every_searched_hyperparameter_is_listed(html: str) -> None:
    text = section(html, "space")
    for name in ("optimizer", "learning_rate.adamw", "dropout", "augmentation.mixup"):
        assert name in text


def test_worker_hours_are_the_sum_of_all_attempts(worked: Study) -> None:
    read = content.read(worked)
    total = sum(attempt.ended - attempt.began for attempt in read.attempts)
    assert len(read.attempts) == 25
    assert f"{total / 3600:.2f} worker hours" in section(page.html(read), "work")
    assert "energy not measured" in section(page.html(read), "work")


def test_importances_are_shown_from_twenty_trials(html: str) -> None:
    assert "the best 5 of 23 trials" in section(html, "importance")
    assert "PED-ANOVA" in section(html, "importance")


@pytest.mark.parametrize("write", [page.html, page.markdown])
def test_a_study_without_trials_has_a_report(fresh: Study, write: Callable[[content.ReportContent], str]) -> None:
    text = write(content.read(fresh))
    assert "No trial has completed yet, so there is no best trial." in text
    assert "Importances need at least 20 trials with a value. This study has 0." in text


def test_a_study_of_one_trial_has_a_report(storage: Storage) -> None:
    study = studies.join(by_hand.spec(name="single"), storage)
    prepared = by_hand.PREPARED.model_dump(mode="json")
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: prepared}))
    by_hand.finish(study, by_hand.must_claim(study), 0.7)
    text = page.html(content.read(study))
    assert_nothing_runs_or_is_fetched(text)
    assert "No trial was better than trial 0" in section(text, "best")


@pytest.mark.parametrize("write", [page.html, page.markdown])
def test_the_best_trial_is_compared_with_always_the_commonest_class(
    storage: Storage, write: Callable[[content.ReportContent], str]
) -> None:
    study = studies.join(by_hand.spec(name=f"rare-{write.__name__}"), storage)
    known = {"commonest": "ok", "commonest_validation": 0.99, "commonest_test": 0.98}
    prepared = by_hand.PREPARED.model_copy(update=known).model_dump(mode="json")
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: prepared}))
    by_hand.finish(study, by_hand.must_claim(study), 0.99)
    text = write(content.read(study))
    assert "For comparison, always the commonest class, ok: accuracy 0.9900 on validation, 0.9800 on test." in text


def test_a_large_study_draws_the_best_trials_and_some_others(worked: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_DRAWN", 10)
    monkeypatch.setattr(content, "_BEST_DRAWN", 4)
    read = content.read(worked)
    ranked = sorted(read.valued, key=lambda trial: -trial.values[0])
    assert len(read.drawn) == 10
    assert {trial.number for trial in ranked[:4]} <= {trial.number for trial in read.drawn}
    assert [trial.number for trial in read.drawn] == sorted({trial.number for trial in read.drawn})


def test_the_test_accuracy_is_compared_with_the_validation_accuracy(worked: Study) -> None:
    best = content.read(worked).best_trial
    assert best is not None
    score = messages.Evaluated(trial=best.row.number, accuracy=0.75, loss=0.5, num_images=200, confusion=())
    trials.keep_test(worked, score)
    text = section(page.html(content.read(worked)), "best")
    assert "On 200 test images, which the search did not use, the accuracy is 0.7500 (95 % interval 0.6857 to 0.8049, Wilson)." in text
    assert best.row.value is not None
    assert f"The validation accuracy is {best.row.value - 0.75:.4f} higher." in text


def test_versions_are_listed_with_the_verdict(worked: Study, storage: Storage) -> None:
    made, _ = test_verdict.judged()
    verdict = made.model_copy(update={"notes": (HOSTILE,)})
    reading = NewReading(splits="5" * 64, by="ada", purpose="retrain", accuracy=verdict.test_accuracy, num_images=verdict.num_test)
    common: dict[str, Any] = {
        "name": worked.name,
        "study": worked.name,
        "trial": 7,
        "config": {},
        "fingerprint": "f" * 64,
        "splits": "5" * 64,
    }
    common |= {"artifact": "/w.h5", "sha256": "0" * 64, "created_by": "ada"}
    plain: dict[str, Any] = {"validation_accuracy": 0.9, "test_accuracy": None}
    versions.add(storage, NewVersion(**common, origin=WeightsSource.TRIAL, metrics=plain))
    versions.add(storage, NewVersion(**common, origin=WeightsSource.RETRAINING, metrics=verdict.model_dump(mode="json")), reading=reading)
    text = page.html(content.read(worked))
    assert_nothing_runs_or_is_fetched(text)
    said = section(text, "versions")
    assert "On 1,000 test images, it reaches 0.9200 (95 % interval 0.9015 to 0.9353, Wilson)" in said
    assert "The best value of the search, 0.9700 of trial 7, was too high by 0.0500" in said
    assert all(comparison.words in said for comparison in verdict.comparisons)
    assert "1 trial 7 0.9000 – – 0 –" in said
    assert "2 birds-retrain-1 0.9400 0.9200 0.9015 to 0.9353 1 –" in said
    markdown = page.markdown(content.read(worked))
    assert "## Versions" in markdown
    assert "| 2 | birds-retrain-1 | 0.9400 | 0.9200 |" in markdown
