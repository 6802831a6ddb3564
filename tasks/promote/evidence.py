"""What a bundle says of itself, read once at the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.bundle import manifest_digest
from deploy.signature import Signature
from tasks.core import files
from tasks.core.errors import IntegrityError

_SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    """Base of the schemas: what is asked for must be there; what else there is, is left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Line(_Part):
    """The metric of one exported file, with its intervals: a line of ``verdict.json``."""

    metric: str
    variant: str
    model_sha256: _SHA256
    original: float
    shipped: float
    shipped_interval: tuple[float, float] | tuple[None, None]
    drop: float
    bound: float | None
    margin: float
    n: int
    verdict: str


class Check(_Part):
    """One thing that the gate `verify` measured."""

    kind: str
    name: str
    variant: str = ""
    shipped: float | None
    verdict: str
    note: str = ""


class Verdict(_Part):
    """``verdict.json``."""

    verdict: str
    reason: str
    model_sha256: _SHA256
    lines: Annotated[tuple[Line, ...], Field(min_length=1)]
    checks: tuple[Check, ...] = ()
    figures: Mapping[str, Mapping[str, float | None]] = {}


class Metrics(_Part):
    """``metrics.json``."""

    metrics: Mapping[str, float]
    intervals: tuple[Mapping[str, Any], ...]


class Git(_Part):
    """State of the code that a bundle was made from."""

    commit: str | None
    dirty: bool | None
    reason: str = ""


class Provenance(_Part):
    """``provenance.json``."""

    created: str
    digest: _SHA256
    git: Git
    dvc: Mapping[str, str] | None
    content_hash: str | None
    splits: Mapping[str, str] = {}
    params: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Evidence:
    """A bundle's own words.

    Attributes:
        folder: where it lies.
        digest: SHA-256 of its manifest: the identity of every byte of it.
        signature: what the model takes and gives.
        verdict: of the gate `verify`.
        metrics: flat, of all stages.
        provenance: where it comes from.
    """

    folder: Path
    digest: str
    signature: Signature
    verdict: Verdict
    metrics: Metrics
    provenance: Provenance

    @staticmethod
    def read(folder: Path) -> Evidence:
        """Read and check the evidence of a bundle.

        Raises:
            IntegrityError: with everything that does not follow its schema.
        """
        problems: list[str] = []
        found: dict[str, Any] = {}
        for name, schema in (("verdict", Verdict), ("metrics", Metrics), ("provenance", Provenance)):
            try:
                found[name] = schema.model_validate(files.read_json(folder / f"{name}.json"))
            except ValidationError as error:
                problems += [f"{name}.json: {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
            except (OSError, ValueError) as error:
                problems.append(f"{name}.json: {error}")
        if problems:
            rule = "a bundle's evidence follows its schemas"
            raise IntegrityError(rule, f"{folder.name}: {'; '.join(problems)}", "export the bundle again")
        return Evidence(folder, manifest_digest(folder), Signature.read(folder / "signature.json"), **found)
