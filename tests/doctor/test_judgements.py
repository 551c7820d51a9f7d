"""How the checks of `tuner doctor` judge measured values."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tuner.doctor import checks, database, findings, hardware, packages
from tuner.doctor.findings import Finding
from tuner.terminal import maintenance
from tuner.workers.engines.gpus import Gpu

GIB = 2**30


@pytest.mark.parametrize(
    ("judge", "values", "level"),
    [
        (database.judge_latency, (0.001, 0.004), "ok"),
        (database.judge_latency, (0.001, 0.4), "warning"),
        (database.judge_clock, (-0.2,), "ok"),
        (database.judge_clock, (-3600.0,), "warning"),
        (database.judge_connections, (5, 97, 2), "ok"),
        (database.judge_connections, (95, 97, 2), "warning"),
        # more workers than connections
        (database.judge_connections, (60, 97, 64), "warning"),
        (hardware.judge_memory, (8, 16 * GIB, 12 * GIB), "ok"),
        (hardware.judge_memory, (8, GIB, GIB), "warning"),
        # enough memory, but other programs use it
        (hardware.judge_memory, (8, 16 * GIB, GIB), "warning"),
        (hardware.judge_files, (256,), "warning"),
        (hardware.judge_files, (1024,), "ok"),
        (hardware.judge_files, (-1,), "ok"),
        (checks.judge_size, (Path("/cache"), 10, 20), "ok"),
        (checks.judge_size, (Path("/cache"), 30, 20), "note"),
    ],
)
def test_a_measured_value_has_the_right_level(judge: Callable[..., Finding], values: tuple[Any, ...], level: str) -> None:
    found = judge(*values)
    assert found.level == level
    assert bool(found.cure) == (level != "ok")


@pytest.mark.parametrize(("free", "level"), [(20 * GIB, "ok"), (GIB, "warning"), (2**20, "problem")])
def test_a_disk_is_judged_by_its_free_space(free: int, level: str) -> None:
    assert hardware.judge_space("cache", Path("/cache"), free).level == level


@dataclass(frozen=True)
class Mounted:
    mountpoint: str
    fstype: str


MOUNTS = [
    Mounted("/", "ext4"),
    Mounted("/home", "nfs4"),
    Mounted("/home/local", "xfs"),
    Mounted("/auto", "autofs"),
    Mounted("/auto", "cifs"),
]


@pytest.mark.parametrize(
    ("path", "kind", "is_network"),
    [
        ("/srv/tuner.db", "ext4", False),
        ("/home/someone/tuner.db", "nfs4", True),
        ("/home/local/tuner.db", "xfs", False),
        # another folder whose name starts with the same letters
        ("/homes/tuner.db", "ext4", False),
        ("/auto/tuner.db", "cifs", True),
    ],
)
def test_a_path_belongs_to_the_innermost_mount(path: str, kind: str, is_network: bool) -> None:
    assert hardware.kind_among(Path(path), MOUNTS) == kind
    assert hardware.is_network(kind) is is_network


def test_an_sqlite_file_on_a_network_file_system_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.disk_partitions", lambda **how: [Mounted("/", "nfs4")])
    first, _ = database.disk(f"sqlite:///{tmp_path / 'tuner.db'}")
    assert (first.level, "use PostgreSQL" in first.cure) == ("problem", True)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (119, "119 s"), (600, "10 min"), (3 * 3600, "3 h"), (5 * 86_400, "5 days")])
def test_an_age_has_one_unit(seconds: float, text: str) -> None:
    assert findings.age(seconds) == text


def test_the_process_that_locks_a_file_is_found() -> None:
    table = [
        "1: POSIX  ADVISORY  WRITE 1234 08:01:77 120 120",
        "2: POSIX  ADVISORY  READ 1235 08:01:77 123 123",
        "3: FLOCK  ADVISORY  WRITE 1236 08:01:77 0 EOF",
        "4: POSIX  ADVISORY  WRITE 1237 08:01:78 0 EOF",
        "4: -> POSIX  ADVISORY  WRITE 1238 08:01:77 0 EOF",
    ]
    assert database.writers(table, {77}) == {1234}


def test_the_finding_of_a_standby_names_the_primary() -> None:
    assert "primary" in database.explain("it is read-only", is_standby=True).cure
    assert not database.explain("it is read-only", is_standby=False).cure


def test_a_primary_server_is_not_a_standby(postgresql_url: str) -> None:
    assert database.unusable(postgresql_url, "it is read-only").cure == ""


A100 = Gpu(name="GPU-1", memory_mb=40960, free_mb=40000)


@pytest.mark.parametrize(
    ("found", "seen", "levels"),
    [
        ([], {"has_driver": False, "visible": None, "num_packages": 0}, ["note"]),
        ([], {"has_driver": True, "visible": "", "num_packages": 0}, ["note"]),
        ([], {"has_driver": True, "visible": None, "num_packages": 0}, ["warning"]),
        ([A100], {"has_driver": True, "visible": None, "num_packages": 0}, ["ok", "warning"]),
        ([A100], {"has_driver": True, "visible": "0", "num_packages": 12}, ["ok", "ok"]),
    ],
)
def test_gpus_are_judged_by_driver_visibility_and_packages(found: list[Gpu], seen: dict[str, Any], levels: list[str]) -> None:
    assert [each.level for each in hardware.judge_gpus(found, **seen)] == levels


def test_missing_packages_and_wrong_versions_are_reported() -> None:
    asked = ["pytest>=1", "optuna<2", "never-installed>=3", "absent>=1; extra == 'gp'", "absent>=1; python_version < '3'"]
    optuna, missing = packages.mismatches(asked)
    assert optuna.endswith("but tuner needs <2")
    assert missing == "never-installed is not installed"


def test_the_summary_counts_problems_and_warnings() -> None:
    told = [findings.ok("a", "x"), findings.warning("b", "x", "y"), findings.problem("c", "x"), findings.problem("d", "x")]
    assert maintenance.doctor_summary(told) == "2 problems and 1 warning in 4 checks."
    assert maintenance.doctor_summary(told[:1]) == "All is well: 1 check."


def test_ignored_settings_are_a_note_with_their_values() -> None:
    (found,) = checks.settings({"KERAS_BACKEND": "jax", "KERAS_HOME": "/nonexistent"}, "utf-8")
    assert (found.subject, found.level) == ("settings", "note")
    assert "KERAS_BACKEND=jax" in found.found


def test_without_such_settings_there_is_nothing_to_do() -> None:
    (found,) = checks.settings({"KERAS_HOME": "/nonexistent"}, "utf-8")
    assert (found.subject, found.level) == ("settings", "ok")


def test_names_of_files_in_another_encoding_are_a_warning() -> None:
    *_, found = checks.settings({"KERAS_HOME": "/nonexistent"}, "iso8859-1")
    assert (found.subject, found.level) == ("locale", "warning")
    assert "iso8859-1" in found.found
