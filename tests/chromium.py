"""Pages in a real Chromium, without any network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}

_CHROMIUM, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_OFFLINE = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip

without_chromium = pytest.mark.skipif(not (_CHROMIUM and _DRIVER), reason="no Chromium here: sh tests/os_packages.sh")


@contextmanager
def started(profile: Path) -> Iterator[Any]:
    """A browser of its own, which writes down what it asks for."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(_CHROMIUM)
    for argument in (*_OFFLINE, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(_DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def opened(browser: Any, page: Path, phone: bool) -> Any:
    """The page, shown at once: nothing of what was asked for lies outside it, and nothing went wrong."""
    browser.get_log("performance"), browser.get_log("browser")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    if phone:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.get(page.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    # chrome: is what the browser's own first page, which may load still, is made of
    beside = {url for url in asked if not url.startswith(("data:", "chrome:"))} - {page.as_uri()}
    assert page.as_uri() in asked
    assert not beside, beside
    assert browser.get_log("browser") == []
    return browser


def shown(browser: Any, selector: str) -> list[Any]:
    """Elements that take room on the page."""
    found = browser.find_elements("css selector", selector)
    return [each for each in found if each.rect["width"] > 0 and each.rect["height"] > 0]
