"""Gate `champion`: the bundle must be shown to be no worse than what serves, on rows that neither has seen.

The test is the one of the gate `verify` (:mod:`tasks.core.statistics`, :mod:`tasks.core.verdict`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import files, manifest, tensors, uses
from tasks.core.errors import DataRejected
from tasks.core.margins import absolute
from tasks.core.measured import Measured, proof
from tasks.core.metrics import find
from tasks.core.scoring import Exported, score_served
from tasks.core.splitting import TimeSplit, group_column, moment
from tasks.core.statistics import paired
from tasks.core.verdict import Terms, judge
from tasks.promote.evidence import Evidence
from tasks.promote.words import Said, Word

if TYPE_CHECKING:
    import pyarrow as pa

FRESH = "fresh.parquet"
_WORDS: Mapping[str, Word] = {"ACCEPT": "PASS", "INCONCLUSIVE": "INCONCLUSIVE"}


@dataclass(frozen=True)
class Rules:
    """How two bundles are compared: see the sections ``verify`` and (``target``) ``promote`` of the settings."""

    margin: float | str | None
    confidence: float
    resamples: int
    seed: int
    target: str | None
    warn_after: int = uses.WARN_AFTER
    refuse_after: int = uses.REFUSE_AFTER


def ask(challenger: Evidence, champion: Evidence | None, validated: Path, rules: Rules) -> Said:
    """Compare what would serve with what serves.

    Args:
        challenger: the bundle.
        champion: what serves at the stage; None before the first release.
        validated: output of the stage `validate`, with the fresh rows; beside it lies the ledger of their uses.
        rules: of the comparison.
    """
    if champion is None:
        return Said("PASS", "the first release: there is no champion to compare with", {"champion": None})
    version = champion.folder.name
    if champion.digest == challenger.digest:
        return Said("PASS", f"{version} is the champion itself", {"champion": version})
    made = manifest.read(validated)
    if problem := _not_fresh(challenger, champion, made, validated / FRESH):
        return Said("INCONCLUSIVE", problem, {"champion": version})
    return _compare(challenger, champion, made.facts, validated / FRESH, rules)


def _used(challenger: Evidence, champion: Evidence, fresh: Path, rules: Rules) -> Measured:
    """The line that says how often the fresh rows have judged; each bundle, champion and set of rules counts once."""
    compared = hashlib.sha256(f"{champion.digest} {files.canonical_json(asdict(rules))}".encode()).hexdigest()
    return uses.count(
        fresh.parents[1], files.sha256(fresh), (challenger.digest, compared), rules.warn_after, rules.refuse_after,
        rows="set of fresh rows", way_out="wait for newer ones (a later validate.split.fresh_from)",
    )  # fmt: skip


def _compare(challenger: Evidence, champion: Evidence, facts: Mapping[str, Any], fresh: Path, rules: Rules) -> Said:
    import pyarrow.parquet as pq

    task, version = facts["task"], champion.folder.name
    if _meaning(champion) != _meaning(challenger):
        said = f"{version} answers {_meaning(champion)}, this bundle {_meaning(challenger)}"
        return Said("INCONCLUSIVE", f"the two mean different things: {said}", {"champion": version})
    rows = pq.read_table(fresh)
    metric = find(challenger.verdict.lines[0].metric, task)
    labels = _labels(rows, facts)
    if len(labels) == 0 or metric.support(labels) == 0:
        return Said("INCONCLUSIVE", f"{metric.name} has no value on {len(labels)} fresh rows", {"champion": version})
    used = _used(challenger, champion, fresh, rules)
    theirs, ours = (
        score_served(one.folder, _columns(rows, one, facts), rules.target) for one in (champion, challenger)
    )
    together = group_column(facts["split"])
    groups = None if together is None else np.asarray(rows[together].to_numpy(zero_copy_only=False))
    found = paired(metric, labels, theirs.answers, ours.answers, groups, rules.confidence, rules.resamples, rules.seed)
    margin = absolute(rules.margin, metric, found.original)
    limits = Terms(rules.confidence, math.inf, found.rarest, metric.bounded)
    verdict = judge([proof(metric.name, found, margin), used], limits)
    word = _WORDS.get(verdict.verdict, "FAIL")
    figures = files.without_nan(asdict(found))
    figures = figures | {"champion": version, "metric": metric.name, "margin": margin, "uses": used.n}
    figures |= {"targets": {"champion": theirs.target, "challenger": ours.target}}
    pair = f"{_variant(ours)}against {_variant(theirs, 'of ')}{version}"
    said = f"{pair} on {found.n} fresh rows: {verdict.reason.replace('test rows', 'fresh rows')}; {used.note}"
    return Said(word, said, figures)


def _variant(one: Exported, of: str = "") -> str:
    """Whose variant answered, in words."""
    return "" if one.target is None else f"variant {one.target} {of}"


def _not_fresh(challenger: Evidence, champion: Evidence, made: manifest.Manifest, fresh: Path) -> str:
    """Why the rows are not proven to be fresh to both; empty if they are.

    The challenger's manifest names the very file that was set aside beside it. The champion saw the same splits, or its
    own split by the same column ended before the first of these rows.
    """
    entry = made.files.get(FRESH)
    if entry is None:
        ways = "a fresh_from or fresh_days (or `fresh` in the column that it follows)"
        return f"there are no fresh rows: give validate.split {ways}"
    own, other = challenger.provenance.splits, champion.provenance.splits
    if own.get(FRESH) != entry.sha256:
        return f"{fresh} is not the one that was set aside when this bundle was made: `dvc checkout` its commit"
    if shared := _shared(fresh):
        return shared
    if own == other:
        return ""
    return _seen_later(champion, made.facts["split"], fresh)


def _shared(fresh: Path) -> str:
    """Which split of this bundle holds one of the rows; empty if none does."""
    import pyarrow.parquet as pq

    rows = pq.read_table(fresh, columns=["row"])["row"].to_numpy()
    for name in ("train", "validation", "test"):
        own = pq.read_table(fresh.with_name(f"{name}.parquet"), columns=["row"])["row"].to_numpy()
        if shared := len(np.intersect1d(rows, own)):
            return f"{name} holds {shared} of the fresh rows"
    return ""


def _seen_later(champion: Evidence, split: Mapping[str, Any], fresh: Path) -> str:
    """Why a champion of other splits may have seen these rows; empty if it cannot."""
    name, raw = champion.folder.name, champion.provenance.params.get("validate", {}).get("split", {})
    if split.get("by") != "time" or (raw.get("by"), raw.get("column")) != ("time", split.get("column")):
        return f"nothing shows that {name} has not seen these rows: its splits are others, and not by the same time"
    given = champion.provenance.params.get("ingest", {}).get("as_of")
    as_of = None if given is None else moment(datetime.fromisoformat(given))
    theirs = TimeSplit.model_validate_json(files.canonical_json(raw)).at(as_of)
    end = as_of if theirs.fresh_from is None else theirs.boundaries[-1]
    if end is None:
        return f"nothing shows that {name} has not seen these rows: its test had no end (validate.split.fresh_from)"
    first = _first(fresh, theirs.column)
    if first < end:
        return f"{name} has seen rows up to {end.isoformat()}, the fresh ones begin at {first.isoformat()}"
    return ""


def _first(fresh: Path, column: str) -> datetime:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    times = pq.read_table(fresh, columns=[column])[column].cast(pa.timestamp("us", "UTC"))
    found: datetime = pc.min(times).as_py()
    return found


def _meaning(one: Evidence) -> list[Any]:
    """What the judged output says: its labels."""
    return list(one.signature.outputs[0].labels or ())


def _labels(rows: pa.Table, facts: Mapping[str, Any]) -> np.ndarray:
    """The target, [rows]: class index, or a quantity.

    Raises:
        DataRejected: if it holds something else.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    target = rows[facts["target"]]
    if facts["task"] == "regression":
        values = np.asarray(target.to_numpy(zero_copy_only=False), np.float32)
        strange = ~np.isfinite(values)
    else:
        found = pc.index_in(target, value_set=pa.array(facts["classes"], target.type))
        values = pc.fill_null(found.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        strange = values < 0
    if strange.any():
        rule = f"the target {facts['target']} of fresh rows is one that the model knows"
        raise DataRejected(rule, f"{int(strange.sum())} rows hold something else", "look at the suite of checks")
    return np.asarray(values)


def _columns(rows: pa.Table, one: Evidence, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a bundle reads of the rows, each as its signature takes it.

    Raises:
        DataRejected: if a column is not there.
    """
    found: dict[str, np.ndarray] = {}
    for tensor in one.signature.inputs:
        if tensor.name not in rows.column_names:
            rule = f"fresh rows have the columns that {one.folder.name} reads"
            raise DataRejected(rule, f"no {tensor.name}", "rows that both read are needed")
        column, shape = rows[tensor.name], facts["tensors"].get(tensor.name)
        found[tensor.name] = _values(column) if shape is None else tensors.to_numpy(column, shape)
    converted = one.signature.tensors(found)
    # Between processes, texts are arrays of fixed width, not Python objects.
    return {name: array.astype(np.str_) if array.dtype == object else array for name, array in converted.items()}


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """A column of single values: text, or numbers with NaN where there is none."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        return np.asarray(column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False))
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    if pa.types.is_boolean(column.type) and column.null_count:
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    return values
