"""Where the item vectors start: a closed-form item-item model, cut down to their size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: A larger catalogue starts from random vectors: the closed form needs a matrix of items by items.
MOST_ITEMS = 8_000
#: How an earlier item fades with its rank: the n-th last one counts n ** -DECAY.
DECAY = 0.5
_OVERSAMPLED = 64
_POWER_ITERATIONS = 3
_BLOCK = 4096


class Start:
    """Item vectors from train's pairs by the closed form of EASE (Steck 2019, "Embarrassingly shallow autoencoders").

    With X the 0/1 matrix of users and items and P the inverse of XᵀX + ridge, item i speaks for item j with
    B[i, j] = -P[i, j] / P[j, j]. Of all matrices of lower rank, B V Vᵀ changes the users' scores R B least, where R
    are their histories, weighted by age, and V the first right singular vectors of R B. So an item's vector as an
    output is its row of V, and as an input its row of B V.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, times: np.ndarray, width: int) -> None:
        """Take the pairs.

        Args:
            users: int64 [pairs], codes from 1.
            items: int64 [pairs], codes from 1.
            times: int64 [pairs].
            width: items of the catalogue.
        """
        order = np.lexsort((times, users))
        self._users, self._items, self._width = users[order] - 1, items[order] - 1, width
        last = np.searchsorted(self._users, self._users, side="right")
        self._weights = (last - np.arange(len(order))).astype(np.float32) ** -DECAY
        self.factors = lru_cache(maxsize=4)(self._factors)

    def _factors(self, dim: int, ridge: float) -> tuple[Tensor, Tensor] | None:
        """Vectors as input and as output, each float32 [items, at most dim]; None for a catalogue that is too large.

        The random start of the decomposition is fixed, and leaves torch's generator as it was.
        """
        if self._width > MOST_ITEMS:
            return None
        gram = self._gram(np.ones_like(self._weights))
        gram.diagonal().add_(ridge)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        closed = -inverse / inverse.diagonal()
        closed.fill_diagonal_(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            scores = closed.T @ self._gram(self._weights) @ closed  # its vectors are the right ones of R B
            rank = min(dim + _OVERSAMPLED, self._width)
            output = torch.svd_lowrank(scores, q=rank, niter=_POWER_ITERATIONS)[2][:, :dim]
        return closed @ output, output

    def _gram(self, weights: np.ndarray) -> Tensor:
        """MᵀM, float32 [items, items], of the matrix of users and items with these weights, user block by block."""
        gram = torch.zeros(self._width, self._width)
        for first in range(0, int(self._users.max(initial=-1)) + 1, _BLOCK):
            part = slice(*np.searchsorted(self._users, [first, first + _BLOCK]))
            block = torch.zeros(_BLOCK, self._width)
            block[self._users[part] - first, self._items[part]] = torch.from_numpy(weights[part])
            gram += block.T @ block
        return gram
