"""The service over HTTP: study files, folders of data, uploads and streams, for each role."""

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests import databases
from tests.dashboard.clients import HERE, authentication_of
from tests.studies import by_hand
from tests.waiting import until
from tuner.commands import dashboard
from tuner.dashboard import api, app, data_folders, server, service
from tuner.dashboard.auth import accounts, permissions
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings
from tuner.dashboard.submission import SubmissionRules
from tuner.errors import RequestError
from tuner.queue import pool
from tuner.storage import audit
from tuner.storage import engine as storages
from tuner.storage.engine import Storage
from tuner.studies import study as studies
from tuner.studies.leases import WorkerId
from tuner.trust.image_zip import ZipLimits
from tuner.trust.roots import Roots

GOOD = "name: flowers\ndata:\n  source: folder\n  path: flowers\n"


def image(colour: str = "red", **options: Any) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (200, 100), colour).save(written, "JPEG", **options)
    return written.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("lily", "rose"):
        (folder / "flowers" / name).mkdir(parents=True)
        for number in range(3):
            (folder / "flowers" / name / f"{number}.jpg").write_bytes(image(exif=Image.Exif()))
    (folder / "flowers" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "flowers" / "notes.txt").write_text("x")
    (folder / ".hidden").mkdir()
    (folder / "out").symlink_to("/etc")
    (folder / "uploads").mkdir()
    return folder


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    opened = storages.open(databases.sqlite(tmp_path_factory.mktemp("storage")))
    studies.join(by_hand.spec(), opened)
    return opened


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("users") / "users.json"


@pytest.fixture(scope="module")
def program(storage: Storage, data: Path, users_file: Path) -> Callable[[Role], TestClient]:
    """Return the client with the token of a role, at a server that takes submissions and small uploads."""
    rules = SubmissionRules(roots=Roots.of([data]), uploads=data / "uploads", zip_limits=ZipLimits(packed_bytes=1 << 20, free_bytes=0))
    served = app.build(storage, authentication_of(users_file, submission=rules))
    tokens = {role: accounts.add_token(users_file, f"the-{role}", role, seconds=None) for role in Role}
    return lambda role: TestClient(served, base_url=HERE, headers={"Authorization": f"Bearer {tokens[role]}"})


@pytest.fixture
def editor(program: Callable[[Role], TestClient]) -> TestClient:
    return program(Role.EDITOR)


def test_a_study_file_is_checked_and_its_plan_is_told(editor: TestClient) -> None:
    found = editor.post(f"{api.ROOT}/validate", json={"file": GOOD}).json()
    assert (found["name"], found["problems"]) == ("flowers", [])
    assert {"name": "images", "text": "7 files, about 5 to train on"} in found["plan"]
    found = editor.post(f"{api.ROOT}/validate", json={"file": GOOD + "sampler: randm\n"}).json()
    assert [(problem["field"], problem["line"], problem["column"]) for problem in found["problems"]] == [("sampler", 5, 1)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'{"file": 1}', 422),
        (b'{"file": "a", "x": 1}', 422),
        (b" " * 400_000, 413),
    ],
)
def test_a_wrong_body_is_refused_as_a_problem(editor: TestClient, body: bytes, status: int) -> None:
    answer = editor.post(f"{api.ROOT}/validate", content=body)
    assert (answer.status_code, answer.headers["content-type"], answer.json()["status"]) == (status, "application/problem+json", status)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/validate"), ("POST", "/data?name=x"), ("GET", "/data"), ("GET", "/data/picture?path=x")]
)
def test_a_viewer_sees_no_data_and_submits_nothing(program: Callable[[Role], TestClient], method: str, path: str) -> None:
    answer = program(Role.VIEWER).request(method, api.ROOT + path, json={})
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")


