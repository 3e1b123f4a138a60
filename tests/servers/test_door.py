"""What knocks at the door of each server, how it is turned away, and what that costs."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import typing as t

import pytest
from harness import Certificate
from harness import COMMANDS
from harness import frame
from harness import HERE
from harness import Process
from harness import read_to_end
from harness import TLS_COMMANDS

APP = """\
from flask import abort, Flask, request
from flask_websockets import WebSockets

app = Flask(__name__)
app.config["WEBSOCKETS_MAX_CONNECTIONS"] = 5
sockets = WebSockets(app, path="/socket/<name>")


@sockets.before_open
def check():
    if request.path == "/socket/guarded":
        abort(401)


@sockets.on_message("FAIL")
def fail():
    raise ZeroDivisionError("on purpose")


@sockets.on_message
def echo(message):
    return message


@sockets.route("/loop")
def loop(ws):
    for message in ws:
        ws.send(message)


@app.route("/", methods=["GET", "POST"])
def page():
    return "a page"
"""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
HELLO = frame(1, b"hello")
EVIL = b"GET /evil HTTP/1.1\r\nHost: localhost\r\n\r\n"
ORIGIN = {"Origin": "http://evil.example"}


def request(
    changes: t.Mapping[str, str | None],
    path: str = "/socket/x",
    method: str = "GET",
    behind: bytes = b"",
    version: str = "HTTP/1.1",
) -> bytes:
    """A handshake with some fields changed, and what comes behind it.

    A newline separates the values of a field that is repeated; None leaves it out.
    """
    lines = [f"{method} {path} {version}"]
    for name, value in {**FIELDS, **changes}.items():
        if value is not None:
            lines += [f"{name}: {line}" for line in value.split("\n")]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + behind


#: Handshakes that are refused, with what status.
REFUSED = [
    (400, request({"Connection": "upgradexyz"})),
    (400, request({"Connection": "upgradexyz", "Content-Length": "5"})),
    (400, request({"Sec-WebSocket-Key": None})),
    (400, request({"Sec-WebSocket-Key": f"{KEY}\n{KEY}"})),
    (400, request({"Sec-WebSocket-Key": "dGhlIHNhbXBs!SBub25jZQ=="})),
    (400, request({"Sec-WebSocket-Key": "dGhlIHNhbXBs\0SBub25jZQ=="})),
    (426, request({"Sec-WebSocket-Version": None})),
    (426, request({"Sec-WebSocket-Version": "13\n13"})),
    (400, request({"Sec-WebSocket-Protocol": "a b"})),
    (400, request({"Sec-WebSocket-Extensions": "a=b"})),
    (400, request({"Content-Length": "5"})),
    (400, request({"Content-Length": "99999999999"})),
    (400, request({"Transfer-Encoding": "chunked"})),
    (400, request({"Transfer-Encoding": "chunked"}, behind=b"zzz\r\n")),
    (400, request({"Transfer-Encoding": "chunked", "Content-Length": "5"})),
    (417, request({"Expect": "100-continue"})),
    (417, request({"Expect": "EVIL"})),
    (400, request({"X-Junk": "a\0b"})),
    (400, request({"X-Junk": "\x1b]0;EVIL"})),
    (400, request({"Host": None})),
    (400, request({"Host": "localhost\nlocalhost"})),
    (400, request({"Host": "a b"})),
    (400, request({"Host": "localhost/\x1b]0;EVIL"})),
    (400, request({}, method="POST")),
    (400, request({"Content-Length": "5"}, method="POST")),
    (400, request({}, version="HTTP/1.0")),
    (403, request(ORIGIN)),
    (403, request(ORIGIN, path="/loop")),
    (403, request({"Origin": "http://localhost\nhttp://localhost"})),
    (403, request({"Origin": "null"})),
    (403, request(ORIGIN, path="/socket/%0aEVIL%1b]0;%00")),
    (404, request({}, path="/socket/%0a/EVIL")),
]

#: The same with something behind that could be taken for a request.
FOLLOWED = [
    request({"Content-Length": "5"}, behind=b"12345" + EVIL),
    request({"Content-Length": str(len(EVIL))}, behind=EVIL + EVIL),
    request({"Transfer-Encoding": "chunked"}, behind=b"5\r\n12345\r\n0\r\n\r\n" + EVIL),
    request({"Expect": "100-continue"}, behind=EVIL),
    request({"Sec-WebSocket-Version": None}, behind=EVIL),
    request(ORIGIN, behind=EVIL),
    request({}, path="/socket/guarded", behind=EVIL),
    request({}, path="/socket/guarded", behind=HELLO + b"\r\n" + EVIL),
    request({}, path="/nowhere", behind=EVIL),
]

SEPARATED = [
    request({f"Sec-WebSocket-{name}": value * (65_000 // len(value))})
    for name in ("Protocol", "Extensions")
    for value in (",", ", ", "a,", "a;", ";")
]

#: How many connect to see whether there is room, if there is.
ROOM = 7
PYWSGI = ("pywsgi", "geventwebsocket", "gunicorn-gevent_pywsgi")


@pytest.fixture(scope="module", params=list(COMMANDS))
def running_door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> t.Iterator[Process]:
    """Each server in turn, with the app above."""
    folder = tmp_path_factory.mktemp("door")
    (folder / "app.py").write_text(APP)
    shutil.copy(HERE / "run.py", folder)
    command = [part.replace(str(HERE), str(folder)) for part in COMMANDS[request.param]]
    process = Process(command, folder / "log", cwd=folder)
    process.name = request.param  # type: ignore[attr-defined]
    yield process
    process.stop()


@pytest.fixture
def door(running_door: Process) -> t.Iterator[Process]:
    """Each server in turn, with its log beginning at this test."""
    running_door.mark()
    yield running_door
    assert running_door.process.poll() is None


def knock(door: Process, data: bytes) -> list[int]:
    """Send *data*, and read until the server closes. Returns the statuses of the answers."""
    with door.socket() as sock:
        try:
            sock.sendall(data)
        except ConnectionError:
            pass  # it was too much already; the answer is there to be read
        answer = read_to_end(sock)
    statuses = [int(status) for status in re.findall(rb"(?m)^HTTP/1.[01] ([0-9]{3}) ", answer)]
    return [status for status in statuses if status != 100]


def leave(door: Process, data: bytes, linger: int) -> None:
    """Send *data* and be gone, with a FIN, or with an RST if *linger* is 1."""
    sock = door.socket()
    sock.sendall(data)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
    sock.close()


def enter(
    door: Process, path: str = "/socket/x", changes: t.Mapping[str, str | None] | None = None
) -> socket.socket | None:
    """Shake hands. Returns None if there is no room."""
    sock = door.socket()
    sock.sendall(request(changes or {}, path))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    status = int(head.split()[1])
    if status == 101:
        return sock
    assert status == 503
    assert b"\r\nRetry-After: 5\r\n" in head
    assert read_to_end(sock) == b"There are as many connections as this server takes.\n"
    sock.close()
    return None


def enter_soon(
    door: Process, path: str = "/socket/x", changes: t.Mapping[str, str | None] | None = None
) -> socket.socket:
    """Shake hands as soon as there is room: those who have left may still be leaving."""
    tried: list[socket.socket | None] = []

    def has_entered() -> bool:
        tried.append(enter(door, path, changes))
        return tried[-1] is not None

    door.wait_for(has_entered, "there is room")
    return t.cast(socket.socket, tried[-1])


def has_room_for_five(door: Process) -> None:
    inside = [enter_soon(door) for _ in range(5)]
    assert enter(door) is None
    assert enter(door, "/loop") is None
    for sock in inside:
        sock.sendall(HELLO)
        assert sock.recv(100) == b"\x81\x05hello"
        sock.close()


def lines(door: Process) -> list[str]:
    """What was logged, without the colours of Werkzeug's access log."""
    return re.sub(r"\x1b\[[0-9;]*m", "", door.log()).rstrip("\n").split("\n")


