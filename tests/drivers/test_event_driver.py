"""gevent's driver: no greenlet waits for what is idle, and what waits holds up nobody.

Each test runs gevent's ``pywsgi`` in this process, with the hub of a thread of its own.
"""

from __future__ import annotations

import array
import fcntl
import gc
import os
import socket
import struct
import subprocess
import sys
import termios
import textwrap
import threading
import time
import typing as t
import zlib
from pathlib import Path

import gevent
import greenlet
import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text as sql
from sqlalchemy.pool import QueuePool
from support import configure
from support import GeventServer
from support import is_readable
from support import serving
from support import the_connection
from support import TIMEOUT
from support import wait_until
from websocket import ABNF

import flask_websockets
from flask_websockets import copy_current_socket_context
from flask_websockets import WebSocket
from flask_websockets import ws

TEXT, CLOSE, PING = 0x1, 0x8, 0x9

Serve = t.Callable[[Flask], GeventServer]


@pytest.fixture
def serve() -> t.Iterator[Serve]:
    """Start gevent's server for an app."""
    with serving(GeventServer) as start:
        yield start


@pytest.fixture(autouse=True)
def _nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> t.Iterator[None]:
    """gevent prints what a greenlet dies of, and pywsgi what it could not send."""
    yield
    assert capfd.readouterr().err == ""


class Gate:
    """What handlers wait at, until a test opens it or its time is over."""

    def __init__(self) -> None:
        self.waiting = 0
        self._open = threading.Event()

    def wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        self.waiting += 1
        while not self._open.is_set() and time.monotonic() < deadline:
            gevent.sleep(0.005)
        self.waiting -= 1

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> t.Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame of less than 64 KiB, masked with zeros."""
    size = len(payload)
    length = struct.pack("!BH", 0xFE, size) if size > 125 else bytes([0x80 | size])
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def texts(*messages: str) -> bytes:
    return b"".join(frame(TEXT, message.encode()) for message in messages)


def replies(*messages: str) -> bytes:
    """The server's frames of these texts."""
    frames = [message.encode() for message in messages]
    assert all(len(message) < 126 for message in frames)
    return b"".join(bytes([0x81, len(message)]) + message for message in frames)


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def open_raw(server: GeventServer, after: bytes = b"") -> socket.socket:
    """Shake hands by hand, with bytes *after* the request in the same piece.

    The 101 is read, and what came behind it stays to be read.
    """
    sock = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
    sock.sendall(HANDSHAKE + after)
    response = b""
    while not response.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, response
        response += byte
    assert response.startswith(b"HTTP/1.1 101 "), response
    return sock


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, data
        data += piece
    return data


def has_bytes(sock: socket.socket) -> bool:
    """Whether anything has arrived there. On the loopback what is sent has arrived."""
    return is_readable(sock, 0)


