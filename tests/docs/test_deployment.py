"""The pages on running an app: their commands and units serve, and stop, as they say."""

from __future__ import annotations

import configparser
import json
import re
import select
import shlex
import signal
import socket
import sys
import threading
import time
import typing as t
from pathlib import Path

import gevent
import pytest
import websocket
from harness import HANDSHAKE
from harness import make_certificate
from harness import needs
from harness import Process
from languages import nginx_config
from pages import blocks
from pages import files
from pages import ROOT
from pages import run_page
from support import GeventServer
from support import TIMEOUT

DEPLOYMENT = ROOT / "docs/deployment.rst"
TLS = ROOT / "docs/tls.rst"
FILES = files(DEPLOYMENT)
UNITS = [name for name in FILES if name.endswith(".service")]

TELLS = """
@sockets.on_close
def gone(code, reason):
    app.logger.error("closed %s", code)
"""

WORKS = """
import time

@sockets.on_message("WORK")
def work():
    app.logger.error("working")
    time.sleep(0.5)
    app.logger.error("worked")
    return "done"
"""

#: What the access log says of a socket.
LOGGED = 'HTTP/1.1" 101'

#: How Python starts a program of the pages.
MODULES = {"gunicorn": ["-m", "gunicorn"], "flask": ["-m", "flask"], "python": []}

