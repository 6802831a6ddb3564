"""Whether test's labels belong to its rows: the original must answer them better than it answers shuffled ones."""

from __future__ import annotations

import numpy as np

from tasks.core.measured import Measured
from tasks.verify.case import Case

NAME = "the original against shuffled labels"
#: A permutation test (Ojala and Garriga, JMLR 11, 2010): an original without any skill passes in one case of a hundred.
_SHUFFLES = 99
#: Rows that are enough to tell skill from none.
_ROWS = 20_000


def measure(case: Case) -> Measured:
    """Compare the original's metric with those on labels in random order.

    Two models that answer equally badly lose nothing to each other, so that no comparison of theirs finds labels that
    belong to other rows.

    Args:
        case: the original's answers and the labels are read.

    Raises:
        ValueError: if answers do not fit the task.
    """
    generator = np.random.default_rng(case.seed)
    rows = np.sort(generator.choice(len(case.labels), min(len(case.labels), _ROWS), replace=False))
    labels, answers = case.labels[rows], case.original[rows]
    found = case.metric(labels, answers)
    shuffled = [case.metric(generator.permutation(labels), answers) for _ in range(_SHUFFLES)]
    reached = sum(
        not case.metric.loss(figure, found) < 0 for figure in shuffled
    )  # a figure without a value is no skill
    problems: tuple[str, ...] = ()
    if reached:
        problems = (
            f"the original's {case.metric.name} of {found:.4g} is reached in {reached} of {_SHUFFLES} cases when the "
            "labels are shuffled: they do not belong to these rows, or the original has learnt nothing",
        )
    return Measured("data", NAME, "nothing_found", len(rows), "ANOMALOUS", problems=problems)
