"""``WEBSOCKETS_RATE_LIMIT``: the bucket by itself, and connections on both drivers."""

from __future__ import annotations

import time

import gevent
import pytest
from support import GeventServer
from support import wait_until
from websocket import ABNF

from flask_websockets import ConnectionClosed
from flask_websockets import WebSockets
from flask_websockets import ws
from flask_websockets.rate import Bucket


@pytest.fixture
def bucket() -> Bucket:
    """Four a second and eight at once; nobody has listened yet."""
    return Bucket(4, 8, now=100.0)


def test_a_burst_and_no_more(bucket: Bucket) -> None:
    bucket.listen(100.0)
    assert bucket.take(3, 100.0) == 3
    assert bucket.take(6, 100.0) == 5
    assert bucket.take(1, 100.0) == 0


def test_who_listens_gives_the_rate(bucket: Bucket) -> None:
    bucket.listen(100.0)
    assert bucket.take(8, 100.0) == 8
    bucket.listen(100.0)
    assert bucket.take(4, 100.5) == 2
    bucket.listen(100.5)
    assert bucket.take(4, 101.5) == 4


def test_silence_saves_up_no_more_than_a_burst(bucket: Bucket) -> None:
    bucket.listen(100.0)
    assert bucket.take(20, 200.0) == 8


def test_what_was_sent_while_nobody_read_is_counted_by_that_time(bucket: Bucket) -> None:
    bucket.listen(100.0)
    assert bucket.take(8, 100.0) == 8
    # A handler has worked for ten seconds; forty messages wait, in two reads.
    bucket.listen(110.0)
    assert bucket.take(20, 110.0) == 20
    bucket.listen(110.0)
    assert bucket.take(30, 110.0) == 20


def test_the_time_that_nobody_read_is_no_burst_for_later(bucket: Bucket) -> None:
    bucket.listen(100.0)
    assert bucket.take(8, 100.0) == 8
    bucket.listen(110.0)
    assert bucket.take(40, 111.0) == 8


def test_what_is_over_the_burst_is_lost_when_all_is_read(bucket: Bucket) -> None:
    bucket.listen(110.0)
    bucket.settle(110.0)
    assert bucket.take(40, 110.0) == 8
    bucket.settle(110.25)
    assert bucket.take(40, 110.25) == 1


def test_tokens_come_in_whole(bucket: Bucket) -> None:
    bucket.listen(100.0)
    assert bucket.take(8, 100.0) == 8
    bucket.listen(100.0)
    assert bucket.take(1, 100.125) == 0
    assert bucket.take(1, 100.25) == 1


def test_a_clock_that_goes_back_gives_nothing(bucket: Bucket) -> None:
    bucket.listen(99.0)
    assert bucket.take(20, 98.0) == 8
    bucket.settle(97.0)
    assert bucket.take(1, 99.0) == 0


# Connections

TOO_MANY = (1008, "too many messages")


@pytest.fixture
def limited(app) -> WebSockets:
    """Five at once, and the next one much later than any test takes."""
    app.config["WEBSOCKETS_RATE_LIMIT"] = [0.001, 5]
    return WebSockets(app)


@pytest.fixture
def seen(limited: WebSockets) -> list[object]:
    """The messages that a handler heard, and what ``on_close`` was given."""
    seen: list[object] = []
    limited.on_message(lambda message: seen.append(message))
    limited.on_close(lambda code, reason: seen.append((code, reason)))
    return seen


@pytest.mark.parametrize("at_once", [True, False], ids=["in one read", "one by one"])
def test_those_within_the_limit_are_handled_and_then_it_ends(app, seen, serve, at_once):
    client = serve(app).connect()
    frames = [ABNF.create_frame(str(n), ABNF.OPCODE_TEXT).format() for n in range(9)]
    if at_once:
        client.sock.sendall(b"".join(frames))
    else:
        for number, frame in enumerate(frames[:6]):
            client.sock.sendall(frame)
            wait_until(lambda: len(seen) > number, "it is handled")  # noqa: B023
    assert client.recv_close() == TOO_MANY
    wait_until(lambda: TOO_MANY in seen, "on_close")
    assert seen == ["0", "1", "2", "3", "4", TOO_MANY]


def test_replies_to_those_within_the_limit_arrive(app, limited, serve):
    @limited.on_message
    def echo(message):
        return message

    client = serve(app).connect()
    frame = ABNF.create_frame("x", ABNF.OPCODE_TEXT).format()
    client.sock.sendall(frame * 100)
    assert [client.recv() for _ in range(5)] == ["x"] * 5
    assert client.recv_close() == TOO_MANY


def test_pings_count_as_well(app, seen, serve):
    client = serve(app).connect()
    ping = ABNF.create_frame("p", ABNF.OPCODE_PING).format()
    text = ABNF.create_frame("t", ABNF.OPCODE_TEXT).format()
    client.sock.sendall(text + ping * 2 + text + ping * 50 + text)
    for _ in range(3):
        assert client.recv_data(control_frame=True) == (ABNF.OPCODE_PONG, b"p")
    assert client.recv_close() == TOO_MANY
    wait_until(lambda: TOO_MANY in seen, "on_close")
    assert seen == ["t", "t", TOO_MANY]


def test_pongs_and_fragments_do_not_count(app, seen, serve):
    client = serve(app).connect()
    pong = ABNF.create_frame("", ABNF.OPCODE_PONG).format()
    client.sock.sendall(pong * 100 + b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 100)
    client.sock.sendall(b"\x80\x81\0\0\0\0x")
    wait_until(lambda: seen == ["x"], "the message")
    client.send_close(1000)
    assert client.recv_close() == (1000, "")


def test_a_loop_is_told(app, limited, serve):
    seen = []

    @limited.route("/loop")
    def loop(ws):
        try:
            while True:
                seen.append(ws.receive(timeout=10))
        except ConnectionClosed as error:
            seen.append((error.code, error.reason))

    client = serve(app).connect("/loop")
    client.sock.sendall(ABNF.create_frame("x", ABNF.OPCODE_TEXT).format() * 9)
    assert client.recv_close() == TOO_MANY
    wait_until(lambda: TOO_MANY in seen, "the loop ends")
    assert seen == ["x"] * 5 + [TOO_MANY]


def test_receive_in_a_handler(app, limited, serve):
    seen = []

    @limited.on_message
    def gather(message):
        seen.append(message)
        seen.extend(ws)
        seen.append((ws.close_code, ws.close_reason))

    client = serve(app).connect()
    client.sock.sendall(ABNF.create_frame("x", ABNF.OPCODE_TEXT).format() * 9)
    assert client.recv_close() == TOO_MANY
    wait_until(lambda: TOO_MANY in seen, "the handler ends")
    assert seen == ["x"] * 5 + [TOO_MANY]


def test_who_keeps_to_the_rate_stays_however_slow_the_handler_is(app, serve):
    app.config["WEBSOCKETS_RATE_LIMIT"] = [40, 2]
    sockets = WebSockets(app)
    heard = []
    server = serve(app)
    pause = gevent.sleep if isinstance(server, GeventServer) else time.sleep

    @sockets.on_message
    def work(message):
        heard.append(message)
        if len(heard) == 1:
            pause(0.6)
            # All that follows was sent meanwhile, slower than the rate.
            assert len(sent) >= 10

    sent = []
    client = server.connect()
    for number in range(12):
        client.send(str(number))
        sent.append(number)
        time.sleep(0.04)
    wait_until(lambda: len(heard) == 12, "all are handled")
    client.send_close(1000)
    assert client.recv_close() == (1000, "")
