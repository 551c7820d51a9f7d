"""A passphrase and a salt into an age identity.

age's own passphrases take a gigabyte of memory and cannot be streamed by pyrage; here Argon2id (RFC 9106) makes the 32 bytes of an X25519
identity, and the rest is an ordinary age file. Who does not know the passphrase does not know the recipient either, so nobody else can
write a file that it opens.
"""

from typing import Any

from argon2.low_level import Type, hash_secret_raw

from tuner.trust import keys

SALT_BYTES = 16
#: fixed by the version in the sealed file's first line, so that no file can ask for more
_MEMORY_KIB, _ROUNDS, _LANES = 46 * 1024, 3, 1
#: of Bech32 (BIP 173), in which age writes its keys
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def identity(passphrase: str, salt: bytes) -> Any:
    """The identity of a passphrase; the same for the same salt."""
    secret = hash_secret_raw(
        passphrase.encode(), salt, time_cost=_ROUNDS, memory_cost=_MEMORY_KIB, parallelism=_LANES, hash_len=32, type=Type.ID
    )
    return keys.pyrage().x25519.Identity.from_str(_bech32("age-secret-key-", secret).upper())


def _bech32(prefix: str, data: bytes) -> str:
    """Bytes as Bech32: five bits a character, and six characters that check them."""
    bits = "".join(f"{byte:08b}" for byte in data)
    values = [int(bits[place : place + 5].ljust(5, "0"), 2) for place in range(0, len(bits), 5)]
    spread = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    check = _polymod([*spread, *values, *[0] * 6]) ^ 1
    values += [check >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in values)}"


def _polymod(values: list[int]) -> int:
    found = 1
    for value in values:
        top = found >> 25
        found = (found & 0x1FFFFFF) << 5 ^ value
        for place, factor in enumerate(_GENERATOR):
            found ^= factor if top >> place & 1 else 0
    return found
