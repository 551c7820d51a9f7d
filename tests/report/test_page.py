"""What a report says, and that nothing in it runs or is fetched."""

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

#: attributes by which a page fetches or runs something
FETCHING = {"src", "srcset", "action", "formaction", "data", "poster", "background", "ping", "xlink:href"}


class Elements(HTMLParser):
    """What a page is made of."""

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
    """The text of one section of a page."""
    found = re.search(rf'<section class="card" aria-labelledby="h-{name}">(.*?)</section>', text, re.DOTALL)
    assert found is not None, f"no section {name}"
    return " ".join(" ".join(Elements(found[1]).texts).split())


@pytest.fixture(scope="module")
def html(worked: Study) -> str:
    return page.html(content.read(worked))


@pytest.fixture(scope="module")
def markdown(worked: Study) -> str:
    return page.markdown(content.read(worked))


def test_nothing_in_a_report_runs_or_is_fetched(html: str) -> None:
    assert_nothing_runs_or_is_fetched(html)
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_hostile_names_are_shown_as_they_are(html: str) -> None:
    shown = " ".join("".join(Elements(html).texts).split())
    assert " ".join(HOSTILE.split())[:100] in shown
    assert "owned'</script>" not in html


def test_hostile_names_stay_in_their_cells_and_blocks_of_code_in_markdown(markdown: str) -> None:
    outside = re.sub(r"^(`{3,})\n.*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "\n## y" not in outside
    assert not re.search(r"(?<!\\)<(?!!-- tuner report)", outside)
    rows = [line for line in outside.splitlines() if "owned" in line and line.startswith("|")]
    assert rows
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_the_winner_is_named_with_how_far_its_number_can_be_trusted(html: str, worked: Study) -> None:
    said = section(html, "winner")
    assert "the highest of 8 completed trials" in said
    assert "the luckiest number of the search" in said
    assert "The test split of 200 images was not read" in said
    assert "The rule that needs no search (trial 0) reached 0.5000" in said


@pytest.mark.parametrize("name", ["history", "searched", "decided", "curves", "best", "work", "failures", "again"])
def test_each_section_is_in_both_forms(html: str, markdown: str, name: str) -> None:
    heading = re.search(rf'<h2 id="h-{name}">(.*?)</h2>', html)
    assert heading is not None
    assert section(html, name)
    if name not in ("history", "curves"):
        assert f"## {heading[1]}" in markdown


def test_every_searched_hyperparameter_is_listed(html: str) -> None:
    said = section(html, "searched")
    for name in ("optimizer", "learning_rate.adamw", "dropout", "augmentation.mixup"):
        assert name in said


def test_hours_of_workers_are_the_sum_of_their_attempts(worked: Study) -> None:
    read = content.read(worked)
    total = sum(attempt.ended - attempt.began for attempt in read.attempts)
    assert len(read.attempts) == 25
    assert f"{total / 3600:.2f} hours of workers" in section(page.html(read), "work")
    assert "energy was not measured" in section(page.html(read), "work")


def test_what_decided_is_said_only_from_twenty_trials_on(html: str) -> None:
    assert "the best 5 of 23 trials" in section(html, "decided")
    assert "PED-ANOVA" in section(html, "decided")


@pytest.mark.parametrize("write", [page.html, page.markdown])
def test_a_study_that_nothing_has_worked_on_has_a_report(fresh: Study, write: Callable[[content.Material], str]) -> None:
    text = write(content.read(fresh))
    assert "No trial has completed yet, so there is no winner." in text
    assert "said from 20 trials with a value on; there are 0" in text


def test_a_study_of_one_trial_has_a_report(storage: Storage) -> None:
    study = studies.join(by_hand.spec(name="single"), storage)
    prepared = by_hand.PREPARED.model_dump(mode="json")
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, {PREPARED: prepared}))
    by_hand.finish(study, by_hand.must_claim(study), 0.7)
    text = page.html(content.read(study))
    assert_nothing_runs_or_is_fetched(text)
    assert "was not beaten" in section(text, "winner")


def test_of_very_many_trials_the_best_are_drawn_and_some_of_the_others(worked: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_DRAWN", 10)
    monkeypatch.setattr(content, "_BEST_DRAWN", 4)
    read = content.read(worked)
    ranked = sorted(read.valued, key=lambda trial: -trial.values[0])
    assert len(read.drawn) == 10
    assert {trial.number for trial in ranked[:4]} <= {trial.number for trial in read.drawn}
    assert [trial.number for trial in read.drawn] == sorted({trial.number for trial in read.drawn})


def test_a_number_on_test_images_is_held_against_that_of_the_search(worked: Study) -> None:
    best = content.read(worked).winner
    assert best is not None
    score = messages.Evaluated(trial=best.row.number, accuracy=0.75, loss=0.5, num_images=200, confusion=())
    trials.keep_test(worked, score)
    said = section(page.html(content.read(worked)), "winner")
    assert "On 200 test images, by which nothing was chosen, it is 0.7500 (95 % interval 0.6857 to 0.8049, Wilson)" in said
    assert best.row.value is not None
    assert f"{best.row.value - 0.75:.4f} higher" in said


def test_what_was_kept_is_told_with_its_verdict(worked: Study, storage: Storage) -> None:
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
    assert "On 1,000 test images it reaches 0.9200 (95 % interval 0.9015 to 0.9353, Wilson)" in said
    assert "The best value of the search, 0.9700 of trial 7, was too high by 0.0500" in said
    assert all(comparison.words in said for comparison in verdict.comparisons)
    assert "1 trial 7 0.9000 – – 0 –" in said
    assert "2 birds-retrain-1 0.9400 0.9200 0.9015 to 0.9353 1 –" in said
    markdown = page.markdown(content.read(worked))
    assert "## Versions" in markdown
    assert "| 2 | birds-retrain-1 | 0.9400 | 0.9200 |" in markdown
