"""Privacy: whether the exported file tells more of who was in train than the original does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tasks.core.measured import Measured
from tasks.core.metrics import Auc
from tasks.core.metrics.metric import Array
from tasks.verify.behaviour import bootstrap, errors, resamples
from tasks.verify.case import Case

#: Largest rise of the attack's AUC, which is 0.5 for an attacker who learns nothing: one pair of rows in fifty more is
#: told apart.
LEAK = 0.02
#: Rows of either side: the AUC of so many is known to better than 0.005, its rise far better.
ROWS = 10_000


def measure(
    case: Case, labels: Array, original: Array, shipped: Array, leak: float = LEAK, rows: int = ROWS
) -> list[Measured]:
    """AUC of the attack that takes rows of small loss for rows of train (Yeom et al., CSF 2018), original and shipped.

    Train and test may differ in more than that one was trained on, as where they are of different times; the attack
    then finds a difference in any model, and the rise from one model to the other is what compression did.

    Args:
        case: answers to rows of test, which are the non-members.
        labels: of rows of train, [m]: the members.
        original: answers of the original to them, [m, ...].
        shipped: answers of the exported file, [m, ...].
        leak: margin of the AUC's rise.
        rows: most rows of either side; of more, so many are drawn at random.

    Raises:
        ValueError: if answers do not fit the task.
    """
    members, others = (_some(count, rows, case.seed) for count in (len(labels), len(case.labels)))
    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    attacks = [
        Auc(
            is_member,
            -np.concatenate(
                [
                    errors(case.task, labels[members], own[members]),
                    errors(case.task, case.labels[others], strange[others]),
                ]
            ),
        )
        for own, strange in ((original, case.original), (shipped, case.shipped))
    ]

    def loss(weights: Array | None) -> float:
        return attacks[1](weights) - attacks[0](weights)

    groups = None if case.groups is None else case.groups[others]
    drawn = _drawn(len(members), len(others), groups, np.random.default_rng(case.seed))
    found, lower, upper = bootstrap(loss, drawn, case.confidence)
    return [
        Measured(
            "privacy", "AUC of telling train from test by the loss", "no_harm", len(is_member),
            original=attacks[0](), shipped=attacks[1](), loss=found, lower=lower, upper=upper, margin=leak,
            note=f"{len(members)} rows of train, {len(others)} of test",
        )
    ]  # fmt: skip


def _some(count: int, most: int, seed: int) -> Array:
    return np.random.default_rng(seed).choice(count, min(count, most), replace=False)


def _drawn(members: int, others: int, groups: Array | None, generator: np.random.Generator) -> Iterator[Array]:
    """Weights of members and non-members, each resampled by themselves."""
    for strange in resamples(others, groups, generator):
        own = np.bincount(generator.integers(0, members, members), minlength=members)
        yield np.concatenate([own, strange])
