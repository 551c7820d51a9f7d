import importlib
import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner import errors
from tuner.results.bundle import manifest, seal

pyrage = importlib.import_module("pyrage")
MINE, OTHERS = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
LOCK = seal.Recipients(recipients=[MINE.to_public()])
KEY = seal.OpeningKey(identities=[OTHERS, MINE])
WORDS = "correct horse battery staple"


def mine(needs_passphrase: bool) -> seal.OpeningKey:
    assert not needs_passphrase
    return KEY


def given(key: seal.OpeningKey) -> Callable[[bool], seal.OpeningKey]:
    return lambda _: key


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "probes" / ("long" * 30)).mkdir(parents=True)
    (made / "model.keras").write_bytes(random.Random(0).randbytes(200_000))
    (made / "labels.txt").write_text("cat\ndog\n")
    (made / "empty").touch()
    (made / "probes" / ("long" * 30) / "ü 1.png").write_bytes(b"x" * 512)
    manifest.write(made)
    (made / manifest.SIGNATURE).write_text("signature")
    return made


@pytest.fixture
def sealed(bundle: Path, tmp_path: Path) -> Path:
    seal.seal(bundle, tmp_path / "bundle.age", LOCK, replaces=False)
    return tmp_path / "bundle.age"


def refusal(sealed: Path, key: Callable[[bool], seal.OpeningKey] = mine) -> str:
    """Return the error of an unseal, after checking that no file is left."""
    beside = sorted(sealed.parent.iterdir())
    with pytest.raises(errors.RequestError) as refused:
        seal.unseal(sealed, sealed.parent / "out", key)
    assert sorted(sealed.parent.iterdir()) == beside
    return str(refused.value)


def test_each_recipient_can_unseal_the_unchanged_bundle(bundle: Path, tmp_path: Path) -> None:
    lock = seal.Recipients(recipients=[MINE.to_public(), OTHERS.to_public()])
    assert seal.seal(bundle, tmp_path / "a", lock, replaces=False) == (tmp_path / "a").stat().st_size
    for place, identity in enumerate((MINE, OTHERS)):
        seal.unseal(tmp_path / "a", tmp_path / f"out{place}", given(seal.OpeningKey(identities=[identity])))
        assert content(tmp_path / f"out{place}") == content(bundle)
    assert b"cat\ndog" not in (tmp_path / "a").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_sealed_bundle_can_be_opened_with_age_and_tar(bundle: Path, sealed: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(sealed.read_bytes(), [MINE]))) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert found == content(bundle)


