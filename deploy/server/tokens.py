"""Who may ask: bearer tokens in a file, which may change while the server runs."""

from __future__ import annotations

import hmac
from pathlib import Path

from deploy.errors import UsageError

_BEARER = b"bearer "
_SHORTEST = 16


class Tokens:
    """The accepted tokens, one a line; several let an old one be replaced without a gap."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UsageError: if it holds no token, or one that is too short to be a secret.
        """
        self._path = path
        self._seen = self._stamp()
        self._accepted = self._read()

    def refresh(self) -> None:
        """Read the file again if it changed. While it is not readable, nobody is let in.

        Raises:
            UsageError: as at the start.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen, self._accepted = stamp, ()
        self._accepted = self._read()

    def accept(self, authorization: bytes | None) -> bool:
        """Whether the value of an ``Authorization`` header carries one of them; takes as long for every wrong one."""
        if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
            return False
        given = authorization[len(_BEARER) :].strip()
        right = False
        for token in self._accepted:
            right |= hmac.compare_digest(given, token)
        return right

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> tuple[bytes, ...]:
        rule = f"a token file has one token a line, each of at least {_SHORTEST} characters"
        try:
            tokens = tuple(line.strip() for line in self._path.read_bytes().splitlines() if line.strip())
        except OSError as error:
            raise UsageError(rule, f"{self._path}: {error.strerror}", "name a readable file") from error
        if not tokens or any(len(token) < _SHORTEST for token in tokens):
            found = f"{self._path} has {'none' if not tokens else 'a shorter one'}"
            raise UsageError(rule, found, "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one")
        return tokens
