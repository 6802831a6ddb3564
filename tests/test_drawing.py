"""What stands on a page's axes, and how its messages are set."""

from __future__ import annotations

import pytest

from tasks.core.drawing import Axis
from tasks.core.pages import environment


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.71520, 0.71552], ["0.7152", "0.71528", "0.71536", "0.71544", "0.71552"]),
        ([0.0, 1.0], ["0", "0.25", "0.5", "0.75", "1"]),
        ([151.0, 486.0], ["151", "235", "318", "402", "486"]),
        ([1000.0, 9000.0], ["1000", "3000", "5000", "7000", "9000"]),
        ([0, 3], ["0", "1", "2", "3"]),
        ([1, 60_000], ["1", "16", "245", "3834", "60000"]),
        (["adam", "sgd"], ["adam", "sgd"]),
        ([5e-9, 5e-9], ["-0.5", "-0.25", "5e-09", "0.25", "0.5"]),
    ],
)
def test_no_two_places_of_an_axis_say_the_same(values: list[float], said: list[str]) -> None:
    assert [text for _, text in Axis.of(values, 0, 100).ticks] == said


def test_names_in_a_message_are_set_apart_and_nothing_else_is_html() -> None:
    page = environment("tasks.retrain").from_string("{{ text | names }}").render(text="`a<b` is new; 2 < 3 `")
    assert page == "<code>a&lt;b</code> is new; 2 &lt; 3 `"
