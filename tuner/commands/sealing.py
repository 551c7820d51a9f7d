"""`tuner keygen`, `sign`, `seal` and `unseal`: keys, and bundles that only some can have made or can open."""

import os
import sys
from getpass import getpass
from pathlib import Path
from typing import Literal

from tuner import wording
from tuner.data import room
from tuner.errors import RequestError
from tuner.results import manifest, sealing, signing
from tuner.terminal import plain
from tuner.trust import keys


def keygen(kind: Literal["seal", "sign"], to: Path) -> int:
    """Make a pair of keys; the public one of a seal is printed, that of a signature is a file beside the private one."""
    if kind == "sign":
        public = signing.make_keys(to)
        plain.line(f"{to} is the private key: keep it to yourself. Who has the public one can check what you sign:")
        plain.result(str(public))
        return 0
    identity = keys.pyrage().x25519.Identity.generate()
    recipient = keys.recipient_of(identity)
    keys.write_new(to, f"# public key: {recipient}\n{identity}\n".encode(), mode=0o600)
    plain.line(f"{to} is the secret key: keep it to yourself, and keep it, for nothing else opens what is sealed to this public key:")
    plain.result(str(recipient))
    return 0


def sign(bundle: Path, key: Path | None) -> int:
    """Sign a bundle."""
    if key is None:
        raise RequestError("there is no key to sign with; expected --key FILE, or TUNER_SIGNING_KEY=FILE in the environment")
    signature = signing.sign(bundle, key)
    plain.line(f"{bundle} is signed: {signature}. Who has your public key checks it with: tuner verify {bundle} --signature KEY.pub")
    return 0


def seal(bundle: Path, to: Path, recipients: list[str], passphrase_file: Path | None, *, force: bool) -> int:
    """Encrypt a bundle into one file."""
    num_bytes = sealing.seal(bundle, to, _lock(recipients, passphrase_file), replaces=force)
    plain.line(f"{to} holds {bundle}, sealed: {room.show_size(num_bytes)}. It is opened with: tuner unseal {to} --to FOLDER")
    return 0


def unseal(sealed: Path, to: Path, identity: Path | None, passphrase_file: Path | None) -> int:
    """Decrypt a sealed bundle into a folder."""

    def ask(needs_passphrase: bool) -> sealing.Key:
        if needs_passphrase:
            return sealing.Key(passphrase=keys.passphrase(passphrase_file) or _asked(sealed))
        return sealing.Key(identities=_identities(sealed, identity))

    found = sealing.unseal(sealed, to, ask)
    signed = ", and a signature that tuner verify checks" if (to / manifest.SIGNATURE).exists() else ""
    plain.line(f"{to} is the bundle as it was sealed: {wording.count(len(found.files), 'file')}{signed}.")
    return 0


def _lock(recipients: list[str], passphrase_file: Path | None) -> sealing.Lock:
    if recipients and passphrase_file is not None:
        raise RequestError("--recipient and --passphrase-file are both given; choose one.")
    if recipients:
        return sealing.Lock(recipients=keys.recipients(recipients))
    passphrase = keys.passphrase(passphrase_file)
    if passphrase is not None:
        return sealing.Lock(passphrase=passphrase)
    mine = keys.artifact_identities()
    if not mine:
        raise RequestError(
            f"nobody is named who may open it; expected --recipient age1…, --passphrase-file FILE, or {keys.PASSPHRASE} or "
            f"{keys.ARTIFACT_KEY} in the environment. A key is made with: tuner keygen seal FILE"
        )
    return sealing.Lock(recipients=[keys.recipient_of(identity) for identity in mine])


def _identities(sealed: Path, given: Path | None) -> list[object]:
    found = keys.identities(given) if given is not None else keys.artifact_identities()
    if not found:
        raise RequestError(f"{sealed} needs a key to be opened; expected --identity FILE, or {keys.ARTIFACT_KEY}=FILE in the environment")
    return found


def _asked(sealed: Path) -> str:
    if not sys.stdin.isatty():
        raise RequestError(
            f"{sealed} needs a passphrase to be opened; expected --passphrase-file FILE, or {keys.PASSPHRASE} in the environment"
        )
    return getpass(f"Passphrase of {os.fspath(sealed)}: ")