def costs_no_more_than(door: Process, number: int) -> None:
    """Each connection is a line of the access log and one more at the most."""
    assert len(lines(door)) <= 2 * number, door.log()


def shows_nothing_raw(door: Process) -> None:
    """No line is the client's, and none of its bytes command a terminal."""
    assert [line for line in lines(door) if line.startswith("EVIL")] == []
    assert re.findall(r"[\x00-\x1f\x7f]", "".join(lines(door))) == []


def test_what_may_not_be_is_refused_and_ends_its_connection(door: Process):
    for status, data in REFUSED:
        assert knock(door, data) == [status], data
    costs_no_more_than(door, len(REFUSED))
    shows_nothing_raw(door)


def test_what_comes_behind_a_refused_handshake_is_no_request(door: Process):
    for data in FOLLOWED:
        (status,) = knock(door, data)
        assert 400 <= status < 500, data
    assert "/evil" not in door.log()
    costs_no_more_than(door, len(FOLLOWED))


def test_long_lists_of_separators_are_refused(door: Process):
    for data in SEPARATED:
        # gunicorn takes no field of that length, and may close before all of it is sent.
        statuses = knock(door, data)
        assert statuses in ([400], [431]) or (not statuses and "gunicorn" in door.name)
    costs_no_more_than(door, len(SEPARATED))


