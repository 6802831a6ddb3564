"""What a network is trained to lessen, and how much each class counts in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def logits_of(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A network's logits as float32: its answer, or the first of several."""
    logits = answer[0] if isinstance(answer, tuple) else answer
    return logits.float()


def balanced_weights(labels: np.ndarray, classes: int) -> tuple[float, ...]:
    """A weight per class, inversely as its rows in ``labels`` (int64 [n]); over all rows they are 1 on average."""
    counts = np.bincount(labels, minlength=classes)
    return tuple((len(labels) / (classes * np.maximum(counts, 1))).tolist())


def cross_entropy(logits: Tensor, labels: Tensor, weights: Sequence[float] = (), smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy: the rows' sum, each by the weight of its class, divided by their number.

    So the parts of a step's rows make up the step, whatever classes each of them holds.

    Args:
        logits: float32 [rows, classes], or [rows, 1] of the second of two classes.
        labels: int64 [rows].
        weights: one for each class; none means one each.
        smoothing: share of the target's mass that is spread over all classes.
    """
    weight = torch.tensor(weights, dtype=logits.dtype).to(logits.device, non_blocking=True) if weights else None
    if logits.shape[1] > 1:
        if weight is None:
            return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        total = nn.functional.cross_entropy(logits, labels, weight, reduction="sum", label_smoothing=smoothing)
        return total / len(labels)  # torch's own mean divides by the sum of their weights
    target = labels.float() * (1 - smoothing) + smoothing / 2
    of_row = weight[labels] if weight is not None else None
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target, of_row)


def squared_error(logits: Tensor, labels: Tensor, center: float, scale: float) -> Tensor:
    """Mean squared error of [rows, 1] against the target [rows], standardised by train's mean and deviation."""
    return nn.functional.mse_loss(logits[:, 0], (labels - center) / scale)
