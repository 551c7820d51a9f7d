"""Keys and passphrases, from files and the environment; never from an argument, which a shell remembers and other users can see.

age's own passphrases need a gigabyte of memory, and pyrage cannot stream them. So Argon2id (RFC 9106) turns a passphrase and a salt into an
X25519 identity, and the rest is an ordinary age file. Only the passphrase gives the recipient, so nobody else can write a file that it
opens.
"""

import importlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw

from tuner.errors import MissingPackage, RequestError

#: environment variable with an age identity or its file, which encrypts weights and checkpoints and opens sealed bundles
ARTIFACT_KEY = "TUNER_ARTIFACT_KEY"
PASSPHRASE = "TUNER_PASSPHRASE"
SECRET, PUBLIC = "AGE-SECRET-KEY-1", "age1"
#: smallest number of characters of a passphrase; an attacker with the file may try passphrases for years
MIN_PASSPHRASE = 12
#: size limit of a file with keys
_MAX_BYTES = 64 * 1024
SALT_BYTES = 16
#: cost of Argon2id, fixed by the version in a sealed file's first line, so no file can demand more
_MEMORY_KIB, _ROUNDS, _LANES = 46 * 1024, 3, 1
#: alphabet and checksum of Bech32 (BIP 173), the text form of age keys
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def pyrage() -> Any:
    """Import the package for encryption.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        raise MissingPackage("pyrage", extra="seal", needed_for="encryption") from error


def identities(path: Path) -> list[Any]:
    """Read the age identities of a file.

    Raises:
        RequestError: it cannot be read, others can read it, or it holds no identity.
    """
    lines = _lines(read_secret(path))
    found = [_identity(line, str(path)) for line in lines]
    if not found:
        raise RequestError(f"{path} holds no key; expected a line that starts with {SECRET}, as `tuner keygen seal {path}` writes it")
    return found


def artifact_identities() -> list[Any]:
    """Return the age identities that the environment names; [] if it names none.

    Raises:
        RequestError: the named key is invalid, or others can read it.
    """
    given = os.environ.get(ARTIFACT_KEY, "").strip()
    if not given:
        return []
    if given.upper().startswith(SECRET):
        return [_identity(given, ARTIFACT_KEY)]
    try:
        return identities(Path(given).expanduser())
    except RequestError as error:
        raise RequestError(f"{ARTIFACT_KEY}: {error}") from error


def recipients(given: Sequence[str]) -> list[Any]:
    """Read recipients from public keys `age1…`, or from files with a public key on each line.

    Raises:
        RequestError: one of them is neither.
    """
    found = []
    for one in given:
        if one.upper().startswith(SECRET):
            raise RequestError(
                f"--recipient is a secret key ({SECRET}…), and your shell may remember it now; name its public key, which starts with "
                f"{PUBLIC}, and make a new pair of keys with: tuner keygen seal FILE"
            )
        lines = [one] if one.startswith(PUBLIC) else _lines(_read(Path(one).expanduser()))
        if any(line.upper().startswith(SECRET) for line in lines):
            raise RequestError(f"--recipient is {one}, which has a secret key; expected public keys, which start with {PUBLIC}")
        found += [_recipient(line) for line in lines]
    return found


def recipient_of(identity: Any) -> Any:
    """Return the recipient of an identity."""
    return identity.to_public()


def passphrase(path: Path | None) -> str | None:
    """Return the passphrase from the first line of a file or from the environment; None if neither is given.

    Raises:
        RequestError: the file cannot be read, others can read it, or the passphrase is too short.
    """
    if path is not None:
        found, origin = (read_secret(path).splitlines() or [""])[0], str(path)
    elif os.environ.get(PASSPHRASE):
        found, origin = os.environ[PASSPHRASE], PASSPHRASE
    else:
        return None
    if len(found) < MIN_PASSPHRASE:
        raise RequestError(f"the passphrase in {origin} has {len(found)} characters; expected at least {MIN_PASSPHRASE}")
    return found


def read_secret(path: Path) -> str:
    """Read a file that only its owner can read.

    Raises:
        RequestError: it cannot be read, or others can read it.
    """
    return _read(path.expanduser(), is_secret=True)


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Write a new file with these permissions from the start.

    Raises:
        RequestError: the file exists, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        raise RequestError(f"{path} exists, and a key is never overwritten; name another file") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)


def _read(path: Path, *, is_secret: bool = False) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if is_secret and stat.S_ISREG(mode) and mode & 0o077:
                raise RequestError(f"{path} can be read by others (mode {mode & 0o777:04o}); restrict it: chmod 600 {path}")
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise RequestError(f"{path} has more than {_MAX_BYTES:,} bytes, so it is not a key")
        return content.decode()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not a text file, so it is not a key") from error


def _lines(text: str) -> list[str]:
    return [line for part in text.splitlines() if (line := part.strip()) and not line.startswith("#")]


def _identity(line: str, origin: str) -> Any:
    package = pyrage()
    try:
        return package.x25519.Identity.from_str(line)
    except package.IdentityError as error:
        raise RequestError(f"{origin} holds a line that is not an age key; expected {SECRET} and 58 more characters") from error


def _recipient(given: str) -> Any:
    package = pyrage()
    try:
        return package.x25519.Recipient.from_str(given)
    except package.RecipientError as error:
        raise RequestError(f"the recipient {given[:70]} is not a public age key; expected {PUBLIC} and 58 more characters") from error


def identity(passphrase: str, salt: bytes) -> Any:
    """Return the identity of a passphrase and a salt."""
    secret = hash_secret_raw(
        passphrase.encode(), salt, time_cost=_ROUNDS, memory_cost=_MEMORY_KIB, parallelism=_LANES, hash_len=32, type=Type.ID
    )
    return pyrage().x25519.Identity.from_str(_bech32("age-secret-key-", secret).upper())


def _bech32(prefix: str, data: bytes) -> str:
    """Encode bytes as Bech32: five bits for each character, and six characters of checksum."""
    bits = "".join(f"{byte:08b}" for byte in data)
    values = [int(bits[index : index + 5].ljust(5, "0"), 2) for index in range(0, len(bits), 5)]
    spread = [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]
    check = _polymod([*spread, *values, *[0] * 6]) ^ 1
    values += [check >> 5 * (5 - index) & 31 for index in range(6)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in values)}"


def _polymod(values: list[int]) -> int:
    found = 1
    for value in values:
        top = found >> 25
        found = (found & 0x1FFFFFF) << 5 ^ value
        for index, factor in enumerate(_GENERATOR):
            found ^= factor if top >> index & 1 else 0
    return found
