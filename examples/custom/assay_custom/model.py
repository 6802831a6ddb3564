"""A factorisation machine for tables: a weight for each column, and a product of vectors for each pair of columns.

Rendle, "Factorization Machines", ICDM 2010, equations 1 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.core.sections import Section
from tasks.core.space import Choice, Decay, FloatRange, Rate, Size

if TYPE_CHECKING:
    from torch import nn


class Space(Section):
    """What `tune` searches, and what may stand under `tune.space`; the first two are needed by every training."""

    learning_rate: Rate = FloatRange(low=1e-3, high=2e-2, log=True)
    """Peak learning rate of AdamW."""
    weight_decay: Decay = 0.01
    """Decoupled weight decay of AdamW."""
    dim: Size = Choice(choices=(8, 16))
    """Length of a column's vector."""


class FactorizationMachine:
    """`tune.model: fm`. torch is imported only when a network is built: a params file that names it is read quickly."""

    workload = "tabular"
    space = Space

    def build(self, encoder: Any, values: Mapping[str, Any]) -> nn.Module:
        """A fresh network for the columns that the encoder found."""
        from assay_custom.network import Network

        centers = [(column.edges[0] + column.edges[-1]) / 2 for column in encoder.numbers]
        scales = [2 / (column.edges[-1] - column.edges[0]) for column in encoder.numbers]
        return Network(centers, scales, encoder.offsets[-1], int(values["dim"]), encoder.width)


MODEL = FactorizationMachine()
