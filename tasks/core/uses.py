"""How often rows that were set aside have been used to judge. A test that is asked again and again ends by saying yes.

One candidate that is too bad is accepted with the error rate of the bound; of k such candidates, k times as many.
Whoever goes on until something is accepted selects that error (Dwork et al., The reusable holdout, Science 2015). It is
the same for the test set of `verify` and for the fresh rows of promotions.

The ledger is a file that anybody can remove. So rejected verdicts, run records and the provenance of bundles say which
judgement theirs was, and a ledger that knows of fewer is filled up from those that are there. Who removes all of these
starts anew, and nothing on this machine can prove it; a bundle that was given away still can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core import files
from tasks.core.errors import IntegrityError
from tasks.core.log import log
from tasks.core.measured import Measured

LEDGER = "test_uses.json"
SCHEMA_VERSION = 1
#: With bounds of 95 %, one accepted in error is expected among 20 candidates that are too bad, and five among 100.
WARN_AFTER, REFUSE_AFTER = 20, 100

#: What was judged (a file, by its hash), and what else the judgement depends on (its settings, by their hash).
Judgement = tuple[str, str]
_UNKNOWN: Judgement = ("unknown", "unknown")
#: The key of :func:`told` that differs from run to run.
NUMBERS = "judgements"
_FRESH = (
    "take a fresh one (a later validate.split.test_from on rows ingested anew, or another base.seed for a new random "
    "split)"
)


@dataclass(frozen=True)
class Past:
    """Judgements that other evidence than the ledger tells of: by their number, and those whose number is not known."""

    numbered: Mapping[int, Judgement] = field(default_factory=dict)
    others: Sequence[Judgement] = ()


def told(test_sha256: str, settings: str, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What a verdict says of its test set: which judgement on it each file's was (``numbers``, by the file's hash)."""
    return {"sha256": test_sha256, "settings": settings, NUMBERS: dict(numbers)}


def seen(test_sha256: str, evidence: Iterable[Path]) -> Past:
    """Judgements on a test set that verdicts, run records and provenances tell of.

    A file that is not there, not whole, or older than this tells nothing; it may be the one that is to be replaced.
    """
    numbered: dict[int, Judgement] = {}
    others: list[Judgement] = []
    for path in filter(Path.is_file, evidence):
        try:
            about, models = _about(files.read_json(path))
            if about.get("sha256") != test_sha256:
                continue
            settings, numbers = str(about["settings"]), about.get(NUMBERS, {})
            numbered |= {int(number): (str(model), settings) for model, number in numbers.items()}
            others += [(model, settings) for model in models if model not in numbers]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s does not say which judgement it was: %s", path, type(error).__name__)
    return Past(numbered, others)


def _about(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """What a file says of its test set (:func:`told`, as it lies there), and models that it judges without a number."""
    if "verdict" in raw:
        return raw["test"], [str(line["model_sha256"]) for line in raw["lines"]]
    record = raw.get("runs", {"verify": raw})["verify"]  # a bundle's provenance has the run records
    # Words in their place: `verify` was not run on the machine that exported.
    return (record["measured"]["test"] if isinstance(record, dict) else {}), []


def count(
    folder: Path,
    sha256: str,
    judgement: Judgement,
    warn_after: int = WARN_AFTER,
    refuse_after: int = REFUSE_AFTER,
    known: Past | None = None,
    rows: str = "test set",
    way_out: str = _FRESH,
) -> Measured:
    """Enter a judgement into the ledger, before it is made, and tell which one it is.

    The very same judgement keeps the number that it got first. The file is replaced as a whole, so that a kill leaves
    the old or the new one.

    Args:
        folder: where ``test_uses.json`` lies.
        sha256: hash of the rows.
        judgement: that is to be made.
        warn_after: judgements without a warning.
        refuse_after: judgements that are allowed.
        known: judgements that other evidence tells of (:func:`seen`).
        rows: what the rows are called.
        way_out: what to do when they have judged too often.

    Returns:
        A line of kind ``use``, whose ``n`` is the number of this judgement, from 1.

    Raises:
        IntegrityError: if the ledger is not readable.
        MachineError: if the disk refuses.
    """
    number, restored = _enter(folder, sha256, judgement, known or Past())
    note = f"judgement {number} on this {rows}"
    if restored:
        note += f"; the ledger lacked {restored} judgements that earlier verdicts tell of: it was removed or replaced"
    problems: tuple[str, ...] = ()
    if number > refuse_after:
        problems = (f"this {rows} has been used for {number} judgements, {refuse_after} are allowed: {way_out}",)
    elif number > warn_after:
        note += f"; more than {warn_after}: an acceptance means less and less, plan another {rows}"
    return Measured(
        "use", f"uses of the {rows}", "nothing_found", number, "INCONCLUSIVE", problems=problems, note=note, varies=True
    )


def _enter(folder: Path, test: str, judgement: Judgement, known: Past) -> tuple[int, int]:
    """The number of a judgement, and how many earlier ones the ledger lacked."""
    from filelock import FileLock

    path = folder / LEDGER
    with files.machine_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{LEDGER}.lock"):
            ledger = _read(path)
            uses = ledger.setdefault(test, [])
            had, numbered = len(uses), known.numbered
            uses += [_use(numbered.get(number, _UNKNOWN)) for number in range(had + 1, max(numbered, default=0) + 1)]
            for other in map(_use, known.others):
                uses += [] if other in uses else [other]
            lacked, use = len(uses) - had, _use(judgement)
            uses += [] if use in uses else [use]
            files.write_json(path, {"schema_version": SCHEMA_VERSION, "tests": ledger})
            return uses.index(use) + 1, lacked


def carry(source: Path, target: Path) -> None:
    """Enter the judgements of one folder's ledger that another one's lacks, after its own.

    Raises:
        IntegrityError: if a ledger is not readable.
        MachineError: if the disk refuses.
    """
    from filelock import FileLock

    if not (source / LEDGER).is_file():
        return
    with files.machine_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / f".{LEDGER}.lock"):
            ledger = _read(target / LEDGER)
            for test, uses in _read(source / LEDGER).items():
                own = ledger.setdefault(test, [])
                own += [use for use in uses if use not in own]
            files.write_json(target / LEDGER, {"schema_version": SCHEMA_VERSION, "tests": ledger})


def _use(judgement: Judgement) -> dict[str, str]:
    return {"model": judgement[0], "settings": judgement[1]}


def _read(path: Path) -> dict[str, list[dict[str, str]]]:
    """Hash of the rows -> their judgements, oldest first."""
    try:
        if not path.exists():
            return {}
        raw: dict[str, Any] = files.read_json(path)
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {raw['schema_version']}")
        return {
            str(test): [{"model": str(use["model"]), "settings": str(use["settings"])} for use in uses]
            for test, uses in raw["tests"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"the ledger of a test set's uses must be readable, with schema version {SCHEMA_VERSION}",
            f"{path}: {type(error).__name__}: {error}",
            "restore it from a copy; without one, take a fresh test set and remove the file",
        ) from error
