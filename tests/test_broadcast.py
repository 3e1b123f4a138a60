"""One message to many: from anywhere, to rooms, past slow and dead connections."""

import re
import socket
import subprocess
import sys
import threading
import urllib.request
import zlib
from pathlib import Path

import gevent
import pytest
from flask import Flask
from flask import jsonify
from flask import Response
from support import wait_until
from websocket import ABNF
from werkzeug.routing import BaseConverter

from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.drivers.threads import ThreadTransport


class ListConverter(BaseConverter):
    def to_python(self, value):
        return value.split("+")


@pytest.fixture
def sockets(app: Flask) -> WebSockets:
    return attach(app)


def attach(app: Flask, **config) -> WebSockets:
    """An endpoint with a room, or several, in its URL; the greeting is the id."""
    app.config.update({f"WEBSOCKETS_{key.upper()}": value for key, value in config.items()})
    sockets = WebSockets(app, path="/<list:rooms>")

    @sockets.on_open
    def enter(rooms):
        for room in rooms:
            ws.join(room)
        return ws.id

    return sockets


@pytest.fixture
def app(app: Flask) -> Flask:
    app.url_map.converters["list"] = ListConverter
    return app


def join(server, *rooms, **options):
    """Connect a client that is in *rooms*, and give it with its connection's id."""
    client = server.connect("/" + "+".join(rooms), **options)
    return client, client.recv()


def received(client):
    """All that comes until the server answers a Close."""
    # A broadcast of another thread may be delivered after what the client sends next.
    client.ping()
    messages = []
    while True:
        opcode, data = client.recv_data(control_frame=True)
        if opcode == ABNF.OPCODE_PONG:
            client.send(b"", ABNF.OPCODE_CLOSE)
        elif opcode == ABNF.OPCODE_CLOSE:
            return messages
        else:
            messages.append(data.decode() if opcode == ABNF.OPCODE_TEXT else data)


# From anywhere


def test_from_a_view(app, sockets, serve):
    @app.get("/tell/<text>")
    def tell(text):
        sockets.broadcast(text)
        return f"told {len(sockets.clients)}"

    server = serve(app)
    clients = [join(server, "blue")[0] for _ in range(3)]
    with urllib.request.urlopen(server.http("/tell/news"), timeout=10) as response:
        assert response.read() == b"told 3"
    assert [client.recv() for client in clients] == ["news"] * 3


def test_from_a_handler_to_itself_too(app, sockets, serve):
    @sockets.on_message
    def shout(message):
        ws.send("before")
        sockets.broadcast(message)
        return "after"

    server = serve(app)
    (client, _), (other, _) = join(server, "blue"), join(server, "blue")
    client.send("news")
    assert received(client) == ["before", "news", "after"]
    assert received(other) == ["news"]


def test_from_a_thread_of_the_program(app, sockets, serve):
    server = serve(app)
    clients = [join(server, "blue")[0] for _ in range(2)]
    thread = threading.Thread(target=sockets.broadcast, args=("news",))
    thread.start()
    thread.join()
    assert [received(client) for client in clients] == [["news"], ["news"]]


def test_from_a_greenlet(app, sockets, serve):
    @sockets.on_message
    def shout(message):
        gevent.spawn(sockets.broadcast, message).join()

    server = serve(app)
    (client, _), (other, _) = join(server, "blue"), join(server, "blue")
    client.send("news")
    assert client.recv() == "news"
    assert other.recv() == "news"


def test_broadcasts_of_one_thread_come_in_order(app, sockets, serve):
    server = serve(app)
    clients = [join(server, "blue")[0] for _ in range(3)]
    for number in range(100):
        sockets.broadcast(str(number))
    for client in clients:
        assert received(client) == [str(number) for number in range(100)]


