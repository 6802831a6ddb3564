"""Who wants what of a promotion, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.store import is_word
from tasks.core import files
from tasks.core.errors import UsageError
from tasks.core.settings import Params
from tasks.promote import server, store
from tasks.promote.approval import Approval
from tasks.promote.moves import STAGES
from tasks.promote.store import Store
from tasks.promote.words import Said

#: Under `artifacts_dir`: what the gates said, of each promotion.
RECORDS = "promotions"


@dataclass(frozen=True)
class Asked:
    """Who wants what.

    Attributes:
        params: the checked params file.
        root: its folder.
        name: of the model.
        stage: ``staging`` or ``prod``.
        who: whoever runs this.
        why: in words.
        version: of the bundle; None, for a rollback, is the one before.
        force: go on where a gate that may be overruled gives no PASS.
        audit_report: of `pip-audit`, made elsewhere.
        obtain: gives an approval of what it is shown, or None; for production alone.
        server: how the server is started: bundle's folder and public key in, command out.
    """

    params: Params
    root: Path
    name: str
    stage: str
    who: str
    why: str
    version: str | None = None
    force: bool = False
    audit_report: Path | None = None
    obtain: Callable[[Approval], Approval | None] = lambda wanted: None  # noqa: ARG005 (nobody is there to ask)
    server: Callable[[Path, Path], Sequence[str]] = server.command

    @property
    def store(self) -> Store:
        """Where promoted bundles are kept."""
        return store.find(self.params.promote.store, self.root)

    @property
    def public_key(self) -> Path:
        """Whose signature is trusted."""
        return self.root / self.params.promote.public_key

    @property
    def artifacts(self) -> Path:
        """Folder of all stages' outputs."""
        return self.root / self.params.base.artifacts_dir


@dataclass
class Record:
    """What was asked of a bundle, and what each gate said."""

    asked: Asked
    version: str
    digest: str = ""
    said: dict[str, Said] = field(default_factory=dict)
    approver: str | None = None

    @property
    def forced(self) -> bool:
        """Whether a gate was overruled."""
        return self.asked.force and any(one.word != "PASS" for one in self.said.values())

    def write(self, word: str) -> Path:
        """Keep it in ``<artifacts>/promotions``, with a word for the whole."""
        told = self._as_dict(word)
        folder = self.asked.artifacts / RECORDS
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        path = folder / f"{moment}-{self.asked.stage}-{self.version}.json"
        with files.machine_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            files.write_json(path, told)
        return path

    def _as_dict(self, word: str) -> dict[str, Any]:
        gates = [
            {"gate": name, "word": one.word, "reason": one.reason, "figures": dict(one.figures)}
            for name, one in self.said.items()
        ]
        asked = self.asked
        own = {"name": asked.name, "version": self.version, "stage": asked.stage, "digest": self.digest}
        about = {"who": asked.who, "why": asked.why, "forced": self.forced, "approver": self.approver}
        return {**own, **about, "when": now(), "word": word, "gates": gates}


def check(asked: Asked) -> None:
    """Every mistake at once.

    Raises:
        UsageError: naming them.
    """
    problems = _wrong_name(asked.params, asked.name)
    if asked.version is not None and not is_word(asked.version):
        problems.append(f"{asked.version!r} is no version")
    if asked.stage not in STAGES:
        problems.append(f"{asked.stage} is no stage: choose one of {', '.join(STAGES)}")
    if not asked.public_key.is_file():
        problems.append(f"promote.public_key: {asked.public_key} does not exist (`assay keys new` makes a pair)")
    if asked.audit_report is not None and not asked.audit_report.is_file():
        problems.append(f"{asked.audit_report} does not exist")
    if asked.force and not asked.why.strip():
        problems.append("--force needs a --reason")
    if problems:
        rule = "a promotion needs a model, a bundle, a stage and a public key"
        raise UsageError(rule, "; ".join(problems), "correct each of these")


def check_name(params: Params, name: str) -> None:
    """Raise :class:`UsageError` if the params file is about another model."""
    if problems := _wrong_name(params, name):
        raise UsageError("NAME is the model of the params file", problems[0], "name another params file: --params")


def _wrong_name(params: Params, name: str) -> list[str]:
    return [] if name == params.base.name else [f"the params file is about {params.base.name}, not {name}"]


def now() -> str:
    """This moment in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
