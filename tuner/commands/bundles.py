"""`tuner keygen`, `sign`, `seal`, `unseal`, `predict` and `verify`: sign, encrypt, use and check bundles."""

import dataclasses
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tuner import machine, wording
from tuner.cache import entries
from tuner.commands import options, storage_url
from tuner.commands.origin import LocalSettings
from tuner.errors import RequestError
from tuner.protocol import errands
from tuner.results.bundle import bundle, custom_bundle, examples, manifest
from tuner.results.bundle import seal as bundle_seal
from tuner.results.bundle import sign as bundle_sign
from tuner.results.verify import verification
from tuner.spec import data
from tuner.spec.hyperparameters import TargetKind
from tuner.storage import engine as storages
from tuner.tasks.images.data import dataset, folder_files
from tuner.tasks.images.data import image_file as image_files
from tuner.terminal import plain, printing, versions
from tuner.trust import keys
from tuner.workers.worker import evaluation

#: numbers of an output that are printed
_SHOWN_NUMBERS = 8


def keygen(kind: Literal["seal", "sign"], to: Path) -> int:
    """Create a key pair. The public key for seals is printed, the public key for signatures is written beside the private one."""
    if kind == "sign":
        public = bundle_sign.make_keys(to)
        plain.line(f"{to} is the private key: keep it secret. Everyone with the public key can check your signatures:")
        plain.result(str(public))
        return 0
    identity = keys.pyrage().x25519.Identity.generate()
    recipient = keys.recipient_of(identity)
    keys.write_new(to, f"# public key: {recipient}\n{identity}\n".encode(), mode=0o600)
    plain.line(f"{to} is the secret key: keep it secret, and do not lose it. Only it decrypts bundles that are sealed for this public key:")
    plain.result(str(recipient))
    return 0


def sign(bundle: Path, key: Path | None) -> int:
    """Sign a bundle."""
    if key is None:
        raise RequestError("there is no key to sign with; expected --key FILE, or TUNER_SIGNING_KEY=FILE in the environment")
    signature = bundle_sign.sign(bundle, key)
    plain.line(f"{bundle} is signed: {signature}. Check it with your public key: tuner verify {bundle} --signature KEY.pub")
    return 0


def seal(bundle: Path, to: Path, recipients: list[str], passphrase_file: Path | None, *, force: bool) -> int:
    """Encrypt a bundle into one file."""
    num_bytes = bundle_seal.seal(bundle, to, _recipients(recipients, passphrase_file), replaces=force)
    plain.line(f"Sealed {bundle} as {to}, {entries.show_size(num_bytes)}. Decrypt it with: tuner unseal {to} --to FOLDER")
    return 0


def unseal(sealed: Path, to: Path, identity: Path | None, passphrase_file: Path | None) -> int:
    """Decrypt a sealed bundle into a folder."""

    def ask(needs_passphrase: bool) -> bundle_seal.OpeningKey:
        if needs_passphrase:
            return bundle_seal.OpeningKey(passphrase=keys.passphrase(passphrase_file) or _ask_passphrase(sealed))
        return bundle_seal.OpeningKey(identities=_identities(sealed, identity))

    found = bundle_seal.unseal(sealed, to, ask)
    signed = " It has a signature: check it with tuner verify." if (to / manifest.SIGNATURE).exists() else ""
    plain.line(f"Decrypted the bundle to {to}: {wording.count(len(found.files), 'file')}.{signed}")
    return 0


def _recipients(recipients: list[str], passphrase_file: Path | None) -> bundle_seal.Recipients:
    if recipients and passphrase_file is not None:
        raise RequestError("--recipient and --passphrase-file are both given; choose one.")
    if recipients:
        return bundle_seal.Recipients(recipients=keys.recipients(recipients))
    passphrase = keys.passphrase(passphrase_file)
    if passphrase is not None:
        return bundle_seal.Recipients(passphrase=passphrase)
    mine = keys.artifact_identities()
    if not mine:
        raise RequestError(
            f"nothing says who may decrypt the bundle; expected --recipient age1…, --passphrase-file FILE, or {keys.PASSPHRASE} or "
            f"{keys.ARTIFACT_KEY} in the environment. Create a key with: tuner keygen seal FILE"
        )
    return bundle_seal.Recipients(recipients=[keys.recipient_of(identity) for identity in mine])


