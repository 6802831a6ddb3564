"""Two towers: a vector of the user with their history, a vector of each item; their product is the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.core.workloads.recommender.start import DECAY

if TYPE_CHECKING:
    from tasks.core.workloads.recommender.encoder import RecommenderEncoder

#: Score of an item that is not an answer: finite, so that an answer is plain numbers.
MASKED = -1e9
#: Where the exponent starts that says how much a long history is damped.
_DAMPING = 0.3
#: Closed-form weights are shares; logits that predict as surely as they rank need to be larger.
_SHARPNESS = 100.0


@dataclass(frozen=True)
class Architecture:
    """Shape of the network.

    Attributes:
        dim: size of all vectors.
        dropout: dropout of the history's vector while training.
        history_dropout: share of earlier items left out while training.
        user_dropout: share of users unknown while training; of 1, users have no vectors and the history is all.
        negatives: items drawn for a step of the sampled softmax.
        ridge: of the closed form that training starts from.
    """

    dim: int
    dropout: float
    history_dropout: float
    user_dropout: float
    negatives: int
    ridge: float


class TwoTowerNetwork(nn.Module):
    """(user codes int64 [rows, 1], history codes int64 [rows, H]) -> logits float32 [rows, items].

    The history's vector is a weighted sum of its items' input vectors. The newest item counts 1, the one ``rank``
    places before it (1 + rank)^-decay; the sum is damped by (1 + sum of weights)^-damping. Both exponents are learnt.
    Code 0, nobody and nothing, adds nothing, wherever it stands. Of a user unknown and without history the answer is
    what most users took.
    """

    users: nn.Parameter | None
    popularity: Tensor
    shares: Tensor

    def __init__(self, encoder: RecommenderEncoder, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        dim, width = architecture.dim, encoder.width
        self.history_items = nn.Parameter(torch.empty(width + 1, dim).normal_(std=0.05))
        #: [dim, items], as the product takes it: a transposed table would not be quantized as weights.
        self.items = nn.Parameter(torch.empty(dim, width).normal_(std=0.05))
        self.bias = nn.Parameter(torch.zeros(width))
        users = nn.Parameter(torch.zeros(len(encoder.users) + 1, dim)) if architecture.user_dropout < 1 else None
        self.register_parameter("users", users)
        self.decay = nn.Parameter(torch.tensor(DECAY))
        self.damping = nn.Parameter(torch.tensor(_DAMPING))
        counts = torch.tensor(encoder.counts, dtype=torch.float32)
        self.register_buffer("popularity", torch.log1p(counts))
        self.register_buffer("shares", (counts + 1) / (counts + 1).sum(), persistent=False)
        self._begin(encoder)

    @torch.no_grad()
    def _begin(self, encoder: RecommenderEncoder) -> None:
        start = encoder.start
        factors = start.factors(self.architecture.dim, self.architecture.ridge) if start is not None else None
        if factors is not None:
            found = factors[0].shape[1]  # fewer than dim in a small catalogue: the others stay random
            self.history_items[1:, :found] = factors[0] * _SHARPNESS**0.5
            self.items[:found] = factors[1].T * _SHARPNESS**0.5

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        return self.scores(self.query(user, history), self.is_known(user, history))

    def is_known(self, user: Tensor, history: Tensor) -> Tensor:
        """bool [rows, 1]: whether anything is known of the user."""
        known = (history > 0).any(1, keepdim=True)
        return known if self.users is None else known | (user > 0)

    def scores(self, query: Tensor, known: Tensor, chosen: Tensor | None = None) -> Tensor:
        """float32 [rows, items], or those of the ``chosen`` items (int64, from 0)."""
        tables: tuple[Tensor, ...] = (self.items, self.bias, self.popularity)
        items, bias, popularity = tables if chosen is None else (table[..., chosen] for table in tables)
        return query @ items + bias + torch.where(known, 0.0, 1.0) * popularity

    def query(self, user: Tensor, history: Tensor, distinct: bool = False) -> Tensor:
        """The left tower, float32 [rows, dim]; ``distinct`` as in :meth:`history_vector`."""
        return self.with_user(self.history_vector(history, distinct), user)

    def history_vector(self, history: Tensor, distinct: bool = False) -> Tensor:
        """What the history says, float32 [rows, dim].

        Args:
            history: int64 [rows, H].
            distinct: no item stands in a row twice, as in training; the answer is the same, for the cost of the items
                that there are instead of the whole catalogue's.
        """
        weights = self._weights(history)
        if distinct:
            summed, total = self._sparse_sum(history, weights), weights.sum(1, keepdim=True)
        else:
            summed, total = self._dense_sum(history, weights)
        vector: Tensor = summed * (1 + total) ** -self.damping
        return vector

    def with_user(self, vector: Tensor, user: Tensor) -> Tensor:
        """``vector`` and the user's own, float32 [rows, dim]."""
        if self.users is None:
            return vector
        own = functional.embedding(user[:, 0], self.users)  # a plain gather of rows, which can be quantized
        return vector + torch.where(user > 0, 1.0, 0.0) * own

    def _weights(self, history: Tensor) -> Tensor:
        """float32 [rows, H], 0 at code 0."""
        there = (history > 0).float()
        rank = there.sum(1, keepdim=True) - there.cumsum(1)
        return torch.exp(-self.decay * torch.log1p(rank)) * there

    def _sparse_sum(self, history: Tensor, weights: Tensor) -> Tensor:
        return functional.embedding_bag(
            history, self.history_items, mode="sum", per_sample_weights=weights, padding_idx=0
        )

    def _dense_sum(self, history: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """One product with the whole table, which quantizes well; an item given twice counts once, as the newer."""
        # Zeros out of the weights: for their number the exported graph would read the user, who may not count at all.
        rows = functional.pad(weights[:, :0], (0, self.history_items.shape[0]))
        rows = rows.scatter_reduce(1, history, weights, "amax")
        return rows @ self.history_items, rows.sum(1, keepdim=True)


class Head(nn.Module):
    """Logits, user, history -> item codes int64 [rows, k] and scores float32 [rows, k].

    They are the best items that are not in the history. Where fewer than k are left the code is 0 and the score
    :data:`MASKED`.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, logits: Tensor, _user: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        scores, best = torch.topk(masked(logits, history), self.count, dim=1)
        return torch.where(scores > MASKED, best, 0), scores


def masked(logits: Tensor, history: Tensor) -> Tensor:
    """float32 [rows, 1 + items]: logits by item code, those of the history and of code 0 set to :data:`MASKED`."""
    by_code = functional.pad(logits, (1, 0), value=MASKED)
    return by_code.scatter(1, history, MASKED)