Start = t.Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> t.Iterator[Start]:
    """Start a command in the folder that has the app."""
    (tmp_path / "hello.py").write_text(FILES["hello.py"] + TELLS)
    started: list[Process] = []

    def start(command: t.Sequence[str], *, tls: t.Any = None, **environ: str) -> Process:
        program = Path(command[0]).name
        if program in MODULES:
            command = [sys.executable, *MODULES[program], *command[1:]]
        started.append(
            Process(
                [part.replace("127.0.0.1:8000", "127.0.0.1:PORT") for part in command],
                tmp_path / f"log{len(started)}",
                tls=tls,
                cwd=tmp_path,
                environ={"FLASK_APP": "hello", **environ},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.stop()


def read_unit(name: str) -> dict[str, str]:
    """The ``[Service]`` of a unit."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(FILES[name].replace("\\\n", " "))
    return dict(parser["Service"])


def echo(server: Process) -> websocket.WebSocket:
    """An open connection that has been answered."""
    client = server.connect()
    client.send("hello")
    assert client.recv() == "hello"
    return client


def wait_for_close(client: websocket.WebSocket) -> int:
    """The code that a client sees."""
    try:
        opcode, data = client.recv_data()
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        return 1006
    finally:
        client.shutdown()
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    return int.from_bytes(data[:2], "big")


# Commands


def commands(page: str, program: str) -> list[list[str]]:
    """The commands of a page's consoles that begin with *program*."""
    return [
        shlex.split(line[2:])
        for block in blocks(ROOT / page)
        if block.language == "console"
        for line in block.text.splitlines()
        if line.startswith(f"$ {program} ")
    ]


@pytest.mark.parametrize(
    "command",
    [
        command
        for page in ("docs/servers.rst", "docs/deployment.rst", "docs/tls.rst")
        for program in ("gunicorn", "flask run")
        for command in commands(page, program)
    ],
    ids=" ".join,
)
def test_each_command_serves(start: Start, tmp_path: Path, command: list[str]):
    certificate = make_certificate(tmp_path)
    places = {
        "cert.pem": certificate.paths["CERTIFICATE"],
        "key.pem": certificate.paths["KEY"],
        "myapp:app": "hello:app",
    }
    words = [places.get(word, word) for word in command]
    if command[0] == "flask":
        words += ["--port", "PORT"]
    elif "-b" not in words:
        words += ["-b", "127.0.0.1:8000"]
    tls = certificate.context if "cert.pem" in command else None
    echo(start(words, tls=tls)).close()


def test_the_command_of_the_container_serves(start: Start):
    text = FILES["Dockerfile"].replace("\\\n", " ")
    command = json.loads(re.search(r"(?m)^CMD (.*)$", text).group(1))
    command = [part.replace("0.0.0.0:8000", "127.0.0.1:8000") for part in command]
    client = echo(start(command))
    client.close()
    assert "COPY hello.py" in text


# Units


def start_unit(start: Start, folder: Path, name: str, **changes: str) -> Process:
    """Start what a unit starts, as systemd does; *changes* replace words of its command."""
    unit = read_unit(name)
    command = unit["ExecStart"]
    for old, new in changes.items():
        old = f"--{old.replace('_', '-')}"
        assert old in command
        command = re.sub(rf"{old} \S+", f"{old} {new}", command)
    if "unix:" in command:
        command = command.replace("/run/hello", str(folder)) + " -b 127.0.0.1:8000"
    words = shlex.split(command)
    if "serve.py" in words:
        text = FILES["serve.py"].replace("8000", "int(__import__('sys').argv[1])")
        (folder / "serve.py").write_text(text)
        words.append("PORT")
    if unit.get("Type") != "notify":
        return start(words)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.settimeout(TIMEOUT)
        notify.bind(str(folder / "notify"))
        server = start(words, NOTIFY_SOCKET=str(folder / "notify"))
        assert b"READY=1" in notify.recv(1000)
    return server


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_serves_and_stops_with_1001(start: Start, tmp_path: Path, name: str):
    server = start_unit(start, tmp_path, name)
    client = echo(server)
    assert json.loads(server.request("/health")[2]) == {"sockets": 1}
    server.process.send_signal(signal.SIGTERM)
    assert wait_for_close(client) == 1001
    assert server.process.wait(TIMEOUT) == 0
    assert "closed 1001" in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("worker", ["gevent", "gevent_pywsgi", "gthread"])
def test_a_reload_closes_the_sockets_of_the_old_worker(
    start: Start, tmp_path: Path, monkeypatch, worker: str
):
    unit = FILES["hello.service"].replace("-k gevent ", f"-k {worker} ")
    monkeypatch.setitem(FILES, "hello.service", unit)
    server = start_unit(start, tmp_path, "hello.service")
    client = echo(server)
    server.process.send_signal(signal.SIGHUP)
    assert wait_for_close(client) == 1001
    server.wait_for_log("closed 1001")
    echo(server).close()


def test_a_handler_may_finish_while_the_server_stops(start: Start, tmp_path: Path):
    (tmp_path / "hello.py").write_text(FILES["hello.py"] + TELLS + WORKS)
    server = start_unit(start, tmp_path, "hello-pywsgi.service")
    client = server.connect()
    client.send("WORK")
    server.wait_for_log("working")
    server.process.send_signal(signal.SIGTERM)
    assert wait_for_close(client) == 1001
    assert server.process.wait(TIMEOUT) == 0
    assert "worked" in server.log()
    assert "closed 1001" in server.log()


# Limits


def ask(server: Process, timeout: float) -> bytes:
    """The first bytes of the answer to a request; a TimeoutError if none come."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as sock:
        if server.tls is not None:
            sock = server.tls.wrap_socket(sock, server_hostname="localhost")
        with sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return sock.recv(12)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ("-k gevent --worker-connections 2", True),
        ("-k gevent_pywsgi --worker-connections 2", False),
        ("-k gevent_pywsgi --worker-connections 2 --certfile {CERTIFICATE} --keyfile {KEY}", True),
        ("-k gthread --threads 2", True),
    ],
)
def test_what_counts_sockets_logs_them_at_their_end(
    start: Start, tmp_path: Path, options: str, counts: bool
):
    certificate = make_certificate(tmp_path)
    command = f"gunicorn {options} -w 1 -b 127.0.0.1:8000 --access-logfile - hello:app"
    words = shlex.split(command.format(**certificate.paths))
    server = start(words, tls=certificate.context if "{KEY}" in options else None)
    clients = [echo(server), echo(server)]
    if counts:
        with pytest.raises(TimeoutError):
            ask(server, timeout=0.5)
        assert LOGGED not in server.log()
    else:
        server.wait_for_log(LOGGED)
        assert json.loads(server.request("/health")[2]) == {"sockets": 2}
    for client in clients:
        client.close()
    server.wait_for_log(LOGGED)


def test_a_pool_of_pywsgi_counts_no_sockets(start: Start, tmp_path: Path, monkeypatch):
    text = FILES["serve.py"].replace(", app)", ", app, spawn=1)")
    monkeypatch.setitem(FILES, "serve.py", text)
    server = start_unit(start, tmp_path, "hello-pywsgi.service")
    clients = [echo(server), echo(server)]
    assert LOGGED in server.log()
    server.process.send_signal(signal.SIGTERM)
    assert [wait_for_close(client) for client in clients] == [1001, 1001]
    assert server.process.wait(TIMEOUT) == 0


def test_threads_that_are_all_taken_keep_requests_waiting(start: Start, tmp_path: Path):
    server = start_unit(start, tmp_path, "hello-threads.service", threads="2")
    clients = [echo(server), echo(server)]
    with server.socket() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        clients[0].close()
        sock.settimeout(TIMEOUT)
        assert sock.recv(12) == b"HTTP/1.1 200"
    clients[1].close()


# Proxies


@pytest.mark.parametrize("place", ["port", "socket"])
def test_behind_nginx(start: Start, tmp_path: Path, place: str):
    nginx = needs("nginx")
    code = "\n".join(block.text for block in blocks(TLS) if block.runs)
    (tmp_path / "hello.py").write_text(code)
    backend = start_unit(start, tmp_path, "hello-socket.service")
    text = files(TLS)["hello.conf"]
    if place == "socket":
        text = text.replace("http://127.0.0.1:8000", "http://hello")
        text = FILES["upstream.conf"].replace("/run/hello", str(tmp_path)) + text
    else:
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{backend.port}")
    certificate = make_certificate(tmp_path)
    config = tmp_path / "nginx.conf"
    config.write_text(nginx_config(text, tmp_path, "127.0.0.1:LISTEN", **certificate.paths))
    front = start(
        ["sh", "-c", f"sed -i s/LISTEN/PORT/ {config}; exec {nginx} -p {tmp_path} -c {config}"],
        tls=certificate.context,
    )
    client = front.connect()
    client.send("WHERE")
    assert client.recv() == f"127.0.0.1 at wss://localhost:{front.port}/"
    client.close()
    assert front.request("/", HANDSHAKE)[0] == 101
    assert front.request("/")[0] == 426


# Security


def test_the_tests_that_the_page_names_are_there():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"``(test_\w+)``", (ROOT / "docs/security.rst").read_text())
    assert len(names) > 10
    for name in names:
        assert f"def {name}(" in tests


def test_too_many_messages_in_a_second(serve):
    client = serve(run_page(ROOT / "docs/security.rst")["app"]).connect()
    # All at once, or the time between them would count.
    frame = websocket.ABNF.create_frame("x", websocket.ABNF.OPCODE_TEXT).format()
    client.sock.sendall(frame * 1000)
    replies = 0
    while (received := client.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
        replies += 1
    assert received[1] == (1008).to_bytes(2, "big") + b"too many messages"
    assert 40 <= replies < 1000


def test_a_busy_handler_makes_its_sender_wait(app, sockets, serve):
    go = threading.Event()

    @sockets.on_message
    def busy(message):
        while not go.is_set():
            pause(0.01)

    server = serve(app)
    pause = gevent.sleep if isinstance(server, GeventServer) else time.sleep
    client = server.connect()
    frame = websocket.ABNF.create_frame(65536 * b"x", websocket.ABNF.OPCODE_BINARY).format()
    client.sock.setblocking(False)
    poll = select.poll()
    poll.register(client.sock, select.POLLOUT)
    sent = 0
    try:
        # Until the system takes no more, which has buffers of some megabytes.
        while poll.poll(500):
            sent += client.sock.send(frame[sent % len(frame) :])
            assert sent < 64 << 20
    finally:
        go.set()
