"""What the rooms must know of a family of problems, and of a model in it: two small contracts.

Rooms work on Parquet rows and on these objects, and never ask which family it is. Everything that learns from train
is in the encoder; everything with weights is in the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import pyarrow as pa
    import torch

    from deploy.signature import Signature
    from tasks.core.sections import Section
    from tasks.core.settings import Tune

#: Network inputs or outputs, by name.
Arrays = Mapping[str, "np.ndarray"]


class Encoder(Protocol):
    """From raw rows to the network's tensors: learnt from train, then frozen; the exported graph does the same.

    Attributes:
        input_names: the network's inputs, in the order of its ``forward``.
        core_outputs: names of what the network with its head (:meth:`Workload.head`) answers, in order.
        width: values that the network answers a row: 1 (binary, regression), classes, or items.
        columns: columns of the rows that the model reads.
    """

    @property
    def input_names(self) -> tuple[str, ...]: ...
    @property
    def core_outputs(self) -> tuple[str, ...]: ...
    @property
    def width(self) -> int: ...
    @property
    def columns(self) -> list[str]: ...

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, ...]:
        """The network's inputs, each [rows, ...], in the order of ``input_names``."""

    def labels(self, rows: pa.Table) -> np.ndarray:
        """The target, [rows]: int64 class index, float32 quantity, or item id (as the answer gives items).

        Raises:
            DataRejected: if the target holds what train's did not.
        """

    def raw_inputs(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """The exported model's inputs by name, each [rows, ...]; texts as ``str`` arrays."""

    def answers(self, core: Arrays) -> dict[str, np.ndarray]:
        """The exported model's outputs by name, from the core's outputs; the first one is what the metric judges."""

    def signature(self) -> Signature:
        """What the exported model takes and gives."""

    def wrap(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """Put what is not network (texts to codes, codes to items) around an exported, perhaps quantized, core."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`Workload.restore` takes."""


class Model(Protocol):
    """A kind of network, by name under ``tune.model``.

    Attributes:
        workload: name of the family that it belongs to.
        space: a :class:`~tasks.core.sections.Section` whose fields are hyperparameters (:mod:`tasks.core.space`), with
            defaults; ``learning_rate`` and ``weight_decay`` are among them.

    A model whose network answers more than its logits has an attribute ``extra_outputs``, a tuple of names: the network
    then returns (logits, one tensor [rows, ...] for each name). The exported model gives them too; nothing judges them.

    A model may help the compression search with two more methods:

    - ``students(values)`` -> hyperparameters of smaller networks of this kind, the largest first. They are trained to
      give the answers of the original, and may hold hyperparameters that are not in ``space``.
    - ``reduced(network, encoder, values, share, examples)`` -> (hyperparameters, network): a network of about ``share``
      of the width, made out of a trained one in closed form. Without it layers are cut by a dependency graph.
    """

    @property
    def workload(self) -> str: ...
    @property
    def space(self) -> type[Section]: ...

    def build(self, encoder: Encoder, values: Mapping[str, Any]) -> torch.nn.Module:
        """A fresh network: ``forward(*inputs)`` -> logits float32 [rows, encoder.width] (or a tuple, logits first).

        Args:
            encoder: fitted on train.
            values: hyperparameter -> value; without those of the training alone (``learning_rate``,
                ``weight_decay``) if weights are brought and these are not fixed.
        """


class Workload(Protocol):
    """A family of problems, by name under ``base.workload``.

    Attributes:
        name: its name.
        default_model: name of the model that ``tune.model: null`` means.
        models: the built-in models, by name.

    A workload whose loss is not one of logits may have a method
    ``distillation_loss(student, teacher, batch, encoder, tune)`` -> scalar: how far the student's answers to a slice of
    :meth:`examples` are from the teacher's.

    It may have a method ``disturbed(inputs, encoder)`` -> the network's inputs, changed as mildly as the gate changes
    them to see what a model makes of it: a smaller network then learns what the original answers there, too.
    """

    @property
    def name(self) -> str: ...
    @property
    def default_model(self) -> str: ...
    @property
    def models(self) -> Mapping[str, Model]: ...

    def default_metric(self, task: str) -> str:
        """Name of the metric that judges, where ``base.metric`` names none."""

    def fit(self, rows: pa.Table, facts: Mapping[str, Any], tune: Tune) -> Encoder:
        """Learn from the training rows.

        Args:
            rows: ``train.parquet``.
            facts: the facts of `validate`'s manifest: columns, tensors, target, task, classes, split, ...
            tune: the section of params.
        """

    def restore(self, raw: Mapping[str, Any]) -> Encoder:
        """The encoder that :meth:`Encoder.as_dict` described."""

    def examples(self, encoder: Encoder, rows: pa.Table) -> tuple[torch.Tensor, ...]:
        """What the training loop shuffles and slices along the first axis; labels are up to :meth:`loss`."""

    def loss(
        self, network: torch.nn.Module, batch: tuple[torch.Tensor, ...], encoder: Encoder, tune: Tune
    ) -> torch.Tensor:
        """Scalar float32 loss of a slice of :meth:`examples` on the network's device (augmentation happens here)."""

    def head(self, encoder: Encoder) -> torch.nn.Module:
        """Module that turns the network's logits [and inputs] into ``encoder.core_outputs``.

        ``forward(logits, *inputs)`` -> tuple of tensors.
        """
