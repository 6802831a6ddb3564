"""How far up a ranked list the one item stands that the user took: hit rate, NDCG, mean reciprocal rank, all at k."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.core.errors import UsageError
from tasks.core.metrics.metric import Array, Figure, Metric, weighted_mean


def _hit(place: Array) -> Array:
    """1 wherever it stands."""
    return np.ones(place.shape)


def _discount(place: Array) -> Array:
    """With one relevant item the ideal gain is 1, so NDCG is its discount (Jarvelin and Kekalainen, ACM TOIS 2002)."""
    return 1 / np.log2(place + 2.0)


def _reciprocal(place: Array) -> Array:
    """One over the rank (Voorhees, TREC-8, 1999)."""
    return 1 / (place + 1.0)


#: name -> gain of an item at a place (from 0) of the list.
GAINS: dict[str, Callable[[Array], Array]] = {"hr": _hit, "ndcg": _discount, "mrr": _reciprocal}


def at(kind: str, k: int) -> Metric:
    """``hr@k``, ``ndcg@k`` or ``mrr@k``: mean gain of the label's place among the first k, 0 if it is not there.

    Args:
        kind: a name in :data:`GAINS`.
        k: length of the list that counts, at most the answers' width.
    """
    name = f"{kind}@{k}"

    def prepare(labels: Array, answers: Array) -> Figure:
        if labels.ndim != 1 or answers.ndim != 2 or len(labels) != len(answers):
            raise ValueError(f"labels {labels.shape} and ranked items {answers.shape} must be one row each")
        if len(labels) and (labels.dtype.kind in "iu") != (answers.dtype.kind in "iu"):
            raise ValueError(f"labels ({labels.dtype}) and ranked items ({answers.dtype}) must be of one kind")
        if k > answers.shape[1]:
            found = f"the metric is {name}, and the model answers {answers.shape[1]} items"
            raise UsageError("a metric of k items needs a list of k", found, "choose a smaller k for base.metric")
        same = np.asarray(answers[:, :k] == labels[:, None], dtype=np.bool_)
        return weighted_mean(np.where(same.any(axis=1), GAINS[kind](same.argmax(axis=1)), 0.0))

    return Metric(name, ("ranking",), True, True, prepare)
