"""A real browser, headless, for tests of pages that open from disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = "chromium", "chromedriver"
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900",
            "--disable-background-networking", "--force-prefers-reduced-motion")  # fmt: skip


def why_not() -> str:
    """What is missing for a browser; empty if nothing is."""
    missing = [name for name in (CHROMIUM, DRIVER) if shutil.which(name) is None]
    return f"not found: {', '.join(missing)} (packages chromium, chromium-driver)" if missing else ""


class Browser:
    """Chromium under our control, with the few things that tests do in it."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which(CHROMIUM))
        for switch in (*SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # type: ignore[no-untyped-call]
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which(DRIVER)))

    def quit(self) -> None:
        self.driver.quit()

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page from disk again, even if only the fragment differs from what is there."""
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """The text of all that matches, whether in view or not."""
        texts: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent.trim())", selector
        )
        return texts

    def press(self, *keys: str) -> None:
        """Type, into whatever has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def until(self, happened: Callable[[], Any], what: str) -> Any:
        """Wait, a quarter of a minute at most, until something is so."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 15, poll_frequency=0.05).until(lambda _: happened(), what)

    def emulate(self, **features: str) -> None:
        """What the system is said to prefer, such as prefers_color_scheme="dark"; nothing: as it is."""
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def screen(self, width: int, height: int, phone: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        touch = {"enabled": phone, "maxTouchPoints": 1}
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", touch)

    def console(self) -> list[str]:
        """The console messages since the last call."""
        return [one["message"] for one in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for a module. Without Chromium tests are skipped, but fail where CI is set."""
    if reason := why_not():
        if os.environ.get("CI"):
            pytest.fail(f"no browser: {reason}")
        pytest.skip(f"no browser: {reason}")
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.quit()
