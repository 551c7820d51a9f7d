"""Databases, checkpoints, bundles and study files that commit e093cb4 wrote stay usable; `e093cb4/README.md` describes them.

Only the command line, the names of `import tuner` and the files themselves are used, so that the tests hold whatever the inside looks like.
"""

import contextlib
import io
import json
import math
import os
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner

HERE = Path(__file__).resolve().parent
MADE = HERE / "e093cb4" / "work"
EXPECTED = json.loads((MADE / "expected.json").read_text())
#: trial numbers in the study `paused`
SUSPENDED, WAITING, PRUNED, FAILED = (EXPECTED["suspended"][name] for name in ("trial", "waiting", "pruned", "failed"))
#: what the checkpoint in the copy says of the time that it took; no trainer of a test takes as long
MARK_SECONDS = 10_000.0
#: of losses, which rounding changes a little on other machines
TOLERANCE = 0.01
CODE = ("--allow-code", "small_backbone")
#: figures of `tuner status` that depend on the moment
PASSING = {"eta_seconds", "busy_seconds"}
STUDY_FILES = sorted(str(path.relative_to(MADE)) for path in [*MADE.glob("*.yaml"), *MADE.glob("studies/*")])


class Copy:
    """A copy of the folder that was made, somewhere else, and commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = shutil.copytree(MADE, folder)
        for exported in ("shapes-best.yaml", "paused-best.yaml", "shapes-trial-1.yaml"):
            path = self.folder / exported
            path.write_text(path.read_text().replace(EXPECTED["folder"], str(self.folder)))
        self._move_artifacts()
        self._environment = dict(os.environ) | {
            "TUNER_STORAGE": "sqlite:///storage.sqlite3",
            "TUNER_ARTIFACTS": "artifacts",
            "TUNER_CACHE": str(self.folder / "cache"),
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep),
        }
        for name in ("TUNER_STORAGE_FILE", "TUNER_DATA", "TUNER_ALLOW_CODE"):
            self._environment.pop(name, None)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder}/storage.sqlite3"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tuner", *arguments],
            cwd=self.folder, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def tuner(self, *arguments: str) -> str:
        """Run a command, which must succeed; what it prints."""
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, f"tuner {' '.join(arguments)}: exit code {process.returncode}\n{out}\n{err}"
        return out

    def here(self, *arguments: str) -> str:
        """As `tuner`, in this process: for commands that start no other, of which there are many."""
        said = io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patched,
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(io.StringIO()) as errors,
            pytest.raises(SystemExit) as ended,
        ):
            for name, value in self._environment.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", ["tuner", *arguments])
            runpy.run_module("tuner", run_name="__main__")
        assert not ended.value.code, f"tuner {' '.join(arguments)}: exit code {ended.value.code}\n{said.getvalue()}\n{errors.getvalue()}"
        return said.getvalue()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.here(*arguments, "--json"))

    def exported(self, study: str, trial: int) -> Any:
        """The study file that a trial is exported as."""
        path = self.folder / f"exported-{study}-{trial}.json"
        self.here("export", study, "--trial", str(trial), "--to", path.name, "--force")
        return json.loads(path.read_text())

    def moved(self, expected: Any) -> Any:
        """What was said of the folder in which everything was made, with the artifacts where they are now."""
        before, after = (f"{folder}/artifacts/" for folder in (EXPECTED["folder"], self.folder))
        return json.loads(json.dumps(expected).replace(before, after))

    def query(self, statement: str, *values: Any) -> list[Any]:
        database = sqlite3.connect(self.folder / "storage.sqlite3")
        try:
            return database.execute(statement, values).fetchall()
        finally:
            database.close()

    def epochs(self, trial: int) -> list[Any]:
        """Step, stage, loss, validation loss and seconds of each epoch of a trial of `paused`."""
        return self.query(
            "SELECT step, stage, loss, validation_loss, seconds FROM tuner_epochs JOIN studies USING (study_id) "
            "WHERE study_name = 'paused' AND trial_number = ? ORDER BY step",
            trial,
        )

    def mark_checkpoint(self) -> None:
        """Have the checkpoint of the suspended trial say that its fine-tuning took very long so far."""
        path = self.folder / "artifacts" / "paused" / f"trial-{SUSPENDED:05}" / "checkpoint"
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        progress = json.loads(str(arrays["progress"]))
        progress["fine_tune_seconds"] = MARK_SECONDS
        with path.open("wb") as written:
            np.savez(written, **arrays | {"progress": np.array(json.dumps(progress))})

    def _move_artifacts(self) -> None:
        """Name the weights where they are now: a storage names the folder that they were written to."""
        database = sqlite3.connect(self.folder / "storage.sqlite3")
        before, after = (f"{folder}/artifacts/" for folder in (EXPECTED["folder"], self.folder))
        with database:
            for table, column in (("trial_user_attributes", "value_json"), ("tuner_versions", "artifact")):
                database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (before, after))
        database.close()


def same_rule(search: Any) -> Any:
    """A `search` with adam and adamw under one name: to e093cb4 they are one rule, adam with its weight decay."""
    return json.loads(json.dumps(search).replace('"adam"', '"adamw"'))


def require_within(found: Any, expected: Any, place: str = "") -> None:
    """Whatever was said is still said, in the same words and numbers; there may be more."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), place
        assert expected.keys() <= found.keys(), f"{place}: missing {expected.keys() - found.keys()}"
        for key, value in expected.items():
            require_within(found[key], value, f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            require_within(one, other, f"{place}[{number}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9), f"{place}: {found}, not {expected}"
    else:
        assert found == expected, place


def require_same_predictions(found: Any, expected: Any) -> None:
    """The same images in the same order, the same label of each, and the same probability of each class."""
    assert [Path(row["image"]).name for row in found] == [Path(row["image"]).name for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["predictions"][0]["label"] == other["predictions"][0]["label"]
        by_class, before = ({said["label"]: said["probability"] for said in row["predictions"]} for row in (one, other))
        assert by_class == pytest.approx(before, abs=1e-4)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy that tests only read and export from."""
    return Copy(tmp_path_factory.mktemp("old") / "work")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy that tests change the versions and studies of."""
    return Copy(tmp_path_factory.mktemp("used") / "work")


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The paused study, resumed with its old study file until it was done."""

    copy: Copy
    #: epochs of the suspended trial before that
    before: list[Any]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    copy = Copy(tmp_path_factory.mktemp("resumed") / "work")
    copy.mark_checkpoint()
    before = copy.epochs(SUSPENDED)
    copy.tuner("resume", "paused")
    copy.tuner("run", "paused.yaml", "--threads", "1")
    return Resumed(copy=copy, before=before)


@pytest.mark.parametrize("name", STUDY_FILES)
def test_an_old_study_file_is_in_order(old: Copy, name: str) -> None:
    assert tuner.read(old.folder / name).name
    old.here("check", name)


def test_every_source_of_data_is_among_the_study_files() -> None:
    texts = [(MADE / name).read_text() for name in STUDY_FILES]
    named = {found for text in texts for found in re.findall(r'"?source"?: "?(\w+)', text)}
    assert named == {"folder", "manifest", "npz", "keras", "tfds", "animals", "digits", "python"}


def test_the_status_of_old_studies_is_what_it_was(old: Copy) -> None:
    told = old.json("status")
    for found in told:
        expected = EXPECTED["status"][found["study"]]
        require_within(found, {name: value for name, value in expected.items() if name not in PASSING})
    assert {found["study"] for found in told} == set(EXPECTED["status"])


def test_old_studies_are_watched(old: Copy) -> None:
    shown = old.json("watch", "paused")
    expected = EXPECTED["status"]["paused"]
    require_within(shown, {name: value for name, value in expected.items() if name not in PASSING})
    assert sum(failure["num_trials"] for failure in shown["failures"]) == expected["num_failed"] == 1


@pytest.mark.parametrize("study", sorted(EXPECTED["best"]))
def test_the_best_of_an_old_study_is_what_it_was(old: Copy, study: str) -> None:
    require_within(old.json("best", study), EXPECTED["best"][study])


def test_a_program_loads_old_studies_and_their_best(old: Copy) -> None:
    storage = tuner.open_storage(old.url)
    for name, config in EXPECTED["best"].items():
        best = tuner.best(tuner.load(name, storage))
        assert (best.trial, best.value) == (config["result"]["trial"], config["result"]["validation_accuracy"])
        assert best.test_accuracy == config["result"].get("test_accuracy")
        assert best.of_images.optimizer == config["search"]["optimizer"]
        assert best.of_images.weight_decay == config["search"]["weight_decay"]
    storage.close()


@pytest.mark.parametrize("trial", sorted(EXPECTED["trials"]))
def test_an_old_trial_is_exported_with_the_hyperparameters_that_it_had(old: Copy, trial: str) -> None:
    found, expected = old.exported("shapes", int(trial)), EXPECTED["trials"][trial]
    require_within(found, expected | {"search": found["search"]})
    require_within(same_rule(found["search"]), same_rule(expected["search"]))


def test_a_suspended_trial_resumes_from_its_checkpoint(resumed: Resumed) -> None:
    after = resumed.copy.epochs(SUSPENDED)
    assert len(resumed.before) == EXPECTED["suspended"]["epochs"] < len(after)
    assert after[: len(resumed.before)] == resumed.before
    assert resumed.copy.exported("paused", SUSPENDED)["result"]["seconds"] > MARK_SECONDS


@pytest.mark.parametrize("trial", [SUSPENDED, WAITING])
def test_adam_in_an_old_study_still_decays_weights(resumed: Resumed, trial: int) -> None:
    expected = EXPECTED["resumed"][str(trial)]
    assert expected["search"]["optimizer"] == "adam"
    assert expected["search"]["weight_decay"] > 0
    require_within(same_rule(resumed.copy.exported("paused", trial)["search"]), same_rule(expected["search"]))
    found = resumed.copy.epochs(trial)
    assert [epoch[:2] for epoch in found] == [tuple(epoch[:2]) for epoch in expected["curve"]]
    losses = np.array([epoch[2:4] for epoch in found])
    assert losses == pytest.approx(np.array([epoch[2:] for epoch in expected["curve"]]), abs=TOLERANCE)


def test_a_resumed_study_spends_exactly_its_budget(resumed: Resumed) -> None:
    status = resumed.copy.json("status", "paused")
    ended = [status[name] for name in ("num_completed", "num_pruned", "num_failed")]
    assert (sum(ended), ended[2]) == (status["budget"]["trials"], 1)
    assert (status["running"], status["num_waiting"], status["num_enqueued"]) == ([], 0, 0)
    assert resumed.copy.query(
        "SELECT state FROM trials JOIN studies USING (study_id) WHERE study_name = 'paused' AND number = ?", PRUNED
    ) == [("PRUNED",)]
    exported = tuner.read(resumed.copy.folder / "paused-best.yaml")
    best = resumed.copy.json("best", "paused")
    assert (exported.name, exported.budget.trials) == (best["name"], 1)


@pytest.mark.parametrize(("study", "name"), [("paused", "report.html"), ("shapes", "report.md")])
def test_an_old_study_is_reported(old: Copy, study: str, name: str) -> None:
    old.here("report", study, "--to", name)
    assert study in (old.folder / name).read_text()


def test_old_versions_are_listed_and_compared(old: Copy) -> None:
    require_within(old.json("versions"), old.moved(EXPECTED["versions"]))
    require_within(old.json("diff", "shapes", "1", "2"), old.moved(EXPECTED["diff"]))


def test_an_old_version_is_rolled_back_to_and_promoted(used: Copy) -> None:
    assert in_production(used) == [2]
    used.here("rollback", "shapes")
    assert in_production(used) == [1]
    used.here("promote", "shapes", "2")
    assert in_production(used) == [2]


def in_production(copy: Copy) -> list[int]:
    return [version["version"] for version in copy.json("versions", "shapes") if "production" in version["stages"]]


def test_an_old_retraining_is_not_done_again(used: Copy) -> None:
    told = used.json("retrain", "shapes", "--top", "2", "--seeds", "2", "--data", "images", *CODE)
    assert (told["version"], told["retraining"]) == (1, "shapes-retrain-1")


def test_an_old_bundle_is_verified_and_the_reading_is_recorded(used: Copy) -> None:
    before = num_readings(used)
    told = used.json("verify", "shapes-bundle", "--data", "images")
    assert told["good"]
    outcomes = {check["name"]: check["outcome"] for check in told["checks"]}
    require_within(outcomes, EXPECTED["verified"])
    assert num_readings(used) == before + 1


def num_readings(copy: Copy) -> int:
    (version,) = (version for version in copy.json("versions", "shapes") if version["version"] == 1)
    return len(version["readings"])


@pytest.mark.parametrize(("bundle", "images"), [("shapes-bundle", ["images"]), ("digits-bundle", ["digit-3.png", "digit-5.png"])])
def test_an_old_bundle_predicts_what_it_did(old: Copy, bundle: str, images: list[str]) -> None:
    require_same_predictions(old.json("predict", bundle, *images, "--top", "3"), EXPECTED["predictions"][bundle])


def test_an_old_version_becomes_a_bundle_that_predicts_what_the_old_one_did(old: Copy) -> None:
    old.tuner("export", "shapes", "--to", "new-bundle", "--version", "1", "--data", "images", *CODE)
    require_same_predictions(old.json("predict", "new-bundle", "images", "--top", "3"), EXPECTED["predictions"]["shapes-bundle"])


def test_an_old_export_is_trained_again(used: Copy) -> None:
    used.tuner("run", "shapes-best.yaml", "--no-export", "--threads", "1")
    status = used.json("status", tuner.read(used.folder / "shapes-best.yaml").name)
    assert (status["num_completed"], status["stop_reason"] is not None) == (1, True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Site"]:
    """The dashboard over a copy, signed in to."""
    process = Copy(tmp_path_factory.mktemp("site") / "work").start("dashboard", "--port", "0")
    assert process.stdout is not None
    assert process.stderr is not None
    link = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+", line)))
    reading = threading.Thread(target=process.communicate, daemon=True)
    reading.start()
    yield Site(link)
    process.send_signal(signal.SIGINT)
    reading.join()


class Site:
    """A dashboard, as a browser with its cookies sees it."""

    def __init__(self, link: str) -> None:
        address = urllib.parse.urlsplit(link)
        self._at = f"{address.scheme}://{address.netloc}"
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self._opener.open(link).close()

    def get(self, path: str) -> str:
        with self._opener.open(self._at + path) as response:
            return str(response.read().decode())

    def api(self, path: str) -> Any:
        return json.loads(self.get(f"/tuner/api/v1{path}"))


def test_a_program_reads_old_studies_at_the_dashboard(site: Site) -> None:
    studies = {study["name"]: study for study in site.api("/studies")["studies"]}
    assert set(studies) == set(EXPECTED["status"])
    for name, config in EXPECTED["best"].items():
        assert studies[name]["best_value"] == config["result"]["validation_accuracy"]
        require_within(site.api(f"/studies/{studies[name]['id']}/best"), config)
    trials = site.api(f"/studies/{studies['paused']['id']}/trials")["trials"]
    states = {trial["number"]: trial["state"] for trial in trials}
    assert states == {0: "complete", PRUNED: "pruned", FAILED: "fail", SUSPENDED: "running", WAITING: "waiting"}
    require_within(site.api("/audit")["deeds"][-len(EXPECTED["audit"]) :], EXPECTED["audit"])


def test_pages_show_old_studies(site: Site) -> None:
    assert "paused" in site.get("/")
    for study in site.api("/studies")["studies"]:
        assert study["name"] in site.get(f"/tuner/studies/{study['id']}")
        assert study["name"] in site.get(f"/tuner/studies/{study['id']}/trials/0")
