"""The page at ``/`` in headless Chromium: what it shows, that it follows the rows, and what it asks for."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

pytestmark = pytest.mark.integration

START, CONTEXT, HORIZON, TOKEN = 1_772_409_600, 24, 6, "open sesame"


class Chromium:
    """A browser with one page, driven over pipes: https://chromedevtools.github.io/devtools-protocol/

    Attributes:
        events: What it told without being asked.
    """

    def __init__(self, program: str, profile: Path) -> None:
        asked, self._write = os.pipe()
        self._read, told = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe"
        command = f'exec "$0" {flags} "--user-data-dir=$1" about:blank 3<&{asked} 4>&{told} 2> /dev/null'
        self._process = subprocess.Popen(["bash", "-c", command, program, profile], pass_fds=(asked, told))
        os.close(asked)
        os.close(told)
        self._numbers, self._rest, self._session = itertools.count(1), b"", {}
        self.events: list[dict[str, Any]] = []
        page = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (got := self._next()).get("id") != number:
            self.events.append(got)
        assert "error" not in got, got
        result: dict[str, Any] = got["result"]
        return result

    def _next(self) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            parts.append(os.read(self._read, 1 << 20))
            assert parts[-1], "the browser ended"
        message, _, self._rest = b"".join(parts).partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait_for(self, script: str, seconds: float = 20) -> Any:
        """The value of an expression, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, (script, self.run("document.body.innerText"))
            time.sleep(0.05)
        return value

    def picture(self, path: Path, *, width: int, scheme: str = "light") -> None:
        """Show the page at a width in pixels, in a light or dark scheme, and write a picture of it."""
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        self("Emulation.setDeviceMetricsOverride", **size)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.run("refresh()")
        told = self("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def close(self) -> None:
        """Close the browser."""
        self._session = {}
        self("Browser.close")
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = os.environ.get("PRESURGE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium: run apt-get install chromium, or set PRESURGE_CHROMIUM to one")
    one = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def test_the_page_shows_and_follows_what_comes(
    serving: Callable[..., Any], browser: Chromium, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    running = serving(token_file=tmp_path / "token")
    names = ("web", "<b id=evil>chat</b>")  # what a client calls an item is text

    def observe(begin: int, end: int) -> None:
        rows = [
            {"item": name, "time": START + 60 * i, "values": {"requests": 20 + i * 7 % 11 + 500 * (i > 90)}}
            for i in range(begin, end)
            for name in names
        ]
        headers = {"authorization": f"Bearer {TOKEN}"}
        httpx.post(f"{running.url}/v1/observe", json={"rows": rows}, headers=headers).raise_for_status()

    observe(0, 70)
    browser("Page.navigate", url=f"{running.url}/")
    browser.wait_for("document.querySelector('#login') && !document.querySelector('#login').hidden")
    browser.wait_for("document.querySelector('#state').innerText == 'a token is needed'")
    for token, state in (("wrong", "this is not the token"), (TOKEN, "ready")):
        browser.run(f"document.querySelector('#token').value = {token!r}")
        browser.run("document.querySelector('#login button').click()")
        browser.wait_for(f"document.querySelector('#state').innerText.startsWith({state!r})")
    assert browser.run("document.querySelector('#login').hidden")

    def drawn(kind: str) -> Any:
        """The numbers of points of the lines or bands of a kind, where each run begins with M."""
        return browser.run(
            f"[...document.querySelectorAll('main path.{kind}')].map(p => p.getAttribute('d').match(/[ML]/g).length)"
        )

    text = browser.run("document.body.innerText")
    assert f"Over {70 - CONTEXT} rows: WAPE" in text
    assert names[1] in text
    assert not browser.run("document.querySelector('#evil')")
    assert drawn("actual") == [70]
    assert drawn("band") == [2 * HORIZON]
    assert drawn("past-band") == [2 * (70 - CONTEXT)]
    assert drawn("mean") == [HORIZON, 70 - CONTEXT]  # the forecast; the error over time
    assert drawn("naive") == [70 - CONTEXT]
    observe(70, 72)  # nobody touches the page
    browser.wait_for(f"document.querySelector('main').innerText.includes('Over {72 - CONTEXT} rows')")
    assert drawn("actual") == [72]
    browser.run("document.querySelectorAll('#items button')[1].click()")
    browser.wait_for(f"document.querySelector('#item').value == {names[1]!r}")

    colors = []
    for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light")):
        browser.picture(tmp_path / f"{scheme}-{width}.png", width=width, scheme=scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        colors.append(browser.run("getComputedStyle(document.body).backgroundColor"))
        assert (tmp_path / f"{scheme}-{width}.png").stat().st_size > 10_000
    assert colors[0] == colors[2] != colors[1]
    assert (
        browser.run("document.querySelector('main svg').viewBox.baseVal.width") < 390
    )  # text keeps its size
    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "about:"))} == {
        urlsplit(running.url).netloc
    }
    said = [event["params"] for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
    logged = [event["params"]["entry"] for event in browser.events if event["method"] == "Log.entryAdded"]
    said += [one for one in logged if one["level"] in ("warning", "error") and " 401 " not in one["text"]]
    assert not said


def test_the_page_says_what_is_wrong(serving: Callable[..., Any], browser: Chromium) -> None:
    running = serving()
    browser("Page.navigate", url=f"{running.url}/")
    browser.wait_for("document.body && document.body.innerText.includes('Nothing was observed yet')")
    rows = [
        {"time": START + 60 * i, "values": {"requests": 10 + 100 * (i > 80) * (i % 2)}}
        for i in range(CONTEXT - 1)
    ]
    httpx.post(f"{running.url}/v1/observe", json={"rows": rows}).raise_for_status()
    browser.run("refresh()")
    words = f"No forecast: {CONTEXT - 1} of the {CONTEXT} rows that the model reads were observed."
    browser.wait_for(f"document.querySelector('main').innerText.includes({words!r})")
    assert "(no name)" in browser.run("document.body.innerText")
    running.service.storage = "no space left"
    browser.run("refresh()")
    browser.wait_for("document.querySelector('#state').innerText.includes('storage: no space left')")
    running.server.should_exit = True
    browser.wait_for("document.querySelector('#state').innerText == 'the service does not answer'")
