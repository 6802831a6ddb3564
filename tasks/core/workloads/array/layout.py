"""Which axis of a stored array holds the channels: decided once from the shape, and written down in the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: An image with a channel axis has it at one end, and no more channels than red, green, blue and alpha.
_MOST_IMAGE_CHANNELS = 4


@dataclass(frozen=True)
class Layout:
    """How to read the array of one row.

    Attributes:
        shape: its axes, without the batch.
        channel_axis: index of the channels in ``shape``; None if there is no such axis (one channel).
    """

    shape: tuple[int, ...]
    channel_axis: int | None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Axes of place or time, in order: one for a series, two (height, width) for an image."""
        return tuple(axis for axis in range(len(self.shape)) if axis != self.channel_axis)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Lengths of the spatial axes."""
        return tuple(self.shape[axis] for axis in self.spatial_axes)

    @property
    def described(self) -> str:
        """For a person."""
        what = "image" if len(self.sizes) == 2 else "series"
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{what}, {' x '.join(map(str, self.sizes))}, {channels}"


def of(shape: Sequence[int], kind: str = "auto") -> Layout | None:
    """The layout of an array of one row, or None if the built-in networks have no reading of it.

    =============  =========================================================================================
    axes           reading
    =============  =========================================================================================
    ``[T]``        a series of one channel
    ``[A, B]``     a series if one axis is at most 4 and the other longer, or if ``kind`` is "series": the
                   shorter axis holds the channels (the first, if both are equal); else a grey image [H, W]
    ``[A, B, C]``  an image: channels last if C is at most 4, else channels first if A is at most 4
    =============  =========================================================================================

    Args:
        shape: axes of one row.
        kind: "series" to read [A, B] as one whatever the lengths, else "auto".
    """
    axes = tuple(shape)
    if not axes or min(axes) < 1:
        return None
    if len(axes) == 1:
        return Layout(axes, None)
    if len(axes) == 2:
        narrow = min(axes) <= _MOST_IMAGE_CHANNELS < max(axes)
        shorter = int(axes[1] < axes[0])
        return Layout(axes, shorter if narrow or kind == "series" else None)
    ends = (2, 0) if len(axes) == 3 and kind != "series" else ()
    return next((Layout(axes, axis) for axis in ends if axes[axis] <= _MOST_IMAGE_CHANNELS), None)
