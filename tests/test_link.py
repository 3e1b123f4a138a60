"""A connection whose peer never stops sending: whoever reads comes to an end, or gives way."""

from __future__ import annotations

import contextlib
import socket
import time
import typing as t

import pytest

from flask_websockets import ConnectionClosed
from flask_websockets.config import Config
from flask_websockets.drivers.threads import ThreadTransport
from flask_websockets.link import Link
from flask_websockets.protocol import Protocol

MESSAGES = b"\x81\x80\0\0\0\0" * 10
PINGS = b"\x89\x80\0\0\0\0" * 10
PONGS = b"\x8a\x80\0\0\0\0" * 10
FRAGMENTS = b"\x00\x80\0\0\0\0" * 10
BEGINNING = b"\x01\x80\0\0\0\0"


class Endless(ThreadTransport):
    """Has always something to read, for some thousands of times."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.data = MESSAGES
        self.reads = 0
        self.gave_way = 0

    def read(self, timeout: float | None) -> bytes | None:
        self.reads += 1
        assert self.reads < 1_000_000, "it never ends"
        return self.data

    def give_way(self) -> None:
        self.gave_way += 1


@pytest.fixture
def transport() -> t.Iterator[Endless]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Endless(ours)


@pytest.fixture
def link(transport: Endless) -> Link:
    return Link(Config(close_timeout=0.1), transport, Protocol(1 << 20), lambda: None)


@pytest.mark.parametrize("data", [MESSAGES, PINGS, PONGS], ids=["messages", "pings", "pongs"])
def test_our_close_ends_in_its_time(link: Link, transport: Endless, data: bytes):
    transport.data = data
    started = time.monotonic()
    link.close(4000, "bye")
    link.finish()
    link.hang_up()
    assert 0.1 <= time.monotonic() - started < 5
    assert link.code == 4000
    # Others are served all the while.
    assert transport.gave_way >= transport.reads - 2


def test_the_close_of_the_peer_ends_in_its_time(link: Link, transport: Endless):
    transport.data = b"\x88\x82\0\0\0\0\x0f\xa0" + MESSAGES
    started = time.monotonic()
    with pytest.raises(ConnectionClosed):
        link.receive(None)
    link.finish()
    link.hang_up()
    assert 0.1 <= time.monotonic() - started < 5
    assert link.code == 4000
    assert transport.gave_way >= transport.reads - 3


@pytest.mark.parametrize("data", [PINGS, PONGS, FRAGMENTS], ids=["pings", "pongs", "fragments"])
def test_a_look_at_a_flood_comes_to_an_end(link: Link, transport: Endless, data: bytes):
    transport.data = BEGINNING
    assert link.receive(0) is None
    transport.data = data
    reads = transport.reads
    time.sleep(0.06)  # a look is taken no more often than that
    link.look()
    assert transport.reads == reads + 1
    link.require_open()


def test_a_loop_that_never_waits_gives_way(link: Link, transport: Endless):
    for _ in range(320):
        assert link.receive(None) == ""
    assert transport.gave_way >= 10


def test_waiting_for_a_message_that_never_ends_gives_way(link: Link, transport: Endless):
    transport.data = BEGINNING
    assert link.receive(0) is None
    transport.data = FRAGMENTS
    assert link.receive(0.05) is None
    assert transport.gave_way >= transport.reads - 2


def test_whoever_cannot_send_reads_no_flood_to_its_end(link: Link, transport: Endless):
    transport.shut_down()
    with contextlib.suppress(ConnectionClosed):
        while True:
            link.send("x")
    assert transport.reads <= 32
    assert link.code == 1006
