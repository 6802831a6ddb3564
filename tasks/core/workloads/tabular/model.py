"""The original model as the tune stage left it: rebuilt from its spec and safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from tasks.core import files
from tasks.core.workloads.tabular.network import Architecture, TabularNetwork
from tasks.core.workloads.tabular.preprocess import Preprocess

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 8192


@dataclass(frozen=True)
class Model:
    """A trained network with its preprocessing."""

    preprocess: Preprocess
    network: TabularNetwork

    @torch.no_grad()
    def probabilities(self, rows: pa.Table) -> np.ndarray:
        """Probability of the positive class, float32 [rows], by torch alone."""
        numbers, codes = (torch.from_numpy(array) for array in self.preprocess.encode(rows))
        device = next(self.network.parameters()).device
        self.network.eval()
        parts = [
            torch.sigmoid(self.network(numbers[i : i + _BATCH].to(device), codes[i : i + _BATCH].to(device))).cpu()
            for i in range(0, max(1, len(numbers)), _BATCH)
        ]
        return torch.cat(parts).numpy()


def load_original(tuned: Path, device: torch.device | None = None) -> Model:
    """The original model out of the folder of a finished tune stage."""
    from safetensors.torch import load_file

    preprocess = Preprocess.load(tuned / "preprocess.json")
    spec = files.read_json(tuned / "models.json")[0]
    network = TabularNetwork(preprocess, Architecture(**spec["architecture"]))
    network.load_state_dict(load_file(tuned / spec["file"]))
    return Model(preprocess, network.to(device or "cpu").eval())
