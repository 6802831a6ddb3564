"""Gate `approval`: a named person, who did not make the run, says yes to this very bundle at this very stage.

An approval is a small JSON file that its approver signs with a key of their own (Ed25519 or EC).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deploy.signing import read_private_key, read_public_key
from tasks.core import files, repository
from tasks.core.errors import UsageError
from tasks.core.settings import Approval as Rules
from tasks.promote.evidence import Evidence
from tasks.promote.words import Said


@dataclass(frozen=True)
class Approval:
    """Somebody's yes.

    Attributes:
        name: of the model.
        version: of the bundle.
        stage: where it may go.
        digest: SHA-256 of the bundle's manifest.
        approver: address of whoever said yes.
        expires: time, ISO 8601 with zone.
        signature: over all of the above, Base64; None if somebody who can reach the Prefect server
            typed the address there: Prefect itself must then keep strangers out.
    """

    name: str
    version: str
    stage: str
    digest: str
    approver: str
    expires: str
    signature: str | None = None

    @property
    def signed(self) -> bytes:
        """What the signature is over."""
        return files.canonical_json({**asdict(self), "signature": None}).encode()

    @property
    def how(self) -> str:
        """Who, and by what means."""
        return f"{self.approver} ({'in Prefect' if self.signature is None else 'by key'})"


def sign(wanted: Approval, key: Path, password: bytes | None = None) -> Approval:
    """The approval with its signature.

    Raises:
        UsageError: if the key is no private key of these kinds, or needs another password.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    private = _private(key, password)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        signature = private.sign(wanted.signed)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        signature = private.sign(wanted.signed, _ecdsa())
    else:
        raise UsageError(_KEYS, f"{key} is {type(private).__name__}", "make one with `assay keys new`")
    return replace(wanted, signature=base64.b64encode(signature).decode())


def approver_of(key: Path, rules: Rules, root: Path, password: bytes | None = None) -> str:
    """Whose key it is, by the public keys in the settings.

    Raises:
        UsageError: if it is nobody's.
    """
    public = _form(_private(key, password).public_key())
    for approver, path in rules.approvers.items():
        if path is not None and _form(_public(root / path)) == public:
            return approver
    known = ", ".join(name for name, path in rules.approvers.items() if path) or "nobody"
    rule = "the key of an approval is that of an approver in promote.approval.approvers"
    raise UsageError(rule, f"{key} is none of theirs ({known})", "enter the public key there, or use the right one")


def read(path: Path) -> Approval:
    """Read a file that :func:`write` wrote.

    Raises:
        UsageError: if it is none.
    """
    try:
        found = Approval(**files.read_json(path))
        if not isinstance(found.signature, str):  # only what Prefect hands over itself comes without
            raise ValueError("it is not signed")
        return found
    except (OSError, ValueError, TypeError) as error:
        way_out = "make one with `assay approve`"
        raise UsageError("an approval is a file that `assay approve` wrote", f"{path}: {error}", way_out) from error


def write(approval: Approval, path: Path) -> None:
    """Keep an approval for whoever promotes."""
    files.write_json(path, asdict(approval))


def until(days: float) -> str:
    """The moment at which an approval of now expires."""
    return (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")


def ask(
    wanted: Approval, evidence: Evidence, rules: Rules, root: Path, obtain: Callable[[], Approval | None]
) -> tuple[Said, str | None]:
    """Judge an approval.

    Args:
        wanted: what it must say; approver and expiry are not looked at.
        evidence: of the bundle.
        rules: of the settings.
        root: folder of the params file, in the repository.
        obtain: gives the approval, or None if nobody said yes.

    Returns:
        The word, and who approved.
    """
    if not rules.approvers:
        return Said("FAIL", "promote.approval.approvers names nobody who may say yes"), None
    commit = evidence.provenance.git.commit
    authors = repository.people(root, commit) if commit else ()
    if not authors:
        return Said("INCONCLUSIVE", f"nobody can tell who made commit {commit}: the repository has none like it"), None
    found = obtain()
    if found is None:
        way_out = "`assay approve` makes an approval; --approve-with KEY gives one; a flow run waits for one in Prefect"
        return Said("INCONCLUSIVE", f"nobody has said yes; {way_out}"), None
    problems = [*_differences(wanted, found), *_wrong(found, authors, rules, root)]
    figures: Mapping[str, Any] = {"approver": found.how, "expires": found.expires, "authors": list(authors)}
    said = f"{found.how} said yes, until {found.expires}"
    return Said("FAIL" if problems else "PASS", "; ".join(problems) or said, figures), found.how


def _differences(wanted: Approval, found: Approval) -> list[str]:
    return [
        f"the approval is for {key} {getattr(found, key)}, not {getattr(wanted, key)}"
        for key in ("name", "version", "stage", "digest")
        if getattr(found, key) != getattr(wanted, key)
    ]


def _wrong(found: Approval, authors: tuple[str, ...], rules: Rules, root: Path) -> list[str]:
    problems = []
    if found.approver.casefold() in {author.casefold() for author in authors}:
        problems.append(f"{found.approver} made the commit that the run was made from: somebody else must approve")
    if found.approver not in rules.approvers:
        problems.append(f"{found.approver} is none of promote.approval.approvers")
    elif found.signature is not None and not _is_theirs(found, rules.approvers[found.approver], root):
        problems.append(f"the signature is not one of {found.approver}")
    return [*problems, *_expired(found, rules)]


def _expired(found: Approval, rules: Rules) -> list[str]:
    try:
        left = datetime.fromisoformat(found.expires) - datetime.now(UTC)
    except (ValueError, TypeError):
        return [f"it has no time of expiry: {found.expires!r}"]
    if left <= timedelta():
        return [f"the approval expired at {found.expires}"]
    longest = timedelta(days=rules.valid_days)
    return [f"it is valid until {found.expires}, longer than {longest} from now"] if left > longest else []


def _is_theirs(found: Approval, key: str | None, root: Path) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if key is None:
        return False
    public = _public(root / key)
    try:
        signature = base64.b64decode(str(found.signature), validate=True)
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, found.signed)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, found.signed, _ecdsa())
        else:
            return False
    except (InvalidSignature, ValueError):
        return False
    return True


_KEYS = "a key is a PEM file of an Ed25519 or EC key"


def _ecdsa() -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(hashes.SHA256())


def _private(path: Path, password: bytes | None) -> Any:
    try:
        return read_private_key(path, password)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(_KEYS, f"{path}: {error}", "its password goes into ASSAY_SIGNING_PASSWORD") from error


def _public(path: Path) -> Any:
    try:
        return read_public_key(path)
    except (OSError, ValueError) as error:
        raise UsageError(_KEYS, f"{path}: {error}", "correct promote.approval.approvers") from error


def _form(public: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
