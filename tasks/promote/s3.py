"""A store in S3, or in whatever speaks its protocol and honours conditional writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.signing import SUFFIX, signature_path
from tasks.core import files
from tasks.core.errors import IntegrityError, MachineError
from tasks.promote.store import Blob, Moved

#: What S3 answers where a condition does not hold, or two conditional writes meet.
_LOST = {"PreconditionFailed", "ConditionalRequestConflict"}
_PROBE = ".conditional-writes"


class S3Store:
    """``s3://bucket/prefix``. Endpoint, region and credentials are those of the environment, as for any AWS tool.

    There is no lock: the first line to be appended to the log wins, by ``If-Match``.
    """

    def __init__(self, location: str) -> None:
        try:
            import s3fs
        except ImportError as error:
            way_out = "pip install '.[s3]'"
            raise MachineError("a store in S3 needs the package s3fs", str(error), way_out) from error
        self._location = location.rstrip("/")
        self._fs = s3fs.S3FileSystem(use_listings_cache=False)

    def read(self, key: str) -> Blob | None:
        """See :class:`Store`: bytes and ETag of one answer."""
        from fsspec.asyn import sync

        bucket, path, _ = self._fs.split_path(self._path(key))
        with self._told():
            try:
                answer = self._fs.call_s3("get_object", Bucket=bucket, Key=path)
            except FileNotFoundError:
                return None
            return Blob(sync(self._fs.loop, answer["Body"].read), answer["ETag"])

    def swap(self, key: str, data: bytes, before: Blob | None) -> None:
        """See :class:`Store`."""
        condition: dict[str, Any] = {"mode": "create"} if before is None else {"IfMatch": before.tag}
        with self._told():
            self._fs.pipe_file(self._path(key), data, **condition)

    def append(self, key: str, line: bytes, before: Blob | None, keep: int) -> None:
        """See :class:`Store`: S3 appends nothing, so the log is written anew, if it is still the one that was read."""
        self.swap(key, (before.data[:keep] if before else b"") + line, before)

    def locked(self, name: str) -> nullcontext[None]:  # noqa: ARG002 (as the protocol has it)
        """No lock: see the class."""
        return nullcontext()

    def holds(self, name: str, version: str) -> bool:
        """See :class:`Store`: the signature is the last to arrive."""
        with self._told():
            return bool(self._fs.exists(self._path(f"{name}/{version}{SUFFIX}")))

    def put(self, name: str, version: str, folder: Path, check: Callable[[Path], None]) -> None:
        """See :class:`Store`. What arrived is fetched and checked before the signature follows."""
        self._require_conditions(name)
        home = self._path(f"{name}/{version}")
        with self._told(), TemporaryDirectory(prefix="assay-") as scratch:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                self._fs.put_file(str(path), f"{home}/{path.relative_to(folder).as_posix()}")
            copy = Path(scratch, version)
            self._fs.get(f"{home}/", f"{copy}/", recursive=True)
            signature_path(copy).write_bytes(signature_path(folder).read_bytes())
            check(copy)
            self._fs.put_file(str(signature_path(folder)), home + SUFFIX)
        if self._fs.cat_file(home + SUFFIX) != signature_path(folder).read_bytes():
            raise IntegrityError("a copy must be what was sent", f"{home}{SUFFIX} differs", "promote again")

    @contextmanager
    def fetched(self, name: str, version: str) -> Iterator[Path]:
        """See :class:`Store`: a copy for the length of the block."""
        home = self._path(f"{name}/{version}")
        with TemporaryDirectory(prefix="assay-") as scratch:
            copy = Path(scratch, version)
            with self._told():
                self._fs.get(f"{home}/", f"{copy}/", recursive=True)
                self._fs.get_file(home + SUFFIX, str(signature_path(copy)))
            yield copy

    def _path(self, key: str) -> str:
        return f"{self._location}/{key}"

    def _require_conditions(self, name: str) -> None:
        """A server that ignores conditions would let two promotions both win."""
        probe = f"{name}/{_PROBE}"
        if self.read(probe) is None:
            self._quietly(probe, None)
        found = self.read(probe)
        wrong = Blob(b"", '"00000000000000000000000000000000"')
        if found is None or self._quietly(probe, None) or self._quietly(probe, wrong):
            raise MachineError(
                "a store in S3 must honour If-Match and If-None-Match",
                f"{self._location} writes whatever the condition",
                "use a server that does (AWS S3, and the newer of the others), or a folder",
            )

    def _quietly(self, key: str, before: Blob | None) -> bool:
        """Whether a swap is done."""
        try:
            self.swap(key, files.canonical_json({"probe": True}).encode(), before)
        except Moved:
            return False
        return True

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what S3 says into :class:`Moved`, or into an error that names the place."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (OSError, ClientError, BotoCoreError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, ClientError) else error
            code = cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None
            if code in _LOST:
                raise Moved(self._location) from error
            raise MachineError(
                "a store in S3 must answer",
                f"{self._location}: {type(error).__name__}: {error}",
                "look at its address (AWS_ENDPOINT_URL), its bucket, and the credentials of the environment",
            ) from error