def _identities(sealed: Path, given: Path | None) -> list[object]:
    found = keys.identities(given) if given is not None else keys.artifact_identities()
    if not found:
        raise RequestError(f"{sealed} needs a key; expected --identity FILE, or {keys.ARTIFACT_KEY}=FILE in the environment")
    return found


def _ask_passphrase(sealed: Path) -> str:
    if not sys.stdin.isatty():
        raise RequestError(f"{sealed} needs a passphrase; expected --passphrase-file FILE, or {keys.PASSPHRASE} in the environment")
    return getpass(f"Passphrase of {os.fspath(sealed)}: ")


def predict(folder: Path, given: Sequence[str], *, top: int, as_json: bool, threads: int, to: Path | None = None) -> int:
    """Print the most likely classes of images, or the outputs of a user model; return 1 if some images cannot be read, else 0."""
    if bundle.is_of_code(folder.expanduser()):
        return _predict_arrays(folder.expanduser(), given, to=to, as_json=as_json, threads=threads)
    if to is not None:
        raise RequestError(f"--to is {to}, but {folder} is a bundle of an image classifier, whose predictions are printed; drop --to.")
    contents = bundle.read(folder.expanduser())
    paths = _files(given)
    order = errands.PredictImages(
        path=str(contents.model),
        images=tuple(map(str, paths)),
        size=contents.size,
        resize=contents.resize,
        value_range=contents.value_range,
    )
    answer = evaluation.run(order, threads=threads)
    assert isinstance(answer, errands.ImagePredictions)
    read = [(path, row) for path, row in zip(paths, answer.probabilities, strict=True) if row is not None]
    if as_json:
        predictions = [{"image": str(path), **in_plain(row, contents, top)} for path, row in read]
        plain.result(json.dumps(predictions, indent=2, ensure_ascii=False))
    else:
        for path, row in read:
            plain.result(f"{image_files.name_of(str(path))}: {in_line(row, contents, top)}")
    unreadable = [message for message in answer.troubles if message]
    for message in unreadable:
        plain.line(message)
    return 1 if unreadable else 0


def in_plain(row: Sequence[float], contents: bundle.Contents, top: int) -> dict[str, Any]:
    """Return the prediction for an image, for JSON."""
    if contents.kind is TargetKind.NUMBER:
        return {"name": contents.labels[0], "number": row[0]}
    if contents.kind is TargetKind.LABELS:
        each = zip(contents.labels, row, contents.thresholds, strict=True)
        every = [{"label": label, "probability": value, "threshold": threshold} for label, value, threshold in each]
        return {"labels": [label for label, _ in _present(row, contents)], "predictions": every}
    return {"predictions": [{"label": label, "probability": value} for label, value in _most_likely(row, contents.labels, top)]}


def in_line(row: Sequence[float], contents: bundle.Contents, top: int) -> str:
    """Return the prediction for an image in words: the likeliest classes, the labels above their thresholds, or the number."""
    if contents.kind is TargetKind.NUMBER:
        return f"{wording.visible(contents.labels[0])} {row[0]:.5g}"
    found = _present(row, contents) if contents.kind is TargetKind.LABELS else _most_likely(row, contents.labels, top)
    return ", ".join(f"{wording.visible(label)} {value:.3f}" for label, value in found) or "no label"


def _present(row: Sequence[float], contents: bundle.Contents) -> list[tuple[str, float]]:
    """Return the labels whose probability reaches their threshold, the likeliest first."""
    limits = dict(zip(contents.labels, contents.thresholds, strict=True))
    return [(label, value) for label, value in _most_likely(row, contents.labels, len(row)) if value >= limits[label]]


