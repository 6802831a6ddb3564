"""Counts values of inputs and outputs in the bins of a bundle's ``drift_reference.json``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deploy.server.metrics import Metrics
    from deploy.server.version import Version

#: Rows that are kept until they are counted together, which costs each of them a hundredth of what one alone would.
_KEPT = 2048


class Drift:
    """Keeps what was asked and answered, and counts it in one go: when it is much, or when the metrics are read.

    Everything here runs in the thread of the event loop.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._kept: dict[tuple[Version, str], list[np.ndarray]] = defaultdict(list)
        self._rows = 0

    def add(self, version: Version, *given: Mapping[str, np.ndarray]) -> None:
        """Keep the values [rows, ...] of a request and its answer that the bundle has a reference for."""
        if not version.drift:
            return
        for arrays in given:
            for name, array in arrays.items():
                if name in version.drift:
                    self._kept[version, name].append(array)
        self._rows += len(next(iter(given[0].values())))
        if self._rows >= _KEPT:
            self.count()

    def count(self) -> None:
        """Count what was kept."""
        kept, self._kept, self._rows = self._kept, defaultdict(list), 0
        for (version, name), arrays in kept.items():
            values = np.concatenate([array.ravel() for array in arrays])
            for bin_name, count in version.drift[name].counts(values).items():
                self._metrics.values(version.name, name, bin_name, count)
