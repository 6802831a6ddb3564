"""A small residual network for images and series; raw arrays in, logits out.

Residual blocks as in He et al. 2016, "Deep Residual Learning" (convolution, batch norm, ReLU: in this order the norms
fold into the convolutions once exported), in one or two dimensions. Cast, transposition and normalisation are inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.errors import UsageError
from tasks.core.workloads.array.encoder import ArrayEncoder, TensorColumn
from tasks.core.workloads.array.layout import Layout

#: The stem shortens longer axes to about this: what follows costs the same for large inputs.
_LONGEST = {1: 256, 2: 64}
#: Channels that oneDNN reads at once with AVX2.
_BLOCK = 8


class Conv2d(nn.Conv2d):
    """A convolution whose gradient is right for a kernel of one pixel and a stride, too.

    oneDNN's own, of fewer than 8 channels that lie last in memory, writes past its buffer on a CPU with AVX2 alone:
    wrong figures, a crash or a hang (oneDNN issue 6035, in torch 2.13). Every n-th pixel and a stride of 1 is the same,
    but its gradient loses the order in memory, and a step of a small network takes half as long again.
    """

    def forward(self, input: Tensor) -> Tensor:
        """float [rows, channels, height, width] -> float [rows, outputs, ...]."""
        learns = torch.is_grad_enabled() and not torch.compiler.is_exporting()
        if not learns or self.kernel_size != (1, 1) or self.stride == (1, 1) or self.in_channels >= _BLOCK:
            return super().forward(input)
        down, across = self.stride
        return nn.functional.conv2d(input[:, :, ::down, ::across], self.weight, self.bias)


_CONV: dict[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: Conv2d}
_NORM: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}


@dataclass(frozen=True)
class Architecture:
    """Shape of the network, apart from the data.

    Attributes:
        stem: channels of the stem.
        widths: channels of each stage.
        strides: by how much each stage shortens the axes.
        blocks: residual blocks of a stage.
        dropout: before the last layer.
        label_smoothing: share of a label's weight that the loss spreads over all classes.
    """

    stem: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: int
    dropout: float
    label_smoothing: float

    @staticmethod
    def of(values: Mapping[str, Any]) -> Architecture:
        """The shape that hyperparameters describe: with ``widths`` among them (a smaller network's), as they say."""
        width, stages, stride = int(values["width"]), int(values["stages"]), int(values.get("first_stride", 2))
        first = width * stride
        widths = values.get("widths") or [first * 2**stage for stage in range(stages)]
        return Architecture(
            width,
            tuple(map(int, widths)),
            (stride, *(2,) * (len(widths) - 1)),
            int(values["blocks"]),
            float(values["dropout"]),
            float(values["label_smoothing"]),
        )


class Block(nn.Module):
    """Two convolutions around which the input, projected if the shape changes, passes unchanged."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(dims, inputs, outputs, 3, stride)
        self.second = _convolution(dims, outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(dims, inputs, outputs, 1, stride)

    def forward(self, values: Tensor) -> Tensor:
        """float [rows, inputs, ...] -> float [rows, outputs, ...], each axis divided by the stride, rounded up."""
        inner = self.second(torch.relu(self.first(values)))
        return torch.relu(inner + self.shortcut(values))


class ResidualNetwork(nn.Module):
    """Stem, stages of residual blocks, global average, dropout, one linear layer."""

    mean: Tensor
    scale: Tensor

    def __init__(self, column: TensorColumn, layout: Layout, architecture: Architecture, outputs: int) -> None:
        super().__init__()
        self.layout = layout
        self.label_smoothing = architecture.label_smoothing
        dims, width = len(layout.sizes), architecture.stem
        per_channel = (1, -1, *(1,) * dims)
        scale = [1 / deviation for deviation in column.deviation]
        self.register_buffer("mean", torch.tensor(column.mean, dtype=torch.float32).reshape(per_channel))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).reshape(per_channel))
        self.stem = _stem(dims, layout.channels, width, _halvings(layout))
        parts: list[nn.Module] = []
        for outputs_of_stage, stride in zip(architecture.widths, architecture.strides, strict=True):
            for block in range(architecture.blocks):
                parts.append(Block(dims, width, outputs_of_stage, 1 if block else stride))
                width = outputs_of_stage
        self.blocks = nn.Sequential(*parts)
        self.dropout = nn.Dropout(architecture.dropout)
        self.linear = nn.Linear(width, outputs)
        if dims == 2:  # a fifth less of a CPU's time than channels first
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def forward(self, values: Tensor) -> Tensor:
        """Raw arrays of any numeric dtype [rows, *layout.shape] -> logits float32 [rows, outputs]."""
        images = self._channels_first(values).to(torch.float32)
        images = (images - self.mean) * self.scale
        features = self.blocks(self.stem(images))
        pooled = features.float().mean(dim=tuple(range(2, features.ndim)))
        with torch.autocast(pooled.device.type, enabled=False):
            logits: Tensor = self.linear(self.dropout(pooled))
        return logits

    def _channels_first(self, values: Tensor) -> Tensor:
        if self.layout.channel_axis is None:
            return values.unsqueeze(1)
        if self.layout.channel_axis == 0:
            return values
        return values.movedim(-1, 1)


class Head(nn.Module):
    """Logits -> (answer,): probability [rows, 1] of the second class, or probabilities [rows, classes]."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def forward(self, logits: Tensor, *_inputs: Tensor) -> tuple[Tensor]:
        return (torch.sigmoid(logits),) if self.task == "binary" else (torch.softmax(logits, dim=1),)


def build(encoder: ArrayEncoder, values: Mapping[str, Any]) -> ResidualNetwork:
    """A fresh network for the encoder's one tensor.

    Raises:
        UsageError: if there are several tensors, or one that is neither an image nor a series.
    """
    column, *others = encoder.inputs
    if others:
        raise UsageError(
            "the built-in residual network reads one array a row",
            f"there are {len(encoder.inputs)}: {', '.join(encoder.input_names)}",
            "leave the others out of the source, or name a model plug-in under tune.model",
        )
    if column.layout is None:
        raise UsageError(
            "the built-in residual network reads an image [H, W], [H, W, C] or [C, H, W] of at most 4 channels, or a "
            "series [T], [C, T] or [T, C]",
            f"`{column.name}` has the shape {list(column.shape)}",
            "reshape it in the source, or name a model plug-in under tune.model",
        )
    return ResidualNetwork(column, column.layout, Architecture.of(values), encoder.width)


def _convolution(dims: int, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    conv = _CONV[dims](inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, _NORM[dims](outputs))


def _stem(dims: int, channels: int, width: int, halvings: int) -> nn.Sequential:
    parts: list[nn.Module] = [_convolution(dims, channels, width, 3, 1 if halvings == 0 else 2), nn.ReLU()]
    for _ in range(halvings - 1):
        parts += [_convolution(dims, width, width, 3, 2), nn.ReLU()]
    return nn.Sequential(*parts)


def _halvings(layout: Layout) -> int:
    """How often the stem halves the axes."""
    longest, count = max(layout.sizes), 0
    while longest > _LONGEST[len(layout.sizes)]:
        longest, count = (longest + 1) // 2, count + 1
    return count
