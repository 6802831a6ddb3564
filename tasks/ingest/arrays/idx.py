"""Reads idx files, the format of MNIST and its kin: pairs of ``...-images-idx3-ubyte`` and ``...-labels-idx1-ubyte``.

A file is two zero bytes, a byte for the dtype, a byte for the number of axes, each axis' length as a big-endian 32-bit
integer, and the values in C order, big-endian. It may be compressed with gzip.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.errors import DataRejected
from tasks.ingest.arrays import stored
from tasks.ingest.source import Part

#: Name of the tensor column.
IMAGE = "image"
#: Name of the column that says which files a row is from.
SPLIT = "split"
_NAME = re.compile(r"(?P<set>.*?)[-_.]?(?P<what>images|labels)[-._]idx\d+[-._]ubyte(\.gz)?", re.IGNORECASE)
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_SPLITS = {"train": "train", "test": "test", "t10k": "test", "valid": "validation", "val": "validation"}
_WAY_OUT = "fetch or write the file again"


@dataclass(frozen=True)
class IdxSet:
    """Images and labels that belong together."""

    name: str
    images: np.ndarray
    labels: np.ndarray


def is_idx(path: Path) -> bool:
    """Whether a file is one of a pair, by its name."""
    return _NAME.fullmatch(path.name) is not None


def pairs(paths: Sequence[Path]) -> dict[str, tuple[Path, Path]]:
    """Name of each set -> its images and labels.

    Raises:
        DataRejected: naming every file whose partner is not there.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in paths:
        if match := _NAME.fullmatch(path.name):
            found.setdefault(match["set"], {})[match["what"].lower()] = path
    lone = [f"{path} alone" for files in found.values() if len(files) == 1 for path in files.values()]
    if lone:
        raise DataRejected(
            "idx files come in pairs, ...images-idx3-ubyte and ...labels-idx1-ubyte",
            "; ".join(lone),
            "put the other file of the pair beside it, and name the folder in ingest.source",
        )
    return {name: (files["images"], files["labels"]) for name, files in found.items()}


def parts(sets: Sequence[IdxSet], target: str) -> list[Part]:
    """One part for each set. Where there are several, a column ``split`` names the set's purpose.

    Raises:
        DataRejected: naming everything that does not fit together.
    """
    _check(sets, target)
    result = []
    for each in sets:
        columns = {target: pa.array(each.labels.astype(np.int64))}
        if len(sets) > 1:
            columns[SPLIT] = pa.array([split_of(each.name)] * len(each.labels), pa.string())
        result.append(stored.part(each.name or "idx files", {IMAGE: each.images}, columns))
    return result


def split_of(name: str) -> str:
    """train, validation or test, by the name of a set of files; the name itself if it says none of them."""
    return next((split for word, split in _SPLITS.items() if word in name.lower()), name)


def parse(data: bytes, name: str) -> np.ndarray:
    """The array in an idx file's bytes, gzip or plain, in this machine's byte order.

    Raises:
        DataRejected: if they are no idx file, or not all of it.
    """
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        zero, code, axes = struct.unpack_from(">HBB", data)
        if zero or code not in _DTYPES or not axes:
            raise DataRejected("an idx file begins with its magic number", f"{name}: {data[:4].hex(' ')}", _WAY_OUT)
        shape = struct.unpack_from(f">{axes}I", data, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataRejected("an idx file must be whole", f"{name}: {error}", _WAY_OUT) from error
    dtype = np.dtype(_DTYPES[code])
    expected = 4 + 4 * axes + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(data) != expected:
        found = f"{name}: {len(data)} bytes, its header promises {expected}"
        raise DataRejected("an idx file must be whole", found, _WAY_OUT)
    values = np.frombuffer(data, dtype, offset=4 + 4 * axes).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _check(sets: Sequence[IdxSet], target: str) -> None:
    problems = []
    for each in sets:
        if said := stored.problem(f"{each.name} images", each.images):
            problems.append(said)
        if each.labels.ndim != 1 or each.labels.dtype.kind not in "iu":
            problems.append(
                f"{each.name} labels are {each.labels.dtype} {list(each.labels.shape)}, not integers [rows]"
            )
        if len(each.images) != len(each.labels):
            problems.append(f"{each.name}: {len(each.images)} images, {len(each.labels)} labels")
    forms = {(each.images.dtype.name, each.images.shape[1:]) for each in sets}
    if len(forms) > 1:
        problems.append("images differ: " + ", ".join(f"{dtype} {list(shape)}" for dtype, shape in sorted(forms)))
    if target in (IMAGE, SPLIT):
        problems.append(f"base.target is {target}, the name of another column")
    if problems:
        raise DataRejected(
            "idx files must hold equally many images and labels, and images of one shape", "; ".join(problems), _WAY_OUT
        )
