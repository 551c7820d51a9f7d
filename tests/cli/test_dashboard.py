"""The command `tuner dashboard` and its sub-commands."""

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tuner.cli import main
from tuner.storage import audit
from tuner.storage import engine as storages

PASSWORD = "three old wooden boats"


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the path of the users file, and let stdin give the password."""
    path = tmp_path / "config" / "users.json"
    monkeypatch.setenv("TUNER_USERS", str(path))
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    return path


def listed(kind: str, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    capsys.readouterr()
    assert main.main(["dashboard", kind, "list", "--json"]) == 0
    return [(entry["name"], entry["role"]) for entry in json.loads(capsys.readouterr().out)]


def test_users_are_added_changed_and_removed(users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["dashboard", "users", "add", "eve", "--role", "viewer"]) == 0
    assert listed("users", capsys) == [("eve", "viewer")]
    assert PASSWORD not in users.read_text()
    assert "$argon2id$" in users.read_text()
    assert stat.S_IMODE(users.stat().st_mode) == 0o600
    assert main.main(["dashboard", "users", "add", "eve", "--role", "admin"]) == 2
    assert "users change eve" in capsys.readouterr().err
    assert main.main(["dashboard", "users", "change", "eve", "--role", "admin"]) == 0
    assert listed("users", capsys) == [("eve", "admin")]
    assert main.main(["dashboard", "users", "list"]) == 0
    assert "eve" in capsys.readouterr().out
    assert main.main(["dashboard", "users", "remove", "ann"]) == 2
    assert "Known: eve" in capsys.readouterr().err
    assert main.main(["dashboard", "users", "remove", "eve"]) == 0
    assert listed("users", capsys) == []
    assert [path.name for path in users.parent.iterdir() if not path.name.endswith(".lock")] == ["users.json"]


def test_a_token_is_shown_once_and_stored_as_a_hash(users: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["dashboard", "tokens", "add", "grafana", "--role", "viewer", "--expires", "90d"]) == 0
    token = capsys.readouterr().out.strip()
    assert re.fullmatch(r"tuner_[\w-]{43}", token)
    assert token not in users.read_text()
    assert listed("tokens", capsys) == [("grafana", "viewer")]
    assert main.main(["dashboard", "tokens", "remove", "grafana"]) == 0
    assert listed("tokens", capsys) == []


def test_the_audit_log_is_printed_without_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/tuner.db"
    assert main.main(["dashboard", "audit", "--storage", url]) == 0
    assert "The audit log is empty" in capsys.readouterr().out
    deed = audit.AuditEvent(who="e\x1b[2Jve\0", role="", method="POST", path="/tuner/signin", status=401, study="x" * 9000, address="::1")
    audit.write(storages.open(url), deed)
    assert main.main(["dashboard", "audit", "--storage", url]) == 0
    shown = capsys.readouterr().out
    assert "signin" in shown
    assert "\x1b[2J" not in shown
    assert main.main(["dashboard", "audit", "--json", "--storage", url]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["path"], record["status"], len(record["study"])) == ("/tuner/signin", 401, 512)


def test_the_printed_link_opens_the_dashboard_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tuner", "dashboard", "--port", "0", "--storage", f"sqlite:///{tmp_path}/tuner.db"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"TUNER_USERS": "none.json"}
    ) as process:
        assert process.stderr is not None
        link = re.search(r"http://127.0.0.1:\d+/\?token=[\w-]{22}", process.stderr.readline())
        assert link is not None
        address, token = link[0].split("/?token=")
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opener.open(f"{address}/api/meta")
        with opener.open(link[0]) as answer:
            assert token not in answer.url
        with opener.open(f"{address}/api/meta") as answer:
            assert answer.status == 200
        # someone has a page open, which follows the studies
        live = opener.open(urllib.request.Request(f"{address}/", headers={"Accept": "text/event-stream"}))
        assert live.readline().startswith(b"data: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        live.close()
        assert process.stderr.read() == ""
