"""A platform's function behind a URL: five echoes, then a close; and what it may rely on."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest
import websocket
from flask import Flask
from programs import Program
from programs import ROOT
from programs import TIMEOUT
from support import is_readable
from support import wait_until

from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets

SERVERLESS = "examples/serverless/app.py"


@pytest.fixture(params=["itself", "flask run"])
def serverless(request, start) -> Program:
    if request.param == "itself":
        return start(SERVERLESS)
    return start("-m", "flask", "--app", "examples/serverless/app", "run", "--port", "PORT")


class Terminal:
    """A program in a terminal of its own, as it looks without its colours."""

    def __init__(self, *command: str) -> None:
        self._screen, inside = pty.openpty()
        try:
            self.process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside)
        finally:
            os.close(inside)
        self._text = ""

    def wait_for(self, text: str) -> None:
        """Read until *text* is there; it is not found a second time."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self._text:
            left = max(0.0, deadline - time.monotonic())
            ready = is_readable(self._screen, left)
            try:
                output = os.read(self._screen, 4096) if ready else b""
            except OSError:  # how Linux says that the program has ended
                output = b""
            if not output:
                pytest.fail(f"never seen: {text!r}, but {self._text!r}")
            self._text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self._text + output.decode())
        self._text = self._text.partition(text)[2]

    def type(self, line: str) -> None:
        os.write(self._screen, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)
        os.close(self._screen)


@pytest.fixture
def wscat() -> t.Iterator[t.Callable[[str], Terminal]]:
    """Node's wscat, connected to a URL."""
    there = ROOT / "tests/node/node_modules/.bin"
    program = shutil.which("wscat", path=f"{there}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        if os.environ.get("TESTS_REQUIRE_ALL"):
            pytest.fail("wscat is not installed: npm ci --prefix tests/node")
        pytest.skip("wscat is not installed: npm ci --prefix tests/node")
    terminals = []

    def connect(url: str) -> Terminal:
        terminals.append(Terminal(program, "--connect", url))
        terminals[-1].wait_for("Connected (press CTRL+C to quit)")
        return terminals[-1]

    yield connect
    for terminal in terminals:
        terminal.close()


def test_wscat_is_echoed_five_times(serverless, wscat):
    terminal = wscat(f"ws://127.0.0.1:{serverless.port}/socktest")
    for number in range(1, 6):
        terminal.type(str(number))
        terminal.wait_for(f"< {number}")
    terminal.wait_for('Disconnected (code: 1000, reason: "")')
    assert terminal.process.wait(TIMEOUT) == 0


def test_echoes_text_and_binary(serverless, connect):
    client = connect(serverless, "/socktest")
    for number in range(4):
        client.send(str(number))
        assert client.recv() == str(number)
    client.send_binary(b"\x00\xff")
    assert client.recv() == b"\x00\xff"
    assert client.recv_data() == (websocket.ABNF.OPCODE_CLOSE, b"\x03\xe8")


def test_who_leaves_early_leaves_no_trace(start, connect):
    program = start(SERVERLESS)
    connect(program, "/socktest").close()
    client = connect(program, "/socktest")
    client.send("still here?")
    assert client.recv() == "still here?"
    client.close()
    code, output = program.stop()
    assert code == 0
    assert "1 connected" in output
    assert "Traceback" not in output


def test_function_knows_no_flask():
    source = (ROOT / Path(SERVERLESS).with_name("function.py")).read_text()
    assert "import" not in source


# What such a function may rely on, on both drivers


@pytest.fixture
def loops(app: Flask) -> WebSockets:
    return WebSockets(app, path=None)


def test_receive_waits_and_receive_nowait_does_not(app, loops, serve):
    def main(ws, clients):
        ws.send(repr(ws.receive_nowait()))
        ws.send(ws.receive())
        came = []
        wait_until(lambda: came.append(ws.receive_nowait()) or came[-1], "a message is there")
        ws.send(came[-1])

    loops.route("/f")(main)
    client = serve(app).connect("/f")
    assert client.recv() == "None"
    for word in ("first", "second"):
        client.send(word)
        assert client.recv() == word
    assert client.recv_close() == (1000, "")


def test_closed_and_close(app, loops, serve):
    seen = []

    def main(ws, clients):
        seen.append(ws.closed)
        ws.close(4000, "enough")
        seen.append(ws.closed)
        for use in (ws.receive, ws.receive_nowait, lambda: ws.send("more")):
            with pytest.raises(ConnectionClosed) as caught:
                use()
            seen.append(caught.value.code)
        ws.close()
        return "nobody hears this"

    loops.route("/f")(main)
    client = serve(app).connect("/f")
    assert client.recv_close() == (4000, "enough")
    wait_until(lambda: seen == [False, True, 4000, 4000, 4000], "all uses are refused")


def test_closed_once_the_client_has_left(app, loops, serve):
    ends = []

    def main(ws, clients):
        wait_until(lambda: ws.closed, "the client has left")
        ends.append(ws.close_code)

    loops.route("/f")(main)
    serve(app).connect("/f").close(4001)
    wait_until(lambda: ends == [4001], "the loop has ended")


def test_clients_while_others_come_and_go(app, loops, serve):
    def main(ws, clients):
        assert ws in clients
        while not ws.closed:
            message = ws.receive()
            for client in clients:
                try:
                    client.send(message)
                except ConnectionClosed:
                    pass  # it has left meanwhile

    loops.route("/f")(main)
    server = serve(app)
    listener, speaker = server.connect("/f"), server.connect("/f")
    wait_until(lambda: len(loops.clients) == 2, "both are clients")

    done, errors = threading.Event(), []

    def come_and_go() -> None:
        try:
            while not done.is_set():
                client = websocket.create_connection(server.url("/f"), timeout=TIMEOUT)
                client.recv()
                client.shutdown()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        speaker.send(str(number))
        assert speaker.recv() == str(number)
        assert listener.recv() == str(number)
    done.set()
    # Who waits for a message still, gets one.
    while any(thread.is_alive() for thread in threads):
        speaker.send("last")
        assert speaker.recv() == listener.recv() == "last"
    for thread in threads:
        thread.join(TIMEOUT)
    assert errors == []
    wait_until(lambda: len(loops.clients) == 2, "only the two are left")
