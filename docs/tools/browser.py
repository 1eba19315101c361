"""Drives Chromium without a window, through the pipe of its DevTools protocol: no package and no port are needed.

For the tests of pages and the screenshots of the documentation. Not responsible for installing Chromium (`make browser`).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40}


def chromium() -> str | None:
    """Path of an installed Chromium; None if there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One Chromium with an empty profile in a temporary folder. Use it in a `with` block."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        (to_browser, self._write), (self._read, from_browser) = _pipe(), _pipe()
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        command += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={self._profile.name}"]
        # The protocol is spoken on the descriptors 3 and 4.
        self._process = subprocess.Popen(
            [
                "/bin/bash",
                "-c",
                f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"',
                "bash",
                *command,
                "--remote-debugging-pipe",
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []
        """What the browser reported, such as exceptions of a page."""

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.call("Browser.close")
        self._process.kill()
        self._process.wait()
        for descriptor in (self._write, self._read):
            os.close(descriptor)
        self._profile.cleanup()

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Returns the result of a DevTools method. Raises `RuntimeError` if it fails or the browser has ended."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        content = memoryview(json.dumps(message).encode() + b"\0")
        while content:
            content = content[os.write(self._write, content) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError("Chromium has ended")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    @contextlib.contextmanager
    def page(self, width: int, height: int = 900, *, dark: bool = False) -> Iterator[Page]:
        """Yields an empty page of `width` by `height` CSS pixels, with cookies and storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        scale = {"deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **scale)
        theme = "dark" if dark else "light"
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


def _pipe() -> tuple[int, int]:
    """The descriptors of a pipe, above those that the browser uses."""
    low = os.pipe()
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in low]
    for descriptor in low:
        os.close(descriptor)
    return high[0], high[1]


class Page:
    """One page of a `Browser`."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the result of a DevTools method for this page."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, address: str) -> None:
        """Goes to an address. Raises `RuntimeError` if nothing answers there."""
        answer = self.call("Page.navigate", url=address)
        if answer.get("errorText"):
            raise RuntimeError(f"{address}: {answer['errorText']}")
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Returns what a JavaScript expression gives, awaited. Raises `RuntimeError` if it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(f"{expression}: {details.get('exception', {}).get('description', details['text'])}")
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 120.0) -> None:
        """Waits until a JavaScript expression is true. Raises `RuntimeError` if that takes longer than `seconds`."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            if time.monotonic() > end:
                raise RuntimeError(
                    f"not true within {seconds:g} s: {expression}\nthe page: {self.value('document.body.innerText')}"
                )
            time.sleep(0.05)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses and releases a key by its name, such as Tab."""
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        common = {"key": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Types text where the focus is."""
        self.call("Input.insertText", text=text)

    def choose_file(self, selector: str, path: Path) -> None:
        """Gives a file to an `<input type=file>`."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def screenshot(self, path: Path) -> None:
        """Writes a PNG of what is visible."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def problems(self) -> list[str]:
        """Texts of the exceptions and errors that the page has reported so far."""
        self.value("0")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") == self._session:
                if event["method"] == "Runtime.exceptionThrown":
                    details = event["params"]["exceptionDetails"]
                    found.append(details.get("exception", {}).get("description", details["text"]))
                elif event["method"] == "Log.entryAdded":
                    entry = event["params"]["entry"]
                    if entry["level"] == "error" and entry["source"] != "network":  # an answer of 400 is no fault of the page
                        found.append(entry["text"])
        return found
