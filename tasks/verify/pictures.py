"""Rows of test that are images, as pictures for a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import numpy as np

_CHANNELS = (1, 3)


def of(columns: Mapping[str, np.ndarray], rows: Iterable[int]) -> dict[int, str]:
    """Place of the row -> a PNG as data URI; nothing if rows are no images, or without Pillow (the extra ``images``).

    Args:
        columns: the raw rows; images are the only column, [n, height, width], with one or three channels before or
            after these axes or without, uint8 or any numbers (stretched from each row's least to its greatest).
        rows: places of the rows.
    """
    try:
        from PIL import Image
    except ImportError:
        return {}
    (values, *others) = columns.values()
    if others or values.ndim not in (3, 4) or values.dtype.kind not in "uif":
        return {}
    if values.ndim == 4 and values.shape[1] in _CHANNELS and values.shape[3] not in _CHANNELS:
        values = np.moveaxis(values, 1, 3)
    if values.ndim == 4 and values.shape[3] not in _CHANNELS:
        return {}
    found = {}
    for row in rows:
        pixels = _pixels(values[row])
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(file, "png")
        found[row] = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return found


def _pixels(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    exact = np.nan_to_num(values.astype(np.float64))
    low, high = exact.min(), exact.max()
    return np.asarray(255 * (exact - low) / ((high - low) or 1)).astype(np.uint8)
