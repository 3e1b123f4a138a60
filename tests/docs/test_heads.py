"""``docs/deployment.rst`` on clients that do not finish their request: each server as it says."""

from __future__ import annotations

import socket
import sys
import typing as t
from pathlib import Path

import pytest
from harness import make_certificate
from harness import needs
from harness import Process
from languages import nginx_config
from pages import files
from pages import ROOT

FILES = files(ROOT / "docs/deployment.rst")

SERVE = """\
import sys
from gevent import pywsgi
from hasty import Hasty
from hello import app

pywsgi.WSGIServer(("127.0.0.1", int(sys.argv[1])), app, handler_class=Hasty).serve_forever()
"""

HALF_A_LINE = b"GET / HT"
HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Half: "


@pytest.fixture
def start(tmp_path: Path) -> t.Iterator[t.Callable[..., Process]]:
    """Start a command in the folder that has the page's files, with a second in place of 10."""
    (tmp_path / "hello.py").write_text(FILES["hello.py"])
    (tmp_path / "hasty.py").write_text(FILES["hasty.py"].replace("(10,", "(1,"))
    (tmp_path / "serve.py").write_text(SERVE)
    started: list[Process] = []

    def start(command: t.Sequence[str], **options: t.Any) -> Process:
        log = tmp_path / f"log{len(started)}"
        started.append(Process(command, log, cwd=tmp_path, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def answer(server: Process, half: bytes) -> bytes:
    """What comes of a request that is never finished, up to the end of the connection."""
    with server.socket() as sock:
        sock.sendall(half)
        data = b""
        while piece := sock.recv(1000):
            data += piece
        return data


def check_that_it_serves(server: Process) -> None:
    client = server.connect()
    client.send("hello")
    assert client.recv() == "hello"
    client.close()
    assert server.request("/health")[0] == 200


def gunicorn(worker: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "-k", worker, "-b", "127.0.0.1:PORT"]
    return [*command, *options, "hello:app"]


def test_the_handler_for_pywsgi(start: t.Callable[..., Process]):
    server = start([sys.executable, "serve.py", "PORT"])
    client = server.connect()
    assert answer(server, b"") == b""
    assert answer(server, HALF_A_LINE) == b""
    assert answer(server, HALF_A_HEAD).startswith(b"HTTP/1.1 400 ")
    # A socket that is open has all the time it wants.
    client.send("still here")
    assert client.recv() == "still here"
    client.close()
    check_that_it_serves(server)
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("half", [b"", HALF_A_LINE, HALF_A_HEAD])
def test_gunicorn_with_gevent(start: t.Callable[..., Process], half: bytes):
    server = start(gunicorn("gevent", "--keep-alive", "1"))
    assert answer(server, half) == b""
    check_that_it_serves(server)
    assert "Traceback" not in server.log()


def test_threads_of_gunicorn_are_kept(start: t.Callable[..., Process]):
    server = start(gunicorn("gthread", "--threads", "1", "--keep-alive", "1"))
    with server.socket() as sock:
        sock.sendall(HALF_A_HEAD)
        with server.socket() as other:
            other.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            other.settimeout(1.5)
            with pytest.raises(TimeoutError):
                other.recv(1)
            # The thread is free again when the head is whole.
            sock.sendall(b"\r\nConnection: close\r\n\r\n")
            other.settimeout(10)
            assert other.recv(12) == b"HTTP/1.1 200"


def test_nginx_in_front_of_threads(start: t.Callable[..., Process], tmp_path: Path):
    nginx = needs("nginx")
    backend = start(gunicorn("gthread", "--threads", "1"))
    text = FILES["heads.conf"].replace("10s", "1s") + (
        f"server {{ listen 127.0.0.1:8000; location / "
        f"{{ proxy_pass http://127.0.0.1:{backend.port}; }} }}\n"
    )
    config = tmp_path / "nginx.conf"
    paths = make_certificate(tmp_path).paths
    config.write_text(nginx_config(text, tmp_path, "127.0.0.1:LISTEN", **paths))
    run = f"sed -i s/LISTEN/PORT/ {config}; exec {nginx} -p {tmp_path} -c {config}"
    front = start(["sh", "-c", run])
    halves = [socket.create_connection(("127.0.0.1", front.port), 10) for _ in range(3)]
    for sock in halves:
        sock.sendall(HALF_A_HEAD)
    # The only thread of the app is free all the while.
    assert front.request("/health")[0] == 200
    for sock in halves:
        while sock.recv(1000):
            pass
        sock.close()
