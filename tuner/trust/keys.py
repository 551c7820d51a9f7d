"""Keys and passphrases out of files and the environment, never out of an argument: a shell remembers those, and everyone sees them.

A passphrase and a salt into an age identity.

age's own passphrases take a gigabyte of memory and cannot be streamed by pyrage; here Argon2id (RFC 9106) makes the 32 bytes of an X25519
identity, and the rest is an ordinary age file. Who does not know the passphrase does not know the recipient either, so nobody else can
write a file that it opens.
"""

import importlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from argon2.low_level import Type, hash_secret_raw

from tuner.errors import MissingPackage, RequestError

#: an age identity, or the file that holds it: what weights and checkpoints are encrypted with, and what sealed bundles are opened with
ARTIFACT_KEY = "TUNER_ARTIFACT_KEY"
PASSPHRASE = "TUNER_PASSPHRASE"
SECRET, PUBLIC = "AGE-SECRET-KEY-1", "age1"
#: a passphrase protects what may be tried out for years, away from here
MIN_PASSPHRASE = 12
_MAX_BYTES = 64 * 1024


def pyrage() -> Any:
    """The package that encrypts.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module("pyrage")
    except ImportError as error:
        raise MissingPackage("pyrage", extra="seal", needed_for="encryption") from error


def identities(path: Path) -> list[Any]:
    """The age identities of a file, which open what is sealed to their recipients.

    Raises:
        RequestError: it cannot be read, others can read it, or it holds none.
    """
    lines = _lines(read_secret(path))
    found = [_identity(line, str(path)) for line in lines]
    if not found:
        raise RequestError(f"{path} holds no key; expected a line that begins with {SECRET}, as `tuner keygen seal {path}` writes it")
    return found


def artifact_identities() -> list[Any]:
    """The age identities that the environment names, none where it names none.

    Raises:
        RequestError: what it names is no key, or others can read it.
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
    """Whom to encrypt to: public keys `age1…`, or files that hold them, a line each.

    Raises:
        RequestError: one of them is neither.
    """
    found = []
    for one in given:
        if one.upper().startswith(SECRET):
            raise RequestError(
                f"--recipient is a secret key ({SECRET}…), and now your shell may remember it; give its public key, which begins with "
                f"{PUBLIC}, and make a new pair with: tuner keygen seal FILE"
            )
        found += [_recipient(line) for line in ([one] if one.startswith(PUBLIC) else _lines(_read(Path(one).expanduser())))]
    return found


def recipient_of(identity: Any) -> Any:
    """Whom to encrypt to, so that an identity opens it."""
    return identity.to_public()


def passphrase(path: Path | None) -> str | None:
    """The first line of a file, or what the environment says; None where neither is given.

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
    """The text of a file that only its owner may read.

    Raises:
        RequestError: it cannot be read, or others can read it.
    """
    return _read(path.expanduser(), is_secret=True)


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """A file that was not there before, with these permissions from its first moment.

    Raises:
        RequestError: it is there, or cannot be written.
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
                raise RequestError(f"{path} can be read by others (mode {mode & 0o777:04o}); close it: chmod 600 {path}")
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise RequestError(f"{path} has more than {_MAX_BYTES:,} bytes, which no key has")
        return content.decode()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} holds no text, and so no key") from error


def _lines(text: str) -> list[str]:
    return [line for part in text.splitlines() if (line := part.strip()) and not line.startswith("#")]


def _identity(line: str, origin: str) -> Any:
    package = pyrage()
    try:
        return package.x25519.Identity.from_str(line)
    except package.IdentityError as error:
        raise RequestError(f"{origin} holds a line that is no key of age; expected {SECRET} and 58 characters after it") from error


def _recipient(given: str) -> Any:
    package = pyrage()
    try:
        return package.x25519.Recipient.from_str(given)
    except package.RecipientError as error:
        raise RequestError(f"the recipient {given[:70]} is no public key of age; expected {PUBLIC} and 58 characters after it") from error


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
    return pyrage().x25519.Identity.from_str(_bech32("age-secret-key-", secret).upper())


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