def test_only_the_right_passphrase_opens_a_sealed_bundle(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle.sealed"
    seal.seal(bundle, path, seal.Recipients(passphrase=WORDS), replaces=False)
    assert "it was encrypted with another key" in refusal(path, lambda _: seal.OpeningKey(passphrase=f"{WORDS}s"))

    def ask(needs_passphrase: bool) -> seal.OpeningKey:
        assert needs_passphrase
        return seal.OpeningKey(passphrase=WORDS)

    seal.unseal(path, tmp_path / "out", ask)
    assert content(tmp_path / "out") == content(bundle)
    assert WORDS not in repr(seal.Recipients(passphrase=WORDS)) + repr(seal.OpeningKey(passphrase=WORDS))


def test_another_key_is_refused_and_nothing_is_written(sealed: Path) -> None:
    assert "it was encrypted with another key" in refusal(sealed, lambda _: seal.OpeningKey(identities=[OTHERS]))


def test_a_flipped_bit_is_detected_and_nothing_is_written(sealed: Path) -> None:
    whole, draw = sealed.read_bytes(), random.Random(1)
    header = whole.index(b"\n--- ") + 70
    places = [*range(header), *range(len(whole) - 40, len(whole)), *(draw.randrange(len(whole)) for _ in range(60))]
    broken = sealed.with_name("broken")
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        broken.write_bytes(damaged)
        said = refusal(broken)
        assert str(broken) in said and ("damaged" in said or "cannot be opened" in said), place


@pytest.mark.parametrize("left", [0, 1, 20, 100, 200, 300, 65_552, 65_900, 131_400, -17, -1])
def test_a_truncated_file_is_detected_and_nothing_is_written(sealed: Path, left: int) -> None:
    whole = sealed.read_bytes()
    sealed.write_bytes(whole[:left])
    assert str(sealed) in refusal(sealed)


def test_a_file_cut_at_the_end_of_a_piece_is_detected(sealed: Path) -> None:
    whole = sealed.read_bytes()
    begin = whole.index(b"\n--- ") + 49 + 16
    sealed.write_bytes(whole[: begin + 65_552])
    assert "its end may be missing" in refusal(sealed)


def test_data_added_at_the_end_are_detected(sealed: Path) -> None:
    sealed.write_bytes(sealed.read_bytes() + b"x")
    assert "damaged" in refusal(sealed)


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("../up", b"x")], "leaves its folder"),
        ([member("/tmp/up", b"x")], "absolute"),
        ([member("a\\b", b"x")], "backslash"),
        ([member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "a link"),
        ([member("link", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "a link"),
        ([member("device", type=tarfile.CHRTYPE)], "a device"),
        ([member("pipe", type=tarfile.FIFOTYPE)], "a device"),
        ([member("folder", type=tarfile.DIRTYPE)], "not a regular file"),
        ([member("sparse", type=tarfile.GNUTYPE_SPARSE)], "not a regular file"),
        ([member("a", b"x"), member("a", b"y")], "twice"),
        ([member("a", b"x"), member("a/b", b"y")], "twice"),
        ([member("bomb", size=8**11 - 1)], "more than the whole file"),
        ([member("a", b"x")], "manifest.json is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sealed_tar_that_is_not_a_bundle_is_refused(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], said: str) -> None:
    written = io.BytesIO()
    for made, data in members:
        written.write(made.tobuf(tarfile.USTAR_FORMAT) + data + b"\0" * (-len(data) % 512))
    written.write(b"\0" * 1024)
    (tmp_path / "evil.age").write_bytes(pyrage.encrypt(written.getvalue(), [MINE.to_public()]))
    assert said in refusal(tmp_path / "evil.age").replace("manifest.json is missing: ", "manifest.json is missing")


@pytest.mark.parametrize("data", [b"", b"hello", b"x" * 512, b"\0" * 1024, os.urandom(3000)])
def test_sealed_data_that_are_not_a_tar_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "evil.age").write_bytes(pyrage.encrypt(data, [MINE.to_public()]))
    refusal(tmp_path / "evil.age")


def test_a_bundle_that_differs_from_its_manifest_is_not_sealed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "labels.txt").write_text("dog\ncat\n")
    with pytest.raises(errors.RequestError, match=r"labels.txt has the SHA-256"):
        seal.seal(bundle, tmp_path / "a", LOCK, replaces=False)
    assert not (tmp_path / "a").exists()


def test_existing_files_and_folders_are_not_overwritten(bundle: Path, sealed: Path, tmp_path: Path) -> None:
    before = sealed.read_bytes()
    with pytest.raises(errors.RequestError, match="exists"):
        seal.seal(bundle, sealed, LOCK, replaces=False)
    assert sealed.read_bytes() == before
    seal.seal(bundle, sealed, LOCK, replaces=True)
    assert sealed.read_bytes() != before
    with pytest.raises(errors.RequestError, match="exists"):
        seal.unseal(sealed, bundle, mine)
    with pytest.raises(errors.RequestError, match="does not exist; create it first"):
        seal.unseal(sealed, tmp_path / "nowhere" / "out", mine)


def test_a_full_disk_leaves_no_files(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, mode: str = "r") -> Any:
        raise OSError(28, "No space left on device")

    before = sorted(sealed.parent.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("tuner.results.bundle.seal.Path.open", full)
        with pytest.raises(errors.TunerError, match="No space left on device"):
            seal.unseal(sealed, sealed.parent / "out", mine)
    assert sorted(sealed.parent.iterdir()) == before
