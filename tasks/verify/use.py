"""How often a test set has been used to judge. A test that is asked again and again ends by saying yes.

One candidate that is too bad is accepted with the error rate of the bound; of k such candidates, k times as many.
Whoever goes on until something is accepted selects that error (Dwork et al., The reusable holdout, Science 2015).

The ledger is a file that anybody can remove. So each verdict says which judgement it was, and a ledger that knows of
fewer than the verdicts that still lie there (the last ones, and those in bundles) is filled up from them. Who removes
all of these starts anew, and nothing on this machine can prove it; a bundle that was given away still can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

#: A file that was judged, by its hash, and the hash of the settings of that judgement.
Judgement = tuple[str, str]
_UNKNOWN: Judgement = ("unknown", "unknown")


def told(test_sha256: str, settings: str, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What a verdict says of its test set: which judgement on it each file's was (``numbers``, by the file's hash)."""
    return {"sha256": test_sha256, "settings": settings, "judgements": dict(numbers)}


def seen(test_sha256: str, verdicts: Iterable[Path]) -> dict[int, Judgement]:
    """Judgements on a test set that verdicts tell of, by their number.

    A file that is not there, not whole, or older than this tells nothing; it may be the one that is to be replaced.
    """
    found: dict[int, Judgement] = {}
    for path in filter(Path.is_file, verdicts):
        try:
            about = files.read_json(path)["test"]
            numbers = {
                int(number): (str(model), str(about["settings"])) for model, number in about["judgements"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("verify: %s does not say which judgement it was: %s", path, type(error).__name__)
            continue
        if about["sha256"] == test_sha256:
            found |= numbers
    return found


def count(
    folder: Path,
    test_sha256: str,
    model_sha256: str,
    settings: str,
    warn_after: int = WARN_AFTER,
    refuse_after: int = REFUSE_AFTER,
    known: Mapping[int, Judgement] | None = None,
) -> Measured:
    """Enter a judgement into the ledger, before it is made, and tell which one it is.

    The same file judged with the same settings keeps the number that it got first. The file is replaced as a whole, so
    that a kill leaves the old or the new one.

    Args:
        folder: where ``test_uses.json`` lies.
        test_sha256: hash of the test split.
        model_sha256: hash of the exported file.
        settings: hash of the settings of the judgement.
        warn_after: judgements without a warning.
        refuse_after: judgements that are allowed.
        known: judgements that other evidence tells of (:func:`seen`).

    Returns:
        A line of kind ``use``, whose ``n`` is the number of this judgement, from 1.

    Raises:
        IntegrityError: if the ledger is not readable.
        MachineError: if the disk refuses.
    """
    number, restored = _enter(folder, test_sha256, (model_sha256, settings), known or {})
    note = f"judgement {number} on this test set"
    if restored:
        note += f"; the ledger lacked {restored} judgements that earlier verdicts tell of: it was removed or replaced"
    problems: tuple[str, ...] = ()
    if number > refuse_after:
        problems = (
            f"this test set has been used for {number} judgements, {refuse_after} are allowed: take a fresh one "
            "(a later validate.split.test_from on rows ingested anew, or another base.seed for a new random split)",
        )
    elif number > warn_after:
        note += f"; more than {warn_after}: an acceptance means less and less, plan a fresh test set"
    return Measured(
        "use", "uses of the test set", "nothing_found", number, "INCONCLUSIVE", problems=problems, note=note
    )


def _enter(folder: Path, test: str, judgement: Judgement, known: Mapping[int, Judgement]) -> tuple[int, int]:
    """The number of a judgement, and how many earlier ones the ledger lacked."""
    from filelock import FileLock

    path = folder / LEDGER
    with files.machine_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{LEDGER}.lock"):
            ledger = _read(path)
            uses = ledger.setdefault(test, [])
            lacking = max(max(known, default=0) - len(uses), 0)
            uses += [_use(known.get(len(uses) + place + 1, _UNKNOWN)) for place in range(lacking)]
            use = _use(judgement)
            if use not in uses:
                uses.append(use)
            files.write_json(path, {"schema_version": SCHEMA_VERSION, "tests": ledger})
            return uses.index(use) + 1, lacking


def _use(judgement: Judgement) -> dict[str, str]:
    return {"model": judgement[0], "settings": judgement[1]}


def _read(path: Path) -> dict[str, list[dict[str, str]]]:
    """Hash of a test split -> its judgements, oldest first."""
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
