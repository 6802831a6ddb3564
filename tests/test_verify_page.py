"""The gate's page in a real Chromium: what a person sees, on a desk and on a phone, without any network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import worlds
from chromium import PHONE, opened, shown, without_chromium
from fault_world import Picture, answer, rewrite

from tasks.core.errors import NotProven
from tasks.core.stage import run_stage

_CHECKS = ["slices", "flips", "calibration", "scores"]

pytestmark = without_chromium


@pytest.fixture(scope="module")
def accepted(picture: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an accepted file for pictures, whose answers were moved a little so that some of them flip."""
    root = shutil.copytree(picture.root, tmp_path_factory.mktemp("accepted") / "world")
    own = {"checks": _CHECKS, "margin": 0.1, "limits": {"changed": 0.5, "spoilt": 0.5}}
    run_stage("verify", picture.settings({"verify": own}), root)
    assert "99 % below" not in (root / "artifacts/verify/report.html").read_text(), "what differs by run is no output"
    return root / "artifacts/runs/verify.html"


@pytest.fixture(scope="module")
def rejected(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a file whose answers are rounded to yes and no."""
    root = shutil.copytree(tiny, tmp_path_factory.mktemp("rejected") / "world")
    rewrite(root, answer("Round(raw)"))
    own = {"checks": _CHECKS, "resamples": 300, "slices": ["carrier"], "min_slice_rows": 50}
    with pytest.raises(NotProven):
        run_stage("verify", worlds.write_params(root, {"verify": own}), root)
    return root / "artifacts/rejected/verify/report.html"


@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
@pytest.mark.parametrize("which", ["accepted", "rejected"])
def test_the_page_is_readable(browser: Any, request: pytest.FixtureRequest, which: str, phone: bool) -> None:
    page = opened(browser, request.getfixturevalue(which), phone)
    if phone:
        assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.execute_script("return window.innerWidth") == PHONE["width"]
    (verdict,) = shown(page, ".verdict")
    assert verdict.rect["y"] < 120, "the verdict comes first"
    said = {
        "accepted": "ACCEPT. The exported file was shown to be as good",
        "rejected": "REGRESSION. The exported file",
    }
    assert verdict.text.startswith(said[which])
    lines = page.find_elements("css selector", ".lines tr")[1:]
    assert all(line.text for line in lines)
    assert len(shown(page, ".lines svg")) == len(page.find_elements("css selector", ".lines svg")) > 5
    assert [figure.text for figure in shown(page, ".facts li b")] != []
    headings = {heading.text for heading in shown(page, "h2")}
    assert {"Every line of it", "Time of a call", "Before and after", "Figures on test", "Confusion"} <= headings


@pytest.mark.parametrize("which", ["accepted", "rejected"])
def test_what_is_drawn_is_what_was_measured(browser: Any, request: pytest.FixtureRequest, which: str) -> None:
    path = request.getfixturevalue(which)
    verdict = path.with_name("verdict.json") if path.stem == "report" else path.parents[1] / "verify" / "verdict.json"
    page, told = opened(browser, path, False), json.loads(verdict.read_text())
    reliability = page.find_elements("css selector", 'svg[aria-label="reliability"] polyline')
    points = [len(line.get_attribute("points").split()) for line in reliability]
    curves = told["drawings"]["calibration"]
    assert points == [len(curves[side]["rows"]) for side in ("original", "shipped")]
    assert len(shown(page, "svg.times")) == 2 * len([fact for fact in shown(page, ".facts li") if "batch" in fact.text])
    for svg in shown(page, "svg.times"):
        assert "median" in svg.get_attribute("aria-label")
    assert len(shown(page, ".gallery figure")) == len(told["drawings"]["flips"]["worst"]) > 0
    pictures = shown(page, ".gallery img")
    assert len(pictures) == (len(told["drawings"]["flips"]["worst"]) if which == "accepted" else 0)
    assert all(page.execute_script("return arguments[0].naturalWidth", image) == 8 for image in pictures)


def test_dark_and_light_have_contrast(browser: Any, accepted: Path) -> None:
    """At least 4.5 to 1, as WCAG 2.1 asks of text."""
    page = opened(browser, accepted, False)
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        for selector in ("h1", ".verdict", ".soft", "td.ACCEPT"):
            ratio = page.execute_script(_CONTRAST, page.find_element("css selector", selector))
            assert ratio >= 4.5, (scheme, selector)


_CONTRAST = """
const colour = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = rgb => rgb.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
let behind = arguments[0];
while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
const [a, b] = [getComputedStyle(arguments[0]).color, getComputedStyle(behind).backgroundColor]
  .map(colour).map(light).sort((x, y) => y - x);
return (a + .05) / (b + .05);
"""
