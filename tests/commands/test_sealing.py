from pathlib import Path

import pytest

from tuner.cli import main
from tuner.results.bundle import manifest
from tuner.trust import keys


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (keys.ARTIFACT_KEY, keys.PASSPHRASE, "TUNER_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "labels.txt").write_text("cat\ndog\n")
    manifest.write(bundle)


def made_keys(capsys: pytest.CaptureFixture[str]) -> str:
    assert main.main(["keygen", "seal", "me.txt"]) == 0
    return capsys.readouterr().out.strip()


def test_a_bundle_sealed_for_a_key_is_decrypted_with_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    public = made_keys(capsys)
    assert public.startswith("age1")
    assert main.main(["seal", "bundle", "--to", "a.age", "--recipient", public]) == 0
    assert main.main(["unseal", "a.age", "--to", "out", "--identity", "me.txt"]) == 0
    assert Path("out/labels.txt").read_text() == "cat\ndog\n"
    monkeypatch.setenv(keys.ARTIFACT_KEY, "me.txt")
    assert main.main(["seal", "bundle", "--to", "b.age"]) == 0
    assert main.main(["unseal", "b.age", "--to", "out2"]) == 0
    secret = Path("me.txt").read_text().splitlines()[1]
    printed = capsys.readouterr()
    assert secret not in printed.out + printed.err


def test_a_bundle_sealed_with_a_passphrase_is_decrypted_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("words").touch(mode=0o600)
    Path("words").write_text("correct horse battery\n")
    assert main.main(["seal", "bundle", "--to", "a.sealed", "--passphrase-file", "words"]) == 0
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse battery")
    assert main.main(["unseal", "a.sealed", "--to", "out"]) == 0
    assert Path("out/labels.txt").exists()


def test_a_bundle_is_signed_with_a_key_that_only_its_owner_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["keygen", "sign", "team.pem"]) == 0
    assert capsys.readouterr().out == "team.pem.pub\n"
    assert main.main(["sign", "bundle", "--key", "team.pem"]) == 0
    assert Path("bundle/model.sig").exists()
    Path("team.pem").chmod(0o644)
    assert main.main(["sign", "bundle", "--key", "team.pem"]) == 2


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["seal", "bundle", "--to", "x.age"], "nothing says who may decrypt the bundle"),
        (["seal", "bundle", "--to", "x.age", "--recipient", "me.txt", "--passphrase-file", "words"], "choose one"),
        (["seal", "bundle", "--to", "x.age", "--recipient", "none.txt"], "none.txt"),
        (["seal", "bundle", "--to", "x.age", "--recipient", "AGE-SECRET-KEY-1QQ"], "is a secret key"),
        (["seal", "nowhere", "--to", "x.age", "--recipient", "PUBLIC"], "nowhere"),
        (["unseal", "sealed.age", "--to", "x"], "needs a key"),
        (["unseal", "sealed.age", "--to", "x", "--identity", "none.txt"], "none.txt"),
        (["unseal", "bundle/labels.txt", "--to", "x", "--identity", "me.txt"], "not an encrypted file"),
        (["unseal", "phrase.sealed", "--to", "x"], "needs a passphrase"),
        (["sign", "bundle"], "no key to sign with"),
        (["keygen", "seal", "me.txt"], "never overwritten"),
    ],
)
def test_a_wrong_request_gives_one_message_and_writes_nothing(capsys: pytest.CaptureFixture[str], call: list[str], said: str) -> None:
    public = made_keys(capsys)
    assert main.main(["seal", "bundle", "--to", "sealed.age", "--recipient", public]) == 0
    Path("phrase.sealed").write_bytes(b"tuner-passphrase-1 " + b"0" * 32 + b"\nrest")
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main.main([public if word == "PUBLIC" else word for word in call]) == 2
    assert said in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


def test_the_file_of_a_secret_key_is_no_recipient_and_the_key_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    made_keys(capsys)
    assert main.main(["seal", "bundle", "--to", "x.age", "--recipient", "me.txt"]) == 2
    assert capsys.readouterr().err == "--recipient is me.txt, which has a secret key; expected public keys, which start with age1\n"


def test_no_study_is_created_with_an_unusable_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("good.yaml").write_text("name: good\ndata: {source: digits}\nmodel: {backbone: squeezenet1_1, image_size: 32}\n")
    monkeypatch.setenv(keys.ARTIFACT_KEY, "nowhere.txt")
    assert main.main(["run", "good.yaml"]) == 2
    assert "TUNER_ARTIFACT_KEY: nowhere.txt cannot be read" in capsys.readouterr().err
    assert not Path("tuner.db").exists()
