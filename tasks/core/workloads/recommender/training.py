"""What the two towers learn from: at a random moment of a user's history, the items that come next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasks.core.workloads.recommender.network import MASKED, TwoTowerNetwork, masked

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.workloads.recommender.encoder import RecommenderEncoder

#: Earlier items that a training row holds; older ones are left out there (as training begins each weighs below 1/16).
CONTEXT = 256
#: Moments that a row offers; one is drawn each time, so an epoch asks once for every WINDOW interactions.
WINDOW = 16
#: Items after the moment that are to be told.
TARGETS = 4
#: Above as many items the softmax is sampled.
FULL_SOFTMAX = 20_000
_BLOCK = 16_384


def pieces(encoder: RecommenderEncoder, rows: pa.Table) -> tuple[Tensor, Tensor, Tensor]:
    """Users' histories in pieces of :data:`WINDOW` interactions, each with what came before and what follows.

    Args:
        encoder: fitted on ``rows``.
        rows: ``train.parquet``.

    Returns:
        users int64 [n, 1]; item codes int32 [n, CONTEXT + WINDOW + TARGETS], in order of time (those of one moment
        shuffled with a fixed seed: the order of a file's lines must teach nothing), 0 where there is none; moments of
        the piece, int64 [n]: 1 to WINDOW.
    """
    users, items = encoder.user_codes(rows), encoder.item_codes(rows)
    order = np.lexsort((np.random.default_rng(0).random(len(users)), encoder.times(rows), users))
    users, items = users[order], items[order]
    first = np.searchsorted(users, users)  # where the row's user begins
    starts = np.flatnonzero((np.arange(len(users)) - first) % WINDOW == 0)
    end = np.searchsorted(users, users[starts], side="right")
    sequences = np.zeros((len(starts), CONTEXT + WINDOW + TARGETS), np.int32)
    for block in range(0, len(starts), _BLOCK):
        part = slice(block, block + _BLOCK)
        places = starts[part, None] + np.arange(-CONTEXT, WINDOW + TARGETS)
        inside = (places >= first[starts[part], None]) & (places < end[part, None])
        sequences[part][inside] = items[places[inside]]
    moments = np.minimum(end - starts, WINDOW)
    return torch.from_numpy(users[starts][:, None]), torch.from_numpy(sequences), torch.from_numpy(moments)


def loss(network: TwoTowerNetwork, batch: tuple[Tensor, ...]) -> Tensor:
    """Mean cross-entropy of the next :data:`TARGETS` items at a random moment of each row, scalar float32.

    Seen items are no candidates, as when the model is asked. Some earlier items and some users are left out, so that
    the model has an answer without them.
    """
    users, past, targets = _at_a_moment(*batch)
    shape = network.architecture
    history = past * (torch.rand(past.shape, device=past.device) >= shape.history_dropout)
    users = users * (torch.rand(users.shape, device=users.device) >= shape.user_dropout)
    vector = functional.dropout(network.history_vector(history, distinct=True), shape.dropout, network.training)
    query, known = network.with_user(vector, users), network.is_known(users, history)
    if network.bias.shape[0] <= FULL_SOFTMAX:
        each = full_softmax(network, query, known, past, targets)
    else:
        each = sampled_softmax(network, query, known, past, targets, shape.negatives)
    there = (targets > 0).float()
    return (each * there).sum() / there.sum()


def distillation_loss(student: TwoTowerNetwork, teacher: TwoTowerNetwork, batch: tuple[Tensor, ...]) -> Tensor:
    """Mean divergence of the student's softmax from the teacher's at a random moment of each row, scalar float32.

    It is the Kullback-Leibler divergence KL(teacher || student) of Hinton, Vinyals and Dean 2015, "Distilling the
    knowledge in a neural network", at temperature 1: both rank the same items, and higher temperatures spend the
    student's smaller space on items that nobody is shown. Both see the same user and the whole history, without
    dropout (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent"). Seen items are no
    candidates; of a large catalogue the candidates are drawn as for :func:`sampled_softmax`.
    """
    users, past, _ = _at_a_moment(*batch)
    drawn = None if teacher.bias.shape[0] <= FULL_SOFTMAX else _draw(teacher, teacher.architecture.negatives)
    with torch.no_grad():
        wanted = functional.log_softmax(_candidates(teacher, users, past, drawn), 1)
    found = functional.log_softmax(_candidates(student, users, past, drawn), 1)
    return functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _candidates(network: TwoTowerNetwork, users: Tensor, past: Tensor, drawn: Tensor | None) -> Tensor:
    """Logits of all items by their code, or of the drawn ones as :func:`_drawn_logits` gives them."""
    query, known = network.query(users, past, distinct=True), network.is_known(users, past)
    if drawn is None:
        return masked(network.scores(query, known).float(), past)
    return _drawn_logits(network, query, known, past, drawn)


def _at_a_moment(users: Tensor, sequences: Tensor, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a moment: users; the items before it, zeros elsewhere, [n, CONTEXT + WINDOW]; the next ones [n, TARGETS]."""
    now = CONTEXT + (torch.rand(moments.shape, device=moments.device) * moments).long()
    targets = sequences.gather(1, now[:, None] + torch.arange(TARGETS, device=moments.device))
    return users, before(sequences, now), targets.long()


def before(sequences: Tensor, now: Tensor) -> Tensor:
    """Item codes int64 [n, CONTEXT + WINDOW] of :func:`pieces`' sequences, zeros from the place ``now`` (int64 [n])."""
    places = torch.arange(CONTEXT + WINDOW, device=now.device)
    return sequences[:, : CONTEXT + WINDOW].long() * (places < now[:, None])


def full_softmax(network: TwoTowerNetwork, query: Tensor, known: Tensor, past: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all items but the past ones, float32 [rows, targets]; target codes from 1, 0 for none."""
    logits = masked(network.scores(query, known).float(), past)
    return -functional.log_softmax(logits, 1).gather(1, targets)


def sampled_softmax(
    network: TwoTowerNetwork, query: Tensor, known: Tensor, past: Tensor, targets: Tensor, count: int
) -> Tensor:
    """What :func:`full_softmax` gives, estimated from ``count`` items drawn by their popularity, with replacement.

    A drawn item stands for 1 / (count * its probability) items, so that probability is taken from its logit (Bengio
    and Senécal 2008, "Adaptive importance sampling to accelerate training of a neural probabilistic language model").
    The target itself is always there, not drawn, and keeps its logit; a draw that hits it is left out.
    """
    drawn = _draw(network, count)
    logits = _drawn_logits(network, query, known, past, drawn)
    wanted = (targets - 1).clamp(min=0)
    vectors = network.items.T[wanted]
    own = (query[:, None] * vectors).sum(2) + network.bias[wanted]
    own = (own + torch.where(known, 0.0, 1.0) * network.popularity[wanted]).float()
    others = logits[:, None].masked_fill(wanted[:, :, None] == drawn, MASKED)
    return torch.logsumexp(torch.cat([own[:, :, None], others], 2), 2) - own


def _draw(network: TwoTowerNetwork, count: int) -> Tensor:
    """Items by their popularity, with replacement: int64 [count], from 0."""
    return torch.multinomial(network.shares, count, replacement=True)


def _drawn_logits(network: TwoTowerNetwork, query: Tensor, known: Tensor, past: Tensor, drawn: Tensor) -> Tensor:
    """Logits float32 [rows, drawn], less the log of how often an item is expected; those seen :data:`MASKED`."""
    logits = network.scores(query, known, drawn).float() - torch.log(len(drawn) * network.shares[drawn])
    seen = torch.zeros(past.shape[0], network.shares.shape[0] + 1, dtype=torch.bool, device=past.device)
    return logits.masked_fill(seen.scatter(1, past, True)[:, drawn + 1], MASKED)
