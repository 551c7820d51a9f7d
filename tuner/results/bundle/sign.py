"""Signatures of bundles (OpenSSF Model Signing): make keys, sign a bundle, check a signature."""

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

from tuner.errors import MissingPackage, RequestError
from tuner.results.bundle import manifest
from tuner.trust import keys

#: size limit of a signature, which has a line of text for each file
_MAX_BYTES = 16 * 1024**2
#: errors that the package raises for an invalid signature
_INVALID = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OSError)


def make_keys(private: Path) -> Path:
    """Make a pair of keys (ECDSA, P-256), the private one readable by its owner only; return the file of the public key.

    Raises:
        RequestError: a file exists already, or cannot be written.
    """
    _package("signing")  # it installs cryptography, too
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
    """Sign a bundle that matches its manifest; replace an earlier signature.

    Raises:
        RequestError: the bundle was changed after its export, or the key cannot be used, or others can read it.
    """
    problems = manifest.check(bundle)
    if problems:
        first = problems[0]
        raise RequestError(f"{bundle} was changed after its export, so it is not signed: {first.field} {first.message}")
    keys.read_secret(private)
    package = _package("signing")
    signature = bundle / manifest.SIGNATURE
    beside = bundle / f".{manifest.SIGNATURE}"
    try:
        config = package.Config().use_elliptic_key_signer(private_key=private)
        config.set_hashing_config(_hashing(beside.name)).sign(bundle, beside)
        beside.replace(signature)
    except (ValueError, TypeError) as error:
        raise RequestError(
            f"{private} is not a private key for signatures ({_line(error)}); make one with: tuner keygen sign FILE"
        ) from error
    except OSError as error:
        raise RequestError(f"{signature} cannot be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return signature


def refusal(bundle: Path, public: Path) -> str:
    """Return why the signature of a bundle is not valid for this key and these files; "" if it is valid.

    Raises:
        RequestError: the public key cannot be read or is invalid.
    """
    signature = bundle / manifest.SIGNATURE
    package = _package("verifying")
    try:
        config = package.Config().use_elliptic_key_verifier(public_key=public)
    except OSError as error:
        raise RequestError(f"{public} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(f"{public} is not a public key for signatures: {_line(error)}") from error
    from cryptography.exceptions import InvalidSignature

    try:
        with manifest.open_file(signature) as file:
            if len(file.read(_MAX_BYTES + 1)) > _MAX_BYTES:
                return f"has more than {_MAX_BYTES:,} bytes, so it is not a signature"
        # the package prints a remark on old signatures to stdout, where results go
        with contextlib.redirect_stdout(io.StringIO()):
            config.set_hashing_config(_hashing(manifest.SIGNATURE, f".{manifest.SIGNATURE}")).verify(bundle, signature)
    except FileNotFoundError:
        return "is missing: the bundle is not signed"
    except InvalidSignature:
        return "was changed, or belongs to other files"
    except _INVALID as error:
        return _line(error)
    return ""


def _hashing(*ignored: str) -> Any:
    return _package("hashing").Config().set_ignored_paths(paths=[manifest.SIGNATURE, *ignored], ignore_git_paths=False)


def _package(name: str) -> Any:
    """Import a module of model-signing.

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