def test_a_server_without_submission_says_how_to_allow_it(storage: Storage, users_file: Path, program: object) -> None:
    token = accounts.add_token(users_file, "lonely", Role.ADMIN, seconds=None)
    closed = TestClient(app.build(storage, authentication_of(users_file)), base_url=HERE, headers={"Authorization": f"Bearer {token}"})
    for method, path in (("POST", "/validate"), ("GET", "/data"), ("POST", "/data?name=x")):
        answer = closed.request(method, api.ROOT + path, json={"file": GOOD})
        assert answer.status_code == 409
        assert "--submit" in answer.json()["detail"] or "--uploads" in answer.json()["detail"]


def test_the_schema_is_that_of_the_command(editor: TestClient) -> None:
    assert editor.get(f"{api.ROOT}/schema").json()["title"] == "A tuner study file"
    assert editor.get(f"{api.ROOT}/schema", params={"task": "nonsense"}).status_code == 400


def test_folders_are_listed_with_counts_and_samples(editor: TestClient, data: Path) -> None:
    (root,) = editor.get(f"{api.ROOT}/data").json()["folders"]
    assert (root["path"], root["num_images"]) == (str(data), 7)
    inside = editor.get(f"{api.ROOT}/data", params={"path": str(data)}).json()
    assert [(folder["name"], folder["num_images"]) for folder in inside["folders"] if folder["name"] != "uploads"] == [("flowers", 7)]
    flowers = editor.get(f"{api.ROOT}/data", params={"path": str(data / "flowers")}).json()
    assert (flowers["parent"], flowers["num_images"]) == (str(data), 1)
    assert [Path(sample).parent.name for sample in flowers["samples"][:4]] == ["lily", "rose", "lily", "rose"]
    answer = editor.get(f"{api.ROOT}/data/picture", params={"path": flowers["samples"][0]})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (96, 96)
        assert not picture.getexif()


@pytest.mark.parametrize(
    "path", ["/etc", "/", "..", "out", "flowers/../../x", "a\0b", "nowhere", "flowers/notes.txt", "flowers/broken.png", "~", "$HOME"]
)
def test_nothing_outside_the_roots_is_shown(editor: TestClient, path: str) -> None:
    for address in ("/data/picture", "/data"):
        answer = editor.get(api.ROOT + address, params={"path": path})
        assert answer.status_code == 404
        assert "root:" not in answer.text


def packed(names: list[str], content: bytes | None = None) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as opened:
        for name in names:
            opened.writestr(name, image() if content is None else content)
    return written.getvalue()


def test_an_upload_becomes_a_folder_of_its_owner(editor: TestClient, data: Path) -> None:
    content = packed(["pets/cat/1.jpg", "pets/dog/1.jpg", "pets/notes.txt"])
    answer = editor.post(f"{api.ROOT}/data", params={"name": "pets"}, content=content)
    assert answer.status_code == 200, answer.text
    folder = str(data / "uploads" / "the-editor" / "pets")
    assert answer.json() == {"folder": folder, "num_images": 2, "num_bytes": 2 * len(image()), "left_out": {".txt files": 1}}
    again = editor.post(f"{api.ROOT}/data", params={"name": "pets"}, content=content)
    assert (again.status_code, "exists already" in again.json()["detail"]) == (409, True)
    checked = editor.post(f"{api.ROOT}/validate", json={"file": GOOD.replace("path: flowers", f"path: {folder}")})
    assert checked.json()["problems"] == []


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        *(
            ("", packed(["1.jpg"]), 422),
            ("..", packed(["1.jpg"]), 422),
            ("a/b", packed(["1.jpg"]), 422),
            ("x" * 101, packed(["1.jpg"]), 422),
        ),
        *(("bad", packed(["../1.jpg"]), 409), ("bad", b"no zip", 409), ("bad", bytes(2 << 20), 413), ("bad", packed(["a.txt"]), 409)),
    ],
)
def test_a_hostile_upload_leaves_nothing(editor: TestClient, data: Path, name: str, content: bytes, status: int) -> None:
    answer = editor.post(f"{api.ROOT}/data", params={"name": name}, content=content)
    assert answer.status_code == status
    assert not (data / "uploads" / "the-editor" / "bad").exists()
    assert [path for path in (data / "uploads").iterdir() if path.name != "the-editor"] == []


