"""Peers that read slowly or not at all, on both drivers: what piles up, and who waits."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import gevent
import pytest
from support import configure
from support import GeventServer
from support import the_connection
from support import TIMEOUT
from support import wait_until
from websocket import ABNF

from flask_websockets import ConnectionClosed
from flask_websockets import ws

SLOW = {"sockopt": [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]}
MIB = 1 << 20


def fill(sockets, more=0) -> None:
    """Broadcast to all but the current connection until one is dropped, and then *more*.

    For a handler: what it broadcasts is delivered when that returns.
    """
    (stuck,) = (one for one in sockets.clients if one.id != ws.id)
    stuck.join("stuck")
    for _ in range(200):
        sockets.broadcast(bytes(MIB), to="stuck")
        if stuck.dropped:
            break
    assert stuck.dropped == 1
    for _ in range(more):
        sockets.broadcast(bytes(1000), to="stuck")


def test_broadcasts_that_are_dropped_are_counted(app, serve):
    sockets = configure(app, slow_client="drop", send_buffer=1000)

    @sockets.on_message
    def handler(message):
        fill(sockets, 5)
        return "done"

    server = serve(app)
    server.connect(**SLOW)
    connection = the_connection(sockets)
    assert connection.dropped == 0
    client = server.connect()
    client.send("fill")
    assert client.recv() == "done"
    assert connection.dropped == 6


def test_nothing_is_dropped_in_the_handshake_or_of_who_reads(app, sockets, serve):
    seen = []

    @sockets.before_open
    def before():
        seen.append(ws.dropped)

    @sockets.on_message
    def answer(message):
        return str(ws.dropped)

    client = serve(app).connect()
    the_connection(sockets)
    for _ in range(20):
        sockets.broadcast("x")
    client.send("?")
    assert [client.recv() for _ in range(21)] == ["x"] * 20 + ["0"]
    assert seen == [0]


def test_senders_that_give_up_leave_nothing_behind(app):
    # Each time that one is made to give up, its message was once left in the buffer.
    sockets = configure(app, slow_client="drop", send_buffer=1000)

    @sockets.on_message
    def send(message):
        fill(sockets)
        (stuck,) = (one for one in sockets.clients if one.id != ws.id)
        for _ in range(10):
            with gevent.Timeout(0.01, False):
                stuck.send(b"x" * MIB)
        return "done"

    server = GeventServer(app)  # a thread cannot be made to give up
    try:
        stuck = server.connect(**SLOW)
        connection = the_connection(sockets)
        client = server.connect()
        client.send("go")
        assert client.recv() == "done"
        closer = threading.Thread(target=connection.close, args=(4000,))
        closer.start()
        messages = []
        while (received := stuck.recv_data())[0] != ABNF.OPCODE_CLOSE:
            messages.append(received[1][:1])
        closer.join(TIMEOUT)
    finally:
        server.close_clients()
        server.stop()
    # The one for which there was room again, perhaps.
    assert messages.count(b"x") <= 1


def test_senders_of_other_threads_wait_and_are_told(app, serve):
    sockets = configure(app, send_buffer=1000, ping_interval=0.5, ping_timeout=0.5)
    errors = []

    serve(app).connect(**SLOW)
    connection = the_connection(sockets)

    def send():
        try:
            while True:
                connection.send(bytes(65536))
        except ConnectionClosed as error:
            errors.append(error.code)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert errors == [1006] * 4


@pytest.mark.parametrize("who", ["ours", "theirs"])
def test_a_closing_handshake_ends_in_time_although_the_peer_reads_a_bit_now_and_then(
    app, serve, who
):
    sockets = configure(app, close_timeout=0.5, send_buffer=64 * MIB)
    closes = []

    @sockets.on_close
    def closed(code):
        closes.append(time.monotonic())

    client = serve(app).connect(sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)])
    connection = the_connection(sockets)
    for _ in range(60):
        sockets.broadcast(bytes(MIB))
    stop = threading.Event()

    def trickle():
        # Each time some bytes are taken, for much longer than the handshake may last.
        deadline = time.monotonic() + TIMEOUT
        with contextlib.suppress(OSError):
            while not stop.is_set() and time.monotonic() < deadline and client.sock.recv(65536):
                time.sleep(0.01)

    started = time.monotonic()
    if who == "theirs":
        client.send_close(1000)
    reader = threading.Thread(target=trickle)
    reader.start()
    if who == "ours":
        connection.close(4000)
    wait_until(lambda: closes, "on_close")
    stop.set()
    reader.join()
    assert closes[0] - started < TIMEOUT / 2
