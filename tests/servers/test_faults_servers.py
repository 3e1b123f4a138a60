"""Server processes that nothing a client or a handler does wrong stops or fills up.

``TESTS_CONNECTIONS=10000`` sets how many connections come and go; 2,000 unless set.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import socket
import struct
import sys
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import frame
from harness import HANDSHAKE
from harness import HERE
from harness import open_raw
from harness import Process
from harness import read_response
from harness import read_to_end
from harness import TIMEOUT
from support import is_readable

Start = t.Callable[..., Process]

CONNECTIONS = int(os.environ.get("TESTS_CONNECTIONS", "2000"))
_RUN = [sys.executable, str(HERE / "faults_app.py")]
_GUNICORN = [sys.executable, "-m", "gunicorn", "--chdir", str(HERE), "-b", "127.0.0.1:PORT"]
COMMANDS = {
    "pywsgi": [*_RUN, "pywsgi", "PORT"],
    "werkzeug": [*_RUN, "werkzeug", "PORT"],
    "gevent": [*_GUNICORN, "-k", "gevent", "faults_app:app"],
    "gevent_pywsgi": [*_GUNICORN, "-k", "gevent_pywsgi", "faults_app:app"],
    "gthread": [*_GUNICORN, "-k", "gthread", "--threads", "20", "faults_app:app"],
}


def inside(server: Process) -> dict[str, t.Any]:
    """What the process has, by its own account."""
    status, _, body = server.request("/inside")
    assert status == 200, body
    return json.loads(body)


def ask(sock: socket.socket) -> None:
    """The connection is served."""
    sock.sendall(frame(1, b"ECHO"))
    assert sock.recv(6, socket.MSG_WAITALL) == b"\x81\x04ECHO"


def reset(sock: socket.socket) -> None:
    """Close *sock* with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def ask_to_open(server: Process, path: str = "/x", key: str = "") -> socket.socket:
    """Send a handshake and do not wait for its answer."""
    sock = server.socket()
    head = f"GET {path} HTTP/1.1\nHost: localhost:{server.port}\n{HANDSHAKE}{key}\n"
    sock.sendall(head.replace("\n", "\r\n").encode())
    return sock


# What a handler raises


@pytest.mark.parametrize("name", COMMANDS)
def test_a_handler_stops_no_server(start: Start, name: str):
    server = start(COMMANDS[name])
    pid = server.worker_pid()
    other = open_raw(server, "/other")
    faults = ["SystemExit", "GeneratorExit", "Timeout", "MemoryError", "RecursionError"]
    if name != "pywsgi":
        # There it is what Ctrl-C raises: where a handler of its own is set for that, or the
        # thread is not the main one, it cannot be.
        faults.append("KeyboardInterrupt")
    for fault in faults:
        server.mark()
        with open_raw(server, "/x") as sock:
            sock.sendall(frame(1, f"RAISE {fault}".encode()))
            assert sock.recv(4, socket.MSG_WAITALL) == b"\x88\x02\x03\xf3"
        server.wait_for_log("Exception on socket")
        assert server.log().count("Traceback") == 1
        ask(other)
    server.mark()
    with ask_to_open(server, "/leave") as sock:
        assert read_response(sock)[0] == 500
    server.wait_for_log("guard() raised SystemExit.")
    ask(other)
    assert server.worker_pid() == pid
    other.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_signal_is_not_taken_for_an_error_of_the_handler_that_runs(
    start: Start, number: signal.Signals
):
    server = start(COMMANDS["pywsgi"])
    sock = open_raw(server, "/x")
    sock.sendall(frame(1, b"BUSY"))
    server.wait_for_log("busy")
    server.process.send_signal(number)
    assert server.process.wait(TIMEOUT) == 0
    assert "Exception on socket" not in server.log()
    sock.close()


# Connections that come and go in every manner


def clean(server: Process) -> None:
    with open_raw(server, "/clean") as sock:
        ask(sock)
        sock.sendall(frame(8, b"\x03\xe8"))
        assert read_to_end(sock) == b"\x88\x02\x03\xe8"


def without_a_close(server: Process) -> None:
    open_raw(server, "/gone").close()


def reset_while_idle(server: Process) -> None:
    reset(open_raw(server, "/reset"))


def reset_in_a_frame(server: Process) -> None:
    sock = open_raw(server, "/reset")
    sock.sendall(frame(1, b"half a frame")[:9])
    reset(sock)


def end_in_a_frame(server: Process) -> None:
    with open_raw(server, "/end") as sock:
        sock.sendall(frame(1, b"the header of a frame")[:3])


def end_between_fragments(server: Process) -> None:
    with open_raw(server, "/end") as sock:
        sock.sendall(b"\x01" + frame(1, b"the first one")[1:])


def reset_in_a_reply(server: Process) -> None:
    sock = open_raw(server, "/large")
    sock.sendall(frame(1, b"LARGE"))
    sock.recv(10)
    reset(sock)


def reset_in_a_stream(server: Process) -> None:
    sock = open_raw(server, "/stream")
    sock.sendall(frame(1, b"STREAM"))
    sock.recv(10)
    reset(sock)


def end_behind_messages(server: Process) -> None:
    with open_raw(server, "/tell") as sock:
        sock.sendall(frame(1, b"TELL") * 3 + frame(1, b"ECHO"))


