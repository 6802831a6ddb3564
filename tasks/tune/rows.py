"""Rows that several processes read from one place in memory: arrays in files, mapped, copied by none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.core import files

_INDEX = "rows.json"


def write(folder: Path, examples: Sequence[Tensor], inputs: Sequence[np.ndarray], labels: np.ndarray) -> None:
    """Write what training and validation read; complete once the index is there."""
    folder.mkdir(exist_ok=True)
    arrays = {f"example-{index}": tensor.cpu().numpy() for index, tensor in enumerate(examples)}
    arrays |= {f"input-{index}": array for index, array in enumerate(inputs)}
    for name, array in (arrays | {"labels": labels}).items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    files.write_json(folder / _INDEX, {"examples": len(examples), "inputs": len(inputs)})


def are_in(folder: Path) -> bool:
    """Whether :func:`write` has filled a folder."""
    return (folder / _INDEX).is_file()


def read(folder: Path) -> tuple[tuple[Tensor, ...], tuple[np.ndarray, ...], np.ndarray]:
    """Examples, inputs and labels, as :func:`write` was given them."""
    count = files.read_json(folder / _INDEX)
    examples = tuple(torch.from_numpy(_mapped(folder / f"example-{index}.npy")) for index in range(count["examples"]))
    inputs = tuple(_mapped(folder / f"input-{index}.npy") for index in range(count["inputs"]))
    return examples, inputs, _mapped(folder / "labels.npy")


def _mapped(path: Path) -> np.ndarray:
    """An array whose pages all processes share; one that wrote to it would get a copy of the page."""
    found: np.ndarray = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    return found
