from __future__ import annotations

import typing as t

import pytest
from clients import client_frame
from clients import PING

from flask_websockets.protocol import Close
from flask_websockets.protocol import Event
from flask_websockets.protocol import Failure
from flask_websockets.protocol import Ping
from flask_websockets.protocol import Protocol
from flask_websockets.protocol.deflate import PerMessageDeflate

LIMIT = 1 << 20

Feed = t.Callable[[Protocol, bytes], list[Event]]
Receives = t.Callable[..., Protocol]


def whole(protocol: Protocol, data: bytes) -> list[Event]:
    return protocol.receive(data)


def byte_by_byte(protocol: Protocol, data: bytes) -> list[Event]:
    return [event for byte in data for event in protocol.receive(bytes([byte]))]


def with_trailing_bytes(protocol: Protocol, data: bytes) -> list[Event]:
    """A Ping and a piece of another come in the same chunk: *data* ends where it ended."""
    after, cut = client_frame(PING, b"after"), client_frame(PING, b"cut")
    events = protocol.receive(data + after + cut[:3])
    rest = protocol.receive(cut[3:])
    if events and isinstance(events[-1], (Close, Failure)):
        assert rest == []
        return events
    assert typed(rest) == [(Ping, Ping(b"cut"))]
    assert typed([events.pop()]) == [(Ping, Ping(b"after"))]
    return events


def typed(events: t.Iterable[Event]) -> list[tuple[type, Event]]:
    """With its type each: a Ping and a Pong of one payload are equal, as tuples are."""
    return [(type(event), event) for event in events]


@pytest.fixture(params=[whole, byte_by_byte, with_trailing_bytes], ids=lambda feed: feed.__name__)
def receives(request: pytest.FixtureRequest) -> Receives:
    """Assert that bytes of a client are exactly these events, however they arrive."""

    def check(
        data: bytes,
        events: list[Event],
        *,
        protocol: Protocol | None = None,
        limit: int = LIMIT,
        deflate: PerMessageDeflate | None = None,
    ) -> Protocol:
        if protocol is None:
            protocol = Protocol(limit, deflate)
        assert typed(request.param(protocol, data)) == typed(events)
        return protocol

    return check


@pytest.fixture(autouse=True)
def _no_context_is_left() -> None:
    """Nothing here has a context or a socket: spare thousands of tests the collection."""
