"""Two towers of a smaller dimension in closed form: turn the common space so that what users ask for comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tasks.core.workloads.recommender import training

if TYPE_CHECKING:
    from tasks.core.workloads.recommender.network import TwoTowerNetwork

#: Kernels are blocked by as many values.
_MULTIPLE = 16
#: Users' vectors that carry less of the scores' energy are left out: rounding to 4 bits changes more.
_NEGLIGIBLE = 1e-3
#: Queries that the space is turned for, at most.
_QUERIES = 8192
_BLOCK = 512
#: Added to the queries' second moments, as a share of their mean.
_RIDGE = 1e-5
#: Least singular value that is shared between the towers, as a share of the greatest.
_LEAST = 1e-6


def size(dim: int, share: float) -> int:
    """``share`` of ``dim``, rounded to a multiple of 16, at least 16, at most ``dim``; all of it for a share of 1."""
    return dim if share >= 1 else min(dim, max(_MULTIPLE, _MULTIPLE * round(share * dim / _MULTIPLE)))


def last_moments(examples: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """What users ask when their whole history is known, as the model will be asked.

    Args:
        examples: as :func:`~tasks.core.workloads.recommender.training.pieces` gives them.

    Returns:
        users int64 [n, 1] and item codes int64 [n, H] of at most 8,192 users, evenly taken.
    """
    users, sequences, moments = examples
    now = training.CONTEXT + moments
    last = torch.nonzero(sequences.gather(1, now[:, None])[:, 0] == 0)[:, 0]
    last = last[:: -(-len(last) // _QUERIES)]
    return users[last], training.before(sequences[last], now[last])


@torch.no_grad()
def queries(network: TwoTowerNetwork, users: Tensor, histories: Tensor) -> tuple[Tensor, Tensor]:
    """Left vectors float32 [n, dim] of the network, and the users' own parts of them, alike."""
    pairs = zip(torch.split(users, _BLOCK), torch.split(histories, _BLOCK), strict=True)
    parts = [(network.history_vector(history, distinct=True), user) for user, history in pairs]
    said = torch.cat([vector for vector, _ in parts])
    whole = torch.cat([network.with_user(vector, user) for vector, user in parts])
    return whole, whole - said


@torch.no_grad()
def says_little(network: TwoTowerNetwork, own: Tensor, whole: Tensor) -> bool:
    """Whether the users' own parts of the left vectors make up less than a thousandth of the scores' energy."""
    energy, total = ((part @ network.items).square().sum() for part in (own, whole))
    return bool(energy < _NEGLIGIBLE * total)


@torch.no_grad()
def turned(items: Tensor, asked: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Left [dim, rank] and items [rank, n], float32, whose product replaces ``items`` with least change of the scores.

    With C = QᵀQ / rows + ridge of the left vectors Q, the scores' squared change is ``|C^½ (items - left right)|²``.
    By Eckart and Young (1936, "The approximation of one matrix by another of lower rank") the least is the cut singular
    value decomposition C^½ items ~ U S Vᵀ, so left = C^-½ U and right = Uᵀ C^½ items: low rank weighted by what really
    comes in, as Wang et al. 2024 do it for layers ("SVD-LLM: truncation-aware singular value decomposition"). Both
    sides then take half of S, so that one learning rate fits them, and a random rotation (of a fixed seed) spreads it
    over all coordinates, so that one scale of rounding does (Ashkboos et al. 2024, "QuaRot").

    Args:
        items: float32 [dim, n].
        asked: left vectors, float32 [rows, dim].
        rank: at most dim; with dim itself nothing changes but the coordinates.
    """
    tables, seen = items.double(), asked.double()
    moments = seen.T @ seen / len(seen)
    moments.diagonal().add_(_RIDGE * moments.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny))
    values, vectors = torch.linalg.eigh(moments)
    root, inverse = (vectors * scale @ vectors.T for scale in (values.sqrt(), values.rsqrt()))
    weighted = root @ tables
    squares, directions = torch.linalg.eigh(weighted @ weighted.T)
    directions, singular = directions[:, -rank:], squares[-rank:].clamp(min=0).sqrt()
    half = singular.clamp(min=_LEAST * float(singular.max())).sqrt()
    mixed = torch.linalg.qr(torch.randn(rank, rank, generator=torch.Generator().manual_seed(0)).double())[0]
    mixed = mixed.to(items.device)
    left, right = inverse @ (directions * half) @ mixed, mixed.T @ (directions / half).T @ weighted
    return left.float(), right.float()


@torch.no_grad()
def move(source: TwoTowerNetwork, target: TwoTowerNetwork, asked: Tensor) -> None:
    """Give ``target``, of a dimension at most the source's, the weights that change the scores of ``asked`` least."""
    left, right = turned(source.items, asked, target.architecture.dim)
    tables = {"items": right, "history_items": source.history_items @ left}
    if source.users is not None and target.users is not None:
        tables["users"] = source.users @ left
    same = source.state_dict()
    target.load_state_dict({name: tables.get(name, same[name]) for name in target.state_dict()})
