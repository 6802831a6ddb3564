"""Gathers what was found into one JSON value: ``results.json``, and all that the page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.settings import Validate
from tasks.core.splitting import TimeSplit
from tasks.validate.outcome import Outcome, plain
from tasks.validate.rules import PARTS
from tasks.validate.snapshot import Snapshot
from tasks.validate.splits import Parts, spans
from tasks.validate.target import Target

SCHEMA_VERSION = 1
_EXAMPLES = 3
#: Classes of a part whose counts are listed, and reasons whose first rows are shown.
_LISTED = 20


def gather(
    name: str,
    own: Validate,
    snapshot: Snapshot,
    outcomes: Sequence[Outcome],
    aside: Mapping[str, NDArray[np.int64]],
    splits: Sequence[Mapping[str, Any]],
    columns: Sequence[Mapping[str, Any]],
    by_design: Collection[str] = (),
) -> dict[str, Any]:
    """The whole result, of JSON values only; equal inputs give equal results (no times).

    Args:
        name: name of the model.
        own: the stage's settings.
        snapshot: the rows.
        outcomes: rules, columns and checks, in the order of the report.
        aside: reason -> int64 row numbers set aside for it.
        splits: from :func:`split_facts`, empty if there are none.
        columns: from :func:`~tasks.validate.profile.profile`.
        by_design: reasons that do not count against the share of rows that may be set aside.
    """
    unfit = [rows for reason, rows in aside.items() if reason not in by_design]
    set_aside = len(np.unique(np.concatenate(unfit))) if unfit else 0
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "verdict": "rejected" if any(o.outcome == "failed" for o in outcomes) else "accepted",
        "suite": own.suite,
        "rows": snapshot.rows,
        "content_hash": snapshot.content_hash,
        "counts": dict(Counter(outcome.outcome for outcome in outcomes)),
        "outcomes": [outcome.as_json() | {"title": outcome.title} for outcome in outcomes],
        "quarantine": {
            "rows": set_aside,
            "share": set_aside / snapshot.rows if snapshot.rows else 0.0,
            "max_share": own.max_quarantine_share,
            "reasons": [
                _reason(snapshot, reason, rows, _EXAMPLES if place < _LISTED else 0)
                for place, (reason, rows) in enumerate(aside.items())
            ],
        },
        "splits": [plain(split) for split in splits],
        "columns": [plain(column) for column in columns],
        "tensors": plain(snapshot.tensors),
    }


def _reason(snapshot: Snapshot, reason: str, rows: NDArray[np.int64], shown: int) -> dict[str, Any]:
    numbers = rows[:shown].tolist()
    examples = [{"row": number} | plain(row) for number, row in zip(numbers, snapshot.take(numbers), strict=True)]
    return {"reason": reason, "rows": len(rows), "share": len(rows) / snapshot.rows, "examples": examples}


def split_facts(snapshot: Snapshot, own: Validate, parts: Parts, target: Target) -> list[dict[str, Any]]:
    """Rows, share, classes and, for a split by time, first and last moment of every part."""
    times = spans(snapshot, own.split.column, parts) if isinstance(own.split, TimeSplit) else {}
    kept = int(np.count_nonzero(parts >= 0))
    facts = []
    for index, part in enumerate(PARTS):
        rows = parts == index
        counts = target.counts(rows).tolist()
        count = int(np.count_nonzero(rows))
        facts.append(
            {
                "name": part,
                "rows": count,
                "share": count / kept if kept else 0.0,
                "classes": {str(value): n for value, n in zip(target.classes[:_LISTED], counts, strict=False)},
                "more_classes": max(0, len(counts) - _LISTED),
                "positive_share": counts[1] / count if count and target.task == "binary" else None,
                "target": _spread(target.quantity[rows]) if count and target.quantity is not None else None,
                "from": _moment(times[index][0]) if index in times else None,
                "to": _moment(times[index][1]) if index in times else None,
            }
        )
    return facts


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _moment(microseconds: np.int64) -> str:
    return f"{np.datetime64(int(microseconds), 'us').astype('datetime64[s]')}Z"
