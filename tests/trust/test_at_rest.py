import importlib
import io
from pathlib import Path
from typing import BinaryIO

import pytest

from tuner import errors
from tuner.trust import age, at_rest, keys

pyrage = importlib.import_module("pyrage")
MINE, OTHERS = (str(pyrage.x25519.Identity.generate()) for _ in range(2))
CONTENT = b"weights of a trial" * 10_000


def save(file: BinaryIO) -> None:
    file.write(CONTENT)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that was written with a key."""
    monkeypatch.setenv(keys.ARTIFACT_KEY, MINE)
    with (tmp_path / "weights.npz").open("wb") as file:
        at_rest.write(file, save)
    return tmp_path / "weights.npz"


def test_a_file_written_with_a_key_is_encrypted_and_read_with_it(path: Path) -> None:
    assert path.read_bytes().startswith(age.MAGIC) and CONTENT[:18] not in path.read_bytes()
    with at_rest.opened(path) as file:
        assert file.read() == CONTENT


def test_plain_files_stay_readable_after_a_key_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.ARTIFACT_KEY, raising=False)
    with (tmp_path / "plain").open("wb") as file:
        at_rest.write(file, save)
    assert (tmp_path / "plain").read_bytes() == CONTENT
    monkeypatch.setenv(keys.ARTIFACT_KEY, MINE)
    with at_rest.opened(tmp_path / "plain") as file:
        assert file.read() == CONTENT


def test_a_missing_or_wrong_key_is_an_error_that_names_the_variable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, said in ((None, "is encrypted; set TUNER_ARTIFACT_KEY"), (OTHERS, "it was encrypted with another key")):
        if value is None:
            monkeypatch.delenv(keys.ARTIFACT_KEY)
        else:
            monkeypatch.setenv(keys.ARTIFACT_KEY, value)
        with pytest.raises(at_rest.NoKey, match=said), at_rest.opened(path):
            pass


def test_a_key_file_with_an_old_and_a_new_key_reads_both_and_writes_to_both(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tmp_path / "keys"
    both.touch(mode=0o600)
    both.write_text(f"{OTHERS}\n{MINE}\n")
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(both))
    with at_rest.opened(path) as file:
        assert file.read() == CONTENT
    with (tmp_path / "new").open("wb") as file:
        at_rest.write(file, save)
    monkeypatch.setenv(keys.ARTIFACT_KEY, OTHERS)
    with at_rest.opened(tmp_path / "new") as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_file_is_an_error(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(age.Damaged, match="is damaged") as refused, at_rest.opened(path):
        pass
    assert not isinstance(refused.value, at_rest.NoKey)


def test_a_full_disk_is_reported_as_such(path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as refused:
        at_rest.write(Full(), save)
    assert refused.value.errno == 28


def test_an_invalid_key_writes_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.ARTIFACT_KEY, str(tmp_path / "nowhere"))
    written = io.BytesIO()
    with pytest.raises(errors.RequestError, match="TUNER_ARTIFACT_KEY"):
        at_rest.write(written, save)
    assert written.getvalue() == b""


def test_the_start_of_a_file_shows_whether_a_key_opens_it(path: Path) -> None:
    for identity, is_opened in ((MINE, True), (OTHERS, False)):
        with path.open("rb") as file:
            assert age.is_opened(file, [pyrage.x25519.Identity.from_str(identity)]) is is_opened


def test_plain_files_are_not_added_to_encrypted_ones(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flowers" / "trial-00003").mkdir(parents=True)
    path.rename(tmp_path / "flowers" / "trial-00003" / "weights.npz")
    at_rest.require_key(tmp_path / "flowers")
    monkeypatch.delenv(keys.ARTIFACT_KEY)
    at_rest.require_key(tmp_path / "other")
    with pytest.raises(at_rest.NoKey, match=r"weights.npz is encrypted, so new files must be, too; set TUNER_ARTIFACT_KEY"):
        at_rest.require_key(tmp_path / "flowers")
