"""Room `retrain`: whether to train again, from evidence only: the new snapshot, the last accepted one, the rules.

It lies beyond the DAG: what is trained is trained by the stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.core.settings import Retrain
from tasks.retrain.compare import Finding, New, compare, new_rows
from tasks.retrain.page import page
from tasks.retrain.profile import profile

__all__ = ["Decision", "Finding", "New", "page", "profile", "retrain"]

_DAY = 86_400.0


@dataclass(frozen=True)
class Decision:
    """Whether to train, why, and what was found in the data.

    Attributes:
        word: ``TRAIN``, ``NOTHING`` (no reason to) or ``BROKEN`` (the data are refused).
        reason: in a sentence.
        findings: all that was compared.
    """

    word: str
    reason: str
    findings: Sequence[Finding]


def retrain(
    new: New, last: Mapping[str, Any] | None, when: datetime, rules: Retrain, forced: bool, because: str | None
) -> Decision:
    """Decide.

    Args:
        new: the snapshot.
        last: record of the last accepted run: ``when`` (ISO 8601) and ``snapshot`` (a profile); None before the first.
        when: this moment.
        rules: the settings.
        forced: train whatever is found.
        because: what asked for it, if it was no schedule (drift that `monitor` saw).
    """
    before = None if last is None else last["snapshot"]
    findings = compare(new, before, rules)
    broken = [one.found for one in findings if one.word == "failed"]
    if broken and not forced:
        return Decision("BROKEN", "; ".join(broken), findings)
    if forced:
        return Decision("TRAIN", "forced" + (f", in spite of: {'; '.join(broken)}" if broken else ""), findings)
    if last is None:
        return Decision("TRAIN", "the first run", findings)
    if because:
        return Decision("TRAIN", because, findings)
    reasons = [f"drift: {one.found}" for one in findings if one.word == "shifted"]
    reasons += _age(new, last, when, rules) + _volume(new, last, rules)
    if reasons:
        return Decision("TRAIN", "; ".join(reasons), findings)
    return Decision("NOTHING", "no drift, and the last accepted run is neither old nor much smaller", findings)


def _age(new: New, last: Mapping[str, Any], when: datetime, rules: Retrain) -> list[str]:
    moments = (new.summary["as_of"], last["snapshot"]["as_of"])
    after, before = moments if all(moments) else (when.isoformat(), last["when"])
    days = (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds() / _DAY
    old = rules.max_age_days is not None and days >= rules.max_age_days
    return [f"age: the last accepted run is {days:.1f} days old"] if old else []


def _volume(new: New, last: Mapping[str, Any], rules: Retrain) -> list[str]:
    share = new_rows(new, last["snapshot"]) / max(1, last["snapshot"]["rows"])
    enough = rules.min_new_share is not None and share >= rules.min_new_share
    return [f"volume: {share:.0%} more rows"] if enough else []
