"""The client's side, against the slow client and against the server's side."""

from __future__ import annotations

import random
import typing as t

import pytest
from clients import BINARY
from clients import client_frame
from clients import CLOSE
from clients import CONTINUATION
from clients import MASK
from clients import PING
from clients import PONG
from clients import random_cuts
from clients import random_text
from clients import server_frame
from clients import TEXT

from flask_websockets.protocol import Close
from flask_websockets.protocol import Event
from flask_websockets.protocol import Ping
from flask_websockets.protocol import Pong
from flask_websockets.protocol import Protocol
from flask_websockets.protocol.client import agree
from flask_websockets.protocol.client import ClientProtocol
from flask_websockets.protocol.client import FRAME_SIZE
from flask_websockets.protocol.client import OFFER
from flask_websockets.protocol.deflate import negotiate
from flask_websockets.protocol.deflate import Options
from flask_websockets.protocol.deflate import PerMessageDeflate
from flask_websockets.protocol.handshake import parse_extensions

SIZES = [0, 1, 124, 125, 126, 127, 65534, 65535, 65536, 65537, FRAME_SIZE]


def typed(events: t.Iterable[Event]) -> list[tuple[type, Event]]:
    """With its type each: a Ping and a Pong of one payload are equal, as tuples are."""
    return [(type(event), event) for event in events]


@pytest.fixture
def mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mask with the RFC's example, where each frame has a mask of its own."""
    monkeypatch.setattr("os.urandom", lambda size: MASK)


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize("size", SIZES)
def test_messages_are_single_masked_frames(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    assert ClientProtocol().encode_message(payload) == client_frame(BINARY, payload)
    assert ClientProtocol().encode_message("x" * size) == client_frame(TEXT, b"x" * size)


@pytest.mark.usefixtures("mask")
def test_large_messages_are_cut() -> None:
    payload = random.Random(1).randbytes(2 * FRAME_SIZE + 1)
    assert ClientProtocol().encode_message(payload) == (
        client_frame(BINARY, payload[:FRAME_SIZE], fin=False)
        + client_frame(CONTINUATION, payload[FRAME_SIZE:-1], fin=False)
        + client_frame(CONTINUATION, payload[-1:])
    )


@pytest.mark.usefixtures("mask")
def test_control_frames() -> None:
    client = ClientProtocol()
    assert client.encode_ping(b"a") == client_frame(PING, b"a")
    assert client.encode_pong(b"b") == client_frame(PONG, b"b")
    assert client.encode_close(4000, "é") == client_frame(CLOSE, b"\x0f\xa0\xc3\xa9")
    assert client.encode_close(1005) == client_frame(CLOSE)


def test_masks_differ() -> None:
    client = ClientProtocol()
    assert len({client.encode_message("")[2:] for _ in range(100)}) == 100


def test_what_the_server_sends() -> None:
    data = b"".join(
        [
            server_frame(TEXT, "é".encode()),
            server_frame(BINARY, b"\x00" * 126),
            server_frame(PING, b"p"),
            b"\x01\x01a",  # fragments, with a Pong between
            server_frame(PONG, b"q"),
            b"\x80\x01b",
            server_frame(BINARY, b"\x01" * 65536),
            server_frame(TEXT),
            server_frame(CLOSE, b"\x03\xe8bye"),
        ]
    )
    events = ["é", b"\x00" * 126, Ping(b"p"), Pong(b"q"), "ab", b"\x01" * 65536, ""]
    expected = typed([*events, Close(1000, "bye")])
    assert typed(ClientProtocol().receive(data)) == expected
    for seed in range(20):
        client, found = ClientProtocol(), []
        for piece in random_cuts(random.Random(seed), data, 30):
            found += client.receive(piece)
        assert typed(found) == expected


@pytest.mark.parametrize("data", [b"\x81\x81aaaab", b"\xb1\x00"])
def test_what_is_no_frame_of_a_server(data: bytes) -> None:
    with pytest.raises(ValueError, match="the server sent no frame: b"):
        ClientProtocol().receive(data)


@pytest.mark.parametrize("options", [Options(), Options(window_bits=9), Options(9, 9, 15, False)])
def test_compressed_both_ways(options: Options) -> None:
    agreed = negotiate(parse_extensions(OFFER), options)
    assert agreed is not None
    server = Protocol(1 << 22, PerMessageDeflate(agreed[0], options))
    client = ClientProtocol(agree(agreed[1]))
    chance = random.Random(7)
    messages: list[t.Any] = ["", b"", "hello " * 100, random_text(chance, 1000)]
    messages += [chance.randbytes(300_000), b"\x00" * 1_000_000, "hello " * 100]
    for message in messages:
        assert server.receive(client.encode_message(message)) == [message]
        assert client.receive(server.encode_message(message)) == [message]
    assert len(client.encode_message("hello " * 100)) < 100


def test_no_agreement() -> None:
    assert agree("") is None