def reset(sock: socket.socket) -> None:
    """Close *sock* with an RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def greenlets() -> int:
    """How many greenlets live, in all threads."""
    gc.collect()
    # type() and not isinstance(), which wakes up proxies.
    return sum(
        issubclass(type(one), greenlet.greenlet) and not one.dead for one in gc.get_objects()
    )


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def ask(client: t.Any, message: str) -> str:
    client.send(message)
    return t.cast(str, client.recv())


# Idle connections


def test_idle_connections_take_no_greenlet(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    clients = [server.connect()]
    assert ask(clients[0], "hello") == "hello"
    wait_until(lambda: greenlets() == greenlets(), "the request's greenlet is over")
    before = greenlets()
    for _ in range(50):
        clients.append(server.connect())
        assert ask(clients[-1], "hello") == "hello"
    assert len(sockets.clients) == 51
    wait_until(lambda: greenlets() <= before, "no greenlet is left but those before")
    assert [ask(client, str(number)) for number, client in enumerate(clients)] == [
        str(number) for number in range(51)
    ]
    wait_until(lambda: greenlets() <= before, "no greenlet is left but those before")


def test_greenlets_of_blocked_handlers_do_not_stay(app, sockets, serve, gate):
    @sockets.on_message
    def wait(message):
        gate.wait()
        return message

    server = serve(app)
    clients = [server.connect() for _ in range(60)]
    wait_until(lambda: len(sockets.clients) == 60, "the connections")
    before = greenlets()
    for client in clients:
        client.send("wait")
    wait_until(lambda: gate.waiting == 60, "all wait")
    gate.open()
    assert [client.recv() for client in clients] == ["wait"] * 60
    # Some are kept for the next time.
    wait_until(lambda: greenlets() <= before + 17, "most greenlets are over")


def test_connections_that_come_and_go_leave_nothing(app, sockets, serve, closes, log):
    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)

    def come_and_go(number):
        sock = open_raw(server, texts("hello") if number % 2 else b"")
        if number % 2:
            assert receive_exactly(sock, 7) == replies("hello")
        if number % 3 == 0:
            sock.sendall(frame(CLOSE, b"\x03\xe8"))
            assert receive_exactly(sock, 4) == b"\x88\x02\x03\xe8"
        if number % 3 == 1:
            reset(sock)
        sock.close()

    kept = connections()
    for number in range(6):
        come_and_go(number)
    wait_until(lambda: len(closes) == 6, "on_close")
    wait_until(lambda: greenlets() == greenlets(), "the greenlets are over")
    before = greenlets(), descriptors()
    for number in range(300):
        come_and_go(number)
    wait_until(lambda: len(closes) == 306, "on_close of each")
    assert len(sockets.clients) == 0
    wait_until(lambda: descriptors() <= before[1], "no descriptor is left")
    wait_until(lambda: greenlets() <= before[0], "no greenlet is left")
    wait_until(lambda: connections() <= kept, "no connection is left")
    assert sorted({code for code, _ in closes}) == [1000, 1006]
    assert log == []


def test_who_keeps_a_traceback_keeps_no_descriptor(app, sockets, serve, closes):
    # As a record of a log does; it refers to all frames, and they to the server's socket.
    kept = []

    @sockets.on_open
    def keep():
        kept.append(sys._getframe())

    server = serve(app)
    open_raw(server).close()
    wait_until(lambda: len(closes) == 1, "on_close")
    before = descriptors()
    for _ in range(5):
        open_raw(server).close()
    wait_until(lambda: len(closes) == 6, "on_close of each")
    wait_until(lambda: descriptors() <= before, "no descriptor is left")
    assert len(kept) == 6


def connections() -> int:
    """How many connections live."""
    gc.collect()
    return sum(type(one) is WebSocket for one in gc.get_objects())


# A handler that waits


def test_messages_of_one_connection_wait_for_their_handler(app, sockets, serve, gate):
    seen = []

    @sockets.on_message
    def handler(message):
        seen.append(message)
        if message == "wait":
            gate.wait()
        return message

    server = serve(app)
    client, other = server.connect(), server.connect()
    for message in ("wait", "a"):
        client.send(message)
    wait_until(lambda: gate.waiting, "the handler waits")
    client.send("b")
    for number in range(20):
        assert ask(other, str(number)) == str(number)
    client.send("c")
    assert ask(other, "others are served") == "others are served"
    assert seen == ["wait", *(str(number) for number in range(20)), "others are served"]
    assert not has_bytes(client.sock)
    gate.open()
    assert [client.recv() for _ in range(4)] == ["wait", "a", "b", "c"]


def test_who_sends_to_a_handler_that_waits_has_to_wait(app, sockets, serve, gate):
    count = 0

    @sockets.on_message
    def handler(message):
        nonlocal count
        gate.wait()
        count += 1

    server = serve(app)
    sock = open_raw(server)
    message = frame(TEXT, b"x" * 16000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    sock.sendall(message)
    wait_until(lambda: gate.waiting, "the handler waits")
    before = queued_at_server(sock)
    sent, limit = len(message), 64 << 20
    sock.settimeout(0.5)
    rest = b""
    try:
        while sent < limit:
            rest = rest or message
            size = sock.send(rest)
            sent, rest = sent + size, rest[size:]
    except TimeoutError:
        pass
    assert sent < limit
    # One read at most has been taken: the rest is in the kernel, on this side or that.
    assert before <= len(message)
    wait_until(
        lambda: sent - unacknowledged(sock) - queued_at_server(sock) <= 65536 + len(message),
        "the server has taken one read",
    )
    assert sent - unacknowledged(sock) - queued_at_server(sock) <= 65536 + len(message)
    other = server.connect()
    other.close()
    gate.open()
    sock.settimeout(TIMEOUT)
    sock.sendall(rest)
    sent += len(rest)
    wait_until(lambda: count == sent // len(message), "all are handled")
    sock.close()


def unacknowledged(sock: socket.socket) -> int:
    """How many bytes the kernel has taken of *sock*, but not the peer's."""
    return _ask_kernel(sock.fileno(), termios.TIOCOUTQ)


def queued_at_server(sock: socket.socket) -> int:
    """How many bytes of *sock* the server, which is in this process, has not read."""
    name = sock.getsockname()
    for number in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(number))) as copy:
                if copy.family == socket.AF_INET and copy.getpeername() == name:
                    return _ask_kernel(copy.fileno(), termios.FIONREAD)
        except OSError:
            pass  # closed meanwhile, or one that listens
    raise AssertionError("the server has closed it")


def _ask_kernel(fd: int, question: int) -> int:
    answer = array.array("i", [0])
    fcntl.ioctl(fd, question, answer)
    return answer[0]


