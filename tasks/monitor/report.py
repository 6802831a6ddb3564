"""One page for a person: the finding in words, then each column with its distance and both distributions drawn.

The page needs no network and no script. All values are escaped: a column may be called anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core import pages

_SAID = {
    "STEADY": "The rows are spread as those that the model learnt from.",
    "WATCH": "Something drifted, though not yet for long enough to act.",
    "DRIFT": "The model is asked about other rows, or answers them worse, than it was made for.",
    "CANNOT TELL": "Too little is known to tell.",
}
#: Width and height of a drawn distribution.
_WIDTH, _HEIGHT = 160.0, 36.0


def render(told: Mapping[str, Any]) -> str:
    """The page (HTML) of what ``monitor.json`` holds."""
    environment = pages.environment("tasks.monitor")
    environment.filters |= {"number": _number, "percent": _percent}
    environment.globals["bars"] = _bars
    spreads = sorted(told["spreads"], key=lambda one: (not one["drifted"], -max(one["psi"], one["ks"] or 0.0)))
    return environment.get_template("report.html.j2").render(told=told, said=_SAID[told["word"]], spreads=spreads)


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _bars(reference: Sequence[float], window: Sequence[float]) -> list[tuple[float, float, float, float, float, float]]:
    """For each bin: left, width, and top and height of the reference's and of the window's bar."""
    most = max(*reference, *window) or 1.0
    width = _WIDTH / len(reference)
    heights = [
        (_HEIGHT * first / most, _HEIGHT * second / most) for first, second in zip(reference, window, strict=True)
    ]
    return [
        (width * place, width, _HEIGHT - first, first, _HEIGHT - second, second)
        for place, (first, second) in enumerate(heights)
    ]
