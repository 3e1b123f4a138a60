"""Peers that read slowly or not at all, on both drivers: what piles up, and who waits."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import gevent
import pytest
from support import TIMEOUT
from support import wait_until

from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets
from flask_websockets import ws

SLOW = {"sockopt": [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]}
MIB = 1 << 20


def configure(app, **config) -> WebSockets:
    """A WebSockets object on *app*, with keys of the configuration without prefix."""
    app.config.update({f"WEBSOCKETS_{key.upper()}": value for key, value in config.items()})
    return WebSockets(app)


def the_connection(sockets):
    """The only connection, once it is open."""
    wait_until(lambda: len(sockets.clients) == 1, "the connection")
    (connection,) = sockets.clients
    return connection


def fill(sockets, connection) -> None:
    """Broadcast until the system takes no more, and one is dropped."""
    for _ in range(200):
        sockets.broadcast(bytes(MIB))
        connection._link._transport.call(int)  # it is delivered before this is
        if connection.dropped:
            return
    pytest.fail("the system takes 200 MiB")


def test_broadcasts_that_are_dropped_are_counted(app, serve):
    sockets = configure(app, slow_client="drop", send_buffer=1000)
    server = serve(app)
    server.connect(**SLOW)
    connection = the_connection(sockets)
    assert connection.dropped == 0
    fill(sockets, connection)
    assert connection.dropped == 1
    for _ in range(5):
        sockets.broadcast("x" * 1000)
    wait_until(lambda: connection.dropped == 6, "they are counted")


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


def test_senders_that_give_up_leave_nothing_behind(app, serve):
    # Each time that one is made to give up its message was once left in the buffer.
    sockets = configure(app, slow_client="drop", send_buffer=1000)
    server = serve(app)
    sent = []

    @sockets.on_message
    def send(message):
        (stuck,) = (one for one in sockets.clients if one.id != ws.id)
        for _ in range(10):
            with gevent.Timeout(0.01, False):
                stuck.send(bytes(MIB))
        sent.append(stuck._link._transport.unsent)
        return "done"

    stuck = server.connect(**SLOW)
    connection = the_connection(sockets)
    if not hasattr(connection._link._transport, "_hub"):
        pytest.skip("a thread cannot be made to give up")
    fill(sockets, connection)
    client = server.connect()
    client.send("go")
    assert client.recv() == "done"
    # The buffer and the one message for which there was room again.
    (unsent,) = sent
    assert unsent <= 1000 + MIB + 10
    stuck.shutdown()


def test_senders_of_other_threads_wait_and_are_told(app, serve):
    sockets = configure(app, send_buffer=1000, ping_interval=0.5, ping_timeout=0.5)
    errors = []

    @sockets.on_message
    def fill_up(message):
        while True:
            ws.send(bytes(65536))

    client = serve(app).connect(**SLOW)
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
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, connection._link._transport.unsent)
        time.sleep(0.01)
    assert errors == [1006] * 4
    # The buffer, and for each of them the message that it waits with.
    assert most <= 1000 + 4 * 65546
    client.shutdown()


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