def test_many_handlers_wait_at_once(app, sockets, serve, gate):
    @sockets.on_message("wait")
    def wait(message):
        gate.wait()
        return message

    @sockets.on_message("ask")
    def asked(message):
        return message

    server = serve(app)
    clients = [server.connect() for _ in range(100)]
    other = server.connect()
    for client in clients:
        client.send("wait")
    wait_until(lambda: gate.waiting == 100, "all wait")
    assert ask(other, "ask") == "ask"
    gate.open()
    assert [client.recv() for client in clients] == ["wait"] * 100
    assert [ask(client, "ask") for client in clients] == ["ask"] * 100


def test_handlers_that_wait_for_each_other(app, sockets, serve):
    arrived = []

    @sockets.on_message
    def meet(message):
        arrived.append(message)
        deadline = time.monotonic() + TIMEOUT
        while len(arrived) < 40 and time.monotonic() < deadline:
            gevent.sleep(0)
        return str(len(arrived))

    server = serve(app)
    clients = [server.connect() for _ in range(40)]
    for client in clients:
        client.send("x")
    assert [client.recv() for client in clients] == ["40"] * 40


def test_a_connection_whose_handler_waits_hears_broadcasts(app, sockets, serve, gate):
    @sockets.on_message
    def wait(message):
        gate.wait()
        return "done"

    client = serve(app).connect()
    client.send("wait")
    wait_until(lambda: gate.waiting, "the handler waits")
    sockets.broadcast("news")
    assert client.recv() == "news"
    gate.open()
    assert client.recv() == "done"


def test_on_open_may_wait(app, sockets, serve, gate):
    @sockets.on_open
    def opened():
        gate.wait()
        return "open"

    server = serve(app)
    clients = [server.connect() for _ in range(30)]
    wait_until(lambda: gate.waiting == 30, "all wait")
    clients[0].send("early")
    gate.open()
    assert [client.recv() for client in clients] == ["open"] * 30


def test_receive_in_a_handler(app, sockets, serve):
    @sockets.on_message("ask")
    def ask_back():
        ws.send("who?")
        return f"hello {ws.receive()}"

    @sockets.on_message("(?!ask)")
    def echo(message):
        return message

    server = serve(app)
    clients = [server.connect() for _ in range(30)]
    other = server.connect()
    for client in clients:
        client.send("ask")
    assert [client.recv() for client in clients] == ["who?"] * 30
    assert ask(other, "others") == "others"
    for number, client in enumerate(clients):
        client.send(str(number))
    assert [client.recv() for client in clients] == [f"hello {number}" for number in range(30)]
    assert ask(clients[0], "idle again") == "idle again"


def test_receive_in_a_handler_takes_what_came_in_the_same_read(app, sockets, serve):
    @sockets.on_message("ask")
    def ask_back():
        return f"hello {ws.receive()}"

    @sockets.on_message("(?!ask)")
    def echo(message):
        return message

    with open_raw(serve(app), texts("ask", "ann", "x", "ask", "bob", "y")) as sock:
        expected = replies("hello ann", "x", "hello bob", "y")
        assert receive_exactly(sock, len(expected)) == expected
        sock.sendall(texts("ask"))
        sock.sendall(texts("cid", "z"))
        expected = replies("hello cid", "z")
        assert receive_exactly(sock, len(expected)) == expected


