"""The key of the artifacts, and the weights and checkpoints that lie there, into whether the one opens the others."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner import wording
from tuner.doctor import findings
from tuner.doctor.findings import Finding
from tuner.errors import RequestError
from tuner.trust import age, at_rest, keys

_SUBJECT = "encryption"
_FILES = ("*/trial-*/*.npz", "*/trial-*/checkpoint", "*/soup-*.npz")
#: files that are looked at; more of one study are of the same key
_MOST = 2000


def look(artifacts: Path) -> Iterator[Finding]:
    """What is to be said of a key that is set, or of files that need one; nothing where there is neither."""
    encrypted, plain = _parted(artifacts)
    try:
        identities = keys.artifact_identities()
    except RequestError as error:
        yield findings.problem(_SUBJECT, str(error), "workers do not start until it is mended")
        return
    if not identities:
        if encrypted:
            cure = f"set {keys.ARTIFACT_KEY} to that key, or to the file of it; without it they cannot be scored, exported or gone on from"
            yield findings.problem(_SUBJECT, f"{_files(encrypted)} encrypted, and {keys.ARTIFACT_KEY} is not set", cure)
        return
    locked = [path for path in encrypted if not _opens(path, identities)]
    if locked:
        cure = f"set {keys.ARTIFACT_KEY} to a file with that key too, a line each; without it they cannot be read"
        yield findings.problem(_SUBJECT, f"{_files(locked)} encrypted with another key than the one of {keys.ARTIFACT_KEY}", cure)
    if plain:
        what = "was" if len(plain) == 1 else "were"
        cure = "delete what is not needed any more; a trial that goes on encrypts its checkpoint from then on"
        yield findings.note(_SUBJECT, f"{_files(plain)} not encrypted, because there {what} no key when they were written", cure)
    if not locked and not plain:
        recipients = wording.listed(keys.recipient_of(identity) for identity in identities)
        yield findings.ok(_SUBJECT, f"weights and checkpoints are encrypted to {recipients}")


def _parted(artifacts: Path) -> tuple[list[Path], list[Path]]:
    """Encrypted files, and others."""
    found: tuple[list[Path], list[Path]] = ([], [])
    paths = itertools.chain.from_iterable(artifacts.glob(pattern) for pattern in _FILES)
    for path in itertools.islice(paths, _MOST):
        try:
            with path.open("rb") as file:
                found[0 if at_rest.is_encrypted(file) else 1].append(path)
        except FileNotFoundError:
            pass  # its trial has just ended
    return found


def _opens(path: Path, identities: list[Any]) -> bool:
    try:
        with path.open("rb") as file:
            return age.is_opened(file, identities)
    except FileNotFoundError:
        return True  # its trial has just ended


def _files(paths: list[Path]) -> str:
    """`3 files of weights and checkpoints, such as a/b, are`."""
    return f"{wording.count(len(paths), 'file')} of weights and checkpoints, such as {paths[0]}, {'is' if len(paths) == 1 else 'are'}"
