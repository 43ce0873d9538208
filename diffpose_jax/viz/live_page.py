"""A page on this machine that shows frame after frame while they come: Python's own server and server-sent events."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from diffpose_jax.errors import UserError

# Only programs on this machine reach it. A page elsewhere that gives its own name this address is told by its name.
HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_LONG_SIDE = 640  # pixels of the picture that is shown


class LivePage:
    """The server of the page, in threads of its own while its context lasts.

    Whoever looks at it gets the newest frame whenever they are done with the one before; nothing is queued.

    Args:
        port: The port; 0 takes any that is free.

    Raises:
        UserError: The port is taken.
    """

    def __init__(self, port: int = 0):
        self._changed = threading.Condition()
        self._message, self._number, self._ended = b"", 0, False
        self.viewers = 0
        try:
            self._server = ThreadingHTTPServer((HOST, port), partial(_Handler, self))
        except (OSError, OverflowError) as error:
            raise UserError(f"--live_port {port}: expected a port that is free, found {error}") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def __enter__(self) -> LivePage:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.socket.close()

    def show(self, image: np.ndarray, content: Mapping[str, Any]) -> None:
        """Replaces what is shown.

        Args:
            image: The picture, `[h, w, 3]` uint8.
            content: What the page draws with it, as JSON takes it.
        """
        if not self.viewers:  # whoever comes later begins with a later frame
            return
        encoded = base64.b64encode(encode_picture(image)).decode()
        message = json.dumps({**content, "image": encoded}, separators=(",", ":"), allow_nan=False).encode()
        with self._changed:
            self._message, self._number = message, self._number + 1
            self._changed.notify_all()

    def next_message(self, seen: int) -> tuple[int, bytes | None]:
        """Waits for a frame after frame number `seen`: its number and its JSON, or None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._number > seen)
            return self._number, None if self._ended else self._message

    def count_viewer(self, change: int) -> None:
        """Notes that somebody began (1) or ended (-1) to look."""
        with self._changed:
            self.viewers += change


def encode_picture(image: np.ndarray, long_side: int = _LONG_SIDE) -> bytes:
    """A picture `[h, w, 3]` uint8 as a JPEG, reduced to `long_side` pixels where it is larger."""
    picture = Image.fromarray(image)
    factor = min(1.0, long_side / max(picture.size))
    if factor < 1:
        width, height = (max(1, round(factor * side)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=1.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=75)
    return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, page: LivePage, *arguments: Any):
        self._page = page
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _NAMES:
            self.send_error(403)
        elif self.path == "/":
            text = (resources.files("diffpose_jax.viz.page") / "assets/live.html").read_bytes()
            self._begin("text/html; charset=utf-8", len(text))
            self.wfile.write(text)
        elif self.path == "/stream":
            self._begin("text/event-stream")
            self._page.count_viewer(1)
            try:
                self._stream()
            except OSError:  # whoever looked has gone
                pass
            finally:
                self._page.count_viewer(-1)
        else:
            self.send_error(404)

    def _begin(self, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _stream(self) -> None:
        self.wfile.write(b": frames\n\n")
        number, message = self._page.next_message(0)
        while message is not None:
            self.wfile.write(b"data: " + message + b"\n\n")
            number, message = self._page.next_message(number)
        self.wfile.write(b"event: end\ndata: {}\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the terminal for the program."""