def test_broadcasts_of_many_threads_are_whole(app, serve):
    sockets = attach(app, send_buffer=64 << 20)
    count, each, size = 4, 25, 50_000
    server = serve(app)
    clients = [join(server, "blue")[0] for _ in range(2)]

    def shout(number):
        for _ in range(each):
            sockets.broadcast(bytes([number]) * size)

    threads = [threading.Thread(target=shout, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for client in clients:
        messages = sorted(client.recv() for _ in range(count * each))
        assert messages == [bytes([number]) * size for number in range(count) for _ in range(each)]
    for thread in threads:
        thread.join()


def test_to_nobody(app, sockets):
    sockets.broadcast("news")
    sockets.broadcast("news", to="blue")
    sockets.broadcast("news", to=[])


# To rooms, and past some


def test_to_a_room(app, sockets, serve):
    server = serve(app)
    (blue, _), (red, _) = join(server, "blue"), join(server, "red")
    sockets.broadcast("for blue", to="blue")
    sockets.broadcast("for none", to="green")
    assert received(blue) == ["for blue"]
    assert received(red) == []


@pytest.mark.parametrize("kind", [list, tuple, set, iter])
def test_to_several_rooms_once_each(app, sockets, serve, kind):
    server = serve(app)
    clients = [join(server, *rooms)[0] for rooms in (("blue", "red"), ("red",), ("green",))]
    sockets.broadcast("news", to=kind(["blue", "red", "none"]))
    assert [received(client) for client in clients] == [["news"], ["news"], []]


def test_an_empty_list_of_rooms_is_nobody(app, sockets, serve):
    client, _ = join(serve(app), "blue")
    sockets.broadcast("news", to=[])
    assert received(client) == []


def test_skip(app, sockets, serve):
    server = serve(app)
    (one, one_id), (two, two_id), (three, three_id) = (join(server, "blue") for _ in range(3))
    by_id = {connection.id: connection for connection in sockets.clients}
    sockets.broadcast("by id", skip=one_id)
    sockets.broadcast("by connection", skip=by_id[two_id])
    sockets.broadcast("by list", skip=[one_id, by_id[three_id], "unknown"])
    sockets.broadcast("in a room", to="blue", skip={three_id})
    sockets.broadcast("none", skip=[])
    assert received(one) == ["by connection", "in a room", "none"]
    assert received(two) == ["by id", "by list", "in a room", "none"]
    assert received(three) == ["by id", "by connection", "none"]


@pytest.mark.parametrize("in_list", [False, True])
def test_skip_the_proxy(app, sockets, serve, in_list):
    @sockets.on_message
    def shout(message):
        sockets.broadcast(message, skip=[ws] if in_list else ws)

    server = serve(app)
    (client, _), (other, _) = join(server, "blue"), join(server, "blue")
    client.send("news")
    assert received(client) == []
    assert received(other) == ["news"]


def test_join_leave_and_rooms(app, sockets, serve):
    @sockets.on_message(r"(?P<verb>join|leave) (?P<room>\w+)")
    def move(message, verb, room):
        getattr(ws, verb)(room)

    @sockets.on_message
    def rooms(message):
        return " ".join(sorted(ws.rooms)) or "none"

    client, _ = join(serve(app), "blue")
    for message, after in (
        ("", "blue"),
        ("join red", "blue red"),
        ("join red", "blue red"),
        ("leave blue", "red"),
        ("leave blue", "red"),
        ("leave red", "none"),
        ("leave red", "none"),
        ("join blue", "blue"),
    ):
        client.send(message)
        assert client.recv() == after
    sockets.broadcast("for red", to="red")
    sockets.broadcast("for blue", to="blue")
    assert received(client) == ["for blue"]


def test_rooms_is_a_copy(app, sockets, serve):
    join(serve(app), "blue")
    (connection,) = sockets.clients
    before = connection.rooms
    connection.join("red")
    assert before == frozenset({"blue"})
    assert connection.rooms == frozenset({"blue", "red"})


def test_a_view_moves_a_connection(app, sockets, serve):
    client, _ = join(serve(app), "blue")
    (connection,) = sockets.clients
    connection.leave("blue")
    connection.join("red")
    sockets.broadcast("for blue", to="blue")
    sockets.broadcast("for red", to="red")
    assert received(client) == ["for red"]


def test_rooms_are_those_of_one_endpoint(app, sockets, serve):
    others = WebSockets(app, path="/others", endpoint="others")

    @others.on_open
    def enter():
        ws.join("blue")
        return "in"

    server = serve(app)
    client, _ = join(server, "blue")
    other = server.connect("/others")
    assert other.recv() == "in"
    sockets.broadcast("for sockets", to="blue")
    others.broadcast("for others", to="blue")
    sockets.broadcast("for all of sockets")
    assert received(client) == ["for sockets", "for all of sockets"]
    assert received(other) == ["for others"]


def test_rooms_are_seen_in_on_close_and_left_afterwards(app, sockets, serve):
    seen = []

    @sockets.on_close
    def closed():
        seen.append((ws.rooms, len(sockets.clients)))
        for room in ws.rooms:
            sockets.broadcast("left", to=room)

    server = serve(app)
    other, _ = join(server, "blue")
    client, id = join(server, "blue", "red")
    (connection,) = [connection for connection in sockets.clients if connection.id == id]
    assert received(client) == []
    assert other.recv() == "left"
    assert seen == [(frozenset({"blue", "red"}), 1)]
    wait_until(lambda: connection.rooms == frozenset(), "the rooms are left")
    connection.join("blue")
    assert connection.rooms == frozenset()


def test_join_in_the_handshake_is_an_error(app, sockets, serve):
    errors = []

    @sockets.before_open
    def before_open(rooms):
        try:
            ws.join("blue")
        except RuntimeError as error:
            errors.append(str(error))

    join(serve(app), "red")
    assert errors == ["The connection is not open yet. Join rooms from on_open onwards."]


# What is sent


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        ("é", "é"),
        ("", ""),
        (b"bytes", b"bytes"),
        (bytearray(b"bytearray"), b"bytearray"),
        pytest.param(memoryview(b"memoryview"), b"memoryview", id="memoryview"),
        (Response("text"), "text"),
        (Response(b"\xff", mimetype="image/png"), b"\xff"),
    ],
    ids=repr,
)
def test_data(app, sockets, serve, data, sent):
    client, _ = join(serve(app), "blue")
    sockets.broadcast(data)
    assert received(client) == [sent]


