"""Merging checkpoints: the greedy soup of Wortsman et al. 2022, which averages only where validation does not drop.

Only models with a common ancestor lie in one valley. Of strangers the average is poor; the rule finds that out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

State = dict[str, Tensor]


def greedy_soup(
    states: Sequence[State], evaluate: Callable[[State], float], loss: Callable[[float, float], float]
) -> tuple[State, list[int], float]:
    """Average the states one after the other into the first, each only if the metric does not get worse.

    Args:
        states: of networks of one shape, the best first.
        evaluate: state -> metric on validation; it re-estimates what must be (running statistics of batch norms).
        loss: (metric before, metric after) -> how much worse the second is.

    Returns:
        The soup, the indices of what is in it, and its metric.
    """
    soup, members = states[0], [0]
    best = evaluate(soup)
    for index in range(1, len(states)):
        mixed = _mean([states[member] for member in (*members, index)])
        score = evaluate(mixed)
        if loss(best, score) <= 0:
            soup, best = mixed, score
            members.append(index)
    return soup, members, best


def _mean(states: Sequence[State]) -> State:
    first = states[0]
    return {
        name: sum((state[name] for state in states[1:]), value) / len(states) if value.is_floating_point() else value
        for name, value in first.items()
    }
