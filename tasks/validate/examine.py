"""Examines a snapshot: rules, checks, quarantine and split, in the order in which they need one another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.settings import Base, Validate
from tasks.core.splitting import PredefinedSplit
from tasks.validate import describe, interactions, rules, splits, tensors
from tasks.validate.interactions import Interactions
from tasks.validate.judge import Judge
from tasks.validate.outcome import Outcome
from tasks.validate.results import split_facts
from tasks.validate.snapshot import Mask
from tasks.validate.splits import Parts
from tasks.validate.target import Target, read_target


@dataclass
class Findings:
    """What came out.

    Attributes:
        outcomes: of the rules, the suite's columns and its checks, in this order.
        reasons: reason -> int64 row numbers set aside for it, ascending.
        target: the target, if it is fit for use.
        parts: int8 [rows], the split, if the rows can be split.
        split_facts: sizes, classes and times of the parts.
        by_design: the reasons that say nothing bad of a row (repeated interactions, the k-core).
        interactions: the rows as a recommender reads them.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    reasons: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    target: Target | None = None
    parts: Parts | None = None
    split_facts: list[dict[str, Any]] = field(default_factory=list)
    by_design: frozenset[str] = frozenset()
    interactions: Interactions | None = None

    @property
    def failed(self) -> list[Outcome]:
        """What rejects the rows."""
        return [outcome for outcome in self.outcomes if outcome.outcome == "failed"]


def examine(judge: Judge, base: Base, own: Validate) -> Findings:
    """Judge the rows and split those that are left; nothing is written.

    Raises:
        UsageError: if a check cannot be evaluated because its arguments do not fit its column.
        AssayError: if a check cannot be evaluated for another reason (a bug).
    """
    snapshot, found = judge.snapshot, Findings()
    found.outcomes += rules.about_table(snapshot, base, own.split)
    if snapshot.rows:
        unusable = tensors.unusable(snapshot)
        aside = judge.quarantine()
        for rows in unusable.values():
            aside[rows] = True
        found.outcomes.append(rules.about_quarantine(aside, own.max_quarantine_share))
        found.reasons = {_reason(judge.outcomes[number]): rows for number, rows in judge.set_aside.items()} | unusable
        examine_rest = _examine_interactions if base.workload == "recommender" else _examine_rest
        examine_rest(judge, base, own, ~aside, found)
    not_run = {number: describe.not_run(check, "there are no rows") for number, check in enumerate(judge.suite.checks)}
    found.outcomes += judge.columns()
    found.outcomes += [outcome for _, outcome in sorted((not_run | judge.outcomes).items())]
    return found


def _examine_rest(judge: Judge, base: Base, own: Validate, keep: Mask, found: Findings) -> None:
    snapshot = judge.snapshot
    unfit = {outcome.column for outcome in found.failed}
    if base.target not in unfit:
        found.target, outcomes = read_target(snapshot, base, keep)
        found.outcomes += outcomes
    if keep.any():
        judge.rest(keep, found.target)
    judge.complain()
    if unfit & {getattr(own.split, "column", None), getattr(own.split, "group", None)} - {None}:
        return
    outcomes = list(rules.about_split_column(snapshot, own.split, keep))
    found.outcomes += outcomes
    if found.target is None or any(outcome.outcome == "failed" for outcome in outcomes):
        return
    found.parts = splits.assign(own.split, snapshot, keep, found.target, base.seed)
    if isinstance(own.split, PredefinedSplit) and own.split.group:
        found.outcomes.append(rules.about_groups(snapshot, own.split.group, found.parts))
    found.outcomes += rules.about_parts(found.parts, found.target, own.calibration_rows)
    found.split_facts = split_facts(snapshot, own, found.parts, found.target)


def _examine_interactions(judge: Judge, base: Base, own: Validate, keep: Mask, found: Findings) -> None:
    snapshot = judge.snapshot
    found.outcomes += interactions.about_table(snapshot, base, own.split)
    if keep.any():
        judge.rest(keep, Target(np.zeros(snapshot.rows, np.int16), (), "ranking"))
    judge.complain()
    if any(outcome.outcome == "failed" for outcome in found.outcomes):
        return
    values = list(interactions.about_values(snapshot, base, keep))
    values += rules.about_split_column(snapshot, own.split, keep)
    found.outcomes += values
    if any(outcome.outcome == "failed" for outcome in values):
        return
    rows = found.interactions = interactions.read(snapshot, base)
    by_design = interactions.set_aside(rows, keep, own.min_interactions)
    found.reasons, found.by_design = {**found.reasons, **by_design}, frozenset(by_design)
    size = list(interactions.about_size(rows, keep))
    found.outcomes += size
    if all(outcome.outcome == "passed" for outcome in size):
        found.parts = interactions.assign(own.split, snapshot, rows, keep)
        found.outcomes += interactions.about_parts(rows, found.parts, own.calibration_rows)
        found.split_facts = interactions.split_facts(rows, found.parts, rules.PARTS)


def _reason(outcome: Outcome) -> str:
    return outcome.title + (f" ({outcome.because})" if outcome.because else "")
