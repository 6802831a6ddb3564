"""Reads an ``.npz`` file: ``x`` (or several arrays ``x_...``), ``y``, and optionally ``group`` and ``split``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.errors import DataRejected
from tasks.ingest.arrays import stored
from tasks.ingest.source import Part

_COLUMNS = ("group", "split")
_WAY_OUT = "write it again: numpy.savez(path, x=x, y=y), with arrays that have one row for each example"


def part(path: Path, target: str) -> Part:
    """The file as a part; ``y`` becomes the column ``target``. Nothing in it is ever unpickled.

    Raises:
        DataRejected: naming everything that is wrong with it.
    """
    arrays, problems = _loaded(path)
    images = {name: array for name, array in arrays.items() if name == "x" or name.startswith("x_")}
    plain = {target if name == "y" else name: arrays[name] for name in ("y", *_COLUMNS) if name in arrays}
    problems += _problems(arrays, images, plain, target)
    if problems:
        raise DataRejected(
            "an .npz file must hold `x` (or several arrays `x_...`) and `y`, all with the same number of rows",
            f"{path}: {'; '.join(problems)}",
            _WAY_OUT,
        )
    return stored.part(str(path), images, {name: pa.array(_native(_flat(array))) for name, array in plain.items()})


def _loaded(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays that can be read, and what is wrong with the others."""
    arrays, problems = {}, []
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                try:
                    arrays[name] = np.asarray(file[name])
                except ValueError as error:
                    is_object = "allow_pickle" in str(error)
                    objects = "it holds Python objects (arrays of several sizes become such), which are never unpickled"
                    problems.append(f"`{name}` cannot be read: {objects if is_object else _first_line(error)}")
                except MemoryError:
                    problems.append(f"`{name}` says that it is larger than this machine's memory")
    # A single array (.npy) under this name is no context manager: TypeError. A zip file with a password: RuntimeError.
    except (ValueError, TypeError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        found = "a single array, as numpy.save writes it" if isinstance(error, TypeError) else _first_line(error)
        raise DataRejected("an .npz file must be whole", f"{path}: {found}", _WAY_OUT) from error
    return arrays, problems


def _problems(
    arrays: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray], target: str
) -> list[str]:
    known = {*images, "y", *_COLUMNS}
    problems = [f"`{name}` has no meaning here" for name in arrays if name not in known]
    if not images:
        problems.append("there is no `x`")
    if "y" not in arrays:
        problems.append("there are no labels `y`")
    if target in (*images, *_COLUMNS):
        problems.append(f"base.target is {target}, the name of another array")
    problems += [said for name, array in images.items() if (said := stored.problem(name, array))]
    for name, array in plain.items():
        label = "y" if name == target else name
        if _flat(array).ndim != 1:
            problems.append(f"`{label}` has the shape {list(array.shape)}, not [rows]")
        elif array.dtype.kind not in "biufU":
            problems.append(f"`{label}` holds {array.dtype}, not numbers or texts")
    lengths = {name: len(array) if array.ndim else 1 for name, array in {**images, **plain}.items()}
    if len(set(lengths.values())) > 1:
        problems.append("rows differ: " + ", ".join(f"{name} {rows}" for name, rows in lengths.items()))
    return problems


def _flat(array: np.ndarray) -> np.ndarray:
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _native(array: np.ndarray) -> np.ndarray:
    """The same in this machine's byte order, which is all that Arrow takes."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
