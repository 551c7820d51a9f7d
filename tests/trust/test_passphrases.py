import pytest

from tuner.trust import keys


def test_a_passphrase_and_a_salt_always_make_the_same_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MEMORY_KIB", 64)
    salt, other_salt = b"s" * 16, b"t" * 16
    given = [("correct horse", salt), ("correct horse", salt), ("correct horse", other_salt), ("correct horsf", salt)]
    first, again, salted, other = (str(keys.identity(*one)) for one in given)
    assert first == again and first.startswith(keys.SECRET)
    assert len({first, salted, other}) == 3


def test_keys_are_encoded_as_bech32_of_bip_173() -> None:
    # valid strings of the proposal, with their data
    assert keys._bech32("a", b"") == "a12uel5l"
    held = bytes.fromhex("00443214c74254b635cf84653a56d7c675be77df")
    assert keys._bech32("abcdef", held) == "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"