def test_jsonify(app, sockets, serve):
    client, _ = join(serve(app), "blue")
    with app.app_context():
        sockets.broadcast(jsonify(a=1))
    (text,) = received(client)
    assert text.strip() == '{"a":1}'


@pytest.mark.parametrize("data", [{"a": 1}, None, 1])
def test_data_that_cannot_be_sent(app, sockets, data):
    with pytest.raises(
        TypeError,
        match=f"A message is str, bytes, bytearray or memoryview, not {type(data).__name__}.",
    ):
        sockets.broadcast(data)


def test_a_response_that_is_no_answer_cannot_be_sent(app, sockets):
    with pytest.raises(
        ValueError, match=re.escape("broadcast()'s argument returned a response of status 404")
    ):
        sockets.broadcast(Response("no", status=404))


def test_with_compression(app, serve):
    sockets = attach(app, compression=True)
    server = serve(app)
    # websocket-client speaks no permessage-deflate, so its frames are read by hand.
    plain, _ = join(server, "blue")
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate; server_no_context_takeover"}
    packed = server.connect("/blue", header=offer)
    assert "permessage-deflate" in packed.headers["sec-websocket-extensions"]
    assert inflate(packed).decode() in {connection.id for connection in sockets.clients}
    for text in ("x" * 1000, "y" * 1000):
        sockets.broadcast(text)
        assert plain.recv() == text
        assert inflate(packed).decode() == text


def inflate(client):
    """The payload of the next frame, which is deflated."""
    head = client.sock.recv(2)
    assert head[0] == 0xC1  # FIN, RSV1, text
    assert head[1] < 126
    data = b""
    while len(data) < head[1]:
        data += client.sock.recv(head[1] - len(data))
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")


# Slow and dead connections

SLOW = {"sockopt": [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]}


def test_dead_connections_disturb_nobody(app, sockets, serve, log):
    server = serve(app)
    alive, _ = join(server, "blue")
    dead = [join(server, "blue")[0] for _ in range(5)]
    for client in dead:
        client.shutdown()
    for number in range(20):
        sockets.broadcast(str(number), to="blue")
    assert received(alive) == [str(number) for number in range(20)]
    wait_until(lambda: len(sockets.clients) == 0, "all are gone")
    assert log == []