@pytest.fixture
def served(storage: Storage, users_file: Path, data: Path, program: object) -> Iterator[server.Served]:
    with server.beside(
        storage, Settings(users=users_file, submission=SubmissionRules(roots=Roots.of([data]), uploads=data / "uploads")), 0
    ) as served:
        yield served


def test_a_third_upload_at_the_same_time_waits(served: server.Served) -> None:
    """Two uploads that do not end keep both places."""
    goes_on = threading.Event()
    assert served.token is not None
    address, headers = f"{served.address}{api.ROOT}/data", {"Authorization": f"Bearer {served.token.value}"}

    def slow() -> Iterator[bytes]:
        yield b"PK"
        assert goes_on.wait(60)

    def upload(content: Any) -> int:
        return int(httpx2.post(address, params={"name": "slow"}, content=content, headers=headers, timeout=60).status_code)

    held = [threading.Thread(target=upload, args=(slow(),)) for _ in range(2)]
    for thread in held:
        thread.start()
    try:
        until(lambda: data_folders._UPLOADING._value == 0, timeout_seconds=30)
        assert upload(b"x") == 503
    finally:
        goes_on.set()
        for thread in held:
            thread.join()
    until(lambda: upload(b"x") == 409, timeout_seconds=30)


def test_a_stream_tells_a_change_and_ends_with_the_server(storage: Storage, users_file: Path) -> None:
    study = studies.load("by-hand", storage)
    with server.beside(storage, Settings(users=users_file), 0) as served:
        assert served.token is not None
        headers = {"Authorization": f"Bearer {served.token.value}"}
        with httpx2.stream("GET", f"{served.address}{api.ROOT}/studies/{study.id}/events", headers=headers, timeout=60) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = (json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: "))
            first = next(events)
            assert (first["name"], first["trials"]["running"]) == ("by-hand", 0)
            by_hand.must_claim(study)
            assert next(events)["trials"]["running"] == 1


def test_streams_are_bounded(storage: Storage, served: server.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert served.token is not None
    headers = {"Authorization": f"Bearer {served.token.value}"}
    address = f"{served.address}{api.ROOT}/studies/1/events"
    with httpx2.Client(headers=headers, timeout=60, limits=httpx2.Limits(max_connections=None)) as client:
        opened = [client.send(client.build_request("GET", address), stream=True) for _ in range(102)]
        assert [answer.status_code for answer in opened][:90] == [200] * 90
        assert opened[-1].status_code == 503
        assert opened[-1].headers["retry-after"]
        for answer in opened:
            answer.close()


@pytest.fixture
def queue_of(program: Callable[[Role], TestClient], storage: Storage) -> Callable[..., Any]:
    """Submit a study of digits with a name, and return the answer."""

    def submit(name: str, *, role: Role = Role.EDITOR, key: str | None = None, **options: Any) -> Any:
        body = {"file": f"name: {name}\ndata: {{source: digits}}\n", **options}
        headers = {} if key is None else {"Idempotency-Key": key}
        return program(role).post(f"{api.ROOT}/queue", json=body, headers=headers)

    return submit


def test_a_submitted_study_is_queued_once_for_each_key(queue_of: Callable[..., Any], editor: TestClient) -> None:
    first = queue_of("once", key="k1", priority=5, workers=3, needs=["gpu"])
    assert first.status_code == 200, first.text
    found = first.json()
    assert (found["state"], found["priority"], found["num_wanted"], found["needs"], found["owner"]) == (
        "queued",
        5,
        3,
        ["gpu"],
        "the-editor",
    )
    assert queue_of("once", key="k1", priority=5, workers=3, needs=["gpu"]).json() == found
    assert queue_of("another", key="k1").json()["name"] == "once"  # the key decides
    assert queue_of("another", key="k1", role=Role.ADMIN).json()["name"] == "another"  # it is the key of another owner
    again = queue_of("once")
    assert (again.status_code, "in the queue already" in again.json()["detail"]) == (404, True)
    assert editor.get(f"{api.ROOT}/queue/once").json() == found


def test_a_file_with_mistakes_is_not_queued_and_each_mistake_is_told(editor: TestClient) -> None:
    answer = editor.post(f"{api.ROOT}/queue", json={"file": GOOD + "sampler: randm\n"})
    assert answer.status_code == 422
    assert [(problem["field"], problem["line"]) for problem in answer.json()["problems"]] == [("sampler", 5)]
    assert editor.get(f"{api.ROOT}/queue/flowers").status_code == 404


@pytest.mark.parametrize(
    ("options", "status"),
    [({"priority": 10**6}, 409), ({"workers": 0}, 409), ({"needs": [""]}, 409), ({"after": ["nowhere"]}, 404), ({"priority": "5"}, 422)],
)
def test_a_wrong_submission_is_refused(queue_of: Callable[..., Any], options: dict[str, Any], status: int) -> None:
    assert queue_of("wrong", **options).status_code == status


def test_a_study_of_the_queue_is_moved_paused_resumed_and_cancelled(queue_of: Callable[..., Any], editor: TestClient) -> None:
    assert queue_of("moving").status_code == 200
    here = f"{api.ROOT}/queue/moving"
    assert editor.patch(here, json={"priority": 9}).json()["priority"] == 9
    assert editor.get(f"{api.ROOT}/queue").json()["studies"][0]["name"] == "moving"
    assert editor.patch(here, json={}).status_code == 422
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert editor.post(f"{here}/{action}").json()["state"] == state
    assert editor.get(f"{api.ROOT}/queue").json()["studies"][-1]["name"] == "moving"
    assert editor.post(f"{here}/cancel").status_code == 404
    assert editor.post(f"{api.ROOT}/queue/nowhere/cancel").status_code == 404


def test_the_queue_has_pages(queue_of: Callable[..., Any], editor: TestClient) -> None:
    for number in range(3):
        assert queue_of(f"page-{number}").status_code == 200
    names: list[str] = []
    cursor: int | None = 0
    while cursor is not None:
        page = editor.get(f"{api.ROOT}/queue", params={"limit": 2, "cursor": cursor}).json()
        names += [study["name"] for study in page["studies"]]
        cursor = page["next_cursor"]
    assert len(names) == len(set(names))
    assert {"page-0", "page-1", "page-2"} <= set(names)


def member(storage: Storage, name: str, *, labels: tuple[str, ...] = (), refusals: dict[str, str] | None = None) -> None:
    worker = WorkerId.here(name)
    pool.register(storage, worker, pool.Abilities(labels=labels))
    pool.beat(storage, worker, refusals=refusals or {})


def test_a_study_that_no_worker_can_serve_tells_why(queue_of: Callable[..., Any], editor: TestClient, storage: Storage) -> None:
    member(storage, "w1", refusals={"stuck": "no folder /srv/data/flowers"})
    assert queue_of("stuck", needs=["tpu"]).json()["is_stuck"]
    found = editor.get(f"{api.ROOT}/queue/stuck").json()
    assert [reason for name, reason in found["refusals"].items() if name.endswith("w1")] == ["has no tpu"]
    workers = editor.get(f"{api.ROOT}/pool").json()["workers"]
    assert [worker["idle_because"] for worker in workers if worker["name"].endswith("w1")] == ["stuck: no folder /srv/data/flowers"]


def test_an_admin_stops_starts_drains_and_limits_the_pool(program: Callable[[Role], TestClient], storage: Storage) -> None:
    member(storage, "w2")
    admin = program(Role.ADMIN)
    for path, body in (("/pool/stop", None), ("/pool/start", None), ("/pool/drain", {"host": "w2"})):
        assert program(Role.EDITOR).post(api.ROOT + path, json=body).status_code == 403
    assert admin.post(f"{api.ROOT}/pool/stop").json()["stopped_by"] == "the-admin"
    assert admin.post(f"{api.ROOT}/pool/start").json()["stopped_by"] == ""
    assert len(admin.post(f"{api.ROOT}/pool/drain", json={"host": "w2"}).json()["workers"]) == 1
    assert admin.post(f"{api.ROOT}/pool/drain", json={"host": "nowhere"}).status_code == 404
    assert program(Role.EDITOR).put(f"{api.ROOT}/limits", json={"workers": 1}).status_code == 403
    assert admin.put(f"{api.ROOT}/limits", json={"owner": "ada", "workers": 2}).json()["owners"][0]["workers"] == 2
    assert admin.put(f"{api.ROOT}/limits", json={"owner": "ada", "workers": None}).json()["owners"][0]["workers"] is None
    assert admin.put(f"{api.ROOT}/limits", json={"workers": -1}).status_code == 409


def test_every_changing_operation_has_its_role_in_the_permissions() -> None:
    for operation in service.operations(None):
        path = operation.described_path.replace("{name}", "x").replace("{study}", "1")
        assert permissions.needed(operation.method, path) is operation.role, path


def options(**given: Any) -> dashboard.DashboardOptions:
    """Return the options of `tuner dashboard` with some of submission."""
    return dashboard.DashboardOptions(
        host="127.0.0.1", port=0, opened=False, users=None, allowed_hosts=[], proxies=[], root_path=None, certificate=None, key=None,
        session=None, allow_migration=False, open_metrics=False, artifacts="artifacts", wait=None, **given,
    )  # fmt: skip


def test_the_options_of_the_command_become_the_rules(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert dashboard.submission_rules(options()) is None
    rules = dashboard.submission_rules(
        options(submit=True, data_roots=[tmp_path / "data"], uploads=tmp_path / "new" / "uploads", allow_code="my_code,other.module")
    )
    assert rules is not None
    assert rules.roots.folders == (tmp_path / "data", tmp_path / "new" / "uploads")
    assert (rules.uploads, rules.allowed_code) == (tmp_path / "new" / "uploads", ("my_code", "other.module"))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"submit": True}, "--submit needs the folders"),
        ({"data_roots": [Path("/tmp")]}, "add --submit"),
        ({"submit": True, "data_roots": [Path("/")]}, "is the whole disk"),
        ({"submit": True, "data_roots": [Path("/nowhere/data")]}, "is not a folder"),
        ({"submit": True, "data_roots": [Path("/tmp")], "allow_code": "a b"}, "--allow-code names"),
    ],
)
def test_wrong_options_of_submission_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        dashboard.submission_rules(options(**given))


@pytest.mark.parametrize(("scope", "role"), permissions.SCOPES.items())
def test_a_token_of_a_scope_has_its_role(tmp_path: Path, scope: str, role: Role, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.add_token(tmp_path / "users.json", "ci", None, None, scope=scope)
    identity = accounts.Accounts(tmp_path / "users.json").check_token(capsys.readouterr().out.strip())
    assert identity is not None
    assert identity.role is role
    for given in ({"role": None, "scope": None}, {"role": "viewer", "scope": "read"}):
        with pytest.raises(RequestError, match="one of --role and --scope"):
            dashboard.add_token(tmp_path / "users.json", "other", given["role"], None, scope=given["scope"])


def test_checking_a_file_is_not_recorded_in_the_audit_log(editor: TestClient, storage: Storage) -> None:
    before = len(audit.read(storage, limit=1000))
    editor.post(f"{api.ROOT}/validate", json={"file": GOOD})
    assert len(audit.read(storage, limit=1000)) == before
    editor.post(f"{api.ROOT}/queue", json={"file": "name: x"})
    assert len(audit.read(storage, limit=1000)) == before + 1
