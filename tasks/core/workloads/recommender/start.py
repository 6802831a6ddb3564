"""Where the item vectors start: a closed-form item-item model, cut down to their size."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

#: A larger catalogue starts from random vectors: the closed form needs a matrix of items by items.
MOST_ITEMS = 8_000
_OVERSAMPLED = 64
_POWER_ITERATIONS = 3


class Start:
    """Item vectors from train's pairs by the closed form of EASE (Steck 2019, "Embarrassingly shallow autoencoders").

    With X the 0/1 matrix of users and items and P the inverse of XᵀX + ridge, item i speaks for item j with
    -P[i, j] / P[j, j]. The best approximation of that matrix by two thin ones (its truncated singular value
    decomposition) gives each item a vector as an input and one as an output.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, width: int) -> None:
        """Take the pairs.

        Args:
            users: int64 [pairs], codes from 1.
            items: int64 [pairs], codes from 1.
            width: items of the catalogue.
        """
        self._users, self._items, self._width = users - 1, items - 1, width
        self.factors = lru_cache(maxsize=4)(self._factors)

    def _factors(self, dim: int, ridge: float) -> tuple[Tensor, Tensor] | None:
        """Vectors as input and as output, each float32 [items, at most dim]; None for a catalogue that is too large.

        The random start of the decomposition is fixed, and leaves torch's generator as it was.
        """
        if self._width > MOST_ITEMS:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            rank = min(dim + _OVERSAMPLED, self._width)
            left, values, right = torch.svd_lowrank(self._weights(ridge), q=rank, niter=_POWER_ITERATIONS)
        roots = values[:dim].sqrt()
        return left[:, :dim] * roots, right[:, :dim] * roots

    def _weights(self, ridge: float) -> Tensor:
        """The closed form, float32 [items, items]: row i holds what item i says of the others."""
        pairs = torch.from_numpy(np.stack([self._users, self._items]))
        size = (int(self._users.max(initial=-1)) + 1, self._width)
        matrix = torch.sparse_coo_tensor(pairs, torch.ones(pairs.shape[1]), size, check_invariants=False)
        gram = torch.sparse.mm(matrix.t(), matrix.to_dense())
        gram.diagonal().add_(ridge)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = -inverse / inverse.diagonal()
        weights.fill_diagonal_(0)
        return weights
