"""One browser and one server for all tests of the page."""

import asyncio
import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from localllm.engine.fake import Script
from localllm.server.access.key_ring import KeyRing
from tests.server.server_under_test import KEY, start_server

WAITS_S = 30


class PageServer:
    """A server in a thread of its own: Selenium's calls block."""

    def __init__(self, model: Path, data: Path) -> None:
        self.script = Script(vision=True)
        self.keys = KeyRing(KEY)
        self.url = ""
        self._model, self._data = model, data
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with start_server(self.script, self._model, self._data, key=self.keys) as server:
                self.url = server.address.url
                self._ready.set()
                await self._end.wait()
        finally:
            self._ready.set()

    def __enter__(self) -> "PageServer":
        self._thread.start()
        self._ready.wait()
        assert self.url, "the server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def play(self, *tokens: str, **changes: Any) -> None:
        """Let the engine answer so from now on; what is not named is as in a new Script."""
        fresh = replace(Script(vision=True), tokens=tokens, **changes)
        for name in ("tokens", "reasoning", "calls", "gate", "generate_error", "warnings"):
            setattr(self.script, name, getattr(fresh, name))
        self.script.requests.clear()

    def release(self, gate: asyncio.Semaphore, times: int = 1) -> None:
        """Let so many tokens through a gate of the script."""
        for _ in range(times):
            self._loop.call_soon_threadsafe(gate.release)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    url: str
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """Chromium, and what it has done: its console, its requests."""

    driver: webdriver.Chrome

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true."""
        WebDriverWait(self.driver, WAITS_S, poll_frequency=0.02).until(
            lambda driver: driver.execute_script(f"return Boolean({condition})"), condition
        )

    def open(self, url: str) -> None:
        """Load the page anew, also when only what stands behind # is another one."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def type(self, *keys: str) -> None:
        self.one("#question").send_keys(*keys)

    def ask(self, text: str) -> None:
        """Ask, and wait for the end of the answer."""
        self.type(text, Keys.ENTER)
        self.wait_idle()

    def wait_idle(self) -> None:
        self.wait(
            "document.querySelector('.answer:last-child .bar') && !document.querySelector('.busy')"
        )

    def click(self, selector: str) -> None:
        with contextlib.suppress(StaleElementReferenceException):
            self.one(selector).click()

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def console(self) -> list[str]:
        """Return what was written to the console since the last call, violations of the policy
        among it."""
        return [each["message"] for each in self._log("browser")]

    def requests(self) -> list[Request]:
        """Return the requests since the last call, also those that the policy has stopped."""
        began: dict[str, str] = {}
        stopped = set()
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            details = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                began[details["requestId"]] = details["request"]["url"]
            elif message["method"] == "Network.loadingFailed" and details.get("blockedReason"):
                stopped.add(details["requestId"])
        return [Request(url=url, stopped=key in stopped) for key, url in began.items()]


@pytest.fixture(scope="session")
def page_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    with PageServer(smollm2, tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-default-apps", "--hide-scrollbars", "--force-device-scale-factor=1",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(argument)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's own has to be set up by root for others
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        chrome.get("about:blank")  # instead of the page for new tabs
        yield Browser(driver=chrome)
    finally:
        chrome.quit()


@pytest.fixture
def browser(chromium: Browser, page_server: PageServer) -> Iterator[Browser]:
    """The page, opened with a link. Afterwards: nothing on the console, no request elsewhere."""
    page_server.play("Hello, ", "world.")
    chromium.console(), chromium.requests()
    chromium.open(f"{page_server.url}/#t={page_server.keys.pages.create_link()}")
    chromium.wait("document.querySelector('#model').value")
    yield chromium
    assert chromium.console() == []
    own = (page_server.url, "data:", "blob:", "about:", "chrome:")  # chrome: Chromium's own pages
    assert [each for each in chromium.requests() if not each.url.startswith(own)] == []
