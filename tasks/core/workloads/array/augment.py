"""Light random changes of training arrays: drawn on the CPU (the same for every device), applied on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.workloads.array.layout import Layout

#: Largest shift along an axis, as a share of its length: 1 pixel of 28.
_SHIFT = 0.05
#: Largest change of a series' amplitude about its mean, as a share.
_SCALE = 0.05
#: Largest change of brightness, as a share of the range, and of contrast and of a series' gain, as factors: what the
#: gate's check of robustness asks for.
_BRIGHTNESS, _CONTRAST, _GAIN = 0.1, 0.25, 0.1


def augmented(values: Tensor, layout: Layout, mean: Tensor, how: str) -> Tensor:
    """The arrays, each changed at random in its own way; seeded by torch's global generator.

    ``auto`` is what leaves a label as it is: a small shift along each axis of place or time (what comes in at the edge
    repeats it), and for a series a small change of amplitude. A mirror image is a different thing where there are
    digits, text, or a left and a right; ``flip`` adds it (every second image, left to right) for who knows better.

    Args:
        values: [rows, *layout.shape], any dtype.
        layout: of one row.
        mean: of train, float32, one for each channel.
        how: "auto" or "flip".

    Returns:
        The same shape; the same dtype for images, float32 for series.
    """
    *_, last = layout.spatial_axes
    is_image = len(layout.sizes) == 2
    for axis in layout.spatial_axes:
        values = _moved(values, axis + 1, mirror=is_image and how == "flip" and axis == last)
    return values if is_image else _rescaled(values, layout, mean)


def _moved(values: Tensor, axis: int, mirror: bool) -> Tensor:
    """Each row shifted along an axis and, if ``mirror``, every second one turned round."""
    rows, length = len(values), values.shape[axis]
    most = round(_SHIFT * length)
    places = torch.arange(length) + torch.randint(-most, most + 1, (rows, 1))
    if mirror:
        places = torch.where(torch.rand(rows, 1) < 0.5, places, length - 1 - places)
    places = places.clamp(0, length - 1).to(values.device, non_blocking=True)
    shape = [rows, *(length if index == axis else 1 for index in range(1, values.ndim))]
    return values.gather(axis, places.reshape(shape).expand(values.shape))


def _rescaled(values: Tensor, layout: Layout, mean: Tensor) -> Tensor:
    factor = 1 + _SCALE * (2 * torch.rand(len(values), 1, 1) - 1)
    middle = mean if layout.channel_axis is None else mean.reshape(-1, 1) if layout.channel_axis == 0 else mean
    factor = factor.reshape(len(values), *[1] * (values.ndim - 1)).to(values.device, non_blocking=True)
    return (values.float() - middle) * factor + middle


def disturbed(values: Tensor, layout: Layout) -> Tensor:
    """Arrays as another camera or sensor would see them, each in its own way; seeded by torch's global generator.

    Images change in brightness and contrast, within their range; series in gain.

    Args:
        values: [rows, *layout.shape], of bytes or floats.
        layout: of one row.

    Returns:
        The same shape and dtype.
    """
    one_each = (len(values), *[1] * (values.ndim - 1))

    def up_to(most: float) -> Tensor:
        return (most * (2 * torch.rand(one_each) - 1)).to(values.device)

    known = values.float()
    if len(layout.sizes) == 1:
        changed = known * (1 + up_to(_GAIN))
    else:
        low, high = (0.0, 255.0) if values.dtype == torch.uint8 else (float(known.min()), float(known.max()))
        middle = known.mean(dim=tuple(range(1, known.ndim)), keepdim=True)
        changed = middle + (1 + up_to(_CONTRAST)) * (known - middle) + up_to(_BRIGHTNESS) * (high - low)
        changed = changed.clamp(low, high)
    return changed.to(values.dtype) if values.is_floating_point() else changed.round().clamp(0, 255).to(values.dtype)
