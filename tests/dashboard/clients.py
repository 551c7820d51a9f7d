"""A storage with a study, users of each role, and their clients at the dashboard."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from starlette.testclient import TestClient

from tests import databases
from tuner.dashboard import app
from tuner.dashboard.auth import accounts
from tuner.dashboard.auth.authentication import Authentication
from tuner.dashboard.auth.permissions import Role
from tuner.dashboard.settings import Settings, StartToken
from tuner.storage import engine as storages

HERE = "http://127.0.0.1:8080"
PASSWORD = "three old wooden boats"


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A users file with a user named after each role; no test changes it."""
    path = tmp_path_factory.mktemp("users") / "users.json"
    for role in Role:
        accounts.add_user(path, role.value, role, PASSWORD)
    return path


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> storages.Storage:
    """A storage with the study `flowers`, of three trials; no test changes it."""
    return new_storage(tmp_path_factory.mktemp("storage"))


def new_storage(folder: Path, **options: float) -> storages.Storage:
    opened = storages.open(databases.sqlite(folder), **options)  # type: ignore[arg-type]
    add_study(opened)
    return opened


def add_study(opened: storages.Storage) -> None:
    study = optuna.create_study(storage=opened.rdb, study_name="flowers", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("dropout", 0, 0.5), n_trials=3)


def authentication_of(users: Path, **settings: object) -> Authentication:
    """Return an authentication that always has a start token."""
    return Authentication.of(Settings(users=users, **settings), StartToken.new())  # type: ignore[arg-type]


def owner(opened: storages.Storage, users: Path, base_url: str = HERE, **settings: object) -> TestClient:
    """Return the client of the user who has opened the printed link."""
    this = authentication_of(users, **settings)
    client = TestClient(app.build(opened, this), base_url=base_url)
    assert this.start_token is not None
    assert client.get("/healthz", follow_redirects=False).status_code == 200
    assert client.get("/favicon.ico", params={"token": this.start_token.value}).status_code == 200
    return client


def sign_in(client: TestClient, name: str, password: str = PASSWORD) -> int:
    """Sign in with the form, and return the status of the response."""
    form = {"name": name, "password": password, "next": "/healthz"}
    answer = client.post("/tuner/signin", data=form, headers={"origin": str(client.base_url).rstrip("/")}, follow_redirects=False)
    return answer.status_code


@pytest.fixture
def browser(flowers: storages.Storage, users: Path) -> TestClient:
    """The client of the owner of the process."""
    return owner(flowers, users)


@pytest.fixture
def stranger(flowers: storages.Storage, users: Path) -> TestClient:
    """A client that has not signed in."""
    return TestClient(app.build(flowers, authentication_of(users)), base_url=HERE)


@pytest.fixture(scope="module")
def come_as(flowers: storages.Storage, users: Path) -> Callable[[Role], TestClient]:
    """Return the client of a user with a role, at one server."""
    served = app.build(flowers, authentication_of(users, allow_migration=True))
    known: dict[Role, TestClient] = {}

    def come(role: Role) -> TestClient:
        if role not in known:
            known[role] = TestClient(served, base_url=HERE)
            assert sign_in(known[role], role.value) == 303
        return known[role]

    return come
