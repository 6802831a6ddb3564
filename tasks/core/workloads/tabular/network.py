"""The tabular network: piecewise-linear embeddings of numbers, one shared table of categories, and an MLP.

Piecewise-linear embeddings: Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning",
NeurIPS 2022, by the authors' own package.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.core.workloads.tabular.encoder import TabularEncoder


@dataclass(frozen=True)
class Architecture:
    """Shape of the network, apart from the data.

    Attributes:
        hidden: width of the hidden layers.
        layers: number of hidden layers.
        dropout: dropout after each of them.
        feature_dropout: probability that a column's embedding is dropped from a row in training.
        number_dim: size of a number's embedding.
        category_dim: size of a category's embedding.
    """

    hidden: int
    layers: int
    dropout: float
    feature_dropout: float
    number_dim: int
    category_dim: int


class NumberEmbedding(nn.Module):
    """float32 [rows, numbers], NaN where missing -> [rows, numbers, dim]; a missing number has a vector of its own.

    Values are clipped to the range seen in train: the answer to an extreme or infinite number is that of the nearest
    known one, and stays finite.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, edges: Sequence[Sequence[float]], dim: int) -> None:
        super().__init__()
        from rtdl_num_embeddings import PiecewiseLinearEmbeddings

        columns = [torch.tensor(column, dtype=torch.float64) for column in edges]
        center = torch.stack([(column[0] + column[-1]) / 2 for column in columns])
        scale = torch.stack([2 / (column[-1] - column[0]) for column in columns])
        # Every column is mapped to [-1, 1] first: bins of very different widths train badly in float32.
        bins = [((column - c) * s).float() for column, c, s in zip(columns, center, scale, strict=True)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*just two bin edges")  # a column of two values is as usual
            self.embed = PiecewiseLinearEmbeddings(bins, dim, activation=True, version="A")
        self.missing = nn.Parameter(torch.zeros(len(bins), dim))
        self.register_buffer("center", center.float())
        self.register_buffer("scale", scale.float())

    def forward(self, numbers: Tensor) -> Tensor:
        absent = torch.isnan(numbers)
        known = torch.where(absent, 0.0, (numbers - self.center) * self.scale).clamp(-1.0, 1.0)
        return torch.where(absent.unsqueeze(-1), self.missing, self.embed(known))


class TabularNetwork(nn.Module):
    """(float32 [rows, numbers], int64 [rows, categories]) -> logits, float32 [rows, encoder.width]."""

    def __init__(self, encoder: TabularEncoder, architecture: Architecture) -> None:
        super().__init__()
        shape = architecture
        self.numbers = (
            NumberEmbedding([column.edges for column in encoder.numbers], shape.number_dim) if encoder.numbers else None
        )
        self.categories = nn.Embedding(encoder.offsets[-1], shape.category_dim) if encoder.categories else None
        if self.categories is not None:
            nn.init.normal_(self.categories.weight, std=0.05)
        width = len(encoder.numbers) * shape.number_dim + len(encoder.categories) * shape.category_dim
        self.drop_columns = nn.Dropout1d(shape.feature_dropout)
        layers: list[nn.Module] = []
        for _ in range(shape.layers):
            layers += [nn.Linear(width, shape.hidden), nn.ReLU(), nn.Dropout(shape.dropout)]
            width = shape.hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, encoder.width))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        parts = []
        if self.numbers is not None:
            parts.append(self.drop_columns(self.numbers(numbers)).flatten(1))
        if self.categories is not None:
            parts.append(self.drop_columns(self.categories(codes)).flatten(1))
        logits: Tensor = self.mlp(torch.cat(parts, dim=1))
        return logits


class Head(nn.Module):
    """Logits -> (answer,): probability [rows, 1], probabilities [rows, classes], or value [rows, 1]."""

    def __init__(self, encoder: TabularEncoder) -> None:
        super().__init__()
        self.task, self.center, self.scale = encoder.task, encoder.center, encoder.scale

    def forward(self, logits: Tensor, *_inputs: Tensor) -> tuple[Tensor]:
        if self.task == "binary":
            return (torch.sigmoid(logits),)
        if self.task == "multiclass":
            return (torch.softmax(logits, dim=1),)
        return (logits * self.scale + self.center,)