def _predict_arrays(folder: Path, given: Sequence[str], *, to: Path | None, as_json: bool, threads: int) -> int:
    """Predict the examples of a file, and print the outputs, one line for each example, or write them to an .npz file."""
    if len(given) != 1:
        raise RequestError(f"{len(given)} files are given, but a model of yours predicts one file at a time; name one.")
    if to is not None and (to.suffix.lower() != ".npz" or not to.expanduser().absolute().parent.is_dir()):
        raise RequestError(f"--to is {to}; expected a file that ends in .npz, in a folder that exists.")
    path = data.existing(Path(given[0]).expanduser())
    interface = custom_bundle.read(folder)
    given_arrays = examples.read(path, interface.inputs)
    with tempfile.TemporaryDirectory(prefix="tuner-predict-") as scratch:
        asked, found = Path(scratch) / "asked.npz", Path(scratch) / "found.npz"
        np.savez(asked, **given_arrays)  # type: ignore[arg-type]
        num_examples = custom_bundle.predict(folder, interface, asked, found, threads=threads)
        if to is not None:
            shutil.copyfile(found, to.expanduser())
            plain.line(f"Wrote {to}: the outputs of {wording.count(num_examples, 'example')}.")
            return 0
        with np.load(found, allow_pickle=False) as outputs:
            _print_outputs([(one, outputs[one.name]) for one in interface.outputs], as_json=as_json)
    return 0


def _print_outputs(outputs: Sequence[tuple[errands.ModelOutput, NDArray[Any]]], *, as_json: bool) -> None:
    for number in range(len(outputs[0][1])):
        row = {one.name: (one.meaning, array[number]) for one, array in outputs}
        if as_json:
            plain.result(json.dumps({name: _as_plain(values) for name, (_, values) in row.items()}))
        else:
            texts = {name: _in_words(meaning, values) for name, (meaning, values) in row.items()}
            told = texts.values() if len(texts) == 1 else [f"{name} {text}" for name, text in texts.items()]
            plain.result(f"{number}: {'; '.join(told)}")


def _as_plain(values: NDArray[Any]) -> Any:
    """Return an output of one example for JSON: a number if it has one only; what is not finite is null."""
    if values.size == 1:
        number = values.reshape(()).item()
        return number if math.isfinite(number) else None
    return [_as_plain(each) if each.ndim else _as_plain(each.reshape(1)) for each in values]


def _in_words(meaning: errands.Meaning, values: NDArray[Any]) -> str:
    if meaning == "probabilities" and values.ndim == 1:
        return f"class {int(values.argmax())} {values.max():.3f}"
    flat = values.reshape(-1)
    rest = f" … ({flat.size:,} numbers)" if flat.size > _SHOWN_NUMBERS else ""
    return " ".join(f"{number:.5g}" for number in flat[:_SHOWN_NUMBERS]) + rest


