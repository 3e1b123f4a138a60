"""A server that stops says goodbye to each of its connections.

Each runs in a process of its own, with an app whose handlers tell its log what they see.
"""

from __future__ import annotations

import os
import pathlib
import resource
import signal
import socket
import sys
import textwrap
import time
import typing as t

import pytest

# Real servers are started as in ``tests/servers``.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "servers"))

from harness import Client
from harness import frame
from harness import HANDSHAKE
from harness import open_raw
from harness import Process

import flask_websockets
from flask_websockets.drivers.stopping import Company

#: The time of the closing handshake in all that is started here.
CLOSE_TIMEOUT = 1.0

APP = f"""\
import os, sys, time
import gevent
from flask import Flask
from flask_websockets import WebSockets, ws

app = Flask("stopping")
app.config["WEBSOCKETS_CLOSE_TIMEOUT"] = {CLOSE_TIMEOUT}
app.config.from_prefixed_env()
sockets = WebSockets(app)

def say(*words):
    sys.stderr.write(" ".join(words) + "\\n")  # a line is one write, from any thread

@app.get("/")
def page():
    return "a page"

@sockets.on_message("wait")
def wait():
    say("waiting")
    gevent.sleep(60)

@sockets.on_message("flood")
def flood():
    say("flooding")
    while True:
        ws.send(b"x" * 65536)

@sockets.on_message("exit")
def leave():
    raise SystemExit

@sockets.on_message("echo")
def echo(message):
    return message

@sockets.before_close
def goodbye():
    return "goodbye"

@sockets.on_close
def closed(code, reason):
    say(f"closed {{code}} {{reason!r}}")

@sockets.route("/loop")
def loop(ws):
    for message in ws:
        ws.send(message)
    say(f"loop ended {{ws.close_code}}")
"""

#: ``run.py KIND PORT``: pywsgi with what KIND says.
RUN = """\
import signal, sys
import gevent
from app import app
from gevent import pywsgi
from gevent.pool import Pool

kind, port = sys.argv[1], int(sys.argv[2])
options = {}
if "websocket" in kind:
    from geventwebsocket.handler import WebSocketHandler
    options["handler_class"] = WebSocketHandler
if "pool" in kind:
    options["spawn"] = Pool()
server = pywsgi.WSGIServer(("127.0.0.1", port), app, **options)
# As any program would: stop() waits for the goodbyes, and then the process ends.
gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(server.stop))
server.start()
try:
    server._stop_event.wait()
finally:
    server.stop()
"""

