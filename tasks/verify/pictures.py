"""Rows of test that are images or series, as pictures for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tasks.core.workloads.array import layout

if TYPE_CHECKING:
    from tasks.verify.stored import Column

#: Of a drawn series: width and height, and the points that a line has at most.
_WIDTH, _HEIGHT, _POINTS = 160, 60, 320
_COLOURS = ("#3b5bdb", "#c2410c", "#1a7f4b", "#9a6700")


def of(columns: Mapping[str, np.ndarray | Column], rows: Sequence[int]) -> dict[int, str]:
    """Place of the row -> a picture as data URI; nothing if rows are neither images nor series.

    What is an image and what a series is read off the shape, as the array workload does. An image is a PNG, which needs
    Pillow (the extra ``images``); a series is an SVG, a line for each of its first channels.

    Args:
        columns: the raw rows; the array is the only column, [n, ...], uint8 or any numbers (stretched from each row's
            least to its greatest).
        rows: places of the rows.
    """
    (values, *others) = columns.values()
    read = None if others or values.dtype.kind not in "uif" else layout.of(values.shape[1:])
    if read is None or read.channels > len(_COLOURS):
        return {}
    chosen = values[np.array(rows, np.int64)]
    channels = chosen if read.channel_axis is None else np.moveaxis(chosen, read.channel_axis + 1, -1)
    draw = _image if len(read.sizes) == 2 else _series
    drawn = ((row, draw(each)) for row, each in zip(rows, channels, strict=True))
    return {row: picture for row, picture in drawn if picture}


def _image(values: np.ndarray) -> str:
    """A PNG of [height, width] or [height, width, channels]."""
    try:
        from PIL import Image
    except ImportError:
        return ""
    pixels = values if values.dtype == np.uint8 else (255 * _stretched(values)).astype(np.uint8)
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] in (1, 2) else pixels
    file = io.BytesIO()
    Image.fromarray(flat).save(file, "png")
    return _uri("png", file.getvalue())


def _series(values: np.ndarray) -> str:
    """An SVG of [time] or [time, channels]."""
    lines = _stretched(values).reshape(len(values), -1)[:: max(1, len(values) // _POINTS)]
    across = np.linspace(0, _WIDTH, len(lines))
    drawn = "".join(
        f'<polyline fill="none" stroke="{colour}" points="{_points(across, line)}"/>'
        for colour, line in zip(_COLOURS, lines.T, strict=False)
    )
    return _uri(
        "svg+xml", f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">{drawn}</svg>'.encode()
    )


def _points(across: np.ndarray, line: np.ndarray) -> str:
    return " ".join(f"{x:.1f},{_HEIGHT * (1 - y):.1f}" for x, y in zip(across, line, strict=True))


def _stretched(values: np.ndarray) -> np.ndarray:
    """From 0 to 1."""
    exact = np.nan_to_num(values.astype(np.float64))
    low, high = exact.min(), exact.max()
    return np.asarray((exact - low) / ((high - low) or 1))


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
