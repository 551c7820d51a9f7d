"""The command line: its answers, its speed and its refusals."""

import importlib.util
import json
import os
import pwd
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from tests.studies import by_hand
from tuner.cli import main
from tuner.storage import engine as storages
from tuner.studies import study as studies
from tuner.terminal import plain

GOOD = "name: good\ndata: {source: digits}\nmodel: {backbone: squeezenet1_1, image_size: 32}\nbudget: {trials: 3}\n"

#: a call, and what its one message must contain; `good.yaml` is a study file without mistakes
BAD_CALLS = [
    # the command itself
    (["rnu"], "rnu"),
    (["run"], "neither a study file nor --objective is given"),
    (["run", "--objective", "my.py:f"], "--objective needs --name and --direction, too; write for example: tuner run --objective my.py:f"),
    (["run", "good.yaml", "more.yaml"], "more.yaml"),
    (["run", "good.yaml", "--worker", "2"], "--worker"),
    (["best"], "STUDY"),
    (["export", "good"], "--to"),
    (["init", "new"], "--images"),
    (["init"], "NAME"),
    # options out of their ranges
    (["run", "good.yaml", "--workers", "0"], "--workers"),
    (["run", "good.yaml", "--workers", "two"], "--workers"),
    (["run", "good.yaml", "--trials", "0"], "--trials"),
    (["run", "good.yaml", "--trials", "-3"], "--trials"),
    (["run", "good.yaml", "--trials", "1.5"], "--trials"),
    (["run", "good.yaml", "--timeout", "soon"], "--timeout"),
    (["run", "good.yaml", "--timeout", "0s"], "--timeout"),
    (["run", "good.yaml", "--target", "95"], "--target"),
    (["run", "good.yaml", "--target", "0"], "--target"),
    (["run", "good.yaml", "--from", "nothing"], "--from nothing is neither a study in"),
    (["run", "good.yaml", "--from-storage", "sqlite:///old.db"], "name the studies with --from"),
    (["migrate", "nothing", "good.yaml"], "there is no study nothing"),
    (["copy", "nothing", "--to", "sqlite:///new.db"], "there is no study nothing"),
    (["copy", "nothing"], "--to"),
    (["copy", "nothing", "--to", ""], "--to is empty"),
    (["copy", "nothing", "--to", "sqlite:///new.db", "--name", "a/b"], "--name is 'a/b'"),
    (["report", "nothing", "--to", "report.pdf"], "expected .html or .md"),
    (["run", "good.yaml", "--threads", "0"], "--threads"),
    (["run", "good.yaml", "--slots-per-gpu", "0"], "--slots-per-gpu"),
    (["run", "good.yaml", "--slots-per-gpu", "2"], "no GPU was found"),
    (["worker", "good.yaml", "--slots-per-gpu", "2"], "no GPU was found"),
    (["run", "good.yaml", "--hang-limit", "never"], "--hang-limit"),
    (["run", "good.yaml", "--hang-limit", "0"], "--hang-limit"),
    (["run", "good.yaml", "--memory-limit", "much"], "--memory-limit"),
    (["run", "good.yaml", "--memory-limit", "0GB"], "--memory-limit"),
    (["run", "good.yaml", "--port", "70000"], "--port"),
    (["worker", "good.yaml", "--wait", "soon"], "--wait"),
    (["dashboard", "--wait", "0"], "--wait"),
    (["worker", "good.yaml", "--allow-code", "my package"], "--allow-code"),
    (["worker", "good.yaml", "--data", "photos"], "--data"),
    (["run", "good.yaml", "--cache-limit", "much"], "--cache-limit"),
    (["cache", "--cache-limit", "0GB"], "--cache-limit"),
    (["cache", "sweep"], "sweep"),
    (["cache", "--older-than", "long"], "--older-than"),
    (["cache", "clear", "--older-than", "0"], "--older-than"),
    # files and folders that cannot be used
    (["run", "good.yaml", "--to", "best.txt"], ".yaml, .yml, .json"),
    (["run", "good.yaml", "--to", "nowhere/best.yaml"], "nowhere"),
    (["run", "good.yaml", "--to", "best.yaml", "--no-export"], "choose one"),
    (["run", "good.yaml", "--dashboard", "--root-path", "user/me"], "--root-path is user/me; expected the path"),
    (["run", "good.yaml", "--artifacts", "good.yaml"], "is a file"),
    (["run", "good.yaml", "--cache", "good.yaml/cache"], "is a file"),
    # files that are not study files
    (["check", "none.yaml"], "none.yaml"),
    (["check", "."], "."),
    (["check", "empty.yaml"], "empty.yaml"),
    (["check", "binary.yaml"], "binary.yaml"),
    (["check", "bad.yaml"], "search.dropuot"),
    (["run", "bad.yaml"], "search.dropuot"),
    (["worker", "bad.yaml"], "search.dropuot"),
    (["run", "no_images.yaml"], "does-not-exist"),
    (["check", "no_images.yaml"], "does-not-exist"),
    # models that do not exist
    (["check", "no_weights.yaml"], "missing.weights.h5"),
    (["run", "no_weights.yaml"], "missing.weights.h5"),
    (["run", "no_backbone.yaml"], "missing.keras"),
    (["check", "no_module.yaml"], "python:no_such_module.networks:build"),
    (["worker", "no_module.yaml"], "python:no_such_module.networks:build"),
    (["init", "new", "--images", "does-not-exist"], "does-not-exist"),
    (["init", "a/b", "--images", "."], "a/b"),
    (["init", "good", "--images", ".", "--to", "good.yaml"], "good.yaml already exists"),
    # storages that cannot be used
    (["run", "good.yaml", "--storage", "nonsense"], "nonsense"),
    (["run", "good.yaml", "--storage", "sqlite:///nowhere/tuner.db"], "nowhere"),
    (["run", "good.yaml", "--storage", "sqlite:///binary.yaml"], "binary.yaml"),
    (["run", "good.yaml", "--storage", "sqlite:///:memory:"], "memory"),
    (["run", "good.yaml", "--storage", "oracle://me:secret@host/db"], "oracle"),
    (["status", "--storage", "postgresql://me:secret@127.0.0.1:1/db"], "127.0.0.1"),
    (["worker", "good.yaml", "--storage", "postgresql://me:secret@127.0.0.1:1/db"], "127.0.0.1"),
    # studies that do not exist
    (["status", "unknown"], "unknown"),
    (["status", "unknown", "--storage", "sqlite:///new.db?timeout=5"], "unknown"),
    (["best", "unknown", "--storage", "sqlite+pysqlite:///new.db"], "unknown"),
    (["best", "unknown"], "unknown"),
    (["worker", "unknown"], "unknown"),
    (["worker", "unknown.yaml"], "tuner worker unknown"),
    (["best", "unknown", "--json", "--yaml"], "choose one"),
    (["export", "unknown", "--to", "best.yaml"], "unknown"),
    (["export", "unknown", "--to", "best.txt"], ".yaml, .yml, .json"),
    (["export", "unknown", "--to", "bundle"], "unknown"),
    (["export", "unknown", "--to", "bundle", "--format", "tflite"], "litert"),
    (["export", "unknown", "--to", "bundle", "--quantize", "int4"], "int4"),
    (["export", "unknown", "--to", "bundle", "--trial", "-1"], "--trial"),
    (["export", "unknown", "--to", "best.yaml", "--format", "onnx"], "a study file"),
    (["predict", "nowhere", "image.png"], "nowhere is not a bundle"),
    (["predict", ".", "image.png"], "is not a bundle"),
    (["predict", "nowhere"], "IMAGE"),
    (["predict", "nowhere", "image.png", "--top", "0"], "--top"),
    (["watch", "unknown"], "there is no study unknown"),
    (["watch", "unknown", "--json"], "there is no study unknown"),
    (["stop", "unknown"], "there is no study unknown"),
    (["stop", "unknown", "--trial", "0"], "there is no study unknown"),
    (["resume", "unknown"], "there is no study unknown"),
    (["enqueue", "unknown", "--set", "dropout=0.3"], "there is no study unknown"),
    # requests to a running study
    (["watch"], "STUDY"),
    (["stop"], "STUDY"),
    (["stop", "good", "--now", "--trial", "1"], "choose one"),
    (["stop", "good", "--trial", "1", "--worker", "w1"], "choose one"),
    (["stop", "good", "--trial", "first"], "--trial"),
    (["stop", "good", "--trial", "-1"], "--trial"),
    (["resume"], "STUDY"),
    (["enqueue", "good"], "--set NAME=VALUE"),
    (["enqueue", "good", "bad.yaml", "--set", "dropout=0.3"], "--set NAME=VALUE"),
    (["enqueue", "good", "none.yaml", "--storage", "sqlite:///nowhere/tuner.db"], "nowhere does not exist"),
    (["watch", "good", "--storage", "postgresql://me:secret@127.0.0.1:1/db"], "127.0.0.1"),
    (["stop", "good", "--storage", "nonsense"], "nonsense"),
    # the dashboard serves other machines only with users, and only those who are said
    (["dashboard", "--host", "0.0.0.0"], "users add NAME"),
    (["dashboard", "--allowed-host", "tuner.example"], "users add NAME"),
    (["dashboard", "--proxy", "localhost"], "--proxy"),
    (["dashboard", "--certificate", "good.yaml"], "--key"),
    (["dashboard", "--certificate", "good.yaml", "--key", "good.yaml"], "PEM"),
    (["dashboard", "--certificate", "none.pem", "--key", "none.pem"], "none.pem"),
    (["dashboard", "--session", "0"], "--session"),
    (["dashboard", "--users", "good.yaml", "--host", "0.0.0.0"], "good.yaml cannot be read"),
    (["dashboard", "nonsense"], "nonsense"),
    (["dashboard", "users", "add", "eve"], "--role"),
    (["dashboard", "users", "add", "eve", "--role", "king"], "king"),
    (["dashboard", "users", "add", "e v e", "--role", "viewer"], "'e v e'"),
    (["dashboard", "users", "add", "eve", "--role", "viewer", "--password-file", "none.txt"], "none.txt"),
    (["dashboard", "users", "add", "eve", "--role", "viewer", "--password-file", "empty.yaml"], "expected 10 to 1000"),
    (["dashboard", "users", "change", "eve"], "--role"),
    (["dashboard", "tokens", "add", "eve", "--role", "viewer", "--expires", "soon"], "--expires"),
    (["dashboard", "audit", "--limit", "0"], "--limit"),
    (["dashboard", "--port", "-1"], "--port"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with good and bad study files, in which the command runs."""
    for name in ("TUNER_STORAGE", "TUNER_STORAGE_FILE", "TUNER_ARTIFACTS", "TUNER_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TUNER_USERS", str(tmp_path / "users.json"))
    monkeypatch.chdir(work)
    (work / "good.yaml").write_text(GOOD)
    (work / "empty.yaml").write_text("")
    (work / "binary.yaml").write_bytes(bytes(range(256)) * 8)
    (work / "bad.yaml").write_text(GOOD + "search: {dropuot: 0.3}\n")
    (work / "no_images.yaml").write_text("name: none\ndata: {source: folder, path: does-not-exist}\n")
    for name, model in (
        ("weights", "weights: missing.weights.h5"),
        ("backbone", "backbone: missing.keras"),
        ("module", "backbone: 'python:no_such_module.networks:build'"),
    ):
        (work / f"no_{name}.yaml").write_text(f"name: none\ndata: {{source: digits}}\nmodel: {{{model}}}\n")
    return work


def processor_seconds() -> float:
    """Return the processor time of all child processes so far. It hardly depends on other processes of the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


@pytest.mark.parametrize(("call", "named"), BAD_CALLS, ids=[" ".join(call) for call, _ in BAD_CALLS])
def test_a_bad_call_is_refused_with_one_message(folder: Path, capsys: pytest.CaptureFixture[str], call: list[str], named: str) -> None:
    before = listing(folder)
    code = main.main(call)
    captured = capsys.readouterr()
    assert code == 2
    assert named in captured.err
    assert "Traceback" not in captured.err
    assert "secret" not in captured.err
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert listing(folder) == before


def test_all_mistakes_of_a_file_are_shown_one_per_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.yaml").write_text(GOOD + "search: {dropuot: 0.3, unfreeze: 2}\nseeed: 1\n")
    assert main.main(["check", "bad.yaml"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tuner {tuner.__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("init", "check", "run", "worker", "status", "dashboard", "best", "export", "cache", "schema"):
        assert command in out


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_check_shows_images_search_plan_and_cost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(folder)
    assert main.main(["check", "good.yaml"]) == 0
    out = capsys.readouterr().out
    for word in ("validation", "learning_rate.adamw", "3 trials", "about", "tuner run good.yaml"):
        assert word in out
    assert listing(folder) == before


def test_a_backbone_in_the_current_folder_is_found_without_running_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "networks.py").write_text("raise SystemExit('it was run')\n")
    (folder / "mine.yaml").write_text("name: mine\ndata: {source: digits}\nmodel: {backbone: 'python:networks:build'}\n")
    assert main.main(["check", "mine.yaml"]) == 0


def test_a_sampler_without_its_package_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *given: None if name == "torch" else real(name, *given))
    (folder / "good.yaml").write_text(GOOD + "sampler: gp\n")
    before = listing(folder)
    for command in ("check", "run", "worker"):
        assert main.main([command, "good.yaml"]) == 2
        assert "torch" in capsys.readouterr().err
    assert listing(folder) == before


def test_a_dashboard_whose_port_is_taken_is_refused_before_anything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main.main(["run", "good.yaml", "--dashboard", "--port", str(port)]) == 2
    assert f"port {port}" in capsys.readouterr().err
    assert listing(folder) == before


def test_an_unexpected_error_gives_one_line_and_a_file_without_passwords(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fault(*given: object, **named: object) -> int:
        raise RuntimeError("postgresql://me:secret@host/db broke")

    from tuner.commands import show

    monkeypatch.setattr(show, "show_status", fault)
    assert main.main(["status"]) == 1
    error = capsys.readouterr().err
    (record,) = (tmp_path / "cache").glob("error-*.log")
    assert len(error.splitlines()) == 1
    assert str(record) in error
    assert "secret" not in error + record.read_text()
    assert "Traceback" in record.read_text()


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("exec $TUNER status >&-", 0, ""),
        ("exec $TUNER status 2>&-", 0, ""),
        ("exec $TUNER dashboard users add bob --role viewer --users users.json <&-", 2, "the password has 0 characters"),
        ("exec $TUNER check good.yaml > /dev/full", 1, "no space is left where this command writes its output or a file"),
        ("mkdir gone && cd gone && rmdir ../gone && exec $TUNER status", 1, "the current folder does not exist any more"),
    ],
)
def test_what_is_wrong_around_a_command_is_named_without_a_traceback(folder: Path, shell: str, code: int, said: str) -> None:
    environment = dict(os.environ) | {"TUNER": f"{sys.executable} -m tuner", "PYTHONPATH": str(Path(tuner.__file__).parents[1])}
    done = subprocess.run(["sh", "-c", shell], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


def test_a_user_without_a_home_folder_is_told_what_to_set(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "TUNER_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert main.main(["cache"]) == 1
    assert capsys.readouterr().err.startswith("this user has no home folder: HOME is not set. Set it, or")


def test_the_home_folder_of_an_unknown_user_is_not_taken_for_a_missing_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["cache", "--cache", "~no-such-user/cache"]) == 1
    assert capsys.readouterr().err == "a path starts with ~NAME, but this machine has no user NAME; write the whole path\n"
    (folder / "study.yaml").write_text("name: mine\ndata: {source: folder, path: ~no-such-user/photos}\n")
    assert main.main(["check", "study.yaml"]) == 2
    assert "data.path is '~no-such-user/photos', but this machine does not know that home folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "proposed"),
    [
        (["stop", "by-hand"], "tuner resume by-hand"),
        (["stop", "by-hand", "--now"], "tuner resume by-hand"),
        (["best", "by-hand"], "tuner status by-hand"),
        (["retrain", "by-hand"], "tuner status by-hand"),
        (["export", "by-hand", "--to", "bundle"], "tuner status by-hand"),
        (["versions", "by-hand"], "tuner retrain by-hand"),
        (["versions"], "tuner retrain STUDY"),
        (["status", "other"], ""),
    ],
)
def test_proposed_commands_come_with_the_storage_of_this_one(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, call: list[str], proposed: str
) -> None:
    url = f"sqlite:///{folder}/my studies.db"
    opened = storages.open(url)
    studies.join(by_hand.spec(), opened)
    opened.close()
    cure = f"Add --storage '{url}' to the command, or set TUNER_STORAGE."
    main.main([*call, "--storage", url])
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert (proposed in said, cure in said) == (True, bool(proposed))
    monkeypatch.setenv("TUNER_STORAGE", url)
    main.main(call)
    captured = capsys.readouterr()
    assert "--storage" not in captured.out + captured.err


def test_a_proposed_storage_has_no_password_and_json_stays_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain.remember_storage("sqlite:///a.db")
    plain.result('{"next": "tuner status a"}')
    plain.line("there is one: tuner copy a --to URL, then tuner resume a --storage URL")
    assert capsys.readouterr().out == '{"next": "tuner status a"}\n'
    for url in ("postgresql://me:secret@127.0.0.1:1/none", "postgresql://127.0.0.1:1/none?user=me&password=secret"):
        main.main(["status", "--storage", url])
        assert "secret" not in capsys.readouterr().err


def test_an_interrupted_command_shows_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object, **named: object) -> int:
        raise KeyboardInterrupt

    from tuner.commands import check

    monkeypatch.setattr(check, "check", interrupt)
    assert main.main(["check", "good.yaml"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("call", [["--help"], ["check", "good.yaml"]])
def test_help_and_check_need_no_tensorflow_and_little_time(folder: Path, call: list[str]) -> None:
    code = (
        "import sys\n"
        "from tuner.cli import main\n"
        f"code = main.main({call!r})\n"
        "heavy = {'tensorflow', 'keras', 'torch'} & set(sys.modules)\n"
        "sys.exit(code or (str(heavy) if heavy else 0))\n"
    )
    seconds = []
    for _ in range(3):
        before = processor_seconds()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        seconds.append(processor_seconds() - before)
        assert done.returncode == 0, done.stderr
    # the figure is 1 s on the wall of a machine of its own; processor time grows where others share the caches
    assert min(seconds) < 1.5


@pytest.mark.parametrize("settings", [
    {"PYTHONOPTIMIZE": "2"},  # no docstrings
    {"PYTHONWARNINGS": "error"},
    {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"},  # ASCII
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONSAFEPATH": "1"},
])  # fmt: skip
@pytest.mark.parametrize("call", [["--help"], ["check", "good.yaml"]])
def test_the_command_works_whatever_the_settings_of_python(folder: Path, settings: dict[str, str], call: list[str]) -> None:
    command = [sys.executable, "-c", f"import sys\nfrom tuner.cli import main\nsys.exit(main.main({call!r}))"]
    done = subprocess.run(command, env=dict(os.environ) | settings, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    assert b"check" in done.stdout or b"tuner run good.yaml" in done.stdout