PYWSGI = ["pywsgi", "pywsgi-pool", "pywsgi-websocket", "pywsgi-websocket-pool"]
GUNICORN = ["gevent", "gevent_pywsgi"]
THREADS = ["gthread", "flask-run"]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Process]]:
    """Start a server of a kind, with the app above."""
    started: list[Process] = []

    def start(kind: str, *options: str, **config: str) -> Process:
        tmp_path.joinpath("app.py").write_text(APP)
        tmp_path.joinpath("run.py").write_text(textwrap.dedent(RUN))
        if kind in PYWSGI:
            command = [sys.executable, str(tmp_path / "run.py"), kind, "PORT"]
        elif kind == "flask-run":
            command = [sys.executable, "-m", "flask", *options, "run", "--port", "PORT"]
        else:
            command = [
                *(sys.executable, "-m", "gunicorn", "--chdir", str(tmp_path), "-k", kind),
                *("-b", "127.0.0.1:PORT", "--graceful-timeout", "12", "--threads", "20"),
                *(*options, "app:app"),
            ]
        # The package that is tested, not another that is installed.
        environ = {"PYTHONPATH": str(pathlib.Path(flask_websockets.__file__).parents[1])}
        environ.update({f"FLASK_WEBSOCKETS_{key}": value for key, value in config.items()})
        log = tmp_path / f"log{len(started)}"
        started.append(Process(command, log, environ=environ, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture(params=[*PYWSGI, *GUNICORN, *THREADS])
def server(request: pytest.FixtureRequest, start: t.Callable[..., Process]) -> Process:
    return start(request.param)


def terminate(server: Process) -> float:
    """Tell it to stop, and give the time."""
    is_flask = "flask" in server.process.args
    server.process.send_signal(signal.SIGINT if is_flask else signal.SIGTERM)
    return time.monotonic()


def wait_for_end(server: Process, started: float, limit: float) -> None:
    """It has to end in time, with nothing wrong in its log."""
    assert server.process.wait(2 * limit) == 0, server.log()
    assert time.monotonic() - started < limit
    assert "Traceback" not in server.log()
    assert "Error" not in server.log()


def farewells(server: Process) -> list[str]:
    """What on_close was given, each time."""
    return [line for line in server.log().splitlines() if line.startswith("closed ")]


def hang_up(client: Client) -> None:
    client.send_close(1001)
    client.shutdown()


#: Seconds of a stop where everybody answers: gunicorn looks once in a second.
SOON = 5.0


def test_each_client_is_told(server: Process):
    clients = [server.connect() for _ in range(5)] + [server.connect("/loop")]
    for client in clients:
        client.send("echo")
        assert client.recv() == "echo"
    started = terminate(server)
    for client in clients:
        assert client.recv() == "goodbye"
        assert client.recv_close() == (1001, "")
        # recv_data has answered it.
        client.shutdown()
    wait_for_end(server, started, SOON)
    assert farewells(server) == ["closed 1001 ''"] * 6
    assert server.log().count("loop ended 1001") == 1


def test_without_a_client_it_just_ends(server: Process):
    client = server.connect()
    client.send_close(1000)
    assert client.recv_close() == (1000, "")
    client.shutdown()
    server.wait_for_log("closed 1000")
    wait_for_end(server, terminate(server), SOON)


def test_clients_that_never_answer_hold_it_no_longer_than_the_timeout(server: Process):
    silent = [open_and_echo(server) for _ in range(5)]
    started = terminate(server)
    for sock in silent:
        assert sock.recv(9, 0x100) == b"\x81\x07goodbye"  # MSG_WAITALL
        assert sock.recv(4, 0x100) == b"\x88\x02\x03\xe9"
        assert sock.recv(1) == b""
        sock.close()
    # Twice: for the Close that does not come, and for the end that does not.
    wait_for_end(server, started, 2 * CLOSE_TIMEOUT + SOON)
    assert farewells(server) == ["closed 1001 ''"] * 5


def test_a_client_that_reads_nothing_holds_it_no_longer(server: Process):
    sock = open_raw(server)
    sock.sendall(frame(1, b"flood"))
    server.wait_for_log("flooding")
    other = server.connect()
    other.send("echo")
    assert other.recv() == "echo"
    started = terminate(server)
    assert other.recv() == "goodbye"
    assert other.recv_close() == (1001, "")
    other.shutdown()
    wait_for_end(server, started, 10 + SOON)
    sock.close()
    assert len(farewells(server)) == 2


@pytest.mark.parametrize("kind", [*PYWSGI, *GUNICORN])
def test_a_handler_that_waits_holds_it_no_longer_than_the_timeout(
    start: t.Callable[..., Process], kind: str
):
    server = start(kind, DRAIN_TIMEOUT="2")
    blocked, other = server.connect(), server.connect()
    blocked.send("wait")
    server.wait_for_log("waiting")
    started = terminate(server)
    for client in (blocked, other):
        # Nobody but the handler's own connection has to wait for it.
        assert client.recv() == "goodbye"
        assert client.recv_close() == (1001, "")
    other.shutdown()
    status = server.process.wait(30)
    assert status == 0, server.log()
    assert time.monotonic() - started < 2 + 2 * SOON
    blocked.shutdown()
    assert farewells(server) == ["closed 1001 ''"] * 2
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("kind", PYWSGI[:2])
def test_nobody_connects_to_a_server_that_stops(start: t.Callable[..., Process], kind: str):
    server = start(kind)
    sock = open_raw(server)
    started = terminate(server)
    assert sock.recv(9, 0x100) == b"\x81\x07goodbye"
    with pytest.raises(OSError):
        server.connect()
    sock.sendall(frame(8, b"\x03\xe9"))
    assert sock.recv(4, 0x100) == b"\x88\x02\x03\xe9"
    sock.close()
    wait_for_end(server, started, SOON)


@pytest.mark.parametrize("kind", ["pywsgi", "gevent"])
def test_on_close_of_a_handler_that_waits_longer_than_the_server(start, kind):
    server = start(kind, DRAIN_TIMEOUT="2")
    client = server.connect()
    client.send("wait")
    server.wait_for_log("waiting")
    terminate(server)
    server.process.wait(30)
    assert farewells(server) == ["closed 1001 ''"]
    client.shutdown()


def test_a_handler_that_exits_leaves_the_others_to_gunicorn(start):
    server = start("gevent")
    client, other = server.connect(), server.connect()
    other.send("echo")
    assert other.recv() == "echo"
    client.send("exit")
    assert client.recv() == "goodbye"
    assert client.recv_close() == (1011, "")
    other.send("echo")
    assert other.recv() == "echo"
    client.shutdown()
    hang_up(other)


def open_and_echo(server: Process) -> socket.socket:
    """A connection for which the server does nothing but wait."""
    sock = open_raw(server)
    sock.sendall(frame(1, b"echo"))
    assert sock.recv(6, 0x100) == b"\x81\x04echo"
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(100), b""))


def read_page(sock: socket.socket) -> bytes:
    page = b""
    while not page.endswith(b"a page"):
        page += sock.recv(1000)
    return page


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return not pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


#: A time that no test waits for.
LONG = "60"


