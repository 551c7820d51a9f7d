"""`tuner run --engine ray` on a real cluster whose nodes die and join; trainers are rehearsed."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.engine import make_url

from tests.acceptance.conftest import REHEARSED, Command, Place
from tuner.storage import engine as storages
from tuner.studies import leases
from tuner.studies import study as studies
from tuner.studies.study import Study

#: what Ray reads when it is imported, here and in the commands
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    # keeps Ray on loopback
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
#: a node is dead when it has not answered for two seconds
HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
SECRET = "never-to-be-seen-42"


class Nodes:
    """A Ray cluster on this machine; each node has the resources for one worker."""

    def __init__(self, folder: Path) -> None:
        from ray import cluster_utils

        self._folder = folder
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
        self._cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)

    def add(self) -> Any:
        """Have one more node."""
        return self._cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    def kill(self, node: Any) -> None:
        """Kill a node and all that Ray started for it."""
        self._cluster.remove_node(node, allow_graceful=False)

    def run(self, place: Place, *arguments: str, script: dict[str, Any]) -> Command:
        """Start a run on the cluster."""
        address = str(self._cluster.address)
        return place.tuner("run", "study.yaml", "--engine", "ray", "--address", address, *arguments, script=script)

    def logs(self) -> str:
        """All that Ray has written."""
        return "".join(path.read_text(errors="replace") for path in self._folder.glob("ray/session_2*/logs/**/*") if path.is_file())

    def clear(self) -> None:
        """Leave no process behind."""
        family = [process for process in psutil.Process().children(recursive=True) if is_of_ray(process)]
        self._cluster.shutdown()
        _, alive = psutil.wait_procs(family, timeout=120)
        assert not alive


def is_of_ray(process: psutil.Process) -> bool:
    try:
        return process.name().startswith(("ray", "gcs_"))
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Give a cluster without nodes for workers."""
    # in /tmp, because the path of a socket has at most 107 characters
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (ENVIRONMENT | {"RAY_TMPDIR": folder}).items():
            patch.setenv(name, value)
        made = Nodes(Path(folder))
        yield made
        made.clear()


def study_at(url: str) -> Study:
    return studies.load("study", storages.open(url))


def test_a_study_on_a_cluster_loses_nothing_if_a_node_is_killed(
    place: Place, nodes: Nodes, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(budget={"trials": 12})
    monkeypatch.setenv(leases.VARIABLE, "20")  # the trial of the killed node is resumed after 22 seconds, not after 65
    url = make_url(postgresql_url).set(password=SECRET).render_as_string(hide_password=False)
    killed, *_ = [nodes.add() for _ in range(3)]
    fine_tuning = place.wait_point("epoch 4")
    tuner = nodes.run(place, "--workers", "3", "--storage", url, script=fine_tuning.script)
    at_work: set[str] = set()
    while len(at_work) < 3:  # a node may come late, and its worker with it
        at_work.add(tuner.until("promoted").rpartition("[")[2])
    nodes.kill(killed)
    tuner.until("its node on", "died; tuner restarts it")
    tuner.until("1 of 3 workers wait for free resources in the cluster; each needs 1 CPU")
    fine_tuning.go_on()
    code, _ = tuner.end()
    assert code == 0, tuner.lines
    study = study_at(url)
    assert [trial.state.name for trial in study.optuna.get_trials(deepcopy=False)] == ["COMPLETE"] * 12
    study.storage.close()
    assert sum("resumed" in line for line in tuner.lines) == 1
    told = [sum(f"trial {number} completed" in line for line in tuner.lines) for number in range(12)]
    # a node that dies takes along the line that was on its way; the storage has the trial
    assert max(told) == 1, tuner.lines
    assert sum(told) >= 11, tuner.lines
    assert "NodeWorker" in nodes.logs()
    assert SECRET not in nodes.logs() + "".join(tuner.lines)


def test_a_worker_that_waits_for_resources_starts_when_a_node_joins_and_ctrl_c_stops_in_order(place: Place, nodes: Nodes) -> None:
    place.write(budget={"trials": 3})
    tuner = nodes.run(place, "--workers", "3", script=place.wait_point("epoch 2").script)
    tuner.until("1 of 3 workers wait for free resources")
    nodes.add()
    # which of the three had to wait is Ray's to say
    while sum("started" in line for line in tuner.lines) < 3:
        tuner.until("started")
    tuner.signal(signal.SIGINT)
    code, out = tuner.end()
    assert code == 0, tuner.lines
    assert "you stopped it" in out
    assert sum("suspended" in line for line in tuner.lines) == 3
    # what was handed back is taken up by the next run, wherever that works
    again = place.tuner("run", "study.yaml", script={"epoch_seconds": 0.01})
    assert again.end()[0] == 0
    assert sum("resumed" in line for line in again.lines) == 3


def test_a_second_ctrl_c_kills_the_workers_on_their_nodes(place: Place, nodes: Nodes, gone: Callable[[list[psutil.Process]], None]) -> None:
    tuner = nodes.run(place, "--workers", "2", script={"faults": {"0": ["hang"], "1": ["hang"]}})
    tuner.until("started")
    tuner.until("started")
    workers = workers_in(place.folder)
    assert len(workers) >= 2
    tuner.signal(signal.SIGINT)
    tuner.until("stopping")
    tuner.signal(signal.SIGINT)
    assert tuner.end()[0] == 130
    gone(workers)
    assert place.states() == ["RUNNING"] * 2


def workers_in(folder: Path) -> list[psutil.Process]:
    """Return the worker processes of a folder, which are not child processes of the command."""
    return [process for process in psutil.process_iter() if is_worker_in(folder, process)]


def is_worker_in(folder: Path, process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:2] == [REHEARSED[1]] and process.cmdline()[-1].isdigit() and Path(process.cwd()) == folder
    except psutil.Error:
        return False
