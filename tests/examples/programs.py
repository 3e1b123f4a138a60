"""A process that serves, a client for it, a page of a real browser."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path
from urllib.request import urlopen

import pytest
import websocket

ROOT = Path(__file__).parents[2]
TIMEOUT = 20.0


def poll(condition: t.Callable[[], t.Any], what: str, every: float = 0.02) -> t.Any:
    """Look until *condition* holds and return what it gave."""
    deadline = time.monotonic() + TIMEOUT
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"never happened: {what}")
        time.sleep(every)
    return value


def free_port() -> int:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        return t.cast(int, sock.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A process that serves on a port, and all that it printed once it has ended."""

    def __init__(self, port: int, command: t.Sequence[str]) -> None:
        self.port = port
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        poll(lambda: listens(port) or self.process.poll() is not None, "the server listens")

    def stop(self, signal_: int = signal.SIGINT) -> tuple[int, str]:
        """Send Ctrl-C; return the exit code and the output."""
        self.process.send_signal(signal_)
        output, _ = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, output

    def get(self, path: str = "/") -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=TIMEOUT) as response:
            assert response.status == 200
            return t.cast(str, response.read().decode())


# A real browser, driven by the DevTools protocol


class Page:
    """One page of headless Chromium."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, timeout=TIMEOUT)
        self._id = 0

    def call(self, method: str, **params: t.Any) -> t.Any:
        """Call a method of the DevTools protocol and return its result."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression: str) -> t.Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Look until a JavaScript expression is true."""
        poll(lambda: self.value(expression), expression)

    def type(self, id: str, text: str) -> None:
        """Type *text* and Enter into the field with this id."""
        self.value(f"document.getElementById('{id}').select()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r",
                windowsVirtualKeyCode=13,
            )

    def open(self, url: str, width: int = 1000, height: int = 620) -> None:
        """Load *url* in a window of this size, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        assert self.value("document.documentElement.scrollWidth <= innerWidth")

    def screenshot(self, name: str) -> None:
        """Make ``docs/images/<name>.png`` anew, if ``TESTS_SCREENSHOTS`` asks for it."""
        if os.environ.get("TESTS_SCREENSHOTS"):
            images = ROOT / "docs" / "images"
            images.mkdir(exist_ok=True)
            shot = self.call("Page.captureScreenshot", format="png")
            (images / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._socket.shutdown()


def page_url(port: str) -> str | None:
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=TIMEOUT) as response:
        targets = json.load(response)
    return next((one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"), None)