@pytest.mark.parametrize("linger", [0, 1], ids=["FIN", "RST"])
def test_who_leaves_after_the_handshake_leaves_nothing(door: Process, linger: int):
    whole = request({})
    knocks = [whole, whole + HELLO, request(ORIGIN), request({"Content-Length": "5"})] * 5
    for data in knocks:
        leave(door, data, linger)
    has_room_for_five(door)
    costs_no_more_than(door, len(knocks) + ROOM)


@pytest.mark.parametrize("linger", [0, 1], ids=["FIN", "RST"])
def test_who_leaves_in_the_middle_leaves_nothing(door: Process, linger: int):
    whole = request({})
    pieces = [b"", b"G", b"GET /socket/x HTT", whole[:60], whole[:-2]]
    for piece in pieces:
        leave(door, piece, linger)
    has_room_for_five(door)
    # Nothing of ours runs by then: these print how their own handling of it failed.
    if door.name != "gunicorn-gevent_pywsgi" and not (linger and door.name in PYWSGI):
        costs_no_more_than(door, len(pieces) + ROOM)


def test_what_is_no_http_costs_a_line(door: Process):
    if door.name == "gunicorn-gevent_pywsgi":
        pytest.skip("gunicorn's own handler fails to log it, and gevent prints how")
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03EVIL\r\n\r\n",
        b"\x00\xff EVIL\r\n\r\n",
        b"EVIL\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HELLO + b"\r\n\r\n",
        request({"Content-Length": "-5"}),
        request({"Content-Length": "5x"}),
    ]
    for data in garbage:
        knock(door, data)
    costs_no_more_than(door, len(garbage))
    if door.name not in PYWSGI:  # which writes the request line as it came
        shows_nothing_raw(door)


def test_pages_of_the_same_host_and_programs_are_let_in(door: Process):
    for origin in ("http://localhost", "HTTP://LOCALHOST:80", None):
        for path in ("/socket/x", "/loop"):
            with enter_soon(door, path, {"Origin": origin}) as sock:
                sock.sendall(HELLO + frame(8, b""))
                assert read_to_end(sock) == b"\x81\x05hello\x88\x00"


def test_an_error_at_a_path_is_one_record(door: Process):
    with enter_soon(door, "/socket/%0aEVIL%1b]0;") as sock:
        sock.sendall(frame(1, b"FAIL"))
        assert sock.recv(4, socket.MSG_WAITALL) == b"\x88\x02\x03\xf3"
    door.wait_for_log("ZeroDivisionError: on purpose")
    assert re.search(r"Exception on socket \w+ of /socket/\\nEVIL\\x1b\]0;\n", door.log())
    shows_nothing_raw(door)


@pytest.mark.parametrize("name", ["pywsgi", "gunicorn-gthread"])
def test_a_refusal_over_tls_ends_its_connection(
    start: t.Callable[..., Process], certificate: Certificate, name: str
):
    server = start(
        [certificate.paths.get(part, part) for part in TLS_COMMANDS[name]], tls=certificate.context
    )
    https, http = (f"{scheme}://localhost:{server.port}" for scheme in ("https", "http"))
    host = {"Host": f"localhost:{server.port}"}
    assert knock(server, request({"Content-Length": "5"}, "/")) == [400]
    assert knock(server, request({"Content-Length": "5"}, "/", behind=b"12345" + EVIL)) == [400]
    assert knock(server, request({**host, "Origin": http}, "/", behind=EVIL)) == [403]
    assert "/evil" not in server.log()
    assert "Traceback" not in server.log()
    with server.socket() as sock:
        sock.sendall(request({**host, "Origin": https}, "/", behind=HELLO + frame(8, b"")))
        assert read_to_end(sock).endswith(b"\x81\x05hello\x88\x00")


def test_after_all_that_there_is_room(door: Process):
    has_room_for_five(door)
