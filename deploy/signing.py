"""Says who made a bundle: a detached signature beside its folder, ``<version>.sig``, made and checked offline.

The signature is that of the `model-signing` library: a statement of the SHA-256 of every file, in a Sigstore bundle.
Its own command line (``model_signing verify key``) checks it, too. Only an elliptic-curve key in a file is read here; a
key in a token, or a certificate, is another :class:`Signer` and :class:`Verifier`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from deploy.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from model_signing import hashing

SUFFIX = ".sig"
PRIVATE, PUBLIC = "assay.key", "assay.pub"

_MOST_BYTES = 8 << 20
#: Raw bytes, with which the library says that a file was changed.
_DIGESTS = re.compile(r": Expected .+?, Actual .+?\)\\*'")
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class Signer(Protocol):
    """Whoever vouches for a folder."""

    def sign(self, folder: Path, signature: Path) -> None:
        """Write the signature of every file below ``folder``. Raises ValueError if one of them is a link."""


class Verifier(Protocol):
    """Whoever knows what a signer's signatures look like."""

    def verify(self, folder: Path, signature: Path) -> None:
        """Raises an exception, of any type, unless the signature is the signer's and of exactly these files."""


def signature_path(folder: Path) -> Path:
    """Where the signature of a bundle lies."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (`resolve` would follow links)
    return folder.with_name(folder.name + SUFFIX)


def new_keys(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """Make a key pair on the curve P-256, as PEM.

    Args:
        folder: where :data:`PRIVATE` (readable by its owner alone) and :data:`PUBLIC` are written.
        password: encrypts the private key.

    Returns:
        The private and the public key's file.

    Raises:
        UsageError: if one of them is there.
    """
    with _library():
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / PRIVATE, folder / PUBLIC
    if taken := [str(path) for path in (private, public) if os.path.lexists(path)]:
        raise UsageError("a key is never overwritten", f"{', '.join(taken)} exists", "name another folder")
    key = ec.generate_private_key(ec.SECP256R1())
    secrecy = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    folder.mkdir(parents=True, exist_ok=True)
    _write_new(private, key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, secrecy), 0o600)
    _write_new(public, _pem(key.public_key()), 0o644)
    return private, public


def read_private_key(path: Path, password: bytes | None) -> Any:
    """The private key in a PEM file, of any kind.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if it is encrypted and there is no password, or the other way round.
        ValueError: if it is no key, one on a curve that the library does not know, or the password does not open it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = path.read_bytes()
    try:
        return load_pem_private_key(pem, password)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    except ValueError as error:
        # What one wrong password in 256 "decrypts" ends like a whole key: then the library calls the key malformed.
        if b"ENCRYPTED" in pem:
            raise ValueError("Incorrect password, or a damaged key") from error
        raise


def read_public_key(path: Path) -> Any:
    """The public key in a PEM file, of any kind.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no key, or one on a curve that the library does not know.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return load_pem_public_key(path.read_bytes())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error


def sign(folder: Path, private_key: Path, password: bytes | None = None) -> Path:
    """Sign a folder with a key: whole or not at all, in place of any other signature than a good one by this very key.

    Returns:
        The signature's file.

    Raises:
        UsageError: if there is no such folder or key, or the password does not open it.
        IntegrityError: if the folder holds a link or something that is no file.
    """
    signer = KeySigner(private_key, password)
    return signature_path(folder) if signer.has_signed(folder) else sign_with(signer, folder)


def sign_with(signer: Signer, folder: Path) -> Path:
    """:func:`sign` with any signer."""
    if not folder.is_dir():
        raise UsageError("what is signed is a folder", f"{folder} is none", "name a bundle's folder")
    path = signature_path(folder)
    partial = path.with_name(f".{path.name}.tmp")
    try:
        signer.sign(folder, partial)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    except ValueError as error:
        raise IntegrityError("only plain files are signed", f"{folder}: {error}", "export the bundle anew") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def verify(folder: Path, public_key: Path) -> None:
    """Check that the signature beside a folder was made with the key's other half, of exactly the files below it.

    Raises:
        UsageError: if the key is none.
        IntegrityError: if there is no signature, it is another key's, or a file was added, removed, changed or linked.
    """
    verify_with(KeyVerifier(public_key), folder)


def verify_with(verifier: Verifier, folder: Path) -> None:
    """:func:`verify` with any verifier."""
    path = signature_path(folder)
    way_out = "fetch the bundle and its signature anew, from whoever signed it"
    rule = "a bundle must have the signature that its maker gave it"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_BYTES:
        found = "is no plain file of a signature's size" if os.path.lexists(path) else "does not exist"
        raise IntegrityError(rule, f"{path} {found}", way_out)
    try:
        verifier.verify(folder, path)
    except Exception as error:  # a dozen types of four libraries, all meaning "not this signature"
        raise IntegrityError(rule, f"{path} is not of these files: {_reason(error)}", way_out) from error


class KeySigner:
    """Signs with an elliptic-curve key in a PEM file, encrypted or not."""

    def __init__(self, private_key: Path, password: bytes | None = None) -> None:
        with _library():
            from model_signing import signing
        way_out = "`assay keys new` makes one; its password goes into ASSAY_SIGNING_PASSWORD"
        with _key_errors(private_key, way_out):
            key = read_private_key(private_key, password)
            _check_curve(key)
        self._public = _pem(key.public_key())
        # The library's annotation of the password says text; what it is handed to takes bytes.
        secret: Any = password
        self._config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)

    def sign(self, folder: Path, signature: Path) -> None:
        """See :class:`Signer`."""
        self._config.set_hashing_config(_every_file()).sign(folder, signature)

    def has_signed(self, folder: Path) -> bool:
        """Whether the signature beside a folder is this key's, and of exactly the files below it."""
        with TemporaryDirectory() as scratch:
            public = Path(scratch, PUBLIC)
            public.write_bytes(self._public)
            try:
                verify(folder, public)
            except IntegrityError:
                return False
        return True


class KeyVerifier:
    """Knows signatures by the public half of an elliptic-curve key, in a PEM file."""

    def __init__(self, public_key: Path) -> None:
        with _library():
            from model_signing import verifying
        with _key_errors(public_key, f"name the {PUBLIC} of whoever signed the bundle"):
            _check_curve(read_public_key(public_key))
        self._config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)

    def verify(self, folder: Path, signature: Path) -> None:
        """See :class:`Verifier`."""
        self._config.set_hashing_config(_every_file()).verify(folder, signature)


def _every_file() -> hashing.Config:
    """The library would leave Git's files out, which could then be added to a signed bundle."""
    from model_signing import hashing

    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def _pem(public_key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return bytes(public_key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))


def _check_curve(key: Any) -> None:
    curve = getattr(getattr(key, "curve", None), "name", "none")
    if curve not in _CURVES:
        raise ValueError(f"its curve is {curve}, and must be one of {', '.join(_CURVES)}")


@contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        way_out = 'pip install ".[sign]"'
        raise UsageError("signatures need the libraries that make them", f"no module {error.name}", way_out) from error


@contextmanager
def _key_errors(key: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, TypeError) as error:  # TypeError: a password is missing, or given for nothing
        found = f"{key}: {_reason(error)}"
        raise UsageError("a key is an elliptic-curve key in a PEM file", found, way_out) from error


def _reason(error: Exception) -> str:
    """The first line of what an exception says, or its type, if it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = next(iter(str(error).splitlines()), "") or f"not valid for this key ({type(error).__name__})"
    return _DIGESTS.sub("", said).replace("\\", "")


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
