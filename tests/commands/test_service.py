"""The commands of the service: what they print, what they store, and what they refuse in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import databases
from tests.studies import by_hand
from tuner.cli import main
from tuner.queue import entries, limits, pool
from tuner.queue.pool import Abilities
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies import trials
from tuner.studies.leases import WorkerId

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return storages.open(databases.sqlite(tmp_path))


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("TUNER_STORAGE", databases.sqlite(tmp_path))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main.main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def write(folder: Path, name: str, **sections: Any) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "data": {"source": "digits"}, "budget": {"trials": 3}} | sections))
    return str(path)


def test_a_study_is_submitted_shown_moved_and_cancelled(run: Run, tmp_path: Path) -> None:
    code, out, err = run("submit", write(tmp_path, "flowers"), "--priority", "2", "--workers", "4", "--owner", "ann", "--needs", "gpu")
    assert (code, out) == (0, "flowers is queued with priority 2; 0 other studies waiting. See it with: tuner queue\n")
    assert err == "warning: the pool has no worker yet; start one with: tuner worker --pool\n"
    code, out, _ = run("queue")
    assert code == 0
    assert [word for word in ("flowers", "queued", "ann", "0/4", "the pool has no worker") if word not in out] == []
    assert run("move", "flowers", "--priority", "9")[:2] == (0, "flowers has the priority 9.\n")
    assert run("cancel", "flowers")[0] == 0
    assert run("queue")[1] == "The queue is empty. Submit a study with: tuner submit FILE\n"
    [shown] = json.loads(run("queue", "--all", "--json")[1])
    assert (shown["study"], shown["state"], shown["priority"], shown["needs"]) == ("flowers", "cancelled", 9, ["gpu"])


def test_what_tuner_check_refuses_is_not_queued(run: Run, tmp_path: Path, storage: Storage) -> None:
    for sections in ({"data": {"source": "folder", "path": "nowhere"}}, {"search": {"dropuot": 0.1}}, {"sampler": "grid"}):
        code, out, err = run("submit", write(tmp_path, "flowers", **sections))
        assert (code, out) == (2, "")
        assert err
        assert "Traceback" not in err
    assert entries.entries(storage) == []
    assert studies.names(storage) == []


def test_the_same_key_submits_once(run: Run, tmp_path: Path, storage: Storage) -> None:
    file = write(tmp_path, "flowers")
    assert run("submit", file, "--key", "k")[0] == run("submit", file, "--key", "k")[0] == 0
    assert run("submit", file)[0] == 2
    assert entries.count(storage) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel", "roses"], "there is no study roses in the queue. The queue is empty."),
        (["move", "roses"], "expected what to change: --priority N, --place N, or both."),
        (["drain", "gpu7"], "the pool has no host or worker gpu7. The pool has no worker."),
        (["logs", "roses"], "there is no study roses in this storage."),
        (["worker"], "expected either a study or --pool"),
        (["worker", "roses", "--pool"], "expected either a study or --pool"),
        (["worker", "roses", "--labels", "gpu"], "--labels is for workers of the pool"),
        (["worker", "--pool", "--data-root", "nowhere"], "--data-root is nowhere, which is not a folder"),
        (["worker", "--pool", "--labels", "a,,b"], "--labels is 'a,,b'; expected names separated by commas"),
        (["worker", "--pool", "--data", "x"], "--data is x, but a worker of the pool serves many studies; give --data-root."),
        (["pool", "limit", "--weight", "2"], "--weight is the share of one owner; name the owner"),
        (["pool", "limit", "ann", "--weight", "0"], "the weight of ann is 0; expected a number above 0"),
        (["pool", "limit", "ann", "--artifacts", "much"], "--artifacts is 'much'; expected a size"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_the_pool_shows_its_workers_their_reasons_and_the_limits(run: Run, tmp_path: Path, storage: Storage) -> None:
    worker = WorkerId.here("w3")
    pool.register(storage, worker, Abilities(labels=("large",), data_root="/srv/data"))
    run("submit", write(tmp_path, "flowers"))
    pool.beat(storage, worker, refusals={"flowers": "no folder /srv/data/flowers"})
    assert "no worker can serve it (w3: no folder /srv/data/flowers)" in " ".join(run("queue", "--json")[1].split())
    assert run("pool", "limit", "ann", "--workers", "4", "--artifacts", "50GB")[1] == "ann: at most 4 workers, 50 GB of artifacts\n"
    assert run("pool", "limit", "ann", "--workers", "-1", "--artifacts", "none")[1] == "ann: no limits\n"
    run("pool", "limit", "--trials", "100", "--over", "refuse")
    code, out, _ = run("pool")
    assert code == 0
    assert [word for word in (worker.name, "idle", "large", "/srv/data", "at most 100 trials a day") if word not in out] == []
    assert json.loads(run("pool", "--json")[1])["settings"]["over"] == "refuse"
    assert run("drain", "w3", "--now")[1] == f"1 worker will leave after suspending their trials: {worker.name}\n"


def test_the_pool_is_stopped_and_started(run: Run, storage: Storage) -> None:
    assert run("pool", "stop")[0] == 0
    assert storage.read(limits.read).stopped_by
    assert "The pool was stopped by" in run("pool")[1]
    assert run("pool", "start")[0] == 0
    assert not storage.read(limits.read).stopped_by


def test_logs_show_attempts_epochs_and_failures(run: Run, storage: Storage) -> None:
    study = studies.join(by_hand.spec(name="flowers", budget={"trials": 2}), storage)
    first = by_hand.must_claim(study)
    trials.report(study, first, by_hand.epochs(first, [0.5, 0.625]))
    by_hand.finish(study, first, 0.625)
    second = by_hand.must_claim(study)
    trials.fail(study, second, by_hand.failed(second, log="line one\nline two"))
    out = run("logs", "flowers")[1]
    assert [
        word for word in ("flowers trial 0 started [", "flowers trial 0 completed [", "trial 1 failed: it was too much") if word not in out
    ] == []
    assert "epoch" not in out
    assert "epoch 2 probe value 0.6250 2.0 s" in run("logs", "flowers", "--trial", "0")[1]
    assert "line one\n" in run("logs", "flowers", "--trial", "1", "--follow")[1]
    assert run("logs", "flowers", "--trial", "9")[0] == 2


def test_doctor_names_what_is_wrong_with_the_pool(run: Run, tmp_path: Path, storage: Storage) -> None:
    assert run("doctor", "--pool")[0] == 0
    run(
        "submit",
        write(
            tmp_path,
            "flowers",
        ),
        "--needs",
        "gpu",
    )
    code, out, _ = run("doctor", "--pool")
    assert code == 1
    assert "the queue has 1 open study, and there is no worker" in out
    worker = WorkerId.here("w1")
    pool.register(storage, worker, Abilities())
    limits.stop(storage, by="eve")
    found = json.loads(run("doctor", "--pool", "--json")[1])
    assert [one["level"] for one in found] == ["warning", "note"]
    assert found[0]["found"] == "it was stopped by eve"
    limits.start(storage)
    found = json.loads(run("doctor", "--pool", "--json")[1])
    assert found[-1]["found"] == "flowers waits: no worker can serve it (w1: has no gpu)"
