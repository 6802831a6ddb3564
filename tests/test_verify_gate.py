"""The gate as the room uses it: every check on a whole pipeline's output, and what the settings say of them."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worlds
from markupsafe import escape
from PIL import Image

from tasks.core import files, uses
from tasks.core.errors import NotProven, UsageError
from tasks.core.settings import Limits, Verify
from tasks.core.stage import run_stage
from tasks.verify import checks, disjoint, pictures, skill
from tasks.verify.behaviour import calibration, explanation, flips, privacy, robustness, scores


def verify(root: Path, **own: Any) -> dict[str, Any]:
    """The verdict, whatever it is."""
    settings = worlds.write_params(root, {"verify": own})
    folder = root / "artifacts" / "verify"
    try:
        run_stage("verify", settings, root)
    except NotProven:
        folder = root / "artifacts" / "rejected" / "verify"
    found: dict[str, Any] = files.read_json(folder / "verdict.json")
    return found


def test_every_check_looks_at_a_sound_file_and_finds_nothing(world: Path) -> None:
    told = verify(world, checks=list(checks.names()), slices=["carrier", "distance"], min_slice_rows=50)
    kinds = {line["kind"] for line in told["checks"]}
    expected = {"metric", "data", "mechanics", "slice", "class", "flips", "calibration", "scores", "explanation"}
    assert expected | {"privacy", "robustness", "use"} <= kinds
    assert [line for line in told["checks"] if line["verdict"] != "ACCEPT"] == []
    assert told["verdict"] == "ACCEPT"
    assert told["notes"] == []
    page = (world / "artifacts" / "verify" / "report.html").read_text()
    assert "ACCEPT. The exported file was shown to be as good" in page
    assert "Reliability of the probability" in page
    assert all(f"{line['kind']}: {escape(line['name'])}" in page for line in told["checks"])


def test_a_check_that_is_left_out_is_named(world: Path) -> None:
    told = verify(world, checks=["flips"])
    assert {line["kind"] for line in told["checks"]} == {"metric", "data", "use", "budget", "flips"}
    assert [line["name"] for line in told["checks"] if line["kind"] == "data"] == [skill.NAME]
    assert "privacy: verify.checks leaves it out" in told["notes"]


def test_a_slice_that_is_no_column_is_told(world: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)verify\.slices.*nowhere.*carrier"):
        run_stage("verify", worlds.write_params(world, {"verify": {"slices": ["nowhere"]}}), world)


def test_a_test_set_that_has_judged_too_often_accepts_nothing(world: Path) -> None:
    assert verify(world, refuse_after_uses=2)["verdict"] == "ACCEPT"
    assert verify(world, refuse_after_uses=2)["verdict"] == "ACCEPT", "the very same judgement does not count again"
    assert verify(world, refuse_after_uses=2, resamples=3100)["verdict"] == "INCONCLUSIVE"
    assert len(files.read_json(world / "artifacts" / uses.LEDGER)["tests"].popitem()[1]) >= 3


def test_the_default_limits_are_those_that_the_checks_give_reasons_for() -> None:
    limits = Limits()
    found = (limits.spoilt, limits.calibration, limits.scores, limits.explanation, limits.privacy, limits.corruption)
    reasons = (
        flips.SPOILT, calibration.RISE, scores.INDEX, explanation.SHORTFALL, privacy.LEAK, robustness.EXTRA,
    )  # fmt: skip
    assert found == reasons
    assert scores.INDEX == scores.DISTANCE
    assert limits.known == disjoint.LIMIT
    assert (Verify().warn_after_uses, Verify().refuse_after_uses) == (uses.WARN_AFTER, uses.REFUSE_AFTER)


@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 6, 5, 1), (3, 1, 6, 5), (3, 6, 5, 3), (3, 6, 5, 4)])
def test_pictures_hold_the_pixels(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = pictures.of({"x": values}, [2])
    head, _, data = found[2].partition(",")
    assert head == "data:image/png;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels.tolist() == values[2].reshape(pixels.shape).tolist()


@pytest.mark.parametrize(("shape", "lines"), [((3, 50), 1), ((3, 2, 50), 2), ((3, 50, 3), 3)])
def test_a_series_is_drawn_as_lines(shape: tuple[int, ...], lines: int) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    head, _, data = pictures.of({"x": values}, [1])[1].partition(",")
    assert head == "data:image/svg+xml;base64"
    drawn = re.findall(r'<polyline [^>]*points="([^"]*)"/>', base64.b64decode(data).decode())
    assert [len(points.split()) for points in drawn] == [50] * lines


def test_rows_that_are_neither_have_no_pictures() -> None:
    assert pictures.of({"x": np.zeros((3, 7, 8, 9))}, [0]) == {}
    assert pictures.of({"x": np.zeros((3, 4, 4)), "z": np.zeros(3)}, [0]) == {}
    assert pictures.of({"x": np.array(["a", "b"])}, [0]) == {}
