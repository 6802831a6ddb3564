"""The network of :mod:`assay_custom.model`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """(float32 [rows, numbers], int64 [rows, categories]) -> logits float32 [rows, outputs]."""

    center: Tensor
    scale: Tensor

    def __init__(self, centers: list[float], scales: list[float], categories: int, dim: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("center", torch.tensor(centers, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scales, dtype=torch.float32))
        # The last value of each vector is the column's own weight.
        self.number = nn.Parameter(torch.randn(len(centers), outputs * (dim + 1)) * 0.05)
        self.missing = nn.Parameter(torch.zeros(len(centers), outputs * (dim + 1)))
        self.category = nn.Embedding(max(1, categories), outputs * (dim + 1))
        nn.init.normal_(self.category.weight, std=0.05)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, numbers: Tensor, codes: Tensor) -> Tensor:
        absent = torch.isnan(numbers)
        known = torch.where(absent, 0.0, (numbers - self.center) * self.scale).clamp(-1.0, 1.0)
        of_numbers = known.unsqueeze(-1) * self.number + absent.unsqueeze(-1).float() * self.missing
        columns = torch.cat([of_numbers, self.category(codes)], dim=1)
        columns = columns.unflatten(2, (self.outputs, -1))  # [rows, columns, outputs, dim + 1]
        vectors, weights = columns[..., :-1], columns[..., -1]
        pairs = (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(-1) / 2
        return self.bias + weights.sum(1) + pairs