def fail(server: Process) -> None:
    with open_raw(server, "/fail") as sock:
        sock.sendall(frame(1, b"RAISE MemoryError"))
        assert sock.recv(4, socket.MSG_WAITALL) == b"\x88\x02\x03\xf3"


def reset_at_a_close(server: Process) -> None:
    sock = open_raw(server, "/close")
    sock.sendall(frame(1, b"CLOSE"))
    sock.recv(2)
    reset(sock)


def break_the_protocol(server: Process) -> None:
    with open_raw(server, "/broken") as sock:
        sock.sendall(b"\xff" * 20)
        assert sock.recv(4, socket.MSG_WAITALL)[2:] == b"\x03\xea"


def reset_in_the_request(server: Process) -> None:
    sock = server.socket()
    sock.sendall(b"GET /x HTTP/1.1\r\nHost: local")
    reset(sock)


def reset_before_the_101(server: Process) -> None:
    reset(ask_to_open(server))


def end_before_the_101(server: Process) -> None:
    ask_to_open(server).close()


def reset_in_before_open(server: Process) -> None:
    reset(ask_to_open(server, "/slow"))


def be_refused(server: Process) -> None:
    with ask_to_open(server, "/refused") as sock:
        assert read_response(sock)[0] == 403


def be_malformed(server: Process) -> None:
    with ask_to_open(server, key="Sec-WebSocket-Key: two\n") as sock:
        assert read_response(sock)[0] == 400


MANNERS = [
    clean,
    without_a_close,
    reset_while_idle,
    reset_in_a_frame,
    end_in_a_frame,
    end_between_fragments,
    reset_in_a_reply,
    reset_in_a_stream,
    end_behind_messages,
    fail,
    reset_at_a_close,
    break_the_protocol,
    reset_in_the_request,
    reset_before_the_101,
    end_before_the_101,
    reset_in_before_open,
    be_refused,
    be_malformed,
]


def come_and_go(server: Process, count: int) -> None:
    """Connect so many times, each manner as often as the others, eight at a time."""
    manners = [MANNERS[number % len(MANNERS)] for number in range(count)]
    random.Random(count).shuffle(manners)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda manner: manner(server), manners):
            pass


def wait_until_calm(server: Process, most: dict[str, int]) -> dict[str, t.Any]:
    """Wait until the process has no connection left, and no more than *most* of the rest."""
    found: dict[str, t.Any] = {}

    def is_calm() -> bool:
        found.update(inside(server))
        return all(found[name] <= number for name, number in most.items())

    server.wait_for(is_calm, f"at most {most}")
    return found


#: A server of gevent keeps so many greenlets for the next time that handlers wait.
SPARE = 16


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["pywsgi", "werkzeug"])
def test_connections_that_come_and_go_leave_nothing(start: Start, name: str):
    # With an arena for each thread, or large blocks kept for later, what malloc has is chance.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    server = start(COMMANDS[name], environ=malloc)
    come_and_go(server, 500)
    gone = {"clients": 0, "rooms": 0, "places": 0, "sessions": 0}
    before = wait_until_calm(server, {**gone, "descriptors": 40, "threads": 2, "greenlets": 40})
    come_and_go(server, CONNECTIONS)
    same = {key: before[key] for key in ("descriptors", "threads")}
    after = wait_until_calm(server, {**gone, **same, "greenlets": before["greenlets"] + SPARE})
    figures = {key: (before[key], after[key]) for key in before if key != "types"}
    print(f"{name}: {CONNECTIONS} connections, before and after: {figures}")
    # Far less than one of anything for each connection.
    few = CONNECTIONS // 20
    grown = {
        kind: count - before["types"].get(kind, 0)
        for kind, count in after["types"].items()
        if count - before["types"].get(kind, 0) > few
    }
    assert grown == {}
    assert after["blocks"] - before["blocks"] < CONNECTIONS
    assert after["memory"] - before["memory"] < 4 << 20


# Without descriptors


def with_descriptors(count: int, command: list[str]) -> list[str]:
    """Start *command* with so many descriptors at most."""
    code = (
        "import os, resource, sys;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({count}, {count}));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code, *command]


def seconds_of_work(pid: int) -> float:
    """The processor's time that a process has had."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["pywsgi", "gevent_pywsgi", "werkzeug"])
def test_a_server_without_descriptors_goes_on(start: Start, name: str):
    limit = 60
    server = start(with_descriptors(limit, COMMANDS[name]))
    pid = server.worker_pid()
    descriptors = pathlib.Path(f"/proc/{pid}/fd")
    opened = []
    while len(list(descriptors.iterdir())) < limit:
        opened.append(open_raw(server, "/x"))
    late = ask_to_open(server)
    for sock in opened:
        ask(sock)
    worked = seconds_of_work(pid)
    assert not is_readable(late, 1.0)
    for sock in opened:
        ask(sock)
    if name != "werkzeug":
        # socketserver, of the standard library, asks for the connection again at once.
        assert seconds_of_work(pid) - worked < 0.5
        assert 0 < server.log().count("Too many open files") < 30
    for sock in opened[::2]:
        sock.sendall(frame(8, b"\x03\xe8"))
        assert sock.recv(4, socket.MSG_WAITALL) == b"\x88\x02\x03\xe8"
        sock.close()
    assert read_response(late)[0] == 101
    ask(late)
    for sock in [open_raw(server, "/x"), *opened[1::2], late]:
        ask(sock)
        sock.close()
    assert server.worker_pid() == pid
