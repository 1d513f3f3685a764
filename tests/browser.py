"""A real Chromium without a window, spoken to over its own pipe: open a page, ask it, take its picture.

https://chromedevtools.github.io/devtools-protocol/ ; with `--remote-debugging-pipe` messages are JSON that end with
NUL, which the browser reads from its file 3 and writes to its file 4.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
FLAGS += ["--no-first-run", "--disable-background-networking", "--disable-extensions", "--remote-debugging-pipe"]


class Tab:
    """One page of a browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._held, self._number = to_browser, from_browser, b"", 0
        self._session: str | None = None
        #: What the page complained of: errors of its script, and what its policy refused.
        self.complaints: list[str] = []
        #: The URLs that it asked for.
        self.requests: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and its reply."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == number:
                assert "error" not in reply, reply["error"]
                return dict(reply["result"])

    def wait_for_event(self, method: str) -> None:
        while self._next().get("method") != method:
            pass

    def open(self, url: str, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Show a page as on a screen of so many pixels, and wait until it is there."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints, self.requests = [], []
        self("Page.navigate", url=url)
        self.wait_for_event("Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page; of a promise, what it comes to."""
        reply = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        data = self("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._held += data
        message, _, self._held = self._held.partition(b"\0")
        event = dict(json.loads(message))
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(event["params"]["exceptionDetails"]["exception"].get("description", "an exception"))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(event["params"]["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        return event


@contextlib.contextmanager
def browser() -> Iterator[Tab]:
    """A tab of a Chromium of its own. Skips the test where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    read_there, write_here = os.pipe()
    read_here, write_there = os.pipe()
    with tempfile.TemporaryDirectory(prefix="bamba-browser-", ignore_cleanup_errors=True) as profile:
        # A shell moves the pipes to the numbers that Chromium reads and writes.
        shell = f'exec "$@" 3<&{read_there} 4>&{write_there}'
        command = ["bash", "-c", shell, "browser", program, *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, pass_fds=(read_there, write_there), stderr=subprocess.DEVNULL)
        os.close(read_there)
        os.close(write_there)
        try:
            yield Tab(write_here, read_here)
        finally:
            process.terminate()
            process.wait(30)
            os.close(write_here)
            os.close(read_here)
