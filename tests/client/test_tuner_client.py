"""The client against a real server: submission, following, results, retries and errors."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import tuner_client
from tuner_client import Client, NotAllowed, NotFound, Refused, ServerError, StudyFailed, Unreachable

from tests import databases
from tests.studies import by_hand
from tuner.dashboard import server
from tuner.dashboard.auth import accounts
from tuner.dashboard.auth.permissions import SCOPES
from tuner.dashboard.settings import Settings
from tuner.dashboard.submission import SubmissionRules
from tuner.queue import entries
from tuner.storage import engine as storages
from tuner.storage import tables
from tuner.storage.attributes import PREPARED
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.trust.roots import Roots

CLIENT = Path(__file__).resolve().parents[2] / "client"
STUDY = {"name": "digits", "data": {"source": "digits"}, "budget": {"trials": 1}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("client")
    for name in ("data/flowers", "uploads", "artifacts/digits-done/export"):
        (folder / name).mkdir(parents=True)
    (folder / "artifacts/digits-done/export/model.keras").write_bytes(b"a model" * 1000)
    return folder


@pytest.fixture(scope="module")
def storage(folder: Path) -> Storage:
    return storages.open(databases.sqlite(folder))


@pytest.fixture(scope="module")
def tokens(folder: Path) -> dict[str, str]:
    return {scope: accounts.add_token(folder / "users.json", scope, role, seconds=None) for scope, role in SCOPES.items()}


@pytest.fixture(scope="module")
def address(folder: Path, storage: Storage, tokens: dict[str, str]) -> Iterator[str]:
    rules = SubmissionRules(roots=Roots.of([folder / "data", folder / "uploads"]), uploads=folder / "uploads")
    settings = Settings(users=folder / "users.json", submission=rules, artifacts=folder / "artifacts")
    with server.beside(storage, settings, 0) as served:
        yield served.address


@pytest.fixture
def client(address: str, tokens: dict[str, str]) -> Client:
    return Client(address, tokens["submit"])


def test_it_imports_quickly_and_nothing_heavy() -> None:
    """Three tries, because a busy machine is slow; nothing of tuner, and nothing that is not in the standard library."""
    program = (
        "import sys, time; began = time.perf_counter(); import tuner_client; took = time.perf_counter() - began; "
        "own = {name.partition('.')[0] for name in sys.modules}; "
        "print(took, sorted(own - sys.stdlib_module_names - {'tuner_client', '__main__', '__mp_main__'}))"
    )
    times = []
    for _ in range(3):
        environment = {"PYTHONPATH": str(CLIENT), "PATH": os.environ["PATH"]}
        answer = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True, env=environment)
        seconds, others = answer.stdout.split(" ", 1)
        assert others.strip() == "[]"
        times.append(float(seconds))
    print(f"tuner_client is imported in {min(times):.3f} s")
    assert min(times) < 0.3


def test_a_study_is_submitted_from_a_file_or_from_values(client: Client, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: of-a-file\ndata:\n  source: digits\n")
    study = client.submit(tmp_path / "study.yaml", priority=3, workers=2)
    assert (study.name, study.state) == ("of-a-file", "queued")
    assert client.submit({**STUDY, "name": "of-values"}).refresh()["owner"] == "submit"
    assert {"of-a-file", "of-values"} <= {each["name"] for each in client.queue()}
    study.move(priority=7)
    assert client.queue()[0]["name"] == "of-a-file"
    study.pause()
    assert study.state == "paused"
    study.resume()
    study.cancel()
    with pytest.raises(StudyFailed, match="of-a-file is cancelled"):
        study.wait(timeout=60)
    assert client.pool()["workers"] == []


def test_the_same_key_submits_once(client: Client) -> None:
    first = client.submit({**STUDY, "name": "keyed"}, key="mine")
    assert client.submit({**STUDY, "name": "keyed"}, key="mine").name == first.name
    with pytest.raises(NotFound, match="in the queue already"):
        client.submit({**STUDY, "name": "keyed"})


def test_mistakes_are_told_with_their_lines(client: Client, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: x\ndata:\n  source: digits\nsampler: randm\n")
    with pytest.raises(Refused, match="Did you mean random") as refused:
        client.submit(tmp_path / "study.yaml")
    assert [(problem["field"], problem["line"]) for problem in refused.value.problems] == [("sampler", 4)]
    assert client.check(tmp_path / "study.yaml")["problems"][0]["column"] == 1
    assert client.check(STUDY)["plan"]


def done(storage: Storage) -> None:
    """Let a study of the queue complete its only trial, as a worker would."""
    study = studies.load("digits-done", storage)
    prepared = {PREPARED: by_hand.PREPARED.model_dump(mode="json")}
    storage.write(lambda connection: tables.put(connection, tables.STUDY_USER, study.id, prepared))
    by_hand.finish(study, by_hand.must_claim(study), 0.9)
    entries.settle(study)


def test_a_study_is_waited_for_and_its_results_are_taken(client: Client, storage: Storage, tmp_path: Path) -> None:
    study = client.submit({**STUDY, "name": "digits-done"})
    events = study.events()
    assert next(events)["trials"]["complete"] == 0
    with pytest.raises(TimeoutError, match="digits-done is queued"):
        study.wait(timeout=0, poll_seconds=0.1)
    worker = threading.Thread(target=done, args=(storage,))
    worker.start()
    assert study.wait(timeout=120, poll_seconds=0.1) is study
    worker.join()
    assert study.state == "done"
    assert study.best["result"]["validation_accuracy"] == 0.9
    assert [trial["state"] for trial in study.trials()] == ["complete"]
    assert any(event.get("best_value") == 0.9 for _, event in zip(range(5), events, strict=False))
    assert {"best.yaml", "best.json", "model.keras"} <= {file["name"] for file in study.files()}
    assert study.download("model.keras", tmp_path).read_bytes() == b"a model" * 1000
    assert "validation_accuracy: 0.9" in study.download("best.yaml", tmp_path / "mine.yaml").read_text()
    for name, reason in (("nix.keras", "no file 'nix.keras'. Known: best.yaml"), ("../model.keras", "does not exist")):
        with pytest.raises(NotFound, match=reason):
            study.download(name, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml", "model.keras"]


def test_a_zip_of_images_is_uploaded(client: Client, tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name in ("cat/1.jpg", "dog/1.jpg", "notes.txt"):
            archive.writestr(name, b"\xff\xd8\xff")
    found = client.upload(tmp_path / "pets.zip", "pets")
    assert (found["num_images"], found["left_out"]) == (2, {".txt files": 1})
    assert client.data(found["folder"])["folders"][0]["num_images"] == 1


def test_a_token_is_needed_and_its_scope_counts(address: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNER_TOKEN", raising=False)
    for token in (None, "tuner_wrong"):
        with pytest.raises(NotAllowed) as refused:
            Client(address, token).queue()
        assert refused.value.status == 401
    with pytest.raises(NotAllowed, match="needs the role editor"):
        Client(address, tokens["read"]).submit(STUDY)
    monkeypatch.setenv("TUNER_TOKEN", tokens["read"])
    assert isinstance(Client(address).queue(), list)


def test_a_token_is_never_shown(address: str, tokens: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = tokens["read"]
    client = Client(address, token)
    shown = [repr(client), repr(client.__dict__)]
    for call in (
        lambda: client.submit(STUDY),
        lambda: client.study("nowhere"),
        lambda: Client("http://127.0.0.1:1", token, tries=1).queue(),
    ):
        with pytest.raises(tuner_client.TunerClientError) as error:
            call()
        shown += [str(error.value), repr(error.value)]
    assert not [text for text in (*shown, caplog.text) if token in text]


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://me:secret@x", "https://x?token=secret"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected one such as"):
        Client(url)


class Faulty(BaseHTTPRequestHandler):
    """Answers a request by the script of its server: a status, or None to end the connection without an answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.keys.append(self.headers["idempotency-key"])  # type: ignore[attr-defined]
        status = self.server.script.pop(0)  # type: ignore[attr-defined]
        if status is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        content = json.dumps({"name": "digits"} if status == 200 else {"detail": "later"}).encode()
        self.send_response(status)
        self.send_header("retry-after", "0")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given: Any) -> None:
        """Print nothing."""


@pytest.fixture
def faulty() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), Faulty) as made:
        made.keys, made.script = [], []  # type: ignore[attr-defined]
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_submission_is_repeated_with_the_same_key(faulty: Any) -> None:
    faulty.script += [None, 503, 502, 200]
    assert Client(f"http://127.0.0.1:{faulty.server_port}").submit(STUDY).name == "digits"
    assert len(faulty.keys) == 4
    assert len(set(faulty.keys)) == 1


@pytest.mark.parametrize(
    ("script", "error"), [([503, 503], Unreachable), ([None, None], Unreachable), ([500], ServerError), ([409], Refused)]
)
def test_a_server_that_fails_is_told_apart_from_a_refusal(faulty: Any, script: list[int | None], error: type[Exception]) -> None:
    faulty.script += script
    with pytest.raises(error):
        Client(f"http://127.0.0.1:{faulty.server_port}", tries=2).submit(STUDY)
    assert faulty.script == []


def test_what_is_no_submission_is_not_repeated(faulty: Any) -> None:
    """A change without a key could happen twice."""
    faulty.script += [None, 200]
    with pytest.raises(Unreachable):
        Client(f"http://127.0.0.1:{faulty.server_port}").check(STUDY)
    assert len(faulty.keys) == 1
