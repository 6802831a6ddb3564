"""Interactions: a user and their history in, the items they take next out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tasks.core.workloads.recommender.space import Space

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from tasks.core.settings import Tune
    from tasks.core.workloads.contract import Encoder
    from tasks.core.workloads.recommender.encoder import RecommenderEncoder
    from tasks.core.workloads.recommender.network import TwoTowerNetwork


class TwoTower:
    """A vector for the user with their history and one for each item; their product is the score."""

    workload = "recommender"
    space = Space

    def build(self, encoder: Encoder, values: Mapping[str, Any]) -> nn.Module:
        """A fresh :class:`~tasks.core.workloads.recommender.network.TwoTowerNetwork`."""
        from tasks.core.workloads.recommender.network import Architecture, TwoTowerNetwork

        dropout, history_dropout, user_dropout, ridge = (
            float(values[name]) for name in ("dropout", "history_dropout", "user_dropout", "ridge")
        )
        dim, negatives = int(values["dim"]), int(values["negatives"])
        shape = Architecture(dim, dropout, history_dropout, user_dropout, negatives, ridge)
        return TwoTowerNetwork(cast("RecommenderEncoder", encoder), shape)

    def reduced(
        self,
        network: nn.Module,
        encoder: Encoder,
        values: Mapping[str, Any],
        share: float,
        examples: tuple[Tensor, ...],
    ) -> tuple[dict[str, Any], nn.Module]:
        """A network of a smaller ``dim`` that scores as nearly alike as one can, without any training.

        Users' vectors that hardly change a score are left out as well, whatever the share; then ``user_dropout`` is 1.

        Args:
            network: trained, of :meth:`build`.
            encoder: fitted on train.
            values: hyperparameters of the network.
            share: of ``dim`` to keep, above 0 and at most 1; see
                :func:`tasks.core.workloads.recommender.reduce.size` for the rounding.
            examples: as :meth:`Recommender.examples` gives them.

        Returns:
            hyperparameters of the smaller network, and the network, on the device of the given one.
        """
        from dataclasses import replace

        import torch

        from tasks.core.workloads.recommender import reduce

        source = cast("TwoTowerNetwork", network)
        users, histories = (tensor.to(source.items.device) for tensor in reduce.last_moments(examples))
        asked, own = reduce.queries(source, users, histories)
        smaller = dict(values) | {"dim": reduce.size(source.architecture.dim, share)}
        if reduce.says_little(source, own, asked):
            smaller["user_dropout"] = 1.0
            asked = asked - own
        plain = replace(cast("RecommenderEncoder", encoder), start=None)  # the weights come from the trained network
        with torch.random.fork_rng(devices=[]):
            target = cast("TwoTowerNetwork", self.build(plain, smaller)).to(source.items.device)
        reduce.move(source, target, asked)
        return smaller, target.train(source.training)


class Recommender:
    """The family of implicit feedback; see :class:`~tasks.core.workloads.contract.Workload`."""

    name = "recommender"
    default_model = "two_tower"
    models: Mapping[str, TwoTower] = {"two_tower": TwoTower()}

    def default_metric(self, task: str) -> str:  # noqa: ARG002 (the contract's)
        """ndcg@10, whatever the task: there is only ``ranking``."""
        return "ndcg@10"

    def fit(self, rows: pa.Table, facts: Mapping[str, Any], tune: Tune) -> RecommenderEncoder:  # noqa: ARG002
        """Learn the vocabularies, and keep the pairs that the network starts from."""
        from dataclasses import replace

        from tasks.core.workloads.recommender import encoder
        from tasks.core.workloads.recommender.start import Start

        fitted = encoder.fit(rows, facts)
        users, items, times = fitted.user_codes(rows), fitted.item_codes(rows), fitted.times(rows)
        return replace(fitted, start=Start(users, items, times, fitted.width))

    def restore(self, raw: Mapping[str, Any]) -> RecommenderEncoder:
        """The encoder that its ``as_dict`` described."""
        from tasks.core.workloads.recommender import encoder

        return encoder.restore(raw)

    def examples(self, encoder: Encoder, rows: pa.Table) -> tuple[Tensor, ...]:
        """Pieces of users' histories; see :func:`tasks.core.workloads.recommender.training.pieces`."""
        from tasks.core.workloads.recommender import training

        return training.pieces(cast("RecommenderEncoder", encoder), rows)

    def loss(
        self,
        network: nn.Module,
        batch: tuple[Tensor, ...],
        encoder: Encoder,  # noqa: ARG002 (the contract's)
        tune: Tune,  # noqa: ARG002
    ) -> Tensor:
        """Softmax over the catalogue, full or sampled; see :func:`tasks.core.workloads.recommender.training.loss`."""
        from tasks.core.workloads.recommender import training

        return training.loss(cast("TwoTowerNetwork", network), batch)

    def distillation_loss(
        self,
        student: nn.Module,
        teacher: nn.Module,
        batch: tuple[Tensor, ...],
        encoder: Encoder,  # noqa: ARG002 (as in loss)
        tune: Tune,  # noqa: ARG002
    ) -> Tensor:
        """How far the student's shares of the catalogue are from the teacher's, scalar float32.

        See :func:`tasks.core.workloads.recommender.training.distillation_loss`.
        """
        from tasks.core.workloads.recommender import training

        return training.distillation_loss(cast("TwoTowerNetwork", student), cast("TwoTowerNetwork", teacher), batch)

    def head(self, encoder: Encoder) -> nn.Module:
        """Logits and history -> the best items that the user does not have, with their scores."""
        from tasks.core.workloads.recommender.network import Head

        return Head(cast("RecommenderEncoder", encoder).answer_count)


WORKLOAD = Recommender()
