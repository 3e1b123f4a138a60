"""Each example as its user starts it: a process of its own, a client, a browser."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
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

ROOT = Path(__file__).parents[1]
CHAT = "examples/chat/app.py"
ECHO = "examples/echo/app.py"
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


@pytest.fixture
def start() -> t.Iterator[t.Callable[..., Program]]:
    """Start a program; it is ended when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(*command: str, port: int | None = None) -> Program:
            port = port or free_port()
            program = Program(port, [part.replace("PORT", str(port)) for part in command])
            stack.enter_context(program.process)
            stack.callback(program.process.kill)
            return program

        yield start


@pytest.fixture
def connect() -> t.Iterator[t.Callable[..., websocket.WebSocket]]:
    """Connect websocket-client; it is closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def connect(program: Program, path: str = "/") -> websocket.WebSocket:
            client = websocket.WebSocket()
            client.settimeout(TIMEOUT)
            client.connect(f"ws://127.0.0.1:{program.port}{path}")
            stack.callback(client.shutdown)
            return client

        yield connect


def test_echo(start, connect):
    client = connect(start(ECHO))
    client.send("hello")
    assert client.recv() == "hello"
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"


@pytest.fixture(params=["itself", "flask run"])
def chat(request, start) -> Program:
    if request.param == "itself":
        return start(CHAT)
    return start("-m", "flask", "--app", "examples/chat/app", "run", "--port", "PORT")


def test_chat_page(chat):
    page = chat.get("/?room=tea%20time")
    assert "<h1>Room tea time</h1>" in page
    assert f"ws://127.0.0.1:{chat.port}/chat/tea%20time" in page
    assert "https://" not in page  # no external resources


def test_chat_between_two(chat, connect):
    ada = connect(chat, "/chat/tea?name=Ada")
    assert receive(ada) == {"type": "who", "names": ["Ada"], "text": "Ada is here"}
    assert receive(ada) == {"type": "you", "name": "Ada"}
    stranger = connect(chat, "/chat/coffee")
    assert receive(stranger)["type"] == "who"
    assert receive(stranger)["name"].startswith("guest-")
    bob = connect(chat, "/chat/tea")
    bob.send(json.dumps({"type": "name", "name": "  Bob  "}))
    assert receive(bob)["text"].endswith(" is here")
    guest = receive(bob)["name"]
    assert receive(ada)["names"] == ["Ada", guest]
    assert receive(bob) == receive(ada)
    assert receive(bob) == {"type": "you", "name": "Bob"}
    bob.send(json.dumps({"type": "say", "text": "hello"}))
    assert receive(ada) == {"type": "say", "name": "Bob", "text": "hello"}
    bob.close()
    assert receive(ada) == {"type": "who", "names": ["Ada"], "text": "Bob has left"}
    # The other room has heard nothing of it.
    stranger.send(json.dumps({"type": "say", "text": "alone"}))
    assert receive(stranger)["text"] == "alone"


def test_chat_echo_and_progress(chat, connect):
    client = connect(chat)
    client.send("ECHO a b")
    assert client.recv() == "echo: a b"
    client.send("COUNT 3")
    assert [client.recv() for _ in range(3)] == ["done: 1/3", "done: 2/3", "done: 3/3"]


def test_ctrl_c_ends_the_chat_quietly(start, connect):
    program = start(CHAT)
    client = connect(program, "/chat/tea")
    assert client.recv()
    code, output = program.stop()
    assert code == 0
    assert output == f"Open http://127.0.0.1:{program.port} and stop with Ctrl-C.\n"


def receive(client: websocket.WebSocket) -> t.Any:
    return json.loads(client.recv())


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

    def close(self) -> None:
        self._socket.shutdown()


@pytest.fixture
def page(tmp_path: Path) -> t.Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if os.environ.get("TESTS_REQUIRE_ALL"):
            pytest.fail("chromium is not installed")
        pytest.skip("chromium is not installed")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
        "--remote-debugging-port=0",
        "--remote-allow-origins=*",
        "about:blank",
    ]
    ready = tmp_path / "DevToolsActivePort"
    # A session of its own, so that its children can be ended with it.
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            poll(lambda: ready.exists() and "\n" in ready.read_text(), "Chromium is ready")
            port = ready.read_text().split()[0]
            page = Page(poll(lambda: page_url(port), "Chromium has a page"))
            try:
                yield page
            finally:
                page.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def page_url(port: str) -> str | None:
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=TIMEOUT) as response:
        targets = json.load(response)
    return next((one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page"), None)


def test_chat_in_a_browser(page, start, connect):
    program = start(CHAT)
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=1000,
        height=620,
        deviceScaleFactor=1,
        mobile=False,
    )
    page.call("Page.navigate", url=f"http://127.0.0.1:{program.port}/?room=tea")
    page.wait("document.readyState === 'complete' && $('state').className === 'open'")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    page.type("name", "Bob")
    page.wait("$('people').innerText === 'Bob'")
    ada = connect(program, "/chat/tea?name=Ada")
    page.wait("$('people').innerText === 'Ada\\nBob'")
    ada.send(json.dumps({"type": "say", "text": "Is <b>anybody</b> here?"}))
    page.wait("$('log').innerText.includes('Is <b>anybody</b> here?')")

    page.type("text", "I am, by the window.")
    page.wait("document.querySelector('#log .mine')?.innerText.includes('by the window')")
    assert page.value("$('text').value") == ""

    page.type("sound", "hello")
    page.wait("$('echoed').innerText === 'echo: hello'")
    page.value("document.querySelector('#count button').click()")
    page.wait("$('bar').value >= .5")
    if os.environ.get("TESTS_SCREENSHOTS"):
        images = ROOT / "docs" / "images"
        images.mkdir(exist_ok=True)
        shot = page.call("Page.captureScreenshot", format="png")
        (images / "chat.png").write_bytes(base64.b64decode(shot["data"]))
    page.wait("$('bar').value === 1")

    program.stop()
    page.wait("$('state').innerText.startsWith('disconnected')")
    start(CHAT, port=program.port)
    page.wait("$('state').innerText === 'connected'")
    page.wait("$('people').innerText === 'Bob'")
