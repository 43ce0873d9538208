"""A headless Chromium that tests steer over the DevTools protocol's pipe; nothing else needs to be installed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu-sandbox"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--mute-audio"),
    *(
        "--autoplay-policy=no-user-gesture-required",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ),
)


class Tab:
    """One page of a browser.

    Attributes:
        complaints: What the page wrote to its console as an error or warning, and exceptions nobody caught.
        requests: The addresses it asked for, without those of its own data.
    """

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer, self._count = write, read, b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something and wait for the answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._read, 1 << 20)
            if not received:
                raise RuntimeError("the browser is gone")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", {}).get("description", params)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str([argument.get("value") for argument in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            text = params["entry"]["text"]
            # SwiftShader speaks of its own speed when pixels are read.
            if "GPU stall" not in text:
                self.complaints.append(text)
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(params["request"]["url"])

    def show(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Set the size of the window, the theme, and whether it is a phone with a touch screen."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def open(self, path: Path, timeout: float = 30.0) -> float:
        """Open a file and wait until its script says that it is ready; seconds from the start of loading to then."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.documentElement?.dataset.ready === 'yes'", timeout)
        return float(self.evaluate("performance.now()")) / 1000

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", str(result)))
        return result["result"].get("value")

    def wait_for(self, expression: str, timeout: float = 10.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout
        while not self.evaluate(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}; complaints: {self.complaints}")
            time.sleep(0.02)

    def settle(self) -> None:
        """Wait until the page has painted twice."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def screenshot(self, **clip: float) -> bytes:
        """A PNG of the window, or of a part of it: x, y, width and height."""
        options = {"clip": {**clip, "scale": 1}} if clip else {}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"])

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def drag(self, start: tuple[float, float], end: tuple[float, float], touch: bool = False) -> None:
        """Drag with the left button or a finger."""
        way = [[a + (b - a) * step / 4 for a, b in zip(start, end, strict=True)] for step in range(5)]
        if touch:
            kinds = ["touchStart", *["touchMove"] * 4]
            for kind, (x, y) in zip(kinds, way, strict=True):
                self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            kinds = ["mousePressed", *["mouseMoved"] * 4]
            for kind, (x, y) in zip(kinds, way, strict=True):
                self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)
        self.settle()


@contextmanager
def open_browser(profile: Path) -> Iterator[Tab]:
    """A browser with one tab and no network; `profile` is a new folder for what it writes."""
    assert CHROMIUM
    to_read, to_write = _high_pipe()
    from_read, from_write = _high_pipe()
    # The browser reads commands from descriptor 3 and writes answers to 4.
    actions = [
        *((os.POSIX_SPAWN_DUP2, to_read, 3), (os.POSIX_SPAWN_DUP2, from_write, 4)),
        *((os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)),
    ]
    arguments = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", f"--crash-dumps-dir={profile}"]
    process = os.posix_spawn(CHROMIUM, arguments, os.environ, file_actions=actions)
    os.close(to_read)
    os.close(from_write)
    try:
        yield Tab(to_write, from_read)
    finally:
        # It ends when its pipe does.
        os.close(to_write)
        os.close(from_read)
        _wait_for_end(process)


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors are not among those that the browser has by number."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return read, write


def _wait_for_end(process: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return
        time.sleep(0.05)