@pytest.mark.parametrize("kind", ["pywsgi", "gevent", "gthread", "flask-run"])
def test_the_drain_timeout_bounds_it(start: t.Callable[..., Process], kind: str):
    server = start(kind, CLOSE_TIMEOUT=LONG, DRAIN_TIMEOUT="1")
    sock = open_and_echo(server)
    started = terminate(server)
    assert sock.recv(9, 0x100) == b"\x81\x07goodbye"
    assert sock.recv(4, 0x100) == b"\x88\x02\x03\xe9"
    assert sock.recv(1) == b""
    wait_for_end(server, started, 1 + SOON)
    assert farewells(server) == ["closed 1001 ''"]
    sock.close()


@pytest.mark.parametrize("kind", ["gevent", "gevent_pywsgi", "gthread"])
def test_a_second_signal_ends_gunicorn_s_worker_at_once(start: t.Callable[..., Process], kind: str):
    server = start(kind, CLOSE_TIMEOUT=LONG, DRAIN_TIMEOUT=LONG)
    pid = server.worker_pid()
    sock = open_raw(server)
    started = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    assert sock.recv(9, 0x100) == b"\x81\x07goodbye"
    assert sock.recv(4, 0x100) == b"\x88\x02\x03\xe9"
    os.kill(pid, signal.SIGTERM)
    server.wait_for_log("closed 1001")
    server.wait_for(lambda: has_ended(pid), "its end")
    assert time.monotonic() - started < 2 * SOON
    sock.close()


@pytest.mark.parametrize("kind", ["pywsgi", "gevent", "gevent_pywsgi", "gthread"])
def test_a_server_that_stops_takes_no_handshake(start: t.Callable[..., Process], kind: str):
    server = start(kind, CLOSE_TIMEOUT="5")
    silent = open_and_echo(server)
    # A connection that is open already, and kept for another request.
    with server.socket() as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_page(other).startswith(b"HTTP/1.1 200 ")
        terminate(server)
        assert silent.recv(9, 0x100) == b"\x81\x07goodbye"
        head = f"GET / HTTP/1.1\nHost: localhost\n{HANDSHAKE}\n"
        other.sendall(head.replace("\n", "\r\n").encode())
        answer = read_to_end(other)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 5\r\n" in answer
    assert answer.endswith(b"The server is about to stop.\n")
    silent.close()
    assert server.process.wait(30) == 0


@pytest.mark.parametrize("kind", ["pywsgi", "flask-run"])
def test_a_second_ctrl_c_ends_it_at_once(start: t.Callable[..., Process], kind: str):
    server = start(kind, CLOSE_TIMEOUT=LONG, DRAIN_TIMEOUT=LONG)
    sock = open_and_echo(server)
    # What runs is interrupted: wait until it only waits.
    status = pathlib.Path(f"/proc/{server.process.pid}/stat")
    server.wait_for(lambda: status.read_text().rpartition(")")[2].split()[0] == "S", "it sleeps")
    started = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    assert sock.recv(9, 0x100) == b"\x81\x07goodbye"
    assert sock.recv(4, 0x100) == b"\x88\x02\x03\xe9"
    server.process.send_signal(signal.SIGINT)
    server.process.wait(30)
    assert time.monotonic() - started < SOON
    assert farewells(server) == ["closed 1001 ''"]
    sock.close()


def test_ctrl_c_while_some_have_not_been_told_yet():
    codes = []

    class Silent:
        drain = 60.0

        def go_away(self, code: int) -> None:
            codes.append(code)

        def kill(self) -> None:
            company.leave(self)

    def start(function: t.Callable[[int], None], code: int) -> None:
        function(code)
        raise KeyboardInterrupt

    company = Company(start, time.sleep)
    company.join(Silent())
    company.join(Silent())
    company.dismiss(1001, lambda: False)
    assert len(company) == 0
    assert codes == [1001]
    assert company.code is None


def test_ctrl_c_reaches_all_of_gunicorn(start: t.Callable[..., Process]):
    server = start("gthread")
    sock = open_raw(server)
    os.killpg(server.process.pid, signal.SIGINT)
    # The worker is told twice, by the terminal and by gunicorn: there is no time for more.
    assert read_to_end(sock).removeprefix(b"\x81\x07goodbye") == b"\x88\x02\x03\xe9"
    sock.close()
    assert server.process.wait(SOON) == 0
    assert farewells(server) == ["closed 1001 ''"]


def test_five_thousand_that_never_answer(start: t.Callable[..., Process]):
    allow_files(10_000)
    server = start("pywsgi", CLOSE_TIMEOUT="5")
    clients = [open_raw(server) for _ in range(5000)]
    started = terminate(server)
    for sock in clients:
        assert sock.recv(9, 0x100) == b"\x81\x07goodbye"
        assert sock.recv(4, 0x100) == b"\x88\x02\x03\xe9"
    # Five seconds of it are spent waiting for them.
    wait_for_end(server, started, 10 + SOON)
    assert farewells(server) == ["closed 1001 ''"] * 5000
    for sock in clients:
        sock.close()


def allow_files(count: int) -> None:
    """Let this process and those that it starts open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
