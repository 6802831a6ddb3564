"""Tables: numbers, categories and times in; probabilities of classes, or a quantity, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tasks.core.workloads.tabular.space import Space

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from tasks.core.settings import Tune
    from tasks.core.workloads.contract import Encoder
    from tasks.core.workloads.tabular.encoder import TabularEncoder

_METRICS = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}


class Mlp:
    """Embeddings of numbers and categories, and a multi-layer perceptron."""

    workload = "tabular"
    space = Space

    def build(self, encoder: Encoder, values: Mapping[str, Any]) -> nn.Module:
        """A fresh :class:`~tasks.core.workloads.tabular.network.TabularNetwork`."""
        from tasks.core.workloads.tabular.network import Architecture, TabularNetwork

        whole = ("hidden", "layers", "number_dim", "category_dim")
        shape = {name: int(values[name]) for name in whole}
        dropout, feature_dropout = values["dropout"], values["feature_dropout"]
        return TabularNetwork(
            cast("TabularEncoder", encoder), Architecture(dropout=dropout, feature_dropout=feature_dropout, **shape)
        )

    def students(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Smaller networks; see :func:`tasks.core.workloads.tabular.students.of`."""
        from tasks.core.workloads.tabular import students

        return students.of(values)


class Tabular:
    """The family of tables; see :class:`~tasks.core.workloads.contract.Workload`."""

    name = "tabular"
    default_model = "mlp"
    models: Mapping[str, Mlp] = {"mlp": Mlp()}

    def default_metric(self, task: str) -> str:
        """auc, accuracy or rmse."""
        return _METRICS[task]

    def fit(self, rows: pa.Table, facts: Mapping[str, Any], tune: Tune) -> TabularEncoder:
        """Learn bins and vocabularies; see :func:`tasks.core.workloads.tabular.encoder.fit`."""
        from tasks.core.workloads.tabular import encoder

        return encoder.fit(rows, facts, tune.features, balanced=tune.class_weights == "balanced")

    def restore(self, raw: Mapping[str, Any]) -> TabularEncoder:
        """The encoder that its ``as_dict`` described."""
        from tasks.core.workloads.tabular import encoder

        return encoder.restore(raw)

    def examples(self, encoder: Encoder, rows: pa.Table) -> tuple[Tensor, ...]:
        """numbers float32 [n, F], codes int64 [n, C], labels [n] (int64 classes, float32 quantity)."""
        import torch

        return tuple(torch.from_numpy(array) for array in (*encoder.encode(rows), encoder.labels(rows)))

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], encoder: Encoder, _tune: Tune) -> Tensor:
        """Cross-entropy, or squared error of the standardised target."""
        from tasks.core.workloads import losses

        *inputs, labels = batch
        tabular = cast("TabularEncoder", encoder)
        logits = losses.logits_of(network(*inputs))
        if tabular.task == "regression":
            return losses.squared_error(logits, labels, tabular.center, tabular.scale)
        return losses.cross_entropy(logits, labels, tabular.class_weights)

    def head(self, encoder: Encoder) -> nn.Module:
        """Logits -> probability, probabilities, or value."""
        from tasks.core.workloads.tabular.network import Head

        return Head(cast("TabularEncoder", encoder))


WORKLOAD = Tabular()
