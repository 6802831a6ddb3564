"""Arrays: images or series in, probabilities of classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from tasks.core.workloads.array.space import Space

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor, nn

    from tasks.core.settings import Tune
    from tasks.core.workloads.array.encoder import ArrayEncoder
    from tasks.core.workloads.contract import Encoder

_METRICS = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}  # the last for finished .onnx files


class Resnet:
    """A small residual network in one or two dimensions, as the arrays have."""

    workload = "array"
    space = Space

    def build(self, encoder: Encoder, values: Mapping[str, Any]) -> nn.Module:
        """A fresh :class:`~tasks.core.workloads.array.network.ResidualNetwork`.

        Raises:
            UsageError: if there are several tensors, or one that is neither an image nor a series.
        """
        from tasks.core.workloads.array import network

        return network.build(cast("ArrayEncoder", encoder), values)

    def students(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Smaller networks; see :func:`tasks.core.workloads.array.students.of`."""
        from tasks.core.workloads.array import students

        return students.of(values)


class Array:
    """The family of arrays; see :class:`~tasks.core.workloads.contract.Workload`.

    ``resnet1d`` is ``resnet`` that reads a [A, B] array as a series, whatever the lengths.
    """

    name = "array"
    default_model = "resnet"
    models: Mapping[str, Resnet] = {"resnet": Resnet(), "resnet1d": Resnet()}

    def default_metric(self, task: str) -> str:
        """auc or accuracy; rmse for a finished .onnx file that estimates."""
        return _METRICS[task]

    def fit(self, rows: pa.Table, facts: Mapping[str, Any], tune: Tune) -> ArrayEncoder:
        """Learn scales and class weights; see :func:`tasks.core.workloads.array.encoder.fit`."""
        from tasks.core.workloads.array import encoder

        return encoder.fit(rows, facts, tune)

    def restore(self, raw: Mapping[str, Any]) -> ArrayEncoder:
        """The encoder that its ``as_dict`` described."""
        from tasks.core.workloads.array import encoder

        return encoder.restore(raw)

    def examples(self, encoder: Encoder, rows: pa.Table) -> tuple[Tensor, ...]:
        """The stored arrays [n, *shape], then labels int64 [n]."""
        import numpy as np
        import torch

        # Arrow's memory is read-only, and torch wants arrays that it may write to.
        arrays = (np.require(array, requirements="W") for array in (*encoder.encode(rows), encoder.labels(rows)))
        return tuple(torch.from_numpy(array) for array in arrays)

    def loss(self, network: nn.Module, batch: tuple[Tensor, ...], encoder: Encoder, tune: Tune) -> Tensor:
        """Cross-entropy, smoothed by the network's ``label_smoothing`` if it has such an attribute.

        A single float or byte tensor is augmented as ``tune.augment`` says. Several tensors are not (they may have to
        stay aligned), nor are integers (they may be names).
        """
        import torch

        from tasks.core.workloads import losses
        from tasks.core.workloads.array.augment import augmented

        array = cast("ArrayEncoder", encoder)
        *inputs, labels = batch
        only = array.inputs[0]
        if network.training and tune.augment != "none" and len(inputs) == 1 and only.augmentable and only.layout:
            mean = torch.tensor(only.mean).to(labels.device, non_blocking=True)
            inputs = [augmented(inputs[0], only.layout, mean, tune.augment)]
        logits = losses.logits_of(network(*inputs))
        return losses.cross_entropy(logits, labels, array.class_weights, getattr(network, "label_smoothing", 0.0))

    def disturbed(self, inputs: tuple[Tensor, ...], encoder: Encoder) -> tuple[Tensor, ...]:
        """Images in another light, series with another gain; several tensors, and integers, stay as they are."""
        from tasks.core.workloads.array.augment import disturbed

        only, *others = cast("ArrayEncoder", encoder).inputs
        if others or not only.augmentable or only.layout is None:
            return inputs
        return (disturbed(inputs[0], only.layout),)

    def head(self, encoder: Encoder) -> nn.Module:
        """Logits -> probability or probabilities."""
        from tasks.core.workloads.array.network import Head

        return Head(cast("ArrayEncoder", encoder).task)


WORKLOAD = Array()
