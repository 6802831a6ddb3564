"""Labels with right and with unrelated answers, for metrics of every kind of problem."""

from __future__ import annotations

import numpy as np

ROWS, CLASSES, ITEMS = 200, 7, 30


def make(task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [n], answers that fit them, and answers that have nothing to do with them; shapes as metrics take them."""
    random = np.random.default_rng(2)
    labels: np.ndarray
    if task == "regression":
        labels = random.normal(10, 3, ROWS).astype(np.float32)
        return labels, labels[:, None] + np.float32(0.01), random.normal(0, 9, (ROWS, 1)).astype(np.float32)
    if task == "ranking":
        labels = random.integers(0, ITEMS, ROWS)
        others = np.stack([random.permutation(ITEMS)[:20] for _ in labels])
        return labels, np.concatenate([labels[:, None], others], axis=1)[:, :20], others
    count = 2 if task == "binary" else CLASSES
    labels = random.integers(0, count, ROWS)
    right = np.eye(count)[labels] * 0.9 + 0.1 / count
    wrong = random.dirichlet(np.ones(count), ROWS)
    if task == "binary":
        right, wrong = right[:, 1:], wrong[:, 1:]
    return labels, right.astype(np.float32), wrong.astype(np.float32)
