import importlib
from pathlib import Path

import pytest

from tuner import errors
from tuner.trust import keys

pyrage = importlib.import_module("pyrage")


@pytest.fixture
def identity() -> str:
    return str(pyrage.x25519.Identity.generate())


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_identities_are_read_from_a_file_with_comments(tmp_path: Path, identity: str) -> None:
    found = keys.identities(secret(tmp_path / "key", f"# mine\n\n{identity}\n{pyrage.x25519.Identity.generate()}\n"))
    assert (str(found[0]), len(found)) == (identity, 2)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o610])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, identity: str, mode: int) -> None:
    with pytest.raises(errors.RequestError, match=f"mode {mode:04o}.*chmod 600") as refused:
        keys.identities(secret(tmp_path / "key", identity, mode))
    assert identity not in str(refused.value)


@pytest.mark.parametrize(("text", "said"), [("", "holds no key"), ("# only words", "holds no key"), ("age1abc", "not an age key")])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(errors.RequestError, match=said):
        keys.identities(secret(tmp_path / "key", text))


def test_a_damaged_key_is_refused_and_not_shown(tmp_path: Path, identity: str) -> None:
    with pytest.raises(errors.RequestError, match="not an age key") as refused:
        keys.identities(secret(tmp_path / "key", identity[:-1]))
    assert identity[:30] not in str(refused.value)


def test_a_key_file_that_is_missing_binary_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.RequestError, match="No such file"):
        keys.read_secret(tmp_path / "key")
    with pytest.raises(errors.RequestError, match="not a text file"):
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        (tmp_path / "binary").chmod(0o600)
        keys.read_secret(tmp_path / "binary")
    with pytest.raises(errors.RequestError, match="so it is not a key"):
        keys.read_secret(secret(tmp_path / "large", "#" * 70_000))


def test_the_environment_names_a_key_or_its_file(tmp_path: Path, identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.ARTIFACT_KEY, raising=False)
    assert keys.artifact_identities() == []
    for given in (identity, str(secret(tmp_path / "key", identity))):
        monkeypatch.setenv(keys.ARTIFACT_KEY, given)
        assert [str(one) for one in keys.artifact_identities()] == [identity]
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(tmp_path / "elsewhere"))
    with pytest.raises(errors.RequestError, match=r"TUNER_ARTIFACT_KEY: .*elsewhere cannot be read"):
        keys.artifact_identities()


def test_recipients_are_public_keys_and_files_of_them(tmp_path: Path) -> None:
    public = [str(pyrage.x25519.Identity.generate().to_public()) for _ in range(3)]
    (tmp_path / "team").write_text(f"# team\n{public[1]}\n{public[2]}\n")
    assert [str(one) for one in keys.recipients([public[0], str(tmp_path / "team")])] == public
    with pytest.raises(errors.RequestError, match="not a public age key"):
        keys.recipients(["age1nonsense"])


def test_a_secret_key_as_a_recipient_is_refused_and_not_shown(identity: str) -> None:
    with pytest.raises(errors.RequestError, match="your shell may remember it") as refused:
        keys.recipients([identity])
    assert identity[16:30] not in str(refused.value)


def test_a_passphrase_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    assert keys.passphrase(None) is None
    monkeypatch.setenv(keys.PASSPHRASE, "out of the environment")
    assert keys.passphrase(None) == "out of the environment"
    assert keys.passphrase(secret(tmp_path / "words", "correct horse battery\nsecond line")) == "correct horse battery"
    with pytest.raises(errors.RequestError, match="has 5 characters; expected at least 12") as refused:
        keys.passphrase(secret(tmp_path / "short", "horse"))
    assert "horse" not in str(refused.value)


def test_a_key_file_is_readable_by_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    keys.write_new(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(errors.RequestError, match="never overwritten"):
        keys.write_new(tmp_path / "key", b"other", mode=0o600)
    assert (tmp_path / "key").read_bytes() == b"secret"