def _most_likely(row: Sequence[float], labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    order = sorted(range(len(row)), key=lambda index: -row[index])[:top]
    return [(labels[index], row[index]) for index in order]


def _files(given: Sequence[str]) -> list[Path]:
    """Return the given files, and the images of the given folders and their sub-folders, which a study would read too.

    Raises:
        RequestError: a folder has no images, or a path is a URL, a path of Windows, an archive, a table or a pattern without files.
    """
    for text in given:
        _check_image(text)
    found: list[Path] = []
    for path in (data.existing(Path(text).expanduser()) for text in given):
        if not path.is_dir():
            found.append(path)
            continue
        inner, others = folder_files.image_files(str(path))
        misnamed = folder_files.say_misnamed([str(path)], others)
        if not inner:
            endings = ", ".join(sorted(image_files.SUFFIXES))
            raise RequestError("; ".join([f"the folder {path} has no images; expected files that end in {endings}", *misnamed]))
        for line in misnamed:
            plain.line(f"{path}: {line}")
        if others:
            plain.line(f"{path}: ignored because of their names: {dataset.count(others.total(), 'file')} ({dataset.list_kinds(others)})")
        found += sorted(map(Path, inner))
    return found


def _check_image(text: str) -> None:
    """Refuse what is neither an image nor a folder, with what to do."""
    path = Path(text)
    if not path.exists():
        try:
            data.check_path(text)
        except ValueError as error:
            raise RequestError(f"IMAGE {error}") from error
        if any(sign in text for sign in "*?["):
            raise RequestError(f"IMAGE is {wording.show(text)}, but no file matches it; give image files, or a folder of them")
    elif path.is_file() and folder_files.is_archive(path):
        raise RequestError(f"{path} is an archive; unpack it with: {folder_files.unpack(text)}, and give the folder")
    elif path.is_file() and path.suffix.lower() in folder_files.TABLES:
        raise RequestError(f"{path} is a table; expected image files, or a folder of them. Give the images that it names")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """The options of `tuner verify`."""

    signature: Path | None
    require: Path | None
    #: where the images of the test split are on this machine
    data: Path | None
    robustness: bool
    images: int
    tolerance: float
    cache: Path | None
    #: database of the version that the bundle was exported from
    storage: str


def verify(bundle: Path, asked: VerifyOptions, *, as_json: bool) -> int:
    """Verify a bundle and print the results; return 1 if a check failed, else 0."""
    if asked.require is not None and verification.answers(bundle)[0].kind is TargetKind.NUMBER:
        raise RequestError(
            f"--require is {asked.require}, a file of minimum accuracies, but {bundle} has a model that predicts numbers; drop --require"
        )
    wanted = verification.VerificationOptions(
        key=asked.signature,
        requirements=None if asked.require is None else verification.read(asked.require),
        is_robustness_wanted=asked.robustness,
        most_images=asked.images,
        tolerance=asked.tolerance,
        cache=options.cache_folder(asked.cache),
        localize=LocalSettings(data=asked.data, allowed_code=(), wait_seconds=0).localize,
        needs_data=asked.data is not None,
    )
    report = verification.verify(bundle, wanted, tell=plain.line)
    reading = _reading(bundle, report, asked)
    if reading is not None:
        report = dataclasses.replace(report, checks=(*report.checks, reading))
    if as_json:
        plain.result(json.dumps(_as_json(bundle, report), indent=2, ensure_ascii=False))
    else:
        if printing.stdout().is_terminal:
            printing.result(versions.verification_table(report))
        else:
            plain.result(versions.verification_lines(report))
        printing.result(*versions.robustness(report))
        plain.line(f"{bundle} passed verification." if report.is_good else f"{bundle} failed verification. Do not load it.")
    return 0 if report.is_good else 1


def _reading(bundle: Path, report: verification.Report, asked: VerifyOptions) -> verification.Check | None:
    """Record that the test split was read, and return the outcome as a check.

    None: it was not read, or the bundle was exported from a trial.
    """
    if report.measured is None or report.measured.test is None:
        return None
    metrics, _ = verification.recorded(bundle)
    if metrics.get("version") is None:
        return None
    named = verification.version_of(metrics)
    if named is None:
        return verification.unrecorded("the bundle does not name its version")
    if not storage_url.exists(asked.storage):
        where = storages.shown(asked.storage)
        return verification.unrecorded(f"{where} does not exist; name the database of version {named[0]} {named[1]} with --storage")
    return verification.record(asked.storage, named, report.measured.test, tolerance=asked.tolerance, by=machine.user_name())


def _as_json(bundle: Path, report: verification.Report) -> dict[str, object]:
    measured = report.measured
    return {
        "bundle": str(bundle),
        "good": report.is_good,
        "checks": [{"name": check.name, "outcome": check.outcome.value, "found": list(check.found)} for check in report.checks],
        "measured": None if measured is None else measured.model_dump(mode="json", exclude={"kind"}),
    }
