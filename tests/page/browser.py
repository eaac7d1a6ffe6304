"""A headless Chromium and what tests do with the page in it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.server.served import Served, wait_for

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
DESKTOP = (1280, 860)
PHONE = (390, 844)


class Page:
    """The page in a browser. `open` begins with nothing kept and nothing in the console."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    # ---- where

    def open(self, server: Served, *, keep: bool = False) -> None:
        """Go to the server's page, past its question for the token."""
        if not keep:
            self.driver.get(server.url + "/page/style.css")
            self.run(
                "sessionStorage.clear(); const done = arguments[0];"
                "const r = indexedDB.deleteDatabase('rbee');"
                "r.onsuccess = r.onerror = r.onblocked = () => done()",
                wait=True,
            )
        self.driver.get(server.url + "/")
        if server.token:
            wait_for(lambda: self.is_open("#gate") or self.text("#state") == "ready")
            if self.is_open("#gate"):
                self.one("#token").send_keys(server.token)
                self.one("#gate-form button").click()
        self.ready()

    def again(self) -> None:
        """Load the page anew; the tab keeps its token."""
        self.driver.refresh()
        self.ready()

    def ready(self) -> None:
        """Wait until the model is ready and the page knows what it says of itself."""
        wait_for(lambda: self.text("#state") == "ready")
        wait_for(lambda: self.count("#parameters [name]") > 0)

    def size(self, size: tuple[int, int], scheme: str = "light") -> None:
        """Width and height in CSS pixels, also below what a window may have; light or dark."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    # ---- what is there

    def run(self, script: str, *arguments: Any, wait: bool = False) -> Any:
        """Run a script; wait: until it calls its last argument."""
        run = self.driver.execute_async_script if wait else self.driver.execute_script
        return run(script, *arguments)

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def text(self, css: str) -> str:
        """Text of the last element that `css` finds, shown or folded away."""
        script = "return [...document.querySelectorAll(arguments[0])].at(-1)?.textContent ?? ''"
        found: str = self.run(script, css)
        return found

    def texts(self, css: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
        found: list[str] = self.run(script, css)
        return found

    def count(self, css: str) -> int:
        return len(self.texts(css))

    def is_open(self, css: str) -> bool:
        return bool(self.run("return document.querySelector(arguments[0])?.open ?? false", css))

    def is_shown(self, css: str) -> bool:
        return bool(self.one(css).is_displayed())

    # ---- what is done

    def click(self, css: str, text: str = "") -> None:
        """Click the last element that `css` finds, with this text if one is given, once it is
        there."""
        script = """const all = [...document.querySelectorAll(arguments[0])];
            const found = all.filter((e) => !arguments[1] || e.textContent === arguments[1]).at(-1);
            found?.click();
            return found !== undefined"""
        wait_for(lambda: bool(self.run(script, css, text)))

    def press_twice(self, css: str) -> str:
        """Press a button that asks whether one is sure, and again before anything else happens;
        what it asked."""
        script = """const found = document.querySelector(arguments[0]);
            found.click(); const asked = found.textContent; found.click(); return asked"""
        wait_for(lambda: self.count(css) > 0)
        asked: str = self.run(script, css)
        return asked

    def write(self, css: str, words: str) -> None:
        """Replace a field's text, as typing does."""
        script = """const field = document.querySelector(arguments[0]); field.value = arguments[1];
            field.dispatchEvent(new Event("input", {bubbles: true}));
            field.dispatchEvent(new Event("change", {bubbles: true}))"""
        self.run(script, css, words)

    def keys(self, *keys: str, css: str = "#prompt") -> None:
        self.one(css).send_keys(*keys)

    def say(self, words: str, *, wait: bool = True) -> None:
        """Ask; wait: until the answer has ended."""
        self.keys(words + Keys.ENTER)
        if wait:
            wait_for(lambda: self.text(".user .text") == words)
            self.settled()

    def settled(self) -> None:
        """Wait until nothing is being answered."""
        wait_for(lambda: self.count(".answer") > 0 and self.count(".answer.busy") == 0)
        wait_for(lambda: not self.is_shown("#stop"))

    def attach(self, *paths: str) -> None:
        self.one("#file").send_keys("\n".join(paths))

    # ---- what went on

    def requests(self) -> set[str]:
        """Addresses of everything the page has asked for since the last call."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.add(message["params"]["request"]["url"])
        return found

    def console(self, *expected: str) -> list[str]:
        """What went wrong in the console since the last call, without what was expected."""
        found = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        return [message for message in found if not any(words in message for words in expected)]


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        downloads = {"download.default_directory": profile}
        options.add_experimental_option("prefs", downloads)
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(executable_path=DRIVER)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            page = Page(driver)
            page.size(DESKTOP)
            yield page
        finally:
            driver.quit()


def watched(look: Callable[[], str], until: Callable[[], bool]) -> set[str]:
    """Everything that `look` saw until `until` held."""
    seen: set[str] = set()

    def watch() -> bool:
        seen.add(look())
        return until()

    wait_for(watch)
    return seen
