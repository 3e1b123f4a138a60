"""``flask websockets`` as a program, and the servers that it reaches."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import stat
import subprocess
import sys
import tempfile
import termios
import time
import typing as t
from pathlib import Path

import pytest
from flask import Flask
from harness import Client
from harness import COMMANDS
from harness import HERE
from harness import Process
from harness import TIMEOUT
from support import is_readable

from flask_websockets import WebSockets

FLASK = [sys.executable, "-m", "flask"]
PATCHED = "from gevent import monkey; monkey.patch_all(); from app import app\n"


@pytest.fixture(scope="module")
def pywsgi(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Process]:
    """A server for those who only talk to it."""
    folder = tmp_path_factory.mktemp("log")
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        environ = {"XDG_RUNTIME_DIR": runtime}
        process = Process(COMMANDS["pywsgi"], folder / "log", environ=environ)
        yield process
        process.stop()


def connect(server: Process, *arguments: str, input: str, app: str = "app.py") -> t.Any:
    """``flask websockets connect`` with its input from a pipe."""
    return subprocess.run(
        [*FLASK, "--app", str(HERE / app), "websockets", "connect", f"--port={server.port}",
         *arguments],
        input=input, capture_output=True, text=True, timeout=6 * TIMEOUT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "workers"),
    [("pywsgi", 1), ("gunicorn-gevent", 2), ("gunicorn-gthread", 2), ("flask-run", 1)],
)
def test_commands_reach_all_processes_of_a_server(
    start: t.Callable[..., Process], runtime: Path, name: str, workers: int
) -> None:
    command = list(COMMANDS[name])
    if workers > 1:
        command[-1:-1] = ["--workers", str(workers)]
    server = start(command)
    # It says what the command line would: for this, an app of the same name will do.
    app = Flask("app", root_path=str(HERE))
    WebSockets(app)

    def run(*arguments: str) -> str:
        result = app.test_cli_runner(catch_exceptions=False).invoke(args=["websockets", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    clients: list[Client] = []

    def processes() -> set[int]:
        clients.append(server.connect("/chat/red"))
        assert clients[-1].recv() == "in red"
        return {one["process"] for one in json.loads(run("clients", "--json"))}

    server.wait_for(lambda: len(processes()) == workers, "each worker has a connection")
    listed = json.loads(run("clients", "--json"))
    assert len(listed) == len(clients)
    assert {(one["endpoint"], one["path"], *one["rooms"]) for one in listed} == {
        ("chat", "/chat/red", "red")
    }
    sent = run("broadcast", "hello", "--to", "red")
    assert re.fullmatch(rf"Sent to {len(clients)} connections? in {workers} process(es)?\.\n", sent)
    for client in clients:
        assert client.recv() == "hello"
    for one in listed:
        run("close", one["id"], "--code", "4000")
    for client in clients:
        assert client.recv_close() == (4000, "")
        client.shutdown()
    server.mark()
    server.stop()
    assert "Traceback" not in server.log()
    if name != "flask-run" and name != "pywsgi":  # those end by the signal itself
        assert os.listdir(runtime / "flask-websockets") == []


def test_lines_of_a_pipe_are_messages(pywsgi: Process) -> None:
    result = connect(pywsgi, "websocket", input="hello\n{}\nCLOSE\n")
    assert (result.stdout, result.stderr, result.returncode) == (
        "hello\n{}\n", "Closed with 4000: as asked\n", 3,
    )  # fmt: skip


def test_it_ends_with_the_connection_while_the_pipe_is_open(pywsgi: Process) -> None:
    process = subprocess.Popen(
        [*FLASK, "--app", str(HERE / "app.py"), "websockets", "connect", "websocket",
         f"--port={pywsgi.port}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"CLOSE\n")
        process.stdin.flush()
        assert process.wait(6 * TIMEOUT) == 3
        assert process.stderr.read() == b"Closed with 4000: as asked\n"


class Terminal:
    """A program in a pseudo terminal."""

    def __init__(self, command: t.Sequence[str], home: Path, **environ: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "TERM": "xterm", "HOME": str(home), **environ},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, press: str = "") -> None:
        """Read until *text* comes, and *press* a key every three seconds until then."""
        started = time.monotonic()
        pressed = 0
        while text not in self._seen:
            waited = time.monotonic() - started
            assert waited < 6 * TIMEOUT, f"{text!r} did not come, but {self._seen!r}"
            if press and waited >= 3 * pressed:
                self.type(press)
                pressed += 1
            if is_readable(self._master, 1):
                try:
                    piece = os.read(self._master, 65536)
                except OSError:
                    piece = b""
                assert piece, f"{text!r} did not come, but {self._seen!r}"
                self._seen += piece.decode()
        self._seen = self._seen.partition(text)[2]

    def wait(self) -> int:
        return self.process.wait(6 * TIMEOUT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT)
        os.close(self._master)


@pytest.fixture
def open_terminal(pywsgi: Process, tmp_path: Path) -> t.Iterator[t.Callable[..., Terminal]]:
    """Open a session at the prompt of ``flask websockets connect``."""
    terminals: list[Terminal] = []

    def open_terminal(*arguments: str, app: Path = HERE / "app.py", **environ: str) -> Terminal:
        command = [*FLASK, "--app", str(app), "websockets", "connect", *arguments]
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(HERE)]))
        terminal = Terminal(
            [*command, f"--port={pywsgi.port}"], tmp_path, PYTHONPATH=path, **environ
        )
        terminals.append(terminal)
        terminal.expect("Connected to ws://127.0.0.1:")
        terminal.expect("> ")
        return terminal

    yield open_terminal
    for terminal in terminals:
        terminal.close()


def test_a_session_at_the_prompt(pywsgi: Process, open_terminal: t.Any, tmp_path: Path) -> None:
    terminal = open_terminal("chat", "room=red")
    terminal.type("hello\n")
    terminal.expect("< hello\r\n")
    terminal.type('{"a": [1, "x"]}\n')
    terminal.expect(
        '< {\r\n    \x1b[34m"a"\x1b[0m: [\r\n      \x1b[36m1\x1b[0m,\r\n      \x1b[32m"x"'
    )
    terminal.type("/binary 00 ff\n")
    terminal.expect("< binary, 2 bytes: 00 ff\r\n")
    terminal.type("/binary zz\n")
    terminal.expect("Bytes are written as in /binary 00 ff 10.\r\n")
    terminal.type("//slash\n")
    terminal.expect("< /slash\r\n")
    terminal.type("/ping\n")
    terminal.expect("Pong after ")
    terminal.type("/help\n")
    terminal.expect("A line is sent as a message.")
    # What comes while something is typed stands above it.
    terminal.type("half")
    terminal.expect("half")
    assert pywsgi.request("/say/red/news")[0] == 200
    terminal.expect("\r\x1b[K< news\r\n> half")
    terminal.type("-typed\n")
    terminal.expect("< half-typed\r\n")
    terminal.type("\x1b[A\n")
    terminal.expect("< half-typed\r\n")
    terminal.type("/close now\n")
    terminal.expect("A close code is a number, as in /close 4000 some text.\r\n")
    terminal.type("/close 1006\n")
    terminal.expect("Close code 1006 may not be sent.")
    terminal.type("/close 4000 enough said\n")
    terminal.expect("Closed with 4000.\r\n")  # the reason is not repeated
    assert terminal.wait() == 0
    history = tmp_path / ".flask_websockets_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert history.read_text().splitlines()[:2] == ["hello", '{"a": [1, "x"]}']


@pytest.mark.parametrize(("key", "name"), [("\x03", "Ctrl-C"), ("\x04", "Ctrl-D")])
def test_a_key_ends_the_session(open_terminal: t.Any, key: str, name: str) -> None:
    terminal = open_terminal("echo", NO_COLOR="1")
    terminal.type('{"a": 1}\n')
    terminal.expect('< {\r\n    "a": 1\r\n  }\r\n')
    if name == "Ctrl-C":
        terminal.type("half")
        terminal.expect("half")
    # More than once: before Python waits for a key it sees a signal only with the next one.
    terminal.expect("Closed with 1000 (normal closure).\r\n", press=key)
    assert terminal.wait() == 0


@pytest.mark.parametrize("kind", ["plain", "patched"])
def test_a_session_ends_when_the_server_ends_it(
    open_terminal: t.Any, tmp_path: Path, kind: str
) -> None:
    app = HERE / "app.py"
    if kind == "patched":
        app = tmp_path / "patched.py"
        app.write_text(PATCHED)
    terminal = open_terminal("websocket", app=app)
    terminal.type("hello\n")
    terminal.expect("< hello\r\n")
    terminal.type("CLOSE\n")
    terminal.expect("Closed with 4000: as asked\r\n")
    assert terminal.wait() == 3
