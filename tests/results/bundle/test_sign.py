import importlib
import random
from pathlib import Path

import pytest

from tuner import errors
from tuner.results.bundle import manifest, sign


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("keys") / "team.pem"
    sign.make_keys(private)
    return private


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "probes").mkdir(parents=True)
    (made / "model.keras").write_bytes(b"weights" * 100)
    (made / "probes" / "1.png").write_bytes(b"image")
    manifest.write(made)
    return made


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def test_a_signature_is_valid_for_the_signed_files(bundle: Path, key: Path) -> None:
    assert "not signed" in sign.refusal(bundle, public(key))
    assert sign.sign(bundle, key) == bundle / manifest.SIGNATURE
    assert sign.refusal(bundle, public(key)) == ""
    assert manifest.check(bundle) == []
    sign.sign(bundle, key)
    assert sign.refusal(bundle, public(key)) == ""
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


def test_the_private_key_is_readable_by_its_owner_only_and_never_overwritten(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(errors.RequestError, match="never overwritten"):
        sign.make_keys(key)


@pytest.mark.parametrize("change", ["changed", "added", "missing", "hidden", "manifest"])
def test_a_changed_file_is_detected_even_with_a_new_manifest(bundle: Path, key: Path, change: str) -> None:
    sign.sign(bundle, key)
    if change == "changed":
        (bundle / "model.keras").write_bytes(b"Weights" * 100)
    elif change == "missing":
        (bundle / "probes" / "1.png").unlink()
    else:
        (bundle / {"added": "more.txt", "hidden": ".gitattributes", "manifest": "probes/2.png"}[change]).write_text("more")
    manifest.write(bundle)
    assert manifest.check(bundle) == []
    assert "mismatch" in sign.refusal(bundle, public(key))


def test_a_signature_with_another_key_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    other = sign.make_keys(tmp_path / "other.pem")
    sign.sign(bundle, tmp_path / "other.pem")
    assert sign.refusal(bundle, other) == ""
    assert sign.refusal(bundle, public(key)) == "was made with another key"


def test_a_signature_with_a_flipped_bit_is_refused_or_equivalent(bundle: Path, key: Path) -> None:
    sign.sign(bundle, key)
    whole, draw = (bundle / manifest.SIGNATURE).read_bytes(), random.Random(0)
    num_refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(7)
        (bundle / manifest.SIGNATURE).write_bytes(damaged)
        num_refused += sign.refusal(bundle, public(key)) != ""
    assert num_refused >= 90, "what is left are names of fields that nothing is read from"


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, '{"verificationMaterial": {}}', "\xff"])
def test_an_invalid_signature_is_refused(bundle: Path, key: Path, text: str) -> None:
    (bundle / manifest.SIGNATURE).write_text(text)
    assert sign.refusal(bundle, public(key))


def test_an_invalid_key_or_one_that_others_can_read_is_refused(bundle: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("no key")
    (tmp_path / "none").chmod(0o600)
    with pytest.raises(errors.RequestError, match="is not a private key"):
        sign.sign(bundle, tmp_path / "none")
    with pytest.raises(errors.RequestError, match="is not a private key"):
        (tmp_path / "public").write_bytes(public(key).read_bytes())
        (tmp_path / "public").chmod(0o600)
        sign.sign(bundle, tmp_path / "public")
    with pytest.raises(errors.RequestError, match="is not a public key"):
        sign.refusal(bundle, tmp_path / "none")
    with pytest.raises(errors.RequestError, match="cannot be read"):
        sign.refusal(bundle, tmp_path / "nowhere")
    (tmp_path / "none").chmod(0o644)
    with pytest.raises(errors.RequestError, match="can be read by others"):
        sign.sign(bundle, tmp_path / "none")
    assert not (bundle / manifest.SIGNATURE).exists()


def test_a_bundle_that_differs_from_its_manifest_is_not_signed(bundle: Path, key: Path) -> None:
    (bundle / "model.keras").write_bytes(b"other")
    with pytest.raises(errors.RequestError, match="was changed after its export"):
        sign.sign(bundle, key)


def test_a_missing_package_is_named_with_the_command_that_installs_it(bundle: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(errors.MissingPackage, match=r"pip install 'tuner\[sign\]'"):
        sign.sign(bundle, key)