def test_a_slow_client_is_closed_with_1008_and_others_get_all(app, serve, log):
    sockets = attach(app, send_buffer=1000)
    closes = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((ws.id, code, reason))

    server = serve(app)
    good, _ = join(server, "blue")
    _, slow_id = join(server, "blue", **SLOW)
    message = b"x" * (1 << 20)
    for _ in range(40):
        sockets.broadcast(message)
        assert good.recv() == message
        if closes:
            break
    wait_until(lambda: closes, "on_close")
    assert closes == [(slow_id, 1008, "too slow")]
    sockets.broadcast("still here")
    assert good.recv() == "still here"
    assert log == []


def test_the_policy_drop_keeps_a_slow_client(app, serve):
    sockets = attach(app, send_buffer=1000, slow_client="drop")
    closes = []

    @sockets.on_close
    def closed():
        closes.append(True)

    server = serve(app)
    good, _ = join(server, "blue")
    slow, _ = join(server, "blue", **SLOW)
    count, size = 40, 1 << 20
    for number in range(count):
        message = str(number).encode().ljust(size, b".")
        sockets.broadcast(message)
        assert good.recv() == message
    # It has missed some, and what it gets is whole and in order.
    slow.send(b"", ABNF.OPCODE_CLOSE)
    numbers = []
    while (frame := slow.recv_data())[0] == ABNF.OPCODE_BINARY:
        assert len(frame[1]) == size
        numbers.append(int(frame[1].rstrip(b".")))
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    assert len(numbers) < count
    wait_until(lambda: closes, "on_close")


def test_a_slow_client_that_reads_again_gets_all_within_the_buffer(app, serve):
    sockets = attach(app, send_buffer=64 << 20)
    server = serve(app)
    slow, _ = join(server, "blue", **SLOW)
    size = 1 << 20
    for number in range(20):
        sockets.broadcast(str(number).encode().ljust(size, b"."))
    for number in range(20):
        assert slow.recv() == str(number).encode().ljust(size, b".")


def test_a_slow_client_does_not_hold_up_the_handlers_of_others(app, serve):
    sockets = attach(app, send_buffer=64 << 20)

    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    good, _ = join(server, "blue")
    join(server, "red", **SLOW)
    sockets.broadcast("x" * (32 << 20), to="red")
    good.send("still here")
    assert good.recv() == "still here"


def test_a_broadcast_as_a_flush_ends_is_not_left_behind():
    # Who queues relies on a flusher that is counted; one that has pushed its last would
    # leave it there until the next send.
    class Interleaved(ThreadTransport):
        """Another thread broadcasts as soon as nothing is left to be sent."""

        late = b""

        def unlock(self):
            super().unlock()
            if self.late and not self.unsent:
                late, self.late = self.late, b""
                self.broadcast(late)

        def broadcast(self, data):
            self.lock()
            self.post(data)
            super().unlock()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(5)
        transport = Interleaved(ours)
        transport.broadcast(b"x" * (4 << 20))
        assert transport.unsent
        transport.late = b"late"
        expected, data = b"x" * (4 << 20) + b"late", b""
        while len(data) < len(expected):
            data += theirs.recv(1 << 20)
        assert data == expected


_HALF_CLOSED = """
import socket
import sys
from support import GeventServer, wait_until
from flask import Flask
from flask_websockets import WebSockets

app = Flask("tests")
sockets = WebSockets(app)
codes = []

@sockets.on_message
def echo(message):
    return message

@sockets.on_close
def closed(code):
    codes.append(code)

server = GeventServer(app)
slow = server.connect(sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
wait_until(lambda: len(sockets.clients) == 1, "the connection")
sockets.broadcast("x" * (32 << 20))
slow.sock.shutdown(socket.SHUT_WR)
wait_until(lambda: codes == [1006], "on_close")
other = server.connect()
other.send("still here")
assert other.recv() == "still here"
server.close_clients()
server.stop()
"""


def test_a_slow_client_that_half_closes_does_not_end_the_process():
    # libev aborts if the server closes the descriptor while the task that flushes waits.
    done = subprocess.run(
        [sys.executable, "-c", _HALF_CLOSED],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
