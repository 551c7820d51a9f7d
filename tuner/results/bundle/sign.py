"""A bundle and a private key into a signature (OpenSSF Model Signing) that lies in the bundle, and it and a public key into why not."""

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

from tuner.errors import MissingPackage, RequestError
from tuner.results.bundle import manifest
from tuner.trust import keys

#: of a signature file; one of ours lists a line of text a file
_MAX_BYTES = 16 * 1024**2
#: what the package raises for a signature that is none
_NONSENSE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError)


def make_keys(private: Path) -> Path:
    """A new pair of keys (ECDSA, P-256), the private one closed to others: the file of the public one.

    Raises:
        RequestError: a file is there already, or cannot be written.
    """
    _package("signing")  # what follows comes with it
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = private.with_name(f"{private.name}.pub")
    if public.exists():
        raise RequestError(f"{public} exists, and a key is never overwritten; name another file")
    key = ec.generate_private_key(ec.SECP256R1())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    keys.write_new(private, key.private_bytes(pem, form, serialization.NoEncryption()), mode=0o600)
    keys.write_new(public, key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    return public


def sign(bundle: Path, private: Path) -> Path:
    """Sign a bundle as its manifest has it; an earlier signature is replaced.

    Raises:
        RequestError: the bundle is not as it was exported, or the key cannot be used, or others can read it.
    """
    problems = manifest.check(bundle)
    if problems:
        first = problems[0]
        raise RequestError(f"{bundle} is not as it was exported, so it is not signed: {first.field} {first.message}")
    keys.read_secret(private)
    package = _package("signing")
    signature = bundle / manifest.SIGNATURE
    beside = bundle / f".{manifest.SIGNATURE}"
    try:
        config = package.Config().use_elliptic_key_signer(private_key=private)
        config.set_hashing_config(_hashing(beside.name)).sign(bundle, beside)
        beside.replace(signature)
    except (ValueError, TypeError) as error:
        raise RequestError(f"{private} is no private key to sign with ({_line(error)}); make one with: tuner keygen sign FILE") from error
    except OSError as error:
        raise RequestError(f"{signature} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return signature


def refusal(bundle: Path, public: Path) -> str:
    """Why the signature of a bundle does not say that the owner of this key signed just these files; "" where it does.

    Raises:
        RequestError: the public key cannot be read, or is none.
    """
    signature = bundle / manifest.SIGNATURE
    package = _package("verifying")
    try:
        config = package.Config().use_elliptic_key_verifier(public_key=public)
    except OSError as error:
        raise RequestError(f"{public} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(f"{public} is no public key to check a signature with: {_line(error)}") from error
    from cryptography.exceptions import InvalidSignature

    try:
        with manifest.open_file(signature) as file:
            if len(file.read(_MAX_BYTES + 1)) > _MAX_BYTES:
                return f"has more than {_MAX_BYTES:,} bytes, which no signature has"
        # it has something to say of old signatures, on stdout, where results go
        with contextlib.redirect_stdout(io.StringIO()):
            config.set_hashing_config(_hashing(manifest.SIGNATURE, f".{manifest.SIGNATURE}")).verify(bundle, signature)
    except FileNotFoundError:
        return "is missing: the bundle is not signed"
    except InvalidSignature:
        return "was changed, or is another file's"
    except _NONSENSE as error:
        return _line(error)
    return ""


def _hashing(*ignored: str) -> Any:
    return _package("hashing").Config().set_ignored_paths(paths=[manifest.SIGNATURE, *ignored], ignore_git_paths=False)


def _package(name: str) -> Any:
    """A module of model-signing.

    Raises:
        MissingPackage: it is not installed.
    """
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise MissingPackage("model-signing", extra="sign", needed_for="signing") from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "public key hash" in text:
        return "was made with another key"
    return text if len(text) <= 300 else f"{text[:299]}…"
