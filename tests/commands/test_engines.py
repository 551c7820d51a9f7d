"""Options of engines that are refused, and the URL that all nodes can use."""

import dataclasses
import importlib.util
import socket
from pathlib import Path

import pytest

from tuner.commands import engines
from tuner.errors import MissingPackage, RequestError, TunerError

NOTHING = engines.EngineOptions(
    engine="ray", workers=None, threads=None, hang_limit=None, memory_limit=None, slots_per_gpu=None, address=None,
    gpus_per_worker=None, cpus_per_worker=None,
)  # fmt: skip
URL = "sqlite:///tuner.db"
TWO_HOSTS = {"192.0.2.1", "192.0.2.2"}


def refusal(**said: object) -> TunerError:
    with pytest.raises(RequestError) as caught, engines.open_engine(dataclasses.replace(NOTHING, **said), URL):  # type: ignore[arg-type]
        pass
    return caught.value


def test_a_missing_ray_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = refusal()
    assert isinstance(error, MissingPackage)
    assert str(error) == "--engine ray needs the package ray. Install it with: pip install 'tuner[ray]'"


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ({"address": "auto"}, "--address"),
        ({"gpus_per_worker": 0.5}, "--gpus-per-worker"),
        ({"cpus_per_worker": 2}, "--cpus-per-worker"),
    ],
)
def test_options_of_ray_are_refused_with_another_engine(said: dict[str, object], option: str) -> None:
    assert str(refusal(engine="local", **said)).startswith(option)


def test_slots_per_gpu_are_refused_with_ray_and_the_message_names_the_equal_share() -> None:
    assert "give --gpus-per-worker 0.25 instead" in str(refusal(slots_per_gpu=4))


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", ":6379"])
def test_an_invalid_address_is_refused(address: str) -> None:
    assert "expected auto, or HOST:PORT" in str(refusal(address=address))


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:  # bound, and deaf
        taken.bind(("127.0.0.1", 0))
        assert "nothing answers there" in str(refusal(address=f"127.0.0.1:{taken.getsockname()[1]}"))


@pytest.mark.parametrize(
    "url",
    ["sqlite:///tuner.db", "sqlite:////srv/tuner.db", "postgresql://me:secret@localhost/tuner", "postgresql:///tuner?host=/run/postgresql"],
)
def test_a_storage_that_only_one_machine_reaches_is_refused_for_several_hosts(url: str) -> None:
    with pytest.raises(RequestError, match="nodes on 2") as caught:
        engines.reachable_url(url, TWO_HOSTS)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://me:secret@db.example/tuner", "postgresql:///tuner?host=db.example", "no URL"])
def test_the_url_of_a_reachable_storage_is_unchanged(url: str) -> None:
    assert engines.reachable_url(url, TWO_HOSTS) == url


def test_nodes_of_one_host_get_the_absolute_path_of_an_sqlite_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert engines.reachable_url(URL, {"192.0.2.1"}) == f"sqlite:///{tmp_path}/tuner.db"
