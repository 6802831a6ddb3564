"""Counts values of inputs and outputs in the bins of a bundle's ``drift_reference.json``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from deploy import bins

if TYPE_CHECKING:
    from deploy.server.metrics import Metrics
    from deploy.server.version import Version

#: Rows and bytes that are kept until they are counted together: fewer cost each row more, more let others wait longer.
_MOST_ROWS, _MOST_BYTES = 256, 1 << 18


class Drift:
    """Keeps what was asked and answered, and counts it in one go: when it is much, or when the metrics are read.

    Everything here runs in the thread of the event loop.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._kept: dict[tuple[Version, str], list[np.ndarray]] = defaultdict(list)
        self._rows = self._bytes = 0

    def add(self, version: Version, *given: Mapping[str, np.ndarray]) -> None:
        """Keep the values [rows, ...] of a request and its answer that the bundle has a reference for."""
        if not version.drift:
            return
        for arrays in given:
            for name, array in arrays.items():
                if name in version.drift:
                    self._kept[version, name].append(array)
                    self._bytes += array.nbytes
        self._rows += len(next(iter(given[0].values())))
        if self._rows >= _MOST_ROWS or self._bytes >= _MOST_BYTES:
            self.count()

    def count(self) -> None:
        """Count what was kept."""
        kept, self._kept, self._rows, self._bytes = self._kept, defaultdict(list), 0, 0
        for (version, name), arrays in kept.items():
            one_shape = len({array.shape[1:] for array in arrays}) == 1  # lists have any length
            together = [np.concatenate(arrays)] if one_shape else arrays
            for values in together:
                for bin_name, count in bins.count(version.drift[name], values).items():
                    self._metrics.values(version.name, name, bin_name, count)