def test_loops_beside_handlers(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    @sockets.route("/loop")
    def loop(ws):
        for message in ws:
            ws.send(f"loop {message}")

    server = serve(app)
    loops = [server.connect("/loop") for _ in range(10)]
    clients = [server.connect() for _ in range(10)]
    for number in range(5):
        for client, looping in zip(clients, loops, strict=True):
            assert ask(client, str(number)) == str(number)
            assert ask(looping, str(number)) == f"loop {number}"
    sockets.broadcast("news")
    assert [client.recv() for client in clients + loops] == ["news"] * 20


# Others send and close


@pytest.fixture(params=["idle", "waiting"])
def connected(request, app, sockets, serve, gate):
    """A client, and its connection, which is idle or whose handler waits."""

    @sockets.on_message("wait")
    def wait(message):
        gate.wait()
        return "done"

    client = serve(app).connect()
    connection = the_connection(sockets)
    if request.param == "waiting":
        client.send("wait")
        wait_until(lambda: gate.waiting, "the handler waits")
    return client, connection


def in_greenlet(server: GeventServer, function: t.Callable[[], t.Any]) -> None:
    """Call *function* in a greenlet of the server's hub, and wait for it."""
    done = threading.Event()

    def run() -> None:
        try:
            function()
        finally:
            done.set()

    server._hub.loop.run_callback_threadsafe(lambda: gevent.spawn(run))
    assert done.wait(TIMEOUT)


def test_a_native_thread_sends(connected, gate):
    client, connection = connected
    for number in range(20):
        connection.send(str(number))
    assert [client.recv() for _ in range(20)] == [str(number) for number in range(20)]


def test_a_native_thread_sends_what_the_kernel_does_not_take_at_once(connected):
    client, connection = connected
    message = b"x" * (8 << 20)
    thread = threading.Thread(target=connection.send, args=(message,))
    thread.start()
    assert client.recv() == message
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def test_another_greenlet_sends(app, sockets, serve, gate):
    @sockets.on_message("wait")
    def wait(message):
        gate.wait()
        return "done"

    server = serve(app)
    idle = server.connect()
    idle_connection = the_connection(sockets)
    waiting = server.connect()
    wait_until(lambda: len(sockets.clients) == 2, "two connections")
    (waiting_connection,) = set(sockets.clients) - {idle_connection}
    waiting.send("wait")
    wait_until(lambda: gate.waiting, "the handler waits")
    for number in range(20):
        in_greenlet(server, lambda: idle_connection.send(str(number)))  # noqa: B023
        in_greenlet(server, lambda: waiting_connection.send(str(number)))  # noqa: B023
    expected = [str(number) for number in range(20)]
    assert [idle.recv() for _ in range(20)] == expected
    assert [waiting.recv() for _ in range(20)] == expected
    gate.open()
    assert waiting.recv() == "done"


def test_a_task_that_a_handler_starts_sends_after_it_is_over(app, sockets, serve, gate):
    @sockets.on_message
    def start(message):
        @copy_current_socket_context
        def task():
            gate.wait()
            ws.send("from the task")

        gevent.spawn(task)
        return "started"

    client = serve(app).connect()
    assert ask(client, "start") == "started"
    gate.open()
    assert client.recv() == "from the task"


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("by", ["greenlet", "thread"])
def test_an_idle_connection_is_closed_by_another(app, serve, log, by, answers):
    sockets = configure(app, close_timeout=5 if answers else 0.2)
    closes = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    server = serve(app)
    sock = open_raw(server)
    connection = the_connection(sockets)
    if by == "greenlet":
        in_greenlet(server, lambda: connection.close(4000, "bye"))
    else:
        connection.close(4000, "bye")
    assert receive_exactly(sock, 7) == b"\x88\x05\x0f\xa0bye"
    if answers:
        sock.sendall(frame(CLOSE, b"\x0f\xa0"))
    assert sock.recv(100) == b""
    sock.close()
    wait_until(lambda: closes, "on_close")
    wait_until(lambda: len(sockets.clients) == 0, "it is gone")
    assert closes == [(4000, "bye")]
    assert log == []


def test_a_connection_whose_handler_waits_is_closed_by_another(app, sockets, serve, gate, closes):
    @sockets.on_message
    def wait(message):
        gate.wait()
        return "never sent"

    client = serve(app).connect()
    connection = the_connection(sockets)
    client.send("wait")
    wait_until(lambda: gate.waiting, "the handler waits")
    connection.close(4000, "bye")
    assert client.recv_close() == (4000, "bye")
    gate.open()
    assert client.sock.recv(1) == b""
    wait_until(lambda: closes, "on_close")
    assert closes == [(4000, "bye")]


# What leaves in one send


def test_the_replies_to_one_read_leave_in_one_send(app, sockets, serve):
    arrived = []

    @sockets.on_message
    def echo(message):
        arrived.append(has_bytes(sock))
        return message

    sock = open_raw(serve(app))
    the_connection(sockets)
    messages = [f"message {number}" for number in range(20)]
    sock.sendall(texts(*messages))
    assert sock.recv(65536) == replies(*messages)
    # While the handlers ran nothing had left.
    assert arrived == [False] * 20
    sock.close()


def test_a_reply_does_not_wait_for_a_later_handler(app, sockets, serve, gate):
    @sockets.on_message
    def handler(message):
        if message == "wait":
            gate.wait()
        return message

    with open_raw(serve(app)) as sock:
        sock.sendall(texts("one", "two", "wait", "three"))
        expected = replies("one", "two")
        assert receive_exactly(sock, len(expected)) == expected
        assert gate.waiting
        assert not has_bytes(sock)
        gate.open()
        expected = replies("wait", "three")
        assert receive_exactly(sock, len(expected)) == expected


def test_a_reply_does_not_wait_for_a_handler_of_another(app, sockets, serve, gate):
    @sockets.on_message
    def handler(message):
        if message == "wait":
            gate.wait()
        return message

    server = serve(app)
    waiting = [server.connect() for _ in range(5)]
    client = server.connect()
    for other in waiting:
        other.send("wait")
    assert ask(client, "x") == "x"
    gate.open()
    assert [other.recv() for other in waiting] == ["wait"] * 5


def test_broadcasts_of_one_turn_leave_in_one_send(app, sockets, serve):
    arrived = []

    @sockets.on_message
    def shout(message):
        for number in range(10):
            sockets.broadcast(f"{message} {number}", skip=ws)
            arrived.append(has_bytes(sock))
        return "shouted"

    server = serve(app)
    sock = open_raw(server)
    the_connection(sockets)
    client = server.connect()
    assert ask(client, "news") == "shouted"
    expected = replies(*(f"news {number}" for number in range(10)))
    assert sock.recv(65536) == expected
    assert arrived == [False] * 10
    sock.close()


def test_replies_broadcasts_and_sends_come_in_order(app, sockets, serve):
    @sockets.on_message
    def handler(message):
        sockets.broadcast(f"{message} 1")
        ws.send(f"{message} 2")
        sockets.broadcast(f"{message} 3")
        sockets.broadcast(f"{message} 4")
        gevent.spawn(ws.send, f"{message} 5").join()
        ws.send(f"{message} 6")
        sockets.broadcast(f"{message} 7")
        return f"{message} 8"

    expected = replies(*(f"{name} {number}" for name in "abc" for number in range(1, 9)))
    with open_raw(serve(app)) as sock:
        sock.sendall(texts("a", "b", "c"))
        assert receive_exactly(sock, len(expected)) == expected


def test_the_reply_comes_after_its_handlers_broadcast(app, sockets, serve):
    @sockets.on_message
    def shout(message):
        sockets.broadcast(message)
        return "shouted"

    server = serve(app)
    client, other = server.connect(), server.connect()
    wait_until(lambda: len(sockets.clients) == 2, "two connections")
    for number in range(10):
        client.send(str(number))
        assert [client.recv(), client.recv()] == [str(number), "shouted"]
        assert other.recv() == str(number)


def test_many_broadcasts_of_one_turn_reach_who_reads(app, sockets, serve, closes):
    @sockets.on_message
    def shout(message):
        for number in range(10):
            sockets.broadcast(f"{number}".ljust(50_000))

    client = serve(app).connect()
    client.send("go")
    assert [client.recv().strip() for _ in range(10)] == [str(number) for number in range(10)]
    assert closes == []


def test_a_stream_leaves_item_by_item(app, sockets, serve, gate):
    @sockets.on_message
    def stream():
        yield "first"
        gate.wait()
        yield "second"

    client = serve(app).connect()
    assert ask(client, "go") == "first"
    gate.open()
    assert client.recv() == "second"


@pytest.mark.parametrize("takeover", [True, False])
def test_a_broadcast_is_compressed_once_for_all_without_takeover(app, serve, monkeypatch, takeover):
    sockets = configure(app, compression={"context_takeover": takeover})
    server = serve(app)
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate"}
    clients = [server.connect(header=offer) for _ in range(5)]
    wait_until(lambda: len(sockets.clients) == 5, "five connections")
    made = []
    compressobj = zlib.compressobj

    def count(*args, **options):
        made.append(args)
        return compressobj(*args, **options)

    monkeypatch.setattr(zlib, "compressobj", count)
    message = "x" * 1000
    sockets.broadcast(message)
    assert [inflated(client.sock) for client in clients] == [message] * 5
    # With takeover each connection has a state of its own.
    assert len(made) == (5 if takeover else 1)


def inflated(sock: socket.socket) -> str:
    """The text of the next frame, which is deflated."""
    head = receive_exactly(sock, 2)
    assert head[0] == 0xC1  # FIN, RSV1, text
    assert head[1] < 126
    data = receive_exactly(sock, head[1])
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff").decode()


# Early bytes


def test_messages_that_come_with_the_handshake(app, sockets, serve):
    @sockets.on_open
    def opened():
        return "open"

    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    with open_raw(server, texts("a", "b")) as sock:
        expected = replies("open", "a", "b")
        assert receive_exactly(sock, len(expected)) == expected
        sock.sendall(texts("c"))
        assert receive_exactly(sock, 3) == replies("c")


def test_a_part_of_a_message_that_comes_with_the_handshake(app, sockets, serve):
    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    data = texts("hello")
    for cut in range(1, len(data)):
        with open_raw(server, data[:cut]) as sock:
            sock.sendall(data[cut:])
            assert receive_exactly(sock, 7) == replies("hello")


@pytest.mark.parametrize("waits", [False, True])
def test_a_close_that_comes_with_the_handshake(app, sockets, serve, closes, log, waits):
    @sockets.on_message
    def echo(message):
        if waits:
            gevent.sleep(0.01)
        return message

    with open_raw(serve(app), texts("a", "b") + frame(CLOSE, b"\x0f\xa0bye")) as sock:
        expected = replies("a", "b") + b"\x88\x02\x0f\xa0"
        assert receive_exactly(sock, len(expected)) == expected
        assert sock.recv(1) == b""
    wait_until(lambda: closes, "on_close")
    assert closes == [(4000, "bye")]
    assert len(sockets.clients) == 0
    assert log == []


def test_a_client_that_leaves_right_after_its_handshake(app, sockets, serve, closes, log):
    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    for number in range(20):
        sock = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        sock.sendall(HANDSHAKE + texts("a") * (number % 3))
        if number % 2:
            reset(sock)
        sock.close()
    with open_raw(server, texts("still here")) as sock:
        assert receive_exactly(sock, 12) == replies("still here")
    wait_until(lambda: len(sockets.clients) == 0, "all are gone")
    assert {code for code, _ in closes} == {1006}
    assert log == []


# Connections that are lost


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("when", ["idle", "waiting", "replying", "sending", "receiving"])
def test_a_connection_that_is_lost(app, sockets, serve, gate, closes, log, when, how):
    @sockets.on_message("wait")
    def wait():
        gate.wait()
        return "nobody reads this"

    @sockets.on_message("replies")
    def many():
        for _ in range(10_000):
            yield "x" * 10_000

    @sockets.on_message("send")
    def send():
        gate.waiting += 1
        ws.send(b"x" * (64 << 20))

    @sockets.on_message("receive")
    def receive():
        gate.waiting += 1
        ws.receive()

    @sockets.on_message("echo")
    def echo(message):
        return message

    server = serve(app)
    other = server.connect()
    sock = open_raw(server)
    wait_until(lambda: len(sockets.clients) == 2, "two connections")
    if when == "replying":
        sock.sendall(texts("replies"))
        assert sock.recv(1)
    elif when != "idle":
        sock.sendall(texts({"waiting": "wait", "sending": "send", "receiving": "receive"}[when]))
        wait_until(lambda: gate.waiting, "the handler waits")
    if how == "reset":
        reset(sock)
    else:
        sock.close()
    assert ask(other, "echo") == "echo"
    gate.open()
    wait_until(lambda: len(sockets.clients) == 1, "it is gone")
    wait_until(lambda: closes, "on_close")
    assert ask(other, "echo") == "echo"
    assert closes == [(1006, "")]
    assert log == []


def test_many_are_lost_at_once(app, sockets, serve, closes, log):
    server = serve(app)
    lost = [open_raw(server) for _ in range(50)]
    stay = [server.connect() for _ in range(5)]
    wait_until(lambda: len(sockets.clients) == 55, "the connections")
    for sock in lost:
        reset(sock)
    sockets.broadcast("news")
    assert [client.recv() for client in stay] == ["news"] * 5
    wait_until(lambda: len(closes) == 50, "on_close of each")
    wait_until(lambda: len(sockets.clients) == 5, "those that are lost are gone")
    assert closes == [(1006, "")] * 50
    assert log == []


# Handlers that fail


def test_exceptions_leave_the_others_alone(app, sockets, serve, closes, log):
    @sockets.on_message
    def handler(message):
        if message == "fail":
            raise ZeroDivisionError
        return message

    server = serve(app)
    other = server.connect()
    for count in range(30):
        client = server.connect()
        client.send("fail")
        assert client.recv_close() == (1011, "")
        client.shutdown()
        wait_until(lambda: len(closes) > count, "on_close")  # noqa: B023
        assert ask(other, str(count)) == str(count)
    assert closes == [(1011, "")] * 30
    assert len(log) == 30


def test_exceptions_in_handlers_that_have_waited(app, sockets, serve, gate, closes, log):
    @sockets.on_message
    def handler(message):
        if message == "fail":
            gate.wait()
            raise ZeroDivisionError
        return message

    server = serve(app)
    other = server.connect()
    clients = [server.connect() for _ in range(30)]
    for client in clients:
        client.send("fail")
    wait_until(lambda: gate.waiting == 30, "all wait")
    gate.open()
    assert [client.recv_close() for client in clients] == [(1011, "")] * 30
    for client in clients:
        client.shutdown()
    wait_until(lambda: len(closes) == 30, "on_close of each")
    assert ask(other, "still here") == "still here"
    assert len(log) == 30


def test_an_exception_in_on_close_leaves_the_others_alone(app, sockets, log, serve):
    @sockets.on_message
    def echo(message):
        return message

    @sockets.on_close
    def closed():
        raise ZeroDivisionError

    server = serve(app)
    other = server.connect()
    for count in range(5):
        reset(open_raw(server))
        wait_until(lambda: len(log) > count, "the exception is logged")  # noqa: B023
        assert ask(other, str(count)) == str(count)
    wait_until(lambda: len(sockets.clients) == 1, "the others are gone")


@pytest.mark.parametrize("waits", [False, True])
def test_a_handler_that_ends_its_greenlet(app, sockets, serve, closes, log, waits):
    @sockets.on_message("exit")
    def leave():
        if waits:
            gevent.sleep(0.01)
        raise gevent.GreenletExit

    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    other = server.connect()
    for count in range(5):
        client = server.connect()
        client.send("exit")
        assert client.recv_close() == (1001, "")
        client.shutdown()
        wait_until(lambda: len(closes) > count, "on_close")  # noqa: B023
        other.send(str(count))
        assert other.recv() == str(count)
    assert closes == [(1001, "")] * 5
    assert log == []


def test_those_behind_a_handler_that_ends_its_greenlet(app, sockets, serve, closes):
    # All are ready in one turn of the hub's: who comes next is served all the same.
    @sockets.on_message("exit")
    def leave():
        raise gevent.GreenletExit

    @sockets.on_message("hold")
    def hold():
        deadline = time.monotonic() + TIMEOUT
        held.set()
        while not sent.is_set() and time.monotonic() < deadline:
            pass  # the hub runs nothing else

    @sockets.on_message("ask")
    def asked(message):
        return message

    held, sent = threading.Event(), threading.Event()
    server = serve(app)
    holder = server.connect()
    clients = [server.connect() for _ in range(20)]
    wait_until(lambda: len(sockets.clients) == 21, "the connections")
    holder.send("hold")
    assert held.wait(TIMEOUT)
    for client in clients[::2]:
        client.send("exit")
    for client in clients[1::2]:
        client.send("ask")
    sent.set()
    assert [client.recv() for client in clients[1::2]] == ["ask"] * 10
    assert [client.recv_close() for client in clients[::2]] == [(1001, "")] * 10
    for client in clients[::2]:
        client.shutdown()
    wait_until(lambda: len(closes) == 10, "on_close of each")


def test_a_timeout_that_a_handler_left_behind(app, sockets, serve, capfd):
    # It is raised in the greenlet that ran the handler, which waits for others meanwhile.
    @sockets.on_message("leave it")
    def leave():
        gevent.Timeout.start_new(0.01)

    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    other, client = server.connect(), server.connect()
    printed: list[str] = []

    def is_raised():
        printed.append(capfd.readouterr().err)
        return "".join(printed).count("Timeout: 0.01") == len(raised)

    raised: list[int] = []
    for count in range(3):
        raised.append(count)
        assert ask(client, "leave it") == "leave it"
        wait_until(is_raised, "the timeout is raised")
        assert ask(other, str(count)) == str(count)
        assert ask(client, str(count)) == str(count)


def test_a_closing_handshake_that_is_interrupted(app, sockets, serve, closes, capfd):
    waiting = []

    @sockets.on_message
    def close():
        waiting.append((gevent.getcurrent(), gevent.get_hub().loop))
        ws.join("room")
        ws.close(4000, "bye")

    kept = connections()
    with open_raw(serve(app), texts("close")) as sock:
        assert receive_exactly(sock, 7) == b"\x88\x05\x0f\xa0bye"
        greenlet, loop = waiting.pop()
        # It waits for the peer's Close, as the loop runs.
        loop.run_callback_threadsafe(greenlet.throw, gevent.Timeout(7))
        del greenlet
        wait_until(lambda: not sockets.clients, "it is gone")
        wait_until(lambda: closes, "on_close")
        assert closes == [(4000, "bye")]
    wait_until(lambda: connections() <= kept, "no connection is left")
    printed = ""

    def is_told() -> bool:
        nonlocal printed
        printed += capfd.readouterr().err
        return "failed with Timeout" in printed

    wait_until(is_told, "gevent prints what has ended its greenlet")


# Keepalive


def test_idle_connections_are_asked_for_a_sign_of_life(app, serve, log):
    sockets = configure(app, ping_interval=0.1, ping_timeout=2)
    closes = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    server = serve(app)
    silent = [open_raw(server) for _ in range(10)]
    answering = [server.connect() for _ in range(10)]
    wait_until(lambda: len(sockets.clients) == 20, "the connections")
    pings = dict.fromkeys(answering, 0)

    def answer() -> int:
        for client in answering:
            if has_bytes(client.sock):
                # recv_data answers it.
                opcode, payload = client.recv_data(control_frame=True)
                assert (opcode, len(payload)) == (ABNF.OPCODE_PING, 4)
                pings[client] += 1
        return len(closes)

    wait_until(lambda: answer() == 10, "the others are given up")
    assert closes == [(1006, "no answer to a ping")] * 10
    assert len(sockets.clients) == 10
    for sock in silent:
        assert receive_exactly(sock, 6)[:2] == b"\x89\x04"
        assert sock.recv(100) == b""  # it was asked once
        sock.close()
    wait_until(lambda: answer() and min(pings.values()) > 2, "they are asked again and again")
    assert log == []


def test_any_message_is_a_sign_of_life(app, serve):
    sockets = configure(app, ping_interval=0.3, ping_timeout=0.3)

    @sockets.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        # It never answers a ping: each message comes in time, or behind one.
        client.send("x")
        opcode, payload = client.recv_data_frame(control_frame=False)
        assert (opcode, payload.data) == (ABNF.OPCODE_TEXT, b"x")
        time.sleep(0.01)


def test_a_handler_that_waits_longer_than_pings_go_unanswered(app, serve, gate):
    sockets = configure(app, ping_interval=0.05, ping_timeout=0.05)
    closes = []

    @sockets.on_close
    def closed(code, reason):
        closes.append((code, reason))

    @sockets.on_message("wait")
    def wait():
        gate.wait()
        return "done"

    server = serve(app)
    client = server.connect()
    waiting = the_connection(sockets)
    client.send("wait")
    wait_until(lambda: gate.waiting, "the handler waits")
    silent = open_raw(server)
    wait_until(lambda: closes, "another is given up meanwhile")
    silent.close()
    assert waiting.connected
    gate.open()
    while (received := client.recv_data(control_frame=True))[0] == ABNF.OPCODE_PING:
        pass
    assert received == (ABNF.OPCODE_TEXT, b"done")


def test_no_pings_where_none_are_wanted(app, serve):
    sockets = configure(app, ping_interval=None)

    @sockets.on_message
    def echo(message):
        return message

    server = serve(app)
    client = server.connect()
    assert ask(client, "x") == "x"
    assert sockets.clients
    assert not has_bytes(client.sock)


# Programs


def test_handlers_share_the_only_database_connection(app, sockets, serve, tmp_path):
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'test.db'}"
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "poolclass": QueuePool,
        "pool_size": 1,
        "max_overflow": 0,
        "pool_timeout": 1,
        "connect_args": {"check_same_thread": False},
    }
    db = SQLAlchemy(app)

    @sockets.on_message
    def double(message):
        return str(db.session.execute(sql("SELECT 2 * :n"), {"n": int(message)}).scalar())

    server = serve(app)
    clients = [server.connect() for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(str(number))
        client.send(str(number + 100))
    assert [client.recv() for client in clients] == [str(2 * number) for number in range(20)]
    assert [client.recv() for client in clients] == [str(200 + 2 * n) for n in range(20)]
    with app.app_context():
        wait_until(lambda: db.engine.pool.checkedout() == 0, "the connection is back")
        db.engine.dispose()


_PATCHED = """
from gevent import monkey
monkey.patch_all()
import sys, threading, time
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from gevent import pywsgi
from sqlalchemy import text
from sqlalchemy.pool import QueuePool
from websocket import create_connection
from flask_websockets import WebSockets, ws

app = Flask("tests")
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///" + sys.argv[1]
app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
    "poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": 20,
    "connect_args": {"check_same_thread": False},
}
db = SQLAlchemy(app)
sockets = WebSockets(app)
arrived = []

@sockets.on_message("meet")
def meet():
    # Each waits for all: one that blocks the process would wait for ever.
    arrived.append(ws.id)
    while len(arrived) < 40:
        time.sleep(0.001)
    return "met"

@sockets.on_message("query")
def query():
    # Who has the only connection lets the others run, and they wait for it.
    db.session.execute(text("SELECT 1"))
    time.sleep(0.001)
    return str(db.session.execute(text("SELECT 2")).scalar())

@sockets.on_message("thread")
def thread():
    worker = threading.Thread(target=sockets.broadcast, args=["from a thread"])
    worker.start()
    worker.join()

server = pywsgi.WSGIServer(("127.0.0.1", 0), app, log=None)
server.start()
clients = [create_connection(f"ws://127.0.0.1:{server.server_port}/", timeout=20)
           for _ in range(40)]
for message, reply in ("meet", "met"), ("query", "2"):
    for client in clients:
        client.send(message)
    assert [client.recv() for client in clients] == [reply] * 40, message
clients[0].send("thread")
assert [client.recv() for client in clients] == ["from a thread"] * 40
with app.app_context():
    assert db.engine.pool.checkedout() == 0
    db.engine.dispose()
for client in clients:
    client.shutdown()
print("done")
"""


def test_a_monkey_patched_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PATCHED), str(tmp_path / "test.db")],
        # The package that is tested, not another that is installed.
        env={**os.environ, "PYTHONPATH": str(Path(flask_websockets.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]
    assert done.stderr == ""


def test_a_burst_of_broadcasts_over_the_buffer_reaches_who_reads(app, sockets, serve, closes):
    # What is held within one turn has not been offered to the kernel: nobody is slow yet.
    @sockets.on_message
    def shout(message):
        for number in range(40):
            sockets.broadcast(f"{number}".ljust(50_000))

    client = serve(app).connect()
    client.send("go")
    assert [client.recv().strip() for _ in range(40)] == [str(number) for number in range(40)]
    assert closes == []
