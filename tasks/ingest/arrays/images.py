"""Reads a folder of class folders with image files: the folder's name is the label.

A file that is broken, or would decode to a monstrous size, keeps its row: the tensor is null and the column ``problem``
says why, so that validate sets the row aside and reports it.
"""

from __future__ import annotations

import errno
import struct
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.errors import DataRejected, MachineError, UsageError
from tasks.core.log import progress
from tasks.ingest.arrays import stored
from tasks.ingest.arrays.idx import IMAGE, SPLIT
from tasks.ingest.source import Part, with_tensors

FILE, PROBLEM = "file", "problem"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"})
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
#: Folders of these names, if there are no others, are splits: the class folders are inside them.
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_SYSTEM = (errno.EACCES, errno.EPERM, errno.EIO, errno.ENOENT, errno.EMFILE, errno.ENFILE)
_MOST_PIXELS = 64 << 20
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, EOFError, MemoryError,
           RuntimeError, struct.error)  # fmt: skip


@dataclass(frozen=True)
class ImageFile:
    """A file, its label, and the split if a folder names it."""

    path: Path
    label: str
    split: str | None


class Unusable(Exception):
    """A file that gives no image; the text says why."""


def files(folder: Path) -> list[ImageFile]:
    """The image files of class folders, sorted; none if ``folder`` is something else."""
    inside = _folders(folder)
    if inside and all(each.name.lower() in _SPLITS and _folders(each) for each in inside):
        return [
            ImageFile(path, label.name, _SPLITS[split.name.lower()])
            for split in inside
            for label in _folders(split)
            for path in _images(label)
        ]
    return [ImageFile(path, label.name, None) for label in inside for path in _images(label)]


def part(folder: Path, found: Sequence[ImageFile], target: str, size: tuple[int, int] | None, channels: int) -> Part:
    """The files as a part that decodes them as it is read: memory holds one batch.

    Columns: ``target`` (the class folder), ``file`` (path inside the folder), ``problem``, ``split`` if folders name
    it, and the tensor ``image``, uint8 [H, W] for one channel or [H, W, 3].

    Args:
        folder: the source.
        found: its files.
        target: column of the label.
        size: height and width to scale to; None if all must have one size.
        channels: 1 (grey) or 3 (colour).

    Raises:
        UsageError: if Pillow is not installed, or the target has the name of another column.
        DataRejected: if sizes differ and none is given, or no file can be read.
    """
    _check(target)
    height, width = size or _common_size(folder, found)
    facts = {IMAGE: {"dtype": "uint8", "shape": [height, width] if channels == 1 else [height, width, channels]}}
    has_split = any(each.split for each in found)
    names = [target, FILE, PROBLEM, *([SPLIT] if has_split else [])]
    schema = with_tensors(pa.schema([(name, pa.string()) for name in names]), facts)
    step = stored.batch_rows(facts)

    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(found), step):
            rows = [_row(each, folder, (height, width), channels) for each in found[start : start + step]]
            columns = dict(zip((FILE, PROBLEM, IMAGE, target, SPLIT), zip(*rows, strict=True), strict=True))
            yield pa.RecordBatch.from_arrays(
                [pa.array(columns[field.name], field.type) for field in schema], schema=schema
            )

    return Part(str(folder), schema, read, facts)


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    there = (each for each in folder.iterdir() if not each.name.startswith("."))
    return sorted(each for each in there if each.suffix.lower() in SUFFIXES and each.is_file())


def _check(target: str) -> None:
    try:
        import PIL  # noqa: F401  (only whether it is there)
    except ImportError as error:
        way_out = 'pip install ".[images]", or store the images in an .npz file'
        raise UsageError("image files are read with Pillow", "it is not installed", way_out) from error
    if target in (IMAGE, FILE, PROBLEM, SPLIT):
        found = f"base.target is {target}, the name of another column"
        raise UsageError("the label of a class folder needs a column of its own", found, "choose another base.target")


def _common_size(folder: Path, found: Sequence[ImageFile]) -> tuple[int, int]:
    """Height and width of all files whose header can be read."""
    sizes: Counter[tuple[int, int]] = Counter()
    for each in progress(found, "ingest: image headers"):
        try:
            sizes[_size(each.path)] += 1
        except Unusable:
            continue  # `read` meets it again, and says so in its row
    if not sizes:
        raise DataRejected(
            "a folder of images must hold images", f"none of {len(found)} files in {folder} can be read", "replace them"
        )
    if len(sizes) > 1:
        most = ", ".join(f"{height} x {width} ({count})" for (height, width), count in sizes.most_common(5))
        raise DataRejected(
            "images must have one size, or ingest.image_size must say which to scale them to",
            f"{len(sizes)} sizes in {folder}, height x width (files): {most}",
            "set ingest.image_size: [height, width]",
        )
    return next(iter(sizes))


def _row(
    each: ImageFile, folder: Path, size: tuple[int, int], channels: int
) -> tuple[str, str | None, bytes | None, str, str | None]:
    """file, problem, image, label, split."""
    name = each.path.relative_to(folder).as_posix()
    try:
        return name, None, _pixels(each.path, size, channels).tobytes(), each.label, each.split
    except Unusable as unusable:
        return name, str(unusable), None, each.label, each.split


def _size(path: Path) -> tuple[int, int]:
    """Height and width, once upright, from the header alone."""
    with _opened(path) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
        except _BROKEN as error:
            raise _unusable(error) from error
        return (width, height) if turned else (height, width)


def _pixels(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3]: upright, first frame, scaled if it must be."""
    from PIL import Image, ImageOps

    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise Unusable(f"more than 8 bits a channel (mode {image.mode}): store such images in an .npz file")
        try:
            upright = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
            if (upright.height, upright.width) != size:
                upright = upright.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(upright, np.uint8)
        except _BROKEN as error:
            raise _unusable(error) from error


def _opened(path: Path) -> Any:
    """The image, of which only the header was read, and whose size is bearable."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unusable("too many pixels: a decompression bomb, or an image to scale down first") from error
    except _BROKEN as error:
        raise _unusable(error) from error
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise Unusable(f"{image.height} x {image.width} is too many pixels: more than {_MOST_PIXELS}")
    return image


def _unusable(error: BaseException) -> Unusable:
    """A decoder's complaint, without the path that some of them name: it differs between machines."""
    if getattr(error, "errno", None) in _SYSTEM:  # the system's word, not the file's content
        raise MachineError("an image file must be readable", str(error), "allow this user to read it") from error
    return Unusable(f"not an image that can be decoded ({type(error).__name__})")
